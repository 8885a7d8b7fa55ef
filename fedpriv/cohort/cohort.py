"""A cohort: tasks that are worked on together, as tensors with a leading task axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.cohort.tasks import PARTS, Part, Tasks

__all__ = ["Batch", "Cohort", "Marks", "padded_width"]


def padded_width(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of places that tasks of these sizes are padded to: the next power of two, at least 1."""
    found: NDArray[np.int64] = 1 << np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
    return found


@dataclass(frozen=True)
class Marks:
    """Which places of a batch hold an example; what follows from it is computed once for all batches alike.

    Attributes
    ----------
    mask : Tensor, shape [C, n], floating
        1 for a real example, 0 for padding.
    full : bool
        Whether it is known that there is no padding; False if not known.
    """

    mask: Tensor = field(repr=False)
    full: bool = False

    @cached_property
    def sizes(self) -> Tensor:
        """Real examples of every task, shape [C], floating."""
        return self.mask.sum(dim=1)

    @cached_property
    def share(self) -> Tensor:
        """Weight of every example in its task's mean, shape [C, n]; 0 for padding."""
        return self.mask / self.sizes.clamp(min=1.0).unsqueeze(1)

    @cached_property
    def padding(self) -> Tensor | None:
        """True for padding, shape [C, n]; None if there is none."""
        if self.full:
            return None
        padding = self.mask == 0
        return padding if bool(padding.any()) else None

    @cached_property
    def resting(self) -> Tensor | None:
        """True for tasks without an example, shape [C]; None if there are none."""
        if self.full:
            return None
        resting = self.sizes == 0
        return resting if bool(resting.any()) else None


@dataclass(frozen=True, repr=False)
class Batch:
    """Padded examples of C tasks.

    Attributes
    ----------
    inputs : Tensor, shape [C, n, ...], floating or int64
        Examples, of the kind that the tasks hold. Padding is an example of the task itself, with weight 0: zeros are no
        example, and what a model makes of them may be NaN. Of another task nothing can get in.
    targets : Tensor, shape [C, n] (int64 classes) or [C, n, ...] (floating values)
        What to predict.
    marks : Marks
        Which places hold an example.
    """

    inputs: Tensor
    targets: Tensor
    marks: Marks

    def __repr__(self) -> str:
        return f"Batch(inputs {tuple(self.inputs.shape)} {self.inputs.dtype}, targets {tuple(self.targets.shape)})"

    @property
    def mask(self) -> Tensor:
        """1 for a real example, 0 for padding, shape [C, n], floating."""
        return self.marks.mask

    @property
    def sizes(self) -> Tensor:
        """Real examples of every task, shape [C], floating."""
        return self.marks.sizes

    def cleared(self) -> Batch:
        """Return the same with zeros in the place of padding, for sums over examples that look at no mask."""
        padding = self.marks.padding
        if padding is None:
            return self
        inputs, targets = self.inputs.clone(), self.targets.clone()
        inputs[padding], targets[padding] = 0, 0
        return Batch(inputs, targets, self.marks)


