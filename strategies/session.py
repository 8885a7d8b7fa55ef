"""A strategy at work: what it knows between two messages, and how answers are taken in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure
from fedpriv.names import renamed
from fedpriv.privacy.entropy import Entropy
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.privacy.metrics import MetricsRelease
from fedpriv.privacy.participation import Participations
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.protocol import Billboards, Reply, RunName, billboards_from_record
from fedpriv.strategies.exchange import LATE_CODE, REFUSED_CODE, UNREACHABLE, exchange
from fedpriv.strategies.registry import Registry

if TYPE_CHECKING:
    from fedpriv.adversary.observer import Observer, Sighting

__all__ = ["Session"]

Ids = NDArray[np.int64]


@dataclass
class Session:
    """A strategy at work: who takes part, where releases are charged, and what the last replies said.

    Attributes
    ----------
    registry : Registry
        Which node hosts which tasks.
    groups : dict
        Per public group, the ids of its tasks (sorted).
    journal, entropy, timeout, attempts
        As for :meth:`fedpriv.strategies.base.TaskStrategy.bind`.
    resolved : ResolvedPlan
        What will be released, and with which noise.
    checkpoint : Checkpoint
        The last checkpoint.
    sampled : dict
        Per group, who takes part in the round at work.
    noise : dict
        Per group, what the checkpoint of the round at work will keep for correlated noise.
    bits : dict
        Per group, the noisy count that decides over the next clipping norm (see :mod:`fedpriv.privacy.adaptive`).
    measured : dict
        Metrics that were released, by round.
    scores : dict
        Per-task results of the last evaluation (a diagnostic), by name; index = task id.
    start : dict
        The public start, per group.
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
    observers : tuple of Observer
        Who gets copies of what the server sees.
    listening_seconds : float
        Time that they took in these rounds; it is not part of the training.
    """

    registry: Registry
    groups: dict[str, Ids]
    journal: Journal | None
    entropy: Entropy
    resolved: ResolvedPlan
    checkpoint: Checkpoint
    sampled: dict[str, Ids] = field(default_factory=dict)
    noise: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    bits: dict[str, float] = field(default_factory=dict)
    measured: dict[int, MetricsRelease] = field(default_factory=dict)
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
    observers: tuple[Observer, ...] = ()
    listening_seconds: float = 0.0
    _drawn: tuple[int, dict[str, Ids]] = field(default=(0, {}), init=False, repr=False)

    def draw(self, number: int) -> None:
        """Draw who takes part in a round, in the way and from the groups that the plan was resolved for."""
        resolved, done = self.resolved, self.participations()
        if {group: len(ids) for group, ids in self.groups.items()} != dict(resolved.sizes):
            raise ComponentFailure(
                f"round {number}: the groups of tasks are not those that the plan was made for; leave session.groups "
                "as bind() made it, and name others in the strategy's 'groups'."
            )
        self.sampled = {
            group: resolved.plan.participation.choose(
                number, ids, self.entropy.coins(number, group), resolved.banded, done
            )
            for group, ids in self.groups.items()
        }
        self._drawn = number, {group: ids.copy() for group, ids in self.sampled.items()}

    def refuse_not_drawn(self, number: int) -> None:
        """Refuse participants whom the plan did not draw for this round: its guarantee rests on that draw.

        Under limits it does not matter who chooses, because the limits alone are accounted for, and checked.

        Raises
        ------
        ComponentFailure
            Somebody else chose; what was summed must not be released.
        """
        drawn_for, drawn = self._drawn
        if self.resolved.banded is not None:
            return
        same = drawn.keys() == self.sampled.keys() and all(
            np.array_equal(ids, self.sampled[group]) for group, ids in drawn.items()
        )
        if drawn_for != number or not same:
            raise ComponentFailure(
                f"round {number} asks other tasks than those that the plan drew, so the guarantee of that draw would "
                "not hold; nothing was released. Let configure_train call super().configure_train(...) and leave "
                "session.sampled alone; who takes part is said by the strategy's 'plan'."
            )

    @property
    def boundary(self) -> Checkpoint:
        """The old name of ``checkpoint``, until version 0.2."""
        renamed("Session", "boundary", {"boundary": "checkpoint"})
        return self.checkpoint

    @boundary.setter
    def boundary(self, checkpoint: Checkpoint) -> None:
        renamed("Session", "boundary", {"boundary": "checkpoint"})
        self.checkpoint = checkpoint

    @property
    def run(self) -> RunName:
        """Which run of which population messages belong to."""
        return RunName() if self.journal is None else RunName(self.journal.population, self.journal.run)

    @property
    def folder(self) -> Path | None:
        """The run's folder, if it has one."""
        storage = None if self.journal is None else self.journal.storage
        return None if storage is None else storage.folder

    def sightings(
        self, number: int, arrays: ArrayRecord, replies: Iterable[Message], kind: Literal["sum", "rows"]
    ) -> list[tuple[Observer, Sighting]]:
        """Return, for each observer of a round, copies of what the server sees before it adds noise."""
        observers = [one for one in self.observers if number in one.rounds]
        if not observers:
            return []
        from fedpriv.adversary.observer import Sighting

        began = time.perf_counter()
        answers = [Reply.from_content(reply.content) for reply in replies if not reply.has_error()]
        published = billboards_from_record(arrays, self.groups)
        seen = (number, kind, published, self.sampled, answers, self.folder)
        found = [(one, Sighting.of(*seen)) for one in observers]
        self.listening_seconds += time.perf_counter() - began
        return found

    def tell(self, sightings: Iterable[tuple[Observer, Sighting]]) -> None:
        """Call each observer with its copy."""
        for observer, sighting in sightings:
            began = time.perf_counter()
            observer.see(sighting)
            self.listening_seconds += time.perf_counter() - began

    def participations(self) -> Participations | None:
        """Return how often each task was asked up to the last checkpoint, and when last; None without limits."""
        if self.resolved.banded is None:
            return None
        if self.checkpoint.round == 0:
            return Participations.none(self.registry.num_tasks)
        return Participations.from_arrays(self.checkpoint.participations, self.registry.num_tasks)

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
            Gets ``rejected`` (replies), ``failed``, ``late``, ``refused`` and ``unreachable`` (tasks).
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
        unreachable = sum(map(len, tasks.values())) - waiting.total()
        if unreachable:
            self.note = self.note or f"no node that can be reached hosts {unreachable} of the tasks"
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
            elif code == REFUSED_CODE:
                problems["refused"] += count
            elif self.registry.hosted(node) > 1:
                raise ComponentFailure(f"node {node} failed {stage}: {reason}")
            else:
                problems["late" if code == LATE_CODE else "failed"] += count
            self.note = self.note or f"node {node}: {reason}"
        if unreachable:
            problems["unreachable"] += unreachable
            if self.on_unreachable is not None:
                self.on_unreachable(number, unreachable)

    def by_node(self, tasks: Mapping[str, Ids]) -> dict[int, dict[str, Ids]]:
        """Return for each node that hosts any of the tasks their ids, by group."""
        per_node: dict[int, dict[str, Ids]] = {}
        for group, ids in tasks.items():
            for node, mine in self.registry.split(ids):
                per_node.setdefault(node, {})[group] = mine
        return per_node

    def asked(self, tasks: Mapping[str, Ids]) -> Counter[int]:
        """Return how many of the tasks each node hosts."""
        return Counter({node: sum(map(len, mine.values())) for node, mine in self.by_node(tasks).items()})

    def take_note(self, answer: Reply) -> Counter[str]:
        """Keep what a reply says about updates that do not count; return its counts."""
        counts = Counter({name: count for name, count in answer.diagnostics.items() if isinstance(count, int)})
        self.problems.update(counts)
        self.note = self.note or answer.note
        return counts
