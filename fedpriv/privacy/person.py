"""One person behind several tasks: what a history costs somebody whose k tasks change together (group privacy).

The relation is the k-fold one of the history: k tasks are added or removed, count as zero, or are replaced. A sum then
moves by at most k times what one task moves it, so plain Gaussian noise has the exact curve with k times the
sensitivity; rows with local noise are moved one by one, so there it is the square root of k. Sampling cannot
hurt: that curve holds for sampled releases too. Often better there is to walk from one population to the other task by
task: (e, d) for one task gives (k e, d (1 + exp(e) + ... + exp((k - 1) e))) for k of them (Dwork and Roth, 2014), and
the best e of the history's own curve is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from fedpriv.errors import InputError
from fedpriv.privacy.accounting import Epsilon, Releases, count_releases, epsilon
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.terms import Relation

__all__ = ["person_epsilon"]

_MAX_TRIES = 40
_NEXT_TRY_FACTOR = 1.0 + 1e-4
_MIN_DELTA_SHARE = 1e-300
"""Shares of delta below this are not asked for."""


def person_epsilon(releases: Releases, delta: float, relation: Relation, tasks: int) -> Epsilon:
    """Return an epsilon that holds for a person with so many tasks.

    Parameters
    ----------
    releases : mapping from Release to count, or iterable of Release
        The history.
    delta : float
        In (0, 1).
    relation : Relation
        Of one task.
    tasks : int
        Tasks of the person, k, at least 1.

    Raises
    ------
    InputError
        A number is out of bounds.
    NoGuarantee
        A release has no formula under this relation.
    """
    if tasks < 1:
        raise InputError(f"a person must have at least 1 task, got {tasks}.")
    counts = count_releases(releases)
    one = epsilon(counts, delta, relation)
    if tasks == 1 or not counts or math.isinf(one.value):
        return one
    together: Counter[Release] = Counter()
    for release, count in counts.items():
        if release.noise_multiplier is not None:
            noise = release.noise_multiplier / (math.sqrt(tasks) if release.noise_at == "node" else tasks)
            together[release.model_copy(update={"noise_multiplier": noise})] += count
    gaussian = together.total() == counts.total()
    plain = epsilon(together, delta, relation, "gaussian") if gaussian else Epsilon(math.inf, "none")
    if gaussian and all(release.cost.rate == 1.0 for release in counts):
        return plain
    walked = Epsilon(
        tasks * _step(counts, delta, relation, tasks, plain.value / tasks), f"{one.accountant}, task by task"
    )
    return min(walked, plain, key=lambda found: found.value)


def _step(counts: Mapping[Release, int], delta: float, relation: Relation, tasks: int, limit: float) -> float:
    """Return an e with ``d(e) (1 + exp(e) + ... + exp((k - 1) e)) <= delta``; infinity if none below a limit is found.

    A larger e leaves each task a smaller share of delta, which needs a larger e: this goes up from the e of equal
    shares until an e is enough, and has then the smallest one, but for the little that each turn goes further.
    """
    tried = epsilon(counts, delta / tasks, relation).value
    for _ in range(_MAX_TRIES):
        if not tried < limit:
            break
        share = delta * math.exp(-float(np.logaddexp.reduce(tried * np.arange(tasks))))
        if share < _MIN_DELTA_SHARE:
            break
        needed = epsilon(counts, share, relation).value
        if needed <= tried:
            return tried
        tried = needed * _NEXT_TRY_FACTOR
    return math.inf
