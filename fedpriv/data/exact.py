"""Dirichlet draws of exact size: every task gets the same number of examples, of classes it prefers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.randomness import generator

__all__ = ["REDRAWS", "draw_classes", "exact_dirichlet"]

REDRAWS = 20


def exact_dirichlet(
    labels: NDArray[np.int64],
    num_classes: int,
    *,
    tasks: int,
    examples: int,
    concentration: NDArray[np.float64],
    seed: int,
) -> list[NDArray[np.int64]]:
    """Draw ``examples`` examples, of two classes or more, for each of ``tasks`` tasks, without replacement.

    The tasks draw one after the other from a common pool:

    1. Task k draws class proportions ``p_k ~ Dirichlet(concentration)``.
    2. Each of its examples is of a class drawn from ``p_k``, renormalised over the classes that are not
       exhausted: the mass of a class that ran out moves to the remaining ones in proportion. (If ``p_k`` has
       no mass on any of them, a class is drawn in proportion to what the pool still holds.) Within a class
       the examples come in a random order that was fixed beforehand.
    3. If all examples are of one class, steps 1 and 2 are repeated, up to ``REDRAWS`` times.
    4. When all tasks have drawn: a task that still has one class only, c, gives one example back and gets one
       of another class, from the pool if it holds one, else from the task with the most examples that are not
       of class c (the first of them if there are several), of that task's most frequent other class.

    Step 4 always succeeds if every class leaves at least one example per task outside of it, which is checked
    first: if the pool has nothing but c and no task had two examples that are not c, then there were fewer
    examples outside c than tasks. The giving task keeps two classes, so no exchange makes another one
    necessary.

    Tasks drawn late meet a pool in which classes ran out. Use fewer ``examples`` than fit to keep that small.

    Parameters
    ----------
    labels : ndarray of int64, shape [N]
        The class of every example.
    num_classes : int
        Labels lie in 0 to ``num_classes - 1``.
    tasks, examples : int
        How many tasks, and examples in each; ``examples >= 2``.
    concentration : ndarray of float64, shape [num_classes]
        Parameters of the Dirichlet distribution, all positive.
    seed : int
        Everything drawn depends on it and on nothing else.

    Returns
    -------
    list of ndarray of int64, shape [examples] each
        Indices into ``labels``, in the order drawn. No index occurs twice.

    Raises
    ------
    InputError
        Not enough examples, or too few examples outside the most frequent class.
    """
    counts = np.bincount(labels, minlength=num_classes)
    _check_possible(counts, tasks, examples)
    order = generator(seed, "data/exact-dirichlet/order")
    pools = [order.permutation(np.flatnonzero(labels == c)) for c in range(num_classes)]
    left = counts.astype(np.int64)
    chosen: list[NDArray[np.int64]] = []
    for task in range(tasks):
        rng = generator(seed, "data/exact-dirichlet/task", task)
        classes = draw_classes(rng, rng.dirichlet(concentration), left, examples)
        for _ in range(REDRAWS):
            if (classes != classes[0]).any():
                break
            classes = draw_classes(rng, rng.dirichlet(concentration), left, examples)
        indices = np.empty(examples, dtype=np.int64)
        for c in np.unique(classes):
            rows = np.flatnonzero(classes == c)
            first = len(pools[c]) - int(left[c])
            indices[rows] = pools[c][first : first + len(rows)]
            left[c] -= len(rows)
        chosen.append(indices)
    rest = [pool[len(pool) - int(n) :] for pool, n in zip(pools, left, strict=True)]
    _give_second_class(chosen, labels, num_classes, rest)
    return chosen


def draw_classes(
    rng: np.random.Generator, proportions: NDArray[np.float64], left: NDArray[np.int64], examples: int
) -> NDArray[np.int64]:
    """Draw the classes of one task, one example after the other, from the classes that are not exhausted.

    Parameters
    ----------
    rng : numpy.random.Generator
        One uniform number per example is taken from it.
    proportions : ndarray of float64, shape [C]
        Class proportions of the task.
    left : ndarray of int64, shape [C]
        Examples left in the pool; sums to ``examples`` or more. Not changed.
    examples : int
        How many to draw.

    Returns
    -------
    ndarray of int64, shape [examples]
    """
    left = left.copy()
    uniform = rng.random(examples)
    classes = np.empty(examples, dtype=np.int64)
    start = 0
    while start < examples:
        weights = np.where(left > 0, proportions, 0.0)
        if not weights.sum() > 0.0:
            weights = left.astype(np.float64)
        edges = np.cumsum(weights)
        last = int(np.flatnonzero(weights)[-1])
        drawn = np.minimum(np.searchsorted(edges, uniform[start:] * edges[-1], side="right"), last)
        # Valid up to the example that exhausts a class; behind it the proportions are renormalised.
        stop = len(drawn)
        for c in np.flatnonzero(np.bincount(drawn, minlength=len(left)) >= np.maximum(left, 1)):
            stop = min(stop, int(np.flatnonzero(drawn == c)[left[c] - 1]) + 1)
        classes[start : start + stop] = drawn[:stop]
        left -= np.bincount(drawn[:stop], minlength=len(left))
        start += stop
    return classes


def _check_possible(counts: NDArray[np.int64], tasks: int, examples: int) -> None:
    total = int(counts.sum())
    if tasks * examples > total:
        ways = [f"tasks to {total // examples}"] if total >= examples else []
        ways += [f"examples to {total // tasks}"] if total // tasks >= 4 else []  # the least that a task needs
        raise InputError(
            f"dirichlet: {tasks} tasks of {examples} examples need {tasks * examples} examples, the data set has "
            f"{total}; lower {' or '.join(ways) or 'both'}."
        )
    widest = int(np.argmax(counts))
    outside = total - int(counts[widest])
    if outside < tasks:
        advice = f"lower tasks to {outside} or less" if outside else "choose another data set"
        raise InputError(
            f"dirichlet: every task needs two classes, but only {outside} examples are not of class {widest}, fewer "
            f"than the {tasks} tasks; {advice}."
        )


def _give_second_class(
    chosen: list[NDArray[np.int64]],
    labels: NDArray[np.int64],
    num_classes: int,
    rest: list[NDArray[np.int64]],
) -> None:
    """Exchange one example of every one-class task (step 4), in place."""
    histograms = np.stack([np.bincount(labels[indices], minlength=num_classes) for indices in chosen])
    for task in np.flatnonzero((histograms > 0).sum(axis=1) == 1):
        own = int(np.argmax(histograms[task]))
        if histograms[task, own] < len(chosen[task]):
            continue  # an earlier exchange already gave it a second class
        sizes = np.array([len(pool) for pool in rest])
        sizes[own] = 0
        if sizes.any():
            other = int(np.argmax(sizes))
            rest[own] = np.append(rest[own], chosen[task][-1])
            chosen[task][-1], rest[other] = rest[other][0], rest[other][1:]
        else:
            elsewhere = histograms.copy()
            elsewhere[:, own] = 0
            giver = int(np.argmax(elsewhere.sum(axis=1)))
            other = int(np.argmax(elsewhere[giver]))
            position = int(np.flatnonzero(labels[chosen[giver]] == other)[-1])
            mine, theirs = chosen[task][-1], chosen[giver][position]
            chosen[task][-1], chosen[giver][position] = theirs, mine
            histograms[giver, other] -= 1
            histograms[giver, own] += 1
        histograms[task, own] -= 1
        histograms[task, other] += 1
