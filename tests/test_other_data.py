"""A run goes on with the people that it began with, and with what they held; where it does not, it says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import crash_at, personal, same, toy_tasks

from fedpriv import InputError, Tasks
from fedpriv.cohort import digest_of

TOML = """
[data]
file = "people.csv"
task = "person"
target = "slept"
features = {age = [0, 100], sport = [0, 20]}
classes = ["no", "yes"]
[model]
name = "linear"
[client]
name = "mean-regularized"
[strategy]
rounds = 3
clipping_norm = 0.5
noise_multiplier = 1.0
delta = 1e-3
[run]
declared = "protected"
population = "people"
ledger = "people.sqlite"
checkpoint_every = 1
grid = "in-process"
report = false
baseline = false
"""


def people(rename: dict[str, str] | None = None, change: Callable[[list[str]], list[str]] = list) -> str:
    rng = np.random.default_rng(4)
    rows = [
        f"{(rename or {}).get(name, name)},{rng.integers(18, 90)},{rng.integers(0, 20)},{rng.choice(['no', 'yes'])}"
        for name in ("ann", "bob", "cem", "dora", "eve", "finn")
        for _ in range(8)
    ]
    return "\n".join(["person,age,sport,slept", *change(rows)]) + "\n"


def older(rows: list[str]) -> list[str]:
    """Bob is one year older in one row."""
    name, age, *rest = rows[9].split(",")
    return [*rows[:9], ",".join([name, str(int(age) + 1), *rest]), *rows[10:]]


@pytest.fixture
def stopped(fedpriv: Any, tmp_path: Path, monkeypatch: Any) -> list[str]:
    """Begin a run and stop it in its second round; return the words that go on with it."""
    (tmp_path / "people.csv").write_text(people())
    (tmp_path / "my.toml").write_text(TOML)
    words = ["run", "my.toml", "--out", "run"]
    with crash_at(monkeypatch, "after charge", 2):
        fedpriv(*words)
    kept = tmp_path / "run/checkpoints/people.json"
    assert set(json.loads(kept.read_text())) == {"names", "values"}
    assert kept.stat().st_mode & 0o777 == 0o600
    return [*words, "--resume"]


@pytest.mark.parametrize("declared", ["protected", "benchmark"])
def test_a_file_with_other_values_does_not_go_on_with_a_run(
    fedpriv: Any, tmp_path: Path, monkeypatch: Any, declared: str
) -> None:
    own = TOML if declared == "protected" else TOML.replace('population = "people"\nledger = "people.sqlite"\n', "")
    (tmp_path / "my.toml").write_text(own.replace('"protected"', f'"{declared}"'))
    (tmp_path / "people.csv").write_text(people())
    words = ["run", "my.toml", "--out", "run"]
    with crash_at(monkeypatch, "after charge", 2):
        fedpriv(*words)
    (tmp_path / "people.csv").write_text(people(change=older))
    code, _, err = fedpriv(*words, "--resume")
    assert (code, err) == (
        2,
        "fedpriv: the tasks hold other examples than run was started with, under the same names, so it would be no run "
        f"on either; restore {tmp_path / 'people.csv'}, or start a new run in another folder.\n",
    )
    code, _, err = fedpriv("run", "my.toml", "--out", "other")
    assert code == 0, err
    (tmp_path / "people.csv").write_text(people().replace(",", ";"))  # another file with the same examples
    code, _, err = fedpriv(*words, "--resume")
    assert code == 0, err


@pytest.mark.parametrize("more", [[], ["--set=run.new_version=true"]])
def test_a_renamed_person_does_not_go_on_with_anothers_state(
    fedpriv: Any, tmp_path: Path, stopped: list[str], more: list[str]
) -> None:
    """With another name the order of people is another, and states are found by place: also in a new version."""
    (tmp_path / "people.csv").write_text(people({"ann": "zoe"}))
    code, _, err = fedpriv(*stopped, *more)
    assert (code, err) == (
        2,
        "fedpriv: the data do not hold the tasks that run was started with, under the same names and in the same "
        "order, so one task would go on with another's state; restore "
        f"{tmp_path / 'people.csv'}, or start a new run in "
        "another folder, also for a new version of the population.\n",
    )
    code, _, err = fedpriv("run", "my.toml", "--out", "other", "--set=run.new_version=true")
    assert code == 0, err
    (tmp_path / "people.csv").write_text(people())
    code, _, err = fedpriv(*stopped, "--set=run.new_version=true")
    assert code == 0, err


def test_a_folder_of_an_earlier_version_goes_on(fedpriv: Any, tmp_path: Path, stopped: list[str]) -> None:
    (tmp_path / "run/checkpoints/people.json").unlink()
    (tmp_path / "people.csv").write_text(people(change=older))
    code, _, err = fedpriv(*stopped)
    assert code == 0, err


def test_a_finished_run_needs_the_names_alone(fedpriv: Any, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(people())
    (tmp_path / "my.toml").write_text(TOML)
    assert fedpriv("run", "my.toml", "--out", "run")[0] == 0
    predict = ["predict", "run", "--task", "bob", "--input", "people.csv"]
    (tmp_path / "new.csv").write_text(people())
    code, before, err = fedpriv(*predict[:-1], "new.csv")
    assert code == 0, err
    (tmp_path / "people.csv").write_text(people(change=older))
    assert fedpriv(*predict[:-1], "new.csv")[1] == before
    assert fedpriv("models", "run", "--out", "models")[0] == 0
    (tmp_path / "people.csv").write_text(people({"ann": "zoe"}))
    code, _, err = fedpriv("models", "run", "--out", "others")
    assert (code, "under the same names and in the same order" in err) == (2, True), err


def changed(how: str) -> Tasks:
    tasks = toy_tasks(7)
    if how == "an input":
        tasks.train.inputs[3, 1] += 1e-3
    if how == "a label of a test part":
        tasks.test.targets[-1] = (tasks.test.targets[-1] + 1) % 3
    if how == "whose a row is":
        cuts = tasks.train.offsets.copy()
        cuts[3] += 1
        tasks = replace(tasks, train=replace(tasks.train, offsets=cuts))
    return tasks


@pytest.mark.parametrize("how", ["an input", "a label of a test part", "whose a row is"])
def test_other_examples_in_python_do_not_go_on_with_a_run(tmp_path: Path, monkeypatch: Any, how: str) -> None:
    with crash_at(monkeypatch, "after charge", 5):
        personal().run(tmp_path / "run", reproduce=6)
    with pytest.raises(InputError, match=r"hold other examples than .*run was started with.*; restore the data, or"):
        personal(tasks=changed(how)).run(tmp_path / "run", reproduce=6, resume=True)
    same(personal().run(reproduce=6), personal(tasks=changed("")).run(tmp_path / "run", reproduce=6, resume=True), 1e-9)


def test_a_digest_is_of_every_value_in_blocks_of_any_size(monkeypatch: Any) -> None:
    """A view with gaps in memory is what a copy of it is; no value of a long array is left out."""
    tasks = toy_tasks(9)
    whole = digest_of(tasks)
    for size in (1, 64, 1000):
        monkeypatch.setattr("fedpriv.cohort.contents._BLOCK", size)
        assert digest_of(tasks) == whole
    wide = np.zeros((len(tasks.train.inputs), 10), dtype="float32")
    wide[:, ::2] = tasks.train.inputs
    assert digest_of(replace(tasks, train=replace(tasks.train, inputs=wide[:, ::2]))) == whole
    found = {whole}
    for part in (tasks.train, tasks.validation, tasks.test):
        for place in (0, len(part.inputs) // 2, -1):
            before = part.inputs[place, -1]
            part.inputs[place, -1] += 1
            found.add(digest_of(tasks))
            part.inputs[place, -1] = before
    assert len(found) == 10
    assert digest_of(replace(tasks, names=tuple(f"other-{k}" for k in range(9)))) == whole
