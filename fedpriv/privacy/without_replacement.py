"""Cohorts of fixed size, drawn without replacement: the certified privacy curve of one release.

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

import numpy as np
from numpy.typing import NDArray

from fedpriv.privacy.gaussian import gaussian_deltas
from fedpriv.privacy.poisson import Curve, both_signs

__all__ = ["wor_curve", "wor_deltas", "wor_renyi"]

_TAIL = 12.0
"""The grid ends where the base mechanism's delta is below Phi(-12) = 2e-33."""


def wor_deltas(noise_multiplier: float, rate: float, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return delta' of one release at each epsilon [n] of either sign, under replace-one.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise in clipping norms, positive.
    rate : float
        Share q of the tasks that a cohort holds, in (0, 1].
    epsilons : ndarray of float64, shape [n]
        Where to look.

    Returns
    -------
    ndarray of float64, shape [n]
        In [0, 1].
    """

    def above(size: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            base = np.log1p(np.expm1(size) / rate)
        # Where the exponential overflows, log(1 + (e^s - 1) / q) is s - log q up to rounding.
        base = np.where(size > 600.0, size - math.log(rate), base)
        return rate * gaussian_deltas(2.0 / noise_multiplier, base)

    return both_signs(above, epsilons)


def wor_curve(noise_multiplier: float, rate: float) -> Curve:
    """Return the curve of one release; both directions of replacing have it."""
    mu = 2.0 / noise_multiplier
    # The base mechanism's loss at the end of the grid, as a loss of the sampled mechanism.
    end = mu * mu / 2.0 + _TAIL * mu
    end = end + math.log(rate) if end > 600.0 else math.log1p(rate * math.expm1(end))
    return Curve(lambda at: wor_deltas(noise_multiplier, rate, at), -end, end)


def wor_renyi(noise_multiplier: float, rate: float, orders: tuple[float, ...]) -> list[float]:
    """Return bounds of the Renyi divergences of one release under replace-one.

    Wang, Balle and Kasiviswanathan, AISTATS 2019, Theorem 27 of the long version, as dp_accounting computes it. That
    library takes noise relative to the sensitivity, which is two clipping norms here.
    """
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SampledWithoutReplacementDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders, NeighboringRelation.REPLACE_ONE)
    population, sample = _whole(rate)
    event = SampledWithoutReplacementDpEvent(population, sample, GaussianDpEvent(noise_multiplier / 2.0))
    with np.errstate(all="ignore"):
        accountant.compose(event)
    return [float(value) for value in accountant.rdp]


def _whole(rate: float) -> tuple[int, int]:
    """Return whole numbers with at least this quotient: the library asks for sizes, the bound needs their quotient."""
    from fractions import Fraction

    found = Fraction(rate).limit_denominator(10**12)
    if found < Fraction(rate):
        found += Fraction(1, 10**12)
    found = min(found, Fraction(1))
    return found.denominator, found.numerator
