"""The accountant for Flower's own strategies: its ``PrivacyAccountant`` interface on a ledger.

Flower's fixed clipping asks its accountant before clients work, and tells it of a release after the noise was added and
before anybody gets the aggregate. Here the first question goes to the budget of the population, and the second charges
the ledger, durably: an aggregate that could not be charged is not returned. ``docs/flower-accountant.md`` says how to
use it, and what Flower leaves uncovered.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import get_args

from flwr.serverapp import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyConfig,
    PrivacySpent,
    SamplingMethod,
)

from fedpriv.errors import BudgetExceeded, ComponentFailure, InputError, NoGuarantee
from fedpriv.names import unknown
from fedpriv.privacy.accounting import Epsilon, counted_in_full, delta_for, epsilon
from fedpriv.privacy.clipping import check_clipping_norm
from fedpriv.privacy.filters import FilterName
from fedpriv.privacy.guarantee import Guarantee, guarantee_for
from fedpriv.privacy.ledger import Declared, Ledger
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.rounding import NOT_EXACT
from fedpriv.privacy.sampling import FixedSizeSampling, FullParticipation, Sampling
from fedpriv.privacy.target import Target, check_delta, default_delta
from fedpriv.privacy.terms import Observer, Output, Relation

__all__ = ["LedgerAccountant"]

_BACKEND = "fedpriv-ledger"
_SCHEMA = 1


class LedgerAccountant:
    """Charge what a strategy of Flower releases to a population's ledger.

    Satisfies :class:`flwr.serverapp.PrivacyAccountant`. The unit of privacy is a Flower client. Nothing is kept here
    that the ledger does not hold: a server that starts again under the same run goes on where the ledger ends.

    Parameters
    ----------
    ledger : str or Path
        The ledger's file; made if there is none.
    population : str
        Whose budget is spent.
    run : str
        Name of this training; give another one to another training. Servers that share a name are charged for
        together, release by release, as one training.
    clients : sequence of str
        Names of all clients that may ever be asked, in any order: the population. Flower samples among the nodes that
        are connected, so connect no others.
    num_sampled_clients : int
        How many of them answer each round, as the strategy is told.
    declared : "protected" or "benchmark"
        Whether all runs share one budget, or each is accounted alone.
    budget : Target or None
        What a protected population may spend over all runs.
    budget_filter : "renyi" or "gdp"
        What cuts off the budget.
    relation : Relation or None
        Under which epsilon is stated; that of the budget, or else replace-one for cohorts smaller than the population
        and add/remove if everybody takes part.
    delta : float or None
        Where epsilon is stated without a budget; 1/(100 m) unless given.
    clipping_norm : float
        Recorded with each release; what a release costs does not depend on it.

    Raises
    ------
    InputError, NoGuarantee
        Something does not fit; nothing was started.
    ComponentFailure
        The ledger is damaged, locked or read-only.
    """

    def __init__(
        self,
        ledger: str | Path,
        population: str,
        run: str,
        *,
        clients: Sequence[str],
        num_sampled_clients: int,
        declared: Declared = "protected",
        budget: Target | None = None,
        budget_filter: FilterName = "renyi",
        relation: Relation | None = None,
        delta: float | None = None,
        clipping_norm: float = 1.0,
    ) -> None:
        named = isinstance(clients, Iterable) and not isinstance(clients, str | bytes)
        names = list(clients) if named else []
        if not names or not all(isinstance(one, str) and one for one in names) or len(set(names)) != len(names):
            raise InputError("accountant: 'clients' must name every client of the population by a text, each once.")
        names.sort()
        if declared not in get_args(Declared):
            raise InputError(f"accountant: 'declared' must be 'protected' or 'benchmark', got {declared!r}.")
        for name, value in (("population", population), ("run", run)):
            if not isinstance(value, str) or not value:
                raise InputError(
                    f"accountant: {name!r} must be a text that is not empty, got {value!r}; give it a name."
                )
        if budget is not None and not isinstance(budget, Target):
            raise InputError(f"accountant: 'budget' must be a Target, got {budget!r}; say Target(epsilon=...).")
        if relation is not None and relation not in list(Relation):
            raise InputError("accountant: " + unknown("relation", str(relation), list(Relation)))
        if delta is not None:
            _check_number("delta", delta)
        check_clipping_norm(clipping_norm)
        if budget is not None and (delta is not None or relation not in (None, budget.relation)):
            raise InputError("accountant: the budget brings its own delta and relation; leave out both beside it.")
        # Both check their numbers: a cohort of everybody is full participation.
        cohort = FixedSizeSampling(num_sampled_clients, len(names), counted=True)
        self._sampling: Sampling = FullParticipation() if cohort.rate == 1.0 else cohort
        usual = Relation.ADD_REMOVE if cohort.rate == 1.0 else Relation.REPLACE_ONE
        self.relation = budget.relation if budget is not None else Relation(relation or usual)
        if self.relation is Relation.ADD_REMOVE and cohort.rate < 1.0:
            raise NoGuarantee(
                f"accountant: Flower draws cohorts of fixed size ({num_sampled_clients} of {len(names)} clients): "
                "another client takes the place of one that is removed, which add/remove does not describe; use "
                "relation = 'replace-one' (of the budget, if there is one), or let all clients take part."
            )
        usual_delta = default_delta(len(names)) if delta is None else delta
        self._delta = usual_delta if budget is None else budget.delta_for(len(names))
        check_delta(self._delta, len(names))
        self._m, self._sampled, self._norm = len(names), num_sampled_clients, clipping_norm
        self.population, self.run, self._alone = population, run, declared == "benchmark"
        self.ledger = Ledger(ledger)
        self.ledger.register(
            population,
            fingerprint=hashlib.sha256(json.dumps(names).encode()).hexdigest(),
            num_tasks=self._m,
            declared=declared,
            budget=budget,
            budget_filter=budget_filter,
        )
        self.ledger.refuse_read_only()
        self._config = PrivacyConfig(
            target_delta=self._delta,
            population_size=self._m,
            # Without amplification Flower's configuration knows this relation only, and its fixed clipping asks for no
            # amplification; `relation` is the one under which every epsilon here holds.
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
            sampling_method=SamplingMethod.NO_AMPLIFICATION,
            max_epsilon=None if budget is None else budget.epsilon,
        )

    # --- Flower's interface ------------------------------------------------------------------------------------

    @property
    def config(self) -> PrivacyConfig:
        """What Flower checks; see :attr:`relation` for the relation that holds."""
        return self._config

    @property
    def num_releases(self) -> int:
        """Number of releases accounted for: of all runs on a protected population, of this run on a benchmark."""
        return self._counts().total()

    def compose(self, event: GaussianPrivacyEvent, count: int = 1) -> None:
        """Charge releases that are about to be published, durably.

        Raises
        ------
        BudgetExceeded
            The budget cannot pay; nothing was charged, and the aggregate must not get out.
        InputError
            The event is not of this population, or other clients were sampled than declared.
        ComponentFailure
            The ledger failed, or somebody else charges under the same run.
        """
        release = self._release(event, count)
        self.ledger.check(self.population, self.run, {release: count})
        done = self._done()
        for number in range(done + 1, done + count + 1):
            if not self.ledger.charge(self.population, self.run, number, "", release):
                raise ComponentFailure(
                    f"another server charges the run {self.run!r} of population {self.population!r} at the same time; "
                    "this aggregate must not get out: give every training a name of its own."
                )

    def get_epsilon(self, delta: float) -> float:
        """Return the epsilon of what was released, under :attr:`relation`."""
        return self._spent(_check_number("delta", delta)).value

    def get_delta(self, epsilon: float) -> float:
        """Return the delta of what was released at an epsilon, under :attr:`relation`."""
        return delta_for(self._counts(), _check_number("epsilon", epsilon), self.relation)

    def get_privacy_spent(self, delta: float | None = None) -> PrivacySpent:
        """Return what was spent; the method's name says under which relation."""
        at = self._delta if delta is None else _check_number("delta", delta)
        found = self._spent(at)
        method = f"{found.accountant}, {self.relation.value}"
        return PrivacySpent(epsilon=found.value, delta=at, num_releases=self.num_releases, accounting_method=method)

    def would_exceed(self, event: GaussianPrivacyEvent, max_epsilon: float | None = None, count: int = 1) -> bool:
        """Return whether the budget, or an epsilon given here, could not pay for more releases; nothing changes.

        Raises
        ------
        InputError
            The event is not of this population, or ``max_epsilon`` is no number of at least 0, or needed and missing.
        """
        release = self._release(event, count)
        if max_epsilon is not None and _check_number("max_epsilon", max_epsilon) < 0.0:
            raise InputError(f"accountant: 'max_epsilon' must be at least 0, got {max_epsilon!r}.")
        if max_epsilon is None and self._config.max_epsilon is None:
            raise InputError("accountant: without a budget 'max_epsilon' must be given.")
        try:
            self.ledger.check(self.population, self.run, {release: count})
        except BudgetExceeded:
            return True
        more = self._counts() + Counter({release: count})
        return max_epsilon is not None and epsilon(more, self._delta, self.relation).value > max_epsilon

    def state_dict(self) -> dict[str, object]:
        """Return where the ledger is, and how many releases of this run it held: the ledger itself is the state."""
        return {
            "schema_version": _SCHEMA,
            "backend": _BACKEND,
            "ledger": str(self.ledger.path.resolve()),
            "population": self.population,
            "run": self.run,
            "releases": self._done(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Check that this ledger holds what the state says; there is nothing to load.

        Raises
        ------
        InputError
            The state is of another accountant, or the ledger has lost releases since.
        """
        if not isinstance(state, Mapping):
            raise InputError(f"accountant: the state must be what 'state_dict' returned, got {state!r}.")
        for name, mine in {**self.state_dict(), "releases": None, "ledger": None}.items():
            if mine is not None and state.get(name) != mine:
                raise InputError(f"accountant: {name!r} of the state must be {mine!r}, got {state.get(name)!r}.")
        kept, held = state.get("releases"), self._done()
        if isinstance(kept, bool) or not isinstance(kept, int) or not 0 <= kept <= held:
            raise InputError(
                f"accountant: the ledger {self.ledger.path} holds {held} releases of the run {self.run!r}, the state "
                f"says {kept!r}; restore the ledger: going on would under-count what was released."
            )

    # --- beyond it ---------------------------------------------------------------------------------------------

    def guarantee(self) -> Guarantee:
        """Return what may be claimed of the aggregates of this run."""
        assumptions = [
            "every client answers each round with finite arrays and one constant weight, whatever its data",
            "metrics and failures of clients are not published",
            "nobody predicts numpy's global generator, from which Flower draws its noise",
        ]
        if self.relation is Relation.ADD_REMOVE:
            assumptions.append("a client that is removed counts as one that answers with the model as it was")
        found = guarantee_for(
            self.ledger.counts(self.population, self.run),
            delta=self._delta,
            num_tasks=self._m,
            output=Output.BILLBOARDS,
            observer=Observer.PUBLIC,
            relation=self.relation,
            assumptions=tuple(assumptions),
        )
        not_exact = "Flower's noise is added in floating point and not rounded: not proven exact"
        return replace(found, assumptions=tuple(not_exact if one == NOT_EXACT else one for one in found.assumptions))

    def _release(self, event: GaussianPrivacyEvent, count: int) -> Release:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"accountant: 'count' must be a whole number of at least 1, got {count!r}.")
        if not isinstance(event, GaussianPrivacyEvent):
            raise InputError(f"accountant: 'event' must be a GaussianPrivacyEvent of Flower, got {event!r}.")
        for name, wanted in (("population_size", self._m), ("sample_size", self._sampled)):
            if getattr(event, name) != wanted:
                raise InputError(
                    f"accountant: {name!r} must be {wanted}, as the accountant was told, got {getattr(event, name)}; "
                    "'clients' and 'num_sampled_clients' must be those of the strategy."
                )
        return Release.of(self._sampling, event.noise_multiplier, self._norm)

    def _counts(self) -> Counter[Release]:
        """Return what counts together: all runs of a protected population, as its clients see them."""
        return counted_in_full(self.ledger.counts(self.population, self.run if self._alone else None))

    def _spent(self, delta: float) -> Epsilon:
        return self.ledger.spent(self.population, delta, self.relation, self.run if self._alone else None)

    def _done(self) -> int:
        return self.ledger.counts(self.population, self.run).total()


def _check_number(name: str, value: float) -> float:
    """Return a number; refuse everything else, and NaN."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        raise InputError(f"accountant: {name!r} must be a number below 1e308, got a larger one.") from None
    if math.isnan(number):
        raise InputError(f"accountant: {name!r} must be a number, got {value!r}.")
    return number
