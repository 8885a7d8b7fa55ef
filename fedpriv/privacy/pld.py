"""Epsilon and delta of a history by the privacy losses of its releases.

The dominating pair of each kind of release gives its privacy loss; plain Gaussian releases are one, in closed form. The
losses of single releases are kept, so that a history which grew by some rounds is answered without integrating any
again. Every direction of the relation is composed on its own, and the worst counts. Nothing is on the optimistic side:
:mod:`fedpriv.privacy.contour` says why. Tests compare the answers with an oracle that shares no code with these.

Rare outputs with large losses, which the few rounds of a task at a small rate may have, spoil the moments of all
others. They are cut off and count as an infinite loss. Their probability, over all releases together, is a small part
of the delta in question, so each size of delta has losses of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from fedpriv.privacy.contour import Composition
from fedpriv.privacy.cost import GAUSSIAN, Cost, directions, refuse
from fedpriv.privacy.distribution import Distribution
from fedpriv.privacy.terms import Relation

__all__ = ["Event", "drawn_rate", "has_losses", "is_plain", "pld_deltas", "pld_epsilon"]

Event = tuple[Cost, int]
"""What a release costs, and how often it happened."""

_MAX_MU = 200.0
"""Largest sensitivity, in standard deviations of the noise, that is composed; with a larger one nobody is protected."""

_CUT_BITS = 15
"""Minus log2 of the share of delta that is cut off: 3e-5."""

_CUT_LEVELS_BITS = range(_CUT_BITS + 2, _CUT_BITS + 70, 12)
"""Minus log2 of what is cut off where delta is to be found: 1e-18 of it is seen."""

_MAX_CUT_BITS = 1000
"""Cuts are at least 2 to minus this."""


def is_plain(cost: Cost, relation: Relation) -> bool:
    """Tell whether a release is Gaussian noise that nothing amplifies, which composes in closed form."""
    return cost.rate == 1.0 and cost.gaussian_noise(relation) is not None


@functools.lru_cache(maxsize=64)
def has_losses(cost: Cost, relation: Relation) -> bool:
    """Tell whether a release can be composed by its privacy losses; Gaussian noise always can."""
    return cost.mechanism == GAUSSIAN or is_plain(cost, relation) or cost.losses(relation, 1.0) is not None


@functools.lru_cache(maxsize=64)
def drawn_rate(cost: Cost, relation: Relation) -> float:
    """Return with which probability a task takes part, where losses are known to be made for such a sample; else 1."""
    if cost.rate == 1.0 or cost.mechanism == GAUSSIAN:
        return cost.rate
    found = cost.losses(relation, 1.0) or ()
    return cost.rate if found and all(one.rate == cost.rate for one in found) else 1.0


def pld_epsilon(events: tuple[Event, ...], delta: float, relation: Relation) -> float:
    """Return epsilon of events with noise; infinity where there is too little of it."""
    level = math.ceil(-math.log2(delta)) + _CUT_BITS
    directions = _composed(events, relation, level)
    if not directions:
        return math.inf
    worst = directions[0].epsilon(delta)
    for one in directions[1:]:
        if one.rough(worst) > delta:  # else it is not the worst
            worst = max(worst, one.epsilon(delta))
    return worst


def pld_deltas(events: tuple[Event, ...], epsilons: Sequence[float], relation: Relation) -> list[float]:
    """Return delta of events with noise at several finite epsilons; 1 where there is too little of it."""
    worst = [0.0] * len(epsilons)
    levels = [_composed(events, relation, _CUT_LEVELS_BITS[0])]
    if not levels[0]:
        return [1.0] * len(epsilons)
    if any(one.infinite for one in levels[0]):  # else nothing was cut off, at any level
        levels += [_composed(events, relation, level) for level in _CUT_LEVELS_BITS[1:]]
    for direction in zip(*levels, strict=True):
        # Which level fits is seen from Chernoff's bound; each gives an upper bound.
        chosen: dict[int, list[int]] = {}
        for place, one in enumerate(epsilons):
            rough = [composition.rough(one, 2.0**_CUT_BITS) for composition in direction]
            chosen.setdefault(min(range(len(rough)), key=rough.__getitem__), []).append(place)
        for level, places in chosen.items():
            values = direction[level].deltas([epsilons[place] for place in places])
            for place, value in zip(places, values, strict=True):
                worst[place] = max(worst[place], value)
    return worst


@functools.lru_cache(maxsize=16)
def _composed(events: tuple[Event, ...], relation: Relation, level: int) -> list[Composition]:
    """Compose the events, each direction on its own; nothing if one has too little noise.

    All together cut off at most 2 to minus ``level``.
    """
    square, parts = 0.0, []
    total = sum(count for cost, count in events if not is_plain(cost, relation))
    cut = 2.0 ** -min(_MAX_CUT_BITS, level + math.ceil(math.log2(max(1, total))))
    for cost, count in events:
        noise = cost.gaussian_noise(relation)
        mu = 0.0 if noise is None else 1.0 / noise
        if not mu <= _MAX_MU:
            return []
        if is_plain(cost, relation):
            square += count * mu * mu
        else:
            parts.append((_single(cost, relation, cut), count))
    number = max((len(single) for single, _ in parts), default=1)
    # What has one direction only is symmetric (`directions` sees to it): it goes with either direction of the others.
    each = [[(single[min(way, len(single) - 1)], count) for single, count in parts] for way in range(number)]
    return [Composition(one, square) for one in each]


@functools.lru_cache(maxsize=64)
def _single(cost: Cost, relation: Relation, cut: float) -> Sequence[Distribution]:
    """Return the privacy loss of one release per direction; what was integrated stays with it."""
    found = directions(cost, relation, cut)
    if found is None:
        refuse(cost, "distribution of its privacy loss", "use the accountant 'rdp', or 'auto'")
    return found
