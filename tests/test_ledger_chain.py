"""A ledger that was put back, cut or changed is refused in a sentence before any number is printed."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Crash, crash_at, toy_tasks
from ledgers import alter, make_older

from fedpriv import Experiment
from fedpriv.clients import GlobalModel
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy import Ledger, Release, Target, epsilon
from fedpriv.privacy import store as ledger_files
from fedpriv.privacy.chain import Head, HeadFile, head_of
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.privacy.store import LedgerFile
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.strategies import Billboard

ROUNDS = 20
RELEASE = Release(noise_multiplier=8.0, sampling_name="poisson", rate=0.5, clipping_norm=1.0)
OTHER = RELEASE.model_copy(update={"noise_multiplier": 80.0})


def study(place: Path | None = None, **changes: Any) -> Experiment:
    """Twenty rounds on twelve people; a protected population if there is a place for its ledger."""
    protected: dict[str, Any] = {}
    if place is not None:
        budget = Target(epsilon=30.0, delta=1e-3)
        protected = {"population": "people", "ledger": place / "people.sqlite", "budget": budget}
    settings: dict[str, Any] = {
        "tasks": replace(toy_tasks(12), declared="benchmark" if place is None else "protected"),
        "model": "linear",
        "client": GlobalModel(learning_rate=0.1, steps=1),
        "strategy": Billboard(clipping_norm=1.0, rounds=ROUNDS, sampling_rate=0.5, noise_multiplier=8.0),
        "grid": "in-process",
        "baseline": False,
        "checkpoint_every": 50,
        **protected,
        **changes,
    }
    return Experiment(**settings)


def entries(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
        return found


def in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def renamed(path: Path, content: bytes) -> None:
    """As a program does that keeps folders alike."""
    aside = path.with_name("aside")
    aside.write_bytes(content)
    aside.replace(path)


class Rollback:
    """Keeps a copy of a run's ledger after one round and puts it back, with its head, after another."""

    def __init__(self, monkeypatch: Any, kept: int, after: int, put: Callable[[Path, bytes], None] = in_place) -> None:
        self.copies: dict[Path, bytes] = {}
        self.put, self.path = put, Path()
        publish = Journal.publish

        def published(journal: Journal, checkpoint: Checkpoint, releases: Any) -> None:
            publish(journal, checkpoint, releases)
            self.path = journal.ledger.path
            if checkpoint.round == kept:
                files = (self.path, self.path.with_name(f"{self.path.name}.head"))
                self.copies = {path: path.read_bytes() for path in files}
            if checkpoint.round == after:
                self.back()

        monkeypatch.setattr(Journal, "publish", published)

    def back(self) -> None:
        for path, content in self.copies.items():
            self.put(path, content)


@pytest.mark.parametrize("after", [18, 20], ids=["between rounds", "before the summary"])
@pytest.mark.parametrize(
    ("kind", "put"),
    [("folder", in_place), ("no folder", renamed), ("protected", renamed), ("protected, no folder", in_place)],
)
def test_a_run_notices_that_its_ledger_was_put_back(
    tmp_path: Path, monkeypatch: Any, kind: str, put: Any, after: int
) -> None:
    """The head beside it was put back, too: the run itself has seen a newer one."""
    there = Rollback(monkeypatch, 10, after, put)
    experiment = study(tmp_path if "protected" in kind else None)
    with pytest.raises(ComponentFailure, match=r"holds 11 records, and .* older copy was put back; restore the newer"):
        experiment.run(None if "no folder" in kind else tmp_path / "run")
    if there.path.exists():  # nothing was charged to the older copy
        assert entries(there.path) == 10
    assert not (tmp_path / "run/summary.json").exists()


