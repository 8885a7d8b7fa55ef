"""What Gaussian noise on a clipped sum costs."""

from __future__ import annotations

from typing import NamedTuple

from fedpriv.privacy.cost import GAUSSIAN
from fedpriv.privacy.distribution import Distribution
from fedpriv.privacy.poisson import poisson_losses
from fedpriv.privacy.renyi import gaussian_renyi
from fedpriv.privacy.terms import Relation
from fedpriv.privacy.without_replacement import wor_losses

__all__ = ["GaussianCost"]


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
        """Return the divergences of the sample, never above those without amplification."""
        return gaussian_renyi(self.noise_multiplier, self.rate, orders, relation, fixed=self.fixed)
