"""Who reads along in a run, and what is seen: the one seam between a strategy at work and those who attack it.

An observer is passive: it gets copies, after the round was published, so a run is the same, bit by bit, with it and
without.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedpriv.protocol import Billboards, Reply

__all__ = ["Observer", "Sighting"]

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sighting:
    """What the server saw in one round, before it added any noise; noise of the nodes is in it.

    Attributes
    ----------
    round : int
        Number of the round.
    kind : {"rows", "sum"}
        A row of every task, or one clipped sum per node over the tasks that it trained.
    billboards : dict
        Per group, what was published for this round.
    tasks : dict
        Per group, ids of the tasks behind the rows, int64 [k]. For sums: of all who were asked, which the server knows.
    updates : dict
        Per group, rows [k, ...], or sums [nodes, ...].
    folder : Path or None
        The run's folder, for observers that keep something; None without one.
    """

    round: int
    kind: Literal["rows", "sum"]
    billboards: Billboards
    tasks: dict[str, Ids]
    updates: Billboards
    folder: Path | None = None

    @classmethod
    def of(
        cls,
        number: int,
        kind: Literal["rows", "sum"],
        billboards: Billboards,
        sampled: Mapping[str, Ids],
        replies: Iterable[Reply],
        folder: Path | None,
    ) -> Sighting:
        """Copy what the replies of a round hold; what cannot be read as an update of the billboard is left out.

        ``sampled`` holds who was asked, by group; the other parameters are the attributes of the same names.
        """
        answers = list(replies)
        updates: Billboards = {}
        tasks: dict[str, Ids] = {}
        for group, like in billboards.items():
            parts = [one.updates[group] for one in answers if set(like) <= set(one.updates.get(group, ()))]
            ids = [one.tasks[group] for one in answers if group in one.tasks and group in one.updates]
            tasks[group] = np.concatenate(ids) if kind == "rows" and ids else sampled[group].copy()
            updates[group] = {name: _joined([part[name] for part in parts], kind) for name in like} if parts else {}
        shown = {group: {name: value.copy() for name, value in one.items()} for group, one in billboards.items()}
        return cls(number, kind, shown, tasks, updates, folder)


class Observer(Protocol):
    """Somebody who reads along in some rounds; see :meth:`fedpriv.strategies.base.TaskStrategy.observed_by`."""

    @property
    def rounds(self) -> Collection[int]:
        """In which rounds, from 1."""

    def see(self, sighting: Sighting) -> None:
        """Take in what was seen in one of these rounds; an error that it raises stops the run."""


def _joined(parts: list[NDArray[Any]], kind: str) -> NDArray[Any]:
    return np.concatenate(parts) if kind == "rows" else np.stack(parts)
