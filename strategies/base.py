"""What all strategies over tasks share: settings, the plan, and what a strategy may decide in a round.

A node hosts one or many tasks, so the unit of sampling is the task and never Flower's node.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from fedpriv.errors import InputError
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.entropy import Entropy, RoundSecret, SystemEntropy
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.privacy.participation import Participation
from fedpriv.privacy.plan import PrivacyPlan, ResolvedPlan
from fedpriv.protocol import Request, RunName, billboards_from_record, records_by_group
from fedpriv.roster import Roster
from fedpriv.settings import Settings
from fedpriv.strategies.exchange import lifetime
from fedpriv.strategies.messages import mean_scores, scores_of
from fedpriv.strategies.registry import Registry, members
from fedpriv.strategies.rounds import RoundHook, run_rounds
from fedpriv.strategies.session import Session

if TYPE_CHECKING:
    from fedpriv.adversary.observer import Observer

__all__ = ["TaskStrategy", "refuse_unasked"]

Ids = NDArray[np.int64]

_NEVER_ASKED = {
    *("check", "expected", "metric_releases", "metrics_noise", "noise_of", "planned", "priced", "release"),
    *("report_delta", "resolve_noise", "sampling_of", "_noisy", "choose"),
}
"""Methods that decided over noise, cost or participants, and would now be passed over without a word."""
_RENAMED = {"check_boundary": "check_checkpoint", "first_boundary": "first_checkpoint"}
"""Old names of methods that strategies override, and their new ones."""


def refuse_unasked(cls: type, names: set[str], instead: str) -> None:
    """Refuse a class with a method of its own under a name that is not asked any more.

    Raises
    ------
    InputError
        Says what to do instead.
    """
    for name in sorted(names & vars(cls).keys()):
        raise InputError(f"{cls.__name__}.{name} would never be asked: {instead} instead, or rename the method.")


class TaskStrategy(Settings, Strategy):
    """Base of strategies whose participants are tasks.

    Attributes
    ----------
    rounds : int
        Number of training rounds.
    sampling_rate, sampling
        How the tasks of a round are chosen (see :class:`fedpriv.privacy.participation.Participation`).
    evaluate_every : int
        Rounds between evaluations (diagnostics of the experimenter); 0 evaluates at the end only.
    groups : tuple of int, or None
        A *public* cluster label per task: each cluster gets its own billboard. Labels that were computed from
        private data would be a release of their own.
    """

    rounds: int = Field(ge=1)
    sampling_rate: float = Field(default=1.0, gt=0, le=1)
    sampling: Literal["poisson", "fixed-size"] = "poisson"
    evaluate_every: int = Field(default=0, ge=0)
    groups: tuple[int, ...] | None = None

    _session: Session | None = PrivateAttr(default=None)
    _observers: tuple[Observer, ...] = PrivateAttr(default=())
    # The safe side: it costs amplification of fixed sizes, never privacy.
    _updates_use_state: bool = PrivateAttr(default=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a strategy that means to change noise, cost or participants elsewhere than in its plan."""
        super().__pydantic_init_subclass__(**kwargs)
        refuse_unasked(
            cls,
            _NEVER_ASKED,
            "noise, cost and participants of a strategy follow from its 'plan'; override 'plan' or 'resolve'",
        )
        for old, new in _RENAMED.items():
            refuse_unasked(cls, {old}, f"override {new!r}")

    # --- binding to a population -------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session at work.

        Raises
        ------
        InputError
            The strategy was not bound to a population and a ledger yet.
        """
        session = self._session
        if session is None:
            raise InputError(
                f"{type(self).__name__} is not bound to a population and its ledger; run it through Experiment, "
                "or call bind(grid, initial_arrays, journal=...) first."
            )
        return session

    def for_updates(self, *, use_state: bool) -> Self:
        """Return this strategy for clients whose updates depend, or not, on rounds before.

        Cohorts of fixed size are amplified only where they do not (see :mod:`fedpriv.privacy.sampling`).
        """
        if use_state == self._updates_use_state:
            return self
        copy = self.model_copy()
        copy._updates_use_state = use_state
        return copy

    def observed_by(self, *observers: Observer) -> Self:
        """Return this strategy with observers of what the server sees before its noise; a run stays as it is.

        Raises
        ------
        InputError
            A round of theirs is not one of the run's.
        """
        for one in observers:
            beyond = sorted(number for number in one.rounds if not 1 <= number <= self.rounds)
            if beyond or not one.rounds:
                raise InputError(
                    f"attack.rounds must name rounds from 1 to {self.rounds}, got {beyond or 'none'}; these are all "
                    "that the run has."
                )
        copy = self.model_copy()
        copy._observers = (*self._observers, *observers)
        return copy

    @property
    def plan(self) -> PrivacyPlan:
        """What is released: nothing, unless a strategy says otherwise."""
        participation = Participation(sampling_rate=self.sampling_rate, sampling=self.sampling)
        return PrivacyPlan(self.rounds, participation, updates_use_state=self._updates_use_state)

    def resolve(self, num_tasks: int) -> ResolvedPlan:
        """Return the plan for a population of this size: noise, releases, guarantees.

        Raises
        ------
        InputError
            The plan does not fit this population, or no noise meets the target.
        """
        return self.plan.resolve({group: len(ids) for group, ids in members(self.groups, num_tasks).items()})

    def bind(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        *,
        journal: Journal | None,
        entropy: Entropy | None = None,
        checkpoint: Checkpoint | None = None,
        resolved: ResolvedPlan | None = None,
        roster: Roster | None = None,
        timeout: float = 3600,
        attempts: int = 3,
    ) -> Session:
        """Find out who hosts which tasks and get ready for the first (or the next) round.

        Parameters
        ----------
        grid : Grid
            Where the nodes are.
        initial_arrays : ArrayRecord
            The public start: plain parameter names, or ``group/name``.
        journal : Journal or None
            How releases get out; None only for strategies that release nothing.
        entropy : Entropy or None
            Where coins and noise come from; the operating system unless given.
        checkpoint : Checkpoint or None
            Where to resume.
        resolved : ResolvedPlan or None
            What :meth:`resolve` gave for this population; asked for unless given.
        roster : Roster or None
            Who the tasks are. With one, nodes may be away; without, those that answer must host all tasks.
        timeout : float
            Seconds to wait for the nodes.
        attempts : int
            How often a node with several tasks is asked, if it fails or is late, before the run stops.
        """
        if journal is not None and entropy is not None:
            journal.refuse_seed(entropy)
        run = RunName() if journal is None else RunName(journal.population, journal.run)
        plan = self.plan if resolved is None else resolved.plan
        stateless = plan.participation.fixed_cohorts and not plan.updates_use_state
        registry = Registry.query(grid, timeout, run, roster, stateless=stateless)
        groups = members(self.groups, registry.num_tasks)
        first = self.first_checkpoint(initial_arrays, registry.num_tasks)
        found = resolved or self.resolve(registry.num_tasks)
        found.plan.check_scheme(found.sizes)  # again, because 'resolve' may have put in another way to choose
        self._session = Session(
            registry,
            groups,
            journal,
            entropy or SystemEntropy(RoundSecret.fresh()),
            found,
            checkpoint or first,
            start=first.billboards,
            timeout=timeout,
            attempts=attempts,
            observers=self._observers,
        )
        if journal is not None and journal.storage is not None and self._session.resolved.plan.metrics.metrics:
            self._session.measured = {one.round: one for one in journal.storage.measured()}
        self.check_checkpoint()
        return self._session

    publishes: ClassVar[bool] = False

    def check_arrays(self, names: Sequence[str]) -> None:
        """Refuse settings that do not fit the arrays of a model; overridden by strategies that name arrays."""

    def check_checkpoint(self) -> None:
        """Refuse a checkpoint from which this strategy cannot go on; overridden by strategies that need more of it."""

    def first_checkpoint(self, initial_arrays: ArrayRecord, num_tasks: int) -> Checkpoint:
        """Return the public start as the checkpoint before round 1."""
        return Checkpoint(0, billboards_from_record(initial_arrays, members(self.groups, num_tasks)))

    # --- the Flower interface ----------------------------------------------------------------------------------

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Sample tasks and send each node the billboard and the ids of its sampled tasks."""
        self.before_round()
        self.session.draw(server_round)
        return self.messages(MessageType.TRAIN, server_round, arrays, self.session.sampled)

    def before_round(self) -> None:
        """Check what must hold before any client works; overridden by strategies with a budget."""

    def measure(self, number: int, grid: Grid) -> None:
        """Release metrics that are due after a round; overridden by strategies that have any."""

    def measuring(self, checkpoint: Checkpoint) -> list[Message]:  # noqa: ARG002
        """Return the messages that ask for what metrics after a checkpoint need; there are none by default."""
        return []

    @abstractmethod
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Turn the replies of a round into the next billboard."""

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Ask all tasks for their scores, every ``evaluate_every`` rounds."""
        if not self.evaluate_every or server_round % self.evaluate_every:
            return []
        return self.messages(MessageType.EVALUATE, server_round, arrays, self.session.groups)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:  # noqa: ARG002
        """Average the tasks' scores: diagnostics for the experimenter, covered by no release."""
        self.session.scores = self.collect(replies, self.session.groups)
        return mean_scores(self.session.scores)

    def summary(self) -> None:
        """Log the settings where Flower logs."""
        logging.getLogger("flwr").info("\t└──> %s", self)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        on_round: RoundHook | None = None,
    ) -> Result:
        """Run the remaining rounds. As Flower's ``start``, but it can resume and reports each round.

        Parameters
        ----------
        num_rounds : int or None
            Last round; ``rounds`` of this strategy unless given. The guarantee was computed for that number.
        timeout : float or None
            Seconds to wait for the answers of an exchange; those of :meth:`bind` unless given.
        on_round : callable or None
            Called after each round with its number, the new billboards and the mean scores (or an empty dict).

        Notes
        -----
        The other parameters are those of :meth:`flwr.serverapp.strategy.Strategy.start`.
        """
        session = self.session
        session.timeout = session.timeout if timeout is None else timeout
        last = self.rounds if num_rounds is None else num_rounds
        if last > self.rounds:
            raise InputError(f"num_rounds must be at most rounds={self.rounds} that was accounted for, got {last}.")
        return run_rounds(
            self,
            grid,
            initial_arrays,
            last,
            train_config=train_config or ConfigRecord(),
            evaluate_config=evaluate_config or ConfigRecord(),
            evaluate_fn=evaluate_fn,
            on_round=on_round,
        )

    # --- messages ----------------------------------------------------------------------------------------------

    @property
    def reply_kind(self) -> Literal["sum", "rows"]:
        """What nodes answer a training request with."""
        return "sum"

    def declared(self, checkpoint: Checkpoint) -> Declaration:  # noqa: ARG002
        """Return what the requests of the round after a checkpoint declare."""
        return Declaration(fixed_size=self.session.resolved.plan.participation.replaces)

    def messages(
        self,
        kind: str,
        number: int,
        arrays: ArrayRecord,
        tasks: dict[str, Ids],
        epochs: int = 0,
        declared: Declaration | None = None,
    ) -> list[Message]:
        """Build one message per node that hosts any of the given tasks; they share the arrays of the billboards.

        What is ``declared`` is that of the round after the last checkpoint, unless given.
        """
        session = self.session
        records, run = records_by_group(arrays, session.groups), session.run
        said = self.declared(session.checkpoint) if declared is None else declared
        return [
            Message(
                Request(
                    round=number,
                    billboards={},  # they travel as records
                    tasks=mine,
                    reply=self.reply_kind,
                    declared=said,
                    epochs=epochs,
                    of=run,
                ).to_content(records),
                node,
                kind,
                ttl=lifetime(session.timeout),
                group_id=str(number),
            )
            for node, mine in session.by_node(tasks).items()
        ]

    def collect(self, replies: Iterable[Message], tasks: Mapping[str, Ids]) -> dict[str, NDArray[np.float64]]:
        """Return the scores in replies by task; see :func:`fedpriv.strategies.messages.scores_of`."""
        return scores_of(self.session, replies, tasks)
