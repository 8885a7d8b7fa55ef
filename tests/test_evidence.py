"""Protocols: what must be said first, and runs that are missing, half-done or finished."""

from __future__ import annotations

import csv
import json
import re
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import UndefinedError
from scipy import stats

from fedpriv import InputError
from fedpriv.config import apply, build_experiment, parse_assignments
from fedpriv.errors import ComponentFailure
from fedpriv.evidence import (
    Evidence,
    Tuning,
    collect,
    configurations,
    differences,
    ending,
    fill_page,
    page_root,
    read_protocol,
    table_rows,
    tune,
)
from fedpriv.runs.finished import write_summary
from fedpriv.scenarios import scenario
from fedpriv.scenarios.lrs_ratings import evidence as ratings
from fedpriv.scenarios.lrs_ratings.compare import KINDS
from fedpriv.scenarios.pmtl import streams

TEXT = """\
question = "Does it help?"
preset = "digits"
strengths = [0.5, 1.0]
report_seeds = [7, 8]
contrast = "personal - local_only"
refuted = "an interval that does not lie above 0"

[tuning]
seeds = [0, 1]
"""
SETTINGS = [
    *["run.grid=in-process", "data.tasks=20", "strategy.rounds=2", "strategy.noise_multiplier=3.0"],
    *["client.epochs=1", "client.final_epochs=1", "strategy.evaluate_every=0"],
]


def write(folder: Path, text: str) -> Path:
    path = folder / "protocol.toml"
    path.write_text(text)
    return path


def test_every_committed_protocol_can_be_read() -> None:
    root = Path(__file__).parent.parent / "scenarios"
    found = read_protocol(root / "pmtl/protocol.toml", own=("epsilons", "reference"))
    assert found.own == {"epsilons": [0.5, 1.0, 2.0, 4.0], "reference": "global-model"}
    assert len(found.report_seeds) == 8
    assert len(read_protocol(root / "lrs_ratings/protocol.toml").claims) == 4


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seeds = [7, 8]", "seeds = [7, 1]", "fresh, but 1 was used for tuning"),
        ("seeds = [7, 8]", "seeds = [7, 7]", "names a seed twice"),
        ("seeds = [7, 8]", "seeds = [7]", "report_seeds"),
        ("refuted = ", "refutd = ", "did you mean 'refuted'"),
        ("strengths = [0.5, 1.0]\n", "", "lacks 'strengths'"),
        ('contrast = "personal - local_only"\n', "", "lacks 'contrast'"),
        ("[tuning]", "[tuning]\nrounds = 3", "rounds"),
        ("[tuning]", "[tuning", "not valid TOML"),
        ("preset =", "level = 2\npreset =", "level"),
    ],
)
def test_wrong_protocols(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError, match=r"protocol\.toml") as caught:
        read_protocol(write(tmp_path, TEXT.replace(old, new)), own=("strengths",))
    assert sentence in str(caught.value)


def test_a_protocol_can_be_read_once_it_says_what_was_missing(tmp_path: Path) -> None:
    path, own = tmp_path / "protocol.toml", ("strengths",)
    with pytest.raises(InputError, match=r"cannot be read .*; commit one before the runs"):
        read_protocol(path, own)
    write(tmp_path, TEXT.replace("strengths = [0.5, 1.0]\n", ""))
    with pytest.raises(InputError, match="lacks 'strengths'; say it before the first report run"):
        read_protocol(path, own)
    write(tmp_path, TEXT)
    assert read_protocol(path, own).own == {"strengths": [0.5, 1.0]}


def test_missing_runs_are_run_and_finished_ones_read(tmp_path: Path) -> None:
    config = apply(scenario("pmtl").preset(), parse_assignments(SETTINGS))
    configs = {("pmtl", "1"): config, ("reference", "1"): apply(config, {"client.name": "global-model"})}
    words: dict[str, Any] = {"seeds": [7, 8], "build": build_experiment, "out": tmp_path / "runs"}
    first = collect(configs, **words)
    assert len(first.column("pmtl", "1")) == len(first.column("reference", "1", "local_only")) == 2
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/seed-*/summary.json")}
    assert {path.parent.parent.name for path in files} == {"pmtl-1", "reference-1"}
    assert collect(configs, **words) == first
    assert first.seconds > 0
    assert first.guarantees["pmtl", "1"]["rounds"] == 2
    assert {path: path.stat().st_mtime_ns for path in files} == files
    path = min(files)
    write_summary(path.parent, json.loads(path.read_text().replace('"flwr": "', '"flwr": "0.')))
    with pytest.raises(ComponentFailure, match=r"other versions .*; delete the older ones and start again"):
        collect(configs, **words)
    shutil.rmtree(path.parent)
    again = collect(configs, **words)
    assert again.versions == first.versions
    assert {name: len(column) for name, column in again.columns.items()} == dict.fromkeys(first.columns, 2)


