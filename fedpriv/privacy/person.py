"""One person behind several tasks: what a history costs somebody whose k tasks change together (group privacy).

The relation is the k-fold one of the history: k tasks are added or removed, count as zero, or are replaced. A sum then
moves by at most k times what one task moves it, so plain Gaussian noise has the exact curve with k times the
sensitivity; rows with noise of their own are moved one by one, so there it is the square root of k. Sampling cannot
hurt: that curve holds for sampled releases too. Often better there is to walk from one population to the other task by
task: (e, d) for one task gives (k e, d (1 + exp(e) + ... + exp((k - 1) e))) for k of them (Dwork and Roth, 2014), and
the best e of the history's own curve is taken.
"""

from __future__ import annotations

import math

import numpy as np

from fedpriv.errors import InputError
from fedpriv.privacy.accounting import Epsilon, Releases, count_releases, deltas_for, epsilon
from fedpriv.privacy.terms import Relation

__all__ = ["person_epsilon"]

_POINTS = 200
"""Points of the curve that are tried, twice: the second time around the best one."""


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
    moved = {
        release: release.noise_multiplier / (math.sqrt(tasks) if release.noise_at == "node" else tasks)
        for release in counts
    }
    together = {release.model_copy(update={"noise_multiplier": moved[release]}): counts[release] for release in counts}
    plain = epsilon(together, delta, relation, "gaussian")
    if all(release.cost.rate == 1.0 for release in counts):
        return plain
    low, high = epsilon(counts, delta / tasks, relation).value, plain.value / tasks
    best = math.inf
    for _ in range(2):
        if not low < high:
            break
        tried = np.geomspace(max(low, 1e-9 * high), high, _POINTS)
        deltas = np.array(deltas_for(counts, tried.tolist(), relation))
        with np.errstate(divide="ignore"):  # a delta of 0 pays for anything
            spent = np.log(deltas) + np.logaddexp.reduce([i * tried for i in range(tasks)])
        holds = np.flatnonzero(spent <= math.log(delta))
        if not len(holds):
            break
        first = int(holds[0])
        best, low, high = float(tried[first]), float(tried[max(0, first - 1)]), float(tried[first])
    walked = Epsilon(tasks * best, f"{one.accountant}, task by task")
    return min(walked, plain, key=lambda found: found.value)
