"""The order of mini-batches: drawn per task from its own stream, so sharding and order do not matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpriv.cohort.cohort import padded_width
from fedpriv.cohort.randomness import Key
from fedpriv.errors import InputError

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Which examples every task uses in every step.

    Attributes
    ----------
    index : ndarray of int64, shape [C, S, b]
        Example numbers within each task; -1 is padding. A task that has fewer steps than S rests at the end.
    """

    index: NDArray[np.int64]

    @property
    def evaluations(self) -> NDArray[np.int64]:
        """Per-example gradient evaluations of every task, shape [C]: the unit of equal local compute."""
        counted: NDArray[np.int64] = (self.index >= 0).sum(axis=(1, 2))
        return counted

    def among(self, examples: NDArray[np.int64]) -> Schedule:
        """Return the schedule with its numbers looked up in the examples [C, n] of each task."""
        flat = self.index.reshape(len(self.index), -1)
        found = np.where(flat >= 0, np.take_along_axis(examples, np.maximum(flat, 0), axis=1), -1)
        return Schedule(found.reshape(self.index.shape))

    @classmethod
    def draw(
        cls,
        sizes: NDArray[np.int64],
        ids: NDArray[np.int64],
        key: Key,
        *,
        batch_size: int,
        epochs: int | NDArray[np.int64] | None = None,
        steps: int | None = None,
        room: int | None = None,
    ) -> Schedule:
        """Shuffle each task's examples and cut them into mini-batches, epoch by epoch.

        Parameters
        ----------
        sizes, ids : ndarray of int64, shape [C]
            Number of examples and population id of every task.
        key : Key
            The stream; the task id completes it.
        batch_size : int
            Largest mini-batch. The last one of an epoch may be smaller, as with a PyTorch ``DataLoader``.
        epochs : int or ndarray of int64, shape [C]
            Passes over the data, for all tasks or one number each.
        steps : int
            Number of mini-batches instead of epochs: as many reshuffled epochs as needed, cut after ``steps``.
        room : int or None
            Places of the largest task, where ``sizes`` count part of its examples; None for the sizes themselves.

        Raises
        ------
        InputError
            Not exactly one of ``epochs`` and ``steps`` is given.
        """
        if (epochs is None) == (steps is None):
            raise InputError(f"give either epochs or steps, got epochs={epochs} and steps={steps}; leave one out.")
        per_epoch = -(-sizes // batch_size)
        if steps is not None:
            counts = np.where(sizes > 0, steps, 0)
        else:
            counts = per_epoch * np.asarray(epochs, dtype=np.int64)
        width = min(batch_size, int(padded_width(sizes).max(initial=1)) if room is None else room)
        index = np.full((len(sizes), int(counts.max(initial=0)), width), -1, dtype=np.int64)
        places = index.reshape(len(sizes), -1)
        rows = zip(places, sizes.tolist(), per_epoch.tolist(), counts.tolist(), strict=True)
        for (row, size, batches, wanted), generator in zip(rows, key.generators(ids.tolist()), strict=True):
            for first in range(0, wanted, max(batches, 1)):
                # An epoch ends with its last, smaller batch; the run may end within an epoch.
                taken = min(size, (wanted - first) * width)
                row[first * width : first * width + taken] = generator.permutation(size)[:taken]
        return cls(index)
