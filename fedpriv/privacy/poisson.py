"""The privacy losses of one release whose participants flip coins, a rate of 1 excluded.

In units of the noise's standard deviation, with ``mu = 1 / noise_multiplier`` and rate p, the dominating pairs are

- removing a task: ``(1-p) N(0) + p N(mu)`` against ``N(0)``, and adding one, the same pair the other way round (Zhu,
  Dong and Wang, AISTATS 2022, Proposition 30);
- replacing one: ``(1-p) N(0) + p N(-mu)`` against ``(1-p) N(0) + p N(+mu)``.

All directions are composed on their own; the larger answer counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.privacy.distribution import Distribution, Piece
from fedpriv.privacy.terms import Relation

__all__ = ["bounded_losses", "farther", "log_normal", "log_ratio", "poisson_losses"]

Vector = NDArray[np.float64]


def poisson_losses(noise_multiplier: float, rate: float, relation: Relation, cut: float) -> list[Distribution]:
    """Return the privacy loss of each direction of one release.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise in clipping norms, positive.
    rate : float
        Probability in (0, 1) that a task takes part.
    relation : Relation
        Neighbouring relation.
    cut : float
        Probability of outputs that are not looked at and count as an infinite loss, positive.
    """
    mu = 1.0 / noise_multiplier
    width, low, high = 0.5 * min(1.0, noise_multiplier), far(cut), farther(mu, rate, cut)

    def mixed(x: Vector) -> Vector:
        return log_normal(x) + log_ratio(mu, rate, x)

    if relation is Relation.REPLACE_ONE:  # mirrored, so that the losses rise with x
        both = Piece(-low, high, mixed, lambda x: log_ratio(mu, rate, x) - log_ratio(mu, rate, -x))
        return [Distribution([both], width, 0.0, cut)]
    remove = Piece(-low, high, mixed, lambda x: log_ratio(mu, rate, x))
    add = Piece(-low, low, log_normal, lambda x: -log_ratio(mu, rate, x))
    return [Distribution([remove], width, 0.0, cut), Distribution([add], width, 0.0, cut)]


def bounded_losses(pieces: Sequence[Piece], rate: float, relation: Relation) -> list[Distribution]:
    """Return the privacy losses of any mechanism whose losses are bounded, for everybody or for a Poisson sample.

    Of removing a task from a sample they are those of ``(1-p) Q + p P`` against Q, and of adding one of Q against that
    mixture (Zhu, Dong and Wang, AISTATS 2022, Theorem 11). Replacing one is not amplified here: an upper bound, because
    sampling cannot hurt. There either neighbour may be P, and another one in each release; a pair that is not symmetric
    is then bounded by its largest loss, as pure differential privacy is (Kairouz, Oh and Viswanath, ICML 2015).

    Parameters
    ----------
    pieces : sequence of Piece
        A pair (P, Q) that dominates the mechanism when all take part: log density of P, and log P / Q, which rises or
        falls on each piece and changes little over a length of 1. P and Q have densities in the same places. Under
        add/remove P is what comes out with the task and Q what comes out without it; under replace-one (P, Q) or
        (Q, P) dominates each release.
    rate : float
        Probability p in (0, 1] that a task takes part.
    relation : Relation
        Neighbouring relation, for which the pair is.

    Returns
    -------
    list of Distribution
        Of removing and of adding; one where both are the same.

    Raises
    ------
    InputError
        P or Q has a probability other than 1, or a loss turns on its piece.
    """
    base = Distribution(pieces, 1.0, 0.0, 0.0, graded=True, rate=rate)
    if max(abs(mass - 1.0) for mass in base.masses) > 1e-9 or not base.monotone:
        raise InputError(
            f"the pieces of a pair must have the probability 1 under P and Q, got {base.masses}, and losses that rise "
            "or fall on each; mend the formulas, or cut a piece where its loss turns."
        )
    if base.symmetric and (rate == 1.0 or relation is Relation.REPLACE_ONE):
        return [base]
    if relation is Relation.REPLACE_ONE:
        largest = max(float(np.abs(one.loss(np.array([one.low, one.high]))).max()) for one in pieces)
        if not math.isfinite(largest):
            raise InputError(f"the losses of a pair must be bounded, got {largest}; mend the formulas.")
        return [Distribution(_pure(largest), 1.0, 0.0, 0.0, graded=True, rate=rate)]
    removed = list(pieces) if rate == 1.0 else [_sampled(one, rate) for one in pieces]
    both = (removed, [_exchanged(one) for one in removed])
    return [Distribution(way, 1.0, 0.0, 0.0, graded=True, rate=rate) for way in both]


def _sampled(one: Piece, rate: float) -> Piece:
    """Return ``(1-p) Q + p P`` against Q."""

    def density(x: Vector) -> Vector:
        found: Vector = one.density(x) - one.loss(x) + _log_mixed(rate, one.loss(x))
        return found

    return Piece(one.low, one.high, density, lambda x: _log_mixed(rate, one.loss(x)))


def _exchanged(one: Piece) -> Piece:
    """Return Q against P."""
    return Piece(one.low, one.high, lambda x: one.density(x) - one.loss(x), lambda x: -one.loss(x))


def _pure(loss: float) -> list[Piece]:
    """Return the symmetric pair of two outputs that dominates all whose losses are at most this, both ways."""
    log_sum = float(np.logaddexp(loss, 0.0))
    return [
        Piece(0.0, 1.0, lambda x: loss - log_sum + 0.0 * x, lambda x: loss + 0.0 * x),
        Piece(0.0, 1.0, lambda x: -log_sum + 0.0 * x, lambda x: -loss + 0.0 * x),
    ]


def far(cut: float) -> float:
    """Return an x beyond which N(0) has at most a quarter of ``cut``."""
    from scipy.special import ndtri

    return -float(ndtri(0.25 * min(1.0, cut)))


def farther(mu: float, rate: float, cut: float) -> float:
    """Return an x above which ``(1-p) N(0) + p N(mu)`` has at most half of ``cut``."""
    return max(far(cut), mu + far(cut / rate))


def log_normal(x: Vector) -> Vector:
    """Return the log of the standard normal density."""
    return -0.5 * x * x - 0.5 * math.log(2.0 * math.pi)


def log_ratio(mu: float, rate: float, x: Vector) -> Vector:
    """Return the log of the density of ``(1-p) N(0) + p N(mu)`` divided by that of ``N(0)``; exact for small p, too."""
    return _log_mixed(rate, mu * x - 0.5 * mu * mu)


def _log_mixed(rate: float, power: Vector) -> Vector:
    """Return ``log(1 - p + p exp(power))``."""
    near = np.log1p(rate * np.expm1(np.minimum(power, 600.0)))
    if rate > 0.5:  # 1 - p (1 - exp(power)) would cancel where nearly all take part
        near = np.where(power < -0.7, np.log((1.0 - rate) + rate * np.exp(np.minimum(power, 0.0))), near)
    return np.where(power < 600.0, near, np.logaddexp(math.log1p(-rate), math.log(rate) + power))
