"""The billboard aggregator: clip, sum, add noise, charge the ledger, publish."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray
from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy.bounds import BIT, Bounds, Clipping
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.journal import Checkpoint
from fedpriv.privacy.metrics import Metrics, noisy_means
from fedpriv.privacy.participation import Participation
from fedpriv.privacy.plan import Mechanism, PrivacyPlan
from fedpriv.privacy.target import Target
from fedpriv.protocol import METRICS, Arrays, Billboards, Reply, record_from_billboards
from fedpriv.strategies.base import TaskStrategy, refuse_unasked
from fedpriv.strategies.server_updates import SGD, NoisySum, ServerUpdate
from fedpriv.strategies.server_updates.applied import changed, first_state, frozen, next_step
from fedpriv.strategies.server_updates.choice import flat, with_update

__all__ = ["Billboard"]

_STEPS = {"_publish", "step_share"}
"""Methods that decided what became of a noisy sum, and would now be passed over without a word."""

Metric = Literal["personal.accuracy", "personal.loss", "billboard.accuracy", "billboard.loss"]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Billboard(TaskStrategy):
    """Publish a model under differential privacy; personal models then carry joint DP by the billboard lemma.

    Each round: tasks are sampled in secret; each one's whole update is clipped to ``clipping_norm`` in l2; the
    clipped updates are summed; Gaussian noise of standard deviation ``noise_multiplier * clipping_norm`` is added to
    the sum; the release is charged; the billboard moves by ``server_learning_rate`` times the noisy sum divided by
    the *expected* number of participants, a public constant (PMTL, Algorithm 1, line 8, with the fixes that the
    analysis needs: uniform weights, public denominator, Poisson coins). Other steps are a ``server_update``.

    Attributes
    ----------
    target, group_epsilons, noise_multiplier, delta, noise_at, noise
        How much noise there is, who adds it, and whether rounds share it (see
        :class:`fedpriv.privacy.plan.Mechanism`). In a configuration `strategy.epsilon` is the target's, or a table with
        one for each group.
    server_learning_rate : float
        Step of the billboard along the noisy mean.
    server_update : ServerUpdate or str
        How the noisy mean moves the billboard, free of charge: an object, such as ``Adam(tau=0.01)``, or the name of
        one of :mod:`fedpriv.strategies.server_updates` ("sgd", "momentum", "adam") with its settings beside it, as in
        ``server_update="adam", server_tau=0.01``. Plain SGD unless given.
    reply : {"sum", "rows"}
        Whether nodes send their clipped sum or one row per task; the published result is the same.
    min_separation, max_participations, schedule
        Limits that this strategy keeps for every task, and whether tasks take turns or are drawn within them (see
        :class:`fedpriv.privacy.participation.Participation`). Given any of them, or banded noise, ``sampling_rate`` is
        the share of the tasks that is asked each round, and all rounds are charged when the first one is.
    clipping_norm, clipping, clipping_norms, target_clipped_quantile, clip_norm_lr, clipped_count_stddev, \
