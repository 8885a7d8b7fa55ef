"""A node: the tasks it hosts, their personal states, and what it answers to the server's messages.

One class serves a phone with one task and a simulation shard with thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
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
    LoopEngine,
    Params,
    Problem,
    Purpose,
    State,
    TaskFailure,
    Tasks,
    engine_named,
    nest,
    unnest,
)
from fedpriv.privacy.clipping import clipped_sum
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.policy import NodePolicy, decide
from fedpriv.protocol import Arrays, Reply, Request, TaskRange
from fedpriv.runtime.store import StateStore

__all__ = ["Node", "NodeSpec"]

Ids = NDArray[np.int64]
_Stage = Callable[[Learner, Cohort, State], State]
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
    """

    tasks: Tasks
    algorithm: ClientAlgorithm
    problem: Problem
    seed: int = 0
    engine: str = "vmap"
    policy: NodePolicy | None = None
    baseline: LocalSGD | None = None


@dataclass
class _Outcome:
    """What one stage gave for one chunk: a tree [C, ...] and which tasks count."""

    tree: State
    counted: NDArray[np.bool_]


@dataclass
class _Totals:
    """Updates of one group as they come in, chunk by chunk."""

    kind: Literal["sum", "rows"]
    clipping_norm: float
    arrays: Arrays = field(default_factory=dict)
    rows: list[Arrays] = field(default_factory=list)

    def add(self, update: Arrays) -> None:
        if self.kind == "rows":
            self.rows.append(update)
            return
        names = list(update)
        for name, value in zip(names, clipped_sum([update[n] for n in names], self.clipping_norm), strict=True):
            self.arrays[name] = self.arrays[name] + value if name in self.arrays else value

    def result(self) -> Arrays:
        if self.kind == "rows" and self.rows:
            return {name: np.concatenate([row[name] for row in self.rows]) for name in self.rows[0]}
        return self.arrays