def test_a_resumed_run_notices_that_its_ledger_was_put_back(tmp_path: Path, monkeypatch: Any) -> None:
    there = Rollback(monkeypatch, 10, -1)
    with crash_at(monkeypatch, "after promote", 18):
        study().run(tmp_path / "run", reproduce=3)
    newest = {path: path.read_bytes() for path in there.copies}
    there.back()
    with pytest.raises(ComponentFailure, match=r"checkpoints/ledger\.head has seen 19, so an older copy"):
        study().run(tmp_path / "run", reproduce=3, resume=True)
    for path, content in newest.items():
        path.write_bytes(content)
    assert study().run(tmp_path / "run", reproduce=3, resume=True).guarantee.rounds == ROUNDS


def test_another_ledger_of_the_same_length_is_not_taken_for_it(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("run", "other"):
        with crash_at(monkeypatch, "after promote", 4):
            study().run(tmp_path / name, reproduce=3)
    for name in ("ledger.sqlite", "ledger.sqlite.head"):
        (tmp_path / "run" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ComponentFailure, match=r"record 5 is not the one that .* another ledger was put in place"):
        study().run(tmp_path / "run", reproduce=3, resume=True)


@pytest.mark.parametrize(
    ("after", "words"), [(18, "does not hold round 18 of run"), (20, "does not hold all 20 rounds")]
)
def test_earlier_rounds_must_be_there_even_if_nobody_has_seen_them(
    tmp_path: Path, monkeypatch: Any, after: int, words: str
) -> None:
    """As for a run that an earlier version began, which keeps no head."""
    monkeypatch.setattr(LedgerFile, "_check_heads", lambda *_: None)
    Rollback(monkeypatch, 10, after)
    with pytest.raises(InputError, match=words):
        study().run(tmp_path / "run")


def test_a_backup_put_back_between_two_runs_is_noticed(tmp_path: Path) -> None:
    ledger, head = tmp_path / "people.sqlite", tmp_path / "people.sqlite.head"
    study(tmp_path).run(tmp_path / "a")
    old = ledger.read_bytes(), head.read_bytes()
    study(tmp_path).run(tmp_path / "b")
    ledger.write_bytes(old[0])
    for ask in (
        lambda: study(tmp_path).run(tmp_path / "c"),
        lambda: study(tmp_path).run(),
        lambda: Ledger(ledger).describe("people"),
        lambda: Ledger(ledger).spent("people", 1e-3),
        lambda: Ledger(ledger).charge("people", "r", 1, "", RELEASE),
    ):
        with pytest.raises(ComponentFailure, match=r"it holds 21 records, and .*sqlite\.head has seen 41"):
            ask()
    assert entries(ledger) == 20
    head.write_bytes(old[1])  # together they cannot be noticed, except by a run that has seen more
    assert Ledger(ledger).verify("people") == ([], [])
    ledger.unlink()
    with pytest.raises(ComponentFailure, match=r"there is no such file, and .* has seen 21 records in it"):
        study(tmp_path).run(tmp_path / "d")
    head.unlink()
    assert study(tmp_path).run(tmp_path / "e").guarantee.rounds == ROUNDS


# --- heads -----------------------------------------------------------------------------------------------------------


def test_heads_are_written_after_the_commit_under_the_lock_and_before_publication(
    tmp_path: Path, monkeypatch: Any
) -> None:
    seen: list[Path] = []
    write = HeadFile.write

    def watched(self: HeadFile, head: Head) -> None:
        path = tmp_path / "run/ledger.sqlite"
        with contextlib.closing(sqlite3.connect(path, timeout=0.0, isolation_level=None)) as other:
            assert head == head_of(other), "not committed, or not the newest"
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        store = CheckpointStore(tmp_path / "run/checkpoints")
        if head.number > 1:
            assert store.pending() is not None, "published before the head was written"
        write(self, head)
        seen.append(self.path)

    monkeypatch.setattr(HeadFile, "write", watched)
    study().run(tmp_path / "run")
    assert len(seen) == 2 * (1 + ROUNDS)
    both = {path.name: HeadFile(path).read() for path in set(seen)}
    assert both["ledger.sqlite.head"] == both["ledger.head"]
    assert both["ledger.head"] is not None
    assert both["ledger.head"].number == 1 + ROUNDS


@pytest.mark.parametrize("file", ["ledger.sqlite.head", "ledger.head"])
def test_a_head_that_a_crash_left_behind_is_caught_up_with(tmp_path: Path, monkeypatch: Any, file: str) -> None:
    write = HeadFile.write

    def crash(self: HeadFile, head: Head) -> None:
        if head.number == 6 and self.path.name == file:
            raise Crash
        write(self, head)

    with monkeypatch.context() as patch:
        patch.setattr(HeadFile, "write", crash)
        with pytest.raises(Crash):
            study().run(tmp_path / "run", reproduce=3)
    left = next((tmp_path / "run").glob(f"**/{file}"))
    assert HeadFile(left).read() is not None
    assert entries(tmp_path / "run/ledger.sqlite") == 5, "charged, and the head is behind"
    with crash_at(monkeypatch, "before stage", 6):  # before the next charge
        study().run(tmp_path / "run", reproduce=3, resume=True)
    found = HeadFile(left).read()
    assert found is not None
    assert found.number == 6
    result = study().run(tmp_path / "run", reproduce=3, resume=True)
    assert result.guarantee == study().run(reproduce=3).guarantee
    assert entries(tmp_path / "run/ledger.sqlite") == ROUNDS


def test_a_damaged_head_says_so_and_the_advice_helps(tmp_path: Path) -> None:
    ledger = made(tmp_path)
    head = tmp_path / "l.sqlite.head"
    good = head.read_bytes()
    for content in (b"", b"x", good[:-1], good[:40], good + b"1", b"\xff" * 86, bytes(86)):
        head.write_bytes(content)
        with pytest.raises(
            ComponentFailure, match=r"l\.sqlite\.head, .* is damaged; restore it from a copy, or delete"
        ):
            Ledger(ledger.path).counts("people")
    head.unlink()
    assert Ledger(ledger.path).charge("people", "r", 9, "", RELEASE)
    assert head.read_bytes() != good
    ledger.path.unlink()
    head.write_bytes(b"")
    with pytest.raises(ComponentFailure, match="is damaged"):  # there was a ledger, which is gone
        made(tmp_path)


def test_a_head_is_never_empty_or_cut_whenever_the_process_dies(tmp_path: Path, monkeypatch: Any) -> None:
    """Flushed before it has its name; later ones have its length, and are written over it at once."""
    file, first, second = HeadFile(tmp_path / "l.head"), Head(3, "a" * 64), Head(12, "b" * 64)
    moments: list[Head | None] = []
    with monkeypatch.context() as patch:
        for name in ("open", "write", "pwrite", "fsync", "replace"):
            original = getattr(os, name)

            def watched(*words: Any, original: Any = original, **more: Any) -> Any:
                moments.append(file.read())  # refuses what is empty or cut
                found = original(*words, **more)
                moments.append(file.read())
                return found

            patch.setattr(os, name, watched)
        for head in (first, second):
            file.write(head)
        patch.setattr(os, "fsync", crash)
        with pytest.raises(Crash):
            HeadFile(tmp_path / "other.head").write(first)
    assert len(moments) > 8
    assert [head for head, _ in itertools.groupby(moments)] == [None, first, second]
    assert [path.name for path in tmp_path.iterdir()] == ["l.head"]


def crash(*_: Any) -> None:
    raise Crash


# --- values ----------------------------------------------------------------------------------------------------------


def made(folder: Path) -> Ledger:
    """Two populations, two releases, eight entries."""
    ledger = Ledger(folder / "l.sqlite")
    budget = Target(epsilon=20.0, delta=1e-3)
    ledger.register("people", fingerprint="f", num_tasks=100, declared="protected", budget=budget)
    ledger.register("others", fingerprint="g", num_tasks=50, declared="protected", budget=None)
    for number in range(1, 5):
        ledger.charge("people", "r", number, "a", RELEASE, "a" * 64)
        ledger.charge("others" if number == 4 else "people", "s", number, "", OTHER)
    return ledger


def questions(path: Path) -> dict[str, Callable[[], object]]:
    return {
        "entries": lambda: Ledger(path).entries("people"),
        "counts": lambda: Ledger(path).counts("people"),
        "runs": lambda: Ledger(path).runs("people"),
        "histories": lambda: Ledger(path).histories("people"),
        "spent": lambda: Ledger(path).spent("people", 1e-3),
        "left": lambda: Ledger(path).left("people"),
        "populations": lambda: Ledger(path).populations(),
        "others": lambda: Ledger(path).counts("others"),
    }


CHANGES = {
    "populations": {
        "name": "'nobody'", "fingerprint": "'h'", "num_tasks": "101", "declared": "'benchmark'",
        "budget": "replace(budget, '20.0', '90.0')", "filter_order": "filter_order * 1.0000001", "filter": "'gdp'",
    },
    "releases": {"id": "7", "release": "replace(release, '8.0', '90.0')"},
    "entries": {
        "id": "99", "population": "'others'", "run": "'t'", "round": "9", "part": "'b'", "release": "2",
        "digest": f"'{'b' * 64}'", "charged_at": "'2020-01-01T00:00:00.000Z'",
    },
    "links": {"number": "99", "entry": "2", "population": "'others'", "hash": f"'{'0' * 64}'"},
}  # fmt: skip
WHERE = {"populations": "name = 'people'", "releases": "id = 1", "entries": "id = 1", "links": "number = 3"}


def columns() -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("".join(ledger_files._NEW))
        return [
            (table, row[1])
            for table in ("populations", "releases", "entries", "links")
            for row in connection.execute(f"PRAGMA table_info({table})")
        ]


@pytest.mark.parametrize(("table", "column"), columns())
def test_a_value_that_was_changed_is_named_before_any_answer(tmp_path: Path, table: str, column: str) -> None:
    """Every column there is; a new one has no change in the list and fails."""
    ledger = made(tmp_path)
    alter(ledger.path, f"UPDATE {table} SET {column} = {CHANGES[table][column]} WHERE {WHERE[table]}")
    who = r"entry 1 \(round . of run '.', population '.*'\)|entry 1 was|'people'|link 3"
    for name, ask in {
        **questions(ledger.path),
        "used before": lambda: ledger.counts("people"),
        "charge": lambda: Ledger(ledger.path).charge("people", "r", 5, "a", RELEASE),
        "register": lambda: Ledger(ledger.path).register("new", fingerprint="n", num_tasks=9, declared="protected"),
    }.items():
        with pytest.raises(ComponentFailure, match=f"({who}).*restore it from a backup") as found:
            ask()
        assert str(found.value).count("\n") == 0, name
    wrong, _ = Ledger(ledger.path).verify("people")
    assert wrong


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM entries WHERE id = 3", "entry 3 was taken away"),
        ("DELETE FROM entries WHERE id = 8", "entry 8 was taken away"),
        ("DELETE FROM links WHERE number = 4", "link 4 of its chain is gone"),
        ("DELETE FROM populations WHERE name = 'others'", "'others' was taken away"),
        (
            "INSERT INTO entries (population, run, round, part, release, digest) VALUES ('people', 'r', 5, 'a', 2, '')",
            "9 entries are there and 8 were charged",
        ),
        ("INSERT INTO populations VALUES ('new', 'n', 9, 'protected', NULL, NULL, NULL)", "'new' was entered by"),
        ("PRAGMA user_version = 3", "its version was set back"),
    ],
)
def test_a_record_that_was_added_or_taken_away_is_named(tmp_path: Path, statement: str, words: str) -> None:
    ledger = made(tmp_path)
    alter(ledger.path, statement)
    (tmp_path / "l.sqlite.head").unlink()  # the chain alone tells
    for ask in questions(ledger.path).values():
        with pytest.raises(ComponentFailure, match=words):
            ask()


