"""`fedpriv models` and `fedpriv predict`: personal models on the command line, from a run and from an export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from helpers import toy_tasks
from test_personal_models import SMALL, toy
from torch import nn

from fedpriv import InputError, Tasks, open_models, open_run
from fedpriv.clients import GlobalModel
from fedpriv.cohort import Ragged

SHORT = [
    "--set=data.tasks=8", "--set=strategy.rounds=2", "--set=run.grid=in-process", "--set=run.baseline=false",
    "--set=run.report=false", "--set=client.epochs=1", "--set=model.name=linear",
]  # fmt: skip


def printed(text: str) -> list[int]:
    head, *rows = text.splitlines()
    assert head == "prediction"
    return [int(row) for row in rows]


def test_models_out_of_a_run_and_predictions_from_both(fedpriv: Any, tmp_path: Path) -> None:
    assert fedpriv("run", "pmtl", *SHORT, "--out=r")[0] == 0
    code, text, error = fedpriv("models", "r", "--out=m")
    assert (code, error) == (0, "")
    assert text.startswith("8 models, ")
    assert "no guarantee protects a task against somebody who reads its own" in text
    code, text, error = fedpriv("models", "r", "--json")  # into the folder "models"
    assert (code, error) == (0, "")
    assert json.loads(text)["path"] == "models"
    assert json.loads(text)["released"] is False
    opened = open_run("r")
    (tmp_path / "shown").mkdir()
    name = list(opened.personal)[3]
    place = opened.population.names.index(name)  # type: ignore[union-attr]
    assert isinstance(opened.population, Tasks)
    test = opened.population.test
    inputs = test.inputs[test.rows(place)]
    expected = opened.predict(name, inputs)
    accuracy = float(np.mean(expected == test.targets[test.rows(place)]))
    assert round(accuracy, 6) == opened.scores["personal.accuracy"][place]
    np.testing.assert_array_equal(open_models("models").predict(name, inputs), expected)
    flat = pandas.DataFrame(inputs.reshape(len(inputs), -1))
    np.save("x.npy", inputs)
    flat.to_csv("plain.csv", header=False, index=False)
    flat.rename(columns="pixel {}".format).to_csv("named.csv", index=False)
    flat.rename(columns=str).to_parquet("x.parquet")
    for source in ("r", "m"):
        for file in ("x.npy", "plain.csv", "named.csv", "x.parquet"):
            code, text, error = fedpriv("predict", source, "--task", name, "--input", file)
            assert (code, error) == (0, "")
            assert printed(text) == expected.tolist(), (source, file)
    code, text, error = fedpriv("predict", "m", "--task", name, "--input=x.npy", "--probabilities", "--json")
    assert (code, error) == (0, "")
    found = json.loads(text)
    assert found["task"] == name
    np.testing.assert_allclose(
        found["predictions"], opened.predict(name, inputs, probabilities=True), rtol=1e-6, atol=1e-7
    )
    code, text, _ = fedpriv("predict", "m", "--task", name, "--input=x.npy", "--probabilities")
    assert text.splitlines()[0] == ",".join(f"probability_{number}" for number in range(10))
    assert set(json.loads(Path("m/manifest.json").read_text())["roster"]["names"]) == set(opened.personal)
    for words, said in (
        (
            ["predict", "m", "--task=nobody", "--input=x.npy"],
            "among the 8 of this run; see the names in m/manifest.json.",
        ),
        (
            ["predict", "r", "--task=nobody", "--input=x.npy"],
            "there is no task 'nobody' among the 8 of this run; write them with `fedpriv models r --out FOLDER` and "
            "see the names in FOLDER/manifest.json.",
        ),
        (["predict", "m", "--task", name, "--input=no.csv"], "no.csv cannot be read (No such file or directory)"),
        (["predict", "m", "--task", name, "--input=x.txt"], "read from .csv, .parquet or .npy files, got x.txt"),
        (["predict", ".", "--task", name, "--input=x.npy"], "is not a run folder"),
        (["predict", "nothing", "--task", name, "--input=x.npy"], "is not a run folder"),
        (["models", "r", "--format=pickle"], "--format must be safetensors or onnx, got 'pickle'"),
        (["models", "r", "--task", name], "--task goes with --format onnx"),
    ):
        code, text, error = fedpriv(*words)
        assert (code, text) == (2, "")
        assert said in error
        assert error.count("\n") == 1


def test_tables_with_names_are_read_by_them(fedpriv: Any) -> None:
    columns = ["age", "height", "weight", "pulse", "sleep"]
    made = toy_tasks(4)

    def named(part: Ragged) -> Ragged:
        return Ragged(pandas.DataFrame(part.inputs, columns=columns), part.targets, part.offsets)  # type: ignore[arg-type]

    people = Tasks(
        "people", made.names, named(made.train), named(made.validation), named(made.test), 3, declared="benchmark"
    )
    result = toy(GlobalModel(), people).run()
    result.personal.save("m")
    # No module of one's own: a folder says all that is needed.
    rows = made.test.inputs[:4]
    table = pandas.DataFrame(rows, columns=columns)
    table[["sleep", "age", "pulse", "weight", "height"]].assign(name="x").to_csv("mixed.csv", index=False)
    code, text, error = fedpriv("predict", "m", "--task=task-1", "--input=mixed.csv")
    assert (code, error) == (0, "")
    assert printed(text) == result.predict("task-1", rows).tolist()
    table.assign(age=["1", "old", "2", "3"]).to_csv("text.csv", index=False)
    table.assign(age=[1, None, 2, 3]).to_csv("empty.csv", index=False)
    table.drop(columns="pulse").to_csv("less.csv", index=False)
    Path("bad.parquet").write_bytes(b"PAR1")
    table.iloc[:, :3].to_csv("narrow.csv", index=False, header=False)
    for file, said in (
        ("text.csv", "column 'age' of text.csv does not hold numbers"),
        ("empty.csv", "column 'age' of empty.csv has no number in row 1 (counted from 0)"),
        ("less.csv", "less.csv has no column 'pulse'; the run's examples have age, height, weight, pulse, sleep."),
        ("bad.parquet", "bad.parquet is no .parquet file of numbers"),
        ("narrow.csv", "narrow.csv has 3 columns, and an example of this run has 5 numbers"),
    ):
        code, text, error = fedpriv("predict", "m", "--task=task-1", "--input", file)
        assert (code, text) == (2, "")
        assert said in error


def test_a_module_of_ones_own_is_found_again_unless_its_file_was_changed(fedpriv: Any, tmp_path: Path) -> None:
    """In a process of its own each time: what a process has imported it keeps."""
    source = "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n        super().__init__("
    source += "nn.Flatten(), nn.Linear(64, 10))\n"
    (tmp_path / "ownnet.py").write_text(source)
    status, _, error = fedpriv("run", "pmtl", *SHORT[:-1], "--set=model.name=ownnet:Net", "--out=r")
    assert status == 0, error
    assert fedpriv("models", "r", "--out=m")[0] == 0
    opened = open_run("r")
    name, inputs = next(iter(opened.personal)), opened.population.test.inputs[:4]  # type: ignore[union-attr]
    np.save("x.npy", inputs)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = [sys.executable, "-m", "fedpriv", "predict", "../m", "--task", name, "--input=../x.npy"]
    done = subprocess.run(words, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert printed(done.stdout) == opened.predict(name, inputs).tolist()
    (tmp_path / "ownnet.py").write_text(source.replace("nn.Flatten(),", "nn.Flatten(), nn.Tanh(),"))
    done = subprocess.run(words, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ownnet.py is not what the models in ../m were trained with; put the file back as it was" in done.stderr
    words[4] = "../r"
    done = subprocess.run(words, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert (done.returncode, "ownnet.py is not what this run was started with" in done.stderr) == (2, True)


def test_rows_of_a_file_of_ones_own_are_read_by_its_rules_and_classes_have_their_names(fedpriv: Any) -> None:
    rng = np.random.default_rng(0)
    count = 60
    table = pandas.DataFrame(
        {
            "who": np.repeat(["ann", "bob", "cy"], count // 3),
            "age": rng.integers(20, 80, count),
            "sex": rng.choice(["f", "m"], count),
            "passed": rng.choice(["no", "yes"], count),
        }
    )
    table.to_csv("people.csv", index=False)
    own = [
        "data.file=people.csv", "data.task=who", "data.target=passed", 'data.classes=["no", "yes"]',
        'data.features={age = [0, 100], sex = ["f", "m"]}', "run.declared=benchmark",
    ]  # fmt: skip
    code, _, error = fedpriv("run", "pmtl", *(f"--set={one}" for one in own), *SHORT[1:], "--out=r")
    assert code == 0, error
    assert fedpriv("models", "r", "--out=m")[0] == 0
    new = table.drop(columns=["who", "passed"])[["sex", "age"]].head(7)
    new.to_csv("new.csv", index=False)
    inputs = np.column_stack([new["age"] / 100, new["sex"] == "f", new["sex"] == "m"])
    expected = [["no", "yes"][number] for number in open_run("r").predict("bob", inputs)]
    for source in ("r", "m"):
        code, text, error = fedpriv("predict", source, "--task=bob", "--input=new.csv")
        assert (code, error) == (0, "")
        assert text.splitlines() == ["prediction", *expected]
    code, text, _ = fedpriv("predict", "m", "--task=bob", "--input=new.csv", "--probabilities")
    assert text.splitlines()[0] == "probability_no,probability_yes"
    code, text, _ = fedpriv("predict", "m", "--task=bob", "--input=new.csv", "--json")
    assert json.loads(text)["predictions"] == expected


def test_no_task_gets_the_model_of_another_after_the_data_file_was_changed(fedpriv: Any) -> None:
    rng = np.random.default_rng(0)
    names = ["ann", "bob", "cy", "dee"]
    table = pandas.DataFrame(
        {"who": np.repeat(names, 15), "age": rng.integers(20, 80, 60), "passed": rng.choice(["no", "yes"], 60)}
    )
    table.to_csv("people.csv", index=False)
    own = [
        "data.file=people.csv", "data.task=who", "data.target=passed", 'data.classes=["no", "yes"]',
        "data.features={age = [0, 100]}", "run.declared=benchmark",
    ]  # fmt: skip
    run = ("run", "pmtl", *(f"--set={one}" for one in own), *SHORT[1:], "--out=r")
    assert fedpriv(*run)[0] == 0
    table[["age"]].head(7).to_csv("new.csv", index=False)
    predict = ("predict", "r", "--task=dee", "--input=new.csv", "--probabilities")
    before = fedpriv(*predict)[1]
    for changed in (
        table.replace({"who": {"ann": "zoe"}}),  # every place moves by one
        table[table["who"] != "ann"],
        table.replace({"who": {"cy": "cyd"}}),  # no place moves, and nobody can know that
    ):
        changed.to_csv("people.csv", index=False)
        for words in (predict, ("models", "r", "--out=m"), ("attack", "r")):
            code, text, error = fedpriv(*words)
            assert (code, text) == (2, ""), words
            assert "the data do not hold the tasks that r was run on" in error
            assert "put the data file back as it was." in error
            assert error.count("\n") == 1
            assert not any(name in error for name in (*names, "zoe", "cyd"))
        with pytest.raises(InputError, match="put the data file back as it was"):
            open_run("r")
    table.to_csv("people.csv", index=False)
    assert fedpriv(*predict)[:2] == (0, before)
    assert fedpriv("models", "r", "--out=m")[0] == 0


def test_low_rank_sparse_models_go_into_a_folder_as_well(fedpriv: Any) -> None:
    assert fedpriv("run", "lrs-synthetic", *(f"--set={one}" for one in SMALL), "--out=r")[0] == 0
    assert fedpriv("models", "r")[0] == 0
    assert Path("models.safetensors").is_file()
    assert fedpriv("models", "r", "--out=folder")[0] == 0
    result = open_run("r")
    name = next(iter(result.personal))
    inputs = np.random.default_rng(0).normal(size=(5, 8))
    np.testing.assert_allclose(open_models("folder").predict(name, inputs), result.predict(name, inputs), rtol=1e-12)


def test_onnx_graphs_predict_the_same(fedpriv: Any, monkeypatch: Any) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    import onnx
    from onnx.reference import ReferenceEvaluator

    assert fedpriv("run", "pmtl", *SHORT, "--out=r")[0] == 0
    opened = open_run("r")
    first, second = list(opened.personal)[:2]
    code, text, error = fedpriv("models", "r", "--format=onnx", "--task", first, "--task", second, "--out=m")
    assert code == 0, error
    assert text.startswith("2 models, ")
    assert {path.name for path in Path("m").iterdir()} == {"0.onnx", "1.onnx", "manifest.json"}
    assert {path.stat().st_mode & 0o777 for path in Path("m").iterdir()} == {0o600}
    assert fedpriv("models", "r", "--format=onnx", "--task", second, "--out=one.onnx")[0] == 0
    inputs = opened.population.test.inputs[:7]  # type: ignore[union-attr]
    for file, name in (("m/0.onnx", first), ("m/1.onnx", second), ("one.onnx", second)):
        graph = onnx.load(file)
        onnx.checker.check_model(graph)
        (outputs,) = ReferenceEvaluator(graph).run(None, {"inputs": inputs})
        chances = opened.predict(name, inputs, probabilities=True)
        np.testing.assert_allclose(np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True), chances, rtol=1e-5)
    np.save("x.npy", inputs)
    monkeypatch.setattr("fedpriv.personal.onnx._MOST", 7)
    for words, said in (
        (["predict", "m", "--task", first, "--input=x.npy"], "m holds ONNX graphs, which other programs read"),
        (
            ["models", "r", "--format=onnx", "--out=all.onnx"],
            "all.onnx is one file, for one task, and 8 were asked for",
        ),
        (["models", "r", "--format=onnx", "--out=all"], "8 models would be as many ONNX files, of at most 7"),
    ):
        code, _, error = fedpriv(*words)
        assert (code, said in error, error.count("\n")) == (2, True, 1), error
    assert fedpriv("models", "r", "--out=all")[0] == 0


class Branching(nn.Module):
    """Does with positive sums something else than with negative ones: no graph without branches can say that."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 3) * torch.arange(15.0).reshape(5, 3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = [row @ self.weight if float(row.sum()) > 0 else -3 * (row @ self.weight) for row in inputs]
        return torch.stack(rows)