ARMS = """\
question = "Which is better?"
report_seeds = [7, 8]
contrast = "first - second"
refuted = "an interval that does not lie above 0"
claims = [["first", "second"]]
shown = [["first", "second.local_only"]]

[points]
small = { preset = "digits", settings = { data.tasks = 20, strategy.rounds = 1 } }

[arms.first]
label = "one"
at = { small = { strategy.rounds = 3 } }

[arms.second]
settings = { strategy.noise = "banded", strategy.rounds = 2 }

[tuning.at.small]
seeds = [0, 1]
grid = { strategy.rounds = [1, 2], strategy.server_learning_rate = [0.01, 1.0] }
"""


def test_arms_and_points_become_configurations(tmp_path: Path) -> None:
    """Later words win: what all share, the point, the arm, and what tuning chose for the arm at the point."""
    protocol = read_protocol(write(tmp_path, ARMS))
    found = configurations(protocol, scenario("pmtl").preset, {"data.tasks": 50, "run.seed": 4})
    assert list(found) == [("first", "small"), ("second", "small")]
    first, second = found.values()
    assert (first["data"]["tasks"], first["run"]["seed"], first["strategy"]["rounds"]) == (20, 4, 3)
    assert (second["strategy"]["rounds"], second["strategy"]["noise"]) == (2, "banded")
    assert protocol.pairs == (("first", "second"), ("first", "second.local_only"))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('claims = [["first", ', 'claims = [["frist", ', "did you mean 'first'"),
        ('"second.local_only"', '"second.loss"', "second.loss"),
        ("at = { small", "at = { smal", "did you mean 'small'"),
        ('preset = "digits", ', "", "no 'preset' is named"),
        ("[points]\nsmall", "[points]\n# small", "no 'preset' is named"),
        ("[1, 2]", "[]", "at least 1 item"),
        ("seeds = [0, 1]", "seeds = [0, 8]", "fresh, but 8 was used for tuning"),
        ("[tuning.at.small]", "[tuning.at.large]", "unknown point 'large'"),
        ("label = ", "lable = ", "lable"),
        ("at = {", "settings = 3\nat = {", "valid dictionary"),
    ],
)
def test_wrong_arms(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in ARMS
    with pytest.raises(InputError, match=r"protocol\.toml") as caught:
        read_protocol(write(tmp_path, ARMS.replace(old, new)))
    assert sentence in str(caught.value)


def made_up(columns: dict[tuple[str, str, str], list[float]]) -> Evidence:
    return Evidence(columns, {}, 1800.0, {"fedpriv": "0.1.0"})


def test_differences_are_paired_and_corrected_together() -> None:
    """Against scipy's paired t-test, with Holm's correction written out for two pairs at two points."""
    rng = np.random.default_rng(3)
    sides = {(arm, at, "personal"): list(rng.normal(0.8, 0.01, 6)) for arm in ("a", "b") for at in ("x", "y")}
    sides["a", "x", "personal"] = [value + 0.05 for value in sides["b", "x", "personal"]][::-1]
    alone = {("a", at, "local_only"): list(rng.normal(0.79, 0.01, 6)) for at in ("x", "y")}
    found = differences(made_up({**sides, **alone}), [("a", "b"), ("a", "a.local_only")], ["x", "y"])
    assert [(one.first, one.second, one.point) for one in found] == [
        *[("a", "b", "x"), ("a", "b", "y"), ("a", "a.local_only", "x"), ("a", "a.local_only", "y")]
    ]
    others = [sides["b", "x", "personal"], sides["b", "y", "personal"], *alone.values()]
    tests = [stats.ttest_rel(sides["a", at, "personal"], other) for at, other in zip("xyxy", others, strict=True)]
    order = np.argsort([test.pvalue for test in tests])
    wanted, worst = [0.0] * 4, 0.0
    for place, at in enumerate(order):
        worst = wanted[at] = max(worst, min(1.0, (4 - place) * float(tests[at].pvalue)))
    assert [one.p for one in found] == pytest.approx(wanted, rel=1e-9)
    for one, test in zip(found, tests, strict=True):
        low, high = test.confidence_interval()
        assert (one.interval.low, one.interval.high) == pytest.approx((low, high), rel=1e-9)
        assert one.above == (low > 0)


def test_tuning_uses_its_own_seeds_and_the_same_grid_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpriv.sweep.runner.usable_cores", lambda: 1)  # two processes take longer to start
    protocol = read_protocol(write(tmp_path, ARMS))
    configs = configurations(protocol, scenario("pmtl").preset, {**parse_assignments(SETTINGS), "run.baseline": False})
    tried = tune(protocol, configs, build=build_experiment, out=tmp_path / "runs")
    runs = {path.parent.name for path in (tmp_path / "runs").glob("*/seed-*/summary.json")}
    assert runs == {"seed-0", "seed-1"}
    cells = list(product([1, 2], [0.01, 1.0]))
    for arm in protocol.arms:
        mine = [one for one in tried if one.arm == arm]
        assert [tuple(one.values.values()) for one in mine] == cells
        assert {one.point for one in mine} == {"small"}
        best = max(range(4), key=[one.accuracy for one in mine].__getitem__)
        assert [one.best for one in mine] == [at == best for at in range(4)]
    assert json.loads((tmp_path / "runs/second-small-1-0.01/seed-0/summary.json").read_text())["rounds"] == 1
    with pytest.raises(InputError, match="tunes nothing"):
        tune(protocol.model_copy(update={"tuning": Tuning()}), configs, build=build_experiment, out=tmp_path)


def test_a_page_ends_with_its_refutation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = read_protocol(write(tmp_path, ARMS))
    held, refuted = ending(protocol, made_up({}), []), ending(protocol, made_up({}), ["small"])
    assert "lie above 0. It was not refuted." in held[0]
    assert "lie above 0. It was refuted: small." in refuted[0]
    assert "0.50 core-hours" in held[-1]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no docs folder; run this from the root of a checkout"):
        page_root()
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root)
    assert page_root() == root


