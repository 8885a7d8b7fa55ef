"""Which histories of releases a single task may have seen.

A run charges releases to groups. The group "" is everybody; named groups are disjoint sets of tasks that do
not change within a run, so they compose in parallel: a task saw the releases to everybody and those to its
own group. Runs compose one after the other, and a task may have been in different groups of different runs.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections import Counter
from collections.abc import Mapping

from fedpriv.privacy.mechanisms import Release

__all__ = ["EVERYBODY", "Charged", "histories", "of_run"]

EVERYBODY = ""
"""The group of all tasks."""

Charged = Mapping[str, Mapping[str, Counter[Release]]]
"""run -> group -> releases."""

_MAX_COMBINATIONS = 32


def of_run(groups: Mapping[str, Counter[Release]]) -> list[Counter[Release]]:
    """Return the histories of one run that no other history of it dominates."""
    shared = groups.get(EVERYBODY, Counter())
    seen: list[Counter[Release]] = []
    for group, own in groups.items():
        total = shared + own if group != EVERYBODY else Counter(shared)
        if total not in seen:
            seen.append(total)
    return [one for one in seen if not any(one != other and one <= other for other in seen)] or [Counter()]


def histories(charged: Charged) -> list[Counter[Release]]:
    """Return the histories over all runs that may be the worst for some task.

    Beyond 32 combinations of groups, each run is bounded by the elementwise maximum of its groups: an upper
    bound.
    """
    per_run = [of_run(groups) for groups in charged.values()]
    if math.prod(map(len, per_run)) > _MAX_COMBINATIONS:
        per_run = [[functools.reduce(operator.or_, one)] for one in per_run]
    out: list[Counter[Release]] = []
    for choice in itertools.product(*per_run):
        total: Counter[Release] = Counter()
        for part in choice:
            total.update(part)
        if total not in out:
            out.append(total)
    return out