def test_a_byte_that_was_changed_changes_no_answer(tmp_path: Path) -> None:
    """Indexes as well as tables: sums are read from an index alone."""
    ledger = made(tmp_path)
    ledger.close()
    whole = ledger.path.read_bytes()
    right = {name: ask() for name, ask in questions(ledger.path).items()}
    places = [place for place in range(100, len(whole)) if whole[place]][::11]
    refused = 0
    for place in places:
        ledger.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        asked = Ledger(ledger.path)
        try:
            found = {"counts": asked.counts("people"), "entries": asked.entries("people")}
        except (ComponentFailure, InputError):
            refused += 1
        else:
            assert found == {name: right[name] for name in found}, place
    assert refused > 0.5 * len(places)


@pytest.mark.parametrize("cut", [1, 4096, 5000])
def test_a_ledger_that_was_cut_is_refused_at_any_moment(tmp_path: Path, monkeypatch: Any, cut: int) -> None:
    ledger = made(tmp_path)
    ledger.counts("people")
    ledger.path.write_bytes(ledger.path.read_bytes()[:-cut])
    for ask in (
        *questions(ledger.path).values(),
        lambda: ledger.counts("people"),
        lambda: ledger.charge("people", "r", 5, "a", RELEASE),
    ):
        with pytest.raises(ComponentFailure, match="is damaged"):
            ask()
    publish = Journal.publish

    def cutting(self: Journal, checkpoint: Checkpoint, releases: Any) -> None:
        publish(self, checkpoint, releases)
        if checkpoint.round == 12:
            self.ledger.path.write_bytes(self.ledger.path.read_bytes()[:-cut])

    monkeypatch.setattr(Journal, "publish", cutting)
    for out in (None, tmp_path / "run"):
        with pytest.raises(ComponentFailure, match="is damaged"):
            study().run(out)


