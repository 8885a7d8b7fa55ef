"""What a release costs: all that accounting asks of a mechanism.

Whatever a cost cannot give is None, and refused by the mechanism's name where it is asked for: without a bound of its
Renyi divergence no Renyi filter pays for it, without privacy losses accountants fall back to Renyi, and noise that is
not Gaussian has no exact Gaussian curve.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import NoReturn, Protocol

from fedpriv.errors import NoGuarantee
from fedpriv.privacy.distribution import Distribution
from fedpriv.privacy.terms import Relation, refuse_add_remove

__all__ = ["GAUSSIAN", "Cost", "check_relation", "directions", "refuse", "renyi_many"]

GAUSSIAN = "gaussian"
"""Name of Gaussian noise on a clipped sum."""


class Cost(Hashable, Protocol):
    """What accounting needs to know of a release; hashable, and equal for releases that cost the same.

    Composition needs a pair of distributions that dominates the mechanism, so that equal and different releases
    compose (Zhu, Dong and Wang, AISTATS 2022, Theorem 10): its privacy losses. A filter needs Renyi divergences.
    """

    @property
    def mechanism(self) -> str:
        """Its name, for sentences."""

    @property
    def rate(self) -> float:
        """Probability in (0, 1] that a task takes part, if secret sampling amplifies; 1 if nothing does."""

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Relations under which there are formulas; where add/remove has them, they hold for zero-out, too."""

    def gaussian_noise(self, relation: Relation) -> float | None:
        """Return the standard deviation of Gaussian noise, divided by how far one task moves what it hides.

        As if every task took part; 0 is no noise, and None noise of another kind. Sampling cannot hurt, so the curve of
        this noise is an upper bound where a sample is drawn, and exact where :attr:`rate` is 1.
        """

    def losses(self, relation: Relation, cut: float) -> Sequence[Distribution] | None:
        """Return the privacy losses of a dominating pair: of removing and of adding, or one where both are the same.

        Under replace-one it is one, because either neighbour may be the first, and another one in each release. Outputs
        with a probability of ``cut`` at most may be left out of each; they count as an infinite loss.
        """

    def renyi(self, orders: tuple[float, ...], relation: Relation) -> tuple[float, ...] | None:
        """Return an upper bound of the Renyi divergence at each of some orders above 1, in both directions."""


def check_relation(cost: Cost, relation: Relation) -> None:
    """Refuse a relation under which a cost has no formula.

    Raises
    ------
    NoGuarantee
        The mechanism has no formula under the relation.
    """
    if relation.formulas in cost.relations:
        noise = cost.gaussian_noise(relation.formulas)
        if noise is not None and not noise >= 0.0:
            refuse(cost, f"noise of at least 0, but {noise:g}", "mend its 'gaussian_noise'")
        return
    if cost.mechanism == GAUSSIAN:
        refuse_add_remove(relation)
    known = " or ".join(one.value for one in cost.relations) or "none"
    refuse(cost, f"formula under the relation {relation.value}", f"use one that it has, {known}")


def refuse(cost: Cost, lacks: str, instead: str) -> NoReturn:
    """Refuse what a mechanism cannot give.

    Raises
    ------
    NoGuarantee
        Always.
    """
    raise NoGuarantee(f"accounting: the mechanism {cost.mechanism!r} has no {lacks}; {instead}.")


def directions(cost: Cost, relation: Relation, cut: float) -> Sequence[Distribution] | None:
    """Return the privacy losses of one release, None without formulas.

    Directions compose each on its own, so which one is meant must be the same in all releases.

    Raises
    ------
    NoGuarantee
        Something is not a number or no probability, directions are missing, or there are too many: what is given as
        both is not the same in both, as far as can be seen where nothing was cut off.
    """
    found = cost.losses(relation, cut)
    if found is not None:
        flaw = None if cost.mechanism == GAUSSIAN else next(filter(None, (each.flaw for each in found)), None)
        if flaw is not None:
            refuse(cost, f"privacy losses that can be: {flaw}", "mend its 'losses'")
        one = len(found) == 1 and (found[0].cut > 0.0 or found[0].symmetric)
        if not one and (len(found) != 2 or relation is Relation.REPLACE_ONE):
            refuse(
                cost,
                f"losses that hold in both directions of {relation.value}",
                "return those of removing and of adding a task, or under replace-one those of a symmetric pair",
            )
    return found


@functools.lru_cache(maxsize=1024)
def renyi_many(cost: Cost, orders: tuple[float, ...], relation: Relation) -> tuple[float, ...]:
    """Return bounds of the Renyi divergence of one release at several orders.

    Raises
    ------
    NoGuarantee
        The mechanism has no formula under the relation, or no bound of its Renyi divergence.
    """
    check_relation(cost, relation)
    found = cost.renyi(orders, relation)
    if found is None:
        refuse(
            cost,
            "bound of its Renyi divergence",
            "no Renyi filter can pay for it, and no Renyi accountant: charge it to a population without a budget",
        )
    if len(found) != len(orders) or not all(value >= 0.0 for value in found):
        refuse(
            cost,
            f"Renyi divergences that could be, of at least 0 at each of {len(orders)} orders, but "
            f"{', '.join(f'{value:g}' for value in found[:3])}",
            "mend its 'renyi'",
        )
    return found
