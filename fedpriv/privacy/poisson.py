"""The privacy curves of one release whose participants flip coins, in closed form; a rate of 1 is no sampling.

In units of the noise's standard deviation, with ``mu = 1 / noise_multiplier`` and rate p, the dominating pairs are

- removing a task: ``(1-p) N(0) + p N(mu)`` against ``N(0)``, and adding one, the same pair the other way round (Zhu,
  Dong and Wang, AISTATS 2022, Proposition 30). Both curves are the Gaussian's, moved: ``p G(log(1 + (e^eps - 1) / p))``
  and ``c G(eps + log(p / c))`` with ``c = 1 - (1-p) e^eps``;
- replacing one: ``(1-p) N(0) + p N(-mu)`` against ``(1-p) N(0) + p N(+mu)``. The likelihood ratio falls in x, and where
  it is ``e^eps`` a quadratic equation in ``e^(mu x)`` holds.

All directions are composed on their own; the larger answer counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedpriv.privacy.gaussian import gaussian_deltas
from fedpriv.privacy.terms import Relation

__all__ = ["Curve", "both_signs", "curves"]

Vector = NDArray[np.float64]

_TAIL = 10.0
"""The grid ends where the shifted Gaussian has 8e-24 of its mass left."""


class Curve(NamedTuple):
    """A privacy curve, and the losses between which it is worth a grid.

    Attributes
    ----------
    deltas : callable
        Deltas at epsilons [n] of either sign.
    smallest, largest : float
        Nearly all losses lie between these.
    """

    deltas: Callable[[Vector], Vector]
    smallest: float
    largest: float


def curves(noise_multiplier: float, rate: float, relation: Relation) -> list[Curve]:
    """Return the curve of each direction of one release with noise."""
    mu = 1.0 / noise_multiplier
    replaced = relation is Relation.REPLACE_ONE
    if rate == 1.0:
        mu *= 2.0 if replaced else 1.0
        largest = mu * mu / 2.0 + _TAIL * mu
        return [Curve(lambda at: _gaussian(mu, at), -largest, largest)]
    far = mu * (mu + _TAIL)
    stay, move = math.log1p(-rate), math.log(rate) - mu * mu / 2.0
    if replaced:
        largest = float(np.logaddexp(stay, move + far) - np.logaddexp(stay, move - far))
        return [Curve(lambda at: both_signs(lambda size: _replace(mu, rate, size), at), -largest, largest)]
    largest = float(np.logaddexp(stay, move + far))
    return [
        Curve(lambda at: _remove(mu, rate, at), stay, largest),
        Curve(lambda at: _add(mu, rate, at), -largest, -stay),
    ]


def both_signs(curve: Callable[[Vector], Vector], at: Vector) -> Vector:
    """Extend the curve of a symmetric pair to negative epsilons."""
    size = np.abs(at)
    above = curve(size)
    return np.where(at >= 0.0, above, -np.expm1(-size) + np.exp(-size) * above)


def _gaussian(mu: float, at: Vector) -> Vector:
    return both_signs(lambda size: gaussian_deltas(mu, size), at)


def _remove(mu: float, rate: float, at: Vector) -> Vector:
    with np.errstate(all="ignore"):  # branches that are not taken
        base = np.where(at > 600.0, at - math.log(rate), np.log1p(np.expm1(at) / rate))
        certain = -np.expm1(at)
    inside = at > math.log1p(-rate)
    return np.where(inside, rate * _gaussian(mu, np.where(inside, base, 0.0)), certain)


def _add(mu: float, rate: float, at: Vector) -> Vector:
    inside = at < -math.log1p(-rate)
    at = np.where(inside, at, 0.0)
    factor = rate - (1.0 - rate) * np.expm1(at)
    with np.errstate(all="ignore"):
        base = np.where(factor > 0.0, at + math.log(rate) - np.log(factor), np.inf)
    return np.where(inside, np.maximum(factor, 0.0) * _gaussian(mu, base), 0.0)


def _replace(mu: float, rate: float, at: Vector) -> Vector:
    from scipy.special import log_ndtr

    with np.errstate(all="ignore"):
        stay = at + np.log(-np.expm1(-at)) + math.log1p(-rate)  # log of (e^eps - 1)(1 - p)
        move = math.log(rate) - mu * mu / 2.0
        square = math.log(2.0) + at / 2.0 + move
        largest = np.maximum(stay, square)
        root = largest + np.log(np.exp(stay - largest) + np.hypot(np.exp(stay - largest), np.exp(square - largest)))
        x = (math.log(2.0) + move - root) / mu
        kept = rate * np.exp(log_ndtr(x + mu))
        lost = np.exp(stay + log_ndtr(x)) + rate * np.exp(at + log_ndtr(x - mu))
    return np.asarray(np.maximum(0.0, kept - lost), dtype=np.float64)
