"""Clipping: the step that bounds what one task can do to a sum.

The whole update of a task is clipped, with one l2 norm over all its arrays together, in float64. Arrays are
stacked: ``[k, ...]`` holds the rows of ``k`` tasks. A row with a NaN or an infinity counts as zero; a finite
row of any magnitude (1e300, denormals) is clipped as it should be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError

__all__ = [
    "LARGEST_NORM",
    "SMALLEST_NORM",
    "ClippedRows",
    "check_clipping_norm",
    "clip_rows",
    "clipped_sum",
    "update_norms",
]

SMALLEST_NORM, LARGEST_NORM = 1e-100, 1e100
"""A clipping norm lies between these: its square must be a normal float."""

_BLOCK_ENTRIES = 1 << 16
"""Entries worked on at a time in float64 (512 KB), or one row: a float64 copy that stays in the cache."""

_EXACT_SQUARES = (1e-280, 1e300)
"""Sums of squares in this range are exact to rounding; other rows are measured again after rescaling."""

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class ClippedRows:
    """Clipped updates of ``k`` tasks.

    Attributes
    ----------
    rows : list of float64 arrays, each [k, ...]
        The clipped updates; the l2 norm of each task over all arrays is at most the clipping norm.
    norms : float64 array, shape [k]
        Norms before clipping; infinite for a row that is not finite.
    counted : bool array, shape [k]
        False for rows that are not finite and were replaced by zeros.
    """

    rows: list[NDArray[np.float64]]
    norms: NDArray[np.float64]
    counted: NDArray[np.bool_]


def check_clipping_norm(clipping_norm: float, name: str = "clipping_norm") -> None:
    """Raise InputError unless the norm is between 1e-100 and 1e100 (its square must be a normal float)."""
    number = isinstance(clipping_norm, Real) and not isinstance(clipping_norm, bool)
    if not number or not SMALLEST_NORM <= clipping_norm <= LARGEST_NORM:
        raise InputError(
            f"clipping: {name!r} must be a number between 1e-100 and 1e100, got {clipping_norm!r}; a "
            "usual value is the median norm of the updates."
        )


def update_norms(arrays: Arrays) -> NDArray[np.float64]:
    """Measure the updates of ``k`` tasks, one l2 norm over all arrays together.

    Parameters
    ----------
    arrays : sequence of arrays, each [k, ...]
        Real arrays of any dtype.

    Returns
    -------
    float64 array, shape [k]
        Infinite exactly where a row holds a NaN or an infinity; the norm of a finite row never overflows (it
        stops at the largest float64).

    Raises
    ------
    InputError
        If there is no array, an array is not real, or the numbers of rows differ.
    """
    return _measure(_flatten(arrays))[0]


def clip_rows(arrays: Arrays, clipping_norm: float) -> ClippedRows:
    """Clip the updates of ``k`` tasks and keep them apart.

    Raises
    ------
    InputError
        As :func:`update_norms`; or if the clipping norm is outside [1e-100, 1e100].
    """
    check_clipping_norm(clipping_norm)
    flat = _flatten(arrays)
    norms, extreme = _measure(flat)
    counted = np.isfinite(norms)
    factors = _factors(norms, clipping_norm)
    rows = [np.zeros(array.shape, dtype=np.float64) for array in map(np.asarray, arrays)]
    for source, target in zip(flat, [_rows_of(row) for row in rows], strict=True):
        plain = np.flatnonzero(counted)
        target[plain] = source[plain]
        target *= factors[:, None]
    for k in extreme:
        for part, target in zip(_clip_extreme(flat, int(k), clipping_norm), rows, strict=True):
            target[k] = part.reshape(target.shape[1:])
    return ClippedRows(rows, norms, counted)


def clipped_sum(arrays: Arrays, clipping_norm: float) -> list[NDArray[np.float64]]:
    """Sum the clipped updates of ``k`` tasks.

    Adding or removing one task moves the sum by at most the clipping norm, replacing one by at most twice
    that. Rows are converted to float64 a few at a time, so that both their norms and their part of the sum are
    computed while they are in the cache.

    Parameters
    ----------
    arrays : sequence of arrays, each [k, ...]
        Real arrays of any dtype; ``k`` may be 0.
    clipping_norm : float
        Bound of the l2 norm of a task's whole update, in the unit of the updates.

    Returns
    -------
    list of float64 arrays, each [...]
        Sums over the tasks; zeros where nobody counts.

    Raises
    ------
    InputError
        As :func:`clip_rows`.
    """
    check_clipping_norm(clipping_norm)
    flat = _flatten(arrays)
    ends = list(accumulate((array.shape[1] for array in flat), initial=0))
    total = np.zeros(ends[-1], dtype=np.float64)
    high = max(1, _BLOCK_ENTRIES // max(1, ends[-1]))
    buffer = np.empty((min(high, len(flat[0])), ends[-1]), dtype=np.float64)
    for start in range(0, len(flat[0]), high):
        rows = buffer[: len(flat[0]) - start]
        for array, first, last in zip(flat, ends, ends[1:], strict=False):
            rows[:, first:last] = array[start : start + high]
        _add_clipped(rows, clipping_norm, total)
    pieces = zip(arrays, ends, ends[1:], strict=False)
    return [total[first:last].reshape(np.shape(array)[1:]) for array, first, last in pieces]


def _add_clipped(rows: NDArray[np.float64], clipping_norm: float, total: NDArray[np.float64]) -> None:
    """Clip some rows [k, d] and add them to the total [d].

    Row after row, so that the rounding of a sum follows neither from blocks nor from chunks.
    """
    from scipy.linalg.blas import daxpy  # here, so that asking a ledger does not wait for it

    norms, extreme = _measure([rows])
    for k in extreme:
        (rows[k],) = _clip_extreme([rows], int(k), clipping_norm)
    factors = _factors(norms, clipping_norm)
    factors[extreme] = 1.0
    for row, factor in zip(rows, factors.tolist(), strict=True):
        if factor:  # 0 * NaN is NaN: rows that are not finite are left out
            daxpy(row, total, a=factor)  # in place, in one pass


def _flatten(arrays: Arrays) -> list[NDArray[Any]]:
    """View every array as [k, d] after checking it."""
    checked = [np.asarray(array) for array in arrays]
    if not checked:
        raise InputError("clipping: there must be at least one array of updates, got none.")
    for position, array in enumerate(checked):
        if array.dtype.kind not in "biuf":
            raise InputError(
                f"clipping: array {position} must hold real numbers, got dtype {array.dtype}; send floats, "
                "integers or booleans."
            )
        if array.ndim == 0 or array.shape[0] != np.shape(checked[0])[0]:
            raise InputError(
                f"clipping: every array must have one row per task; array {position} has shape {array.shape} "
                f"and array 0 has shape {checked[0].shape}."
            )
    return [_rows_of(array) for array in checked]


def _rows_of(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def _blocks(array: NDArray[Any]) -> Iterator[tuple[slice, slice]]:
    """Walk a [k, d] array in blocks of at most ``_BLOCK_ENTRIES`` entries, each as wide as it can be."""
    count, width = array.shape
    wide = max(1, min(width, _BLOCK_ENTRIES))
    high = max(1, _BLOCK_ENTRIES // wide)
    for row in range(0, count, high):
        for column in range(0, width, wide):
            yield slice(row, row + high), slice(column, column + wide)


def _measure(flat: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the norms, and which rows are finite but too large or too small to be squared."""
    squares = np.zeros(flat[0].shape[0], dtype=np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for array in flat:
            for rows, columns in _blocks(array):
                block = array[rows, columns].astype(np.float64, copy=False)
                # One pass without a temporary; the error of a block's sum stays below 3e-11 of it, typically 1e-14.
                squares[rows] += np.vecdot(block, block)
        norms = np.sqrt(squares)
    odd = np.flatnonzero(~((squares > _EXACT_SQUARES[0]) & (squares < _EXACT_SQUARES[1])))
    extreme: list[int] = []
    if not len(odd):
        return norms, np.asarray(extreme, dtype=np.intp)
    norms[np.isnan(norms)] = math.inf
    # Rows of zeros are common (tasks that do not count) and must not cost a look at each.
    largest = np.max([np.abs(array[odd]).max(axis=1, initial=0) for array in flat], axis=0)
    for k in odd[largest != 0]:  # NaN, too
        scale, relative = _scaled_norm(flat, int(k))
        if scale == 0.0 or math.isinf(scale):
            norms[k] = scale
            continue
        norms[k] = min(scale * relative, float(np.finfo(np.float64).max))
        extreme.append(int(k))
    return norms, np.asarray(extreme, dtype=np.intp)


def _scaled_norm(flat: Sequence[NDArray[Any]], k: int) -> tuple[float, float]:
    """Return (largest magnitude, norm relative to it) of row ``k``; (inf, 0) if it is not finite."""
    row = np.concatenate([array[k].astype(np.float64) for array in flat])
    scale = float(np.abs(row).max(initial=0.0))
    if scale == 0.0 or not math.isfinite(scale):
        return (scale if scale == 0.0 else math.inf), 0.0
    with np.errstate(under="ignore"):
        return scale, math.sqrt(float(np.square(row / scale).sum()))


def _clip_extreme(flat: Sequence[NDArray[Any]], k: int, clipping_norm: float) -> list[NDArray[np.float64]]:
    """Clip one row whose squares leave the range of float64."""
    scale, relative = _scaled_norm(flat, k)
    parts = [array[k].astype(np.float64) for array in flat]
    if scale * relative <= clipping_norm:
        return parts
    with np.errstate(under="ignore"):
        return [part / scale * (clipping_norm / relative) for part in parts]


def _factors(norms: NDArray[np.float64], clipping_norm: float) -> NDArray[np.float64]:
    """Return what each row is multiplied by; at most 1, and 0 for rows that are not finite."""
    factors = np.ones_like(norms)
    np.divide(clipping_norm, norms, out=factors, where=norms > clipping_norm)
    factors[np.isinf(norms)] = 0.0
    return factors
