"""Delta and epsilon of many releases together, as an integral along a line in the complex plane.

Privacy losses add, so the moment generating functions ``M(s) = E exp(s L)`` of single releases multiply. With
``K(s) = sum of log M(s)`` over all releases and any t > 0,

    delta(epsilon) = 1 / (2 pi i)  integral from t - i inf to t + i inf of  exp(K(s) - s epsilon) / (s (s + 1)) ds

(Zhu, Dong and Wang, AISTATS 2022; Alghamdi and others, ICML 2023). The line through t weights the losses by
``exp(t L)``: near the saddle point the integrand is about as large as delta itself, so that rounding errors are
relative to delta, however small it is. What is done here, and why it is never too small:

- **Steps.** The trapezoid rule with steps d sums ``delta(epsilon + j p) exp(t j p)`` over all whole j, with
  ``p = 2 pi / d`` (Poisson's summation formula). The term j = 0 is delta, the others are at least 0. Steps are chosen
  so that they are negligible; were they not, the answer would be too large.
- **The end.** One plain Gaussian release is added that never happened, so small that it costs a ten-thousandth of
  epsilon (one that did happen does as well): leaving it out is post-processing, so delta with it is at least delta.
  With it the integrand falls like ``exp(-mu^2 w^2 / 2) / w^2``; the integral of that beyond the last step is added.
- **Cut off.** Outputs that single releases were not integrated over count as an infinite loss.
- **Rounding.** How far each M may be rounded follows from the sizes of exponents and angles; the absolute values of the
  integrand, times as much per release, are added.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.privacy.distribution import FIRST, LAST, Distribution, exponent

__all__ = ["Composition"]

Vector = NDArray[np.float64]

_ROUNDING = 2.0**-53
"""Rounding of an operation."""

_MAX_RELATIVE_BLUR = 5e-5
"""What the added release may add to epsilon, relative."""

_MAX_REFINEMENT = 16.0
"""By how much less it adds in the next try, at most."""

_END_EXPONENT = 22.0
"""The integral ends where the added release has made the integrand smaller by exp(-22), at least."""

_BLOCK_TERMS = 128
"""Terms are added up in blocks, so that rounding errors do not grow with their number."""

_MARGIN_EXPONENT = 12.0
"""What steps may add to delta: exp(-12), relative."""

_WORSE_EXPONENT = 6.0
"""How much larger than at the saddle point the integrand may be for fewer steps, as a power of e."""

_MAX_STEPS = 40_000

_NEGLIGIBLE_EXPONENT = 42.0
"""Minus log of the delta below which a bound takes its place: no question is about it."""

_LINE_STRIDE = 4
_COARSE = range(FIRST, LAST + 1, _LINE_STRIDE)
"""Lines go through exponents of these indices."""

_EXPONENTS = np.asarray([exponent(index) for index in _COARSE])


class Composition:
    """The privacy loss of some releases together, in one direction.

    Parameters
    ----------
    parts : sequence of (Distribution, int)
        Privacy losses of single releases, and how often each happened.
    square : float
        Square of ``mu = sensitivity / noise`` of all plain Gaussian releases together.
    """

    def __init__(self, parts: Sequence[tuple[Distribution, int]], square: float) -> None:
        self._parts, self._square = parts, square
        self.infinite = -math.expm1(math.fsum(count * math.log1p(-one.cut) for one, count in parts))
        self._moment = functools.cache(self._sum_moments)
        self._line = functools.lru_cache(maxsize=64)(self._make_line)

    def epsilon(self, delta: float) -> float:
        """Return the smallest epsilon of at least 0 whose delta is at most ``delta``; infinity if that was too much."""
        left = delta - self.infinite
        if left <= 0.0:
            return math.inf
        size = -math.log(left)

        def bound(index: int) -> float:
            return (self._moment(index) - _room(exponent(index)) + size) / exponent(index)

        best = _smallest(bound)
        most = high = bound(best)
        low, blur = 0.5 * high, _MAX_RELATIVE_BLUR * size
        while most > 0.0:
            line = self._chosen(best, size, blur, low, high)
            if line is None:
                break
            most = line.epsilon(left, most)
            slope = float(line.slopes(np.asarray([most]))[0])
            too_much = line.blurred(slope) / (_MAX_RELATIVE_BLUR * (1.0 + slope * most))
            if most >= low and too_much <= 2.0:
                break
            # Chernoff's bound was far off: all lines are valid, but one that was made for this epsilon is closer.
            if most < low:
                low, high = 0.9 * most, most
                best = _smallest(functools.partial(self._integrand, most))
            if too_much > 2.0:
                blur = min(blur, line.blur / min(too_much, _MAX_REFINEMENT))
        return max(0.0, most)

    def deltas(self, epsilons: Sequence[float]) -> list[float]:
        """Return delta at several epsilons of at least 0; 1 where that was too much."""
        lines: dict[int, list[int]] = {}
        found = [1.0] * len(epsilons)
        sizes = [0.0] * len(epsilons)
        for place, one in enumerate(epsilons):
            values = self._integrands - one * _EXPONENTS
            best = int(np.argmin(values))
            sizes[place] = -float(values[best])
            if sizes[place] > _NEGLIGIBLE_EXPONENT:
                found[place] = min(1.0, self.rough(one))
            else:
                lines.setdefault(best, []).append(place)
        for best, places in lines.items():
            at = np.asarray([epsilons[place] for place in places])
            some = [sizes[place] for place in places]
            several = self._several(_COARSE[best], at, min(some), max(some))
            for place, value in zip(places, several, strict=True):
                found[place] = min(1.0, max(0.0, self.infinite + value))
        return found

    def _several(self, best: int, at: Vector, least: float, most: float) -> list[float]:
        blur, known = _MAX_RELATIVE_BLUR * max(0.5, 0.15 * least), [1.0] * len(at)
        while True:
            line = self._chosen(best, most, blur, float(at.min()), float(at.max()))
            if line is None:
                return known
            slopes = line.slopes(at)
            too_much = float((line.blurred(slopes) / (_MAX_RELATIVE_BLUR * np.maximum(0.6, 0.15 * slopes * at))).max())
            if too_much <= 1.0:
                return [float(one) for one in line.deltas(at)]
            blur = line.blur / min(too_much, _MAX_REFINEMENT)
            known = [float(one) for one in line.deltas(at)]

    def rough(self, epsilon: float, weight: float = 1.0) -> float:
        """Return an upper bound of delta at an epsilon; ``weight`` is that of what was cut off."""
        bound = float((self._bounds - epsilon * _EXPONENTS).min())
        return weight * self.infinite + math.exp(min(0.0, bound))

    @functools.cached_property
    def _coarse(self) -> Vector:
        return np.asarray([self._moment(index) for index in _COARSE])

    @functools.cached_property
    def _integrands(self) -> Vector:
        found: Vector = self._coarse - np.log(_EXPONENTS) - np.log1p(_EXPONENTS)
        return found

    @functools.cached_property
    def _bounds(self) -> Vector:
        found: Vector = self._coarse - np.asarray([_room(one) for one in _EXPONENTS])
        return found

    def _sum_moments(self, index: int) -> float:
        tilt = exponent(index)
        sampled = math.fsum(count * one.log_moment(index) for one, count in self._parts)
        return sampled + 0.5 * self._square * tilt * (tilt + 1.0)

    def _chosen(self, best: int, size: float, blur: float, low: float, high: float) -> _Line | None:
        """Choose line and steps for deltas down to about exp(-size), at epsilons from low to high; None if too many.

        The line through the saddle point has the smallest integrand, one below it often needs fewer steps.
        """
        room = max(0.0, size) + _MARGIN_EXPONENT
        choices: list[tuple[float, float, int]] = []
        for index in range(
            best - best % _LINE_STRIDE, max(FIRST, best - 12) - 1, -_LINE_STRIDE
        ):  # few, so that questions share them
            if choices and self._integrand(high, index) - self._integrand(high, best) > _WORSE_EXPONENT:
                break
            tilt = exponent(index)
            # Chernoff's bounds of the terms of the trapezoid rule: below, where delta <= 1, and above.
            above = math.inf
            for more in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
                if index + more <= LAST:
                    other = exponent(index + more)
                    above = min(above, (self._moment(index + more) - other * low + room) / (other - tilt))
            period = max(room / tilt, above)
            choices.append((period * tilt, period, index))
        cheapest = min(choices)[0]  # of lines that cost about the same the one nearest to the saddle point, always
        _, period, index = next(one for one in choices if one[0] <= 1.1 * cheapest)
        if not period < math.inf:
            return None
        return self._line(index, math.floor(2.0 * math.log2(blur)), math.ceil(4.0 * math.log2(period)))

    def _integrand(self, epsilon: float, index: int) -> float:
        tilt = exponent(index)
        return self._moment(index) - tilt * epsilon - math.log(tilt) - math.log1p(tilt)

    def _make_line(self, index: int, half: int, quarter: int) -> _Line | None:
        """Return the line at an exponent, with blur and period given as powers of 2."""
        tilt, step = exponent(index), 2.0 * math.pi / 2.0 ** (quarter / 4.0)
        blur = 2.0 * 2.0 ** (half / 2.0) / (tilt * (tilt + 1.0))
        square = max(self._square, blur)
        steps = math.sqrt(2.0 * _END_EXPONENT / square) / step
        if not steps < _MAX_STEPS:
            return None
        steps = math.ceil(2.0 ** (math.ceil(4.0 * math.log2(max(8.0, steps))) / 4.0))
        w = step * np.arange(steps + 1)
        logs = 0.5 * square * 1j * w * (2.0 * tilt + 1.0 + 1j * w)
        sizes, wrong = np.abs(logs), np.zeros(len(w))
        for one, count in self._parts:
            change = one.transform(index, step, steps)
            if change is None:
                return None
            log = count * _log1p(change)
            logs += log
            sizes += np.abs(log)
            error = one.rounding(index)
            off = np.minimum(error.most, error.each * w) + error.dropped
            wrong += count * (error.whole + off / np.maximum(np.abs(1.0 + change), 1e-300))
        # Operations on each term, and their sum.
        wrong += _ROUNDING * (64.0 + _BLOCK_TERMS + len(w) / _BLOCK_TERMS + 4.0 * (sizes + abs(self._moment(index))))
        s = tilt + 1j * w
        terms = (step / math.pi) * np.exp(logs) / (s * (s + 1.0))
        terms[0] *= 0.5
        tail = math.exp(-0.5 * square * w[-1] * w[-1]) / (math.pi * square * w[-1] ** 3)
        more = float(np.abs(terms) @ np.minimum(1.0, wrong)) + tail
        added = square - self._square
        return _Line(s, self._moment(index) + 0.5 * added * tilt * (tilt + 1.0), terms, more, added)


class _Line:
    """Terms of the trapezoid rule: delta is ``exp(whole) (more exp(-t epsilon) + sum of terms exp(-s epsilon))``.

    Parameters
    ----------
    s : ndarray of complex128, shape [n]
        Points of the line.
    whole : float
        K at the first of them.
    terms : ndarray of complex128, shape [n]
        Integrands, divided by exp(whole), times the step.
    more : float
        What covers rounding and the end; rounding of ``s epsilon`` comes on top.
    added : float
        Square of mu of the release that was added.
    """

    def __init__(
        self, s: NDArray[np.complex128], whole: float, terms: NDArray[np.complex128], more: float, added: float
    ) -> None:
        self._tilt, self._whole, self._more, self._added = float(s[0].real), whole, more, added
        blocks = -(-len(s) // _BLOCK_TERMS)
        padding = (0, blocks * _BLOCK_TERMS - len(s))
        self._turns = np.pad(s.imag, padding).reshape(blocks, 1, _BLOCK_TERMS)
        both = np.stack([np.pad(terms, padding), np.pad(s * terms, padding)], axis=1)
        self._both = both.reshape(blocks, _BLOCK_TERMS, 2)
        self._per_epsilon = 4.0 * _ROUNDING * float(np.abs(terms) @ np.abs(s))

    @property
    def blur(self) -> float:
        """What the added release adds to log delta at most where delta falls like exp(-t epsilon)."""
        return float(self.blurred(self._tilt))

    def blurred(self, slope: Any) -> Any:
        """Return what the added release adds to log delta where delta falls like exp(-slope epsilon)."""
        return 0.5 * self._added * slope * (slope + 1.0)

    def deltas(self, epsilons: Vector) -> Vector:
        """Return delta at each of some epsilons."""
        return self._deltas_and_falls(epsilons)[0]

    def slopes(self, epsilons: Vector) -> Vector:
        """Return minus the derivative of log delta at each of some epsilons, positive."""
        deltas, falls = self._deltas_and_falls(epsilons)
        return np.maximum(falls / np.maximum(deltas, 1e-300), 1e-3 * self._tilt)

    def epsilon(self, delta: float, high: float) -> float:
        """Return the smallest epsilon from 0 to ``high`` at which delta is met, by Newton's steps in a bracket."""
        goal, low, point = math.log(delta), 0.0, high
        for _ in range(100):
            (value,), (fall,) = self._deltas_and_falls(np.asarray([point]))
            excess = math.log(max(value, 1e-300)) - goal
            if excess <= 0.0:
                high = point
                if point == 0.0 or excess > -1e-9:
                    break
            else:
                low = point
            if high - low <= 1e-12 * high:
                break
            point = point + excess * value / fall if fall > 0.0 else -1.0
            if low == 0.0 and point <= 0.0:
                point = 0.0
            elif not low < point < high:
                point = 0.5 * (low + high)
        return high

    def _deltas_and_falls(self, epsilons: Vector) -> tuple[Vector, Vector]:
        sums = np.real(np.exp(-1j * epsilons[:, None] * self._turns) @ self._both).sum(axis=0)
        size = np.exp(self._whole - self._tilt * epsilons)
        more = self._more + self._per_epsilon * epsilons
        return size * (more + np.maximum(0.0, sums[:, 0])), size * (more * self._tilt + sums[:, 1])


def _log1p(x: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Return log(1 + x), exact for small x, too; numpy's is not."""
    near = np.abs(x) < 0.5
    real = np.where(near, x.real * (2.0 + x.real) + x.imag * x.imag, 0.0)
    away = np.log(np.maximum(np.abs(1.0 + x), 1e-300))
    return np.where(near, 0.5 * np.log1p(real), away) + 1j * np.arctan2(x.imag, 1.0 + x.real)


def _smallest(function: Callable[[int], float]) -> int:
    """Return the index of the smallest value of a function that falls, then rises."""
    stride = 16
    best = min(range(FIRST, LAST + 1, stride), key=function)
    while stride > 1:
        stride //= 2
        near = (best, best - stride, best + stride)
        best = min((one for one in near if FIRST <= one <= LAST), key=function)
    return best


def _room(tilt: float) -> float:
    """Return by how much the bound log delta <= K(t) - t epsilon can be improved at an exponent t.

    Canonne, Kamath and Steinke, NeurIPS 2020, Proposition 12: the largest ratio of 1 - exp(-y) and exp(t y).
    """
    return math.log1p(tilt) + tilt * math.log1p(1.0 / tilt)
