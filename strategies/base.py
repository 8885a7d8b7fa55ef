"""What all strategies over tasks share: who hosts which task, who takes part, the loop over rounds.

A node hosts one or many tasks, so the unit of sampling is the task and never Flower's node.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy.coins import Coins
from fedpriv.privacy.entropy import Entropy, RoundSecret, SystemEntropy
from fedpriv.privacy.journal import Boundary, Journal
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.metrics import Measured
from fedpriv.privacy.sampling import Sampling, fixed_size, sampling_from
from fedpriv.privacy.stream import Stream
from fedpriv.privacy.target import default_delta
from fedpriv.privacy.terms import Relation
from fedpriv.protocol import (
    ALL,
    Billboards,
    Reply,
    Request,
    TaskRange,
    billboards_from_record,
    record_from_billboards,
    records_by_group,
)
from fedpriv.settings import Settings
from fedpriv.strategies.exchange import LATE, UNREACHABLE, exchange, lifetime

__all__ = ["Registry", "RoundHook", "Session", "TaskStrategy"]

Ids = NDArray[np.int64]
RoundHook = Callable[[int, Billboards, dict[str, Any]], None]


@dataclass(frozen=True)
class Registry:
    """Which node hosts which tasks: contiguous ranges of ids.

    Attributes
    ----------
    nodes : ndarray of uint64, shape [n]
        Flower node ids, in the order of their tasks.
    starts : ndarray of int64, shape [n + 1]
        Node ``i`` hosts tasks ``starts[i]`` to ``starts[i + 1]``.
    fingerprints : list of str
        Of each node's task names, as it reports them.
    """

    nodes: list[int]
    starts: Ids
    fingerprints: list[str]

    @property
    def num_tasks(self) -> int:
        """Number of registered tasks, a public constant."""
        return int(self.starts[-1])

    def split(self, ids: Ids) -> Iterable[tuple[int, Ids]]:
        """Yield (node, its ids) for sorted task ids, skipping nodes without any."""
        cuts = np.searchsorted(ids, self.starts)
        for position, node in enumerate(self.nodes):
            mine = ids[cuts[position] : cuts[position + 1]]
            if len(mine):
                yield node, mine

    def hosted(self, node: int) -> int:
        """Return how many tasks a node hosts."""
        position = self.nodes.index(node)
        return int(self.starts[position + 1] - self.starts[position])

    @classmethod
    def query(cls, grid: Grid, timeout: float) -> Registry:
        """Ask every node which tasks it hosts.

        Raises
        ------
        ComponentFailure
            A node did not answer, or the ranges overlap or leave gaps.
        """
        ids = list(grid.get_node_ids())
        messages = [Message(RecordDict(), node, f"{MessageType.QUERY}.tasks") for node in ids]
        hosts: list[tuple[TaskRange, int]] = []
        for reply in grid.send_and_receive(messages, timeout=timeout):
            if reply.has_error():
                raise ComponentFailure(f"node {reply.metadata.src_node_id} cannot list its tasks: {reply.error.reason}")
            hosts.append((TaskRange.from_content(reply.content), reply.metadata.src_node_id))
        if len(hosts) != len(ids) or not hosts:
            raise ComponentFailure(
                f"{len(hosts)} of {len(ids)} nodes listed their tasks; start the others, then retry."
            )
        hosts.sort(key=lambda item: item[0].first)
        starts = [0]
        for tasks, node in hosts:
            if tasks.first != starts[-1]:
                raise ComponentFailure(
                    f"node {node} hosts tasks from {tasks.first} on where {starts[-1]} was expected: "
                    "nodes must host disjoint ranges without gaps; check their partition ids."
                )
            starts.append(tasks.first + tasks.count)
        fingerprints = [tasks.fingerprint for tasks, _ in hosts]
        return cls([node for _, node in hosts], np.array(starts, dtype=np.int64), fingerprints)


@dataclass
class Session:
    """A strategy at work: who takes part, where releases are charged, and what the last replies said.

    Attributes
    ----------
    registry : Registry
        Which node hosts which tasks.
    groups : dict
        Per public group, the ids of its tasks (sorted).
    journal : Journal or None
        How releases get out; None only for strategies that release nothing.
    entropy : Entropy
        Where coins and noise come from.
    noise_multiplier : float
        Standard deviation of the noise on the sum, in clipping norms; the smallest where groups differ.
    boundary : Boundary
        The last release boundary.
    sampled : dict
        Per group, who takes part in the round at work.
    stream : Stream or None
        The limits of participation that are kept.
    noise : dict
        Per group, what the boundary of the round at work will keep for correlated noise.
    bits : dict
        Per group, the noisy count that decides over the next clipping norm (see :mod:`fedpriv.privacy.adaptive`).
    measured : dict
        Metrics that were released, by round.
    group_noise : dict
        Noise multipliers of groups with an epsilon of their own, once they were asked for.
    scores : dict
        Per-task results of the last evaluation (a diagnostic), by name; index = task id.
    start : dict
        The public start, per group.
    timeout : float
        Seconds to wait for the answers of an exchange.
    attempts : int
        How often a node with several tasks is asked, if it fails or is late, before the run stops.
    on_unreachable : callable or None
        Called with a round and how many of its tasks could not be reached, before anything of it is published.
    problems : Counter
        How many updates failed, were late, unreachable, not finite, refused or rejected so far (a diagnostic).
    missing : dict
        Tasks whose node gave nothing when it was asked last, by kind of message: scores, the final fit (a diagnostic).
    note : str
        The first of these in words.
    trained : int
        Tasks asked to train so far, counted once per round.
    training_seconds : float
        Time spent in rounds, without evaluation.
    listening_seconds : float
        Time that somebody who reads along spent in these rounds; it is not part of the training.
    """

    registry: Registry
    groups: dict[str, Ids]
    journal: Journal | None
    entropy: Entropy
    noise_multiplier: float
    boundary: Boundary
    sampled: dict[str, Ids] = field(default_factory=dict)
    stream: Stream | None = None
    noise: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    bits: dict[str, float] = field(default_factory=dict)
    measured: dict[int, Measured] = field(default_factory=dict)
    group_noise: dict[str, float] = field(default_factory=dict)
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    start: Billboards = field(default_factory=dict)
    timeout: float = 3600.0
    attempts: int = 3
    on_unreachable: Callable[[int, int], None] | None = None
    problems: Counter[str] = field(default_factory=Counter)
    missing: dict[str, int] = field(default_factory=dict)
    note: str = ""
    trained: int = 0
    training_seconds: float = 0.0
    listening_seconds: float = 0.0

    def ask(self, grid: Grid, messages: Iterable[Message], stage: str, *, needed: bool = True) -> list[Message]:
        """Send messages to nodes and return a reply for each; see :func:`fedpriv.strategies.exchange.exchange`."""
        how: dict[str, Any] = {"timeout": self.timeout, "attempts": self.attempts}
        return exchange(grid, messages, self.registry.hosted, stage=stage, needed=needed, **how)

    def answers(
        self, replies: Iterable[Message], tasks: Mapping[str, Ids], problems: Counter[str], number: int, stage: str
    ) -> Iterator[tuple[int, Reply]]:
        """Yield each node that was asked with its answer, once; what else came is counted in ``problems``.

        Parameters
        ----------
        replies : iterable of Message
            As they come from :meth:`ask`.
        tasks : mapping from group to ndarray of int64
            Who was asked.
        problems : Counter
            Gets ``rejected`` (replies), ``failed``, ``late`` and ``unreachable`` (tasks).
        number : int
            In which round.
        stage : str
            At what, for the error of a node that hosts several tasks.

        Raises
        ------
        ComponentFailure
            A node that hosts several tasks failed: one task's data may not decide over the others.
        """
        waiting = self.asked(tasks)
        unreachable = 0
        for reply in replies:
            node = reply.metadata.src_node_id
            if node not in waiting:
                problems["rejected"] += 1  # not asked, or answered before: a node counts once
                continue
            count = waiting.pop(node)
            if not reply.has_error():
                yield node, Reply.from_content(reply.content)
                continue
            code, reason = reply.error.code, reply.error.reason
            if code in UNREACHABLE:
                unreachable += count
            elif self.registry.hosted(node) > 1:
                raise ComponentFailure(f"node {node} failed {stage}: {reason}")
            else:
                problems["late" if code == LATE else "failed"] += count
            self.note = self.note or f"node {node}: {reason}"
        if unreachable:
            problems["unreachable"] += unreachable
            if self.on_unreachable is not None:
                self.on_unreachable(number, unreachable)

    def asked(self, tasks: Mapping[str, Ids]) -> Counter[int]:
        """Return how many of the tasks each node hosts."""
        counts: Counter[int] = Counter()
        for ids in tasks.values():
            counts.update({node: len(mine) for node, mine in self.registry.split(ids)})
        return counts

    def take_note(self, answer: Reply) -> Counter[str]:
        """Keep what a reply says about updates that do not count; return its counts."""
        counts = Counter({name: count for name, count in answer.diagnostics.items() if isinstance(count, int)})
        self.problems.update(counts)
        self.note = self.note or answer.note
        return counts


class TaskStrategy(Settings, Strategy):
    """Base of strategies whose participants are tasks.

    Attributes
    ----------
    rounds : int
        Number of training rounds.
    sampling_rate : float
        Probability with which each task takes part in a round; 1 is full participation.
    sampling : {"poisson", "fixed-size"}
        Whether every task flips a secret coin of its own, or cohorts have a fixed size, as Flower's ``fraction_train``
        makes them: the whole number nearest to ``sampling_rate`` times the number of tasks (of each group). Coins
        protect more for the same noise; for fixed sizes see :mod:`fedpriv.privacy.sampling`.
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
    # The safe side: it costs amplification of fixed sizes, never privacy.
    _updates_use_state: bool = PrivateAttr(default=True)

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

        Cohorts of fixed size are amplified only where they do not: otherwise the states of the others tell, round after
        round, who was drawn.
        """
        if use_state == self._updates_use_state:
            return self
        copy = self.model_copy()
        copy._updates_use_state = use_state
        return copy

    @property
    def fixed_cohorts(self) -> bool:
        """Whether cohorts have a fixed size below that of the population."""
        return self.sampling == "fixed-size" and self.sampling_rate < 1.0

    def sampling_of(self, num_tasks: int) -> Sampling:
        """Return how participants are drawn from a group of this size."""
        if self.fixed_cohorts:
            counted = self._updates_use_state or self.measures_state
            return fixed_size(self.sampling_rate, num_tasks, counted=counted)
        return sampling_from(self.sampling_rate)

    @property
    def measures_state(self) -> bool:
        """Whether this strategy publishes metrics of what tasks learned in earlier rounds, which tell who was drawn."""
        return False

    def costliest_sampling(self, num_tasks: int) -> Sampling:
        """Return the sampling of the group whose tasks take part most often, in a population of this size."""
        alone = self.groups is None
        sizes = {num_tasks} if alone else {len(ids) for ids in self._members(num_tasks).values()}
        return max((self.sampling_of(size) for size in sizes), key=lambda one: one.rate)

    def bind(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        *,
        journal: Journal | None,
        entropy: Entropy | None = None,
        boundary: Boundary | None = None,
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
            How releases get out.
        entropy : Entropy or None
            Where coins and noise come from; the operating system unless given.
        boundary : Boundary or None
            Where to resume.
        timeout : float
            Seconds to wait for the nodes.
        attempts : int
            How often a node with several tasks is asked, if it fails or is late, before the run stops.
        """
        registry = Registry.query(grid, timeout)
        groups = self._members(registry.num_tasks)
        first = self.first_boundary(initial_arrays, registry.num_tasks)
        self._session = Session(
            registry,
            groups,
            journal,
            entropy or SystemEntropy(RoundSecret.fresh()),
            self.resolve_noise(registry.num_tasks),
            boundary or first,
            start=first.billboards,
            stream=self.stream(registry.num_tasks),
            timeout=timeout,
            attempts=attempts,
        )
        if journal is not None and journal.storage is not None and self.metric_releases(registry.num_tasks):
            self._session.measured = {one.round: one for one in journal.storage.measured()}
        self.check_boundary()
        return self._session

    publishes: ClassVar[bool] = False

    def expected(self, num_tasks: int) -> float:
        """Return how many tasks of a group of this size take part in a round: a public constant."""
        return self.sampling_of(num_tasks).participants(num_tasks)

    def expected_answers(self, num_tasks: int) -> float:
        """Return how many answers of tasks go into all releases together, published metrics included, as expected."""
        sizes = [len(ids) for ids in self._members(num_tasks).values()]
        return self.rounds * sum(map(self.expected, sizes)) + self.metric_releases(num_tasks).total() * num_tasks

    def planned(self, num_tasks: int, rounds: int) -> Counter[Release]:  # noqa: ARG002
        """Return the releases that a number of rounds will make on a population of this size."""
        return Counter()

    def priced(self, num_tasks: int, rounds: int) -> tuple[Sampling, int]:
        """Return a sampling and how many releases with it cost as much as a number of rounds, for the same noise."""
        return self.costliest_sampling(num_tasks), rounds

    def stream(self, num_tasks: int) -> Stream | None:  # noqa: ARG002
        """Return the limits of participation that this strategy keeps, None if it keeps none."""
        return None

    def report_delta(self, num_tasks: int) -> float:
        """Return the delta at which the guarantee is reported; 1/(100 m) unless a strategy knows better."""
        return default_delta(num_tasks)

    @property
    def relation(self) -> Relation:
        """The neighbouring relation of the headline; both are printed."""
        return Relation.ADD_REMOVE

    def check(self, num_tasks: int) -> None:
        """Refuse, before anything is written, what does not fit a population of this size."""
        self._members(num_tasks)
        self.planned(num_tasks, self.rounds)

    def check_nodes(self, *, classes: bool, largest_norm: float | None) -> None:
        """Refuse what tasks cannot give or their policy does not allow; overridden by strategies that ask for more.

        Parameters
        ----------
        classes : bool
            Whether the tasks predict classes.
        largest_norm : float or None
            The largest clipping norm that the nodes allow.
        """

    def check_arrays(self, names: Sequence[str]) -> None:
        """Refuse settings that do not fit the arrays of a model; overridden by strategies that name arrays."""

    def check_boundary(self) -> None:
        """Refuse a boundary from which this strategy cannot go on; overridden by strategies that need more of it."""

    def first_boundary(self, initial_arrays: ArrayRecord, num_tasks: int) -> Boundary:
        """Return the public start as the boundary before round 1."""
        return Boundary(0, billboards_from_record(initial_arrays, self._members(num_tasks)))

    def resolve_noise(self, num_tasks: int) -> float:  # noqa: ARG002
        """Return the noise multiplier for a population of this size."""
        return 0.0

    def _members(self, num_tasks: int) -> dict[str, Ids]:
        if self.groups is None:
            return {ALL: np.arange(num_tasks, dtype=np.int64)}
        if len(self.groups) != num_tasks:
            raise InputError(
                f"groups must hold one public label per task, got {len(self.groups)} for {num_tasks} tasks; "
                "leave it out for one billboard."
            )
        labels = np.asarray(self.groups)
        return {f"group-{label}": np.flatnonzero(labels == label) for label in np.unique(labels)}

    # --- the Flower interface ----------------------------------------------------------------------------------

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Sample tasks and send each node the billboard and the ids of its sampled tasks."""
        session = self.session
        self.before_round()
        session.sampled = {
            group: self.choose(server_round, group, ids, session.entropy.coins(server_round, group))
            for group, ids in session.groups.items()
        }
        return self.messages(MessageType.TRAIN, server_round, arrays, session.sampled)

    def choose(self, number: int, group: str, ids: Ids, coins: Coins) -> Ids:  # noqa: ARG002
        """Return who of a group takes part in a round: by a coin of each task."""
        return ids[self.sampling_of(len(ids)).draw(len(ids), coins)]

    def before_round(self) -> None:
        """Check what must hold before any client works; overridden by strategies with a budget."""

    def measure(self, number: int, grid: Grid) -> None:
        """Release metrics that are due after a round; overridden by strategies that have any."""

    def metric_releases(self, num_tasks: int, rounds: int | None = None) -> Counter[Release]:  # noqa: ARG002
        """Return the releases of metrics that are due in the last so many rounds; all of them by default."""
        return Counter()

    def measuring(self, boundary: Boundary) -> list[Message]:  # noqa: ARG002
        """Return the messages that ask for what metrics after a boundary need; there are none by default."""
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
        if not self.session.scores:
            return None
        means = {f"diagnostic.{name}": _mean(values) for name, values in self.session.scores.items()}
        return MetricRecord({name: value for name, value in means.items() if value is not None})

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
        result = Result()
        arrays = record_from_billboards(session.boundary.billboards) if session.boundary.round else initial_arrays
        result.arrays = arrays
        train_config, evaluate_config = train_config or ConfigRecord(), evaluate_config or ConfigRecord()
        for number in range(session.boundary.round + 1, last + 1):
            self.measure(number - 1, grid)  # here, so that a run that goes on makes up for it
            began, heard = time.perf_counter(), session.listening_seconds
            messages = self.configure_train(number, arrays, train_config, grid)
            replies = session.ask(grid, messages, f"in round {number}")
            new, metrics = self.aggregate_train(number, replies)
            session.training_seconds += time.perf_counter() - began - (session.listening_seconds - heard)
            session.trained += sum(len(ids) for ids in session.sampled.values())
            if new is not None:
                result.arrays = arrays = new
            if metrics is not None:
                result.train_metrics_clientapp[number] = metrics
            asked = list(self.configure_evaluate(number, arrays, evaluate_config, grid))
            answers = session.ask(grid, asked, f"to evaluate after round {number}", needed=False)
            scores = self.aggregate_evaluate(number, answers) if asked else None
            if scores is not None:
                result.evaluate_metrics_clientapp[number] = scores
            if evaluate_fn and (own := evaluate_fn(number, arrays)) is not None:
                result.evaluate_metrics_serverapp[number] = own
            if on_round:
                on_round(number, session.boundary.billboards, dict(scores or {}))
        return result

    # --- messages ----------------------------------------------------------------------------------------------

    @property
    def reply_kind(self) -> Literal["sum", "rows"]:
        """What nodes answer a training request with."""
        return "sum"

    def declared(self, boundary: Boundary) -> dict[str, Any]:  # noqa: ARG002
        """Return what the requests of the round after a boundary declare about clipping."""
        return {}

    @property
    def declared_noise_at(self) -> Literal["server", "node"]:
        """Who adds the noise, as requests declare it to the nodes."""
        return "server"

    def messages(
        self,
        kind: str,
        number: int,
        arrays: ArrayRecord,
        tasks: dict[str, Ids],
        epochs: int = 0,
        declared: dict[str, Any] | None = None,
    ) -> list[Message]:
        """Build one message per node that hosts any of the given tasks; they share the arrays of the billboards.

        What is ``declared`` is that of the round after the last boundary, unless given.
        """
        stream = self.session.stream
        mechanism: dict[str, Any] = {
            "noise_multiplier": self.session.noise_multiplier,
            "fixed_size": self.fixed_cohorts,
            "stream": tuple(stream.model_dump().values()) if stream is not None else (),
            "noise_at": self.declared_noise_at,
            **(self.declared(self.session.boundary) if declared is None else declared),
        }
        per_node: dict[int, dict[str, Ids]] = {}
        for group, ids in tasks.items():
            for node, mine in self.session.registry.split(ids):
                per_node.setdefault(node, {})[group] = mine
        records = records_by_group(arrays, self.session.groups)
        return [
            Message(
                Request(
                    round=number,
                    billboards={},  # they travel as records
                    tasks=mine,
                    reply=self.reply_kind,
                    epochs=epochs,
                    **mechanism,
                ).to_content(records),
                node,
                kind,
                ttl=lifetime(self.session.timeout),
                group_id=str(number),
            )
            for node, mine in per_node.items()
        ]

    def collect(self, replies: Iterable[Message], tasks: Mapping[str, Ids]) -> dict[str, NDArray[np.float64]]:
        """Put per-task diagnostics of the replies in the order of task ids; NaN where nothing came, which is counted.

        A run is not stopped for them: no release depends on scores.
        """
        session = self.session
        scores: dict[str, NDArray[np.float64]] = {}
        lost: dict[str, int] = {}
        waiting = session.asked(tasks)
        for reply in replies:
            node, kind = reply.metadata.src_node_id, reply.metadata.message_type
            if node not in waiting:
                continue
            count = waiting.pop(node)
            lost.setdefault(kind, 0)
            if reply.has_error():
                lost[kind] += count
                session.note = session.note or f"node {node}: {reply.error.reason}"
                continue
            answer = Reply.from_content(reply.content)
            if "scoring_failed" in answer.diagnostics:
                session.take_note(answer)
            ids = np.asarray(answer.diagnostics["ids"], dtype=np.int64)
            for name, values in answer.diagnostics.items():
                if name in ("ids", "scoring_failed"):
                    continue
                empty = np.full(session.registry.num_tasks, np.nan)
                scores.setdefault(name, empty)[ids] = cast(Sequence[float], values)
        session.missing.update(lost)
        return scores


def _mean(values: NDArray[np.float64]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
