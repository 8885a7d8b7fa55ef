"""The smallest noise that meets a target."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

from fedpriv.errors import InputError
from fedpriv.privacy.accounting import epsilon
from fedpriv.privacy.cost import check_relation
from fedpriv.privacy.filters import BudgetFilter
from fedpriv.privacy.gaussian import gaussian_mu
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.sampling import Sampling
from fedpriv.privacy.target import Target
from fedpriv.privacy.terms import Relation

__all__ = [
    "SMALLEST_EPSILON",
    "calibrate_noise_multiplier",
    "calibrate_to_filter",
    "needs_no_noise",
    "without_noise",
]

SMALLEST_EPSILON, _LARGEST_EPSILON = 1e-6, 1000.0
"""Targets lie between these."""

_MIN_SHARE_OF_TARGET = 0.998
"""Calibration stops once epsilon is between this and 1 of its target."""

_MIN_RELATIVE_WIDTH = 1e-4
"""Where epsilon jumps instead, it stops with an interval of this relative length."""

Beside = tuple[tuple[Release, int], ...]


def calibrate_noise_multiplier(
    target: Target, sampling: Sampling, rounds: int, num_tasks: int, beside: Mapping[Release, int] | None = None
) -> float:
    """Return the smallest noise multiplier whose epsilon stays within the target.

    Parameters
    ----------
    target : Target
        Epsilon, delta and relation of the whole run.
    sampling : Sampling
        How the tasks of each round are chosen.
    rounds : int
        Number of releases, at least 1.
    num_tasks : int
        Size of the population, for the check and the default of delta.
    beside : mapping from Release to count, or None
        What else the target has to cover: releases with full participation and noise that is decided already.

    Returns
    -------
    float
        Epsilon (accountant "auto") is at most the target's, and at least 0.998 of it wherever the accountant
        is continuous.

    Raises
    ------
    InputError
        If rounds is below 1, delta is too large for the population, epsilon is above 1000, or what comes beside leaves
        nothing of it.
    """
    delta = target.delta_for(num_tasks)
    _check_rounds(rounds)
    if target.epsilon > _LARGEST_EPSILON:
        raise InputError(
            f"calibration: 'epsilon' must be at most {_LARGEST_EPSILON:g}, got {target.epsilon:g}, which "
            "protects nobody; set 'noise_multiplier' itself instead."
        )
    if target.epsilon < SMALLEST_EPSILON:
        raise InputError(
            f"calibration: 'epsilon' must be at least {SMALLEST_EPSILON:g}, got {target.epsilon:g}: so small a one "
            "says no more, and delta decides; give a larger one, or set 'noise_multiplier' itself."
        )
    if needs_no_noise(sampling, rounds, delta):
        raise InputError(
            f"calibration: {without_noise(sampling, rounds, delta)}; use a smaller delta or a larger rate."
        )
    return _calibrate(target.epsilon, delta, target.relation, sampling, rounds, tuple((beside or {}).items()))


def needs_no_noise(sampling: Sampling, rounds: int, delta: float) -> bool:
    """Tell whether (0, delta) holds whatever the noise, because hardly any task ever takes part.

    What a task never took part in does not depend on it, so the chance that it ever takes part bounds delta at every
    epsilon, under both relations. Without noise that is also what delta comes to: if it is larger than the target's,
    there is a smallest noise, and otherwise none is needed.
    """
    return ever_drawn(sampling, rounds) <= delta


def ever_drawn(sampling: Sampling, rounds: int) -> float:
    """Return the probability that a task takes part in any of some rounds; 1 where sampling amplifies nothing."""
    rate = Release.of(sampling, 1.0).cost.rate
    return 1.0 if rate == 1.0 else -math.expm1(rounds * math.log1p(-rate))


def without_noise(sampling: Sampling, rounds: int, delta: float) -> str:
    """Say that no noise is needed."""
    return (
        f"a task takes part in any of the {rounds:,} rounds with a probability of {ever_drawn(sampling, rounds):.3g}, "
        f"which is at most delta = {delta:.3g}: any epsilon holds for this delta without noise, and whoever takes part "
        "is not protected by it"
    )


def calibrate_to_filter(budget: BudgetFilter, sampling: Sampling, rounds: int) -> float:
    """Return the smallest noise multiplier with which a run passes an unused budget filter.

    A run that is calibrated to the same epsilon by privacy loss distributions needs a little less noise than
    a filter grants, because the filter stays valid when later runs react to earlier ones; a protected
    population asks for this.

    Raises
    ------
    InputError
        If rounds is below 1.
    """
    _check_rounds(rounds)
    enough = budget.enough(rounds)
    return _search(
        lambda noise: budget.cost({Release.of(sampling, noise): rounds}) / budget.allowance, 1.0, enough, enough * 0.5
    )


@functools.lru_cache(maxsize=256)
def _calibrate(goal: float, delta: float, relation: Relation, sampling: Sampling, rounds: int, beside: Beside) -> float:
    one = Release.of(sampling, 1.0).cost
    check_relation(one, relation)
    sensitivity = relation.sensitivity
    # Without amplification all releases are one Gaussian mechanism; with it, less noise is enough.
    mu, other = gaussian_mu(goal, delta), 0.0
    for release, count in beside:
        noise = release.cost.gaussian_noise(relation)
        if release.cost.rate < 1.0 or not noise:
            raise InputError("calibration: what comes beside must have Gaussian noise, and full participation.")
        other = math.hypot(other, math.sqrt(count) / noise)
    if other >= mu:
        alone = epsilon(dict(beside), delta, relation).value
        raise InputError(
            f"calibration: metrics alone cost epsilon {alone:.4g}, and the target for everything is {goal:g}; give "
            "them less ('metrics_epsilon')."
        )
    left = math.sqrt((mu - other) * (mu + other)) / sensitivity
    enough = math.sqrt(rounds) / left * (1.0 + 1e-10)
    if one.rate == 1.0:
        return enough
    # What many sampled releases tend to by the central limit theorem (Bu, Dong, Long and Su, 2019): where to begin.
    start = 1.0 / math.sqrt(math.log1p((left / sampling.rate) ** 2 / rounds))
    return _search(
        lambda noise: epsilon({**dict(beside), Release.of(sampling, noise): rounds}, delta, relation).value,
        goal,
        enough,
        start,
    )


def _search(cost: Callable[[float], float], goal: float, enough: float, start: float) -> float:
    """Find the smallest z with ``cost(z) <= goal`` by secants of log cost over log z, kept inside a bracket.

    ``cost`` falls in z and ``cost(enough) <= goal`` is known. Only points that were evaluated, or ``enough``,
    are returned. The search ends at a cost between ``_MIN_SHARE_OF_TARGET`` and 1 of the goal, or, where the cost
    jumps, with a bracket of the relative length ``_MIN_RELATIVE_WIDTH``.
    """
    aim = math.log(goal * 0.5 * (1.0 + _MIN_SHARE_OF_TARGET))
    high, low = enough, 0.0
    point, slope = min(start, enough), -1.2
    before: tuple[float, float] | None = None
    for _ in range(60):
        value = cost(point)
        if value <= goal:
            high = point
            if value >= _MIN_SHARE_OF_TARGET * goal:
                break
        else:
            low = point
        if low > 0.0 and high / low < 1.0 + _MIN_RELATIVE_WIDTH:
            break  # The cost jumps here.
        if 0.0 < value < math.inf:
            here = (math.log(point), math.log(value))
            if before is not None and before[0] != here[0]:
                slope = min(-0.3, max(-1e3, (here[1] - before[1]) / (here[0] - before[0])))
            before = here
            guess = math.exp(here[0] + (aim - here[1]) / slope)
        else:
            guess = 0.0
        if low > 0.0 and not low < guess < high:
            guess = math.sqrt(low * high)
        # Without a lower end yet, never leap by more than a factor of 5: too little noise costs memory and time to
        # account.
        point = min(max(guess, point / 5.0), high * (1.0 - 1e-12) if low == 0.0 else high)
    return high


def _check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise InputError(f"calibration: 'rounds' must be at least 1, got {rounds}.")
