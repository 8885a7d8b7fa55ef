"""The billboard aggregator: clip, sum, add noise, charge the ledger, publish."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.names import unknown
from fedpriv.privacy.bounds import BIT
from fedpriv.privacy.calibration import calibrate_noise_multiplier
from fedpriv.privacy.correlated import correlated_sum
from fedpriv.privacy.journal import Boundary
from fedpriv.privacy.mechanisms import Release, gaussian_sum
from fedpriv.privacy.sampling import FullParticipation, Sampling
from fedpriv.privacy.stream import Stream
from fedpriv.privacy.target import Target, default_delta
from fedpriv.privacy.terms import Relation
from fedpriv.protocol import Arrays, Billboards, Reply, record_from_billboards
from fedpriv.strategies.measured import MeasuredStrategy

__all__ = ["Billboard"]


class Billboard(MeasuredStrategy):
    """Publish a model under differential privacy; personal models then carry joint DP by the billboard lemma.

    Each round: tasks are sampled in secret; each one's whole update is clipped to ``clipping_norm`` in l2; the
    clipped updates are summed; Gaussian noise of standard deviation ``noise_multiplier * clipping_norm`` is added to
    the sum; the release is charged; the billboard moves by ``server_learning_rate`` times the noisy sum divided by
    the *expected* number of participants, a public constant (PMTL, Algorithm 1, line 8, with the fixes that the
    analysis needs: uniform weights, public denominator, Poisson coins).

    Attributes
    ----------
    target : Target or None
        The privacy that all rounds together may cost; the noise multiplier is calibrated to it. With cohorts of fixed
        size it holds under replace-one for what the public sees; personal models may have a larger epsilon then, which
        a run prints, too.
    group_epsilons : dict or None
        With public groups: the epsilon of each, by its label as text, in place of one for all. Each group gets noise of
        its own, and the target states the largest epsilon. In a configuration `strategy.epsilon` is a table.
    noise_multiplier : float or None
        The noise itself, in clipping norms; give either this or ``target``. 0 gives no guarantee.
    delta : float or None
        Where epsilon is reported when the noise is given; 1/(100 m) unless given. A target brings its own.
    server_learning_rate : float
        Step of the billboard along the noisy mean.
    reply : {"sum", "rows"}
        Whether nodes send their clipped sum or one row per task; the published result is the same.
    noise_at : {"server", "node"}
        Who adds the noise. With "node" every task's clipped update gets Gaussian noise of standard deviation
        ``noise_multiplier * clipping_norm`` before it leaves its node: local privacy of the whole task against the
        server, and so against everybody who sees less. The server adds none. Every round counts as a participation.

    How updates are clipped (``clipping_norm``, ``clipping_norms``, ``clipping``) is said in
    :class:`fedpriv.strategies.clipped.ClippedStrategy`, and what else is published (``metrics``) in
    :class:`fedpriv.strategies.measured.MeasuredStrategy`. With limits of participation (``noise``, ``min_separation``,
    ``max_participations``, ``schedule``: see :class:`fedpriv.strategies.limited.LimitedStrategy`) tasks take part
    without coins, and all rounds are one release.
    """

    publishes: ClassVar[bool] = True

    target: Target | None = None
    group_epsilons: dict[str, float] | None = None
    noise_multiplier: float | None = Field(default=None, ge=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    server_learning_rate: float = Field(default=1.0, gt=0)
    reply: Literal["sum", "rows"] = "sum"
    noise_at: Literal["server", "node"] = "server"

    @model_validator(mode="after")
    def _nodes_know_no_limits(self) -> Billboard:
        if self.noise_at == "node" and self.limited:
            raise ValueError(
                "noise on the nodes is drawn and accounted for one participation at a time, so limits and banded noise "
                "would change nothing; leave out 'noise', 'min_separation' and 'max_participations', or set "
                "noise_at = 'server'."
            )
        if self.noise_at == "node" and (self.clipping_norms is not None or self.clipping != "flat"):
            raise ValueError(
                "noise on the nodes goes with one clipping norm for the whole update; give 'clipping_norm' alone, or "
                "set noise_at = 'server'."
            )
        if self.noise_at == "node" and self.metrics:
            raise ValueError(
                "published metrics get the server's noise, which hides nothing from the server, and noise on the nodes "
                "is there to hide from it; leave out 'metrics', or set noise_at = 'server'."
            )
        if self.noise_at == "node" and self.group_epsilons is not None:
            raise ValueError(
                "noise on the nodes is the same in all groups; give one epsilon, or set noise_at = 'server'."
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_noise(self) -> Billboard:
        if (self.target is None) == (self.noise_multiplier is None):
            raise ValueError("give either a target (epsilon, delta) or a noise_multiplier; exactly one of them.")
        if self.target is not None and self.delta is not None:
            raise ValueError("the target brings its own delta; leave out 'delta' beside it.")
        if self.metrics and self.metrics_epsilon is None and self.noise_multiplier != 0:
            raise ValueError(
                "published metrics cost privacy: give 'metrics_epsilon', such as a tenth of the target, or leave out "
                "'metrics' (scores then stay diagnostics)."
            )
        if self.target is not None and self.metrics_epsilon is not None and self.metrics_epsilon >= self.target.epsilon:
            raise ValueError(
                f"'metrics_epsilon' must be below the target's epsilon {self.target.epsilon:g}, which covers it, got "
                f"{self.metrics_epsilon:g}."
            )
        asked = self.target is not None and "relation" in self.target.model_fields_set
        if asked and self.target is not None and self.target.relation is not self.relation:
            if self.noise_at == "node":
                raise ValueError(
                    "noise on the nodes has no guarantee under add/remove, because a row that is missing is seen to be "
                    "missing; set relation = 'replace-one'."
                )
            raise ValueError(
                "cohorts of fixed size have no guarantee under add/remove, because another task takes the place of one "
                "that is removed; set relation = 'replace-one', or sampling = 'poisson'."
            )
        return self

    @model_validator(mode="after")
    def _groups_have_a_target(self) -> Billboard:
        if self.group_epsilons is None:
            return self
        if not self.group_epsilons or not all(0 < one < math.inf for one in self.group_epsilons.values()):
            raise ValueError(f"'group_epsilons' must be positive numbers, one per group, got {self.group_epsilons!r}.")
        smallest, largest = min(self.group_epsilons.values()), max(self.group_epsilons.values())
        if self.metrics_epsilon is not None and self.metrics_epsilon >= smallest:
            raise ValueError(
                f"'metrics_epsilon' must be below the smallest of the groups' epsilons, {smallest:g}, which covers it, "
                f"got {self.metrics_epsilon:g}."
            )
        if self.target is None or self.target.epsilon != largest:
            raise ValueError(
                f"the target must state the largest of the groups' epsilons, {largest:g}, with the delta and the "
                "relation of all; give target=Target(epsilon=...)."
            )
        return self

    def check(self, num_tasks: int) -> None:
        """Refuse, before anything is written, what does not fit a population of this size."""
        super().check(num_tasks)
        if self.group_epsilons is None:
            return
        if self.groups is None:
            raise InputError("an epsilon per group needs public groups of tasks; give 'groups', or one epsilon.")
        there = {group.removeprefix("group-") for group in self._members(num_tasks)}
        for label in sorted(set(self.group_epsilons) - there):
            raise InputError("strategy.epsilon: " + unknown("group", label, there))
        for label in sorted(there - set(self.group_epsilons)):
            raise InputError(f"strategy.epsilon must name every group, and {label!r} is missing; give its epsilon.")

    def noise_of(self, group: str) -> float:
        """Return the noise multiplier of a group: that of its own epsilon, or the one of all."""
        session = self.session
        if self.group_epsilons is None or self.target is None:
            return session.noise_multiplier
        if group not in session.group_noise:
            own = self.target.model_copy(update={"epsilon": self.group_epsilons[group.removeprefix("group-")]})
            session.group_noise[group] = self._calibrated(own, session.registry.num_tasks)
        return session.group_noise[group]

    def report_delta(self, num_tasks: int) -> float:
        """Return the delta of the guarantee for a population of this size."""
        if self.target is not None:
            return self.target.delta_for(num_tasks)
        return default_delta(num_tasks) if self.delta is None else self.delta

    def resolve_noise(self, num_tasks: int) -> float:
        """Return the given noise multiplier, or the smallest one that meets the target."""
        if self.target is None:
            return float(self.noise_multiplier or 0.0)
        return self._calibrated(self.target, num_tasks)

    def _calibrated(self, target: Target, num_tasks: int) -> float:
        target = target.model_copy(update={"relation": self.relation})
        beside = self.metric_releases(num_tasks)
        return calibrate_noise_multiplier(target, *self.priced(num_tasks, self.rounds), num_tasks, beside)

    @property
    def reply_kind(self) -> Literal["sum", "rows"]:
        """What nodes answer a training request with."""
        return self.reply

    @property
    def declared_noise_at(self) -> Literal["server", "node"]:
        """Who adds the noise, as requests declare it to the nodes."""
        return self.noise_at

    def priced(self, num_tasks: int, rounds: int) -> tuple[Sampling, int]:
        """Return a sampling and how many releases with it cost as much as a number of rounds, for the same noise."""
        if self.noise_at == "node":  # sampling hides nothing from the server
            return FullParticipation(), rounds
        return super().priced(num_tasks, rounds)

    def _independent(self, sampling: Sampling, noise_multiplier: float, clipping_norm: float) -> Release:
        return _release(sampling, noise_multiplier, clipping_norm, "node" if self.noise_at == "node" else None)

    def release(self, group: str) -> Release:
        """Return the release that one round makes for one group."""
        stream = self.session.stream
        if stream is not None:
            return self._of_stream(self.noise_of(group), stream)
        sampling = self.sampling_of(len(self.session.groups[group]))
        return self._independent(sampling, self.noise_of(group), self.bounds(self.session.boundary).norm)

    def planned(self, num_tasks: int, rounds: int) -> Counter[Release]:
        """Return what a number of rounds up to the last one will be charged on a population of this size.

        A stream is charged whole when it begins: nothing is left to pay for the rounds after its first.
        """
        stream, noise_multiplier = self.stream(num_tasks), self.resolve_noise(num_tasks)
        metrics = self.metric_releases(num_tasks, rounds)
        if stream is not None:
            return metrics + Counter({self._of_stream(noise_multiplier, stream): 1} if rounds >= self.rounds else {})
        sampling = self.costliest_sampling(num_tasks)
        return metrics + Counter({self._independent(sampling, noise_multiplier, self._start): rounds})

    @property
    def relation(self) -> Relation:
        """The neighbouring relation of the target; replace-one for cohorts of fixed size, which have no other."""
        if self.fixed_cohorts or self.noise_at == "node":
            return Relation.REPLACE_ONE
        return Relation.ADD_REMOVE if self.target is None else self.target.relation

    def _of_stream(self, noise_multiplier: float, stream: Stream) -> Release:
        return Release(
            mechanism="banded",
            noise_multiplier=noise_multiplier,
            sampling_name="limited",
            rate=1.0,
            clipping_norm=self._start,
            stream=stream,
        )

    def before_round(self) -> None:
        """Refuse the round, before any client works, if the budget cannot pay it."""
        session, stream = self.session, self.session.stream
        if session.journal is None or (stream is not None and session.boundary.round):
            return  # a stream was paid for when it began
        if self.noise_at == "node":  # what arrives here is out: it is charged before it is asked for, and once
            releases = {group: self.release(group) for group in session.groups}
            session.journal.reserve(session.boundary.round + 1, releases)
            return
        if stream is not None:
            release = self._of_stream(session.noise_multiplier, stream)
        else:
            # A group that is drawn more often than others is charged more; if it can be paid, all can.
            costliest = self.costliest_sampling(session.registry.num_tasks)
            release = self._independent(costliest, session.noise_multiplier, self.bounds(session.boundary).norm)
        session.journal.check(Counter({release: 1}))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Sum what came, add noise even if nothing came, charge, publish.

        Raises
        ------
        ComponentFailure
            A node that hosts several tasks failed: counting all of them as zero would let one task's data decide
            over the others' updates.
        """
        session = self.session
        stream, participations = session.stream, {}
        if stream is not None:  # checked before anything is summed
            asked = np.concatenate([np.empty(0, dtype=np.int64), *session.sampled.values()])
            participations = self.participations().after(asked, server_round, stream).to_arrays()
        session.noise, session.bits = {}, {}
        bounds = self.bounds(session.boundary)
        totals = {group: bounds.like(arrays) for group, arrays in session.boundary.billboards.items()}
        problems: Counter[str] = Counter()  # found here
        reported: Counter[str] = Counter()  # said by the nodes
        came = session.answers(replies, session.sampled, problems, server_round, f"in round {server_round}")
        for node, answer in came:
            reported.update(session.take_note(answer))
            for group, total in totals.items():
                for name, value in self._contribution(answer, group, node, total, problems).items():
                    total[name] += value
        session.problems.update(problems)
        published = {group: self._publish(server_round, group, total) for group, total in totals.items()}
        self._check_published(published)
        norm = self.next_clipping_norm()
        boundary = Boundary(server_round, published, session.sampled, participations, session.noise, norm)
        if session.journal is None:
            raise ComponentFailure("there is no ledger to charge this release to; call bind(..., journal=...) first.")
        session.journal.publish(boundary, {group: self.release(group) for group in published})
        session.boundary = boundary
        diagnostics = {f"diagnostic.{name}": count for name, count in (problems + reported).items()}
        return record_from_billboards(published), MetricRecord(dict(diagnostics))

    def _check_published(self, published: Billboards) -> None:
        """Refuse, before anything is charged, a billboard that nodes could not read."""

        def shapes(billboards: Billboards) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
            return {
                f"{group}/{name}": (value.shape, value.dtype)
                for group, arrays in billboards.items()
                for name, value in arrays.items()
            }

        wanted, found = shapes(self.session.boundary.billboards), shapes(published)
        if wanted == found:
            return
        name = min(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        before, now = (
            None if name not in those else (those[name][0], str(those[name][1])) for those in (wanted, found)
        )
        raise ComponentFailure(
            f"{type(self).__name__} must publish {name!r} as {before}, as in the round before, got {now}; nothing was "
            "charged."
        )

    def _publish(self, number: int, group: str, total: Arrays) -> Arrays:
        session = self.session
        noisy = self._noisy(total, number, group)
        if BIT in noisy:
            session.bits[group] = float(noisy.pop(BIT)[0])
        step = self.server_learning_rate / self.expected(len(session.groups[group]))
        before = session.boundary.billboards[group]
        return {name: (before[name] + step * value).astype(before[name].dtype) for name, value in noisy.items()}

    def _noisy(self, total: Arrays, number: int, group: str) -> Arrays:
        """Add the noise of a round; what the next round's noise needs of it goes into the boundary."""
        session, stream = self.session, self.session.stream
        if self.noise_at == "node":
            return {name: np.array(value, dtype=np.float64) for name, value in total.items()}
        sizes = {name: value.size for name, value in total.items()}
        norm, scales = self.bounds(session.boundary).scales(sizes, self.bit_share())
        scaled = [total[name] / scales[name] for name in total] if scales else list(total.values())
        mechanism = (norm, self.noise_of(group))
        if stream is None or stream.bands == 1 or session.noise_multiplier == 0:
            noisy = gaussian_sum(scaled, *mechanism, session.entropy, number, group)
        else:
            past = session.boundary.noise.get(group)
            noisy, session.noise[group] = correlated_sum(
                scaled, *mechanism, stream, past, session.entropy, number, group
            )
        found = dict(zip(total, noisy, strict=True))
        return {name: value * scales[name] for name, value in found.items()} if scales else found

    def _contribution(self, answer: Reply, group: str, node: int, like: Arrays, problems: Counter[str]) -> Arrays:
        """Return a node's clipped sum; whatever is missing, misshapen or not finite counts as zero."""
        session = self.session
        expected = dict(session.registry.split(session.sampled[group])).get(node)
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
        if any(value.shape != (wanted, *like[name].shape) or not _numeric(value) for name, value in rows.items()):
            problems["rejected"] += 1
            return {}
        return self.bounds(session.boundary).sum({name: rows[name] for name in like}, tasks)

    def _allowance(self, rows: int, like: Arrays) -> float:
        """Return how many clipping norms an honest sum of rows has at most; nodes' noise exceeds it once in 1e13."""
        if self.noise_at == "server":
            return rows
        size = sum(value.size for value in like.values())
        return rows + self.session.noise_multiplier * math.sqrt(rows) * (math.sqrt(size) + 8.0)


@lru_cache(maxsize=64)
def _release(sampling: Sampling, noise_multiplier: float, clipping_norm: float, at: Literal["node"] | None) -> Release:
    """Return the release of a round; it is asked for more than once in each, and hardly ever differs."""
    return Release.of(sampling, noise_multiplier, clipping_norm, at)


def _numeric(value: NDArray[Any]) -> bool:
    return bool(value.dtype.kind in "fiub")
