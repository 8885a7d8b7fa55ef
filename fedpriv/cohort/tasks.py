"""Ragged tasks: every task owns a train, a validation and a test part of its own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from fedpriv.cohort.intake import as_array, as_entries, as_names, as_offsets, check_rows, columns_of, join
from fedpriv.cohort.own import NOT_SAID, OwnData, refuse_unsaid
from fedpriv.cohort.usable import strange_tasks
from fedpriv.errors import InputError
from fedpriv.roster import Declared, Roster, fingerprint_of, salted_name, spellings_of

if TYPE_CHECKING:
    import pandas as pd

    from fedpriv.cohort.readers import Asked, People

__all__ = ["PARTS", "Declared", "Part", "Population", "Ragged", "Tasks"]

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, repr=False)
class Ragged:
    """One part of all tasks, stored flat.

    Arrays of numbers, Tensors, DataFrames of numbers and lists are welcome; what else there is, masked arrays among
    them, is refused by its type (:func:`fedpriv.cohort.intake.as_array`). Nothing is scaled.

    Attributes
    ----------
    inputs : ndarray, shape [N, ...], floating or whole numbers
        The examples of all tasks, one task after the other. Floats reach the model in the run's ``dtype``, whole
        numbers as int64: they are ids, as ``nn.Embedding`` takes them. So images of bytes must be scaled to floats.
    targets : ndarray, shape [N] (classes) or [N, ...] (values)
        What to predict.
    offsets : ndarray of int64, shape [m + 1]
        Task ``k`` owns rows ``offsets[k]`` to ``offsets[k + 1]``: they begin with 0, never fall and end with N.
    columns : tuple of str, or None
        What the columns of the inputs are called, where they came as tables: all parts need the same.

    Raises
    ------
    InputError
        An array's type or shape is none of these.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    offsets: NDArray[np.int64]
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.columns is None:
            _put(self, columns=columns_of(self.inputs))
        inputs, targets = as_array(self.inputs, "inputs"), as_array(self.targets, "targets", labels=True)
        if len(inputs) != len(targets):
            raise InputError(f"there are {len(inputs)} inputs and {len(targets)} targets; each example needs both.")
        _put(self, inputs=inputs, targets=targets, offsets=as_offsets(self.offsets, len(targets)))

    @classmethod
    def from_lists(cls, inputs: Sequence[Any], targets: Sequence[Any]) -> Ragged:
        """Join one array of inputs and one of targets per task; a task without examples gets empty ones.

        Raises
        ------
        InputError
            Both do not have as many entries, or an entry not as many inputs as targets; entries differ in the shape of
            an example, or some hold whole numbers and others do not; or as :class:`Ragged`. The place is named.
        """
        inputs, targets = as_entries(inputs, "inputs"), as_entries(targets, "targets")
        if len(inputs) != len(targets):
            raise InputError(
                f"there are inputs of {len(inputs)} tasks and targets of {len(targets)}; give both for each task."
            )
        rows, sizes = join(inputs, "inputs of task number")
        answers, others = join(targets, "targets of task number", labels=True)
        for place, (size, other) in enumerate(zip(sizes, others, strict=True)):
            check_rows(inputs[place], targets[place], place)
            if size != other:
                raise InputError(
                    f"task number {place} (counted from 0) has {size} inputs and {other} targets; each example needs "
                    "both, and both lists the same order of tasks."
                )
        columns = next((columns_of(one) for one, size in zip(inputs, sizes, strict=True) if size), None)
        return cls(rows, answers, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), columns)

    @classmethod
    def from_block(cls, inputs: Any, targets: Any) -> Ragged:
        """Lay out tasks of equally many examples each, [m, n, ...], one after the other.

        Raises
        ------
        InputError
            Inputs and targets differ in the number of tasks or of examples, or as :class:`Ragged`.
        """
        inputs, targets = as_array(inputs, "inputs"), as_array(targets, "targets", labels=True)
        if min(inputs.ndim, targets.ndim) < 2 or inputs.shape[:2] != targets.shape[:2]:
            raise InputError(
                f"inputs and targets must begin with the same axes [tasks, examples, ...], got {inputs.shape} and "
                f"{targets.shape}."
            )
        count, size = targets.shape[:2]
        offsets = np.arange(count + 1, dtype=np.int64) * size
        return cls(
            inputs.reshape(count * size, *inputs.shape[2:]), targets.reshape(count * size, *targets.shape[2:]), offsets
        )

    def __repr__(self) -> str:
        return (
            f"Ragged({len(self)} tasks, {len(self.inputs)} examples: inputs {_shown(self.inputs)}, targets "
            f"{_shown(self.targets)})"
        )

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


