"""What a ledger knows of one population, and what may be said about it."""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fedpriv.errors import ComponentFailure, InputError, NoGuarantee
from fedpriv.names import unknown
from fedpriv.privacy.accounting import counted_in_full, epsilon, shared_relations
from fedpriv.privacy.filters import BudgetFilter, FilterName, GdpFilter, RenyiFilter
from fedpriv.privacy.histories import Charged, histories, of_run
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.own_cost import FORGET
from fedpriv.privacy.target import Target, default_delta
from fedpriv.privacy.terms import Relation

__all__ = [
    "RESTORE",
    "Declared",
    "Population",
    "add_release",
    "charged_releases",
    "check_name",
    "describe_population",
    "divergence",
    "find_population",
    "of_version",
    "release_from",
]

RESTORE = "restore the ledger from a copy"
"""What is left to do where a ledger is damaged."""

_LARGEST_ORDER = 1e8
"""Above every order that is ever chosen."""

Declared = Literal["benchmark", "protected"]


@dataclass(frozen=True)
class Population:
    """What was entered for a population.

    Attributes
    ----------
    fingerprint : str
        Digest of its list of tasks, in its newest version.
    num_tasks : int
        Number of its tasks, in its newest version.
    declared : str
        "benchmark" or "protected".
    budget : Target or None
        What it may spend over all runs.
    filter_name : str or None
        Which filter cuts off the budget; None without a budget.
    order : float or None
        Order of a Renyi filter, fixed when the population was entered.
    versions : tuple of (str, int)
        Fingerprint and number of tasks of all versions of its members, the first one first. They have one budget, with
        the delta that it had for the first, and everything that was charged to any of them counts for all: whoever
        stays keeps what they spent, and whoever comes is counted as if they had always been there, the safe side.
    """

    fingerprint: str
    num_tasks: int
    declared: str
    budget: Target | None
    filter_name: str | None
    order: float | None
    versions: tuple[tuple[str, int], ...] = ()

    def check(self) -> None:
        """Refuse what nobody can have entered (InputError)."""
        if self.declared not in get_args(Declared):
            raise InputError(unknown("declaration", self.declared, get_args(Declared)))
        if self.num_tasks < 1:
            raise InputError(f"'num_tasks' must be at least 1, got {self.num_tasks}")
        if self.budget is None:
            if (self.filter_name, self.order) != (None, None):
                raise InputError(f"there is a filter, {self.filter_name!r}, and no budget that it could cut off")
            return
        if self.declared == "benchmark":
            raise InputError("it is a benchmark, and has a budget")
        if self.filter_name not in get_args(FilterName):
            raise InputError(unknown("filter", str(self.filter_name), get_args(FilterName)))
        if self.filter_name == "renyi" and not 1.0 < (self.order or 0.0) <= _LARGEST_ORDER:
            raise InputError(f"the order of its Renyi filter must be above 1 and at most 1e8, got {self.order!r}")
        if self.filter is None or not self.filter.allowance > 0.0:
            raise InputError("its filter leaves no budget")

    def entered(self) -> dict[str, Any]:
        """Return what was entered, ready for JSON; the budget with the delta that it has for this population."""
        budget = None if self.budget is None else {**self.budget.model_dump(mode="json"), "delta": self.delta}
        return {
            "tasks": self.num_tasks,
            "fingerprint": self.fingerprint,
            "declared": self.declared,
            "budget": budget,
            **({"versions": [list(one) for one in self.versions]} if len(self.versions) > 1 else {}),
        }

    @property
    def delta(self) -> float:
        """The budget's delta, or the default of a population of this size."""
        first = self.versions[0][1] if self.versions else self.num_tasks
        return self.budget.delta_for(first) if self.budget else default_delta(self.largest)

    @property
    def largest(self) -> int:
        """Number of tasks of the largest version: a delta has to be small enough for each of them."""
        return max([self.num_tasks, *(size for _, size in self.versions)])

    @property
    def filter(self) -> BudgetFilter | None:
        """The budget cut-off, None without a budget."""
        if self.budget is None or self.filter_name is None:
            return None
        budget = (self.budget.epsilon, self.delta, self.budget.relation)
        if self.filter_name == "gdp":
            return GdpFilter.for_budget(*budget)
        return RenyiFilter.for_budget(*budget) if self.order is None else RenyiFilter.at_order(self.order, *budget)


