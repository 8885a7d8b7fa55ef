"""What a guarantee means for somebody who tests a hypothesis about one task.

The attacker sees the releases, knows everything but which of two neighbouring populations they come from, and guesses.
A curve delta(epsilon) that holds in both directions bounds every such test (Kairouz, Oh and Viswanath, ICML 2015; Dong,
Roth and Su, JRSS-B 2022): at a false positive rate a, the true positive rate is at most

    min over epsilon >= 0 of  delta + e^epsilon a  and  1 - e^-epsilon (1 - delta - a),

and true minus false positive rate, the advantage, is at most delta(0). For a Gaussian mechanism both are attained; for
others every epsilon gives a valid bound, so that a grid of them loses tightness only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedpriv.errors import InputError
from fedpriv.privacy.accounting import Releases, deltas_for
from fedpriv.privacy.terms import Relation

__all__ = ["Attacker", "attacker_for"]

_CURVE_STEPS = 240


@dataclass(frozen=True)
class Attacker:
    """The best that any attacker can do.

    Attributes
    ----------
    advantage : float
        Largest difference of true and false positive rate, in [0, 1].
    true_positive_rates : dict of float to float
        Largest true positive rate by false positive rate.
    relation : Relation
        What the attacker tells apart: whether a task is there at all, or which of two data sets it has.
    """

    advantage: float
    true_positive_rates: dict[float, float]
    relation: Relation


def attacker_for(
    releases: Releases, relation: Relation, false_positive_rates: Sequence[float] = (0.001, 0.01, 0.1)
) -> Attacker:
    """Return what the releases allow an attacker at most.

    Raises
    ------
    InputError
        If a false positive rate is not between 0 and 1, both excluded.
    NoGuarantee
        If a release has no formula under this relation.
    """
    for rate in false_positive_rates:
        if not 0.0 < rate < 1.0:
            raise InputError(f"attacker: a false positive rate must be between 0 and 1, both excluded, got {rate!r}.")
    # Beyond log(1 / a) the first bound is above 1, and the second above the first.
    end = -math.log(min(false_positive_rates, default=0.5))
    epsilons = [end * step / _CURVE_STEPS for step in range(_CURVE_STEPS + 1)]
    deltas = deltas_for(releases, epsilons, relation)
    found = {}
    for rate in false_positive_rates:
        bounds = [
            min(delta + math.exp(one) * rate, 1.0 - math.exp(-one) * (1.0 - delta - rate))
            for one, delta in zip(epsilons, deltas, strict=True)
        ]
        found[rate] = min(1.0, max(rate, min(bounds)))
    return Attacker(deltas[0], found, relation)
