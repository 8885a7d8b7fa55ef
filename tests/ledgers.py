"""Ledgers that no fedpriv wrote: changed by hand, forged with every hash made anew, or of an earlier version."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from fedpriv.privacy.chain import append_links

__all__ = ["alter", "forge", "make_older"]


def alter(path: Path, *statements: str) -> None:
    """Change a ledger as no fedpriv does, with no trigger in the way."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in triggers:
            connection.execute(sql)
        connection.commit()


def forge(path: Path, *statements: str) -> None:
    """Change a ledger, make its chain anew, and delete all heads: only what is said elsewhere can find it."""
    alter(path, *statements, "DELETE FROM links")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM populations ORDER BY name").fetchall()
        append_links(connection, *(name for (name,) in names))
        connection.commit()
    path.with_name(f"{path.name}.head").unlink(missing_ok=True)
    for head in path.parent.glob("**/checkpoints/ledger.head"):
        head.unlink()


def make_older(path: Path, version: int) -> None:
    """Turn a ledger into one of version 1, 2 or 3, as the fedpriv of that version wrote it."""
    guards = [(table, what) for table in ("populations", "releases") for what in ("stay", "remain", "once")]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE links")
        if version < 3:
            for table, what in [*guards, ("entries", "once")]:
                connection.execute(f"DROP TRIGGER {table}_{what}")
        if version < 2:
            connection.execute("ALTER TABLE populations DROP COLUMN filter")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    path.with_name(f"{path.name}.head").unlink(missing_ok=True)
