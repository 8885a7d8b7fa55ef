"""An own oracle for epsilon, which shares no code with fedpriv/privacy and says how wrong it may be.

Privacy losses come from the densities of the dominating pairs. On a grid of losses each is split between its two
neighbours so that its mean is kept, which adds to the variance in proportion to the squared step: answers at three
steps are extrapolated to step 0 (Richardson). Before the transform masses are tilted by ``exp(t loss)`` and taken back
afterwards, so that rounding is relative to the delta that is asked for. Losses too rare to matter are dropped; the
error that is stated covers them, what comes round the ends of the window, and what the extrapolation changed last.
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

CELLS = 400_000
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
    directions = ("both",) if replace else ("remove", "add")
    return max((_one_way(parts, delta, way) for way in directions), key=lambda one: one.epsilon)


def losses(part: Part, way: str, rare: float) -> tuple[Vector, Vector]:
    """Return losses and masses of one release; of the largest losses a mass of ``rare`` is missing."""
    far, enough = -float(ndtri(1e-40)), -float(ndtri(rare / 2))
    if part.kind == "full":  # all of them are one
        mu = math.sqrt(part.count) * (2 if way == "both" else 1) / part.z
        x, width = _midpoints(-far, enough)
        return mu * x + mu * mu / 2, width * _normal(x)
    p, mu = part.p, (2 if part.kind == "fixed" else 1) / part.z

    def ratio(at: Vector) -> Vector:
        power = mu * at - mu * mu / 2
        return np.where(power < 500, np.log1p(p * np.expm1(np.minimum(power, 500))), math.log(p) + power)

    if way == "add":
        x, width = _midpoints(-far, far)
        return -ratio(x), width * _normal(x)
    enough = max(enough, mu - float(ndtri(min(0.5, rare / 2 / p))))
    x, width = _midpoints(mu / 2 if part.kind == "fixed" else -far, enough)
    with_task = width * (_normal(x) * (1 - p) + p * _normal(x - mu))
    if part.kind == "fixed":
        loss, down = ratio(x), width * _normal(x)
        none = 1 - with_task.sum() - down.sum()
        return np.concatenate([loss, -loss, [0.0]]), np.concatenate([with_task, down, [none]])
    return (ratio(x) if way == "remove" else ratio(x) - ratio(-x)), with_task


def _midpoints(low: float, high: float) -> tuple[Vector, float]:
    width = (high - low) / CELLS
    return low + width * (np.arange(CELLS) + 0.5), width


def _normal(x: Vector) -> Vector:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _one_way(parts: Sequence[Part], delta: float, way: str) -> Oracle:
    releases = sum(1 if one.kind == "full" else one.count for one in parts)
    rare = RARE * delta / releases
    laws = [(*losses(one, way, rare), 1 if one.kind == "full" else one.count) for one in parts]
    moments = _Moments(laws)
    tilt, guess = moments.saddle(delta)
    if guess <= 0:
        return Oracle(0.0, 0.0)
    spread = min(math.sqrt(float(mass @ (loss - mass @ loss) ** 2)) for loss, mass, _ in laws)
    reach = moments.reach(tilt)
    step = min(spread / 4, reach / 4000)
    found = [_on_grid(laws, step / 2**k, tilt, reach, delta) for k in range(3)]
    (a, _), (b, _), (c, slope) = found
    first, second = b + (b - a) / 3, c + (c - b) / 3
    rounding = 1e-9 + 1e-14 * releases
    error = abs(second - first) + abs(second - c) * 0.02 + (2 * RARE + rounding) / slope
    return Oracle(max(0.0, second), error)


class _Moments:
    """Log of the moment generating function of a sum of losses."""

    def __init__(self, laws: Sequence[tuple[Vector, Vector, int]]) -> None:
        self.laws = [(loss[::16], mass[::16] / mass[::16].sum(), count) for loss, mass, count in laws]

    def __call__(self, t: float) -> float:
        total = 0.0
        for loss, mass, count in self.laws:
            top = float((t * loss).max())
            if top < 20:
                total += count * math.log1p(float(mass @ np.expm1(t * loss)))
            else:
                total += count * (top + math.log(float(mass @ np.exp(t * loss - top))))
        return total

    def saddle(self, delta: float) -> tuple[float, float]:
        """Return a tilt for delta, and Chernoff's bound of epsilon."""
        best = min(np.geomspace(1e-5, 1e12, 400), key=lambda t: (self(t) - math.log(delta)) / t)
        return float(best), (self(best) - math.log(delta)) / float(best)

    def reach(self, tilt: float) -> float:
        """Return how wide a window must be for the tilted sum: e^-30 of it is outside, by Chernoff."""
        here = self(tilt)
        mean = (self(tilt * 1.0001) - self(tilt * 0.9999)) / (0.0002 * tilt)
        sides = []
        for sign in (1.0, -1.0):
            more = np.geomspace(1e-3, 1e3, 61) * tilt * sign
            sides.append(min((self(tilt + m) - here + 30) / abs(m) - sign * mean for m in more if tilt + m != 0))
        return 2 * max(sides)


def _on_grid(
    laws: Sequence[tuple[Vector, Vector, int]], step: float, tilt: float, reach: float, delta: float
) -> tuple[float, float]:
    """Return epsilon on a grid, and minus the slope of log delta there."""
    size = 1 << math.ceil(math.log2(max(1024, reach / step)))
    whole, logs, mean = np.ones(size // 2 + 1, dtype=np.complex128), 0.0, 0.0
    for loss, mass, count in laws:
        low = math.floor(float(loss.min()) / step)
        length = math.ceil(float(loss.max()) / step) - low + 2
        place = loss / step - low
        index = np.floor(place).astype(np.int64)
        share = place - index
        grid = np.bincount(index, mass * (1 - share), length) + np.bincount(index + 1, mass * share, length)
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
    log_curve = np.log(np.maximum(above - np.exp(at) * scaled, 1e-300)) + logs - tilt * mean
    goal = math.log(delta)
    middle = int(np.argmin(np.abs(at)))  # rounding spoils what lies far below the tilted mean, so look from there
    lower, upper = log_curve[:middle] >= goal, log_curve[middle:] < goal
    first = middle - int(np.argmax(lower[::-1])) if upper[0] else middle + int(np.argmax(upper))
    near = slice(max(0, first - 8), first + 8)
    spline = CubicSpline(at[near], log_curve[near])
    roots = spline.solve(goal, extrapolate=False)
    root = min((float(one) for one in roots), key=lambda one: abs(one - at[first]))
    return root + mean, -float(spline(root, 1))
