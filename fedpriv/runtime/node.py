"""A node: the tasks it hosts, their personal states, and what it answers to the server's messages.

One class serves a phone with one task and a simulation shard with thousands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.cohort import (
    ClientAlgorithm,
    Cohort,
    Key,
    Learner,
    LocalSGD,
    Metric,
    Params,
    Problem,
    Purpose,
    Scores,
    Sharing,
    State,
    Tasks,
    broadcast,
    engine_named,
    nest,
    padded_width,
    probe,
    select,
    unnest,
    usable,
)
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.names import unknown
from fedpriv.privacy.bounds import Bounds
from fedpriv.privacy.entropy import ReproducibleEntropy
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.metrics import contributions
from fedpriv.privacy.policy import NodePolicy, decide
from fedpriv.privacy.rounding import to_grid
from fedpriv.privacy.terms import NoiseAt
from fedpriv.protocol import METRICS, Arrays, Reply, Request, RunName, TaskRange
from fedpriv.runtime.answering import Memory
from fedpriv.runtime.guard import Guard, Outcome, Stage
from fedpriv.runtime.limit import TimeLimit
from fedpriv.runtime.local_noise import GroupRequest, LocalNoise
from fedpriv.runtime.store import StateStore

__all__ = ["Node", "NodeSpec"]

Ids = NDArray[np.int64]
_SCORES = ("personal.loss", "personal.accuracy", "billboard.loss", "billboard.accuracy")
_UNUSABLE = (
    "a task holds values that cannot be computed with: a NaN, a number too large for run.dtype, or a label outside of "
    "0 to num_classes - 1; these data are protected, so none is named."
)
_CHUNK_BYTES = 8 * 2**20
"""Weights of the tasks that are worked on at once: a few megabytes stay inside the cache."""


@dataclass(frozen=True)
class NodeSpec:
    """All that is needed to build a node, in any process.

    Attributes
    ----------
    tasks : Tasks
        The tasks it hosts.
    algorithm : ClientAlgorithm
        What they do.
    problem : Problem
        Model and loss.
    seed : int
        Public seed of the mini-batches.
    engine : str
        Name of the engine over the task axis.
    policy : NodePolicy or None
        What the node allows; None allows everything, for simulations.
    baseline : LocalSGD or None
        The local-only reference that is scored beside the run; None leaves it out.
    memory_bytes : float
        Personal states beyond this live in a file.
    noise_seed : int or None
        What the tasks' local noise comes from: a secret of 256 bits that the simulation keeps, or the number of a
        reproduction. None, as on a real node: the node makes a secret of its own.
    task_seconds : float
        How long a task may compute in one stage, where time can depend on data: with the loop engine, and with an
        algorithm that is not of fedpriv.
    metrics : tuple of Metric
        What tasks are scored by beside loss and accuracy: diagnostics.
    """

    tasks: Tasks
    algorithm: ClientAlgorithm
    problem: Problem
    seed: int = 0
    engine: str = "auto"
    policy: NodePolicy | None = None
    baseline: LocalSGD | None = None
    memory_bytes: float = 4 * 2**30
    noise_seed: int | None = field(default=None, repr=False)
    task_seconds: float = 600.0
    metrics: tuple[Metric, ...] = ()


@dataclass
class _Totals:
    """Updates of one group as they come in, chunk by chunk."""

    kind: Literal["sum", "rows"]
    bounds: Bounds
    arrays: Arrays = field(default_factory=dict)
    rows: list[Arrays] = field(default_factory=list)
    ids: list[Ids] = field(default_factory=list)
    std: float | None = None
    """Standard deviation of the noise that every task adds to its own row; None if the server adds the noise."""

    def clipped(self, update: Arrays, noise: LocalNoise) -> Arrays:
        """Clip a cohort's updates and return their sum or their rows; nothing that was not clipped leaves the node."""
        if self.kind == "sum" and self.std is None:
            return self.bounds.sum(update)
        rows = self.bounds.rows(update)
        if self.std is not None:
            _add_noise(list(rows.values()), self.std, noise)
        return rows if self.kind == "rows" else {name: row.sum(axis=0) for name, row in rows.items()}

    def add(self, ids: Ids, found: Arrays) -> None:
        """Add what :meth:`clipped` returned for a cohort."""
        if self.kind == "rows":
            self.rows.append(found)
            self.ids.append(ids)
        else:
            self.arrays = {name: self.arrays[name] + value if self.arrays else value for name, value in found.items()}

    def result(self, asked: Ids) -> Arrays:
        """Return the sum, or the rows in the order in which the tasks were asked."""
        if self.kind == "rows" and self.rows:
            came = np.argsort(np.concatenate(self.ids))[np.argsort(np.argsort(asked))]
            return {name: np.concatenate([row[name] for row in self.rows])[came] for name in self.rows[0]}
        return self.arrays


