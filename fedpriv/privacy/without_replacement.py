"""Cohorts of fixed size, drawn without replacement: the certified privacy loss of one release.

A task whose data change moves the sum of a cohort that holds it by up to two clipping norms, so without sampling the
mechanism is Gaussian with ``mu = 2 / noise_multiplier``. Drawing a share q of the tasks without replacement turns its
curve delta into

    delta'(log(1 + q (e^eps - 1))) = q delta(eps)        for eps >= 0

under replace-one (Balle, Barthe and Gaboardi, NeurIPS 2018, Theorem 11), in both directions, since replacing back is
replacing too. Below 0 the curve of a symmetric relation follows from the one above:
``delta'(-eps) = 1 - e^-eps + e^-eps delta'(eps)``. As a function of e^eps the whole is convex and falls from 1 to 0,
so some pair of distributions has exactly this curve, and that pair dominates the mechanism; dominating pairs compose
(Zhu, Dong and Wang, AISTATS 2022, Proposition 10 and Theorem 10).

The pairs that are the worst for one release of Poisson sampling do not dominate here: their composition can lie below
the truth (Lebeda, Regehr, Kamath and Steinke, 2024). They are not used.
"""

from __future__ import annotations

import math

from fedpriv.privacy.distribution import Distribution, Piece
from fedpriv.privacy.poisson import farther, log_normal, log_ratio

__all__ = ["wor_losses"]


def wor_losses(noise_multiplier: float, rate: float, cut: float) -> Distribution:
    """Return the privacy loss of one release under replace-one; both directions of replacing have it.

    Losses above 0 are those of ``(1-q) N(0) + q N(mu)`` against ``N(0)`` where the second is the less likely one; each
    has a mirror image below 0, ``exp(-loss)`` times as likely. What is left of the probability is a loss of 0.

    Parameters
    ----------
    noise_multiplier, cut
        As for :func:`fedpriv.privacy.poisson.poisson_losses`.
    rate : float
        Share q of the tasks that a cohort holds, in (0, 1).
    """
    mu = 2.0 / noise_multiplier
    low, high = mu / 2.0, farther(mu, rate, cut)
    above = Piece(low, high, lambda x: log_normal(x) + log_ratio(mu, rate, x), lambda x: log_ratio(mu, rate, x))
    below = Piece(low, high, log_normal, lambda x: -log_ratio(mu, rate, x))
    none = (1.0 - rate) * math.erf(mu / math.sqrt(8.0))
    return Distribution([above, below], 0.5 * min(1.0, 1.0 / mu), none, cut)