@dataclass(frozen=True, repr=False)
class Tasks(OwnData):
    """The tasks of one population: the units that privacy protects.

    Attributes
    ----------
    dataset : str
        Where the data came from, for reports.
    names : sequence of str
        A stable name per task; their order and spelling identify the population.
    train, validation, test : Ragged
        The three parts, aligned with ``names``. No validation part (None) means that nobody has validation examples.
    num_classes : int or None
        Number of classes; None for regression. It is public, so it is given and never looked up in the labels. Labels
        are whole numbers from 0 to ``num_classes - 1`` (False is 0, True is 1), kept as int64; of protected data they
        may be floats, and what is no whole number becomes -1, the mark of what cannot be used. Values of a regression
        are kept as floats, also where they are whole.
    declared : {"benchmark", "protected"}
        Public benchmark data get a ledger per run; protected data continue one ledger over all runs. There is no
        default: whoever makes tasks by hand says what they are.
    groups : sequence of int or None
        A *public* cluster label per task, or None.
    first : int
        The id of the first task here: a shard keeps the ids of the whole population.
    kinds : ndarray of int64, shape [m, num_classes], or None
        *Public*: which class of the data set each class of a task is, where tasks have names of their own for them.

    Raises
    ------
    InputError
        ``declared`` is not said, or a field's type does not fit.
    """

    dataset: str
    names: tuple[str, ...]
    train: Ragged
    validation: Ragged
    test: Ragged
    num_classes: int | None
    declared: Declared = NOT_SAID
    groups: tuple[int, ...] | None = None
    first: int = 0
    kinds: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        refuse_unsaid(self.declared)
        _put(self, names=as_names(self.names), num_classes=_classes(self.num_classes))
        if self.groups is not None:
            _put(self, groups=_labels(self.groups))
        for part in PARTS:
            data = getattr(self, part)
            if data is None and part == "validation" and isinstance(self.train, Ragged):
                data = _nothing(len(self), self.train)
            if not isinstance(data, Ragged):
                raise InputError(
                    f"{part} must be a Ragged, got {type(data).__name__}; Ragged.from_lists(inputs, targets) makes one."
                )
            if not len(data.inputs):  # an empty part has no shape of its own
                data = _nothing(len(data), self.train)
            _put(self, **{part: _typed(data, part, self.num_classes, protected=self.declared == "protected")})

    def __repr__(self) -> str:
        kind = "regression" if self.num_classes is None else f"{self.num_classes} classes"
        sizes = "/".join(str(len(self.part(part).inputs)) for part in PARTS)
        return (
            f"Tasks({self.dataset!r}: {len(self)} tasks, {self.declared}, {kind}, inputs {_shown(self.train.inputs)}, "
            f"{sizes} train/validation/test examples)"
        )

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
    def input_dtype(self) -> str:
        """Type of the inputs, as numpy names it."""
        return str(self.train.inputs.dtype)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one example's target; empty for classes."""
        return tuple(self.train.targets.shape[1:])

    @cached_property
    def roster(self) -> Roster:
        """Who these tasks are, without their data: what a server may know of them."""
        return Roster.model_construct(  # all of it was checked when these tasks were made
            dataset=self.dataset,
            names=self.names,
            declared=self.declared,
            input_shape=self.input_shape,
            input_dtype=self.input_dtype,
            target_shape=self.target_shape,
            num_classes=self.num_classes,
            groups=self.groups,
        )

    def within(self, roster: Roster, salt: bytes | None = None) -> Tasks:
        """Return these tasks, of one node, under their ids in a roster.

        Parameters
        ----------
        roster : Roster
            Of the whole population.
        salt : bytes or None
            Under which the roster's names are hashed.

        Raises
        ------
        InputError
            One is not in the roster, they do not follow each other there, or their examples are of another kind.
        """
        if roster.salted_names != (salt is not None):
            raise InputError(
                "the names of a roster that knows hashes only are looked up with the population's salt, and plain ones "
                "without it; give 'salt' for the first kind, and leave it out for the second."
            )
        for name in ("declared", "input_shape", "target_shape", "num_classes"):
            mine, theirs = getattr(self, name), getattr(roster, name)
            if mine != theirs:
                raise InputError(
                    f"these tasks have {name} {mine!r} and the roster of {roster.dataset!r} has {theirs!r}; give both "
                    "the same."
                )
        names = self.names if salt is None else tuple(salted_name(name, salt) for name in self.names)
        first = roster.place(names)
        groups = None if roster.groups is None else roster.groups[first : first + len(names)]
        return replace(self, names=names, first=first, groups=groups)

    @property
    def spellings(self) -> list[str]:
        """The names after Unicode normalisation (NFC): two that are equal look alike."""
        return spellings_of(self.names)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the list of task names: what a ledger recognises a population by."""
        return fingerprint_of(self.names)

    @classmethod
    def _of(cls, people: People, asked: Asked) -> Self:
        train, validation, test = (Ragged(*part, columns=people.columns) for part in people.parts)
        kind, groups = people.num_classes, people.groups
        return cls(people.dataset, people.names, train, validation, test, kind, asked.declared, groups)

    def to_frame(self, *, task: str = "task", target: str = "target", part: str = "part") -> pd.DataFrame:
        """Return a pandas table with a row for each example: :meth:`from_frame` with ``split=part`` reads it again.

        Parameters
        ----------
        task, target, part : str
            What the columns of names, targets and parts are called; several targets get numbers. Columns of inputs
            have their own names, or are called x0, x1, ...

        Raises
        ------
        InputError
            A column would be called like another one.
        """
        from fedpriv.cohort.readers.back import as_frame

        parts = {str(name): (data.inputs, data.targets, data.offsets) for name in PARTS for data in [self.part(name)]}
        return as_frame(self.names, parts, self.train.columns, task, target, part)

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

        Types, shapes and numbers of examples are looked at. Values only where data are declared a benchmark: those of
        protected data neither decide whether a run starts nor stand in a message. A task whose values cannot be
        computed with counts as zero there.

        Raises
        ------
        InputError
            No task, an empty task, a task with one training example or no test example, a part that does not match, a
            name that occurs twice; of a benchmark a value that is not finite, or a label outside the classes.
        """
        self.roster.check()
        if self.kinds is not None and np.shape(self.kinds) != (len(self), self.num_classes):
            raise InputError(
                f"kinds must have shape {(len(self), self.num_classes)}, one number for each class of each task, got "
                f"{np.shape(self.kinds)}."
            )
        for part in PARTS:
            self._check_part(part)
        self._check_trainable()
        if self.declared == "benchmark":
            self._check_values()

    def _check_part(self, part: Part) -> None:
        data = self.part(part)
        if len(data) != len(self):
            raise InputError(f"the {part} part has {len(data)} tasks where there are {len(self)} names.")
        if tuple(data.inputs.shape[1:]) != self.input_shape:
            raise InputError(
                f"the {part} part has examples of shape {tuple(data.inputs.shape[1:])}, "
                f"the train part {self.input_shape}; all parts need one shape."
            )
        if None not in (data.columns, self.train.columns) and data.columns != self.train.columns:
            raise InputError(
                f"the {part} part has other columns than the train part, or in another order; give all tables the same "
                "with table[columns]."
            )
        if data.targets.shape[1:] != self.train.targets.shape[1:]:
            raise InputError(
                f"the {part} part has targets of shape {data.targets.shape[1:]} for each example, the train part "
                f"{self.train.targets.shape[1:]}; all parts need one shape."
            )
        if (data.inputs.dtype.kind == "f") != (self.train.inputs.dtype.kind == "f"):
            raise InputError(
                f"the {part} part has inputs of type {data.inputs.dtype}, the train part {self.train.inputs.dtype}; "
                "give all parts one type, such as .astype('float32')."
            )

    def _check_trainable(self) -> None:
        sizes, tests = self.train.sizes, self.test.sizes
        for position in np.flatnonzero((sizes < 2) | (tests == 0)).tolist():
            name, size = self.names[position], int(sizes[position])
            if size == 0:
                raise InputError(f"task {name!r} has no training examples; drop it or give it data.")
            if not tests[position]:
                raise InputError(f"task {name!r} has no test examples, so it cannot be scored; give it more data.")
            raise InputError(f"task {name!r} has one training example; a task needs at least 2.")

    def _check_values(self) -> None:
        for part in PARTS:
            found = np.flatnonzero(strange_tasks(self.part(part), self.num_classes))
            if len(found):
                task, data = int(found[0]), self.part(part)
                rows = data.rows(task)
                if data.inputs.dtype.kind == "f" and not np.isfinite(data.inputs[rows]).all():
                    what = "a NaN or infinite input"
                elif self.num_classes is None:
                    what = "a NaN or infinite target"
                else:
                    what = f"a label outside of 0..{self.num_classes - 1}"
                raise InputError(
                    f"task {self.names[task]!r} holds {what} in its {part} part; mend it, or leave the task out."
                )


