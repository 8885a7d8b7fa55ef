"""Whether a ledger is what it was written to be: nothing missing, nothing changed, nothing that does not belong."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

from fedpriv.errors import ComponentFailure
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.population import RESTORE, check_name, find_population, release_from
from fedpriv.privacy.store import LedgerFile

__all__ = ["out_of_order", "problems"]

_PARTS = {
    ("table", "populations"),
    ("table", "releases"),
    ("table", "entries"),
    ("index", "tally"),
}


def problems(connection: sqlite3.Connection, population: str) -> Iterator[str]:
    """Yield a sentence for everything that is wrong with the file or with one population.

    Entries are numbered without gaps and never deleted, so one that is missing shows, the last ones too.
    """
    check_name(population)
    parts = {(kind, name): text for kind, name, text in connection.execute("SELECT type, name, sql FROM sqlite_master")}
    there = set(parts)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    guards = LedgerFile.guards(version)
    tables = _PARTS | ({("table", "links")} if version > 3 else set())
    tables |= {("table", "members")} if version > 4 else set()
    for kind, name in sorted((tables | {("trigger", guard) for guard in guards}) - there):
        yield f"the {kind} {name!r} is missing, so somebody changed the file with another program"
    for (kind, name), text in sorted(parts.items()):
        if kind == "trigger" and text != guards.get(name):
            yield f"the trigger {name!r} is not fedpriv's, so somebody changed the file with another program"
    if any(kind == "table" for kind, _ in tables - there):
        return  # nothing else can be asked
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"row {row} of {table!r} refers to a row of {parent!r} that is not there"
    yield from _numbers(connection)
    texts = connection.execute(
        "SELECT id, release FROM releases WHERE id IN (SELECT release FROM entries WHERE population = ?)", (population,)
    ).fetchall()
    releases = {}
    for number, text in texts:
        try:
            releases[number] = release_from(text)
        except ComponentFailure as error:
            yield f"release number {number}: {_finding(error)}"
    yield from _entries(connection, population)
    yield from _banded_mechanisms(connection, population, releases)
    try:
        find_population(connection, population)
    except ComponentFailure as error:
        yield _finding(error)


def _finding(error: ComponentFailure) -> str:
    """Return what is wrong, without what to do about it."""
    return str(error).removesuffix(f"; {RESTORE}")


def out_of_order(connection: sqlite3.Connection, population: str) -> Iterator[str]:
    """Yield a sentence for each run and group whose rounds were not charged in ascending order.

    That over-charges at worst, and a mechanism beside the billboard may number its releases as it likes.
    """
    rows = connection.execute(
        "SELECT run, part, round, before FROM (SELECT run, part, round, lag(round) OVER (PARTITION BY run, part ORDER "
        "BY id) AS before FROM entries WHERE population = ?) WHERE round < before GROUP BY run, part",
        (population,),
    )
    for run, group, number, before in rows:
        yield f"run {run!r} (group {group!r}) was charged for round {number} after round {before}"


def _numbers(connection: sqlite3.Connection) -> Iterator[str]:
    count, first, last = connection.execute("SELECT count(*), min(id), max(id) FROM entries").fetchone()
    given = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
    most = max(last or 0, given[0] if given else 0)
    if count != most or (count and first != 1):
        yield (
            f"{most} releases were charged in this file and {count} are there: some were deleted, so what was spent is "
            "under-counted"
        )


def _entries(connection: sqlite3.Connection, population: str) -> Iterator[str]:
    for run, number, digest in connection.execute(
        "SELECT run, round, digest FROM entries WHERE population = ? AND digest <> ''", (population,)
    ):
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            yield f"the digest of round {number} of run {run!r} is {digest!r}, which is none"
            return
    bad = connection.execute(
        "SELECT run, round FROM entries WHERE population = ? AND round < 0", (population,)
    ).fetchone()
    if bad is not None:
        yield f"run {bad[0]!r} was charged for round {bad[1]}, and rounds count from 0"


def _banded_mechanisms(connection: sqlite3.Connection, population: str, releases: dict[int, Release]) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    rows = connection.execute(
        "SELECT run, part, release, min(round), max(round) FROM entries WHERE population = ? "
        "GROUP BY run, part, release",
        (population,),
    )
    for run, group, number, first, last in rows:
        release = releases.get(number)
        if release is None or release.banded is None:
            continue
        if (run, group) in seen:
            yield f"run {run!r} (group {group!r}) has two banded mechanisms, and was charged for one at a time"
        seen.add((run, group))
        if last - first >= release.banded.horizon:
            yield (
                f"run {run!r} (group {group!r}) has rounds {first} to {last} of banded noise that was charged for "
                f"{release.banded.horizon} rounds"
            )
