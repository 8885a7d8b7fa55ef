"""Privacy loss distributions on a grid: built from a privacy curve, composed by powers of one transform.

A release with the curve ``delta(epsilon)`` is bounded by the distribution on the grid whose curve meets it on the grid
and runs above it in between ("connect the dots": Doroshenko, Ghazi, Kamath, Kumar and Manurangsi, PETS 2022, Algorithm
1). Composition adds losses, so n equal releases are the n-th power of one Fourier transform: ten thousand rounds cost
what two do, and one round more costs another power. Mass outside the window that is kept, at most ``_TAIL``, counts as
an infinite loss. All rounding is pessimistic up to that of floating-point numbers (1e-12 of a probability).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Distribution", "compose", "from_curve"]

Vector = NDArray[np.float64]

_TAIL = 1e-15
"""Most mass that a composition drops from its window, and counts as an infinite loss."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """Probabilities of losses ``(lower + i) * step``, and of an infinite loss.

    Attributes
    ----------
    step : float
        Distance of two losses.
    lower : int
        Smallest loss, in steps.
    mass : ndarray of float64, shape [n]
        Probabilities.
    infinite : float
        Probability of an infinite loss.
    """

    step: float
    lower: int
    mass: Vector
    infinite: float

    def epsilon(self, delta: float) -> float:
        """Return the smallest epsilon of at least 0 whose delta is at most ``delta``; infinity if there is none."""
        if self.infinite > delta:
            return math.inf
        losses, above, scaled = self._tails()
        # At a loss l the curve is above - exp(l) scaled; between two losses both sums stay the same.
        curve = above - np.exp(np.minimum(losses, 700.0)) * scaled
        enough = np.flatnonzero(curve <= delta)
        if len(enough) == 0:  # numbers too large for exp
            return float(losses[-1]) if len(losses) else 0.0
        first = int(enough[0])
        if first == 0:
            return 0.0
        # Just below the first loss that is enough, its own mass counts, too.
        high, low = above[first - 1], scaled[first - 1]
        return float(min(losses[first], math.log((high - delta) / low))) if low > 0.0 else float(losses[first])

    def deltas(self, epsilons: Sequence[float]) -> list[float]:
        """Return delta at several epsilons of at least 0."""
        losses = self.step * np.arange(self.lower, self.lower + len(self.mass))
        found = []
        for one in epsilons:
            start = int(np.searchsorted(losses, one, side="right"))
            found.append(self.infinite + float(-np.expm1(one - losses[start:]) @ self.mass[start:]))
        return found

    def log_moment(self, exponent: float) -> float:
        """Return log of the sum of ``exp(exponent * i) * mass[i]``, where i counts steps from ``lower``."""
        terms = exponent * np.arange(len(self.mass))
        largest = float(terms[-1]) if exponent > 0.0 else 0.0
        total = float(np.exp(terms - largest) @ self.mass)
        return largest + math.log(total) if total > 0.0 else math.inf

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation of the index."""
        index = np.arange(len(self.mass))
        mean = float(index @ self.mass)
        return mean, math.sqrt(max(0.0, float(np.square(index - mean) @ self.mass)))

    def _tails(self) -> tuple[Vector, Vector, Vector]:
        """Return 0 and the losses above it, and for each the mass above it: as it is, and weighted by exp(-loss)."""
        start = max(0, 1 - self.lower)
        losses = self.step * np.arange(self.lower + start, self.lower + len(self.mass))
        mass = self.mass[start:]
        scaled = np.exp(-losses) * mass

        def above(values: Vector) -> Vector:
            return np.append(np.cumsum(values[::-1])[::-1], 0.0)

        return np.append(0.0, losses), self.infinite + above(mass), above(scaled)