Population = Tasks | Roster
"""Tasks with their data, or who they are alone: shapes, types, names and groups are asked of both alike."""


def _put(owner: object, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(owner, name, value)


def _shown(values: NDArray[Any]) -> str:
    return f"{values.dtype} {tuple(values.shape[1:])}"


def _nothing(count: int, like: Ragged) -> Ragged:
    return Ragged(like.inputs[:0], like.targets[:0], np.zeros(count + 1, dtype=np.int64))


def _classes(given: Any) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool | np.bool_) or not isinstance(given, int | np.integer) or given < 1:
        raise InputError(
            f"num_classes must be the public number of classes, or None for regression, got {given!r}; labels are "
            "not asked for it."
        )
    return int(given)


def _labels(given: Any) -> tuple[int, ...]:
    found = tuple(given) if np.iterable(given) else (given,)
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int | np.integer):
            raise InputError(f"groups must give a whole number for each task, got {type(one).__name__}.")
    return tuple(map(int, found))


def _typed(data: Ragged, part: Part, num_classes: int | None, *, protected: bool) -> Ragged:
    """Return targets as int64 where they are classes, as floats where they are values.

    A label that is missing makes pandas write all of them as floats. What values of protected data are decides nothing:
    those that are no whole numbers become -1, which cannot be used.
    """
    targets, whole = data.targets, data.targets.dtype.kind != "f"
    if num_classes is None:
        return replace(data, targets=targets.astype(np.float64)) if whole else data
    if targets.ndim > 1:
        raise InputError(
            f"with num_classes={num_classes} the {part} part needs one class number for each example, got targets of "
            f"shape {targets.shape[1:]}; give .argmax(axis=1) of one-hot rows, .reshape(-1) of a column, or "
            "num_classes=None for values."
        )
    if not whole and protected:
        inside = (targets == np.floor(targets)) & (np.abs(targets) < 2**53)
        return replace(data, targets=np.where(inside, targets, -1).astype(np.int64))
    if not whole:
        raise InputError(
            f"with num_classes={num_classes} the {part} part needs labels that are whole numbers, got {targets.dtype}; "
            "give .astype('int64'), or num_classes=None for values."
        )
    return data if targets.dtype == np.int64 else replace(data, targets=targets.astype(np.int64))
