"""A budget cut-off that stays valid when later releases react to earlier ones.

Privacy loss distributions bound a run whose parameters were fixed beforehand; "stop when their epsilon
reaches the budget" is not valid across runs that learn from each other. A Renyi filter is: if the releases'
divergences at one order, fixed beforehand, never sum to more than an allowance, the whole adaptive history
has at most that divergence (Feldman and Zrnic, NeurIPS 2021; Lecuyer, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedpriv.errors import InputError
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.renyi import renyi
from fedpriv.privacy.terms import Relation

__all__ = ["RenyiFilter", "allowance_at"]


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


def allowance_at(order: float, epsilon: float, delta: float) -> float:
    """Return the largest divergence at ``order`` that implies (epsilon, delta)-DP; may be negative.

    Inverts ``epsilon = divergence + log((order-1)/order) - (log delta + log order) / (order-1)`` (Canonne,
    Kamath and Steinke, NeurIPS 2020, Proposition 12).
    """
    return epsilon - math.log1p(-1.0 / order) + (math.log(delta) + math.log(order)) / (order - 1.0)
