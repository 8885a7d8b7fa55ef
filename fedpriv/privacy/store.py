"""The file of a ledger: SQLite, opened so that nothing is lost and nothing is changed by asking.

Commits are durable before they return: ``synchronous=EXTRA`` with a rollback journal that stays in the folder, whose
header is overwritten and flushed to commit. To delete it instead would need the folder flushed as well, without which a
power failure could undo a charge whose release is already out. A write-ahead log is not used because reading it writes
to the folder.

Version 2 says which filter cuts off a population's budget; in version 1 all were Renyi filters. Version 3 guards
populations and releases against changes as entries were before. Version 4 has a chain (:mod:`fedpriv.privacy.chain`).
Version 5 holds the versions of a population's members; a file becomes one when it gets such a version, so that others
stay readable for an earlier fedpriv. An older file is read as it is, and becomes one of the newest version when
something is written to it, unless somebody has seen a chain there: then it is an older copy.

Whatever is asked or written, the chain is followed first, and every head that somebody has seen must be on it: that of
the file beside the ledger (``NAME.head``), those that a run keeps (:meth:`LedgerFile.follow`), and what this object has
seen. A file that has not changed since is not read again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fedpriv.errors import ComponentFailure, FedprivError, InputError
from fedpriv.files import sync_directory
from fedpriv.privacy.chain import LINKS, Head, HeadFile, append_links, broken_link, head_of, on_chain

__all__ = ["LedgerFile"]

_APPLICATION_ID = 0x46504C47  # "FPLG"
_VERSION = 4
_CHAINED_VERSION = 4
_MEMBERS_VERSION = 5

_SCHEMA = """
CREATE TABLE populations (
    name TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    num_tasks INTEGER NOT NULL,
    declared TEXT NOT NULL,
    budget TEXT,
    filter_order REAL,
    filter TEXT
) STRICT;
CREATE TABLE releases (id INTEGER PRIMARY KEY, release TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    population TEXT NOT NULL REFERENCES populations(name),
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    part TEXT NOT NULL,
    release INTEGER NOT NULL REFERENCES releases(id),
    digest TEXT NOT NULL,
    charged_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (population, run, round, part)
) STRICT;
CREATE INDEX tally ON entries (population, run, part, release);
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries are immutable'); END;
CREATE TRIGGER entries_remain BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries are immutable');
END;
"""


def _guards(table: str, key: str) -> tuple[str, ...]:
    """Return the triggers that keep the rows of a table as they were written; the one for INSERT comes last."""
    refused = f"BEGIN SELECT RAISE(ABORT, '{table} are immutable'); END;"
    return (
        f"CREATE TRIGGER {table}_stay BEFORE UPDATE ON {table} {refused}",
        f"CREATE TRIGGER {table}_remain BEFORE DELETE ON {table} {refused}",
        # INSERT OR REPLACE deletes without a word: such triggers do not fire for it.
        f"CREATE TRIGGER {table}_once BEFORE INSERT ON {table} "  # noqa: S608 (our own words)
        f"WHEN NEW.{key} IN (SELECT {key} FROM {table}) {refused}",
    )


_GUARDS_3 = (*_guards("populations", "name"), *_guards("releases", "id"), _guards("entries", "id")[-1])
_GUARDS_4 = _guards("links", "number")
_MEMBERS_TABLE = """\
CREATE TABLE members (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    population TEXT NOT NULL REFERENCES populations(name),
    version INTEGER NOT NULL CHECK (version > 1),
    fingerprint TEXT NOT NULL,
    num_tasks INTEGER NOT NULL,
    entered_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (population, version)
) STRICT;
"""
_GUARDS_5 = _guards("members", "id")
_NEW = (_SCHEMA, *_GUARDS_3, LINKS, *_GUARDS_4)

_TICK_NANOSECONDS = 50_000_000
"""Nanoseconds within which two changes of a file may carry the same time."""


class _VerifiedState(NamedTuple):
    """What the file was when its content was last checked.

    ``counted`` is the number of changes that the kept connection has seen others make; None where there is none.
    """

    state: tuple[int, ...]
    counted: int | None
    at: int


class LedgerFile:
    """A SQLite file with the ledger's schema.

    Parameters
    ----------
    path : Path
        Where it is, or will be once :meth:`create` is called.
    busy_seconds : float
        How long to wait for another process that writes.
    """

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self.path = path
        self.busy_seconds = busy_seconds
        self._kept = threading.local()
        self._seen: Head | None = None
        self._heads = [HeadFile(self._beside(".head"))]

    def create(self) -> None:
        """Create the file if there is none, complete or not at all.

        Raises
        ------
        ComponentFailure
            If the folder cannot be written.
        """
        if self.path.exists():
            return
        for who, seen in self._heads_seen():
            raise ComponentFailure(
                f"ledger {self.path}: there is no such file, and {who} has seen {seen.number} records in it; restore "
                "the ledger: its history would be forgotten."
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            os.close(handle)
            draft = Path(name)
            try:
                with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                    connection.execute("PRAGMA synchronous=EXTRA")
                    connection.executescript(
                        f"BEGIN; PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={_VERSION};"
                        f"{''.join(_NEW)}COMMIT;"
                    )
                # A link fails if somebody else was faster, and then theirs is the ledger.
                with contextlib.suppress(FileExistsError):
                    os.link(draft, self.path)
            finally:
                draft.unlink(missing_ok=True)
            sync_directory(self.path.parent)
        except (OSError, sqlite3.Error) as error:
            raise ComponentFailure(
                f"ledger {self.path}: cannot be created ({error}); choose a writable folder."
            ) from None

    def follow(self, path: Path) -> None:
        """Keep the newest head in a further file, which is checked as the one beside the ledger is."""
        self._heads.append(HeadFile(path))

    def keep_heads(self) -> None:
        """Write the newest head where a crash left an older one, or none; an older ledger has none."""
        with self.write():
            pass

    @contextlib.contextmanager
    def read(self, *, checked: bool = True) -> Iterator[sqlite3.Connection]:
        """Open read-only; neither the file nor its folder changes.

        Parameters
        ----------
        checked : bool
            Whether to refuse a broken chain, and a ledger that is not the newest; only who looks for damage does not.

        Raises
        ------
        InputError
            If there is no file, it is not a ledger, or a newer fedpriv wrote it.
        ComponentFailure
            If it is damaged, stays locked, or may not be read.
        """
        self._recover()
        with self._open("ro") as connection:
            connection.execute("BEGIN")  # All queries of one question see the same state.
            self._verify(connection, chained=checked)
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Open one transaction that holds the write lock; committed at the end, rolled back on any error.

        Raises
        ------
        InputError, ComponentFailure
            As :meth:`read`; also if it may not be written.
        """
        with self._sentences():
            connection = self._kept_writer()
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    self._verify(connection, writes=True)
                    yield connection
                    mine = self._head(connection)
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
                if mine is not None:
                    self._publish(connection, mine)
            except (sqlite3.Error, ComponentFailure):
                self.close()
                raise

    @staticmethod
    def guards(version: int) -> dict[str, str]:
        """Return the triggers that keep rows as they were written in a file of this version: by name, their text."""
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            guards = _GUARDS_3 if version > 2 else ()
            guards += (LINKS, *_GUARDS_4) if version >= _CHAINED_VERSION else ()
            guards += (_MEMBERS_TABLE, *_GUARDS_5) if version >= _MEMBERS_VERSION else ()
            connection.executescript(_SCHEMA + "".join(guards))
            return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))

    def chain_problems(self, connection: sqlite3.Connection) -> Iterator[str]:
        """Yield a sentence if the chain is broken, or the ledger is not the newest: for whoever looks for damage."""
        try:
            self._check_chain(connection)
            self._check_heads(connection)
        except ComponentFailure as error:
            yield str(error).removeprefix(f"ledger {self.path}: ").partition("; restore")[0]

    def close(self) -> None:
        """Let go of the file; the next write opens it again."""
        kept, self._kept.writer, self._kept.known = getattr(self._kept, "writer", None), None, None
        if kept is not None:
            kept[1].close()

    def finish(self) -> None:
        """Let go of the file and take its empty journal away, unless somebody else is writing."""
        with contextlib.suppress(sqlite3.Error, OSError):
            # Never for a file that was put in its place: the journal of that name is not ours.
            writer = self._writer_of(self._state())
            if writer is not None:
                writer.execute("PRAGMA journal_mode=DELETE")
        self.close()

    def _kept_writer(self) -> sqlite3.Connection:
        """Return this thread's connection for writing: opening one takes longer than a charge."""
        self._refuse_missing()
        connection = self._writer_of(self._state())
        if connection is not None:
            return connection
        self.close()
        connection = self._connect("rw")
        try:
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.execute("PRAGMA journal_mode=PERSIST")
            connection.execute("PRAGMA foreign_keys=ON")
        except BaseException:
            connection.close()
            raise
        self._kept.writer = (self._state()[:3], connection)
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.resolve().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=self.busy_seconds)

    @contextlib.contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        self._refuse_missing()
        with self._sentences(), contextlib.closing(self._connect(mode)) as connection:
            yield connection

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        """Say in words what SQLite found wrong."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self._failure(error) from None

    def refuse_read_only(self) -> None:
        """Refuse a file that nobody could charge to, before any work is done for it (ComponentFailure)."""
        if not self._writable():
            raise self._unwritable()

    def _writable(self) -> bool:
        """Tell whether all that a charge writes to may be written."""
        heads = (one.path for one in self._heads)
        places = [self.path, self._beside("-journal"), *heads, self.path.resolve().parent]
        return all(_may(place, os.W_OK) for place in places if place.exists())

    def _beside(self, ending: str) -> Path:
        return Path(f"{self.path.resolve()}{ending}")

    @staticmethod
    def upgrade(connection: sqlite3.Connection) -> None:
        """Bring an open file to the newest version, as part of the transaction at work.

        That an older file is not an older copy of a chained one was checked when it was opened.
        """
        version = _version(connection)
        if version < 2:
            connection.execute("ALTER TABLE populations ADD COLUMN filter TEXT")
            connection.execute("UPDATE populations SET filter = 'renyi' WHERE budget IS NOT NULL")
        if version < 3:
            for guard in _GUARDS_3:
                connection.execute(guard)
        if version < _CHAINED_VERSION:
            for statement in (LINKS, *_GUARDS_4):
                connection.execute(statement)
            names = connection.execute("SELECT name FROM populations ORDER BY name").fetchall()
            append_links(connection, *(name for (name,) in names))
        if version < _VERSION:
            connection.execute(f"PRAGMA user_version={_VERSION}")

    @classmethod
    def add_members(cls, connection: sqlite3.Connection) -> None:
        """Make room for versions of members, as part of the transaction at work."""
        cls.upgrade(connection)
        if _version(connection) < _MEMBERS_VERSION:
            for statement in (_MEMBERS_TABLE, *_GUARDS_5, f"PRAGMA user_version={_MEMBERS_VERSION}"):
                connection.execute(statement)

    def _refuse_missing(self) -> None:
        if not self.path.is_file():
            raise InputError(
                f"ledger {self.path}: there is no such file; check the path, or register a population first."
            )
        if self.path.stat().st_size == 0:
            raise ComponentFailure(
                f"ledger {self.path}: the file is empty, so its history is lost; restore it from a backup."
            )

    def _verify(self, connection: sqlite3.Connection, *, writes: bool = False, chained: bool = True) -> None:
        """Check what the file is, under its lock: its whole content if it changed, the header and the heads always."""
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = _version(connection)
        if application != _APPLICATION_ID:
            raise InputError(f"ledger {self.path}: this is a database, but not a fedpriv ledger; check the path.")
        if version < 1:
            raise self._damaged(f"version {version}, which no fedpriv ever wrote")
        if version > _MEMBERS_VERSION:
            raise InputError(
                f"ledger {self.path}: version {version} is newer than version {_MEMBERS_VERSION}, which this fedpriv "
                "knows; upgrade fedpriv."
            )
        if not chained:
            self._check_content(connection)
            return
        state, at = self._state(), time.time_ns()
        writer = connection if writes else self._writer_of(state)
        counted = None if writer is None else writer.execute("PRAGMA data_version").fetchone()[0]
        if not self._unchanged(_VerifiedState(state, counted, at)):
            self._check_content(connection)
            self._check_chain(connection)
            self._kept.known = _VerifiedState(state, counted, at)
        self._check_heads(connection)

    def _unchanged(self, now: _VerifiedState) -> bool:
        """Tell whether nobody but this object changed the file since it was checked."""
        before: _VerifiedState | None = getattr(self._kept, "known", None)
        if before is None or before.state != now.state:
            return False
        if now.counted is not None:  # SQLite says whether another connection wrote
            return before.counted == now.counted
        return (
            before.at - max(before.state[-2:]) > _TICK_NANOSECONDS
        )  # else a change in the same tick of the clock would not show

    def _check_content(self, connection: sqlite3.Connection) -> None:
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        size = self.path.stat().st_size
        if size % page:
            raise self._damaged(f"{size} bytes are not whole pages of {page}, so it was cut")
        # Of indexes, too: sums are read from them alone.
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(found)

    def _check_chain(self, connection: sqlite3.Connection) -> None:
        """Refuse a ledger of which any value was changed."""
        if self._head(connection) is None:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'links'").fetchone() is not None:
                raise self._changed("its version was set back, so somebody changed it with another program")
            return
        problem = broken_link(connection)
        if problem is not None:
            raise self._changed(problem)

    def _check_heads(self, connection: sqlite3.Connection) -> None:
        """Refuse a ledger that does not go on from what somebody has seen of it."""
        now = self._head(connection)
        for who, seen in self._heads_seen():
            if now is None:
                raise self._changed(
                    f"it is of an older version, and {who} has seen it with a chain of {seen.number} records, so an "
                    "older copy was put back",
                    "the newer ledger",
                )
            if not on_chain(connection, seen):
                found = (
                    f"it holds {now.number} records, and {who} has seen {seen.number}, so an older copy was put back"
                    if now.number < seen.number
                    else f"record {seen.number} is not the one that {who} has seen, so another ledger was put in place"
                )
                raise self._changed(found, "the newer ledger")
        if now is not None and (self._seen is None or self._seen.number < now.number):
            self._seen = now

    def _heads_seen(self) -> Iterator[tuple[str, Head]]:
        """Yield who has seen which head."""
        if self._seen is not None:
            yield "this process", self._seen
        for file in self._heads:
            seen = file.read()
            if seen is not None:
                yield str(file.path), seen

    def _publish(self, connection: sqlite3.Connection, mine: Head) -> None:
        """Write the newest head, which may be another process's by now, under the lock: never an older one."""
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise ComponentFailure(
                f"ledger {self.path}: what was charged stays, but its head could not be kept ({error}): another "
                "process has been writing for too long; wait for it to end, then go on."
            ) from None
        try:
            newest = head_of(connection)
            for file in self._heads:
                if newest.number and file.read() != newest:
                    file.write(newest)
            if newest == mine:  # else somebody wrote in between, and the next one to ask reads it all
                counted = connection.execute("PRAGMA data_version").fetchone()[0]
                self._kept.known = _VerifiedState(self._state(), counted, time.time_ns())
            self._seen = newest
        finally:
            connection.execute("ROLLBACK")

    @staticmethod
    def _head(connection: sqlite3.Connection) -> Head | None:
        """Return the head; None in a file of before there was a chain."""
        return head_of(connection) if _version(connection) >= _CHAINED_VERSION else None

    def _state(self) -> tuple[int, ...]:
        """Return what changes whenever the file does: first three numbers for process and file, last the times."""
        found = self.path.stat()
        return os.getpid(), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _writer_of(self, state: tuple[int, ...]) -> sqlite3.Connection | None:
        """Return this thread's connection for writing, unless a fork came since, or the file was replaced."""
        kept = getattr(self._kept, "writer", None)
        return None if kept is None or kept[0] != state[:3] else kept[1]

    def _recover(self) -> None:
        """Let SQLite roll back what a killed writer left: a read-only connection may not do that itself."""
        journal = self._beside("-journal")
        if journal.exists() and not _may(journal, os.R_OK):
            raise self._unreadable()
        if journal.exists() and any(_first_bytes(journal)):  # zeros mark what was committed
            with self._open("rw") as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")

    def _failure(self, error: sqlite3.DatabaseError) -> FedprivError:
        """Say what an error of SQLite means, by its primary code."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return ComponentFailure(
                f"ledger {self.path}: another process has been writing for more than "
                f"{self.busy_seconds:g} s; wait for it to end, then go on (nothing more was charged)."
            )
        if code == sqlite3.SQLITE_FULL:
            return ComponentFailure(
                f"ledger {self.path}: the disk is full; make room, then go on (nothing more was charged)."
            )
        if not _may(self.path, os.R_OK):
            return self._unreadable()
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return self._unwritable()
        if code == sqlite3.SQLITE_IOERR:
            if not self._writable():  # also what SQLite says when the journal beside the file may not be changed
                return self._unwritable()
            return ComponentFailure(
                f"ledger {self.path}: the disk failed ({error}); see to it, then go on: what was charged before stays."
            )
        return self._damaged(error)

    def _unreadable(self) -> ComponentFailure:
        return ComponentFailure(
            f"ledger {self.path}: the file, or the journal beside it, may not be read by this user; ask its owner for "
            "the permission."
        )

    def _unwritable(self) -> ComponentFailure:
        return ComponentFailure(
            f"ledger {self.path}: the file or its folder is read-only, so nothing can be charged to it; make both "
            "writable, then start again."
        )

    def _changed(self, found: str, what: str = "it from a backup") -> ComponentFailure:
        return ComponentFailure(f"ledger {self.path}: {found}; restore {what}, or what was released is under-counted.")

    def _damaged(self, cause: object) -> ComponentFailure:
        return ComponentFailure(
            f"ledger {self.path}: the file is damaged or not a ledger ({cause}); restore it from a backup. "
            "It is never recreated, because the budget that it records would be forgotten."
        )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)