class Node:
    """Answers the server's messages for the tasks it hosts."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.store = StateStore(len(spec.tasks))
        self._engine = engine_named(spec.engine)

    def warm_up(self) -> None:
        """Get late imports over with, so that they count as start-up and not as training."""
        self._learner().probe(self.spec.tasks)

    # --- messages ----------------------------------------------------------------------------------------------

    def describe(self) -> RecordDict:
        """Answer which tasks are hosted here."""
        tasks = self.spec.tasks
        return TaskRange(tasks.first, len(tasks), tasks.fingerprint).to_content()

    def train(self, content: RecordDict) -> RecordDict:
        """Train the asked tasks on their group's billboard; answer with the clipped sum or with rows."""
        request, spec = Request.from_content(content), self.spec
        updates: dict[str, Arrays] = {}
        problems: Counter[str] = Counter()
        for group, ids in request.tasks.items():
            billboard = _to_tensors(request.billboards[group])
            totals = _Totals(request.reply, request.clipping_norm)
            for cohort in self._chunks(ids, billboard):
                allowed = self._allowed(cohort, request)
                outcome = self._train_chunk(request, billboard, cohort, problems)
                counted = outcome.counted & allowed
                problems["refused"] += int((~allowed).sum())
                self._keep(cohort, unnest("state", outcome.tree), counted)
                self.store.participations[cohort.positions[allowed]] += 1
                if spec.algorithm.sends_update:
                    update = {name: value.numpy() for name, value in unnest("update", outcome.tree).items()}
                    for value in update.values():
                        value[~counted] = 0
                    totals.add(update)
            updates[group] = totals.result()
        sends = spec.algorithm.sends_update
        tasks = request.tasks if sends and request.reply == "rows" else {}
        return Reply(updates if sends else {}, tasks, dict(problems)).to_content()

    def finish(self, content: RecordDict) -> RecordDict:
        """Do what remains after the last round; answer with the largest gradient work in epochs."""
        request = Request.from_content(content)
        spec, key = self.spec, Key(self.spec.seed, 0, Purpose.FINISH)
        for group, ids in request.tasks.items():
            billboard = _to_tensors(request.billboards[group])
            for cohort in self._chunks(ids, billboard):

                def stage(learner: Learner, part: Cohort, state: State, public: Params = billboard) -> State:
                    return nest("state", spec.algorithm.finish(learner, public, state, part, key))

                outcome = self._guarded("finish", stage, cohort, self._state(billboard, cohort), Counter())
                self._keep(cohort, unnest("state", outcome.tree), outcome.counted)
        sizes = self.spec.tasks.train.sizes
        work = self.store.work
        return Reply(
            diagnostics={
                "epochs": int(np.ceil(work / sizes).max()),
                "work": int(work.sum()),
                "examples": int(sizes.sum()),
            }
        ).to_content()

    def evaluate(self, content: RecordDict) -> RecordDict:
        """Score personal models and the billboard on each task's test part: diagnostics, not released."""
        request = Request.from_content(content)
        algorithm = self.spec.algorithm

        def score(learner: Learner, public: Params, cohort: Cohort) -> dict[str, Tensor]:
            personal = algorithm.evaluate(learner, public, self._state(public, cohort), cohort)
            shared = learner.evaluate({k: v.expand(len(cohort), *v.shape) for k, v in public.items()}, cohort)
            return {
                "personal.loss": personal.loss,
                "personal.accuracy": personal.accuracy,
                "billboard.loss": shared.loss,
                "billboard.accuracy": shared.accuracy,
            }

        return self._scores(request, score)

    def local_only(self, content: RecordDict) -> RecordDict:
        """Train and score the local-only baseline, with the busiest task's epochs for every task."""
        request = Request.from_content(content)
        if self.spec.baseline is None:
            return Reply(diagnostics={"ids": []}).to_content()
        alone = self.spec.baseline.model_copy(update={"epochs": max(request.epochs, 1), "steps": None})
        key = Key(self.spec.seed, 0, Purpose.LOCAL_ONLY)

        def score(learner: Learner, public: Params, cohort: Cohort) -> dict[str, Tensor]:
            state = alone.initial_state(public, cohort)
            if request.epochs:
                state, _ = alone.train(learner, public, state, cohort, key)
            scores = alone.evaluate(learner, public, state, cohort)
            return {"local_only.loss": scores.loss, "local_only.accuracy": scores.accuracy}

        return self._scores(request, score)

    # --- parts -------------------------------------------------------------------------------------------------

    def _train_chunk(self, request: Request, billboard: Params, cohort: Cohort, problems: Counter[str]) -> _Outcome:
        algorithm, key = self.spec.algorithm, Key(self.spec.seed, request.round, Purpose.TRAIN)

        def stage(learner: Learner, part: Cohort, state: State) -> State:
            new, update = algorithm.train(learner, billboard, state, part, key)
            return {**nest("state", new), **nest("update", update)}

        return self._guarded("train", stage, cohort, self._state(billboard, cohort), problems)

    def _guarded(
        self,
        name: str,
        stage: _Stage,
        cohort: Cohort,
        state: State,
        problems: Counter[str],
    ) -> _Outcome:
        """Run a stage so that one task's data cannot decide over the others.

        If the cohort fails as a whole, its tasks run one by one and those that fail count as zero. A task whose
        result is not finite counts as zero, too. Only if every task fails does the failure get out.
        """
        learner = self._learner()
        try:
            tree = self._engine.over_tasks(name, partial(stage, learner), cohort, state)
            failed = np.zeros(len(cohort), dtype=bool)
        except Exception as error:
            learner = Learner(self.spec.problem, LoopEngine())
            tree, failed = self._one_by_one(name, partial(stage, learner), cohort, state, error)
            problems["failed"] += int(failed.sum())
        self.store.work[cohort.positions] += [learner.work.get(task, 0) for task in cohort.ids.tolist()]
        finite = np.ones(len(cohort), dtype=bool)
        for value in tree.values():
            if value.is_floating_point():
                finite &= torch.isfinite(value).reshape(len(cohort), -1).all(dim=1).numpy()
        problems["not_finite"] += int((~finite & ~failed).sum())
        return _Outcome(tree, finite & ~failed)

    def _one_by_one(
        self,
        name: str,
        stage: Callable[[Cohort, State], State],
        cohort: Cohort,
        state: State,
        error: Exception,
    ) -> tuple[State, NDArray[np.bool_]]:
        trees: list[State | None] = []
        first: Exception | None = None
        for position in range(len(cohort)):
            mine = {key: value[position : position + 1] for key, value in state.items()}
            try:
                trees.append(LoopEngine().over_tasks(name, stage, cohort.one(position), mine))
            except TaskFailure as failure:
                first = first or failure
                trees.append(None)
        done = [tree for tree in trees if tree is not None]
        if not done:
            raise first or error
        empty = {key: torch.zeros_like(value) for key, value in done[0].items()}
        joined = {key: torch.cat([(tree or empty)[key] for tree in trees]) for key in empty}
        return joined, np.array([tree is None for tree in trees])

    def _keep(self, cohort: Cohort, state: State, counted: NDArray[np.bool_]) -> None:
        """Keep new states of tasks that count; the others keep their old one."""
        index = torch.from_numpy(np.flatnonzero(counted))
        self.store.write(cohort.positions[counted], {name: value[index] for name, value in state.items()})

    def _scores(self, request: Request, score: Callable[[Learner, Params, Cohort], dict[str, Tensor]]) -> RecordDict:
        ids: list[int] = []
        results: dict[str, list[float]] = {}
        for group, wanted in request.tasks.items():
            billboard = _to_tensors(request.billboards[group])
            for cohort in self._chunks(wanted, billboard):
                ids += cohort.ids.tolist()
                for name, values in score(self._learner(), billboard, cohort).items():
                    results.setdefault(name, []).extend(values.double().tolist())
        return Reply(diagnostics=cast(Any, {"ids": ids, **results})).to_content()

    def _learner(self) -> Learner:
        return Learner(self.spec.problem, self._engine)

    def _state(self, billboard: Params, cohort: Cohort) -> State:
        return self.store.read(cohort.positions, self.spec.algorithm.initial_state(billboard, cohort))

    def _chunks(self, ids: Ids, billboard: Params) -> Iterator[Cohort]:
        """Cut tasks into cohorts whose weights fit the cache."""
        bytes_per_task = sum(value.numel() * value.element_size() for value in billboard.values())
        size = max(1, _CHUNK_BYTES // max(bytes_per_task, 1))
        for start in range(0, len(ids), size):
            yield Cohort(self.spec.tasks, ids[start : start + size] - self.spec.tasks.first, self.spec.problem.dtype)

    def _allowed(self, cohort: Cohort, request: Request) -> NDArray[np.bool_]:
        """Apply the node's own policy with its own count of what each task granted (invariant 10)."""
        if self.spec.policy is None:
            return np.ones(len(cohort), dtype=bool)
        asked = Release(
            noise_multiplier=request.noise_multiplier,
            sampling_name="full",
            rate=1.0,
            clipping_norm=request.clipping_norm,
        )
        kind = asked.to_json()
        counts = self.store.grants(kind)
        kinds = [Release.from_json(name) for name in self.store.granted]
        history = np.stack([done[cohort.positions] for done in self.store.granted.values()], axis=1)
        # Tasks with equal histories get equal answers.
        patterns, which = np.unique(history, axis=0, return_inverse=True)
        answers = [
            decide(self.spec.policy, dict(zip(kinds, pattern.tolist(), strict=True)), asked).allowed
            for pattern in patterns
        ]
        allowed = np.array(answers, dtype=bool)[which.reshape(-1)]
        counts[cohort.positions] += allowed
        return allowed


def _to_tensors(arrays: Arrays) -> Params:
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