class Node:
    """Answers the server's messages for the tasks it hosts."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        # Benchmarks were checked before; what protected values are is nobody's business but the node's.
        self._usable = usable(spec.tasks, spec.problem.dtype) if spec.tasks.declared == "protected" else None
        self.tasks = self._usable.tasks if self._usable else spec.tasks
        self.store = StateStore(len(spec.tasks), spec.memory_bytes)
        self._cells = np.zeros(2, dtype=np.int64)  # of padded mini-batches: with an example, in all
        self._engine = engine_named(spec.engine)
        self.sharing = Sharing.of(spec.algorithm, spec.problem)
        self._constants = spec.problem.digests()
        # What fedpriv's own algorithms do with tensors of all tasks takes as long whatever the data are.
        own = not type(spec.algorithm).__module__.startswith("fedpriv.")
        free = own or self._engine.may_loop(spec.problem, 2 + len(self.tasks.input_shape))
        self._guard = Guard(self._engine, spec.problem, TimeLimit(spec.task_seconds) if free else None)
        self.memory = Memory()
        self.run: RunName | None = None
        """For which run the personal states are; None until the first request, so that restored ones are taken."""
        secret = int.from_bytes(os.urandom(32), "big") if spec.noise_seed is None else spec.noise_seed
        self._noise = ReproducibleEntropy(secret)

    def warm_up(self) -> None:
        """Get late imports over with, so that they count as start-up and not as training."""
        probe(self.spec.algorithm, self.spec.problem, self._engine, self.spec.tasks)

    # --- messages ----------------------------------------------------------------------------------------------

    def describe(self, content: RecordDict) -> RecordDict:
        """Answer which tasks are hosted here, to a server that speaks this version of the protocol."""
        RunName.from_content(content)
        tasks, policy = self.tasks, self.spec.policy
        uses_state = self.spec.algorithm.uses_state or (policy is not None and policy.counts)
        return TaskRange(
            tasks.first, len(tasks), tasks.fingerprint, uses_state, tasks.declared == "protected"
        ).to_content()

    def train(self, content: RecordDict) -> RecordDict:
        """Train the asked tasks on their group's billboard; answer with the clipped sum or with clipped rows."""
        request, algorithm = self._request(content), self.spec.algorithm
        work = self.memory.work("train", request)
        if work.answer is not None:
            return work.answer
        key = Key(self.spec.seed, request.round, Purpose.TRAIN)
        bounds, asked = request.declared.bounds, request.declared.counted()
        for group, ids in request.tasks.items():
            billboard = _to_tensors(request.billboards[group])
            question = GroupRequest(request, group)
            std = request.declared.noise_multiplier * bounds.norm if request.declared.noise_at == "node" else None
            totals: _Totals = work.parts.setdefault(group, _Totals(request.reply, bounds, std=std))

            def stage(learner: Learner, part: Cohort, state: State, public: Params = billboard) -> State:
                new, update = algorithm.train(learner, public, state, part, key)
                return {**nest("state", new), **nest("update", update)}

            for number, cohort in enumerate(self._chunks(ids, billboard)):
                if (group, number) in work.done:
                    continue
                allowed, reason = self._allowed(cohort, request, asked)
                own = self._local_noise(question, cohort, allowed)
                outcome = self._run(
                    "train", stage, cohort, billboard, own, billboard if algorithm.sends_update else None
                )
                counted = outcome.counted & allowed
                update = _counted_update(unnest("update", outcome.tree), billboard, counted)
                found = totals.clipped(bounds.marked(update, counted), own)
                self._keep(cohort, unnest("state", outcome.tree), counted)
                # Nothing fails from here on: a cohort is through as a whole, or it is done again.
                totals.add(cohort.ids, found)
                self._grant(cohort, request, asked, allowed)
                self._count(cohort, outcome)
                self.store.participations[cohort.positions[allowed]] += 1
                work.problems.update(
                    failed=outcome.failed, not_finite=outcome.not_finite, refused=int((~allowed).sum())
                )
                work.note = work.note or reason or (outcome.note if self._open else "")
                work.done.add((group, number))
        problems = {name: work.problems[name] for name in ("failed", "not_finite", "refused")}
        if not self._open:  # a refusal depends on what was asked; the other counts depend on data
            problems = {"refused": problems["refused"]}
        updates: dict[str, Arrays] = {}
        if algorithm.sends_update:
            updates = {group: work.parts[group].result(ids) for group, ids in request.tasks.items()}
        rows = request.tasks if updates and request.reply == "rows" else {}
        work.answer = Reply(updates, rows, dict(problems), work.note).to_content()
        work.parts = {}
        return work.answer

    def finish(self, content: RecordDict) -> RecordDict:
        """Do what remains after the last round; answer with the gradient work so far."""
        self._check_constants()
        request, algorithm = self._request(content), self.spec.algorithm
        done = self.memory.work("finish", request)
        if done.answer is not None:
            return done.answer
        key = Key(self.spec.seed, 0, Purpose.FINISH)
        for group, ids in request.tasks.items():
            billboard = _to_tensors(request.billboards[group])

            def stage(learner: Learner, part: Cohort, state: State, public: Params = billboard) -> State:
                return nest("state", algorithm.finish(learner, public, state, part, key))

            question = GroupRequest(request, group)
            for number, cohort in enumerate(self._chunks(ids, billboard)):
                if (group, number) in done.done:
                    continue
                own = self._local_noise(question, cohort)
                outcome = self._run("finish", stage, cohort, billboard, own)
                self._keep(cohort, unnest("state", outcome.tree), outcome.counted)
                self._count(cohort, outcome)
                done.note = done.note or outcome.note
                done.problems["final_fit_failed"] += int((~outcome.counted).sum())
                done.done.add((group, number))
        if not self._open:
            done.answer = Reply().to_content()
            return done.answer
        work, sizes = self.store.work, self.tasks.train.sizes
        counts = {"epochs": int(np.ceil(work / sizes).max()), "work": int(work.sum()), "examples": int(sizes.sum())}
        counts["final_fit_failed"] = done.problems["final_fit_failed"]
        counts["cells_with_example"], counts["cells"] = self._cells.tolist()
        done.answer = Reply(diagnostics=counts, note=done.note).to_content()
        return done.answer

    def evaluate(self, content: RecordDict) -> RecordDict:
        """Score personal models and the billboard on each task's test part: diagnostics, not released."""

        def score(learner: Learner, public: Params, cohort: Cohort, state: State) -> dict[str, Tensor]:
            return self._score(replace(learner, metrics=self.spec.metrics), public, cohort, state)

        return self._scores("evaluate", self._request(content), self._state, score)

    def measure(self, content: RecordDict) -> RecordDict:
        """Answer with the sum of what the tasks contribute to published metrics: bounded values, no scores of a task.

        A release covers this, so a policy counts it as one and does not need to allow diagnostics.
        """
        request = self._request(content)
        names, largest_loss = request.declared.metrics, request.declared.largest_loss
        known = _SCORES if self.spec.algorithm.billboard_predicts else _SCORES[:2]
        for name in names:
            if name not in known:
                raise InputError("a request asks for an " + unknown("measure", name, known))
        if not names:
            raise InputError("a request for metrics names none; name some, such as 'personal.accuracy'.")
        work = self.memory.work("metrics", request)
        if work.answer is not None:
            return work.answer
        # What a task contributes is bounded here, whatever the request says: that is what its noise is compared with.
        asked = request.declared.measured()
        total: NDArray[np.float64] = work.parts.setdefault(METRICS, np.zeros(len(names)))
        for group, ids in request.tasks.items():
            billboard = _to_tensors(request.billboards[group])

            def stage(learner: Learner, part: Cohort, state: State, public: Params = billboard) -> State:
                scores = self._score(learner, public, part, state)
                return {name: scores[name] for name in names}

            question = GroupRequest(request, group)
            for number, cohort in enumerate(self._chunks(ids, billboard)):
                if (group, number) in work.done:
                    continue
                allowed, reason = self._allowed(cohort, request, asked)
                own = self._local_noise(question, cohort)
                outcome = self._run("measure", stage, cohort, billboard, own)
                if outcome.tree:
                    scores = {name: value.double().numpy() for name, value in outcome.tree.items()}
                    values = contributions(scores, names, largest_loss)
                    total += values[allowed & outcome.counted].sum(axis=0)
                self._grant(cohort, request, asked, allowed)
                self._count(cohort, outcome)
                work.problems.update(failed=outcome.failed, refused=int((~allowed).sum()))
                work.note = work.note or reason or (outcome.note if self._open else "")
                work.done.add((group, number))
        problems = {name: work.problems[name] for name in (("failed", "refused") if self._open else ("refused",))}
        work.answer = Reply({METRICS: {METRICS: total}}, diagnostics=dict(problems), note=work.note).to_content()
        return work.answer

    def local_only(self, content: RecordDict) -> RecordDict:
        """Train and score the local-only baseline, with the busiest task's epochs for every task."""
        request = self._request(content)
        if self.spec.baseline is None:
            return Reply(diagnostics={"ids": []}).to_content()
        alone = self.spec.baseline.model_copy(update={"epochs": max(request.epochs, 1), "steps": None})
        key = Key(self.spec.seed, 0, Purpose.LOCAL_ONLY)

        def score(learner: Learner, public: Params, cohort: Cohort, state: State) -> State:
            if request.epochs:
                state, _ = alone.train(learner, public, state, cohort, key)
            scoring = replace(learner, metrics=self.spec.metrics)
            return _named("local_only", alone.evaluate(scoring, public, state, cohort))

        def begin(public: Params, cohort: Cohort) -> State:
            return alone.initial_state(public | self.sharing.kept, cohort)

        return self._scores("local-only", request, begin, score)

    # --- what the tasks' owner may take out ----------------------------------------------------------------------

    def models(self, ids: Ids, billboard: Arrays) -> Iterator[tuple[Ids, Params, NDArray[np.bool_]]]:
        """Yield the models that tasks use for themselves, some tasks at a time: no message asks for them.

        Parameters
        ----------
        ids : ndarray of int64
            Tasks of this node.
        billboard : dict
            The last one of their group.

        Yields
        ------
        ids : ndarray of int64, shape [C]
            Of these tasks.
        models : Params, each [C, ...]
            As they are scored.
        own : ndarray of bool, shape [C]
            False for a task that has no model, because its values cannot be computed with: the billboard stands there.
        """
        public = _to_tensors(billboard)

        def stage(learner: Learner, part: Cohort, state: State) -> State:
            return self.spec.algorithm.models(learner, public, state, part)

        for cohort in self._chunks(ids, billboard):
            outcome = self._guard.run("models", stage, cohort, lambda part: self._state(public, part), self._noise)
            own = outcome.counted if self._usable is None else outcome.counted & self._usable.trains[cohort.positions]
            shared = broadcast(public | self.sharing.kept, len(cohort))
            yield cohort.ids, select(torch.from_numpy(own), outcome.tree, shared) if own.any() else shared, own

    def kept(self, ids: Ids, billboard: Arrays) -> State:
        """Return the personal states [C, ...] of tasks of this node, a fresh one for those that never had one."""
        return self._state(_to_tensors(billboard), Cohort(self.tasks, ids - self.tasks.first, self.spec.problem.dtype))

    # --- parts -------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> bool:
        """Whether diagnostics may leave this node."""
        return self.spec.policy is None or self.spec.policy.diagnostics

    def _check_constants(self) -> None:
        """Stop if a frozen parameter or a buffer has moved: what moved it came past clipping and noise."""
        now = self._guard.problem.digests()
        moved = next((name for name, digest in self._constants.items() if now.get(name) != digest), None)
        if moved is not None:
            raise ComponentFailure(
                f"{moved!r} of the model is frozen, and has moved in this run; its forward must not write there."
            )

    def _request(self, content: RecordDict) -> Request:
        """Read a request and refuse one that names a task twice, or a task of somebody else.

        States of another run are never continued: the first request of a run finds none. The node's own count of what
        it granted goes on.
        """
        request = Request.from_content(content)
        said = request.declared
        more = said.clipping_norms or said.banded is not None or said.target_quantile is not None
        if said.noise_at == "node" and more:
            # The row's noise is made, and judged by the policy, for one norm over the whole update and one round.
            raise InputError(
                "a request for rows with local noise declares groups, bits or banded noise; noise on the node "
                "goes with one clipping norm for the whole update."
            )
        tasks = self.tasks
        ids = np.concatenate([np.empty(0, dtype=np.int64), *request.tasks.values()])
        if len(np.unique(ids)) != len(ids):
            raise InputError("a request names a task twice; each may take part once in a round.")
        if len(ids) and not (tasks.first <= ids.min() and ids.max() < tasks.first + len(tasks)):
            raise InputError(
                f"a request names tasks {ids.min()} to {ids.max()}; this node hosts {tasks.first} to "
                f"{tasks.first + len(tasks) - 1}."
            )
        for billboard in request.billboards.values():
            if (why := self.sharing.misfit(billboard)) is not None:
                raise InputError(f"a request cannot be answered: {why}")
        if self.run not in (None, request.of):
            if request.attempt > 1:  # its rows were charged once, and others would come now
                raise InputError(
                    f"run {request.of.run!r} repeats a question, and this node has gone on with another run since, so "
                    "its first answer is lost; start that run anew, and do not start two runs on one node."
                )
            self.store.forget_states()
            self.memory.forget()
        self.run = request.of
        return request

    def _run(
        self,
        name: str,
        stage: Stage,
        cohort: Cohort,
        billboard: Params,
        noise: LocalNoise,
        update: Params | None = None,
    ) -> Outcome:
        outcome = self._guard.run(name, stage, cohort, lambda part: self._state(billboard, part), noise, update)
        return self._without_strange(name, cohort, outcome)

    def _count(self, cohort: Cohort, outcome: Outcome) -> None:
        """Count the gradient work of a stage."""
        self.store.work[cohort.positions] += outcome.work
        self._cells += (int(outcome.work.sum()), outcome.cells)

    def _without_strange(self, name: str, cohort: Cohort, outcome: Outcome) -> Outcome:
        """Count as zero what came of zeros that stand for values nobody can compute with."""
        if self._usable is None:
            return outcome
        fine = (self._usable.trains if name in ("train", "finish") else self._usable.scores)[cohort.positions]
        lost = outcome.counted & ~fine
        if not lost.any():
            return outcome
        note = outcome.note or _UNUSABLE
        return replace(
            outcome, counted=outcome.counted & fine, not_finite=outcome.not_finite + int(lost.sum()), note=note
        )

    def _score(self, learner: Learner, public: Params, cohort: Cohort, state: State) -> dict[str, Tensor]:
        """Score personal models, and the billboard where it is a model, on the tasks' test parts."""
        algorithm = self.spec.algorithm
        found = _named("personal", algorithm.evaluate(learner, public, state, cohort))
        if algorithm.billboard_predicts:
            shared = {name: value.expand(len(cohort), *value.shape) for name, value in public.items()}
            found |= _named("billboard", learner.evaluate(shared, cohort))
        return found

    def _local_noise(self, asked: GroupRequest, cohort: Cohort, allowed: NDArray[np.bool_] | None = None) -> LocalNoise:
        return LocalNoise(self._noise, asked, cohort, self.store.participations[cohort.positions], allowed)

    def _keep(self, cohort: Cohort, state: State, counted: NDArray[np.bool_]) -> None:
        """Keep new states of tasks that count; the others keep their old one."""
        if not counted.all():
            index = torch.from_numpy(np.flatnonzero(counted))
            state = {name: value[index] for name, value in state.items()}
        self.store.write(cohort.positions[counted], state)

    def _scores(
        self,
        name: str,
        request: Request,
        begin: Callable[[Params, Cohort], State],
        score: Callable[[Learner, Params, Cohort, State], dict[str, Tensor]],
    ) -> RecordDict:
        """Answer with every task's scores; NaN where its data gave none."""
        ids: list[int] = []
        results: dict[str, list[float]] = {}
        failed, note = 0, ""
        if not self._open:
            return Reply(diagnostics={"ids": ids}, note="this node keeps its scores to itself.").to_content()
        for group, wanted in request.tasks.items():
            billboard = _to_tensors(request.billboards[group])

            def stage(learner: Learner, part: Cohort, state: State, public: Params = billboard) -> State:
                return score(learner, public, part, state)

            def states(part: Cohort, public: Params = billboard) -> State:
                return begin(public, part)

            for cohort in self._chunks(wanted, billboard):
                outcome = self._guard.run(name, stage, cohort, states, self._noise)
                failed, note = failed + outcome.failed, note or (outcome.note if outcome.failed else "")
                if not outcome.tree:
                    continue  # the server knows these tasks without scores
                ids += cohort.ids.tolist()
                for measure, values in outcome.tree.items():
                    kept = values.double().numpy()
                    if self._usable is not None:
                        kept = np.where(self._usable.scores[cohort.positions], kept, np.nan)
                    results.setdefault(measure, []).extend(kept.tolist())
        counts = {"scoring_failed": failed} if failed else {}
        return Reply(diagnostics=cast(Any, {"ids": ids, **results, **counts}), note=note).to_content()

    def _state(self, billboard: Params, cohort: Cohort) -> State:
        fresh = self.sharing.first_state(self.spec.algorithm, billboard, cohort)
        return self.store.read(cohort.positions, fresh)

    def _chunks(self, ids: Ids, billboard: Params | Arrays) -> Iterator[Cohort]:
        """Cut tasks into cohorts of similar size, for little padding, whose weights fit the cache.

        All tasks of a cohort have the same padded widths, which follow from each task's own sizes: else the rounding of
        a task's update would depend on the data of the tasks beside it.
        """
        whole = (*billboard.values(), *self.sharing.kept.values())
        bytes_per_task = sum(value.nbytes for value in whole)
        size = max(1, _CHUNK_BYTES // max(bytes_per_task, 1))
        tasks = self.tasks
        positions = ids - tasks.first
        train = tasks.train.sizes[positions]
        widths = np.stack([padded_width(train), padded_width(tasks.validation.sizes[positions])])
        order = np.lexsort((train, widths[1], widths[0]))
        positions, widths = positions[order], widths[:, order]
        edges = [0, *(np.flatnonzero((np.diff(widths) != 0).any(axis=0)) + 1).tolist(), len(positions)]
        for first, last in pairwise(edges):
            for start in range(first, last, size):
                yield Cohort(tasks, positions[start : min(start + size, last)], self.spec.problem.dtype)

    def _allowed(self, cohort: Cohort, request: Request, asked: Release) -> tuple[NDArray[np.bool_], str]:
        """Apply the node's own policy with its own count of what each task granted (invariant 10)."""
        if self.spec.policy is None or not self.spec.algorithm.sends_update:
            return np.ones(len(cohort), dtype=bool), ""
        # What differs in the clipping norm only costs the same, and an adaptive one differs in every round.
        self.store.grants(asked.at_any_norm().to_json())
        kinds = [Release.from_json(name) for name in self.store.granted]
        history = np.stack([done[cohort.positions] for done in self.store.granted.values()], axis=1)
        # Tasks with equal histories get equal answers.
        patterns, which = np.unique(history, axis=0, return_inverse=True)
        answers = [
            decide(
                self.spec.policy,
                dict(zip(kinds, pattern.tolist(), strict=True)),
                asked,
                NoiseAt(request.declared.noise_at),
            )
            for pattern in patterns
        ]
        allowed = np.array([answer.allowed for answer in answers], dtype=bool)[which.reshape(-1)]
        reason = next((answer.reason for answer in answers if not answer.allowed), "")
        if asked.banded is not None:
            last = self.store.last_grants(asked.to_json())
            apart = np.abs(request.round - last[cohort.positions])
            before = self.store.grants(asked.at_any_norm().to_json())[cohort.positions] > 0
            soon = before & (apart < asked.banded.separation)
            if soon.any():
                reason = reason or (
                    f"the request declares noise for participations at least {asked.banded.separation} rounds apart, "
                    f"and round {request.round} is {apart[soon].min()} from one that was granted."
                )
            allowed &= ~soon
        return allowed, reason

    def _grant(self, cohort: Cohort, request: Request, asked: Release, allowed: NDArray[np.bool_]) -> None:
        """Count what tasks grant, before it leaves the node."""
        if self.spec.policy is None or not self.spec.algorithm.sends_update:
            return
        self.store.grants(asked.at_any_norm().to_json())[cohort.positions] += allowed
        if asked.banded is not None:
            self.store.last_grants(asked.to_json())[cohort.positions[allowed]] = request.round


def _add_noise(rows: list[NDArray[np.float64]], std: float, noise: LocalNoise) -> None:
    """Add each task's local noise to its clipped row, over all arrays; rows of zeros get it, too. All lie on a grid."""
    sizes = [row[0].size for row in rows]
    for position in range(len(rows[0])):
        drawn = std * noise.row(position, [row[position] for row in rows])
        for row, part in zip(rows, np.split(drawn, np.cumsum(sizes)[:-1]), strict=True):
            row[position] = to_grid(row[position] + part.reshape(row[position].shape), std)


def _counted_update(update: Params, billboard: Params, counted: NDArray[np.bool_]) -> Arrays:
    """Return the updates [C, ...] with zeros for tasks that do not count."""
    if not update:
        return {name: np.zeros((len(counted), *value.shape)) for name, value in billboard.items()}
    arrays = {name: value.numpy() for name, value in update.items()}
    if counted.all():
        return arrays
    # Into a copy: a view that repeats one row would lose everybody's.
    kept = {name: np.array(value) for name, value in arrays.items()}
    for value in kept.values():
        value[~counted] = 0
    return kept


def _named(model: str, scores: Scores) -> dict[str, Tensor]:
    """Return the scores [C] of one kind of model, by the names that messages carry."""
    own = {f"{model}.{name}": values for name, values in scores.own.items()}
    return {f"{model}.loss": scores.loss, f"{model}.accuracy": scores.accuracy, **own}


def _to_tensors(arrays: Arrays) -> Params:
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
