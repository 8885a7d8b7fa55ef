"""Privacy loss distributions of dp_accounting, with a grid that fits the question.

The library's fixed grid of 1e-4 needs gigabytes for little noise and is too coarse for a lot of it. Its
rounding is pessimistic whatever the grid, so the grid may follow a rough guess of the answer: a bad guess
costs tightness or time, never validity.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from fedpriv.privacy.gaussian import gaussian_epsilon
from fedpriv.privacy.terms import Relation

__all__ = ["pld_delta", "pld_epsilon"]

_LARGEST = 2e4
"""Privacy losses above this are not put on a grid; the answer there is "no privacy" anyway."""

_FINEST, _COARSEST = 1e-7, 0.02

_MOST = 1_000_000
"""The library composes distributions of a single atom one by one, which takes hours for larger counts."""


def pld_epsilon(events: tuple[tuple[float, float, int], ...], delta: float, relation: Relation) -> float:
    """Return epsilon of (noise multiplier > 0, rate, count) events; infinity where the grid gives up."""
    interval = _interval(events, delta, relation)
    if interval is None:
        return math.inf
    accountant = _accountant(events, relation, interval)
    return max(0.0, float(accountant.get_epsilon(delta)))


def pld_delta(events: tuple[tuple[float, float, int], ...], epsilon: float, relation: Relation) -> float:
    """Return delta of (noise multiplier > 0, rate, count) events; 1 where the grid gives up."""
    interval = _interval(events, 1e-6, relation)
    if interval is None:
        return 1.0
    if math.isinf(epsilon):
        return 0.0
    accountant = _accountant(events, relation, interval)
    return min(1.0, max(0.0, float(accountant.get_delta(epsilon))))


def _interval(events: tuple[tuple[float, float, int], ...], delta: float, relation: Relation) -> float | None:
    """Choose the step of the grid: 3e-5 of the largest loss of one release and of a guess of epsilon."""
    if any(count > _MOST and rate < 1.0 for _, rate, count in events):
        return None
    sensitivity = 2.0 if relation is Relation.REPLACE_ONE else 1.0
    largest, squares = 0.0, 0.0
    for z, rate, count in events:
        mu = sensitivity / z
        largest = max(largest, mu * mu / 2.0 + 9.0 * mu)
        # The central limit theorem of sampled Gaussians; without amplification mu is the limit.
        amplified = rate * math.sqrt(math.expm1(min(mu, 22.0) ** 2))
        squares += count * min(mu, amplified) ** 2 if mu < 1e100 else math.inf
    guess = max(largest, gaussian_epsilon(math.sqrt(squares), min(max(delta, 1e-300), 0.5)))
    if not guess <= _LARGEST:
        return None
    return min(max(3e-5 * guess, _FINEST), _COARSEST)


@functools.lru_cache(maxsize=16)
def _accountant(events: tuple[tuple[float, float, int], ...], relation: Relation, interval: float) -> Any:
    """Compose the events; the result answers for any delta or epsilon without changing."""
    import numpy as np
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    neighbours = {
        Relation.ADD_REMOVE: NeighboringRelation.ADD_OR_REMOVE_ONE,
        Relation.REPLACE_ONE: NeighboringRelation.REPLACE_ONE,
    }
    accountant = PLDAccountant(neighbours[relation], interval)
    with np.errstate(all="ignore"):
        for z, rate, count in events:
            plain = GaussianDpEvent(z)
            accountant.compose(plain if rate == 1.0 else PoissonSampledDpEvent(rate, plain), count)
    return accountant
