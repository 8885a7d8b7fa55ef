"""Renyi divergences of Gaussian noise on a clipped sum.

Cohorts of fixed size are in :mod:`fedpriv.privacy.without_replacement`.

Poisson sampling under add/remove at whole orders comes from dp_accounting. Its series for fractional orders
often does not converge, and replace-one has no formula there. Both have a dominating pair in one dimension,
``(1-p) N(0, z^2) + p N(1, z^2)`` against ``N(0, z^2)`` (Mironov, Talwar and Zhang, 2019: this direction is
the larger one) and ``(1-p) N(0, z^2) + p N(-1, z^2)`` against ``(1-p) N(0, z^2) + p N(+1, z^2)`` (Zhu, Dong
and Wang, AISTATS 2022). Their divergences are integrated here on a grid: the trapezoid rule converges faster
than any power of the step for such functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedpriv.privacy.terms import Relation
from fedpriv.privacy.without_replacement import wor_renyi

__all__ = ["gaussian_renyi"]


def gaussian_renyi(
    noise_multiplier: float, rate: float, orders: tuple[float, ...], relation: Relation, *, fixed: bool
) -> tuple[float, ...]:
    """Return the Renyi divergence of one release at several orders.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise in clipping norms.
    rate : float
        Probability in (0, 1] that a task takes part.
    orders : tuple of float
        Each greater than 1 and finite.
    relation : Relation
        Under replace-one the sensitivity is twice the clipping norm.
    fixed : bool
        Whether cohorts have a fixed size; then the relation is replace-one.

    Returns
    -------
    tuple of float
        At least 0; infinite without noise. Never above the value without amplification.
    """
    sensitivity = relation.sensitivity
    mu = sensitivity / noise_multiplier if noise_multiplier > 0.0 else math.inf
    plain = tuple(order * mu * mu / 2.0 for order in orders)
    if rate == 1.0 or not all(map(math.isfinite, plain)):
        return plain
    if fixed:
        by_library = dict(zip(orders, wor_renyi(noise_multiplier, rate, orders), strict=True))
    else:
        whole = tuple(order for order in orders if order.is_integer() and relation is Relation.ADD_REMOVE)
        by_library = dict(zip(whole, _library(noise_multiplier, rate, whole), strict=True)) if whole else {}
    sampled = [
        by_library[order] if order in by_library else _quadrature(noise_multiplier, rate, order, relation)
        for order in orders
    ]
    # Sampling cannot hurt (the divergence is jointly quasi-convex), so the plain value bounds what is
    # computed; it stands in where rounding has eaten a tiny divergence, because 0 would under-charge.
    return tuple(s if 1e-13 < s < p else p for s, p in zip(sampled, plain, strict=True))


def _library(noise_multiplier: float, rate: float, orders: Sequence[float]) -> list[float]:
    """Ask dp_accounting for Poisson sampling under add/remove."""
    import numpy as np
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders)
    with np.errstate(all="ignore"):
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise_multiplier)))
    # NaN (nothing could be computed) compares false everywhere and falls back to the plain value.
    return [float(value) for value in accountant.rdp]


def _quadrature(noise_multiplier: float, rate: float, order: float, relation: Relation) -> float:
    """Integrate P^order Q^(1 - order) of the dominating pair, in units of the noise's standard deviation."""
    import numpy as np
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
