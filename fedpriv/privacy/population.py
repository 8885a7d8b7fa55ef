"""What a ledger knows of one population, and what may be said about it."""

from __future__ import annotations

import functools
import math
import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import Any

from fedpriv.privacy.accounting import counted_in_full, epsilon, relations_for
from fedpriv.privacy.filters import RenyiFilter
from fedpriv.privacy.histories import Charged, histories, of_run
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.target import Target, default_delta
from fedpriv.privacy.terms import Relation

__all__ = [
    "Population",
    "add_release",
    "charged_releases",
    "describe_population",
    "divergence",
    "find_population",
    "release_from",
]


@dataclass(frozen=True)
class Population:
    """What was entered for a population.

    Attributes
    ----------
    fingerprint : str
        Digest of its list of tasks.
    num_tasks : int
        Number of its tasks.
    declared : str
        "benchmark" or "protected".
    budget : Target or None
        What it may spend over all runs.
    order : float or None
        Renyi order of its filter, fixed when it was entered.
    """

    fingerprint: str
    num_tasks: int
    declared: str
    budget: Target | None
    order: float | None

    @property
    def delta(self) -> float:
        """The budget's delta, or the default of a population of this size."""
        return self.budget.delta_for(self.num_tasks) if self.budget else default_delta(self.num_tasks)

    @property
    def filter(self) -> RenyiFilter | None:
        """The budget cut-off, None without a budget."""
        if self.budget is None or self.order is None:
            return None
        return RenyiFilter.at_order(self.order, self.budget.epsilon, self.delta, self.budget.relation)


def find_population(connection: sqlite3.Connection, name: str) -> Population | None:
    """Read a population, None if it was never entered."""
    row = connection.execute(
        "SELECT fingerprint, num_tasks, declared, budget, filter_order FROM populations WHERE name = ?",
        (name,),
    ).fetchone()
    if row is None:
        return None
    return Population(row[0], row[1], row[2], Target.model_validate_json(row[3]) if row[3] else None, row[4])


def charged_releases(
    connection: sqlite3.Connection, population: str, run: str | None = None
) -> dict[str, dict[str, Counter[Release]]]:
    """Count releases per run and group, from the index alone; all rounds of a stream count once."""
    rows = connection.execute(
        "SELECT run, part, release, count(*) FROM entries WHERE population = ? AND (? IS NULL OR run = ?) "
        "GROUP BY run, part, release",
        (population, run, run),
    ).fetchall()
    texts = dict(connection.execute("SELECT id, release FROM releases"))
    charged: dict[str, dict[str, Counter[Release]]] = {}
    for name, group, release, count in rows:
        add_release(charged.setdefault(name, {}).setdefault(group, Counter()), release_from(texts[release]), count)
    return charged


def add_release(counts: Counter[Release], release: Release, count: int = 1) -> None:
    """Count releases to one group of one run, where the rounds of a stream are paid for by the first one."""
    counts[release] = 1 if release.stream is not None else counts[release] + count


@functools.lru_cache(maxsize=4096)
def release_from(text: str) -> Release:
    """Read a release; a ledger holds the same few texts again and again."""
    return Release.from_json(text)


def divergence(budget: RenyiFilter, charged: Charged) -> float:
    """Return the divergence of all runs for the worst task: per run the most expensive group.

    A budget is a promise against the other tasks, too, so cohorts of fixed size count in full.
    """
    return math.fsum(max(budget.cost(counted_in_full(one)) for one in of_run(groups)) for groups in charged.values())


def describe_population(name: str, population: Population, charged: Charged) -> dict[str, Any]:
    """Return budget, spending and what is left, ready for JSON.

    Runs on a benchmark are accounted alone, so "spent" is None for it. An epsilon is None under a relation for which a
    release has no formula (cohorts of fixed size under add/remove); what is stated holds against the other tasks, so
    such cohorts count in full here, and the guarantee of a run may state less towards the public. "left" is None
    without a budget; otherwise it is the state of the filter, whose share of 1 is the budget.
    """
    budget = population.budget
    alone = population.declared == "benchmark"
    note = "each run accounted alone" if alone else "all runs together, as if they had not reacted to each other"
    if any(Relation.ADD_REMOVE not in relations_for(one) for one in histories(charged)):
        note += "; cohorts of fixed size count in full, because the other tasks know who takes part"
    out: dict[str, Any] = {
        "population": name,
        "tasks": population.num_tasks,
        "fingerprint": population.fingerprint,
        "declared": population.declared,
        "delta": population.delta,
        "budget": None if budget is None else {**budget.model_dump(mode="json"), "delta": population.delta},
        "spent": None if alone else _spent(histories(charged), population.delta),
        "note": note,
        "runs": {
            run: {
                "releases": sum(count * one.rounds for counts in groups.values() for one, count in counts.items()),
                **_spent(of_run(groups), population.delta),
            }
            for run, groups in sorted(charged.items())
        },
        "left": None,
    }
    limit = population.filter
    if limit is not None:
        share = divergence(limit, charged) / limit.allowance
        out["left"] = {
            "share": max(0.0, 1.0 - share),
            "renyi_order": limit.order,
            "renyi_allowance": limit.allowance,
            "renyi_spent": _number(share * limit.allowance),
        }
    return out


def _spent(several: list[Counter[Release]], delta: float) -> dict[str, float | str | None]:
    """Return epsilon per relation, also against the other tasks; None where a release has no formula under it."""
    several = [counted_in_full(one) for one in several]
    valid = [relation for relation in Relation if all(relation in relations_for(one) for one in several)]
    return {
        relation.value: _number(max(epsilon(one, delta, relation).value for one in several))
        if relation in valid
        else None
        for relation in Relation
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"
