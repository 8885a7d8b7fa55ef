"""Privacy loss distributions of dp_accounting, with a grid that fits the question.

The library's fixed grid of 1e-4 needs gigabytes for little noise and is too coarse for a lot of it. Its
rounding is pessimistic whatever the grid, so the grid may follow a rough guess of the answer: a bad guess
costs tightness or time, never validity.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from fedpriv.privacy.gaussian import gaussian_epsilon
from fedpriv.privacy.mechanisms import Cost
from fedpriv.privacy.terms import Relation

__all__ = ["Event", "pld_deltas", "pld_epsilon"]

Event = tuple[Cost, int]
"""What a release costs, and how often it happened."""

_LARGEST = 2e4
"""Privacy losses above this are not put on a grid; the answer there is "no privacy" anyway."""

_FINEST, _COARSEST = 1e-7, 0.02

_POINTS_OF_ONE, _POINTS = 3e5, 1e6
"""Most points on the grid of one release (a few seconds to build) and of all of them together."""

_MOST = 1_000_000
"""The library composes distributions of a single atom one by one, which takes hours for larger counts."""


def pld_epsilon(events: tuple[Event, ...], delta: float, relation: Relation) -> float:
    """Return epsilon of events with noise; infinity where the grid gives up."""
    interval = _interval(events, delta, relation)
    if interval is None:
        return math.inf
    return max(0.0, float(_composed(events, relation, interval).get_epsilon_for_delta(delta)))


def pld_deltas(events: tuple[Event, ...], epsilons: Sequence[float], relation: Relation) -> list[float]:
    """Return delta of events with noise at several finite epsilons; 1 where the grid gives up."""
    interval = _interval(events, 1e-6, relation)
    if interval is None:
        return [1.0] * len(epsilons)
    composed = _composed(events, relation, interval)
    return [min(1.0, max(0.0, float(composed.get_delta_for_epsilon(one)))) for one in epsilons]


def _interval(events: tuple[Event, ...], delta: float, relation: Relation) -> float | None:
    """Choose the step of the grid: a fiftieth of the standard deviation of one release's privacy loss.

    Rounding adds a variance of the order of the step squared to each release, so that epsilon comes out too large by
    about 0.08 (step / deviation)^2 of itself: 3e-5 here, whatever the noise, the rate and the count, until the points
    meet their bound (rates below 1e-3 with little noise: a few per cent; 1e-5 with a million releases: twice).
    """
    if any(count > _MOST and cost.rate < 1.0 for cost, count in events):
        return None
    sensitivity = 2.0 if relation is Relation.REPLACE_ONE else 1.0
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
def _composed(events: tuple[Event, ...], relation: Relation, interval: float) -> Any:
    """Compose the events; the result answers for any delta or epsilon without changing."""
    import numpy as np

    with np.errstate(all="ignore"):
        whole = None
        for cost, count in events:
            if cost.rate == 1.0:  # so many Gaussians are one
                part = _single(Cost(cost.noise_multiplier / math.sqrt(count), 1.0), relation, interval)
            else:
                part = _single(cost, relation, interval).self_compose(count)
            whole = part if whole is None else whole.compose(part)
    return whole


@functools.lru_cache(maxsize=4)
def _single(cost: Cost, relation: Relation, interval: float) -> Any:
    """Return the distribution of one release, the costly part: histories of one run share it."""
    import numpy as np

    if cost.fixed and cost.rate < 1.0:
        from fedpriv.privacy.without_replacement import wor_distribution

        return wor_distribution(cost.noise_multiplier, cost.rate, interval)
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    neighbours = {
        Relation.ADD_REMOVE: NeighboringRelation.ADD_OR_REMOVE_ONE,
        Relation.REPLACE_ONE: NeighboringRelation.REPLACE_ONE,
    }
    with np.errstate(all="ignore"):
        return privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=cost.noise_multiplier,
            value_discretization_interval=interval,
            sampling_prob=cost.rate,
            neighboring_relation=neighbours[relation],
        )
