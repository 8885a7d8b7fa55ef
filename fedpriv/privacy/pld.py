"""Epsilon by privacy loss distributions, with a grid that fits the question.

A fixed grid (1e-4 is usual) needs gigabytes for little noise and is too coarse for a lot of it. Rounding is pessimistic
whatever the grid, so the grid may follow a rough guess of the answer: a bad guess costs tightness or time, never
validity. The distributions of single releases are kept, so that a history which grew by some rounds is answered without
building any again. Tests compare the answers with dp_accounting's, which shares no code with these.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fedpriv.privacy.distribution import Distribution, compose, from_curve
from fedpriv.privacy.gaussian import gaussian_epsilon
from fedpriv.privacy.mechanisms import Cost
from fedpriv.privacy.poisson import curves
from fedpriv.privacy.terms import Relation
from fedpriv.privacy.without_replacement import wor_curve

__all__ = ["Event", "pld_deltas", "pld_epsilon"]

Event = tuple[Cost, int]
"""What a release costs, and how often it happened."""

_LARGEST = 2e4
"""Privacy losses above this are not put on a grid; the answer there is "no privacy" anyway."""

_FINEST, _COARSEST = 1e-7, 0.02

_POINTS_OF_ONE, _POINTS = 3e5, 1e6
"""Most points on the grid of one release (a few seconds to build) and of all of them together."""

_MOST = 1_000_000
"""Powers of a transform lose digits with the count: beyond this the answer would be rounded visibly."""


def pld_epsilon(events: tuple[Event, ...], delta: float, relation: Relation) -> float:
    """Return epsilon of events with noise; infinity where the grid gives up."""
    interval = _interval(events, delta, relation)
    if interval is None:
        return math.inf
    return max(one.epsilon(delta) for one in _composed(events, relation, interval))


def pld_deltas(events: tuple[Event, ...], epsilons: Sequence[float], relation: Relation) -> list[float]:
    """Return delta of events with noise at several finite epsilons; 1 where the grid gives up."""
    interval = _interval(events, 1e-6, relation)
    if interval is None:
        return [1.0] * len(epsilons)
    found = (one.deltas(epsilons) for one in _composed(events, relation, interval))
    return [min(1.0, max(0.0, *several)) for several in zip(*found, strict=True)]


def _interval(events: tuple[Event, ...], delta: float, relation: Relation) -> float | None:
    """Choose the step of the grid: a fiftieth of the standard deviation of one release's privacy loss.

    Rounding adds a variance of the order of the step squared to each release, so that epsilon comes out too large by
    about 0.08 (step / deviation)^2 of itself: 3e-5 here, whatever the noise, the rate and the count, until the points
    meet their bound (rates below 1e-3 with little noise: a few per cent; 1e-5 with a million releases: twice).
    """
    if any(count > _MOST and cost.rate < 1.0 for cost, count in events):
        return None
    sensitivity = relation.sensitivity
    largest, squares, smallest = 0.0, 0.0, math.inf
    for (z, rate, _), count in events:
        mu = sensitivity / z
        largest = max(largest, mu * mu / 2.0 + 9.0 * mu)
        squares += count * min(mu, _deviation(mu, rate)) ** 2 if mu < 1e100 else math.inf
        smallest = min(smallest, 1.0 / z, _deviation(1.0 / z, rate))
    # Central limit theorem; without amplification mu is the limit.
    guess = max(largest, gaussian_epsilon(math.sqrt(squares), min(max(delta, 1e-300), 0.5)))
    if not guess <= _LARGEST:
        return None
    return min(max(smallest / 50.0, largest / _POINTS_OF_ONE, guess / _POINTS, _FINEST), _COARSEST)


def _deviation(mu: float, rate: float) -> float:
    """Return the standard deviation of the privacy loss of one sampled Gaussian, for a small rate."""
    return rate * math.sqrt(math.expm1(min(mu, 22.0) ** 2))


@functools.lru_cache(maxsize=2)
def _composed(events: tuple[Event, ...], relation: Relation, interval: float) -> list[Distribution]:
    """Compose the events, each direction on its own; the result answers for any delta or epsilon."""
    parts = []
    for cost, count in events:
        if cost.rate == 1.0:  # so many Gaussians are one
            parts.append((_single(Cost(cost.noise_multiplier / math.sqrt(count), 1.0), relation, interval), 1))
        else:
            parts.append((_single(cost, relation, interval), count))
    directions = max(len(single) for single, _ in parts)
    # What has one curve only is symmetric: it goes with either direction of the others.
    each = [
        [(single[min(direction, len(single) - 1)], count) for single, count in parts] for direction in range(directions)
    ]
    if directions == 1:
        return [compose(each[0])]
    with ThreadPoolExecutor(directions) as threads:  # large products and transforms let go of the interpreter
        return list(threads.map(compose, each))


@functools.lru_cache(maxsize=8)
def _single(cost: Cost, relation: Relation, interval: float) -> tuple[Distribution, ...]:
    """Return the distribution of one release per direction, the costly part: histories of one run share it."""
    if cost.fixed and cost.rate < 1.0:
        found = [wor_curve(cost.noise_multiplier, cost.rate)]
    else:
        found = curves(cost.noise_multiplier, cost.rate, relation)
    return tuple(from_curve(one.deltas, interval, one.smallest, one.largest) for one in found)
