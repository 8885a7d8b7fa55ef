"""The chain over a ledger: each link's hash covers the link before it and all that its record says.

A record is a population as it was entered, a later version of its members, or an entry as it was charged; a link is the
SHA-256 of the hash before and the record as JSON (of a release, the SHA-256 of its text). So the hash of the last link,
the *head*, covers every value that an answer of the ledger depends on, and whoever has seen a head can tell a ledger
that goes on from it from one that does not. Whoever writes all links and all heads anew is not found out: the chain
finds copies that were put back and values that were changed, it does not stop a forger.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedpriv.errors import ComponentFailure
from fedpriv.files import write_private_line

__all__ = ["LINKS", "Head", "HeadFile", "append_links", "broken_link", "head_of", "on_chain"]

LINKS = "CREATE TABLE links (number INTEGER PRIMARY KEY, entry INTEGER, population TEXT, hash TEXT NOT NULL) STRICT;"
"""The table that holds them; each has an entry or a population."""

_POPULATION = "SELECT name, fingerprint, num_tasks, declared, budget, filter_order, filter FROM populations"
_MEMBERS = "SELECT population, version, fingerprint, num_tasks, entered_at FROM members"
_ENTRY = "e.id, e.population, e.run, e.round, e.part, e.digest, e.charged_at"
_START = "0" * 64
_encoded = json.JSONEncoder(separators=(",", ":")).encode


class Head(NamedTuple):
    """How many records a ledger holds, and the hash of the last one's link."""

    number: int
    hash: str


class HeadFile:
    """A file that holds the newest head that somebody has seen; it may be behind the ledger, never ahead.

    It appears whole and flushed, and is then written in place without flushing: after a crash or a power failure it may
    be behind, and is never empty. So one that is empty or cut was damaged by somebody.

    Parameters
    ----------
    path : Path
        Where it is; written for its owner alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Head | None:
        """Return the head, None if there is none yet.

        Raises
        ------
        ComponentFailure
            It cannot be read, or holds something else.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ComponentFailure(
                f"{self.path}, which tells whether a ledger is the newest, cannot be read ({error.strerror}); ask its "
                "owner for the permission."
            ) from None
        found = re.fullmatch(rb"(\d{20}) ([0-9a-f]{64})\n", content)
        if found is None:
            raise ComponentFailure(
                f"{self.path}, which tells whether a ledger is the newest, is damaged; restore it from a copy, or "
                "delete it if you know that the ledger is the newest."
            )
        return Head(int(found[1]), found[2].decode())

    def write(self, head: Head) -> None:
        """Keep a head (ComponentFailure if it cannot be written)."""
        write_private_line(self.path, f"{head.number:020d} {head.hash}\n".encode())


def head_of(connection: sqlite3.Connection) -> Head:
    """Return the head; number 0 before anything was entered."""
    row = connection.execute("SELECT number, hash FROM links ORDER BY number DESC LIMIT 1").fetchone()
    return Head(0, _START) if row is None else Head(*row)


def on_chain(connection: sqlite3.Connection, seen: Head) -> bool:
    """Tell whether a head is the ledger's, or an ancestor of it."""
    if seen.number == 0:
        return seen.hash == _START
    row = connection.execute("SELECT hash FROM links WHERE number = ?", (seen.number,)).fetchone()
    return row is not None and bool(row[0] == seen.hash)


def append_links(connection: sqlite3.Connection, *populations: str) -> None:
    """Link populations, then all entries that have no link yet, in the order in which they were charged.

    Of a population that is linked already, the next version of its members is.
    """
    at = head_of(connection)
    for name in populations:
        before = "SELECT count(*) FROM links WHERE population = ?"
        (version,) = connection.execute(before, (name,)).fetchone()
        if version:
            found = connection.execute(f"{_MEMBERS} WHERE population = ? AND version = ?", (name, version + 1))
        else:
            found = connection.execute(f"{_POPULATION} WHERE name = ?", (name,))
        at = _add(connection, at, (None, name), ["members" if version else "population", *found.fetchone()])
    last = connection.execute("SELECT entry FROM links WHERE entry IS NOT NULL ORDER BY number DESC LIMIT 1").fetchone()
    rows = connection.execute(
        f"SELECT r.release, {_ENTRY} FROM entries e LEFT JOIN releases r ON r.id = e.release "  # noqa: S608 (our own words)
        "WHERE e.id > ? ORDER BY e.id",
        (0 if last is None else last[0],),
    ).fetchall()
    for text, *entry in rows:
        at = _add(connection, at, (entry[0], None), ["entry", _digest(text), *entry])


def broken_link(connection: sqlite3.Connection) -> str | None:
    """Say what is wrong with the chain, or with a record that it covers; None if nothing is."""
    populations = {row[0]: row for row in connection.execute(_POPULATION)}
    records = {(name, 1): ["population", *row] for name, row in populations.items()}
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'members'").fetchone() is not None:
        records |= {(row[0], row[1]): ["members", *row] for row in connection.execute(_MEMBERS)}
    releases = {number: _digest(text) for number, text in connection.execute("SELECT id, release FROM releases")}
    rows = connection.execute(
        f"SELECT l.number, l.entry, l.population, l.hash, e.release, {_ENTRY} FROM links l "  # noqa: S608 (our own words)
        "LEFT JOIN entries e ON e.id = l.entry ORDER BY l.number"
    )
    at, entries, names = Head(0, _START), 0, Counter[str]()
    for number, entry, name, stated, release, *values in rows:
        if number != at.number + 1:
            return f"link {at.number + 1} of its chain is gone"
        if (entry is None) == (name is None):
            return f"link {number} of its chain was changed after it was written"
        if entry is None:
            names[name] += 1
            record = records.get((name, names[name]))
            if record is None:
                return f"the row of population {name!r} was taken away, or stands in the chain twice"
            hash = _next(at.hash, record)
            who = f"population {name!r}"
        else:
            entries += 1
            if entry != entries or values[0] is None:
                return f"entry {entries} was taken away"
            hash = _next(at.hash, ["entry", releases.get(release), *values])
            who = f"entry {entry} (round {values[3]} of run {values[2]!r}, population {values[1]!r})"
        if hash != stated:
            return f"a value of {who} was changed after it was written"
        at = Head(number, hash)
    (there,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    if there != entries:
        return f"{there} entries are there and {entries} were charged, so another program added some"
    strange = sorted(name for name, version in records if version > names[name])
    if strange:
        return f"population {strange[0]!r} was entered by another program"
    return None


def _add(connection: sqlite3.Connection, at: Head, of: tuple[int | None, str | None], record: Sequence[object]) -> Head:
    then = Head(at.number + 1, _next(at.hash, record))
    connection.execute("INSERT INTO links VALUES (?, ?, ?, ?)", (then.number, *of, then.hash))
    return then


@functools.lru_cache(maxsize=4096)
def _digest(text: str | None) -> str | None:
    """Return the SHA-256 of a release's text, which stands for it in a record."""
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _next(before: str, record: Sequence[object]) -> str:
    return hashlib.sha256(_encoded([before, *record]).encode()).hexdigest()
