"""The privacy loss of one release, and its moments: no grid of losses, nothing is rounded to one.

A release is dominated by a pair of densities P and Q of a number x; its privacy loss is ``L = log P(x) / Q(x)`` with x
drawn from P. All that composition needs is the moment generating function ``M(s) = E exp(s L)`` at complex s (Zhu, Dong
and Wang, AISTATS 2022). It is an integral over x of an analytic function, done by Gauss-Legendre panels that are short
enough for the function's curvature and for the turns of ``exp(s L)``; twenty nodes then leave nothing but the rounding
of floating-point numbers. What lies outside the panels is not forgotten: its probability is ``cut``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIRST", "LAST", "Distribution", "Piece", "Rounding", "exponent"]

Vector = NDArray[np.float64]

FIRST, LAST = -160, 560
"""Exponents are powers of the eighth root of 2, so that questions which differ little share their moments."""

_NODES_PER_PANEL = 20
"""Nodes on each panel."""

_MASS_SLACK = 1e-9
"""How far a probability may be rounded."""

_MAX_RADIANS = 15.0
"""Most radians that exp(s L) turns on one panel on average; twenty nodes integrate 20 of them to 1e-16."""

_ROUNDING = 8.0 * 2.0**-53
"""Rounding of an operation, and of those that follow."""

_MIN_PANEL_SHARE = 1e-24
"""Panels with less than this share of a moment are left out of it."""

_MAX_PLAIN_EXPONENT = 300.0
"""Powers of e up to this exponent are summed as they are."""

_MAX_EVALUATIONS = 2e9
"""Most nodes times steps: a second or two."""

_MAX_MULTIPLICATIONS = 30_000
"""Most multiplications in one product of complex matrices; OpenBLAS takes several threads from 32,768 on."""

_PRODUCTS_AT_ONCE = 8
"""For so many products the powers of e are taken in one call; more would leave the cache."""


def exponent(index: int) -> float:
    """Return the exponent of an index between :data:`FIRST` and :data:`LAST`."""
    return float(2.0 ** (index / 8.0))


class Piece(NamedTuple):
    """One way for x to come about.

    Attributes
    ----------
    low, high : float
        Where x lies.
    density : callable
        Log of the density of P at an array of x.
    loss : callable
        Privacy loss at an array of x.
    """

    low: float
    high: float
    density: Callable[[Vector], Vector]
    loss: Callable[[Vector], Vector]


class Rounding(NamedTuple):
    """How far moments are rounded.

    Attributes
    ----------
    whole : float
        M(t), relative.
    most, each, dropped : float
        M(t + i w) / M(t), at most ``min(most, each w) + dropped``.
    """

    whole: float
    most: float
    each: float
    dropped: float


class Distribution:
    """The privacy loss of one release.

    Parameters
    ----------
    pieces : sequence of Piece
        Where P has a density.
    width : float
        Length over which density and loss change little.
    none : float
        Probability that the loss is exactly 0, in addition.
    cut : float
        Probability of all other x; they count as an infinite loss.
    graded : bool
        Whether panels get shorter and shorter towards the ends of a piece. Large moments of losses that are bounded are
        decided there, where these rise or fall on each piece; twenty nodes would miss how steep ``exp(t L)`` is.
    rate : float
        Rate of the sample that these losses were made for, 1 if of none: who is in no sample loses nothing.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        width: float,
        none: float,
        cut: float,
        *,
        graded: bool = False,
        rate: float = 1.0,
    ) -> None:
        self.none, self.cut, self.rate = none, cut, rate
        self._pieces = [(one, _edges(one.low, one.high, width, graded=graded)) for one in pieces]
        self._moments: dict[int, float] = {}
        self._roundings: dict[int, Rounding] = {}
        self._transforms = functools.lru_cache(maxsize=16)(self._transform)

    @functools.cached_property
    def _coarse(self) -> tuple[Vector, Vector, float]:
        """Logs of masses, losses, and the largest loss, on panels as they are."""
        parts = [_on_panels(piece, edges) for piece, edges in self._pieces]
        logs, losses = (np.concatenate([one[k].ravel() for one in parts]) for k in (0, 1))
        if self.none:
            logs, losses = np.append(logs, math.log(self.none)), np.append(losses, 0.0)
        return logs, losses, float(losses.max())

    def log_moment(self, index: int) -> float:
        """Return log M at the exponent of an index."""
        if index not in self._moments:
            self._moments[index] = self._log_moment(exponent(index))
        return self._moments[index]

    def _log_moment(self, tilt: float) -> float:
        logs, losses, _ = self._coarse
        return _log_mean(logs, tilt * losses)

    @property
    def masses(self) -> tuple[float, float]:
        """The probabilities that P and Q have where P was integrated: both are 1 if nothing was cut off."""
        logs, losses, _ = self._coarse
        return float(np.exp(logs).sum()), float(np.exp(logs - losses).sum())

    @property
    def flaw(self) -> str | None:
        """Why these are no privacy losses, in words; None if nothing tells that they are not.

        P has all of its probability but what was cut off, and Q none above 1.
        """
        if not (0.0 <= self.cut <= 1.0 and 0.0 <= self.none <= 1.0 and self._pieces):
            return f"'none' and 'cut' must be probabilities beside pieces, got {self.none:g} and {self.cut:g}"
        with np.errstate(all="ignore"):
            logs, losses, _ = self._coarse
            if not np.isfinite(losses).all() or np.isnan(logs).any():
                return "a loss or a density is not a number"
            p, q = self.masses
        if not (1.0 - self.cut - _MASS_SLACK <= p <= 1.0 + _MASS_SLACK and q <= 1.0 + _MASS_SLACK):
            return (
                f"P has the probability {p:.9g} where it was integrated, 'none' included, and Q {q:.9g}; P must miss "
                "'cut' at most, and neither may have more than 1"
            )
        return None

    @property
    def monotone(self) -> bool:
        """Whether the loss rises or falls on each piece."""
        steps = [np.diff(_on_panels(piece, edges)[1].ravel()) for piece, edges in self._pieces]
        slack = 1e-12 * (1.0 + abs(self._coarse[2]))
        return all(bool((one >= -slack).all() or (one <= slack).all()) for one in steps)

    @property
    def symmetric(self) -> bool:
        """Whether Q against P has the same losses as P against Q: their moments agree. Nothing may be cut off."""
        logs, losses, _ = self._coarse
        slack = 1e-15 * float(np.abs(losses).max())
        pairs = ((self._log_moment(t), _log_mean(logs - losses, -t * losses)) for t in (0.3, 1.0, 2.7, 8.0))
        return all(abs(one - other) <= 1e-9 * abs(one) + slack for one, other in pairs)

    def divergence(self, order: float) -> float:
        """Return the Renyi divergence of P from Q at an order above 1, rounded up; without what was cut off."""
        tilt = order - 1.0
        size = tilt * float(np.abs(self._coarse[1]).max())
        return (max(0.0, self._log_moment(tilt)) + _ROUNDING * (16.0 + size) * min(1.0, size)) / tilt

    def rounding(self, index: int) -> Rounding:
        """Return how far moments on the line through the exponent of an index may be rounded.

        Powers of e are rounded in proportion to the size of the exponent, so large exponents and angles count. What
        is summed is exp(s L) - 1, so that losses near 0, which most are at a small rate, add next to nothing.
        """
        if index not in self._roundings:
            logs, losses, largest = self._coarse
            tilt, whole = exponent(index), self.log_moment(index)
            share = np.exp(logs + tilt * losses - whole)
            sizes = 16.0 + np.abs(logs) + tilt * np.abs(losses)
            summed = share
            if tilt * largest < _MAX_PLAIN_EXPONENT:
                summed = np.exp(logs - whole) * np.abs(np.expm1(tilt * losses))
            self._roundings[index] = Rounding(
                whole=_ROUNDING * float(summed @ sizes),
                most=2.0 * _ROUNDING * float(share @ sizes),
                each=_ROUNDING * float(share @ (sizes * np.abs(losses))),
                dropped=2.0 * _MIN_PANEL_SHARE * sum(len(edges) for _, edges in self._pieces),
            )
        return self._roundings[index]

    def transform(self, index: int, step: float, count: int) -> NDArray[np.complex128] | None:
        """Return M(t + i k step) / M(t) - 1 for k = 0 to count, t the exponent of an index; None if it is too much."""
        return self._transforms(index, step, count)

    def _transform(self, index: int, step: float, count: int) -> NDArray[np.complex128] | None:
        tilt = exponent(index)
        whole = self.log_moment(index)
        shares, losses = [np.asarray([self.none * math.exp(-whole)])], [np.zeros(1)]
        for piece, edges in self._pieces:
            logs, at = _on_panels(piece, edges)
            kept = np.exp(logs + tilt * at - whole).sum(axis=1) > _MIN_PANEL_SHARE
            if not kept.any():
                continue
            turns = np.ptp(at[kept], axis=1) * step * count / _MAX_RADIANS
            if turns.sum() * _NODES_PER_PANEL * count > _MAX_EVALUATIONS:
                return None
            logs, at = _on_panels(piece, _split(edges[kept], np.ceil(turns).astype(np.int64).clip(1)))
            shares.append(np.exp(logs + tilt * at - whole).ravel())
            losses.append(at.ravel())
        share, loss = np.concatenate(shares), np.concatenate(losses)
        share /= share.sum()
        # exp(i k step L) with k = a + b rows is a product of two factors: roots of the work, the rest is one product.
        # Without the 1: x y - 1 = (x - 1) (y - 1) + (x - 1) + (y - 1).
        rows = math.isqrt(count) + 1
        height = count // rows + 1
        found, alone = np.zeros((height + 1, rows), dtype=np.complex128), np.zeros(height, dtype=np.complex128)
        # Small products stay on one thread; several would wait for each other longer than they work.
        length = max(16, _MAX_MULTIPLICATIONS // found.size)
        step_rows = max(1, _MAX_MULTIPLICATIONS // (length * rows))
        wide = _PRODUCTS_AT_ONCE * length  # powers of e of several products in one call
        for first in range(0, len(loss), wide):
            angle, here = step * loss[first : first + wide], share[first : first + wide]
            coarse = np.empty((height + 1, len(angle)), dtype=np.complex128)
            coarse[:-1] = _turned(np.multiply.outer(rows * np.arange(height), angle))
            coarse[:-1] *= here
            coarse[-1] = here  # y - 1 alone is one more row
            fine = _turned(np.multiply.outer(angle, np.arange(rows)))
            for start in range(0, len(angle), length):
                part = slice(start, start + length)
                alone += coarse[:-1, part].sum(axis=1)
                for top in range(0, height + 1, step_rows):
                    found[top : top + step_rows] += coarse[top : top + step_rows, part] @ fine[part]
        sums: NDArray[np.complex128] = found[:-1] + found[-1] + alone[:, None]
        return sums.ravel()[: count + 1]


def _turned(angles: Vector) -> NDArray[np.complex128]:
    """Return exp(i angle) - 1, which does not cancel: 2 i sin(angle / 2) exp(i angle / 2)."""
    half = 0.5 * angles
    sine = np.sin(half)
    found = np.empty(angles.shape, dtype=np.complex128)
    np.multiply(-2.0 * sine, sine, out=found.real)
    np.multiply(2.0 * sine, np.cos(half), out=found.imag)
    return found


def _edges(low: float, high: float, width: float, *, graded: bool) -> Vector:
    """Return the ends [n, 2] of panels of about equal length, at most ``width``, the outer ones halved again."""
    ends = np.linspace(low, high, max(2, math.ceil((high - low) / width) + 1))
    if graded:
        shares = 2.0 ** -np.arange(1, 75)
        ends = np.unique(np.concatenate([ends, low + (ends[1] - low) * shares, high - (high - ends[-2]) * shares]))
    return np.stack([ends[:-1], ends[1:]], axis=1)


def _split(edges: Vector, parts: NDArray[np.int64]) -> Vector:
    """Cut each panel [n, 2] into so many of equal length."""
    low, length = np.repeat(edges[:, 0], parts), np.repeat((edges[:, 1] - edges[:, 0]) / parts, parts)
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    return np.stack([low + number * length, low + (number + 1) * length], axis=1)


def _on_panels(piece: Piece, edges: Vector) -> tuple[Vector, Vector]:
    """Return log of mass, and loss, at the nodes [n, 20] of panels [n, 2]."""
    nodes, weights = _rule()
    half = 0.5 * (edges[:, 1:] - edges[:, :1])
    x = 0.5 * (edges[:, :1] + edges[:, 1:]) + half * nodes
    return piece.density(x) + np.log(half * weights), piece.loss(x)


@functools.cache
def _rule() -> tuple[Vector, Vector]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES_PER_PANEL)
    return nodes, weights


def _log_mean(logs: Vector, exponents: Vector) -> float:
    """Return the log of the mean of exp(exponents) under masses with these logs."""
    if float(exponents.max()) < _MAX_PLAIN_EXPONENT:
        # M - 1 may be as small as 1e-16, which summing M itself would lose; the masses add up to 1.
        return math.log1p(float(np.exp(logs) @ np.expm1(exponents)))
    values = logs + exponents
    largest = float(values.max())
    return largest + math.log(float(np.exp(values - largest).sum()))
