"""Epsilon of a history of releases: a pure function, asked as often as one likes.

Releases that differ in the clipping norm only are merged before anything is composed. Accountants:

- ``"gaussian"``: the exact curve of the composed Gaussian mechanism; ignores amplification by sampling, so it
  is an upper bound for Poisson releases;
- ``"pld"``: privacy loss distributions (both directions of add/remove, the replace-one pair, and for cohorts of fixed
  size the pair of :mod:`fedpriv.privacy.without_replacement`), with every error of the computation added
  (:mod:`fedpriv.privacy.contour`); the tightest for sampled releases;
- ``"rdp"``: Renyi accounting; fast, a few per cent loose for Poisson sampling and up to three times for fixed sizes;
- ``"opacus-rdp"``: the same bound from another library, as a cross-check; add/remove only;
- ``"auto"``: "gaussian" if nothing is sampled and all noise is Gaussian, otherwise "pld", or "rdp" where a mechanism
  gives no privacy losses.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fedpriv.errors import InputError, NoGuarantee
from fedpriv.names import unknown
from fedpriv.privacy.cost import Cost, check_relation, refuse, renyi_many
from fedpriv.privacy.gaussian import gaussian_delta, gaussian_epsilon
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.pld import Event, drawn_rate, has_losses, is_plain, pld_deltas, pld_epsilon
from fedpriv.privacy.sampling import MIN_SEPARATION
from fedpriv.privacy.terms import Relation

__all__ = [
    "Accountant",
    "Epsilon",
    "Releases",
    "count_releases",
    "counted_in_full",
    "delta_for",
    "deltas_for",
    "epsilon",
    "renyi",
    "shared_relations",
]

Accountant = Literal["auto", "pld", "rdp", "gaussian", "opacus-rdp"]
Releases = Mapping[Release, int] | Iterable[Release]


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
    formulas = Relation(relation).formulas
    return _epsilon(events, float(delta), formulas, _resolve(accountant, events, formulas))


def delta_for(releases: Releases, epsilon: float, relation: Relation = Relation.ADD_REMOVE) -> float:
    """Return the smallest delta at this epsilon, with the accountant "auto".

    Raises
    ------
    InputError
        If epsilon is negative or NaN.
    NoGuarantee
        If a release has no formula under this relation.
    """
    return deltas_for(releases, [epsilon], relation)[0]


def deltas_for(releases: Releases, epsilons: Sequence[float], relation: Relation = Relation.ADD_REMOVE) -> list[float]:
    """Return :func:`delta_for` at several epsilons, for the price of one."""
    for one in epsilons:
        if not one >= 0.0:
            raise InputError(f"accounting: 'epsilon' must be at least 0, got {one!r}.")
    events = _events(releases)
    relation = Relation(relation).formulas
    for cost, _ in events:
        check_relation(cost, relation)
    if _without_noise(events, relation):
        return [1.0] * len(epsilons)
    mu = _mu(events, relation)
    plain = [1.0 if mu is None else gaussian_delta(mu, one) for one in epsilons]
    if _resolve("auto", events, relation) == "gaussian":
        return plain
    finite = [one for one in epsilons if math.isfinite(one)]
    found = dict(zip(finite, pld_deltas(events, finite, relation), strict=True))
    ever = _ever_drawn(events, relation)
    return [min(bound, ever, found.get(one, 0.0)) for one, bound in zip(epsilons, plain, strict=True)]


def counted_in_full(releases: Releases) -> Counter[Release]:
    """Return a history as those see it who know who takes part: no cohort of fixed size is amplified."""
    counts: Counter[Release] = Counter()
    for release, count in count_releases(releases).items():
        counts[release.counted()] += count
    return counts


def shared_relations(several: Iterable[Releases]) -> list[Relation]:
    """Return the relations under which all of several histories have formulas; the first is the usual one."""
    made = {release for one in several for release in count_releases(one)}
    known = [release.cost.relations for release in made]
    shared = [one for one in (Relation.ADD_REMOVE, Relation.REPLACE_ONE) if all(one in each for each in known)]
    if not shared:
        names = " and ".join(sorted({repr(release.mechanism) for release in made}))
        raise NoGuarantee(
            f"accounting: releases of the mechanisms {names} have no relation in common under which all have formulas; "
            "charge them to different populations."
        )
    limited = any(release.sampling_name == MIN_SEPARATION for release in made)
    return [Relation.ZERO_OUT if limited and one is Relation.ADD_REMOVE else one for one in shared]


def renyi(release: Release, order: float, relation: Relation = Relation.ADD_REMOVE) -> float:
    """Return the Renyi divergence of one release, or the bound that its mechanism gives.

    Parameters
    ----------
    release : Release
        Its clipping norm does not matter.
    order : float
        Greater than 1 and finite.
    relation : Relation
        Under replace-one the sensitivity is twice the clipping norm.

    Returns
    -------
    float
        At least 0; infinite without noise. Never above the value without amplification.

    Raises
    ------
    InputError
        If the order is not greater than 1 and finite.
    NoGuarantee
        If the release has no formula under this relation.
    """
    if not 1.0 < order < math.inf:
        raise InputError(f"privacy: the Renyi 'order' must be greater than 1 and finite, got {order!r}.")
    return renyi_many(release.cost, (float(order),), relation)[0]


def _events(releases: Releases) -> tuple[Event, ...]:
    """Merge releases that cost the same; sorted, so that it can be the key of a cache."""
    merged: Counter[Cost] = Counter()
    for release, count in count_releases(releases).items():
        merged[release.cost] += count
    return tuple(sorted(merged.items(), key=lambda event: (event[0].mechanism, *event)))


def _resolve(accountant: Accountant, events: tuple[Event, ...], relation: Relation) -> str:
    if accountant != "auto":
        return accountant
    if all(is_plain(cost, relation) for cost, _ in events):
        return "gaussian"
    return "pld" if all(has_losses(cost, relation) for cost, _ in events) else "rdp"


def _without_noise(events: Iterable[Event], relation: Relation) -> bool:
    return any(cost.gaussian_noise(relation) == 0.0 for cost, _ in events)


def _ever_drawn(events: Iterable[Event], relation: Relation) -> float:
    """Return the probability that a task takes part in any release, which bounds delta at every epsilon.

    What a task never took part in does not depend on it: the outputs of two neighbours agree but for that chance.
    """
    rates = [(drawn_rate(cost, relation), count) for cost, count in events]
    never = math.fsum(count * math.log1p(-rate) if rate < 1.0 else -math.inf for rate, count in rates)
    return min(1.0, -math.expm1(never) * (1.0 + 1e-12))


def _rounded_up(value: float) -> float:
    """Return eight digits, rounded up: the digits after them depend on what was asked before."""
    if not 0.0 < value < math.inf:
        return float(value)
    digit = 10.0 ** (math.floor(math.log10(value)) - 7)
    return float(math.ceil(value / digit) * digit)


def _mu(events: Iterable[Event], relation: Relation) -> float | None:
    """Return sensitivity / noise of the composed mechanism, as if every task always took part; None if not Gaussian."""
    found = []
    for cost, count in events:
        noise = cost.gaussian_noise(relation)
        if noise is None:
            return None
        found.append(math.sqrt(count) / noise if noise > 0.0 else math.inf)
    return math.hypot(*found)  # which does not overflow or underflow where the squares would


@functools.lru_cache(maxsize=1024)
def _epsilon(events: tuple[Event, ...], delta: float, relation: Relation, accountant: str) -> Epsilon:
    if not events:
        return Epsilon(0.0, accountant)
    for cost, _ in events:
        check_relation(cost, relation)
    if relation is not Relation.ADD_REMOVE and accountant == "opacus-rdp":
        raise NoGuarantee(
            f"accounting: 'opacus-rdp' knows add/remove only, got {relation.value}; use 'pld', 'rdp' or 'gaussian'."
        )
    if _without_noise(events, relation):
        return Epsilon(math.inf, accountant)
    mu = _mu(events, relation)
    if mu is None and accountant in ("gaussian", "opacus-rdp"):
        other = next(cost for cost, _ in events if cost.gaussian_noise(relation) is None)
        refuse(other, f"formula of the accountant {accountant!r}, which knows Gaussian noise only", "use 'auto'")
    plain = Epsilon(math.inf if mu is None else gaussian_epsilon(mu, delta), "gaussian")
    if accountant == "gaussian" or plain.value == 0.0 or (mu is not None and math.isinf(plain.value)):
        return Epsilon(plain.value, accountant)
    if accountant == "rdp":
        return Epsilon(_rdp_epsilon(events, delta, relation), "rdp")
    if accountant == "opacus-rdp":
        return Epsilon(_opacus_epsilon(events, delta, relation), "opacus-rdp")
    if _ever_drawn(events, relation) <= delta:
        return Epsilon(0.0, "pld")
    # Sampling cannot hurt, so the curve without amplification is valid too. It, or Renyi accounting, is the
    # smaller one only where the losses are too large, or delta too small, to integrate.
    found = Epsilon(_rounded_up(pld_epsilon(events, delta, relation)), "pld")
    if math.isinf(found.value):
        with contextlib.suppress(NoGuarantee):  # not every mechanism has a Renyi bound
            found = min(found, Epsilon(_rdp_epsilon(events, delta, relation), "rdp"), key=lambda one: one.value)
    return min(found, plain, key=lambda one: one.value)


def _rdp_epsilon(events: tuple[Event, ...], delta: float, relation: Relation) -> float:
    from dp_accounting.rdp import RdpAccountant
    from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

    orders = tuple(float(order) for order in RdpAccountant().orders)
    totals = [0.0] * len(orders)
    for cost, count in events:
        for i, value in enumerate(renyi_many(cost, orders, relation)):
            totals[i] += count * value
    finite = [(order, total) for order, total in zip(orders, totals, strict=True) if math.isfinite(total)]
    if not finite:
        return math.inf
    return float(compute_epsilon(*zip(*finite, strict=True), delta)[0])


def _opacus_epsilon(events: tuple[Event, ...], delta: float, relation: Relation) -> float:
    import warnings

    import numpy as np

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # opacus advises on its range of orders, and importing it warns about torch's deprecations.
        warnings.simplefilter("ignore")
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history = [(cost.gaussian_noise(relation), cost.rate, count) for cost, count in events]
        return float(accountant.get_epsilon(delta=delta))
