"""An own oracle for epsilon, which shares no code with fedpriv/privacy and says how wrong it may be.

Privacy losses come from the densities of the dominating pairs. On a grid of losses each is split between its two
neighbours so that its mean is kept, which adds to the variance in proportion to the squared step: answers at three
steps are extrapolated to step 0 (Richardson). Where that would take too many points, as for tiny rates, four neighbours
keep three moments, and no extrapolation is needed. Before the transform masses are tilted by ``exp(t loss)`` and taken
back afterwards, so that rounding is relative to the delta that is asked for. Losses too rare to matter are dropped; the
error that is stated covers them, and what the extrapolation, or the last halving of the step, changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import ndtri

Vector = NDArray[np.float64]

CELLS = 200_000
MOST = 1 << 17
"""Points of the coarsest grid."""
RARE = 1e-6
"""Share of delta that is dropped."""


@dataclass(frozen=True)
class Oracle:
    """Epsilon, and how far it may be from the truth."""

    epsilon: float
    error: float


@dataclass(frozen=True)
class Part:
    """A release: kind "poisson", "fixed" or "full", noise multiplier z, rate p, how often."""

    kind: str
    z: float
    p: float
    count: int


def oracle(parts: Sequence[Part], delta: float, replace: bool) -> Oracle:
    """Return epsilon of some releases."""
    stays = sum(-math.inf if one.kind == "full" else one.count * math.log1p(-one.p) for one in parts)
    if -math.expm1(stays) <= delta:  # a task hardly ever takes part
        return Oracle(0.0, 0.0)
    if replace:
        return _one_way(parts, delta, "both")
    found = _one_way(parts, delta, "remove")
    # Adding a task has no larger loss than this, whatever comes out; a plain Gaussian has.
    most = sum(math.inf if one.kind == "full" else -one.count * math.log1p(-one.p) for one in parts)
    if most <= found.epsilon:
        return found
    other = _one_way(parts, delta, "add")
    return found if math.isnan(found.epsilon) or other.epsilon <= found.epsilon else other


def losses(part: Part, way: str, rare: float, cells: int = CELLS) -> tuple[Vector, Vector]:
    """Return losses and masses of one release; of the largest losses a mass of ``rare`` is missing."""
    far, enough = -float(ndtri(1e-40)), -float(ndtri(rare / 2))
    if part.kind == "full":  # all of them are one
        mu = math.sqrt(part.count) * (2 if way == "both" else 1) / part.z
        x, width = _midpoints(-far, enough, cells)
        return mu * x + mu * mu / 2, width * _normal(x)
    p, mu = part.p, (2 if part.kind == "fixed" else 1) / part.z

    def ratio(at: Vector) -> Vector:
        power = mu * at - mu * mu / 2
        return np.where(power < 500, np.log1p(p * np.expm1(np.minimum(power, 500))), math.log(p) + power)

    if way == "add":
        x, width = _midpoints(-far, far, cells)
        return -ratio(x), width * _normal(x)
    enough = max(enough, mu - float(ndtri(min(0.5, rare / 2 / p))))
    x, width = _midpoints(mu / 2 if part.kind == "fixed" else -far, enough, cells)
    with_task = width * (_normal(x) * (1 - p) + p * _normal(x - mu))
    if part.kind == "fixed":
        loss, down = ratio(x), width * _normal(x)
        none = 1 - with_task.sum() - down.sum()
        return np.concatenate([loss, -loss, [0.0]]), np.concatenate([with_task, down, [none]])
    return (ratio(x) if way == "remove" else ratio(x) - ratio(-x)), with_task


def _midpoints(low: float, high: float, cells: int) -> tuple[Vector, float]:
    width = (high - low) / cells
    return low + width * (np.arange(cells) + 0.5), width


def _normal(x: Vector) -> Vector:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _one_way(parts: Sequence[Part], delta: float, way: str) -> Oracle:
    releases = sum(1 if one.kind == "full" else one.count for one in parts)
    rare = RARE * delta / releases
    laws = [(*losses(one, way, rare), 1 if one.kind == "full" else one.count) for one in parts]
    moments = _Moments([(*losses(one, way, rare, 20_000), law[2]) for one, law in zip(parts, laws, strict=True)])
    tilt = moments.saddle(delta)
    spread = min(math.sqrt(float(mass @ (loss - mass @ loss) ** 2)) for loss, mass, _ in laws)
    reach = moments.reach(tilt)
    step = min(spread / 4, reach / 4000)
    widest = max(float(np.ptp(loss)) for loss, _, _ in laws)
    if not max(reach, widest) / min(spread / 4, reach / 4000) < 1e8 and not reach / MOST > widest / 1e8:
        return Oracle(math.nan, math.inf)
    fine = reach / step > MOST
    if fine:
        step = reach / MOST
    (a, _), (b, _), (c, slope) = (_on_grid(laws, step / 2**k, tilt, reach, delta, fine) for k in range(3))
    if math.isnan(a + b + c):
        return Oracle(math.nan, math.inf)
    best, error = c, abs(c - b) + abs(b - a) / 4
    if not fine:
        best = c + (c - b) / 3
        error = abs(best - b - (b - a) / 3) + 0.02 * abs(best - c)
    rounding = 1e-9 + 1e-14 * releases
    return Oracle(max(0.0, best), error + (2 * RARE + rounding) / slope)


class _Moments:
    """Log of the moment generating function of a sum of losses."""

    def __init__(self, laws: Sequence[tuple[Vector, Vector, int]]) -> None:
        self.laws = laws

    def __call__(self, t: float) -> float:
        total = 0.0
        for loss, mass, count in self.laws:
            top = float((t * loss).max())
            if top < 20:
                total += count * math.log1p(float(mass @ np.expm1(t * loss)))
            else:
                total += count * (top + math.log(float(mass @ np.exp(t * loss - top))))
        return total

    def spread(self, t: float) -> tuple[float, float]:
        """Return mean and variance of the tilted sum."""
        mean = variance = 0.0
        for loss, mass, count in self.laws:
            tilted = mass * np.exp(t * loss - float((t * loss).max()))
            tilted /= tilted.sum()
            one = float(tilted @ loss)
            mean += count * one
            variance += count * float(tilted @ (loss - one) ** 2)
        return mean, variance

    def saddle(self, delta: float) -> float:
        """Return the tilt whose saddle point approximation gives delta."""
        low, high = math.log(1e-6), math.log(1e14)
        for _ in range(50):
            middle = (low + high) / 2
            t = math.exp(middle)
            mean, variance = self.spread(t)
            log_delta = (
                self(t) - t * mean - math.log(t) - math.log1p(t) - 0.5 * math.log(2 * math.pi * variance + 1e-300)
            )
            low, high = (middle, high) if log_delta > math.log(delta) else (low, middle)
        return math.exp(low)

    def reach(self, tilt: float) -> float:
        """Return how wide a window must be for the tilted sum: e^-30 of it is outside, by Chernoff."""
        here, (mean, _) = self(tilt), self.spread(tilt)
        sides = []
        for sign in (1.0, -1.0):
            more = np.geomspace(1e-4, 1e3, 141) * tilt * sign
            sides.append(min((self(tilt + m) - here + 30) / abs(m) - sign * mean for m in more if tilt + m != 0))
        return 2 * max(sides)


def _shares(share: Vector, fine: bool) -> dict[int, Vector]:
    """Return the weights of grid points around a loss, the mean kept; with ``fine`` up to the third moment."""
    if not fine:
        return {0: 1 - share, 1: share}
    return {
        -1: -share * (share - 1) * (share - 2) / 6,
        0: (share + 1) * (share - 1) * (share - 2) / 2,
        1: -(share + 1) * share * (share - 2) / 2,
        2: (share + 1) * share * (share - 1) / 6,
    }


def _on_grid(
    laws: Sequence[tuple[Vector, Vector, int]], step: float, tilt: float, reach: float, delta: float, fine: bool
) -> tuple[float, float]:
    """Return epsilon on a grid, and minus the slope of log delta there."""
    size = 1 << math.ceil(math.log2(max(1024, reach / step)))
    whole, logs, mean = np.ones(size // 2 + 1, dtype=np.complex128), 0.0, 0.0
    for loss, mass, count in laws:
        low = math.floor(float(loss.min()) / step) - 1
        length = math.ceil(float(loss.max()) / step) - low + 3
        place = loss / step - low
        index = np.floor(place).astype(np.int64)
        share = place - index
        grid = sum(np.bincount(index + k, mass * part, length) for k, part in _shares(share, fine).items())
        at = step * (low + np.arange(length))
        top = float((tilt * at).max())
        if top < 20:
            log = math.log1p(float(grid @ np.expm1(tilt * at)))
        else:
            log = top + math.log(float(grid @ np.exp(tilt * at - top)))
        tilted = grid * np.exp(tilt * at - log)
        tilted /= tilted.sum()
        mean += count * float(tilted @ at)
        logs += count * log
        folded = np.bincount((low + np.arange(length)) % size, tilted, size)
        whole *= np.fft.rfft(folded) ** count
    start = round(mean / step) - size // 2
    tilted = np.roll(np.maximum(0.0, np.fft.irfft(whole, size)), -start)[size // 4 :]
    at = step * (start + size // 4 + np.arange(len(tilted))) - mean
    # Sums from above of what stands for mass at loss l, and for mass times exp(-l).
    mass = tilted * np.exp(np.minimum(600, -tilt * at))
    above = np.cumsum(mass[::-1])[::-1]
    scaled = np.cumsum((mass * np.exp(np.minimum(90, -at)))[::-1])[::-1]
    with np.errstate(all="ignore"):  # far from the mean, where nobody looks
        log_curve = np.log(np.maximum(above - np.exp(at) * scaled, 1e-300)) + logs - tilt * mean
    goal = math.log(delta)
    middle = int(np.argmin(np.abs(at)))  # rounding spoils what lies far below the tilted mean, so look from there
    lower, upper = log_curve[:middle] >= goal, log_curve[middle:] < goal
    first = middle - int(np.argmax(lower[::-1])) if upper[0] else middle + int(np.argmax(upper))
    near = slice(max(0, first - 8), first + 8)
    spline = CubicSpline(at[near], log_curve[near])
    roots = spline.solve(goal, extrapolate=False)
    if not len(roots):
        return math.nan, math.nan
    root = min((float(one) for one in roots), key=lambda one: abs(one - at[first]))
    return root + mean, -float(spline(root, 1))