TEMPLATES = sorted((Path(__file__).parent.parent / "scenarios").glob("*/evidence-*.md.j2"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name.removesuffix(".md.j2"))
def test_a_page_says_what_its_template_says(template: Path) -> None:
    """Words are changed in the template, never in docs/ alone, where the next `make evidence` would undo it."""
    page = (Path(__file__).parent.parent / "docs" / template.stem).read_text(encoding="utf-8")
    words = template.read_text(encoding="utf-8")
    for name in re.findall(r'{% include "(.+)" %}', words):
        words += "{% and %}" + template.with_name(name).read_text(encoding="utf-8")
    words = re.sub(r"{% (for|if) .*?{% end\1 %}", "{% and %}", words, flags=re.DOTALL)  # may not be there
    pieces = [piece.strip("\n") for piece in re.split(r"{[{%].*?[%}]}", words)]
    assert max(map(len, pieces)) > 200
    assert [piece for piece in pieces if piece not in page] == []


def test_a_template_names_parts_that_are_there_and_is_no_html(tmp_path: Path) -> None:
    (tmp_path / "page.md.j2").write_text('# {{ opening("pmtl/one.toml") }}\n{{ rows|lines }}\n{{ ending }}\n')
    protocol = read_protocol(write(tmp_path, ARMS))
    rows = table_rows([["a < b", "1"], ["c", "2"]])
    page = fill_page(tmp_path / "page.md.j2", protocol, made_up({}), ["small"], rows=rows)
    assert "(../scenarios/pmtl/one.toml), which was committed before" in page
    assert "\n| a < b | 1 |\n| c | 2 |\nWhat would have refuted the claim: " in page
    assert "It was refuted: small." in page
    with pytest.raises(UndefinedError, match="rows"):
        fill_page(tmp_path / "page.md.j2", protocol, made_up({}), [])


STREAMS = Path(streams.__file__).parent


def test_all_ways_to_take_part_are_compared_alike() -> None:
    """Same data, clipping, expected participants, local work and grid; what was chosen is the best that was tried."""
    protocol = read_protocol(STREAMS / "streams-protocol.toml")
    configs = configurations(protocol, scenario("pmtl").preset, {})
    assert {point: len(seeds) for point, seeds in protocol.seeds.items()} == {"digits": 10, "fashion": 6}
    for point, trial in protocol.tuning.at.items():
        mine = {arm: configs[arm, point] for arm in protocol.arms}
        first = mine["poisson"]
        assert all(
            (one["data"], one["model"], one["client"]) == (first["data"], first["model"], first["client"])
            for one in mine.values()
        )
        same = [
            {key: one["strategy"].get(key) for key in ("clipping_norm", "sampling_rate", "delta")}
            for one in mine.values()
        ]
        assert same == [same[0]] * len(mine)
        assert {one["strategy"].get("epsilon") for arm, one in mine.items() if arm != "no-noise"} == {2.0}
        with (STREAMS / "streams-tuning.csv").open(newline="") as file:
            tried = [row for row in csv.DictReader(file) if row["data"] == point]
        for arm, one in mine.items():
            rows = [row for row in tried if row["arm"] == arm]
            cells = [(int(row["rounds"]), float(row["server_learning_rate"])) for row in rows]
            assert cells == list(product(*trial.grid.values()))
            best = max(rows, key=lambda row: float(row["accuracy"]))
            assert [row for row in rows if row["chosen"] == "1"] == [best]
            assert (one["strategy"]["rounds"], one["strategy"]["server_learning_rate"]) == cells[rows.index(best)]


@pytest.mark.parametrize(("gain", "words"), [(0.02, "It was not refuted."), (-0.02, "It was refuted: turns, banded")])
def test_the_page_of_streams_says_what_was_found(tmp_path: Path, gain: float, words: str) -> None:
    protocol = read_protocol(STREAMS / "streams-protocol.toml")
    configs = configurations(protocol, scenario("pmtl").preset, {})
    columns: dict[tuple[str, str, str], list[float]] = {}
    guarantees = {}
    for arm, point in configs:
        shift = gain * ("banded" in arm)
        for model in ("personal", "billboard", "local_only"):
            columns[arm, point, model] = [0.8 + shift + 0.001 * ((7 * seed) % 5) for seed in range(10)]
        relation = "replace-one" if "replace" in arm or arm == "fixed-size" else "add/remove"
        epsilon: Any = "inf" if arm == "no-noise" else 1.999
        guarantees[arm, point] = {
            **{"epsilon": epsilon, "epsilon_replace_one": epsilon, "relation": relation, "noise_multiplier": 6.5}
        }
    evidence = Evidence(columns, guarantees, 1800.0, {"fedpriv": "0.1.0"})
    page = streams._page(protocol, configs, evidence)
    assert words in page
    assert page.count("| replace-one |") == 2 * 3
    streams._figure(protocol, evidence, tmp_path / "images/one.svg")
    drawn = (tmp_path / "images/one.svg").read_text()
    assert drawn.startswith("<?xml")


def test_another_argument_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    with pytest.raises(InputError, match="'tune'"):
        streams.main(["tuned"], tmp_path)


def test_private_arms_of_ratings_differ_from_the_others_by_their_release_only() -> None:
    protocol, configs = ratings._read()
    for point in protocol.points:
        plain, private = configs["amht", point], configs["epsilon2", point]
        assert plain["data"] == private["data"]
        assert plain["client"] == private["client"]
        committed = scenario("lrs-ratings").preset(f"{point}-private")
        for section in ("data", "model", "client"):
            assert committed[section] == private[section]
        chosen = {key: private["strategy"].get(key) for key in committed["strategy"]}
        assert chosen == committed["strategy"]


@pytest.mark.parametrize(("gain", "words"), [(0.02, "It was not refuted."), (-0.02, "It was refuted: AMHT-LRS")])
def test_the_page_of_ratings_says_what_was_found(tmp_path: Path, gain: float, words: str) -> None:
    protocol, configs = ratings._read()
    columns: dict[tuple[str, str, str], list[float]] = {}
    for arm, point in configs:
        for part in ("rmse", "starved", "rich"):
            for kind in KINDS:
                base = 1.0 - gain * (kind == "amht")
                columns[arm, point, f"{part}.{kind}"] = [base + 0.001 * ((7 * seed) % 5) for seed in range(5)]
        columns |= {(arm, point, f"own.{kind}"): [3.0] * 5 for kind in KINDS}
        columns |= {(arm, point, f"tasks.{part}"): [30.0] * 5 for part in ("starved", "rich")}
    guarantees = {key: {"epsilon": 1.0, "sentence": "Joint."} for key in configs}
    evidence = Evidence(columns, guarantees, 1800.0, {"fedpriv": "0.1.0"})
    page = ratings._page(protocol, evidence)
    assert words in page
    assert "protects groups protects people, but with the epsilon of replace-one" in page
    assert page.count("| yes |") == 4 * 2
    ratings._figure(protocol, evidence, tmp_path / "images/one.svg")
    assert (tmp_path / "images/one.svg").read_text().startswith("<?xml")