def test_a_value_changed_during_a_run_is_named_before_its_summary(tmp_path: Path, monkeypatch: Any) -> None:
    publish = Journal.publish

    def changing(self: Journal, checkpoint: Checkpoint, releases: Any) -> None:
        publish(self, checkpoint, releases)
        if checkpoint.round == ROUNDS:
            alter(self.ledger.path, "UPDATE releases SET release = replace(release, '8.0', '80.0')")

    monkeypatch.setattr(Journal, "publish", changing)
    for out in (None, tmp_path / "run"):
        with pytest.raises(ComponentFailure, match=r"a value of entry 1 .* was changed"):
            study().run(out)


# --- earlier versions, speed, durability -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_ledger_is_chained_unless_somebody_has_seen_a_chain(tmp_path: Path, version: int) -> None:
    study(tmp_path).run(tmp_path / "a")
    path = tmp_path / "people.sqlite"
    head = (tmp_path / "people.sqlite.head").read_bytes()
    make_older(path, version)
    older = path.read_bytes()
    assert Ledger(path).counts("people").total() == ROUNDS
    assert path.read_bytes() == older
    (tmp_path / "people.sqlite.head").write_bytes(head)
    for ask in (lambda: Ledger(path).counts("people"), lambda: study(tmp_path).run(tmp_path / "b")):
        with pytest.raises(ComponentFailure, match=f"has seen it with a chain of {ROUNDS + 1} records"):
            ask()
    (tmp_path / "people.sqlite.head").unlink()
    followed = Ledger(path)
    followed.follow(tmp_path / "a/checkpoints/ledger.head")
    with pytest.raises(ComponentFailure, match=r"checkpoints/ledger\.head has seen it with a chain"):
        followed.charge("people", "r", 1, "", RELEASE)
    assert path.read_bytes() == older
    assert study(tmp_path).run(tmp_path / "c").guarantee.rounds == ROUNDS
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert head_of(connection).number == 1 + 2 * ROUNDS
    alter(path, "UPDATE entries SET run = 'x' WHERE id = 2")  # what was there before is covered, too
    with pytest.raises(ComponentFailure, match="a value of entry 2 "):
        Ledger(path).counts("people")


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    with crash_at(monkeypatch, "after charge", 9):
        study().run(tmp_path / "run", reproduce=3)
    make_older(tmp_path / "run/ledger.sqlite", 3)
    (tmp_path / "run/checkpoints/ledger.head").unlink()
    result = study().run(tmp_path / "run", reproduce=3, resume=True)
    assert result.guarantee.epsilon == epsilon({RELEASE: ROUNDS}, result.guarantee.delta).value
    assert Ledger(tmp_path / "run/ledger.sqlite").verify("toy") == ([], [])