def of_version(entered: Mapping[str, Any], fingerprint: str | None) -> dict[str, Any]:
    """Return what was entered, with the tasks of the version that has this fingerprint; of the newest if none has."""
    tasks = dict(entered.get("versions", ()))
    own = {} if fingerprint not in tasks else {"fingerprint": fingerprint, "tasks": tasks[fingerprint]}
    return {**entered, **own}


def check_name(population: str) -> None:
    """Refuse a name that no ledger can hold.

    Raises
    ------
    InputError
        It is empty, or not text.
    """
    try:
        population.encode()
    except UnicodeEncodeError:
        raise InputError(f"ledger: 'population' must be text in UTF-8, got {population!r}; give another id.") from None
    if not population:
        raise InputError("ledger: 'population' must not be empty; give it an id.")


def find_population(connection: sqlite3.Connection, name: str) -> Population | None:
    """Read a population, None if it was never entered.

    Raises
    ------
    InputError
        No ledger can hold such a name.
    ComponentFailure
        What was entered is damaged.
    """
    check_name(name)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    chosen = "filter" if version > 1 else "CASE WHEN budget IS NULL THEN NULL ELSE 'renyi' END"
    row = connection.execute(
        f"SELECT fingerprint, num_tasks, declared, budget, {chosen}, filter_order FROM populations WHERE name = ?",  # noqa: S608 (our own words)
        (name,),
    ).fetchone()
    if row is None:
        return None
    try:
        budget = None if row[3] is None else Target(**json.loads(row[3]))
        versions = [(row[0], row[1])]
        if version > 4:
            asked = "SELECT fingerprint, num_tasks FROM members WHERE population = ? ORDER BY version"
            versions += connection.execute(asked, (name,)).fetchall()
        found = Population(*versions[-1], row[2], budget, row[4], row[5], tuple(versions))
        found.check()
    except (ValueError, TypeError) as error:
        raise ComponentFailure(f"the ledger's row of population {name!r} is damaged ({error}); {RESTORE}") from None
    return found


def charged_releases(
    connection: sqlite3.Connection, population: str, run: str | None = None, *, alike: bool = False
) -> dict[str, dict[str, Counter[Release]]]:
    """Count releases per run and group, from the index alone; all rounds of a banded mechanism count once.

    With ``alike`` those that differ in the clipping norm only are one kind, since they cost the same: an adaptive norm
    makes every round a release of its own, and a charge would take longer with every round.
    """
    read = _priced_alike if alike else release_from
    rows = connection.execute(
        "SELECT run, part, release, count(*) FROM entries WHERE population = ? AND (? IS NULL OR run = ?) "
        "GROUP BY run, part, release",
        (population, run, run),
    ).fetchall()
    texts: dict[int, str] = dict(connection.execute("SELECT id, release FROM releases"))
    charged: dict[str, dict[str, Counter[Release]]] = {}
    for name, group, release, count in rows:
        add_release(charged.setdefault(name, {}).setdefault(group, Counter()), read(texts.get(release)), count)
    return charged


def add_release(counts: Counter[Release], release: Release, count: int = 1) -> None:
    """Count releases to one group of one run, where the rounds of a banded mechanism are paid for by the first one."""
    counts[release] = 1 if release.banded is not None else counts[release] + count


@functools.lru_cache(maxsize=4096)
def release_from(text: str | None) -> Release:
    """Read a release; a ledger holds the same few texts again and again.

    Raises
    ------
    ComponentFailure
        There is no text, or it is no release, or one of a newer fedpriv.
    NoGuarantee
        The release is of a mechanism that is not known here.
    """
    if text is None:
        raise ComponentFailure(f"an entry of the ledger refers to a release that is not there; {RESTORE}")
    try:
        return Release.from_json(text)
    except NoGuarantee as error:
        raise NoGuarantee(f"the ledger cannot be accounted for: {error}") from None
    except InputError as error:
        raise ComponentFailure(f"a release in the ledger cannot be read ({error}); {RESTORE}") from None


@functools.lru_cache(maxsize=4096)
def _priced_alike(text: str | None) -> Release:
    return _one_object(release_from(text).at_any_norm())


FORGET.extend((release_from.cache_clear, _priced_alike.cache_clear))


@functools.lru_cache(maxsize=256)
def _one_object(release: Release) -> Release:
    """Return the same object for equal releases: to count them then costs no comparison of their fields."""
    return release


def divergence(budget: BudgetFilter, charged: Charged) -> float:
    """Return what the filter counts of all runs for the worst task: per run the most expensive group.

    A budget is a promise against the other tasks, too, so cohorts of fixed size count in full.
    """
    return math.fsum(max(budget.cost(counted_in_full(one)) for one in of_run(groups)) for groups in charged.values())


