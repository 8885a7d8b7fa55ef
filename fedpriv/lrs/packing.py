"""Symmetric matrices as vectors of the same norm: noise on the vector is symmetric noise on the matrix."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["packed_places", "packed_size", "unpack"]

Array = NDArray[np.float64]


def packed_size(side: int) -> int:
    """Return how many numbers a symmetric matrix of this side has: side (side + 1) / 2."""
    return side * (side + 1) // 2


@lru_cache(maxsize=16)
def packed_places(side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return rows, columns and weights of the entries that are kept: the upper triangle, row by row.

    An entry off the diagonal stands for two and gets the weight sqrt 2, so that the l2 norm of the vector is the
    Frobenius norm of the matrix. Independent noise of standard deviation s on the vector is then noise on the matrix
    with s on the diagonal and s / sqrt 2 off it, the same on both sides.
    """
    rows, columns = np.triu_indices(side)
    return rows, columns, np.where(rows == columns, 1.0, math.sqrt(2.0))


def unpack(vector: Array) -> Array:
    """Return the symmetric matrix of a packed vector [side (side + 1) / 2]."""
    side = (math.isqrt(8 * len(vector) + 1) - 1) // 2
    rows, columns, weights = packed_places(side)
    matrix = np.empty((side, side))
    matrix[rows, columns] = vector / weights
    matrix[columns, rows] = matrix[rows, columns]
    return matrix
