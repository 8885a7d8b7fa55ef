"""Personal states of the tasks of one node. They never leave it, except into the run's private checkpoints.

Memory follows the tasks that took part, not those that are registered: rows are pages that cost nothing until they are
written. Past a bound the rows live in a memory-mapped file, whose pages the system may drop, instead of in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.cohort import State

if TYPE_CHECKING:
    from fedpriv.runs.checkpoint import Block

__all__ = ["StateStore"]

Positions = NDArray[np.int64]

_BLOCK_BYTES = 32 * 2**20
"""Rows of one block of a checkpoint: what is copied into memory at a time."""


class StateStore:
    """Stacked states with a leading axis over the node's tasks, made when a name first appears.

    Parameters
    ----------
    num_tasks : int
        Number of the node's tasks, m.
    memory_bytes : float
        Bound of the rows in memory; further names get a file in the system's temporary folder (``TMPDIR``), which
        nobody else can open and which is gone with the process.

    Attributes
    ----------
    present : ndarray of bool, shape [m]
        Tasks that took part and so have a state.
    participations, work : ndarray of int64, shape [m]
        How often each task took part, and its per-example gradient evaluations so far.
    granted : dict
        Per kind of release (as JSON), how often each task granted it, int64 [m]: the node's own privacy account.
    last_granted : dict
        Per kind of release with limits of participation, the last round in which each task granted it, int64 [m].
    spilled : list of str
        Names whose rows live in a file.
    """

    def __init__(self, num_tasks: int, memory_bytes: float = 4 * 2**30) -> None:
        self.present = np.zeros(num_tasks, dtype=bool)
        self.participations = np.zeros(num_tasks, dtype=np.int64)
        self.work = np.zeros(num_tasks, dtype=np.int64)
        self.granted: dict[str, NDArray[np.int64]] = {}
        self.last_granted: dict[str, NDArray[np.int64]] = {}
        self.spilled: list[str] = []
        self._memory_bytes = self._left = memory_bytes
        self._values: State = {}
        self._known: dict[str, NDArray[np.bool_]] = {}

    def grants(self, kind: str) -> NDArray[np.int64]:
        """Return how often each task granted one kind of release, shape [m]; writable."""
        return self.granted.setdefault(kind, np.zeros(len(self.present), dtype=np.int64))

    def last_grants(self, kind: str) -> NDArray[np.int64]:
        """Return in which round each task granted a kind of release last, shape [m]; writable."""
        return self.last_granted.setdefault(kind, np.zeros(len(self.present), dtype=np.int64))

    def read(self, positions: Positions, fresh: State) -> State:
        """Return the states of some tasks; what a task never got comes from ``fresh`` [C, ...], or is NaN."""
        index = torch.from_numpy(positions)
        state = dict(fresh)
        for name, values in self._values.items():
            mine, known = values[index], self._known[name][positions]
            if not known.all():
                missing = torch.from_numpy(np.flatnonzero(~known))
                # A failed fit must not look like a model of zeros.
                mine[missing] = fresh[name][missing] if name in fresh else _blank(mine)
            state[name] = mine
        return state

    def write(self, positions: Positions, state: State) -> None:
        """Keep the states [C, ...] of some tasks."""
        for name, values in state.items():
            self._put(name, positions, values)
        self.present[positions] = True

    def forget_states(self) -> None:
        """Forget all personal states; what tasks granted, and how often they took part, stays counted."""
        self._values, self._known, self.spilled, self._left = {}, {}, [], self._memory_bytes
        self.present[:] = False
        self.work[:] = 0

    # --- checkpoints -------------------------------------------------------------------------------------------

    def blocks(self) -> Iterator[Block]:
        """Yield everything in pieces that fit into memory, for a checkpoint."""
        everybody = np.arange(len(self.present), dtype=np.int64)
        counters = {"present": self.present, "participations": self.participations, "work": self.work}
        counters |= {f"granted/{kind}": counts for kind, counts in self.granted.items()}
        counters |= {f"last_granted/{kind}": rounds for kind, rounds in self.last_granted.items()}
        for name, counts in counters.items():
            yield name, everybody, counts
        for name, values in self._values.items():
            positions = np.flatnonzero(self._known[name])
            step = max(1, _BLOCK_BYTES // max(1, values[:1].nbytes))
            for start in range(0, len(positions), step):
                some = positions[start : start + step]
                yield f"state/{name}", some, values[torch.from_numpy(some)].numpy()

    def restore(self, blocks: Iterable[Block]) -> None:
        """Take over what :meth:`blocks` gave; positions of other nodes' tasks are left out."""
        for name, positions, rows in blocks:
            mine = (positions >= 0) & (positions < len(self.present))
            if not mine.all():
                positions, rows = positions[mine], rows[mine]
            kind, _, rest = name.partition("/")
            if kind == "state":
                self._put(rest, positions, torch.from_numpy(np.array(rows)))
            elif kind == "granted":
                self.grants(rest)[positions] = rows
            elif kind == "last_granted":
                self.last_grants(rest)[positions] = rows
            else:
                getattr(self, name)[positions] = rows

    def _put(self, name: str, positions: Positions, rows: Tensor) -> None:
        if name not in self._values:
            self._make(name, tuple(rows.shape[1:]), rows.dtype)
        self._values[name][torch.from_numpy(positions)] = rows
        self._known[name][positions] = True

    def _make(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        whole = (len(self.present), *shape)
        size = int(np.prod(whole, dtype=np.int64)) * kind.itemsize
        if size <= self._left:
            self._left -= size
            # numpy's zeros are pages of the system, untouched until written; torch's would be filled.
            self._values[name] = torch.from_numpy(np.zeros(whole, dtype=kind))
        else:
            self.spilled.append(name)
            with tempfile.TemporaryFile(prefix="fedpriv-states-") as file:  # has no name: gone with the process
                self._values[name] = torch.from_numpy(np.memmap(file, dtype=kind, mode="w+", shape=whole))
        self._known[name] = np.zeros(len(self.present), dtype=bool)


def _blank(like: Tensor) -> Tensor:
    return torch.tensor(torch.nan if like.is_floating_point() else 0, dtype=like.dtype)
