"""What happens to run folders, weights and tables between two sittings is refused in a sentence, or harmless."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import crash_at, experiment, noisy, toy_tasks
from torch import nn

from fedpriv import ComponentFailure, InputError, Tasks
from fedpriv.clients import GlobalModel
from fedpriv.cohort import Ragged
from fedpriv.privacy.ledger import Ledger
from fedpriv.report.reader import read_run
from fedpriv.runs.finished import read_record


def mine(**changes: Any) -> Any:
    return experiment(toy_tasks(), **{"strategy": noisy(), **changes})


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(5, 3)


def charged(folder: Path) -> int:
    return len(Ledger(folder / "ledger.sqlite").entries("toy"))


def begin(folder: Path, monkeypatch: Any, **changes: Any) -> None:
    """Begin a run that stops in its third round of four."""
    with crash_at(monkeypatch, "before stage", 3):
        mine(**changes).run(folder)
    assert charged(folder) in (2, 3)  # nodes that add the noise are charged for before they are asked


def edit(folder: Path) -> None:
    path = folder / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["guarantee"]["epsilon"] = summary["personal_guarantee"]["epsilon"] = 0.1
    path.write_text(json.dumps(summary), encoding="utf-8")


def test_an_edited_summary_is_no_guarantee(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = mine().run(run)
    assert read_record(run).guarantee.to_json() == first.summary["guarantee"]
    assert read_run(run).summary.guarantee.epsilon == first.guarantee.epsilon
    edit(run)
    readers: list[Callable[[], Any]] = [lambda: mine().run(run, resume=True), lambda: read_run(run)]
    for reader in [*readers, lambda: read_record(run)]:
        with pytest.raises(InputError, match=r"not the file that the run wrote.*delete it and go on"):
            reader()
    (run / "summary.json").unlink()
    assert mine().run(run, resume=True).guarantee == first.guarantee
    assert charged(run) == 4
    edit(run)
    (run / "checkpoints" / "summary.sha256").unlink()  # as of an earlier version, which kept none
    for reader in readers:  # the ledger says what it cost
        with pytest.raises(InputError, match=r"says epsilon 0\.1 of the personal models where it is .*delete it"):
            reader()


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 99}', "3", ""])
def test_a_summary_of_something_else_is_damaged(tmp_path: Path, content: str) -> None:
    mine().run(tmp_path / "run")
    (tmp_path / "run/summary.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="is damaged; delete it and go on"):
        mine().run(tmp_path / "run", resume=True)


@pytest.mark.parametrize("lost", ["", "run-id", "round-*"])
def test_a_run_that_lost_what_it_published_does_not_begin_anew(tmp_path: Path, monkeypatch: Any, lost: str) -> None:
    """Its releases would be in the folder's ledger under a name that no sentence covers."""
    begin(tmp_path / "run", monkeypatch)
    if lost:
        for path in (tmp_path / "run/checkpoints").glob(lost):
            path.unlink()
    else:
        shutil.rmtree(tmp_path / "run/checkpoints")
    with pytest.raises(InputError, match=r"lost the name or the billboards of the run.*restore the folder"):
        mine().run(tmp_path / "run", resume=True)
    assert charged(tmp_path / "run") == 2


@pytest.mark.parametrize(("name", "size", "noise_at"), [("coins.key", 40, "server"), ("node-noise.key", 32, "node")])
def test_zeros_are_no_secret(tmp_path: Path, monkeypatch: Any, name: str, size: int, noise_at: Any) -> None:
    """Some file systems leave them after a power failure, and everybody could draw the same coins."""
    strategy = noisy(noise_at=noise_at)
    begin(tmp_path / "run", monkeypatch, strategy=strategy)
    path = tmp_path / "run/checkpoints" / name
    kept = path.read_bytes()
    assert len(kept) == size
    path.write_bytes(kept[: size - 32] + bytes(32))
    with pytest.raises(InputError, match="zeros where a secret belongs"):
        mine(strategy=strategy).run(tmp_path / "run", resume=True)
    path.write_bytes(kept)  # as advised
    mine(strategy=strategy).run(tmp_path / "run", resume=True)
    assert charged(tmp_path / "run") == 4


@pytest.mark.parametrize(("name", "content"), [("run-id", b"\xff\xfe"), ("run-id", b""), ("about.json", b"{")])
def test_a_damaged_name_is_said(tmp_path: Path, monkeypatch: Any, name: str, content: bytes) -> None:
    begin(tmp_path / "run", monkeypatch)
    path = tmp_path / "run/checkpoints" / name
    kept = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ComponentFailure, match=f"{name} is damaged .*restore it from a copy"):
        mine().run(tmp_path / "run", resume=True)
    path.write_bytes(kept)
    mine().run(tmp_path / "run", resume=True)