def test_a_charge_does_not_read_the_whole_chain_again(tmp_path: Path, monkeypatch: Any) -> None:
    ledger, times = made(tmp_path), []
    broken = ledger_files.broken_link
    monkeypatch.setattr(ledger_files, "broken_link", lambda connection: times.append(1) or broken(connection))
    for number in range(5, 50):
        ledger.charge("people", "r", number, "a", OTHER)
        ledger.check("people", "r", {OTHER: 1})
        ledger.counts("people")
    assert len(times) == 0
    Ledger(ledger.path).charge("people", "r", 50, "a", OTHER)
    ledger.charge("people", "r", 51, "a", OTHER)  # somebody else wrote
    assert len(times) == 2


def test_a_change_within_one_tick_of_the_clock_is_noticed(tmp_path: Path, monkeypatch: Any) -> None:
    """The file has the same size and times as before."""
    now, state = time.time_ns(), LedgerFile._state
    ledger = made(tmp_path)
    monkeypatch.setattr(LedgerFile, "_state", lambda self: (*state(self)[:-2], now, now))
    monkeypatch.setattr(ledger_files.time, "time_ns", lambda: now + 1)
    reader, other = Ledger(ledger.path), Ledger(ledger.path)
    for one in (ledger, reader):
        assert one.counts("people").total() == 7
    ledger.charge("people", "r", 5, "a", OTHER)  # by the connection that is kept
    assert other.counts("people").total() == 8
    alter(ledger.path, "UPDATE entries SET part = 'b' WHERE id = 3")
    for ask in (
        lambda: ledger.counts("people"),
        lambda: reader.counts("people"),
        lambda: ledger.charge("people", "r", 6, "a", OTHER),
    ):
        with pytest.raises(ComponentFailure, match="a value of entry 3 "):
            ask()