class Simplified(nn.Linear):
    """Computes something else while it is written as a graph, as modules do that have a form for other programs."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = super().forward(inputs)
        return found + 1 if torch.compiler.is_compiling() else found


def test_a_graph_of_one_task_is_private_and_computes_what_its_model_does(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")

    def write(model: nn.Module) -> None:
        personal = toy(GlobalModel(), toy_tasks(4), model=model, engine="loop").run().personal
        personal.save_onnx(tmp_path / "one.onnx", "task-0")

    with pytest.raises(InputError, match=r"the model Branching (cannot be written as|and its) .*ONNX graph"):
        write(Branching())
    with pytest.raises(InputError, match="the model Simplified and its ONNX graph give other outputs"):
        write(Simplified(5, 3))
    assert not (tmp_path / "one.onnx").exists()
    write(nn.Linear(5, 3))
    assert (tmp_path / "one.onnx").stat().st_mode & 0o777 == 0o600


def test_without_onnx_the_sentence_says_what_to_install(fedpriv: Any, monkeypatch: Any) -> None:
    assert fedpriv("run", "pmtl", *SHORT, "--out=r")[0] == 0
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, error = fedpriv("models", "r", "--format=onnx")
    assert (code, "ONNX is not installed; install it with pip install 'fedpriv[onnx]'." in error) == (2, True)
