"""The command line: what it prints, and one sentence with the right exit code for every wrong input."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedpriv.report.words import number

QUICK = [
    "--set=run.grid=in-process",
    "--set=strategy.rounds=2",
    "--set=strategy.noise_multiplier=3.0",
    "--set=client.epochs=1",
    "--set=client.final_epochs=1",
]


def test_run_then_ledger_then_report(fedpriv: Any, tmp_path: Path) -> None:
    code, out, err = fedpriv("run", "pmtl", *QUICK)
    assert code == 0, err
    assert "personal" in out
    assert "local only" in out
    assert "Joint differential privacy" in out
    folder = tmp_path / "runs/pmtl-digits"
    for name in ("config.toml", "summary.json", "metrics.jsonl", "report.html", "ledger.sqlite"):
        assert (folder / name).exists(), name
    assert list((folder / "figures").glob("*.svg"))
    page = (folder / "report.html").read_text()
    work = json.loads((folder / "summary.json").read_text())["diagnostics"]["local_compute"]
    for model in ("personal", "local_only"):
        assert f">{number(work[model])}</td>" in page, "what equal local compute came to"
    before = (folder / "ledger.sqlite").read_bytes()
    code, out, _ = fedpriv("ledger", "show", str(folder), "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["tasks"] == 100
    assert (folder / "ledger.sqlite").read_bytes() == before, "asking changes nothing"
    assert fedpriv("ledger", "check", str(folder))[0] == 0
    code, out, _ = fedpriv("run", "pmtl", *QUICK, "--seed", "4", "--json")
    assert code == 0
    assert json.loads(out)["run"] == "runs/pmtl-digits-2", "a run never overwrites another"
    code, out, _ = fedpriv("report", "runs/pmtl-digits", "runs/pmtl-digits-2", "--out", "both.html")
    assert code == 0
    assert (tmp_path / "both.html").stat().st_size > 10_000


def test_a_target_and_resume_of_a_finished_run(fedpriv: Any) -> None:
    words = ["run", "pmtl", *QUICK, "--set=strategy.epsilon=2.0", "--out", "here", "--json"]
    code, out, err = fedpriv(*words)
    assert code == 0, err
    assert json.loads(out)["guarantee"]["epsilon"] <= 2.0
    code, again, _ = fedpriv("run", "pmtl", "--resume", "--out", "here", "--json")
    assert code == 0
    assert json.loads(again) == json.loads(out)


def test_protected_data_exit_with_3_when_the_budget_is_spent(fedpriv: Any) -> None:
    words = [
        *["run", "pmtl", *QUICK, "--set=run.declared=protected", "--set=run.population=clinic"],
        *["--set=run.ledger=clinic.sqlite", "--set=run.budget_epsilon=1.5", "--set=run.budget_delta=1e-5", "--json"],
    ]
    codes = [fedpriv(*words)[0] for _ in range(5)]
    assert codes[0] == 0
    assert codes[-1] == 3
    assert sorted(codes) == codes
    code, out, _ = fedpriv("ledger", "show", "clinic", "--ledger", "clinic.sqlite", "--json")
    assert code == 0
    assert len(json.loads(out)["runs"]) == codes.count(0)
    code, _, err = fedpriv(*words, "--set=data.tasks=90")
    assert code == 2
    assert "clinic" in err


def test_lists(fedpriv: Any) -> None:
    names = [row["scenario"] for row in json.loads(fedpriv("list", "--json")[1])]
    assert names == ["lrs-net", "lrs-ratings", "lrs-synthetic", "maml", "maml-attack", "pmtl"]
    presets = [(row["scenario"], row["preset"]) for row in json.loads(fedpriv("list", "presets", "--json")[1])]
    assert presets == [
        *[("lrs-net", name) for name in ("femnist", "femnist-few", "digits")],
        *[("lrs-ratings", name) for name in ("movielens", "insteval", "movielens-private", "insteval-private")],
        *[
            ("lrs-synthetic", name)
            for name in ("exact", "normal-equations", "published", "private", "private-statistics")
        ],
        *[
            ("maml", name)
            for name in (
                "digits",
                "mnist",
                "mnist-long",
                "mnist-even",
                "mnist-people",
                "fashion",
                "femnist",
                "femnist-even",
                "femnist-classes",
                "femnist-apart",
            )
        ],
        *[("maml-attack", name) for name in ("digits", "mnist", "fashion", "femnist")],
        *[("pmtl", name) for name in ("digits", "femnist", "fashion")],
    ]
    found = json.loads(fedpriv("list", "datasets", "--json")[1])
    assert {"digits", "femnist", "mnist", "fashion"} <= {row["name"] for row in found}
    assert all(row["licence"] and row["source"] for row in found)


WRONG = [
    (["run", "pmt"], "did you mean 'pmtl'"),
    (["run", "pmtl", "--preset", "digit"], "did you mean 'digits'"),
    (["run", "pmtl", "--set", "client.strenght=1"], "did you mean 'strength'"),
    (["run", "pmtl", "--set", "strategy.clip=1"], "unknown setting 'clip'"),
    (["run", "pmtl", "--set", "clent.strength=1"], "did you mean 'client'"),
    (["run", "pmtl", "--set", "run.shard=1"], "did you mean 'run.shards'"),
    (["run", "pmtl", "--set", "data.tsks=1"], "tsks"),
    (["run", "pmtl", "--set", "model.name=mpl"], "did you mean 'mlp'"),
    (["run", "pmtl", "--set", "client.name=mean-regularised"], "did you mean 'mean-regularized'"),
    (["run", "pmtl", "--set", "strategy.name=billbord"], "did you mean 'billboard'"),
    (["run", "pmtl", "--set", "strategy.noise_multiplier=-1"], "greater than or equal to 0, got -1"),
    (["run", "pmtl", "--set", "strategy.noise_multiplier=nan"], "noise_multiplier"),
    (["run", "pmtl", "--set", "strategy.clipping_norm=-0.5"], "greater than 0, got -0.5"),
    (["run", "pmtl", "--set", "strategy.sampling_rate=1.5"], "less than or equal to 1, got 1.5"),
    (["run", "pmtl", "--set", "strategy.epsilon=nan"], "epsilon"),
    (["run", "pmtl", "--set", "strategy.delta=0.01"], "below 1/m"),
    (["run", "pmtl", "--set", "strategy.rounds"], "key=value"),
    (["run", "pmtl", "--seed", "1", "--reproduce", "2"], "either --seed or --reproduce"),
    (["run", "pmtl", "--seed", "-1"], "0 or more"),
    (["run", "pmtl", "--resume"], "--out"),
    (["run", "pmtl", "--resume", "--out", "nowhere"], "no run to resume"),
    (["run", "pmtl", "--preset", "femnist", "--data-dir", "nowhere"], "nowhere"),
    (["run", "pmtl", "--set", "client.name=local-only"], "use 'silent'"),
    (["run", "pmtl", "--set", "run.declared=secret"], "'benchmark' or 'protected'"),
    (["run", "pmtl", "--set", "run.seed=abc"], "whole number"),
    (["run", "pmtl", "--set", "run.ledger=5"], "path of a file"),
    (["run", "pmtl", "--set", "data.scheme=iid"], "partition scheme"),
    (["run", "pmtl", "--set", "data.partition=3"], "partition scheme"),
    (["run", "pmtl", "--set", "model.seed=3"], "unknown setting 'seed'"),
    (["run", "pmtl", "--set", "strategy.epsilon=2000"], "at most 1000"),
    (["run", "pmtl", "--set", "data.drop_unusable=true", "--set", "run.declared=protected"], "benchmarks only"),
    (["ledger", "show", "nowhere"], "not a run folder"),
    (["ledger", "show", "x", "--ledger", "none.sqlite"], "none.sqlite"),
    (["report", "nowhere"], "nowhere"),
    (["report"], "RUNS"),
    (["rn"], "No such command"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_input_is_one_sentence_and_exit_code_2(fedpriv: Any, tmp_path: Path, words: Any, sentence: str) -> None:
    code, out, err = fedpriv(*words)
    assert code == 2, err
    assert sentence in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == [], "nothing was started"


def test_a_run_starts_once_its_words_are_as_advised(fedpriv: Any, tmp_path: Path) -> None:
    words = ["run", "pmtl", *QUICK, "--set=data.tasks=20", "--set=run.baseline=false", "--set=run.report=false"]
    code, _, err = fedpriv(*words, "--seed", "3", "--reproduce", "3")
    assert code == 2
    assert "give either --seed or --reproduce: the second fixes everything that the first does." in err
    code, _, err = fedpriv(*words, "--seed", "3", "--resume", "--out", "seed")
    assert code == 2
    assert err == "fedpriv: seed holds no run to resume; leave out --resume to start one.\n"
    names = set()
    for way in ("seed", "reproduce"):
        code, _, err = fedpriv(*words, f"--{way}", "3", "--out", way)
        assert code == 0, err
        config = tomllib.loads((tmp_path / way / "config.toml").read_text())
        assert config["run"]["seed"] == 3
        names.add(json.dumps(config["data"]))
    assert len(names) == 1


def test_corrupt_data_and_ledgers(fedpriv: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data/fashion-mnist"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03rest"))
    code, _, err = fedpriv("run", "pmtl", "--preset", "fashion", "--data-dir", "data")
    assert code == 2
    assert "ubyte" in err
    (tmp_path / "bad.sqlite").write_text("not a database, but long enough to be looked at as one " * 40)
    words = ["run", "pmtl", *QUICK, "--set=run.ledger=bad.sqlite", "--set=run.population=clinic", "--out", "run"]
    code, _, err = fedpriv(*words)
    assert code in (2, 4)
    assert "bad.sqlite" in err
    assert "Traceback" not in err


def test_ray_that_does_not_start_is_a_sentence(fedpriv: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    code, _, err = fedpriv("run", "pmtl", *QUICK[1:], "--set=run.grid=ray", "--out", "run")
    assert code == 4
    assert "Ray did not start" in err
    assert "in-process" in err
    code, _, err = fedpriv("run", "pmtl", *QUICK[1:], "--resume", "--out", "run", "--set=run.grid=in-process")
    assert code == 0, err
