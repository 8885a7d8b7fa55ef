"""Personal states of the tasks of one node. They never leave it, except into the run's private checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedpriv.cohort import State

__all__ = ["StateStore"]

Positions = NDArray[np.int64]


class StateStore:
    """Stacked states with a leading axis over the node's tasks, grown when a name first appears.

    Attributes
    ----------
    present : ndarray of bool, shape [m]
        Tasks that took part and so have a state.
    participations, work : ndarray of int64, shape [m]
        How often each task took part, and its per-example gradient evaluations so far.
    granted : dict
        Per kind of release (as JSON), how often each task granted it, int64 [m]: the node's own privacy account.
    """

    def __init__(self, num_tasks: int) -> None:
        self.present = np.zeros(num_tasks, dtype=bool)
        self.participations = np.zeros(num_tasks, dtype=np.int64)
        self.work = np.zeros(num_tasks, dtype=np.int64)
        self.granted: dict[str, NDArray[np.int64]] = {}
        self._values: State = {}

    def grants(self, kind: str) -> NDArray[np.int64]:
        """Return how often each task granted one kind of release, shape [m]; writable."""
        return self.granted.setdefault(kind, np.zeros(len(self.present), dtype=np.int64))

    def read(self, positions: Positions, fresh: State) -> State:
        """Return the states of some tasks; those that never took part get theirs from ``fresh`` [C, ...]."""
        known = torch.from_numpy(self.present[positions])
        index = torch.from_numpy(positions)
        state = dict(fresh)
        for name, values in self._values.items():
            mine = values[index]
            if name in fresh and not known.all():
                mine = torch.where(known.view(-1, *[1] * (mine.dim() - 1)), mine, fresh[name])
            state[name] = mine
        return state

    def write(self, positions: Positions, state: State) -> None:
        """Keep the states [C, ...] of some tasks."""
        index = torch.from_numpy(positions)
        for name, values in state.items():
            if name not in self._values:
                # NaN where a task never got a value: a failed fit must not look like a model of zeros.
                blank = torch.nan if values.is_floating_point() else 0
                self._values[name] = torch.full((len(self.present), *values.shape[1:]), blank, dtype=values.dtype)
            self._values[name][index] = values
        self.present[positions] = True

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays with a leading task axis, for a checkpoint."""
        counters = {"present": self.present, "participations": self.participations, "work": self.work}
        granted = {f"granted/{kind}": counts for kind, counts in self.granted.items()}
        return {
            **counters,
            **granted,
            **{f"state/{name}": value.numpy() for name, value in self._values.items()},
        }

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what :meth:`arrays` returned."""
        self.present = arrays["present"].astype(bool)
        self.participations = arrays["participations"].astype(np.int64)
        self.work = arrays["work"].astype(np.int64)
        self.granted = {
            name.removeprefix("granted/"): value.astype(np.int64)
            for name, value in arrays.items()
            if name.startswith("granted/")
        }
        self._values = {
            name.removeprefix("state/"): torch.from_numpy(np.array(value))
            for name, value in arrays.items()
            if name.startswith("state/")
        }
