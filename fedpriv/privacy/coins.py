"""Draws of who takes part, from fair bits alone: whole numbers, so that the law is the one that is accounted.

Poisson sampling draws the number of participants and then a subset of that size. That has the law of a coin per task,
and costs what the sample costs: a walk over a million tasks to find a hundred would take longer than the round.

How exact that is: whole numbers below a bound and subsets are exact, because what does not fit is drawn again. The
number of heads comes from a table of the binomial distribution in whole numbers of 192 bits, for the very rate, which
is a fraction. Its total variation from the law of the coins is below 2^-150 (:func:`binomial_table`), so that a billion
rounds stay far below 2^-53, the rounding of what is accounted. Nothing is rounded to a float.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError

__all__ = ["Coins", "binomial_table"]

_WEIGHT_BITS = 192
"""Bits of the largest weight in a table: what is left out lies more than 16 standard deviations from the mean."""

_DENSE_ONE_IN = 64
"""From one in so many on, members of a subset are marked in a row of flags; below, they are sorted."""


class Coins:
    """Secret draws, one after the other, from a stream of bits.

    Parameters
    ----------
    read : callable
        Returns the next so many bytes of a secret keystream.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def whole(self, bound: int) -> int:
        """Return a whole number in ``range(bound)``, of any size, each equally likely."""
        bits = (bound - 1).bit_length()
        while True:
            found = int.from_bytes(self._read((bits + 7) // 8), "little") & ((1 << bits) - 1)
            if found < bound:
                return found

    def wholes(self, bound: int, count: int) -> NDArray[np.int64]:
        """Return ``count`` independent whole numbers in ``range(bound)``, each equally likely; at most 2^62 of them."""
        bits = (bound - 1).bit_length()
        kind = np.dtype("<u4" if bits <= 32 else "<u8")
        mask, found, missing = kind.type((1 << bits) - 1), [], count
        while missing:
            words = -(-(missing << bits) // bound)  # as many as it takes on average
            drawn = np.frombuffer(self._read(words * kind.itemsize), dtype=kind) & mask
            found.append(drawn[drawn < bound][:missing].astype(np.int64))
            missing -= len(found[-1])
        return np.concatenate([np.empty(0, dtype=np.int64), *found])

    def subset(self, population: int, size: int) -> NDArray[np.int64]:
        """Return ``size`` numbers of ``range(population)``, sorted: every subset of this size is equally likely.

        Raises
        ------
        InputError
            There are not so many.
        """
        if not 0 <= size <= population:
            raise InputError(f"coins: a subset of {population} has 0 to {population} members, got 'size' = {size}.")
        if size * _DENSE_ONE_IN >= population:
            few = min(size, population - size)
            flags = np.zeros(population, dtype=bool)
            have = 0
            while have < few:  # never more than are missing, so no member is ever taken out again
                flags[self.wholes(population, few - have)] = True
                have = int(np.count_nonzero(flags))
            return np.flatnonzero(flags if few == size else ~flags).astype(np.int64, copy=False)
        ids = np.empty(0, dtype=np.int64)
        while len(ids) < size:
            ids = np.sort(np.concatenate([ids, self.wholes(population, size - len(ids))]))
            ids = ids[np.diff(ids, prepend=-1) > 0]
        return ids

    def heads(self, tosses: int, rate: float) -> int:
        """Return how many of so many independent coins, each with this probability in (0, 1), show heads."""
        first, cumulative = binomial_table(tosses, rate)
        return first + bisect_right(cumulative, self.whole(cumulative[-1]))


@lru_cache(maxsize=64)
def binomial_table(tosses: int, rate: float) -> tuple[int, list[int]]:
    """Return the smallest number of heads in the table, and the cumulative weights from this number on.

    From the likeliest number on, whose weight is 2^192, each weight follows from its neighbour by a ratio of whole
    numbers, rounded down, until it is 0. Ratios fall below 1 there, so a weight is too small by less than the number of
    steps to it. For n weights in all the total variation from the binomial distribution is then below n^2 2^-190, with
    what lies beyond both ends: less than 2^-150 for a table of a million.
    """
    top, bottom = rate.as_integer_ratio()
    tails = bottom - top
    middle = min(tosses, (tosses + 1) * top // bottom)
    below, above = [], [1 << _WEIGHT_BITS]
    for heads in range(middle, tosses):
        above.append(above[-1] * ((tosses - heads) * top) // ((heads + 1) * tails))
        if not above[-1]:
            break
    weight = above[0]
    for heads in range(middle, 0, -1):
        weight = weight * (heads * tails) // ((tosses - heads + 1) * top)
        if not weight:
            break
        below.append(weight)
    return middle - len(below), list(accumulate([*reversed(below), *above]))
