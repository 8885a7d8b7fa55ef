"""People come and leave between runs: a new version of a population goes on with its one budget."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from helpers import experiment, noisy, toy_tasks
from ledgers import alter, make_older

from fedpriv import BudgetExceeded, ComponentFailure, Experiment, InputError
from fedpriv.privacy import Ledger, Release, Target
from fedpriv.runs.finished import read_record
from fedpriv.runs.ledger_check import check_finished

BUDGET = Target(epsilon=2.0, relation="replace-one")
FIRST: dict[str, Any] = {"fingerprint": "one", "num_tasks": 100, "declared": "protected", "budget": BUDGET}
SECOND = {**FIRST, "fingerprint": "two", "num_tasks": 110}
RELEASE = Release(noise_multiplier=12.0, sampling_name="full", rate=1.0, clipping_norm=1.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path / "people.sqlite")
    found.register("people", **FIRST)
    return found


def fill(ledger: Ledger, run: str) -> int:
    """Charge until the budget is spent; return how many rounds it paid for."""
    for number in range(1, 1000):
        try:
            ledger.charge("people", run, number, "all", RELEASE)
        except BudgetExceeded:
            return number - 1
    raise AssertionError("the budget never ends")


def version_of(ledger: Ledger) -> int:
    with sqlite3.connect(ledger.path) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_a_new_version_inherits_all_charges_and_the_one_budget(ledger: Ledger, tmp_path: Path) -> None:
    alone = Ledger(tmp_path / "alone.sqlite")
    alone.register("people", **FIRST)
    whole = fill(alone, "run")
    for number in range(1, 4):
        ledger.charge("people", "run", number, "all", RELEASE)
    before, left = ledger.path.read_bytes(), ledger.left("people")
    with pytest.raises(InputError, match=r"another population .*run\.new_version = true"):
        ledger.register("people", **SECOND)
    assert ledger.path.read_bytes() == before
    ledger.register("people", **SECOND, new_version=True)
    assert ledger.left("people") == left
    found = Ledger(ledger.path)
    assert fill(found, "more") == whole - 3 > 0, "whoever comes finds what is left, and no budget of their own"
    said = found.describe("people")
    assert (said["tasks"], said["fingerprint"], said["versions"]) == (110, "two", [["one", 100], ["two", 110]])
    assert said["budget"]["delta"] == BUDGET.delta_for(100)
    assert found.verify("people") == ([], [])
    again = found.path.read_bytes()
    found.register("people", **SECOND)
    found.register("people", **SECOND, new_version=True)
    assert found.path.read_bytes() == again, "the newest version is not entered again"
    with pytest.raises(InputError, match="another population"):
        found.register("people", **FIRST)
    found.register("people", **FIRST, new_version=True)
    assert len(found.describe("people")["versions"]) == 3
    with pytest.raises(BudgetExceeded):
        found.charge("people", "last", 1, "all", RELEASE)


@pytest.mark.parametrize(
    "change",
    [
        {"budget": Target(epsilon=3.0, relation="replace-one")},
        {"budget": None},
        {"declared": "benchmark", "budget": None},
        {"budget_filter": "gdp"},
        {"num_tasks": 20_000},
        {"fingerprint": "one"},
    ],
)
def test_a_new_version_changes_nothing_but_the_members(ledger: Ledger, change: dict[str, Any]) -> None:
    """Not the budget, nor with a delta that would be too large for so many; one list has one number of tasks."""
    before = ledger.path.read_bytes()
    with pytest.raises(InputError, match=r"may not change|another population|delta"):
        ledger.register("people", **{**SECOND, **change}, new_version=True)
    assert ledger.path.read_bytes() == before


def test_members_of_another_population_have_its_budget(ledger: Ledger) -> None:
    ledger.register("people", **SECOND, new_version=True)
    for fingerprint in ("one", "two"):
        with pytest.raises(InputError, match="Use 'people'"):
            ledger.register("others", **{**FIRST, "fingerprint": fingerprint})
    ledger.register("others", **{**FIRST, "fingerprint": "three"})
    with pytest.raises(InputError, match="Use 'people'"):
        ledger.register("others", **FIRST, new_version=True)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_file_is_of_version_five_only_once_it_must_be(ledger: Ledger, version: int) -> None:
    ledger.charge("people", "run", 1, "all", RELEASE)
    assert version_of(ledger) == 4, "an earlier fedpriv reads it"
    ledger.close()
    if version < 4:
        make_older(ledger.path, version)
        ledger = Ledger(ledger.path)
    ledger.register("people", **SECOND, new_version=True)
    ledger.charge("people", "run", 2, "all", RELEASE)
    assert version_of(ledger) == 5
    assert Ledger(ledger.path).verify("people") == ([], [])
    assert [one.round for one in Ledger(ledger.path).entries("people")] == [1, 2]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE members SET num_tasks = 109",
        "UPDATE members SET fingerprint = 'three'",
        "DELETE FROM members",
        "INSERT INTO members (population, version, fingerprint, num_tasks) VALUES ('people', 3, 'three', 120)",
    ],
)
def test_members_that_were_changed_are_noticed(ledger: Ledger, statement: str) -> None:
    ledger.register("people", **SECOND, new_version=True)
    with sqlite3.connect(ledger.path) as connection, pytest.raises(sqlite3.IntegrityError, match="immutable"):
        connection.execute(statement if "INSERT" not in statement else "UPDATE members SET version = 4")
    alter(ledger.path, statement)
    with pytest.raises(ComponentFailure, match=r"was changed|taken away|entered by another program"):
        Ledger(ledger.path).describe("people")
    assert Ledger(ledger.path).verify("people")[0]


def people(count: int, folder: Path, **changes: Any) -> Experiment:
    from dataclasses import replace

    tasks = replace(toy_tasks(count), declared="protected")
    protected = {"population": "people", "ledger": folder / "people.sqlite", "budget": BUDGET}
    return experiment(tasks, strategy=noisy(rounds=2, noise_multiplier=30.0), **protected, **changes)


def test_runs_on_both_versions_are_one_account(tmp_path: Path, fedpriv: Any) -> None:
    people(6, tmp_path).run(tmp_path / "first")
    with pytest.raises(InputError, match=r"run\.new_version = true"):
        people(7, tmp_path).run(tmp_path / "refused")
    people(7, tmp_path, new_version=True).run(tmp_path / "second")
    people(7, tmp_path).run(tmp_path / "third")
    more = [f"--run={tmp_path / name}" for name in ("second", "third")]
    code, said, error = fedpriv("ledger", "show", str(tmp_path / "first"), *more, "--json")
    assert code == 0, error
    found = json.loads(said)
    assert found["tasks"] == 7
    assert sum(one["entries"] for one in found["runs"].values()) == 6
    assert "7 tasks, protected data, version 2 of its members" in fedpriv("ledger", "show", str(tmp_path / "first"))[1]
    # Nobody knows whose ids the first run's were, so its rounds count for each of the seven.
    assert found["individual"]["rounds_with_participants_assumed"] == 2, found["individual"]
    for name in ("first", "second", "third"):
        check_finished(tmp_path / name, read_record(tmp_path / name))
    code, said, error = fedpriv("ledger", "check", str(tmp_path / "first"))
    assert code == 0, said + error


def test_one_salt_per_population_is_kept_with_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    salt = ledger.salt("people")
    assert len(salt) == 32
    assert Ledger(ledger.path).salt("people") == salt
    assert ledger.salt("others") != salt
    before, after = toy_tasks(6).roster.salted(salt), toy_tasks(7).roster.salted(ledger.salt("people"))
    assert after.names[:6] == before.names, "the same people are the same again in the next version"
    names = {file: file.stat().st_mode & 0o077 for file in tmp_path.glob("people.sqlite.*.salt")}
    assert list(names.values()) == [0, 0], "each is for its owner alone"
    for file in names:
        file.write_bytes(b"")
    with pytest.raises(ComponentFailure, match="restore it from a copy"):
        ledger.salt("people")


def test_a_new_version_that_the_budget_cannot_pay_is_not_entered(ledger: Ledger) -> None:
    ledger.charge("people", "run", 1, "all", RELEASE)
    before = ledger.path.read_bytes()
    with pytest.raises(BudgetExceeded, match="Nothing was charged"):
        ledger.register("people", **SECOND, new_version=True, planned={RELEASE: 1000})
    assert ledger.path.read_bytes() == before
    ledger.register("people", **SECOND, new_version=True, planned={RELEASE: 1})
    assert ledger.describe("people")["tasks"] == 110


def test_delta_is_small_enough_for_the_largest_version(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    without = {"declared": "protected", "new_version": True}
    ledger.register("people", fingerprint="one", num_tasks=1500, **without)
    ledger.charge("people", "run", 1, "all", RELEASE)
    before = ledger.describe("people")
    ledger.register("people", fingerprint="two", num_tasks=4, **without)
    after = ledger.describe("people")
    assert after["delta"] == before["delta"] == 1 / 150_000
    with pytest.raises(InputError, match="delta"):
        ledger.describe("people", 1 / 1500)


def test_public_groups_may_not_change_between_stop_and_resume(tmp_path: Path) -> None:
    from dataclasses import replace

    class Stop(Exception):
        pass

    def stop(done: int, _: int) -> None:
        if done == 1:
            raise Stop

    def run(labels: tuple[int, ...]) -> Experiment:
        return experiment(replace(toy_tasks(6), groups=labels), strategy=noisy(rounds=2))

    with pytest.raises(Stop):
        run((0, 0, 0, 1, 1, 1)).run(tmp_path / "run", progress=stop)
    with pytest.raises(InputError, match=r"data\.groups was '.*' when .* was started"):
        run((1, 1, 1, 0, 0, 0)).run(tmp_path / "run", resume=True)
    run((0, 0, 0, 1, 1, 1)).run(tmp_path / "run", resume=True)