def test_a_run_is_reported_once_it_is_finished(tmp_path: Path, monkeypatch: Any) -> None:
    run = tmp_path / "run"
    begin(run, monkeypatch)
    for wrong in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=r"give the (run )?folder that `fedpriv run --out RUN` wrote\.$"):
            read_run(wrong)
    with pytest.raises(InputError, match=r"finish it with .* --resume` \(in Python: resume=True\), then report it\.$"):
        read_run(run)
    result = mine().run(run, resume=True)
    assert read_run(run).summary.guarantee.epsilon == result.guarantee.epsilon


def test_lines_that_no_run_wrote_do_not_stop_it(tmp_path: Path, monkeypatch: Any) -> None:
    begin(tmp_path / "run", monkeypatch)
    (tmp_path / "run/metrics.jsonl").write_bytes(b'\xff\xfe\n[1]\n{"a": 1}\n3\n\0\0\0\n{"round": 1, "kind": "eval')
    mine().run(tmp_path / "run", resume=True)
    lines = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert all({"round", "kind"} <= set(json.loads(line)) for line in lines)


def test_a_checkpoint_that_cannot_be_read_is_not_advised_away(tmp_path: Path, monkeypatch: Any) -> None:
    """Without it the release, which was charged, could not be read back: the run would be over."""
    begin(tmp_path / "run", monkeypatch)
    path = tmp_path / "run/checkpoints/round-000002.npz"
    kept = path.read_bytes()
    path.write_bytes(kept[:100])
    with pytest.raises(ComponentFailure, match="restore it from a copy"):
        mine().run(tmp_path / "run", resume=True)
    path.write_bytes(kept)
    lost = tmp_path / "run/checkpoints/round-000001.npz"
    lost.rename(tmp_path / "copy")
    with pytest.raises(InputError, match="lost the checkpoint of round 1; restore it from a copy, or start a new run"):
        mine().run(tmp_path / "run", resume=True)
    (tmp_path / "copy").rename(lost)
    mine().run(tmp_path / "run", resume=True)


def test_a_run_goes_on_from_its_own_weights_only(tmp_path: Path, monkeypatch: Any) -> None:
    """Billboards of other weights, above all of another frozen body, are those of another model."""
    begin(tmp_path / "run", monkeypatch, model=linear(0))
    with pytest.raises(InputError, match=r"initial values are not those .* torch.manual_seed"):
        mine(model=linear(1)).run(tmp_path / "run", resume=True)
    with pytest.raises(InputError, match=r"run\.dtype"):
        mine(model=linear(0), dtype="float32").run(tmp_path / "run", resume=True)
    config = tmp_path / "run/config.toml"
    text = config.read_text(encoding="utf-8")
    old = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("initial"))
    assert old != text
    config.write_text(old, encoding="utf-8")  # as an earlier version wrote it
    mine(model=linear(0)).run(tmp_path / "run", resume=True)
    config.write_text(text, encoding="utf-8")
    mine(model=linear(0)).run(tmp_path / "run", resume=True)


def test_a_frozen_body_counts_among_the_weights(tmp_path: Path, monkeypatch: Any) -> None:
    def body(seed: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        torch.manual_seed(seed)
        nn.init.normal_(model[0].weight).requires_grad_(False)
        return model

    begin(tmp_path / "run", monkeypatch, model=body(1))
    with pytest.raises(InputError, match="initial values are not those"):
        mine(model=body(2)).run(tmp_path / "run", resume=True)
    mine(model=body(1)).run(tmp_path / "run", resume=True)


def test_weights_that_are_no_numbers_are_named() -> None:
    model = linear(0)
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="'weight' of the model Linear holds a NaN or an infinity before any training"):
        mine(model=model).check()
    with pytest.raises(InputError, match=r"model is the class Linear; give a module made of it, Linear\(\.\.\.\)"):
        mine(model=nn.Linear)
    mine(model=nn.Linear(5, 3)).check()


def test_a_run_in_python_says_its_warnings(caplog: Any) -> None:
    """Where every update counts as zero, a guarantee without a word would read as success."""
    with caplog.at_level("WARNING", logger="fedpriv"):
        result = mine(client=GlobalModel(learning_rate=1e300)).run()
    zero = [one for one in result.summary["warnings"] if "counted as zero" in one]
    said = [record.getMessage() for record in caplog.records]
    assert zero
    assert said.count(f"warning: {zero[0]}") == 1
    assert len(set(said)) == len(said)


