"""The guarantees of one run, computed from what the ledger holds of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from fedpriv.privacy.accounting import counted_in_full
from fedpriv.privacy.guarantee import Guarantee, guarantee_for, guarantees_for
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.terms import Relation

__all__ = ["RunGuarantees", "guarantees_of_run"]


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
    delta : float
        In (0, 1/num_tasks).
    num_tasks : int
        Size of the population.
    relation : Relation
        Of the headline.
    reproduction : bool
        Whether noise and coins came from a seed.

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
