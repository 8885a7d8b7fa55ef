"""Epsilon of a history of releases: a pure function, asked as often as one likes.

Releases that differ in the clipping norm only are merged before anything is composed. Accountants:

- ``"gaussian"``: the exact curve of the composed Gaussian mechanism; ignores amplification by sampling, so it
  is an upper bound for Poisson releases;
- ``"pld"``: privacy loss distributions of dp_accounting, pessimistic rounding (both directions of add/remove,
  and the replace-one pair); the tightest for Poisson sampling;
- ``"rdp"``: Renyi accounting of dp_accounting; fast and a few per cent loose; no Poisson under replace-one;
- ``"opacus-rdp"``: the same bound from another library, as a cross-check; add/remove only;
- ``"auto"``: "gaussian" if nothing is sampled, otherwise "pld".
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from fedpriv.errors import InputError, NoGuarantee
from fedpriv.names import unknown
from fedpriv.privacy.gaussian import gaussian_delta, gaussian_epsilon
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.pld import pld_delta, pld_epsilon
from fedpriv.privacy.terms import Relation

__all__ = ["Accountant", "Epsilon", "Releases", "count_releases", "delta_for", "epsilon"]

Accountant = Literal["auto", "pld", "rdp", "gaussian", "opacus-rdp"]
Releases = Mapping[Release, int] | Iterable[Release]
Event = tuple[float, float, int]
"""(noise multiplier, rate, how often)."""


@dataclass(frozen=True)
class Epsilon:
    """A value and the accountant that found it ("auto" is resolved)."""

    value: float
    accountant: str


def count_releases(releases: Releases) -> Counter[Release]:
    """Return how often each release happened; zeros are dropped.

    Raises
    ------
    InputError
        If a count is negative or not a whole number.
    """
    counts: Counter[Release] = Counter()
    for release, count in releases.items() if isinstance(releases, Mapping) else ((one, 1) for one in releases):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InputError(f"accounting: a release must be counted a whole number of times, got {count!r}.")
        if count:
            counts[release] += count
    return counts


def epsilon(
    releases: Releases,
    delta: float,
    relation: Relation = Relation.ADD_REMOVE,
    accountant: Accountant = "auto",
) -> Epsilon:
    """Return the epsilon of all releases together.

    Parameters
    ----------
    releases : mapping from Release to count, or iterable of Release
        The history; its order does not matter.
    delta : float
        In (0, 1); choose it far below 1 / number of tasks.
    relation : Relation
        Neighbouring relation.
    accountant : str
        See the module's description.

    Returns
    -------
    Epsilon
        0 if there were no releases, infinity if one had no noise.

    Raises
    ------
    InputError
        If delta or the accountant's name is wrong.
    NoGuarantee
        If this accountant has no valid formula for the sampling and the relation.
    """
    if not 0.0 < delta < 1.0:
        raise InputError(f"accounting: 'delta' must be between 0 and 1, both excluded, got {delta!r}.")
    if accountant not in get_args(Accountant):
        raise InputError("accounting: " + unknown("accountant", str(accountant), get_args(Accountant)))
    events = _events(releases)
    return _epsilon(events, float(delta), Relation(relation), _resolve(accountant, events))


def delta_for(releases: Releases, epsilon: float, relation: Relation = Relation.ADD_REMOVE) -> float:
    """Return the smallest delta at this epsilon, with the accountant "auto".

    Raises
    ------
    InputError
        If epsilon is negative or NaN.
    """
    if not epsilon >= 0.0:
        raise InputError(f"accounting: 'epsilon' must be at least 0, got {epsilon!r}.")
    events = _events(releases)
    relation = Relation(relation)
    if any(z == 0.0 for z, _, _ in events):
        return 1.0
    plain = gaussian_delta(_mu(events, relation), epsilon)
    if _resolve("auto", events) == "gaussian":
        return plain
    return min(plain, pld_delta(events, float(epsilon), relation))


def _events(releases: Releases) -> tuple[Event, ...]:
    """Merge releases that cost the same; sorted, so that it can be the key of a cache."""
    merged: Counter[tuple[float, float]] = Counter()
    for release, count in count_releases(releases).items():
        merged[release.gaussian] += count
    return tuple(sorted((z, rate, count) for (z, rate), count in merged.items()))


def _resolve(accountant: Accountant, events: tuple[Event, ...]) -> str:
    if accountant != "auto":
        return accountant
    return "pld" if any(rate < 1.0 for _, rate, _ in events) else "gaussian"


def _mu(events: Iterable[Event], relation: Relation) -> float:
    """Return sensitivity / noise of the composed mechanism, as if every task always took part."""
    sensitivity = 2.0 if relation is Relation.REPLACE_ONE else 1.0
    # hypot does not overflow or underflow where the squares would.
    return sensitivity * math.hypot(*(math.sqrt(count) / z if z > 0.0 else math.inf for z, _, count in events))


@functools.lru_cache(maxsize=1024)
def _epsilon(events: tuple[Event, ...], delta: float, relation: Relation, accountant: str) -> Epsilon:
    if not events:
        return Epsilon(0.0, accountant)
    sampled = any(rate < 1.0 for _, rate, _ in events)
    if sampled and relation is not Relation.ADD_REMOVE and accountant in ("rdp", "opacus-rdp"):
        raise NoGuarantee(
            f"accounting: {accountant!r} has no formula for Poisson sampling under {relation.value}; use the "
            "accountant 'pld'."
        )
    if any(z == 0.0 for z, _, _ in events):
        return Epsilon(math.inf, accountant)
    plain = Epsilon(gaussian_epsilon(_mu(events, relation), delta), "gaussian")
    if accountant == "gaussian" or plain.value == 0.0 or math.isinf(plain.value):
        return Epsilon(plain.value, accountant)
    if accountant == "rdp":
        return Epsilon(_rdp_epsilon(events, delta, relation), "rdp")
    if accountant == "opacus-rdp":
        return Epsilon(_opacus_epsilon(events, delta, relation), "opacus-rdp")
    # Sampling cannot hurt, so the curve without amplification is valid too. It, or Renyi accounting, is the
    # smaller one only where the grid of the distribution gives up (extreme noise, counts or delta).
    found = Epsilon(pld_epsilon(events, delta, relation), "pld")
    if relation is Relation.ADD_REMOVE and (math.isinf(found.value) or delta < 1e-12):
        found = min(found, Epsilon(_rdp_epsilon(events, delta, relation), "rdp"), key=lambda one: one.value)
    return min(found, plain, key=lambda one: one.value)


def _rdp_epsilon(events: tuple[Event, ...], delta: float, relation: Relation) -> float:
    from dp_accounting.rdp import RdpAccountant
    from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

    from fedpriv.privacy.renyi import renyi_many

    orders = tuple(float(order) for order in RdpAccountant().orders)
    totals = [0.0] * len(orders)
    for z, rate, count in events:
        for i, value in enumerate(renyi_many(z, rate, orders, relation)):
            totals[i] += count * value
    finite = [(order, total) for order, total in zip(orders, totals, strict=True) if math.isfinite(total)]
    if not finite:
        return math.inf
    return float(compute_epsilon(*zip(*finite, strict=True), delta)[0])


def _opacus_epsilon(events: tuple[Event, ...], delta: float, relation: Relation) -> float:
    import warnings

    import numpy as np

    if relation is not Relation.ADD_REMOVE:
        raise NoGuarantee(
            f"accounting: 'opacus-rdp' knows add/remove only, got {relation.value}; use 'gaussian' or 'pld'."
        )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # opacus advises on its range of orders, and importing it warns about torch's deprecations.
        warnings.simplefilter("ignore")
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history = [(z, rate, count) for z, rate, count in events]
        return float(accountant.get_epsilon(delta=delta))