@pytest.mark.parametrize("what", ["the learning rate", "the inputs of a task"])
def test_a_result_that_is_not_finite_says_what_to_change(what: str) -> None:
    def noted(size: float) -> str:
        tasks, rate = toy_tasks(), 0.1
        if what == "the learning rate":
            rate = size
        else:
            inputs = tasks.train.inputs.astype("float64")
            inputs[tasks.train.rows(2)] *= size
            tasks = replace(tasks, train=replace(tasks.train, inputs=inputs))
        run = experiment(tasks, strategy=noisy(sampling_rate=1.0), client=GlobalModel(learning_rate=rate, epochs=3))
        return " ".join(run.run(reproduce=0).summary["warnings"])  # noise decides whether it overflows

    assert "finite in stage 'train'; lower the client's learning rate, or scale the inputs of this task." in noted(
        1e300
    )
    assert "not finite" not in noted(0.1)


def test_a_path_is_never_empty(fedpriv: Any, tmp_path: Path) -> None:
    """``--out "$FOLDER"`` without the variable would spill a run into the folder one stands in."""
    for words in (("run", "pmtl", "--out", ""), ("report", ""), ("run", "pmtl", "--out=")):
        code, _, error = fedpriv(*words)
        assert code == 2
        assert "it is empty; name a path ('.' is this folder)" in error
    with pytest.raises(InputError, match=r"name a folder for the run \('.' is this one\), or None to keep nothing"):
        mine().run("")
    assert not list(tmp_path.iterdir())
    mine().run(None)
    assert not list(tmp_path.iterdir())
    mine(report=False).run(".")
    assert fedpriv("report", ".", "--out", "")[0] == 2
    assert fedpriv("report", ".", "--out", "page.html") == (0, "wrote page.html\n", "")
    assert (tmp_path / "page.html").is_file()
    mine().run("named")
    assert (tmp_path / "named/summary.json").exists()


def people(*tables: Any, labels: Any = None) -> Ragged:
    return Ragged.from_lists(tables, labels or [[0, 1]] * len(tables))


def test_columns_are_matched_by_their_names() -> None:
    import pandas as pd

    table = pd.DataFrame({"age": [1.0, 2.0], "dose": [3.0, 4.0]})
    turned = table[["dose", "age"]]
    with pytest.raises(InputError, match=r"inputs of task number 1 .* other columns, .* table\[columns\]"):
        people(table, turned)
    people(table, turned[["age", "dose"]])
    people(table, turned.to_numpy())

    def tasks(test: Ragged) -> Tasks:
        return Tasks("study", ("a", "b"), people(table, table), None, test, num_classes=2, declared="benchmark")

    with pytest.raises(InputError, match="the test part has other columns than the train part"):
        experiment(tasks(people(turned, turned)), model="linear")
    columns = list(table)
    experiment(tasks(people(turned[columns], turned[columns])), model="linear")
    experiment(tasks(people(table, table)), model="linear")
    experiment(tasks(people(*[turned.to_numpy()] * 2)), model="linear")


def test_rows_of_tables_are_not_paired_against_their_index() -> None:
    import pandas as pd

    table = pd.DataFrame({"age": [1.0, 2.0]}, index=["mon", "tue"])
    answers = pd.Series([1, 0], index=["tue", "mon"])
    with pytest.raises(InputError, match=r"task number 0 .* same index in another order.*targets.loc"):
        people(table, labels=[answers])
    found = people(table, labels=[answers.loc[table.index]])
    np.testing.assert_array_equal(found.targets, [0, 1])
    found = Ragged.from_lists([table.to_numpy()], [answers.to_numpy()])
    np.testing.assert_array_equal(found.targets, [1, 0])
    people(table, labels=[answers.reset_index(drop=True)])  # other labels: places are meant


def test_labels_that_occur_twice_pair_no_rows() -> None:
    """``targets.loc[inputs.index]`` would give each of them several times."""
    import pandas as pd

    visits = pd.DataFrame({"day": [1, 2, 1], "age": [1.0, 2.0, 3.0]}, index=["ann", "ann", "bob"])
    answers = pd.DataFrame({"day": [1, 1, 2], "sick": [1, 0, 0]}, index=["ann", "bob", "ann"])
    with pytest.raises(InputError, match=r"occur more than once, .* bring both in one order, and give .to_numpy\(\)"):
        people(visits[["age"]], labels=[answers["sick"]])
    visits, answers = (table.rename_axis("who").sort_values(["who", "day"]) for table in (visits, answers))
    found = Ragged.from_lists([visits[["age"]].to_numpy()], [answers["sick"].to_numpy()])
    np.testing.assert_array_equal(found.targets, [1, 0, 0])
    people(visits[["age"]], labels=[answers["sick"]])
