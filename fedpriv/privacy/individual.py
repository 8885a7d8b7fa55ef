"""What single tasks have spent, for whoever knows who took part.

Participants are secret: towards everybody else the coins amplify, and the ledger's own figure, the same for all tasks,
is the guarantee. The experimenter knows the participants. To somebody with that knowledge a task shows in the rounds
in which it took part and in no others, so each of those counts in full, without amplification. These numbers tell who
took part: they are diagnostics, not released, and no guarantee.

Where it is not known who took part, a round counts for every task that it may have asked: the sums are upper bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedpriv.privacy.cost import refuse
from fedpriv.privacy.gaussian import gaussian_epsilon
from fedpriv.privacy.histories import EVERYBODY
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.terms import Relation

__all__ = ["Participants", "Spending", "individual_epsilons", "individual_spending"]

Charges = Mapping[int, Mapping[str, Release]]
"""round -> group -> release."""


@dataclass(frozen=True)
class Participants:
    """What is known of who took part in one run.

    Attributes
    ----------
    asked : dict
        Per round and group, the ids of its participants, int64 [k]; only rounds that are known one by one.
    counts : ndarray of int64, shape [m], or None
        In how many of the rounds 1 to ``counted`` each task took part.
    counted : int
        Last round of ``counts``.
    limited : ndarray of int64, shape [m], or None
        Under limits of participation, how often each task was asked up to the last round that was published.
    last : int
        Last round that was published.
    """

    asked: Mapping[int, Mapping[str, NDArray[np.int64]]] = field(default_factory=dict)
    counts: NDArray[np.int64] | None = None
    counted: int = 0
    limited: NDArray[np.int64] | None = None
    last: int = 0


@dataclass
class Spending:
    """Sums over releases of 1 / noise_multiplier^2, per task.

    Attributes
    ----------
    squares : ndarray of float64, shape [m]
        Upper bounds; infinite without noise.
    rounds, assumed : int
        Rounds that were charged, and those of them in which every task counts because nobody knows better.
    """

    squares: NDArray[np.float64]
    rounds: int = 0
    assumed: int = 0


def individual_spending(runs: Iterable[tuple[Charges, Participants]], num_tasks: int) -> Spending:
    """Return what each task has spent over runs."""
    total = Spending(np.zeros(num_tasks))
    for charges, known in runs:
        total.rounds += len(charges)
        _add_banded(total, charges, known)
        _add_rounds(total, charges, known)
    return total


def individual_epsilons(spending: Spending, delta: float, relation: Relation) -> NDArray[np.float64]:
    """Return the epsilon of each task [m], by the exact Gaussian curve."""
    sensitivity = relation.sensitivity
    values, index = np.unique(spending.squares, return_inverse=True)
    found = [gaussian_epsilon(sensitivity * math.sqrt(one), delta) for one in values.tolist()]
    return np.asarray(found, dtype=np.float64)[index]


def _add_banded(total: Spending, charges: Charges, known: Participants) -> None:
    """Add banded mechanisms: a task that took part k times moved one by sqrt(k) clipping norms."""
    banded = {one for groups in charges.values() for one in groups.values() if one.banded is not None}
    if not banded:
        return
    later = sum(1 for number in charges if number > known.last)  # charged, and perhaps published by now
    costs = []
    for one in banded:
        assert one.banded is not None
        most = one.banded.participations
        times = np.full(len(total.squares), most) if known.limited is None else np.minimum(known.limited + later, most)
        costs.append(times * _square(one))
    if known.limited is None:
        total.assumed += sum(1 for groups in charges.values() if any(one.banded for one in groups.values()))
    total.squares += np.max(costs, axis=0)  # a task is in one group


def _add_rounds(total: Spending, charges: Charges, known: Participants) -> None:
    counted: list[float] = []  # the worst release of each round of which only sums are known
    for number, groups in charges.items():
        asked = known.asked.get(number, {})
        unknown = []
        for group, release in groups.items():
            if release.banded is not None:
                continue
            if group in asked:
                total.squares[asked[group]] += _square(release)
            elif group == EVERYBODY and (release.sampling_name == "full" or len(groups) > 1):
                total.squares += _square(release)
            else:
                unknown.append(release)
        if not unknown:
            continue
        worst = max(_square(one) for one in unknown)
        if known.counts is not None and 1 <= number <= known.counted:
            counted.append(worst)
        else:
            total.squares += worst
            total.assumed += any(one.sampling_name != "full" for one in unknown)
    if counted and known.counts is not None:
        total.squares += np.minimum(known.counts, len(counted)) * max(counted)


def _square(release: Release) -> float:
    if release.noise_multiplier is None:
        refuse(release.cost, "exact Gaussian curve, which single tasks are accounted by", "ask for all tasks together")
    return 1.0 / release.noise_multiplier**2 if release.noise_multiplier > 0.0 else math.inf
