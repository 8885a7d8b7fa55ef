"""The exact privacy curve of the Gaussian mechanism.

A Gaussian mechanism with sensitivity / standard deviation = mu has
``delta(eps) = Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu)`` (Balle and Wang, ICML 2018; Dong, Roth and
Su, JRSS-B 2022). Written with ``u = eps/mu - mu/2``, the density phi and Mills' ratio ``R(u) = Phi(-u) /
phi(u)`` this is ``phi(u) (R(u) - R(u + mu))``, which neither overflows nor cancels; that form is used here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from fedpriv.errors import InputError

__all__ = ["gaussian_delta", "gaussian_epsilon", "gaussian_mu"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

_NODES = (0.0, 0.5384693101056831, 0.9061798459386640)
_WEIGHTS = (0.5688888888888889, 0.4786286704993665, 0.2369268850561891)
"""The five-point Gauss-Legendre rule on [-1, 1] (positive half)."""


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the smallest delta of a Gaussian mechanism at ``epsilon``.

    Parameters
    ----------
    mu : float
        Sensitivity divided by the standard deviation, at least 0; infinity means no noise.
    epsilon : float
        At least 0.

    Returns
    -------
    float
        In [0, 1]; exact to a relative 1e-9 for ``mu`` down to 1e-12.

    Raises
    ------
    InputError
        If ``mu`` or ``epsilon`` is negative or NaN.
    """
    _check("mu", mu)
    _check("epsilon", epsilon)
    if math.isinf(mu):
        return 1.0
    if mu == 0.0 or math.isinf(epsilon):
        return 0.0
    return min(1.0, math.exp(_log_delta(mu, epsilon / mu - mu / 2.0)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon of a Gaussian mechanism at ``delta``.

    Parameters
    ----------
    mu : float
        Sensitivity divided by the standard deviation, at least 0; infinity means no noise.
    delta : float
        In (0, 1).

    Returns
    -------
    float
        At least 0, rounded up by a relative 1e-12; infinity if ``mu`` is infinite or its square overflows.

    Raises
    ------
    InputError
        If ``mu`` is negative or ``delta`` is outside (0, 1).
    """
    _check("mu", mu)
    log_delta = _log_of(delta)
    if mu == 0.0:
        return 0.0
    if mu > 1e150:
        return math.inf
    if _log_delta(mu, -mu / 2.0) <= log_delta:
        return 0.0
    # Phi(-u) <= exp(-u^2 / 2) bounds delta from above, so the root lies below this u.
    high = math.sqrt(-2.0 * log_delta)
    # At u = -60 nothing is left of 1 - delta, so a root below does not exist.
    low = max(-mu / 2.0, -60.0)
    root = _root(lambda u: _log_delta(mu, u) - log_delta, high, low)
    # Both terms may be large and of opposite sign, hence the allowance is relative to their sizes.
    return max(0.0, mu * (root + mu / 2.0) + mu * (abs(root) + 1.0) * 1e-13)


@functools.lru_cache(maxsize=256)
def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the largest ``mu`` whose Gaussian mechanism is (epsilon, delta)-DP.

    Rounded down by a relative 1e-12.

    Raises
    ------
    InputError
        If ``epsilon`` is not positive and finite, or ``delta`` is outside (0, 1).
    """
    _check("epsilon", epsilon)
    if epsilon == 0.0 or math.isinf(epsilon):
        raise InputError(f"privacy: 'epsilon' must be positive and finite, got {epsilon!r}.")
    log_delta = _log_of(delta)

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        return _log_delta(mu, epsilon / mu - mu / 2.0) - log_delta

    # At mu with epsilon = mu^2/2 + mu sqrt(2 log(1/delta)) the bound above holds; doubling soon passes the
    # root.
    tail = math.sqrt(-2.0 * log_delta)
    low = 2.0 * epsilon / (math.sqrt(tail * tail + 2.0 * epsilon) + tail)
    high = 2.0 * low
    while excess(math.log(high)) <= 0.0:
        high *= 2.0
    log_mu = _root(excess, math.log(low) - 1e-9, math.log(high))
    return math.exp(log_mu) * (1.0 - 1e-12)


def _root(function: Callable[[float], float], below: float, above: float) -> float:
    """Return where a monotone function crosses 0, to the last bits; it is at most 0 at ``below``.

    Bisection: importing a faster method from scipy.optimize takes as long as a thousand of these.
    """
    while True:
        middle = 0.5 * (below + above)
        if abs(above - below) <= 1e-14 * max(1.0, abs(middle)) or middle in (below, above):
            return middle
        if function(middle) <= 0.0:
            below = middle
        else:
            above = middle


def _log_delta(mu: float, u: float) -> float:
    """Return log delta at ``epsilon = mu (u + mu / 2)``, for u >= -mu/2."""
    from scipy.special import log_ndtr

    log_density = -0.5 * u * u - _LOG_SQRT_2PI
    if u > 1e100 or mu / 2.0 == 0.0:
        return -math.inf
    if mu < 0.05:
        # R(u) - R(u + mu) cancels; it is the integral of -R'(x) = 1 - x R(x), which is smooth.
        half, middle = mu / 2.0, u + mu / 2.0
        total = 0.0
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            for x in {middle + half * node, middle - half * node}:
                total += weight * _minus_mills_slope(x)
        return log_density + math.log(half) + math.log(total)
    if u > -5.0:
        return log_density + math.log(_mills(u) - _mills(u + mu))
    # Here Phi(-u) is close to 1 and the second term is small beside it: nothing cancels, but R(u) could
    # overflow.
    first = float(log_ndtr(-u))
    second = log_density + math.log(_mills(u + mu))
    return first + math.log1p(-math.exp(second - first))


def _mills(x: float) -> float:
    """Return Phi(-x) / phi(x)."""
    from scipy.special import erfcx

    return math.sqrt(math.pi / 2.0) * float(erfcx(x / math.sqrt(2.0)))


def _minus_mills_slope(x: float) -> float:
    """Return 1 - x R(x); by its asymptotic series where the difference would cancel."""
    if x > 50.0:
        y = 1.0 / (x * x)
        return y * (1.0 - 3.0 * y * (1.0 - 5.0 * y * (1.0 - 7.0 * y * (1.0 - 9.0 * y))))
    return 1.0 - x * _mills(x)


def _log_of(delta: float) -> float:
    if not 0.0 < delta < 1.0:
        raise InputError(f"privacy: 'delta' must be between 0 and 1, both excluded, got {delta!r}.")
    return math.log(delta)


def _check(name: str, value: float) -> None:
    if not value >= 0.0:
        raise InputError(f"privacy: {name!r} must be at least 0, got {value!r}.")