def from_curve(curve: Callable[[Vector], Vector], step: float, smallest: float, largest: float) -> Distribution:
    """Return the distribution on a grid for one release.

    Parameters
    ----------
    curve : callable
        Deltas at an array of epsilons, which may be negative.
    step : float
        Step of the grid.
    smallest, largest : float
        Where losses lie; what lies outside is rounded up to ``smallest``, or to infinity.
    """
    first, last = math.floor(smallest / step), max(math.ceil(largest / step), math.floor(smallest / step) + 1)
    grid = step * np.arange(first, last + 1, dtype=np.float64)
    deltas = np.minimum.accumulate(np.clip(curve(grid), 0.0, 1.0))  # rounding may not make the curve rise
    falls = np.diff(deltas)
    rise = math.expm1(step)
    mass = np.empty(len(grid))
    mass[0] = 1.0 - deltas[0] + falls[0] / rise
    mass[1:-1] = (falls[1:] - falls[:-1] * math.exp(step)) / rise
    mass[-1] = falls[-1] / math.expm1(-step)
    return Distribution(step, first, np.maximum(0.0, mass), float(deltas[-1]))


def compose(parts: Sequence[tuple[Distribution, int]]) -> Distribution:
    """Return the distribution of all parts together, each as often as its count says; all on one grid."""
    step = parts[0][0].step
    low, high = _window(parts)
    size = _smooth(max(high - low + 1, *(len(one.mass) for one, _ in parts)))
    whole = functools.reduce(np.multiply, (_power(_transform(one, size), count) for one, count in parts))
    # Losses beyond the window come back at its other end: the window's tails, which count as infinite.
    mass = np.roll(np.fft.irfft(whole, size), -low)[: high - low + 1]
    finite = math.fsum(count * math.log1p(-one.infinite) if one.infinite < 1.0 else -math.inf for one, count in parts)
    lower = sum(one.lower * count for one, count in parts) + low
    return Distribution(step, lower, mass, min(1.0, _TAIL - math.expm1(finite)))


def _window(parts: Sequence[tuple[Distribution, int]]) -> tuple[int, int]:
    """Return the indices of the sum that hold all but ``_TAIL`` of its mass, by Chernoff's bound."""
    low, high = 0, sum((len(one.mass) - 1) * count for one, count in parts)
    deviation = math.sqrt(sum(count * _moments(one)[1] ** 2 for one, count in parts))
    if deviation == 0.0:
        return low, high
    # The best exponent for a normal sum, and smaller ones for sums with rare large terms; halves of powers of 2, so
    # that a sum of one more asks for the same moments again.
    normal = round(2.0 * math.log2(math.sqrt(-2.0 * math.log(_TAIL)) / deviation))
    skewed = round(-2.0 * math.log2(max(len(one.mass) for one, _ in parts)))
    room = math.log(2.0 / _TAIL)
    for half in sorted({*range(normal - 6, normal + 3), *range(skewed - 2, skewed + 9)}):
        exponent = 2.0 ** (half / 2.0)
        up = math.fsum(count * _log_moment(one, exponent) for one, count in parts)
        down = math.fsum(count * _log_moment(one, -exponent) for one, count in parts)
        if math.isfinite(up):
            high = min(high, math.ceil((up + room) / exponent))
        if math.isfinite(down):
            low = max(low, math.floor(-(down + room) / exponent))
    return min(low, high), high


def _smooth(size: int) -> int:
    """Return an even size that is fast to transform; coarse, so that sums of one more share the transforms."""
    power = 1 << (size - 1).bit_length()
    return max(4, next(part for part in (power // 8 * 5, power // 4 * 3, power // 8 * 7, power) if part >= size))


def _power(values: NDArray[np.complex128], count: int) -> NDArray[np.complex128]:
    """Return the power by repeated squaring: three times faster than logarithms, and as exact."""
    result: NDArray[np.complex128] | None = None
    square = values.copy()  # large, so it is changed in place: new memory would take longer than the products
    while True:
        if count & 1:
            result = square.copy() if result is None else np.multiply(result, square, out=result)
        count >>= 1
        if not count:
            assert result is not None
            return result
        np.multiply(square, square, out=square)


# Distributions are compared by identity: those of one release are kept by whoever builds them.


@functools.lru_cache(maxsize=8)
def _transform(one: Distribution, size: int) -> NDArray[np.complex128]:
    return np.fft.rfft(one.mass, size)


@functools.lru_cache(maxsize=16)
def _moments(one: Distribution) -> tuple[float, float]:
    return one.moments()


@functools.lru_cache(maxsize=512)
def _log_moment(one: Distribution, exponent: float) -> float:
    return one.log_moment(exponent)
