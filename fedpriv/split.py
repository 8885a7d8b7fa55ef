"""Every task's own split into a train, a validation and a test part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fractions", "split_sizes", "split_task"]

Fractions = tuple[float, float, float]


def split_sizes(examples: int, fractions: Fractions) -> tuple[int, int, int]:
    """Return how many examples go to train, validation and test.

    The rule, in this order:

    1. Largest remainder: every part gets the whole number below its share; what is left goes to the largest
       remainders, one each; of equal ones first train, then test, then validation.
    2. From 4 examples on, train gets at least 2 and every other part with a positive fraction at least 1,
       taken from the largest part (of equal ones train, then test, then validation).
    3. Below 4 examples, train gets the first two and test the third.

    Parameters
    ----------
    examples : int
        The size of the task.
    fractions : tuple of 3 floats
        Shares of train, validation and test: sum 1, train and test positive.

    Returns
    -------
    tuple of 3 ints
        Sizes of train, validation and test; they sum to ``examples``.
    """
    if examples < 4:
        return min(examples, 2), 0, max(examples - 2, 0)
    shares = [examples * fraction for fraction in fractions]
    # 17 * 0.2 is not 3.4: what counts as a whole number or as a tie must not hang on the last bits.
    sizes = [int(share + 1e-9) for share in shares]
    preference = (0, 2, 1)
    by_remainder = sorted(preference, key=lambda part: -round(shares[part] - sizes[part], 9))
    for part in by_remainder[: examples - sum(sizes)]:
        sizes[part] += 1
    least = [2, 1 if fractions[1] > 0 else 0, 1]
    for part in preference:
        while sizes[part] < least[part]:
            giver = max(preference, key=lambda other: sizes[other] - least[other])
            sizes[giver] -= 1
            sizes[part] += 1
    return sizes[0], sizes[1], sizes[2]


def split_task(
    labels: NDArray[np.int64], fractions: Fractions, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Split one task at random, so that its train part has two classes if the task has.

    The examples are brought into a random order and cut. If the train part then holds one class only although
    the task has more, its last example changes places with the first example of another class behind it: a
    minimal stratification, which leaves all other splits as random as they were.

    Parameters
    ----------
    labels : ndarray of int64, shape [n]
        The classes of the task's examples.
    fractions : tuple of 3 floats
        As for :func:`split_sizes`.
    rng : numpy.random.Generator
        The task's own generator.

    Returns
    -------
    tuple of 3 ndarrays of int64
        Positions of the train, validation and test examples; together every position once.
    """
    order = rng.permutation(len(labels)).astype(np.int64)
    train, validation, _ = split_sizes(len(labels), fractions)
    if train >= 2:
        others = np.flatnonzero(labels[order] != labels[order[0]])
        if len(others) and others[0] >= train:
            order[train - 1], order[others[0]] = order[others[0]], order[train - 1]
    return order[:train], order[train : train + validation], order[train + validation :]