largest_clipping_norm
        How updates are bounded (see :class:`fedpriv.privacy.bounds.Clipping`).
    metrics, metrics_every, metrics_epsilon, metrics_largest_loss
        Which mean scores are published beside, when, and what they cost together (see
        :class:`fedpriv.privacy.metrics.Metrics`). A ``target`` covers that cost: the updates get the more noise. Beside
        a given ``noise_multiplier`` it comes on top.
    """

    publishes: ClassVar[bool] = True

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a strategy that means to move the billboard where nobody asks any more."""
        super().__pydantic_init_subclass__(**kwargs)
        refuse_unasked(cls, _STEPS, "a noisy sum moves the billboard by a ServerUpdate; give one as 'server_update'")

    noise: Literal["independent", "banded"] = "independent"
    min_separation: int | None = Field(default=None, ge=1)
    max_participations: int | None = Field(default=None, ge=1)
    schedule: Literal["round-robin", "random"] = "round-robin"
    clipping_norm: float | None = Field(default=None, gt=0)
    clipping: Literal["flat", "per-layer", "adaptive"] = "flat"
    clipping_norms: dict[str, float] | None = None
    target_clipped_quantile: float = Field(default=0.5, ge=0.001, le=0.999)
    clip_norm_lr: float = Field(default=0.2, gt=0)
    clipped_count_stddev: float | None = Field(default=None, gt=0)
    largest_clipping_norm: float | None = Field(default=None, gt=0)
    metrics: Annotated[tuple[Metric, ...], BeforeValidator(_several)] = ()
    metrics_every: int = Field(default=0, ge=0)
    metrics_epsilon: float | None = Field(default=None, gt=0)
    metrics_largest_loss: float = Field(default=5.0, ge=1e-6, le=1e6)
    target: Target | None = None
    group_epsilons: dict[str, float] | None = None
    noise_multiplier: float | None = Field(default=None, ge=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    server_learning_rate: float = Field(default=1.0, gt=0)
    server_update: InstanceOf[ServerUpdate] = SGD()
    reply: Literal["sum", "rows"] = "sum"
    noise_at: Literal["server", "node"] = "server"

    @model_validator(mode="before")
    @classmethod
    def _with_update(cls, values: Any) -> Any:
        return with_update(values, cls.model_fields) if isinstance(values, Mapping) else values

    @model_serializer(mode="wrap")
    def _with_flat_update(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = whole(self)
        del found["server_update"]
        return {**found, **flat(self.server_update)}

    @model_validator(mode="after")
    def _parts_go_together(self) -> Billboard:
        self.plan  # noqa: B018 (which refuses what does not)
        return self

    @property
    def plan(self) -> PrivacyPlan:
        """What is released, made of this strategy's settings."""
        return PrivacyPlan(
            self.rounds,
            self._part(Participation, limits=self.noise == "banded"),
            self._part(Clipping),
            self._part(Mechanism),
            self._part(Metrics),
            self._updates_use_state,
        )

    @property
    def server_step(self) -> ServerUpdate:
        """What moves the billboard: ``server_update``, unless a strategy has a step of its own."""
        return self.server_update

    def _part(self, kind: type[Any], **more: Any) -> Any:
        """Return a part of the plan, whose values are settings of the same names."""
        return kind(**{one.name: getattr(self, one.name) for one in fields(kind) if one.name not in more}, **more)

    # --- clipping ----------------------------------------------------------------------------------------------

    def bounds(self, checkpoint: Checkpoint) -> Bounds:
        """Return what bounds the updates of the round after a checkpoint."""
        return self._clipping.bounds(_names(checkpoint.billboards), checkpoint.clipping_norm)

    @property
    def _clipping(self) -> Clipping:
        plan = self.plan if self._session is None else self._session.resolved.plan  # which is not made anew
        return plan.clipping or Clipping(self.clipping_norm)

    def declared(self, checkpoint: Checkpoint) -> Declaration:
        """Return what the requests of the round after a checkpoint declare."""
        return self.session.resolved.declaration(self.bounds(checkpoint))

    def check_arrays(self, names: Sequence[str]) -> None:
        """Refuse groups of arrays that do not fit a model's arrays."""
        self._clipping.bounds(names).members(names)

    def check_checkpoint(self) -> None:
        """Refuse a checkpoint from which this strategy cannot go on: a secret or a public value is missing."""
        session, checkpoint, banded = self.session, self.session.checkpoint, self.session.resolved.banded
        self.check_arrays(_names(checkpoint.billboards))
        if self._clipping.adaptive and checkpoint.clipping_norm is None:
            raise InputError(
                f"the clipping norm after round {checkpoint.round} is not in the checkpoint; restore the checkpoint or "
                "start a new run."
            )
        if (name := changed(first_state(self.server_step, checkpoint.billboards), checkpoint.state)) is not None:
            raise InputError(
                f"the state of the server's step after round {checkpoint.round} is not whole in the checkpoint "
                f"({name!r}); restore the checkpoint or start a new run."
            )
        if banded is None or checkpoint.round in (0, self.rounds):
            return
        session.participations()  # which refuses what does not belong to this population
        if banded.bands > 1 and session.resolved.noise_multiplier and set(checkpoint.noise) != set(session.groups):
            raise InputError(
                f"the noise of round {checkpoint.round} is not in the checkpoint, and later noise depends on it; it "
                "may not be drawn again: restore the checkpoint or start a new run."
            )

    def first_checkpoint(self, initial_arrays: ArrayRecord, num_tasks: int) -> Checkpoint:
        """Return the public start; the state of the server's step belongs to it, and the norm of adaptive clipping."""
        first = super().first_checkpoint(initial_arrays, num_tasks)
        norm = self.clipping_norm if self._clipping.adaptive else None
        return replace(first, clipping_norm=norm, state=first_state(self.server_step, first.billboards))

    def next_clipping_norm(self) -> float | None:
        """Return the norm of the next round from what this round released; None if it stays."""
        session = self.session
        if not self._clipping.adaptive:
            return None
        excess = sum(session.bits.values()) / sum(map(session.resolved.expected, session.groups))
        return self._clipping.next_norm(self.bounds(session.checkpoint).norm, excess)

    # --- published metrics -------------------------------------------------------------------------------------

    def measuring(self, checkpoint: Checkpoint) -> list[Message]:
        """Return the messages that ask all tasks for what they contribute to the metrics after a round."""
        kind, arrays = f"{MessageType.TRAIN}.metrics", record_from_billboards(checkpoint.billboards)
        declared = self.session.resolved.measuring
        return self.messages(kind, checkpoint.round, arrays, self.session.groups, declared=declared)

    def measure(self, number: int, grid: Grid) -> None:
        """Release the metrics that are due after a round, unless they were.

        Raises
        ------
        BudgetExceeded
            The population cannot pay for them; no task was asked.
        ComponentFailure
            A node that hosts several tasks failed, or there is no ledger.
        """
        session = self.session
        plan = session.resolved.plan
        if number not in plan.metrics.due(plan.rounds) or number in session.measured:
            return
        if session.journal is None:
            raise ComponentFailure("there is no ledger to charge metrics to; call bind(..., journal=...) first.")
        declared = session.resolved.measuring
        release = declared.measured()
        session.journal.check(Counter({release: 1}))
        stage = f"to measure after round {number}"
        replies = session.ask(grid, self.measuring(session.checkpoint), stage)
        sums = []
        for node, answer in session.answers(replies, session.groups, session.problems, number, stage):
            session.take_note(answer)
            part = answer.updates.get(METRICS, {}).get(METRICS)
            if part is None or part.shape != (len(self.metrics),) or part.dtype.kind != "f":
                session.problems["rejected"] += 1
                continue
            sums.append((part.astype(np.float64), session.registry.hosted(node)))
        found = noisy_means(
            sums,
            self.metrics,
            declared.largest_loss,
            session.registry.num_tasks,
            declared.noise_multiplier,
            session.entropy,
            number,
        )
        session.journal.publish_measured(found, release)
        session.measured[number] = found

    # --- rounds ---------------------------------------------------------------------------------------------------

    @property
    def reply_kind(self) -> Literal["sum", "rows"]:
        """What nodes answer a training request with."""
        return self.reply

    def before_round(self) -> None:
        """Refuse the round, before any client works, if the budget cannot pay it."""
        session, banded = self.session, self.session.resolved.banded
        if session.journal is None:
            return
        number = session.checkpoint.round + 1
        if not session.resolved.plan.at_node and session.journal.spent(number, session.groups):
            raise InputError(
                f"round {number} of this run is charged and was not published, and its noise is never drawn again; "
                "restore the checkpoint if it was lost, or mend the server's step if it failed, and start a new run."
            )
        if banded is not None and session.checkpoint.round:
            return  # a banded mechanism was paid for when it began
        bounds = self.bounds(session.checkpoint)
        if session.resolved.plan.at_node:  # what arrives here is out: it is charged before it is asked for, and once
            releases = {group: session.resolved.release(group, bounds) for group in session.groups}
            session.journal.reserve(number, releases)
            return
        session.journal.check(Counter({session.resolved.costliest(bounds): 1}))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Sum what came, add noise even if nothing came, charge, publish.

        Raises
        ------
        ComponentFailure
            A node that hosts several tasks failed: counting all of them as zero would let one task's data decide
            over the others' updates. Or the server's step makes what nodes, or the next round, could not use.
        """
        session = self.session
        participations, done = {}, session.participations()
        if session.resolved.banded is not None and done is not None:  # checked before anything is summed
            asked = np.concatenate([np.empty(0, dtype=np.int64), *session.sampled.values()])
            participations = done.after(asked, server_round, session.resolved.banded).to_arrays()
        session.refuse_not_drawn(server_round)
        if session.journal is None:
            raise ComponentFailure("there is no ledger to charge this release to; call bind(..., journal=...) first.")
        session.noise, session.bits = {}, {}
        bounds = self.bounds(session.checkpoint)
        totals = {group: bounds.like(arrays) for group, arrays in session.checkpoint.billboards.items()}
        problems: Counter[str] = Counter()  # found here
        reported: Counter[str] = Counter()  # said by the nodes
        came = session.answers(replies, session.sampled, problems, server_round, f"in round {server_round}")
        drawn = session.by_node(session.sampled)
        for node, answer in came:
            reported.update(session.take_note(answer))
            for group, total in totals.items():
                for name, value in self._contribution(answer, group, drawn[node].get(group), total, problems).items():
                    total[name] += value
        session.problems.update(problems)
        released = {group: self._released(server_round, group, total) for group, total in totals.items()}
        norm = self.next_clipping_norm()
        before = session.checkpoint
        releases = {group: session.resolved.release(group, bounds) for group in released}
        spent = not session.resolved.plan.at_node
        try:
            published, state = next_step(self.server_step, released, before.billboards, before.state, spent=spent)
        except KeyboardInterrupt:  # which is not the step's
            raise
        except BaseException:  # it saw the noisy sum, and may have said it: the round is over (see before_round)
            session.journal.charge(replace(before, round=server_round), releases)
            raise
        checkpoint = Checkpoint(server_round, published, session.sampled, participations, session.noise, norm, state)
        session.journal.publish(checkpoint, releases)
        session.checkpoint = checkpoint
        diagnostics = {f"diagnostic.{name}": count for name, count in (problems + reported).items()}
        return record_from_billboards(published), MetricRecord(dict(diagnostics))

    def _released(self, number: int, group: str, total: Arrays) -> NoisySum:
        """Add the noise to a group's clipped sum; what later rounds need of it is kept."""
        session, bounds = self.session, self.bounds(self.session.checkpoint)
        past = session.checkpoint.noise.get(group)
        noisy, kept = session.resolved.noisy(total, bounds, number, group, session.entropy, past)
        if kept is not None:
            session.noise[group] = kept
        if BIT in noisy:
            session.bits[group] = float(noisy.pop(BIT)[0])
        before, expected = session.checkpoint.billboards[group], session.resolved.expected(group)
        return NoisySum(number, self.rounds, frozen(before), frozen(noisy), expected, self.server_learning_rate)

    def _contribution(
        self, answer: Reply, group: str, expected: NDArray[np.int64] | None, like: Arrays, problems: Counter[str]
    ) -> Arrays:
        """Return a node's clipped sum; what is missing, misshapen, not finite or not ``expected`` counts as zero."""
        session = self.session
        arrays = answer.updates.get(group)
        if expected is None:
            return {}
        if arrays is None or set(arrays) != set(like):
            problems["rejected"] += 1
            return {}
        if self.reply == "rows":
            ids = answer.tasks.get(group, np.empty(0, dtype=np.int64))
            rows, tasks, wanted = arrays, self._allowance(1, like), len(expected)
            if not np.array_equal(ids, expected):
                problems["rejected"] += 1
                return {}
        else:
            # The node clipped each task. Clipping the sum to its largest possible norm changes nothing for an
            # honest node and bounds what a broken one can do.
            rows = {name: value[None] for name, value in arrays.items()}
            tasks, wanted = self._allowance(len(expected), like), 1
        if any(
            value.shape != (wanted, *like[name].shape) or value.dtype.kind not in "fiub" for name, value in rows.items()
        ):
            problems["rejected"] += 1
            return {}
        # What is not finite counts as zero below; an honest node sends no such thing, so it is said.
        broken = [~np.isfinite(value).reshape(len(value), -1).all(axis=1) for value in rows.values()]
        if lost := int(np.logical_or.reduce(broken).sum()):
            problems["rejected"] += lost
        return self.bounds(session.checkpoint).sum({name: rows[name] for name in like}, tasks)

    def _allowance(self, rows: int, like: Arrays) -> float:
        """Return how many clipping norms an honest sum of rows has at most; nodes' noise exceeds it once in 1e13."""
        if self.noise_at == "server":
            return rows
        size = sum(value.size for value in like.values())
        return rows + self.session.resolved.noise_multiplier * math.sqrt(rows) * (math.sqrt(size) + 8.0)


def _names(billboards: Billboards) -> list[str]:
    """Return the names of the arrays, which are the same in all groups."""
    return list(next(iter(billboards.values())))
