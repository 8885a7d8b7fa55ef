"""Episodes: in every participation a task draws a support set to adapt on and a query set to be judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.cohort.cohort import Batch, Cohort, padded_width
from fedpriv.cohort.randomness import Key
from fedpriv.cohort.tasks import Tasks
from fedpriv.errors import InputError

__all__ = ["Episodes", "check_shots", "draw_episodes", "split_examples"]


@dataclass(frozen=True)
class Episodes:
    """One episode of every task of a cohort.

    Attributes
    ----------
    support, query : Batch
        Examples [C, s, ...] and [C, q, ...] of the tasks' train parts; no example is in both.
    labels : Tensor or None, int64 [C, K]
        What every class is called in this episode; None if classes keep their names.
    """

    support: Batch
    query: Batch
    labels: Tensor | None = None

    @property
    def examples(self) -> NDArray[np.int64]:
        """Support and query examples of every task, int64 [C, 2]."""
        found: NDArray[np.int64] = torch.stack([self.support.sizes, self.query.sizes], dim=1).to(torch.int64).numpy()
        return found


def draw_episodes(
    cohort: Cohort, key: Key, *, shots: int, queries: int | None = None, permute_labels: bool = False
) -> Episodes:
    """Draw from each task's own train part, by a stream of its own: results do not depend on who shares a cohort.

    Parameters
    ----------
    cohort : Cohort
        The tasks.
    key : Key
        The stream; the task id completes it.
    shots : int
        Support examples of each class, of all examples together in regression. A class that has fewer gives all but
        one.
    queries : int or None
        Query examples of each class at most; None for all that are left, 0 for none: then a class gives all its shots.
    permute_labels : bool
        Whether the classes change names at random, so that nothing can be learned but to look at the support set.
    """
    kinds, spare = cohort.tasks.num_classes or 1, int(queries != 0)
    permute_labels = permute_labels and cohort.tasks.num_classes is not None
    sizes = cohort.sizes("train")
    room = int(padded_width(sizes).max(initial=1))
    # Widths follow from settings and from the padded width that all tasks of a cohort share, never from neighbours.
    support = np.full((len(cohort), min(kinds * shots, room)), -1, dtype=np.int64)
    query = np.full((len(cohort), room if queries is None else min(max(kinds * queries, 1), room)), -1, dtype=np.int64)
    names = np.tile(np.arange(kinds), (len(cohort), 1))
    for row, generator in enumerate(key.generators(cohort.ids.tolist())):
        position = int(cohort.positions[row])
        labels = _labels(cohort.tasks, position)
        order = generator.permutation(len(labels))
        rank = _rank(labels[order])
        most = np.minimum(shots, np.maximum(np.bincount(labels, minlength=kinds) - spare, 0))[labels[order]]
        first, rest = order[rank < most], order[rank >= most]
        if queries is not None:
            rest = order[(rank >= most) & (rank < most + queries)]
        support[row, : len(first)], query[row, : len(rest)] = first, rest
        if permute_labels:
            names[row] = generator.permutation(kinds)
    first_set, second_set = (next(cohort.batches(index[:, None])) for index in (support, query))
    if not permute_labels:
        return Episodes(first_set, second_set)
    called = torch.from_numpy(names)
    return Episodes(_renamed(first_set, called), _renamed(second_set, called), called)


def split_examples(cohort: Cohort, key: Key, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide each task's training examples at random, by a stream of its own.

    Parameters
    ----------
    cohort : Cohort
        The tasks.
    key : Key
        The stream; the task id completes it.
    share : float
        Of the examples that go to the first part, rounded; both parts get one at least. A single example is in both.

    Returns
    -------
    ndarray of int64, shape [C, n], and the same
        Numbers of examples, -1 for padding after them.
    """
    sizes = cohort.sizes("train")
    room = int(padded_width(sizes).max(initial=1))
    first, second = np.full((2, len(cohort), room), -1, dtype=np.int64)
    for row, (size, generator) in enumerate(zip(sizes.tolist(), key.generators(cohort.ids.tolist()), strict=True)):
        order = generator.permutation(size)
        cut = min(max(round(share * size), 1), max(size - 1, 1))
        rest = order[cut:] if size > 1 else order
        first[row, :cut] = order[:cut] if size else -1
        second[row, : len(rest)] = rest
    return first, second


def check_shots(tasks: Tasks, shots: int) -> None:
    """Refuse tasks from which no episode can be drawn.

    Raises
    ------
    InputError
        A class has no example left beside its shots, or a task has one class only. Of protected data only numbers of
        examples are looked at: with fewer examples of a class than shots, an episode has fewer.
    """
    fewest, kinds = tasks.train.sizes.copy(), [""] * len(tasks)
    for position, name in enumerate(tasks.names if tasks.declared == "benchmark" else ()):
        labels, counts = np.unique(_labels(tasks, position), return_counts=True)
        if tasks.num_classes is None:
            continue
        if len(labels) < 2:
            raise InputError(
                f"task {name!r} has one class only ({labels.tolist()[0] if len(labels) else 'no examples'}), so there "
                "is nothing to tell apart; give it at least 2 ways."
            )
        fewest[position], kinds[position] = counts.min(), f" of class {labels[counts.argmin()]}"
    worst = int(fewest.argmin())  # the one that decides, so that what is advised helps with all tasks
    few = int(fewest[worst])
    if few <= shots:
        advice = "give the task more examples, or leave it out"
        if few > 1:
            advice = f"lower the shots to {few - 1} or give the task more examples"
        raise InputError(
            f"task {tasks.names[worst]!r} has {few} training examples{kinds[worst]}, and {shots} shots leave none to "
            f"judge by; {advice}."
        )


def _renamed(batch: Batch, called: Tensor) -> Batch:
    return replace(batch, targets=torch.where(batch.mask > 0, called.gather(1, batch.targets), 0))


def _labels(tasks: Tasks, position: int) -> NDArray[np.int64]:
    found = tasks.train.targets[tasks.train.rows(position)]
    return np.zeros(len(found), dtype=np.int64) if tasks.num_classes is None else found.astype(np.int64)


def _rank(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many examples of the same class come before each one."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0]) if len(labels) else np.empty(0, dtype=np.int64)
    counted = np.arange(len(labels)) - np.repeat(starts, np.diff(np.r_[starts, len(labels)]))
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = counted
    return rank
