"""What Gaussian noise on a clipped sum costs: its privacy losses, and its Renyi divergences.

Renyi divergences of Poisson sampling under add/remove at whole orders, and bounds for cohorts of fixed size, come from
dp_accounting. Its series for fractional orders often does not converge, and replace-one has no formula there. Both have
a dominating pair in one dimension, ``(1-p) N(0, z^2) + p N(1, z^2)`` against ``N(0, z^2)`` (Mironov, Talwar and Zhang,
2019: this direction is the larger one) and ``(1-p) N(0, z^2) + p N(-1, z^2)`` against
``(1-p) N(0, z^2) + p N(+1, z^2)`` (Zhu, Dong and Wang, AISTATS 2022). Their divergences are integrated here on a grid:
the trapezoid rule converges faster than any power of the step for such functions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fedpriv.privacy.cost import GAUSSIAN
from fedpriv.privacy.distribution import Distribution
from fedpriv.privacy.poisson import poisson_losses
from fedpriv.privacy.terms import Relation
from fedpriv.privacy.without_replacement import wor_losses

__all__ = ["GaussianCost", "wor_renyi"]


class GaussianCost(NamedTuple):
    """What accounting needs to know of Gaussian noise; see :class:`fedpriv.privacy.cost.Cost`.

    Attributes
    ----------
    noise_multiplier : float
        Standard deviation of the noise in clipping norms.
    rate : float
        Rate of the sampling that amplifies; 1 if nothing does.
    fixed : bool
        True for cohorts of fixed size and for rows with local noise, which have formulas under replace-one only.
    """

    noise_multiplier: float
    rate: float
    fixed: bool = False

    @property
    def mechanism(self) -> str:
        """The name of Gaussian noise."""
        return GAUSSIAN

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Both, or replace-one only."""
        return (Relation.REPLACE_ONE,) if self.fixed else (Relation.ADD_REMOVE, Relation.REPLACE_ONE)

    def gaussian_noise(self, relation: Relation) -> float:
        """Return the noise, relative to one or two clipping norms."""
        return self.noise_multiplier / relation.sensitivity

    def losses(self, relation: Relation, cut: float) -> list[Distribution]:
        """Return the privacy losses of a sample; the rate is below 1."""
        if self.fixed:
            return [wor_losses(self.noise_multiplier, self.rate, cut)]
        return poisson_losses(self.noise_multiplier, self.rate, relation, cut)

    def renyi(self, orders: tuple[float, ...], relation: Relation) -> tuple[float, ...]:
        """Return the divergences of the sample, never above those without amplification; infinite without noise."""
        noise, rate = self.noise_multiplier, self.rate
        mu = relation.sensitivity / noise if noise > 0.0 else math.inf
        plain = tuple(order * mu * mu / 2.0 for order in orders)
        if rate == 1.0 or not all(map(math.isfinite, plain)):
            return plain
        if self.fixed:
            sampled = dict(zip(orders, wor_renyi(noise, rate, orders), strict=True))
        else:
            whole = tuple(order for order in orders if order.is_integer() and relation is Relation.ADD_REMOVE)
            sampled = dict(zip(whole, _poisson_renyi(noise, rate, whole), strict=True)) if whole else {}
            sampled |= {one: _quadrature(noise, rate, one, relation) for one in orders if one not in sampled}
        # Sampling cannot hurt (the divergence is jointly quasi-convex), so the plain value bounds what is
        # computed; it stands in where rounding has eaten a tiny divergence, because 0 would under-charge.
        return tuple(
            sampled[order] if 1e-13 < sampled[order] < most else most for order, most in zip(orders, plain, strict=True)
        )


def _poisson_renyi(noise_multiplier: float, rate: float, orders: tuple[float, ...]) -> list[float]:
    """Return the divergences of Poisson sampling under add/remove at whole orders."""
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent

    event = PoissonSampledDpEvent(rate, GaussianDpEvent(noise_multiplier))
    return _from_library(event, orders, NeighboringRelation.ADD_OR_REMOVE_ONE)


def wor_renyi(noise_multiplier: float, rate: float, orders: tuple[float, ...]) -> list[float]:
    """Return bounds of the Renyi divergences of one release of a cohort of fixed size, under replace-one.

    Wang, Balle and Kasiviswanathan, AISTATS 2019, Theorem 27 of the long version, as dp_accounting computes it. That
    library takes noise relative to the sensitivity, which is two clipping norms here.
    """
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SampledWithoutReplacementDpEvent

    event = SampledWithoutReplacementDpEvent(*_whole(rate), GaussianDpEvent(noise_multiplier / 2.0))
    return _from_library(event, orders, NeighboringRelation.REPLACE_ONE)


def _from_library(event: Any, orders: tuple[float, ...], relation: Any) -> list[float]:
    """Ask dp_accounting; NaN, where it can compute nothing, compares false everywhere."""
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders, relation)
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


def _quadrature(noise_multiplier: float, rate: float, order: float, relation: Relation) -> float:
    """Integrate P^order Q^(1 - order) of the dominating pair, in units of the noise's standard deviation."""
    from scipy.special import logsumexp

    mu = 1.0 / noise_multiplier
    # The integrand is a bump near each centre and near where the most different Gaussians put it; elsewhere
    # it is smooth on the scale of min(1, 1/mu), which the step resolves.
    reach = (2.0 * order - 1.0) * mu + 12.0
    step = 0.05 / max(1.0, mu)
    points = int(2.0 * reach / step) + 1
    if points > 500_000:
        return math.inf
    x = np.linspace(-reach, reach, points)
    centre = -0.5 * x * x
    p = np.logaddexp(math.log1p(-rate) + centre, math.log(rate) - 0.5 * (x + mu) ** 2)
    if relation is Relation.REPLACE_ONE:
        q = np.logaddexp(math.log1p(-rate) + centre, math.log(rate) - 0.5 * (x - mu) ** 2)
    else:
        q = centre
    log_integral = float(logsumexp(order * p + (1.0 - order) * q)) + math.log(x[1] - x[0])
    return max(0.0, log_integral - 0.5 * math.log(2.0 * math.pi)) / (order - 1.0)
