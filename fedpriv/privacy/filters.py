"""Budget cut-offs that stay valid when later releases react to earlier ones.

Privacy loss distributions bound a run whose parameters were fixed beforehand; "stop when their epsilon reaches the
budget" is not valid across runs that learn from each other. Two filters are:

- Renyi: if the releases' divergences at one order, fixed beforehand, never sum to more than an allowance, the whole
  adaptive history has at most that divergence (Feldman and Zrnic, NeurIPS 2021; Lecuyer, 2021). It pays for whatever
  has a Renyi divergence.
- GDP: if the squares of ``mu = sensitivity / noise`` never sum to more than ``mu^2``, the whole adaptive history is
  mu-Gaussian DP (Smith and Thakurta, 2022; Koskela, Tobaben and Honkela, 2023). It admits as much as the exact curve of
  runs that were fixed beforehand, 10 to 20 per cent more rounds than Renyi, but pays for plain Gaussian releases only:
  a release that sampling amplifies is not Gaussian DP with any smaller mu.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedpriv.errors import InputError, NoGuarantee
from fedpriv.privacy.accounting import renyi
from fedpriv.privacy.cost import check_relation, refuse
from fedpriv.privacy.gaussian import gaussian_epsilon, gaussian_mu
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.terms import Relation

__all__ = ["BudgetFilter", "FilterName", "GdpFilter", "RenyiFilter", "allowance_at"]

FilterName = Literal["renyi", "gdp"]


@dataclass(frozen=True)
class RenyiFilter:
    """Divergence that a population may spend at one order.

    Attributes
    ----------
    order : float
        Renyi order, greater than 1.
    allowance : float
        Divergence at that order that all releases together may reach.
    relation : Relation
        Neighbouring relation.
    """

    order: float
    allowance: float
    relation: Relation

    @classmethod
    def for_budget(cls, epsilon: float, delta: float, relation: Relation = Relation.ADD_REMOVE) -> RenyiFilter:
        """Fix the order that lets the most pure Gaussian releases through for this (epsilon, delta).

        The order is rounded to tenths below 11 and to whole numbers above, where it makes no visible
        difference.

        Raises
        ------
        InputError
            If epsilon is not positive and finite, or delta is outside (0, 1).
        """
        if not 0.0 < epsilon < math.inf or not 0.0 < delta < 1.0:
            raise InputError(
                f"filter: epsilon must be positive and finite and delta between 0 and 1, got {epsilon!r} and {delta!r}."
            )
        candidates = [1.0 + tenth / 10.0 for tenth in range(1, 101)]
        whole = 12.0
        while whole < 1e7:
            candidates.append(whole)
            whole = max(whole + 1.0, math.floor(whole * 1.02))
        # A Gaussian's divergence is proportional to the order, hence the division.
        order = max(candidates, key=lambda one: allowance_at(one, epsilon, delta) / one)
        return cls.at_order(order, epsilon, delta, relation)

    @classmethod
    def at_order(
        cls, order: float, epsilon: float, delta: float, relation: Relation = Relation.ADD_REMOVE
    ) -> RenyiFilter:
        """Return the filter at an order that was fixed before.

        Raises
        ------
        InputError
            If the order leaves no allowance.
        """
        allowance = allowance_at(order, epsilon, delta)
        if allowance <= 0.0:
            raise InputError(
                f"filter: epsilon = {epsilon:.3g} with delta = {delta:.3g} leaves no budget; use a larger epsilon."
            )
        return cls(order, allowance, relation)

    def cost(self, releases: Mapping[Release, int]) -> float:
        """Return the divergence of these releases at the filter's order; infinite if one had no noise."""
        return math.fsum(count * renyi(release, self.order, self.relation) for release, count in releases.items())

    def admits(self, spent: float) -> bool:
        """Return whether a total divergence is within the allowance, up to rounding."""
        return spent <= self.allowance * (1.0 + 1e-12)

    def enough(self, rounds: int) -> float:
        """Return the noise multiplier with which the filter pays for so many releases without sampling."""
        return self.relation.sensitivity * math.sqrt(rounds * self.order / (2.0 * self.allowance))

    def epsilon(self, spent: float, delta: float) -> float:
        """Return the epsilon that holds for an adaptive history which has spent so much; 0 for nothing."""
        if spent == 0.0:
            return 0.0
        return max(0.0, spent - allowance_at(self.order, 0.0, delta))

    def words(self) -> str:
        """Return the filter in words."""
        return f"Renyi filter at order {self.order:g}"


@dataclass(frozen=True)
class GdpFilter:
    """Squares of mu that a population may spend.

    Attributes
    ----------
    allowance : float
        What the sum of (sensitivity / noise)^2 over all releases may reach.
    relation : Relation
        Neighbouring relation.
    """

    allowance: float
    relation: Relation

    @classmethod
    def for_budget(cls, epsilon: float, delta: float, relation: Relation = Relation.ADD_REMOVE) -> GdpFilter:
        """Return the filter of the largest mu that is (epsilon, delta)-DP, by the exact Gaussian curve."""
        return cls(gaussian_mu(epsilon, delta) ** 2, relation)

    def cost(self, releases: Mapping[Release, int]) -> float:
        """Return the sum of the squares of mu; infinite if a release had no noise.

        Raises
        ------
        NoGuarantee
            A release is amplified by sampling, or has no formula under the relation.
        """
        total = 0.0
        for release, count in releases.items():
            cost = release.cost
            check_relation(cost, self.relation)
            noise = cost.gaussian_noise(self.relation)
            if noise is None:
                refuse(
                    cost,
                    "mu, which is all that a GDP filter pays for",
                    "register the population with the filter 'renyi' (run.budget_filter)",
                )
            if cost.rate < 1.0:
                raise NoGuarantee(
                    f"filter: a GDP filter pays for plain Gaussian releases only, got {release.sampling_name} sampling "
                    f"with rate {cost.rate:g}, which is amplified; register the population with the filter 'renyi' "
                    "(run.budget_filter), or let all tasks take part."
                )
            mu = 1.0 / noise if noise > 0.0 else math.inf
            total += count * mu * mu
        return total

    def admits(self, spent: float) -> bool:
        """Return whether a sum of squares is within the allowance, up to rounding."""
        return spent <= self.allowance * (1.0 + 1e-12)

    def enough(self, rounds: int) -> float:
        """Return the noise multiplier with which the filter pays for so many releases without sampling."""
        return self.relation.sensitivity * math.sqrt(rounds / self.allowance)

    def epsilon(self, spent: float, delta: float) -> float:
        """Return the epsilon that holds for an adaptive history which has spent so much."""
        return gaussian_epsilon(math.sqrt(spent), delta)

    def words(self) -> str:
        """Return the filter in words."""
        return f"GDP filter at mu {math.sqrt(self.allowance):.4g}"


BudgetFilter = RenyiFilter | GdpFilter


def allowance_at(order: float, epsilon: float, delta: float) -> float:
    """Return the largest divergence at ``order`` that implies (epsilon, delta)-DP; may be negative.

    Inverts ``epsilon = divergence + log((order-1)/order) - (log delta + log order) / (order-1)`` (Canonne,
    Kamath and Steinke, NeurIPS 2020, Proposition 12).
    """
    return epsilon - math.log1p(-1.0 / order) + (math.log(delta) + math.log(order)) / (order - 1.0)