def describe_population(
    name: str,
    population: Population,
    charged: Charged,
    entries: Mapping[str, int],
    newest: Release | None,
    delta: float,
) -> dict[str, Any]:
    """Return budget, spending and what is left, ready for JSON.

    Runs on a benchmark are accounted alone, so "spent" is None for it. An epsilon is None under a relation for which a
    release has no formula (cohorts of fixed size under add/remove); what is stated holds against the other tasks, so
    such cohorts count in full here, and the guarantee of a run may state less towards the public. "left" is None
    without a budget; otherwise it is the state of the filter, whose share of 1 is the budget.

    Parameters
    ----------
    name, population, charged
        Who, and what each of its runs was charged.
    entries : mapping
        Per run, the number of its rows in the ledger; a banded mechanism has one per round that was run.
    newest : Release or None
        What was charged last.
    delta : float
        At which epsilons are stated; "budget" and "left" are at the budget's.
    """
    alone = population.declared == "benchmark"
    note = "each run accounted alone" if alone else "all runs together, as if they had not reacted to each other"
    several = histories(charged)
    if shared_relations(several)[0] is Relation.REPLACE_ONE:
        note += "; cohorts of fixed size count in full, because the other tasks know who takes part"
    spent, accountant = (None, None) if alone else _spent(several, delta)
    return {
        "population": name,
        **population.entered(),
        "delta": delta,
        "observer": "a coalition of all other tasks, and so the public, too",
        "spent": spent,
        "accountant": accountant,
        "note": note,
        "runs": {
            run: {**_run(groups, delta), "entries": entries.get(run, 0)} for run, groups in sorted(charged.items())
        },
        "left": _left(population, charged, several, newest),
    }


def _run(groups: Mapping[str, Counter[Release]], delta: float) -> dict[str, Any]:
    spent, accountant = _spent(of_run(groups), delta)
    banded = {group: one for group, counts in groups.items() for one in counts if one.banded is not None}
    return {
        "releases": sum(count * one.rounds for counts in groups.values() for one, count in counts.items()),
        **spent,
        "accountant": accountant,
        "streams": {group: one.banded.model_dump() for group, one in sorted(banded.items()) if one.banded is not None},
    }


def _left(
    population: Population, charged: Charged, several: list[Counter[Release]], newest: Release | None
) -> dict[str, Any] | None:
    """Return the state of the filter, which decides, and beside it the epsilon that would hold for fixed plans."""
    limit, budget = population.filter, population.budget
    if limit is None or budget is None:
        return None
    spent = divergence(limit, charged)
    valid, asked = shared_relations(several), budget.relation.formulas
    stated = next((one for one in valid if one.formulas is asked), None)
    more = None
    if newest is not None and spent < math.inf:
        cost = limit.cost(counted_in_full({newest: 1}))
        room = max(0.0, limit.allowance * (1.0 + 1e-12) - spent)
        share = room / cost if cost > 0.0 else math.inf  # so much noise that the cost rounds to nothing
        more = math.floor(share) if share < math.inf else None
    return {
        "share": max(0.0, 1.0 - spent / limit.allowance),
        "within": limit.admits(spent),
        "decides": "the filter",
        "filter": population.filter_name,
        "filter_words": limit.words(),
        "filter_allowance": limit.allowance,
        "filter_spent": _number(spent),
        "filter_epsilon": _number(limit.epsilon(spent, population.delta)),
        "epsilon_if_runs_were_fixed_beforehand": None
        if stated is None
        else _spent(several, population.delta)[0][stated.value],
        "more_like_the_last": more,
    }


def _spent(several: list[Counter[Release]], delta: float) -> tuple[dict[str, float | str | None], str]:
    """Return epsilon per relation against the other tasks, None without a formula, and the names of the accountants."""
    several = [counted_in_full(one) for one in several]
    worst = {
        relation: max((epsilon(one, delta, relation) for one in several), key=lambda found: found.value)
        for relation in shared_relations(several)
    }
    # Zero-out has the epsilon of add/remove, so it is named only where it is what can be stated.
    named = [one for one in Relation if one in worst or one is not Relation.ZERO_OUT]
    spent = {one.value: _number(worst[one].value) if one in worst else None for one in named}
    return spent, " and ".join(sorted({found.accountant for found in worst.values()}))


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"
