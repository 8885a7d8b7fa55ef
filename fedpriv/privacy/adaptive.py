"""A clipping norm that follows a quantile of the updates' norms, inside the budget of the updates.

After Andrew, Thakkar, Ramaswamy and McMahan (NeurIPS 2021): each task of a round tells by one bit whether its update
was not longer than the norm C, the server releases the sum of the bits with noise, and the next round's norm is
``C exp(-rate (share - q))``: it falls where more than the quantile q of the tasks stay within it and grows where fewer
do.

The bits are centred at q, not at 1/2 as in the paper, so that tasks that do not answer, and answer 0, leave the norm
where it is; centred at 1/2 they pull it, and at quantiles far from 1/2 it would run away if many of them are silent.
A centred bit lies within g = max(q, 1 - q) of 0. So one task moves the pair (sum of updates, sum of bits) by at most C
in one part and g in the other when it is added or removed, and by twice that (1 in the bits, which is at most 2 g) when
its data are replaced. With noise of standard deviation ``z_u C`` on the first and ``s`` on the second, the pair is one
Gaussian release with the noise multiplier z where

    1 / z^2 = 1 / z_u^2 + g^2 / s^2,

which for q = 1/2 is the paper's formula. The bits take the share ``(g z / s)^2`` of the budget, and the update's noise
rises by ``1 / sqrt(1 - share)``. Since the pair is one vector with one bound, this also holds for a sample of the
tasks. The norm of the next round is computed from what was released, so it may be published, too; and the cost of a
round does not depend on its norm, so nothing that is accounted for reacts to what was released.
"""

from __future__ import annotations

import math

from fedpriv.errors import InputError
from fedpriv.privacy.clipping import SMALLEST_NORM

__all__ = ["bit_share", "default_count_stddev", "next_norm"]

_MAX_BUDGET_SHARE = 0.05
"""Share of the budget that bits get at most unless their noise is given: 2.6% more noise on the updates."""

_MAX_NOISE_FACTOR = 1e12
"""How far the bits' noise may exceed the least that they need."""


def default_count_stddev(expected: float, groups: int, noise_multiplier: float, reach: float) -> float:
    """Return the standard deviation of the noise on each public group's count of bits.

    Over all groups together a twentieth of the expected number of participants, as in the paper, or as much more as
    keeps the share of the bits at 1/20 of the budget.

    Parameters
    ----------
    expected : float
        Expected number of participants of a round.
    groups : int
        Number of public groups that count separately.
    noise_multiplier : float
        Of the joint release.
    reach : float
        Largest centred bit, max(q, 1 - q).
    """
    return max(expected / 20.0 / math.sqrt(groups), reach * noise_multiplier / math.sqrt(_MAX_BUDGET_SHARE))


def bit_share(noise_multiplier: float, count_stddev: float, reach: float) -> float:
    """Return which share of the budget the bits take.

    Raises
    ------
    InputError
        Their noise is so small that they alone would cost more than the joint release may, or so large that nothing
        could be computed with their share.
    """
    if noise_multiplier == 0.0:
        return _MAX_BUDGET_SHARE  # there is no noise to share
    least = reach * noise_multiplier
    if count_stddev <= least:
        raise InputError(
            f"'clipped_count_stddev' must be above {least:.6g}, got {count_stddev:g}: with less noise the bits "
            f"alone would cost more than the noise multiplier {noise_multiplier:.4g} stands for; leave it out for a "
            "good default."
        )
    if count_stddev > _MAX_NOISE_FACTOR * least:
        raise InputError(
            f"'clipped_count_stddev' must be at most {_MAX_NOISE_FACTOR * least:.6g}, got {count_stddev:g}: beside the "
            f"noise multiplier {noise_multiplier:.4g} the bits would be nothing but noise; lower it, or use more noise."
        )
    return float((least / count_stddev) ** 2)


def next_norm(norm: float, excess: float, rate: float, start: float, largest: float) -> float:
    """Return the norm of the next round.

    Parameters
    ----------
    norm : float
        The norm of this round.
    excess : float
        Noisy share of the tasks within the norm, less the quantile; over the expected number of participants, a public
        constant.
    rate : float
        Step in the logarithm of the norm.
    start, largest : float
        The norm of the first round, and where it stops. It also stops at a trillionth of the first one, so that updates
        of zeros cannot take it to 0.
    """
    exponent = max(-50.0, min(50.0, -rate * excess))
    smallest = max(SMALLEST_NORM, start * 1e-12)
    return min(largest, max(smallest, norm * math.exp(exponent)))
