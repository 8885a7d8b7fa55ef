"""What earlier code wrote can be read and gone on with: a half-done run, and the ledger of protected people.

What lies in ``recorded`` stays as commit 9945953 made it. `python tests/test_recorded.py FOLDER` makes its like.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import toy_tasks
from record import differences, record

from fedpriv import BudgetExceeded, Experiment, Target
from fedpriv.clients import MeanRegularized
from fedpriv.privacy import BandedMechanism, Ledger, Release
from fedpriv.privacy.terms import Relation
from fedpriv.runs.record import ReleaseRecord
from fedpriv.strategies import Billboard

RECORDED = Path(__file__).with_name("recorded")
ROUNDS, DONE = 6, 3


def half_done(ledger: Path | None, name: str = "clinic", **changes: Any) -> Experiment:
    """Return a run of which the recorded folder holds the first rounds; with a ledger its people are protected."""
    tasks = toy_tasks(10)
    people: dict[str, Any] = {}
    if ledger is not None:
        tasks = replace(tasks, declared="protected")
        people = {"population": name, "ledger": ledger, "budget": Target(epsilon=8.0, delta=1e-3)}
    settings: dict[str, Any] = {
        "tasks": tasks,
        "model": "linear",
        "client": MeanRegularized(learning_rate=0.5, strength=1.0),
        "strategy": Billboard(
            clipping_norm=0.5,
            rounds=ROUNDS,
            noise_multiplier=2.0,
            sampling_rate=0.5,
            delta=1e-3,
            metrics=("personal.loss",),
            metrics_every=2,
            metrics_epsilon=0.5,
        ),
        "dtype": "float64",
        "grid": "in-process",
        "shards": 2,
        "report": False,
        "checkpoint_every": 2,
    }
    return Experiment(**{**settings, **people, **changes})


class Stopped(Exception):
    """The run was stopped."""


def stop(done: int, total: int) -> None:
    if done == DONE:
        raise Stopped


def make(folder: Path) -> None:
    """Write a half-done run under a seed, and one of protected people after a finished one on the same ledger."""
    for run, name, number in (
        (half_done(None), "benchmark", 7),
        (half_done(folder / "people.sqlite"), "protected", None),
    ):
        if number is None:
            run.model_copy(update={"strategy": run.strategy.model_copy(update={"rounds": 1})}).run(folder / "finished")
        try:
            run.run(folder / name, reproduce=number, progress=stop)
        except Stopped:
            (folder / name / ".lock").unlink(missing_ok=True)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "recorded"))


def test_a_half_done_run_goes_on_and_ends_as_one_that_was_never_stopped(there: Path, tmp_path: Path) -> None:
    resumed = half_done(None).run(there / "benchmark", resume=True, reproduce=7)
    whole = half_done(None).run(tmp_path / "whole", reproduce=7)
    assert resumed.guarantee == whole.guarantee
    assert resumed.summary["releases"] == whole.summary["releases"]
    for group, arrays in whole.billboards.items():
        for name, value in arrays.items():  # the first rounds may come from another processor
            assert resumed.billboards[group][name] == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_protected_people_go_on_with_all_that_was_charged(there: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(there)  # the folder of the run names its ledger
    ledger = Path("people.sqlite")
    before = Ledger(ledger).spent("clinic", 1e-3, Relation.ADD_REMOVE).value
    resumed = half_done(ledger).run(there / "protected", resume=True)
    assert resumed.summary["finished"]
    spent = Ledger(ledger).spent("clinic", 1e-3, Relation.ADD_REMOVE).value
    assert before < spent
    assert resumed.summary["ledger"]["spent"]["add/remove"] == spent
    assert resumed.guarantee.epsilon < spent, "the run before is on the ledger, too"
    with pytest.raises(BudgetExceeded):
        half_done(ledger, strategy=half_done(ledger).strategy.model_copy(update={"rounds": 400})).run(there / "more")


def test_releases_under_their_old_names_are_those_of_today(there: Path) -> None:
    """A run that goes on charges the same releases: another text for one would be a second banded mechanism."""
    limits = BandedMechanism(horizon=6, participations=2, separation=3, bands=3)
    values: dict[str, Any] = {"noise_multiplier": 20.0, "clipping_norm": 0.5}
    runs = {
        "banded": Release(mechanism="banded", sampling_name="min-separation", rate=1.0, banded=limits, **values),
        "cohorts": Release(sampling_name="fixed-size-unamplified", rate=0.1, **values),
    }
    ledger = Ledger(there / "names.sqlite")
    before = ledger.spent("people", 1e-5, Relation.REPLACE_ONE).value
    assert before == pytest.approx(0.7255217508578847)
    with sqlite3.connect(there / "names.sqlite") as connection:
        texts = sorted(text for (text,) in connection.execute("SELECT release FROM releases"))
    assert texts == sorted(one.to_json() for one in runs.values())
    for run, one in runs.items():
        for number in (1, 2):
            assert not ledger.charge("people", run, number, "all", one, f"{run[0]}{number}"), "it was charged"
        assert ledger.charge("people", run, 3, "all", one, f"{run[0]}3")
    assert ledger.counts("people") == {runs["banded"]: 1, runs["cohorts"]: 3}
    # What a summary of then says is read, too, and said in today's words.
    found = ReleaseRecord(round=1, **{key: value for key, value in json.loads(texts[0]).items() if key != "version"})
    assert (found.sampling_name, found.release) == ("min-separation", runs["banded"])


@pytest.mark.parametrize("name", ["poisson", "banded", "an epsilon per group", "noise on the nodes"])
def test_settings_ledger_and_guarantee_are_as_they_were(name: str) -> None:
    """`tests/record.py` checks all presets, and the bits of what was published."""
    before, found = json.loads((RECORDED / "runs.json").read_text(encoding="utf-8")), record([f"mechanism {name}"])
    assert found
    for case, one in found.items():
        portable = [{key: value for key, value in each.items() if key != "bits"} for each in (before[case], one)]
        assert list(differences(*portable)) == []


if __name__ == "__main__":
    make(Path(sys.argv[1]))
