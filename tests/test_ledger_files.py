"""Ledgers that cannot be written, or that another version or another process has in hand: one sentence each."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import toy_tasks
from ledgers import make_older
from torch import nn

from fedpriv import Experiment
from fedpriv.clients import GlobalModel
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy import Ledger, Release, Target
from fedpriv.strategies import Billboard

RELEASE = Release(noise_multiplier=20.0, sampling_name="full", rate=1.0, clipping_norm=1.0)
BUDGET = Target(epsilon=2.0, delta=1e-5)
PEOPLE: dict[str, Any] = {"fingerprint": "f", "num_tasks": 100, "declared": "protected", "budget": BUDGET}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A ledger that anybody may read, in a folder that anybody may enter."""
    with tempfile.TemporaryDirectory(prefix="fedpriv-test-") as folder:
        Path(folder).chmod(0o755)
        made = Ledger(Path(folder) / "ledger.sqlite")
        made.register("people", **PEOPLE)
        made.charge("people", "r", 0, "", RELEASE)
        for file in Path(folder).iterdir():  # the journal, too
            file.chmod(0o644)
        yield made


@contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions do not bind root; be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def writes(path: Path) -> list[Callable[[], object]]:
    return [
        lambda: Ledger(path).charge("people", "r", 1, "", RELEASE),
        lambda: Ledger(path).register("others", **{**PEOPLE, "fingerprint": "g"}),
        lambda: Ledger(path).refuse_read_only(),
    ]


@pytest.mark.parametrize(("file", "folder"), [(0o444, 0o755), (0o444, 0o555), (0o666, 0o555)])
def test_a_read_only_ledger_says_so_and_still_answers(ledger: Ledger, file: int, folder: int) -> None:
    """The file, its folder (where SQLite keeps its journal), or both."""
    ledger.path.chmod(file)
    ledger.path.parent.chmod(folder)
    before = ledger.path.read_bytes()
    try:
        with without_privileges():
            for write in writes(ledger.path):
                with pytest.raises(ComponentFailure, match=r"read-only.*make both writable"):
                    write()
            assert Ledger(ledger.path).counts("people") == Counter({RELEASE: 1})
            Ledger(ledger.path).check("people", "r", {RELEASE: 1})
            assert Ledger(ledger.path).verify("people") == ([], [])
    finally:
        ledger.path.parent.chmod(0o755)
    assert ledger.path.read_bytes() == before


def test_an_unreadable_ledger_says_so(ledger: Ledger) -> None:
    for file in (ledger.path, ledger.path.with_name("ledger.sqlite-journal")):
        file.chmod(0o000)
        with without_privileges(), pytest.raises(ComponentFailure, match="may not be read by this user"):
            Ledger(ledger.path).counts("people")
        file.chmod(0o644)


def test_an_interrupted_ledger_that_may_not_be_repaired_says_so(ledger: Ledger) -> None:
    code = """
import os, signal, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA cache_size=1"); c.execute("PRAGMA cache_spill=1")
c.execute("BEGIN IMMEDIATE")
for n in range(3000):
    c.execute("INSERT INTO entries (population, run, round, part, release, digest) "
              "VALUES ('people', 'torn', ?, '', 1, ?)", (n, "y" * 200))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(ledger.path)], check=False)
    journal = ledger.path.with_name("ledger.sqlite-journal")
    assert journal.exists()
    journal.chmod(0o644)
    ledger.path.parent.chmod(0o555)
    with without_privileges(), pytest.raises(ComponentFailure, match="read-only"):
        Ledger(ledger.path).counts("people")
    ledger.path.parent.chmod(0o755)
    assert Ledger(ledger.path).counts("people") == Counter({RELEASE: 1})  # whoever may write repairs it


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_ledger_goes_on(ledger: Ledger, version: int) -> None:
    left = ledger.left("people")
    make_older(ledger.path, version)
    before = ledger.path.read_bytes()
    opened = Ledger(ledger.path)
    assert opened.left("people") == left
    opened.register("people", **PEOPLE)
    with pytest.raises(InputError, match="cut off by the filter 'renyi', got 'gdp'"):
        opened.register("people", **PEOPLE, budget_filter="gdp")
    assert ledger.path.read_bytes() == before  # asking changes nothing, an older file neither
    assert opened.charge("people", "r", 1, "", RELEASE)
    opened.register("others", **{**PEOPLE, "fingerprint": "g"}, budget_filter="gdp")
    assert opened.counts("people") == Counter({RELEASE: 2})
    opened.register("people", **PEOPLE)
    assert opened.verify("people") == ([], [])
    with sqlite3.connect(ledger.path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (4,)
    connection.close()


def test_a_version_that_never_was_is_damage(ledger: Ledger) -> None:
    connection = sqlite3.connect(ledger.path)
    connection.execute("PRAGMA user_version = 0")
    connection.close()
    with pytest.raises(ComponentFailure, match="version 0, which no fedpriv ever wrote"):
        Ledger(ledger.path).counts("people")


RACER = """
import sys
from fedpriv.errors import BudgetExceeded
from fedpriv.privacy import Ledger, Release
release = Release.from_json(sys.argv[3])
ledger, granted = Ledger(sys.argv[1]), 0
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        ledger.check("people", sys.argv[2], {release: 1})
        ledger.charge("people", sys.argv[2], granted, "", release)
        granted += 1
except BudgetExceeded:
    print(granted, flush=True)
"""


def test_two_runs_that_race_for_one_budget_never_exceed_it(ledger: Ledger) -> None:
    """Both check before they charge, so both may find room for the last release; one of them is then refused."""
    expensive = RELEASE.model_copy(update={"noise_multiplier": 8.0})
    alone, fits = Ledger(ledger.path.with_name("alone.sqlite")), 0
    alone.register("people", **PEOPLE)
    alone.charge("people", "r", 0, "", RELEASE)
    limit = alone.left("people")
    assert limit is not None
    fits = int(limit.allowance / limit.cost({expensive: 1}))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(ledger.path), name, expensive.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("x", "y")
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    granted = [int(one.communicate("go\n")[0]) for one in running]
    assert [one.returncode for one in running] == [0, 0]
    assert sum(granted) == fits > 4
    assert ledger.counts("people")[expensive] == fits


def test_a_filter_that_cannot_pay_is_not_entered(tmp_path: Path) -> None:
    """Else the population would be stuck with it: neither budget nor filter may change."""
    strategy = Billboard(clipping_norm=1.0, noise_multiplier=4.0, rounds=2, sampling_rate=0.5)
    settings: dict[str, Any] = {
        "tasks": replace(toy_tasks(), declared="protected"),
        "model": nn.Linear(5, 3),
        "client": GlobalModel(learning_rate=0.1, steps=1),
        "strategy": strategy,
        "grid": "in-process",
        "population": "people",
        "ledger": tmp_path / "l.sqlite",
        "budget": Target(epsilon=20.0, delta=1e-5),
    }
    with pytest.raises(InputError, match="GDP filter pays for plain Gaussian releases only"):
        Experiment(**settings, budget_filter="gdp").run()
    assert Experiment(**settings).run().guarantee.rounds == 2


@pytest.mark.parametrize("path", ["x" * 300, "a\0b"])
def test_a_path_that_no_file_can_have_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="must be the path of a file"):
        Ledger(path)


def test_a_name_that_cannot_be_written_is_refused(ledger: Ledger) -> None:
    for ask in (ledger.counts, ledger.verify, ledger.describe):
        with pytest.raises(InputError, match="must be text in UTF-8"):
            ask("\udcff")
