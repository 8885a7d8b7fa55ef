"""What is said of a run, its guarantees first, from what the ledger holds of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedpriv.privacy.accounting import counted_in_full, epsilon, shared_relations
from fedpriv.privacy.guarantee import Guarantee, guarantee_for, guarantees_for
from fedpriv.privacy.journal import Journal
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.person import person_epsilon
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.privacy.terms import Observer, Output, Relation

__all__ = [
    "RunGuarantees",
    "charged_releases",
    "guarantees_of_run",
    "metrics_alone",
    "of_people",
    "privacy_curve",
    "spent_by_all_runs",
]

_TASKS_OF_A_PERSON = (2, 5)
"""Tasks of a person for which the cost is stated, too."""
_POINTS = 12
"""Points of the privacy curve; each costs one composition of privacy loss distributions."""


@dataclass(frozen=True)
class RunGuarantees:
    """What a run promises.

    Attributes
    ----------
    headline : Guarantee
        Of the personal models, or with cohorts of fixed size of the billboards; of the tasks that are worst off.
    personal : Guarantee
        Of the personal models; the same unless cohorts had a fixed size.
    groups : dict
        Of the personal models of each public group, where groups were charged differently; else empty.
    history, personal_history : Counter of Release
        What the tasks behind the first two have seen.
    """

    headline: Guarantee
    personal: Guarantee
    groups: dict[str, Guarantee]
    history: Counter[Release]
    personal_history: Counter[Release]


def guarantees_of_run(
    ledger: Ledger,
    population: str,
    run: str,
    *,
    delta: float,
    num_tasks: int,
    relation: Relation,
    reproduction: bool,
) -> RunGuarantees:
    """Account for all that a ledger holds of a run.

    Parameters
    ----------
    ledger : Ledger
        Where the run was charged.
    population, run : str
        To whom, and under which name.
    delta, num_tasks, relation, reproduction
        As :func:`fedpriv.privacy.guarantee_for`; the relation is that of the headline.

    Raises
    ------
    InputError, ComponentFailure
        As :meth:`Ledger.histories` does, and for a delta that is not acceptable.
    """
    several = ledger.histories(population, run)
    how: dict[str, Any] = {
        "delta": delta,
        "num_tasks": num_tasks,
        "relation": relation,
        "reproduction": reproduction,
    }
    pairs = [guarantees_for(one, **how) for one in several]
    # The group that is worst off towards the public need not be the one whose personal models are.
    worst = max(range(len(pairs)), key=lambda number: pairs[number][0].epsilon)
    own = max(range(len(pairs)), key=lambda number: pairs[number][1].epsilon)
    counted = {group: counted_in_full(counts) for group, counts in sorted(ledger.group_counts(population, run).items())}
    costs = {frozenset((one.cost, one.measures, count) for one, count in counts.items()) for counts in counted.values()}
    groups = {group: guarantee_for(counts, **how) for group, counts in counted.items() if len(costs) > 1}
    return RunGuarantees(pairs[worst][0], pairs[own][1], groups, several[worst], several[own])


def charged_releases(journal: Journal) -> list[dict[str, Any]]:
    """Return what the ledger holds of the run: round, group and release."""
    return [
        {"round": entry.round, "group": entry.group, **entry.release.record()}
        for entry in journal.ledger.entries(journal.population, journal.run)
    ]


def of_people(counts: Counter[Release], personal: Guarantee) -> list[dict[str, Any]]:
    """Return what people with several tasks spend towards all others."""
    if not personal.rounds or not np.isfinite(personal.epsilon):
        return []
    history, relation = counted_in_full(counts), personal.relation
    return [
        {
            "tasks": tasks,
            "epsilon": person_epsilon(history, personal.delta, relation, tasks).value,
            "relation": f"{relation} of {tasks} tasks",
        }
        for tasks in _TASKS_OF_A_PERSON
    ]


def spent_by_all_runs(journal: Journal, delta: float) -> dict[str, float] | None:
    """Return what all runs on a protected population have spent, at the delta of this run."""
    if journal.ledger.entered(journal.population)["declared"] == "benchmark":
        return None
    valid = shared_relations(journal.ledger.histories(journal.population))
    spent = {str(one): journal.ledger.spent(journal.population, delta, one).value for one in valid}
    return {**spent, "delta": delta}


def metrics_alone(counts: Mapping[Release, int], resolved: ResolvedPlan) -> dict[str, Any]:
    """Return what the published metrics of a run cost by themselves."""
    alone = guarantee_for(
        Counter({release: count for release, count in counts.items() if release.measures is not None}),
        delta=resolved.delta,
        num_tasks=resolved.num_tasks,
        output=Output.METRICS,
        observer=Observer.PUBLIC,
        relation=resolved.relation,
    )
    return {
        "epsilon": alone.epsilon,
        "delta": alone.delta,
        "relation": str(alone.relation),
        "observer": str(alone.observer),
        "included": "the guarantee of this run covers these metrics, too",
    }


def privacy_curve(
    counts: Counter[Release], delta: float, relation: Relation, measured: list[int]
) -> list[dict[str, Any]]:
    """Return epsilon after some of the rounds, for the figure; rounds are alike, so only their number matters.

    Releases of updates that differ in the clipping norm only cost the same, and metrics come after known rounds.
    """
    updates: Counter[Release] = Counter()
    metrics = next((release for release in counts if release.measures is not None), None)
    for release, count in counts.items():
        if release.measures is None:
            updates[release.at_any_norm()] += count
    if len(updates) != 1:
        return []
    ((release, rounds),) = updates.items()
    if release.banded is not None:  # charged as a whole when it begins
        rounds = release.rounds
        points = sorted({1, *measured, rounds})
    else:
        points = np.unique(np.linspace(1, rounds, min(_POINTS, rounds)).round().astype(int)).tolist()
    lines = []
    for point in points:
        history = {release: 1 if release.banded is not None else point}
        done = sum(number <= point for number in measured)
        if metrics and done:
            history[metrics] = done
        lines.append(
            {
                "round": point,
                "kind": "privacy",
                "relation": str(relation),
                "delta": delta,
                "epsilon": epsilon(history, delta, relation).value,
                "epsilon_replace_one": epsilon(history, delta, Relation.REPLACE_ONE).value,
            }
        )
    return lines