@dataclass(frozen=True, repr=False)
class Cohort:
    """Some tasks of a shard, in a fixed order.

    Attributes
    ----------
    tasks : Tasks
        The shard that holds the data.
    positions : ndarray of int64, shape [C]
        Positions within ``tasks``.
    dtype : torch.dtype
        Floating type of what is handed out; whole numbers are int64, inputs and classes alike.
    """

    tasks: Tasks
    positions: NDArray[np.int64]
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        return f"Cohort({len(self)} of {self.tasks!r}, {self.dtype})"

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Ids within the whole population, shape [C]."""
        return self.positions + self.tasks.first

    def sizes(self, part: Part) -> NDArray[np.int64]:
        """Examples of every task in one part, shape [C]."""
        return self.tasks.part(part).sizes[self.positions]

    @cached_property
    def _without(self) -> dict[Part, NDArray[np.intp]]:
        """Places of the tasks that have no example in a part."""
        return {part: np.flatnonzero(self.sizes(part) == 0) for part in PARTS}

    def one(self, position: int) -> Cohort:
        """Return the cohort of one task."""
        return Cohort(self.tasks, self.positions[position : position + 1], self.dtype)

    def subset(self, which: NDArray[np.int64]) -> Cohort:
        """Return the cohort of some of these tasks."""
        return Cohort(self.tasks, self.positions[which], self.dtype)

    def part(self, part: Part) -> Batch:
        """Return all examples of one part, padded to the width of the largest task of the cohort."""
        width = int(padded_width(self.sizes(part)).max(initial=1))
        index = np.broadcast_to(np.arange(width), (len(self), width))
        index = np.where(index < self.sizes(part)[:, None], index, -1)
        return next(self.batches(index[:, None], part))

    def batches(self, index: NDArray[np.int64], part: Part = "train") -> Iterator[Batch]:
        """Gather examples by their number within each task, one mini-batch after the other.

        Parameters
        ----------
        index : ndarray of int64, shape [C, S, b]
            Example numbers of S mini-batches; -1 is padding.
        part : {"train", "validation", "test"}
            Where to gather from.
        """
        data = self.tasks.part(part)
        for rows, targets, marks in self.marked(index, part):
            yield Batch(self._own(data.inputs, rows, part), targets, marks)

    def marked(
        self, index: NDArray[np.int64], part: Part = "train"
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Marks]]:
        """Gather all of a mini-batch but its inputs: rows in the shard's data [C, b], targets, marks.

        Padding has the row and the target of the mini-batch's first example; of the task's first one where it rests.
        Parameters are those of :meth:`batches`.
        """
        data = self.tasks.part(part)
        index = np.ascontiguousarray(index.swapaxes(0, 1))  # [S, C, b]
        real = index >= 0
        full: NDArray[np.bool_] = np.all(real, axis=(1, 2))
        if not full.all():
            first = np.take_along_axis(index, real.argmax(axis=2)[..., None], axis=2)
            index = np.where(real, index, np.maximum(first, 0))
        rows = index + data.offsets[self.positions][:, None]
        everywhere = Marks(torch.ones(index.shape[1:], dtype=self.dtype), full=True)
        for step in range(len(index)):
            targets = self._own(data.targets, rows[step], part)
            if full[step]:
                yield rows[step], targets, everywhere
            else:
                yield rows[step], targets, Marks(torch.from_numpy(real[step]).to(self.dtype))

    def _own(self, values: NDArray[Any], rows: NDArray[np.int64], part: Part) -> Tensor:
        """Gather rows [C, b] of a part's inputs or targets; a task without examples there gets its first elsewhere."""
        without = self._without[part]
        if not len(without):
            return _taken(values, rows, self.dtype)
        # Its rows are those of the next task, which would decide with its own values what becomes of this one.
        data = self.tasks.part(part)
        rows = np.array(rows)
        rows[without] = 0
        found = _taken(values, rows, self.dtype)
        for task in without.tolist():
            found[task] = 0  # a task that has no example at all
            for other in map(self.tasks.part, PARTS):
                mine = other.rows(int(self.positions[task]))
                if mine.stop > mine.start:
                    first = (other.inputs if values is data.inputs else other.targets)[mine.start]
                    found[task] = torch.as_tensor(first, dtype=found.dtype)
                    break
        return found


def _taken(values: NDArray[Any], rows: NDArray[np.int64], dtype: torch.dtype) -> Tensor:
    """Return rows of floats in ``dtype``, of whole numbers as int64."""
    whole = values.dtype.kind != "f"
    dtype = torch.int64 if whole else dtype
    if not len(values):  # a part without a single example: padding only
        return torch.zeros((*rows.shape, *values.shape[1:]), dtype=dtype)
    taken = values.take(rows, axis=0)
    if whole:
        taken = taken.astype(np.int64, copy=False)
    found = torch.from_numpy(taken)
    return found if found.dtype == dtype else found.to(dtype)  # asking is cheaper than a call that does nothing
