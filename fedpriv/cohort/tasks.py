"""Ragged tasks: every task owns a train, a validation and a test part of its own size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError

__all__ = ["PARTS", "Part", "Ragged", "Tasks"]

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Ragged:
    """One part of all tasks, stored flat.

    Attributes
    ----------
    inputs : ndarray, shape [N, ...], floating
        The examples of all tasks, one task after the other.
    targets : ndarray, shape [N] (integer classes) or [N, ...] (floating values)
        What to predict.
    offsets : ndarray of int64, shape [m + 1]
        Task ``k`` owns rows ``offsets[k]`` to ``offsets[k + 1]``.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    offsets: NDArray[np.int64]

    @classmethod
    def from_lists(cls, inputs: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]]) -> Ragged:
        """Join one array per task; tasks without examples get an empty slice."""
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in targets])]).astype(np.int64)
        return cls(np.concatenate(list(inputs)), np.concatenate(list(targets)), offsets)

    @classmethod
    def from_block(cls, inputs: NDArray[Any], targets: NDArray[Any]) -> Ragged:
        """Lay out tasks of equally many examples each, [m, n, ...], one after the other."""
        count, size = targets.shape[:2]
        offsets = np.arange(count + 1, dtype=np.int64) * size
        return cls(inputs.reshape(-1, *inputs.shape[2:]), targets.reshape(-1, *targets.shape[2:]), offsets)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of examples of every task, shape [m]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, task: int) -> slice:
        """Rows of one task, by its position."""
        return slice(int(self.offsets[task]), int(self.offsets[task + 1]))

    def slice(self, start: int, stop: int) -> Ragged:
        """Return tasks ``start`` to ``stop`` as views."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Ragged(self.inputs[first:last], self.targets[first:last], self.offsets[start : stop + 1] - first)


@dataclass(frozen=True)
class Tasks:
    """The tasks of one population: the units that privacy protects.

    Attributes
    ----------
    dataset : str
        Where the data came from, for reports.
    names : tuple of str
        A stable name per task; their order and spelling identify the population.
    train, validation, test : Ragged
        The three parts, aligned with ``names``.
    num_classes : int or None
        Number of classes; None for regression.
    declared : {"benchmark", "protected"}
        Public benchmark data get a ledger per run; protected data continue one ledger over all runs.
    groups : tuple of int or None
        A *public* cluster label per task, or None.
    first : int
        The id of the first task here: a shard keeps the ids of the whole population.
    kinds : ndarray of int64, shape [m, num_classes], or None
        *Public*: which class of the data set each class of a task is, where tasks have names of their own for them.
    """

    dataset: str
    names: tuple[str, ...]
    train: Ragged
    validation: Ragged
    test: Ragged
    num_classes: int | None
    declared: Literal["benchmark", "protected"] = "benchmark"
    groups: tuple[int, ...] | None = None
    first: int = 0
    kinds: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ids(self) -> range:
        """The ids of these tasks within the whole population."""
        return range(self.first, self.first + len(self))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the list of task names: what a ledger recognises a population by."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.encode() + b"\0")
        return digest.hexdigest()

    def part(self, name: Part) -> Ragged:
        """Return one of the three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def shard(self, start: int, stop: int) -> Tasks:
        """Return the tasks at positions ``start`` to ``stop`` under their old ids, without copying data."""
        return replace(
            self,
            names=self.names[start:stop],
            groups=None if self.groups is None else self.groups[start:stop],
            first=self.first + start,
            kinds=None if self.kinds is None else self.kinds[start:stop],
            train=self.train.slice(start, stop),
            validation=self.validation.slice(start, stop),
            test=self.test.slice(start, stop),
        )

    def check(self) -> None:
        """Refuse tasks that cannot be trained on, before any work starts.

        Raises
        ------
        InputError
            An empty task, a task with one training example or one training class, a part whose shape does not
            match, a value that is not finite, a label outside the classes, or a name that occurs twice.
        """
        if not len(self):
            raise InputError("there are no tasks: lower data.tasks' requirements or choose another data set.")
        if len(set(self.names)) != len(self.names):
            twice = sorted(name for name in set(self.names) if self.names.count(name) > 1)
            raise InputError(f"task names must be unique, got {twice[0]!r} more than once; rename one of them.")
        if self.groups is not None and len(self.groups) != len(self):
            raise InputError(
                f"groups must give one public label per task, got {len(self.groups)} labels for {len(self)} tasks."
            )
        for part in PARTS:
            self._check_part(part)
        self._check_trainable()

    def _check_part(self, part: Part) -> None:
        data = self.part(part)
        if len(data) != len(self):
            raise InputError(f"the {part} part has {len(data)} tasks where there are {len(self)} names.")
        if len(data.inputs) != len(data.targets) or int(data.offsets[-1]) != len(data.targets):
            raise InputError(
                f"the {part} part has {len(data.inputs)} inputs and {len(data.targets)} targets; they must match."
            )
        if tuple(data.inputs.shape[1:]) != self.input_shape:
            raise InputError(
                f"the {part} part has examples of shape {tuple(data.inputs.shape[1:])}, "
                f"the train part {self.input_shape}; all parts need one shape."
            )
        finite = np.isfinite(data.inputs).all(axis=tuple(range(1, data.inputs.ndim)))
        if not finite.all():
            task = int(np.searchsorted(data.offsets, int(np.argmin(finite)), side="right")) - 1
            raise InputError(f"task {self.names[task]!r} holds a NaN or infinite input in its {part} part; clean it.")
        if self.num_classes is None:
            if not np.isfinite(data.targets).all():
                raise InputError(f"a target of the {part} part is NaN or infinite; clean it.")
        elif len(data.targets) and not (data.targets.min() >= 0 and data.targets.max() < self.num_classes):
            raise InputError(
                f"labels of the {part} part must lie in 0..{self.num_classes - 1}, "
                f"got {data.targets.min()}..{data.targets.max()}."
            )

    def _check_trainable(self) -> None:
        sizes, tests = self.train.sizes, self.test.sizes
        suspicious = (sizes < 2) | (tests == 0)
        if self.num_classes is not None and not suspicious.any():
            starts = self.train.offsets[:-1]
            lowest, highest = (np.ufunc.reduceat(f, self.train.targets, starts) for f in (np.minimum, np.maximum))
            suspicious = lowest == highest
        for position in np.flatnonzero(suspicious).tolist():
            name, size = self.names[position], int(sizes[position])
            if size == 0:
                raise InputError(f"task {name!r} has no training examples; drop it or give it data.")
            if not tests[position]:
                raise InputError(f"task {name!r} has no test examples, so it cannot be scored; give it more data.")
            if size == 1:
                raise InputError(f"task {name!r} has one training example; a task needs at least 2.")
            if self.num_classes is not None:
                labels = self.train.targets[self.train.rows(position)]
                if (labels == labels[0]).all():
                    raise InputError(
                        f"task {name!r} has examples of one class only ({int(labels[0])}); merge it with another task, "
                        "raise data.alpha, or set data.drop_unusable=true to leave such tasks out (a public rule)."
                    )
