"""Noisy values on a public grid, so that their low bits tell nothing.

The sum of a value and noise, as floating-point numbers, keeps traces of both in its low bits: not every number can come
out, and which ones can depends on the value (Mironov, CCS 2012). So whatever had noise added is rounded to multiples of
a power of two that follows from the noise's standard deviation alone, which is public. Rounding is post-processing and
costs no privacy; with steps of at most 2^-10 standard deviations it adds less than 1e-7 of the noise's variance.

What is achieved: the addition is rounded correctly and the grid is coarser than that rounding, so what gets out is a
function of the exact sum of value and noise: it says in which cell of the grid that sum lies, and nothing of the last
bits of either. What is not: the noise has at most 2^117 values per pair of numbers and is no exact Gaussian. Near the
middle a cell holds 2^40 and more of its values, beyond 8.8 standard deviations they lie farther apart than a cell, and
at 9.4 the tail ends. What that adds to delta is tiny, and it is not proven: that takes noise which is drawn from the
discrete distribution on the grid.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOT_EXACT", "grid_step", "to_grid"]

NOT_EXACT = "floating-point noise, rounded to a public grid, stands for exact Gaussian noise: not proven exact"
"""What must be said wherever assumptions of a guarantee are listed."""

_STEP_BITS = 10
"""A step is at most 2^-10 standard deviations, and more than half of that."""


def grid_step(std: float) -> float:
    """Return the grid's step for noise of this standard deviation: a power of two, 0 where there is no noise.

    Never less than the smallest number above 0, of which all numbers are multiples.
    """
    if std == 0.0:
        return 0.0
    exponent = math.frexp(std)[1] - 1  # 2^exponent <= std < 2^(exponent + 1), also where a logarithm would be rounded
    return math.ldexp(1.0, max(exponent - _STEP_BITS, -1074))


def to_grid(values: NDArray[np.float64], std: float) -> NDArray[np.float64]:
    """Return values that had noise of this standard deviation added, rounded to the nearest multiple of the step.

    Without noise they stay as they are. So do numbers of at least 2^52 steps, which lie on the grid already.
    """
    step = grid_step(std)
    if step == 0.0:
        return values
    with np.errstate(over="ignore"):
        rounded = np.rint(values / step) * step
    return np.where(np.abs(values) < 2.0**52 * step, rounded, values)