def test_every_commit_is_flushed_before_it_returns(tmp_path: Path, monkeypatch: Any) -> None:
    """Asked of the connections themselves, when they are done with their work."""
    found: list[tuple[int, str]] = []

    class Watched(sqlite3.Connection):
        def _note(self) -> None:
            mode = super().execute("PRAGMA journal_mode").fetchone()[0]
            found.append((super().execute("PRAGMA synchronous").fetchone()[0], mode))

        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            if sql == "COMMIT":
                self._note()
            return super().execute(sql, *more)

        def executescript(self, script: str) -> sqlite3.Cursor:
            if "CREATE TABLE" in script and "COMMIT" in script:
                self._note()
            return super().executescript(script)

    connect = sqlite3.connect

    def watched(*arguments: Any, **more: Any) -> sqlite3.Connection:
        return connect(*arguments, **more, factory=Watched)

    monkeypatch.setattr(ledger_files.sqlite3, "connect", watched)
    ledger = made(tmp_path)
    for number in range(5, 8):
        ledger.charge("people", "r", number, "a", OTHER)
    ledger.close()
    extra = 3  # the file, its journal, and the folder
    assert found == [(extra, "delete"), *([(extra, "persist")] * (2 + 8 + 3))]
    np.testing.assert_equal(len(ledger.entries("people")), 10)
