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

from fedpriv.cohort.tasks import Part, Tasks

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
        Examples, of the kind that the tasks hold; padding is zero, so that nothing of another task can get in.
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
            inputs = _taken(data.inputs, rows, self.dtype)
            if marks.padding is not None:
                # Row 0 stood in for padding: it belongs to another task, and 0 * inf is NaN, so a mask is not enough.
                inputs[marks.padding] = 0
            yield Batch(inputs, targets, marks)

    def marked(
        self, index: NDArray[np.int64], part: Part = "train"
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Marks]]:
        """Gather all of a mini-batch but its inputs: rows in the shard's data [C, b], targets, marks.

        Padding has row 0 and target 0. Parameters are those of :meth:`batches`.
        """
        data = self.tasks.part(part)
        index = np.ascontiguousarray(index.swapaxes(0, 1))  # [S, C, b]
        real = index >= 0
        full: NDArray[np.bool_] = np.all(real, axis=(1, 2))
        rows = np.where(real, index + data.offsets[self.positions][:, None], 0)
        everywhere = Marks(torch.ones(index.shape[1:], dtype=self.dtype), full=True)
        for step in range(len(index)):
            targets = _taken(data.targets, rows[step], self.dtype)
            if full[step]:
                yield rows[step], targets, everywhere
                continue
            here = torch.from_numpy(real[step])
            targets[~here] = 0
            yield rows[step], targets, Marks(here.to(self.dtype))


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
