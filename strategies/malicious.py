"""The malicious meta-learner: any strategy, with somebody who reads along on the server, before its noise."""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray
from pydantic import PrivateAttr

from fedpriv.errors import InputError
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.protocol import Arrays, Billboards, Reply, billboards_from_record
from fedpriv.strategies.base import TaskStrategy

__all__ = ["Listener", "MaliciousMetaLearner", "Sighting"]

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sighting:
    """What the server saw in one round, before it added any noise.

    Attributes
    ----------
    round : int
        Number of the round.
    kind : {"rows", "sum"}
        A row of every task, or one clipped sum per node over the tasks that it trained.
    billboards : dict
        Per group, what was published for this round.
    tasks : dict
        Per group, ids of the tasks behind the rows, int64 [k]. For sums: of all who were asked, which the server knows.
    updates : dict
        Per group, rows [k, ...], or sums [nodes, ...].
    """

    round: int
    kind: Literal["rows", "sum"]
    billboards: Billboards
    tasks: dict[str, Ids]
    updates: Billboards


Listener = Callable[[Sighting, Path | None], None]
"""Told of a sighting, with the run's folder if there is one; what it does changes nothing in the run."""


@dataclass
class _Ear:
    """Who listens, when, and what was published last."""

    rounds: frozenset[int]
    listener: Listener
    billboards: Billboards = field(default_factory=dict)


class MaliciousMetaLearner(TaskStrategy):
    """Wraps any strategy and stays passive: the run is the same, bit by bit, with and without it.

    Messages go to the strategy as they came, in the same order. The listener gets copies, in the chosen rounds, before
    the strategy adds noise. Noise of the nodes is in them: against this observer nothing else helps. Make one with
    :meth:`around`.

    References
    ----------
    Rafiei, Maheri, Rabiee: Privacy Challenges in Meta-Learning, section IV.
    """

    _ear: _Ear | None = PrivateAttr(default=None)

    @classmethod
    def around(cls, strategy: TaskStrategy, *, rounds: Iterable[int], listener: Listener) -> MaliciousMetaLearner:
        """Return the strategy with a listener.

        Parameters
        ----------
        strategy : TaskStrategy
            Any strategy; it is not changed.
        rounds : iterable of int
            When to listen, from 1.
        listener : callable
            Gets each :class:`Sighting` and the run's folder, or None without one.

        Raises
        ------
        InputError
            A round is not one of the run's.
        """
        chosen = frozenset(rounds)
        beyond = sorted(number for number in chosen if not 1 <= number <= strategy.rounds)
        if beyond or not chosen:
            raise InputError(
                f"attack.rounds must name rounds from 1 to {strategy.rounds}, got {beyond or 'none'}; these are all "
                "that the run has."
            )
        kind = type(strategy)
        # Under the same name: the run folder says which strategy ran, and it is that one.
        heard = types.new_class(kind.__name__, (MaliciousMetaLearner, kind))
        values = {name: getattr(strategy, name) for name in type(strategy).model_fields}
        made: MaliciousMetaLearner = heard(**values)
        made._updates_use_state = strategy._updates_use_state
        made._ear = _Ear(chosen, listener)
        return made

    def resolve(self, num_tasks: int) -> ResolvedPlan:
        """Return the plan of the strategy inside; refuse to run without one."""
        if self._ear is None:
            raise InputError(
                "a malicious meta-learner wraps another strategy: use MaliciousMetaLearner.around(strategy, ...), or "
                "the keys of [attack] beside any strategy."
            )
        return super().resolve(num_tasks)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Do what the strategy does, and remember what it published."""
        messages = super().configure_train(server_round, arrays, config, grid)
        if self._ear is not None and server_round in self._ear.rounds:
            self._ear.billboards = billboards_from_record(arrays, self.session.groups)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Do what the strategy does, while the listener reads along."""
        ear = self._ear
        if ear is None or server_round not in ear.rounds:
            return super().aggregate_train(server_round, replies)  # type: ignore[safe-super]
        heard: list[Reply] = []
        result = super().aggregate_train(server_round, _overheard(replies, heard))  # type: ignore[safe-super]
        directory = getattr(getattr(self.session.journal, "storage", None), "directory", None)  # of its checkpoints
        folder = directory.parent if isinstance(directory, Path) else None
        began = time.perf_counter()
        ear.listener(self._sighting(server_round, ear.billboards, heard), folder)
        self.session.listening_seconds += time.perf_counter() - began
        return result

    def _sighting(self, number: int, billboards: Billboards, heard: list[Reply]) -> Sighting:
        kind: Literal["rows", "sum"] = "rows" if self.reply_kind == "rows" else "sum"
        updates: Billboards = {}
        tasks: dict[str, Ids] = {}
        for group, like in billboards.items():
            parts = [reply.updates[group] for reply in heard if set(like) <= set(reply.updates.get(group, ()))]
            ids = [reply.tasks[group] for reply in heard if group in reply.tasks and group in reply.updates]
            tasks[group] = np.concatenate(ids) if kind == "rows" and ids else self.session.sampled[group]
            updates[group] = {name: _joined([part[name] for part in parts], kind) for name in like} if parts else {}
        return Sighting(number, kind, billboards, tasks, updates)


def _joined(parts: list[NDArray[Any]], kind: str) -> NDArray[Any]:
    return np.concatenate(parts) if kind == "rows" else np.stack(parts)


def _overheard(replies: Iterable[Message], heard: list[Reply]) -> Iterator[Message]:
    """Hand on every message as it came; keep a copy of what can be read."""
    for reply in replies:
        if not reply.has_error():
            answer = Reply.from_content(reply.content)
            copied: Billboards = {group: _copied(arrays) for group, arrays in answer.updates.items()}
            heard.append(Reply(copied, {group: ids.copy() for group, ids in answer.tasks.items()}))
        yield reply


def _copied(arrays: Arrays) -> Arrays:
    return {name: value.copy() for name, value in arrays.items()}
