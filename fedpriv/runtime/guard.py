"""Running a stage so that one task's data cannot decide over the others.

If a cohort fails as a whole, its tasks run one by one and those that fail count as zero. A task whose result is not
finite counts as zero, too, and so does one that takes too long where its time can depend on its data. Nothing that
depends on data stops the run (design, invariants 2 and 11). Of protected data no task is named, nor does an exception's
text get out, which may hold values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedpriv.cohort import Cohort, Engine, Learner, Noise, Params, Problem, State, TaskFailure, unnest
from fedpriv.runtime.limit import TaskTimeout, TimeLimit

__all__ = ["Guard", "Outcome", "Stage"]

Stage = Callable[[Learner, Cohort, State], State]
States = Callable[[Cohort], State]
_FINITE = "lower the client's learning rate, or scale the inputs of this task."
_PROTECTED = "what a task's data gave in stage {name!r} cannot be used; these data are protected, so no task is named."


@dataclass(frozen=True)
class Outcome:
    """What one stage gave for one cohort.

    Attributes
    ----------
    tree : dict
        Results [C, ...], NaN for tasks that failed; empty if every task failed.
    counted : ndarray of bool, shape [C]
        Tasks whose result counts.
    done : ndarray of bool, shape [C]
        Tasks that have a result, finite or not.
    not_finite : int
        How many results do not count.
    note : str
        The first failure, with the stage, and of benchmark data with the task.
    work : ndarray of int64, shape [C]
        Per-example gradient evaluations.
    cells : int
        Places for an example in all mini-batches, padding included.
    """

    tree: State
    counted: NDArray[np.bool_]
    done: NDArray[np.bool_]
    not_finite: int
    note: str
    work: NDArray[np.int64]
    cells: int

    @property
    def failed(self) -> int:
        """How many tasks have no result."""
        return int((~self.done).sum())


class Guard:
    """Runs the stages of an algorithm.

    Parameters
    ----------
    engine : Engine
        How the task axis is computed.
    problem : Problem
        Model and loss.
    limit : TimeLimit or None
        How long one task may compute; None where all time is bounded by public settings.

    Attributes
    ----------
    problem : Problem
        What the stages get: the same, or a copy that nothing else uses.
    """

    def __init__(self, engine: Engine, problem: Problem, limit: TimeLimit | None = None) -> None:
        self.engine, self.limit = engine, limit
        self._shared = problem
        # A network of its own: what is left behind must not meddle with those of other nodes in this process.
        self.problem = problem if limit is None else deepcopy(problem)

    def run(
        self,
        name: str,
        stage: Stage,
        cohort: Cohort,
        states: States,
        noise: Noise | None = None,
        update: Params | None = None,
    ) -> Outcome:
        """Run one stage on a cohort; see the module for what happens to failures.

        Parameters
        ----------
        name : str
            Of the stage, for notes.
        stage : callable
            From a learner, a cohort and its state [C, ...] to results [C, ...].
        cohort : Cohort
            The tasks.
        states : callable
            From a cohort to its state; it may run a task's own code, so it is guarded, too.
        noise : Noise or None
            Where the tasks' local noise comes from.
        update : dict or None
            The form of an update among the results, which is public: a task that gives another one counts as zero,
            whatever most others give.
        """
        done, note = np.ones(len(cohort), dtype=bool), ""
        # One task after the other anyway: then each by itself, and a slow one is not waited for twice.
        alone = self.limit is not None and self.engine.loops
        try:
            if alone:
                raise _SingleTasks
            tree, learner = self._limited(name, stage, cohort, states, noise)
            _check_update(tree, update, len(cohort))
            learners = [learner]
        except KeyboardInterrupt:
            raise
        except BaseException:  # SystemExit, too: whatever a task's code raises is about this task
            # By the same engine: another one rounds differently, and then one task's failure would change others.
            tree, learners, done, note = self._one_by_one(name, stage, cohort, states, noise, update)
        finite = _finite_rows([value for value in tree.values() if value.is_floating_point()], len(cohort))
        strange = ~finite & done
        if strange.any() and not note:
            task = cohort.tasks.names[int(cohort.positions[int(np.argmax(strange))])]
            note = f"task {task!r} gave a result that is not finite in stage {name!r}; {_FINITE}"
        if note and cohort.tasks.declared == "protected":
            note = _PROTECTED.format(name=name)
        counts: dict[int, int] = {}
        for learner in learners:
            counts |= learner.work
        work = np.array([counts.get(task, 0) for task in cohort.ids.tolist()], dtype=np.int64)
        cells = sum(learner.cells for learner in learners)
        return Outcome(tree, finite & done, done, int(strange.sum()), note, work, cells)

    def _limited(
        self, name: str, stage: Stage, cohort: Cohort, states: States, noise: Noise | None
    ) -> tuple[State, Learner]:
        # A learner of its own: what a thread that was left behind still counts belongs to nobody.
        learner = Learner(self.problem, self.engine, noise=noise)

        def whole() -> State:
            # Libraries round one product otherwise than one of several: a task alone is computed beside itself.
            lone = len(cohort) == 1 and not self.engine.loops
            part = cohort.subset(np.zeros(2, dtype=np.int64)) if lone else cohort
            tree = self.engine.over_tasks(name, lambda part, state: stage(learner, part, state), part, states(part))
            if not lone:
                return tree
            learner.work = {task: count // 2 for task, count in learner.work.items()}
            learner.cells //= 2
            return {key: value[:1] for key, value in tree.items()}

        if self.limit is None:
            return whole(), learner
        try:
            return self.limit.run(whole), learner
        except TaskTimeout:
            # The thread that was left behind has its task's weights in the network, and takes them out when it ends.
            self.problem = deepcopy(self._shared)
            raise

    def _one_by_one(
        self, name: str, stage: Stage, cohort: Cohort, states: States, noise: Noise | None, update: Params | None
    ) -> tuple[State, list[Learner], NDArray[np.bool_], str]:
        trees: list[State | None] = []
        learners: list[Learner] = []
        note = ""
        for position in range(len(cohort)):
            try:
                tree, learner = self._limited(name, stage, cohort.one(position), states, noise)
                _check_update(tree, update, 1)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                note = note or _failure(cohort, position, name, error)
                trees.append(None)
            else:
                trees.append(tree)
                learners.append(learner)
        common = Counter(_form(tree) for tree in trees if tree is not None).most_common(1)
        trees = [tree if tree is not None and _form(tree) == common[0][0] else None for tree in trees]
        done = np.array([tree is not None for tree in trees])
        if not common:
            return {}, learners, done, note
        if not done.all():
            note = note or f"a task gave a result of another form than the others in stage {name!r}."
        model = next(tree for tree in trees if tree is not None)
        empty = {
            key: torch.full_like(value, torch.nan if value.is_floating_point() else 0) for key, value in model.items()
        }
        return {key: torch.cat([(tree or empty)[key] for tree in trees]) for key in empty}, learners, done, note


class _SingleTasks(Exception):
    """Nothing failed; the tasks are to run one by one from the start."""


def _check_update(tree: State, update: Params | None, count: int) -> None:
    """Refuse results [C, ...] whose update has other names or shapes than it must have."""
    if update is None:
        return
    found = {name: tuple(value.shape) for name, value in unnest("update", tree).items()}
    if found != {name: (count, *value.shape) for name, value in update.items()}:
        raise ValueError("the update has other names or shapes than the billboard.")


def _form(tree: State) -> tuple[Any, ...]:
    """Return what the results of all tasks must have in common to stand in one tensor."""
    return tuple((key, tuple(value.shape), value.dtype) for key, value in sorted(tree.items()))


def _failure(cohort: Cohort, position: int, stage: str, error: BaseException) -> str:
    if isinstance(error, TaskFailure):
        return str(error)
    return str(TaskFailure(cohort.tasks.names[int(cohort.positions[position])], stage, error))


def _finite_rows(values: list[torch.Tensor], count: int) -> NDArray[np.bool_]:
    """Tell which rows of tensors [C, ...] hold neither NaN nor infinity in any of them."""
    flat = [value.reshape(count, -1) for value in values]
    # A finite sum has finite terms. It is 20 times faster than isfinite, which still judges where the sum overflows.
    total = torch.zeros(count, dtype=torch.float64)
    for one in flat:
        total += one.sum(dim=1)
    finite: NDArray[np.bool_] = torch.isfinite(total).numpy()
    for row in np.flatnonzero(~finite):
        finite[row] = all(bool(torch.isfinite(one[row]).all()) for one in flat)
    return finite
