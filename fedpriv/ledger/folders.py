"""Run folders beside a ledger: what they published, and who took part. Reading changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.errors import InputError
from fedpriv.privacy.individual import Participants
from fedpriv.privacy.journal import Boundary
from fedpriv.privacy.ledger import Entry
from fedpriv.runs import BoundaryStore, read_config
from fedpriv.runs.checkpoint import read_counts

__all__ = ["Folder"]


@dataclass(frozen=True)
class Folder:
    """One run folder.

    Attributes
    ----------
    path : Path
        Where it is.
    run : str
        Its name in the ledger.
    """

    path: Path
    run: str

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Find a run in a folder.

        Raises
        ------
        InputError
            There is none.
        """
        name = path / "checkpoints" / "run-id"
        if not name.exists():
            raise InputError(f"{path} is not a run folder with checkpoints; give the --out of a run.")
        return cls(path, name.read_text())

    @property
    def _store(self) -> BoundaryStore:
        return BoundaryStore(self.path / "checkpoints")

    def ledger(self) -> tuple[Path, str | None] | None:
        """Return the ledger of the run and the population there (None: its only one); None if it has no ledger yet."""
        own = self.path / "ledger.sqlite"
        if (self.path / "summary.json").exists():
            found = json.loads((self.path / "summary.json").read_text())["ledger"]
            return (own if own.exists() else Path(found["path"])), str(found["population"])
        if own.exists():
            return own, None
        run = read_config(self.path).get("run", {})
        return (Path(run["ledger"]), str(run["population"])) if "ledger" in run and "population" in run else None

    def participants(self, charged: dict[tuple[int, str], Entry], num_tasks: int) -> Participants:
        """Return who took part, as far as the checkpoints say and the ledger knows the same draw."""
        store = self._store
        rounds = [number for number in store.rounds() if number > 0]
        snapshot = max((one for one in store.snapshots() if one <= max(rounds, default=0)), default=0)
        asked, limited = {}, None
        for number in rounds:
            boundary = store.load(number)
            if not boundary.charged_by(_entries(boundary, charged)):
                continue
            if number > snapshot:  # the counts hold the others
                asked[number] = boundary.sampled
            if boundary.participations:
                limited = boundary.participations["counts"].astype(np.int64)
        counts = read_counts(store.directory, snapshot, num_tasks) if snapshot else None
        return Participants(asked, counts, snapshot, limited, max(rounds, default=0))

    def problems(self, entries: list[Entry], fingerprint: str) -> Iterator[str]:
        """Yield a sentence for everything published here that the ledger does not hold."""
        store = self._store
        charged = {(one.round, one.group): one for one in entries}
        rounds = store.rounds()
        stated = read_config(self.path).get("data", {}).get("fingerprint", fingerprint)
        if stated != fingerprint:
            yield f"{self.path} is a run on other tasks: their fingerprint is {stated!r}, the ledger's {fingerprint!r}"
        if not rounds or not _publishes(self.path):
            return
        last = store.load(rounds[-1])
        missing = [
            number
            for number in range(1, last.round + 1)
            if any((number, group) not in charged for group in last.billboards)
        ]
        if missing:
            yield (
                f"{self.path} has published {last.round} rounds and the ledger does not hold round {missing[0]}"
                f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: what was released is under-counted"
            )
        for number in rounds:
            if not number or number in missing:
                continue
            boundary = store.load(number)
            if not boundary.charged_by(_entries(boundary, charged)):
                yield f"the ledger was charged for another draw than {self.path} published in round {number}"

    def notes(self, entries: list[Entry]) -> Iterator[str]:
        """Yield a sentence for what was charged and not published."""
        store = self._store
        last, pending = max(store.rounds(), default=0), store.pending()
        ahead = sorted({one.round for one in entries if one.round > last})
        if pending is not None and pending.round in ahead:
            yield f"round {pending.round} was charged and not published yet; --resume reads it back"
        elif ahead:
            yield f"round {ahead[0]} was charged and never published: the budget is over-charged by {len(ahead)}"


def _entries(boundary: Boundary, charged: dict[tuple[int, str], Entry]) -> list[Entry]:
    return [charged[key] for group in boundary.billboards if (key := (boundary.round, group)) in charged]


def _publishes(path: Path) -> bool:
    strategy: dict[str, Any] = read_config(path).get("strategy", {})
    return strategy.get("name") != "silent"
