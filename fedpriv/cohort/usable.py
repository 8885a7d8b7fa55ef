"""Values that cannot be computed with, found task by task.

A NaN, an infinity, a number too large for the run's type, a label that is no class. What a person's values are must not
decide whether a run starts, or how long it takes, nor stand in a message. So such a task's examples are replaced by
zeros, of which nothing is used: it counts as zero in training and has no scores, and all others are worked on as ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Ragged, Tasks

__all__ = ["UsableTasks", "only", "strange_tasks", "usable"]


@dataclass(frozen=True)
class UsableTasks:
    """Tasks whose values can all be computed with.

    Attributes
    ----------
    tasks : Tasks
        Those that were given, with zeros in place of examples that are not used.
    trains : ndarray of bool, shape [m]
        Whose training and validation examples are their own.
    scores : ndarray of bool, shape [m]
        Whose test examples are their own, too.
    """

    tasks: Tasks
    trains: NDArray[np.bool_]
    scores: NDArray[np.bool_]


def usable(tasks: Tasks, dtype: torch.dtype) -> UsableTasks:
    """Find the tasks with values that cannot be computed with in ``dtype``, and put zeros in their place."""
    train, validation, test = (
        strange_tasks(part, tasks.num_classes, dtype) for part in (tasks.train, tasks.validation, tasks.test)
    )
    train |= validation
    test |= train
    if not test.any():
        return UsableTasks(tasks, ~train, ~test)
    clean = replace(
        tasks,
        train=_without(tasks.train, train),
        validation=_without(tasks.validation, train),
        test=_without(tasks.test, test),
    )
    return UsableTasks(clean, ~train, ~test)


def only(tasks: Tasks, who: NDArray[np.bool_]) -> Tasks:
    """Return the tasks that ``who`` [m] names, as a population of their own."""
    if who.all():
        return tasks
    places = np.flatnonzero(who)
    return replace(
        tasks,
        names=tuple(tasks.names[place] for place in places),
        groups=None if tasks.groups is None else tuple(tasks.groups[place] for place in places),
        kinds=None if tasks.kinds is None else tasks.kinds[places],
        train=_rows(tasks.train, who),
        validation=_rows(tasks.validation, who),
        test=_rows(tasks.test, who),
    )


def _rows(part: Ragged, who: NDArray[np.bool_]) -> Ragged:
    rows = np.repeat(who, part.sizes)
    offsets = np.concatenate([[0], np.cumsum(part.sizes[who])]).astype(np.int64)
    return replace(part, inputs=part.inputs[rows], targets=part.targets[rows], offsets=offsets)


def strange_tasks(part: Ragged, num_classes: int | None, dtype: torch.dtype | None = None) -> NDArray[np.bool_]:
    """Tell which tasks hold a value that cannot be computed with, bool [m].

    Parameters
    ----------
    part : Ragged
        One part of all tasks.
    num_classes : int or None
        Labels lie in 0 to ``num_classes - 1``; None for regression.
    dtype : torch.dtype or None
        What the run computes in; None for the values' own type.
    """
    rows = np.zeros(len(part.inputs), dtype=bool)
    if part.inputs.dtype.kind == "f":  # whole numbers reach the model as they are, and what they mean is its affair
        largest = _largest(part.inputs, dtype)
        rows |= _outside(part.inputs, -largest, largest)
    if num_classes is None:
        largest = _largest(part.targets, dtype)
        rows |= _outside(part.targets, -largest, largest)
    else:
        rows |= _outside(part.targets, 0, num_classes - 1)
    found = np.zeros(len(part), dtype=bool)
    found[np.searchsorted(part.offsets, np.flatnonzero(rows), side="right") - 1] = True
    return found


def _largest(values: NDArray[Any], dtype: torch.dtype | None) -> float:
    own = float(np.finfo(values.dtype).max)
    return own if dtype is None else min(own, torch.finfo(dtype).max)


def _outside(values: NDArray[Any], low: float, high: float) -> NDArray[np.bool_]:
    """Tell which rows hold a NaN or a number outside of [low, high], bool [N]."""
    if not values.size or (values.min() >= low and values.max() <= high):  # a NaN is neither
        return np.zeros(len(values), dtype=bool)
    inside: NDArray[np.bool_] = np.all(((values >= low) & (values <= high)).reshape(len(values), -1), axis=1)
    return ~inside


def _without(part: Ragged, who: NDArray[np.bool_]) -> Ragged:
    rows = np.repeat(who, part.sizes)
    inputs, targets = part.inputs.copy(), part.targets.copy()
    inputs[rows], targets[rows] = 0, 0
    return replace(part, inputs=inputs, targets=targets)
