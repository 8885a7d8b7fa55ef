"""Running a stage so that one task's data cannot decide over the others.

If a cohort fails as a whole, its tasks run one by one and those that fail count as zero. A task whose result is not
finite counts as zero, too. Nothing that depends on data stops the run (design, invariant 2). Of protected data no
task is named, nor does an exception's text get out, which may hold values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from fedpriv.cohort import Cohort, Engine, Learner, Noise, Problem, State, TaskFailure

__all__ = ["Outcome", "Stage", "run_guarded"]

Stage = Callable[[Learner, Cohort, State], State]
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
    failed, not_finite : int
        How many do not, and why.
    note : str
        The first failure, with the stage, and of benchmark data with the task.
    work : ndarray of int64, shape [C]
        Per-example gradient evaluations.
    cells : int
        Places for an example in all mini-batches, padding included.
    """

    tree: State
    counted: NDArray[np.bool_]
    failed: int
    not_finite: int
    note: str
    work: NDArray[np.int64]
    cells: int


def run_guarded(
    engine: Engine,
    problem: Problem,
    name: str,
    stage: Stage,
    cohort: Cohort,
    state: State,
    noise: Noise | None = None,
) -> Outcome:
    """Run one stage of an algorithm on a cohort; see the module for what happens to failures."""
    learner = Learner(problem, engine, noise=noise)
    failed, note = np.zeros(len(cohort), dtype=bool), ""
    try:
        tree = engine.over_tasks(name, partial(stage, learner), cohort, state)
    except Exception:
        # By the same engine: another one rounds differently, and then one task's failure would change its neighbours.
        learner = Learner(problem, engine, noise=noise)
        tree, failed, note = _one_by_one(engine, name, partial(stage, learner), cohort, state)
    finite = _finite_rows([value for value in tree.values() if value.is_floating_point()], len(cohort))
    strange = ~finite & ~failed
    if strange.any() and not note:
        task = cohort.tasks.names[int(cohort.positions[int(np.argmax(strange))])]
        note = f"task {task!r} gave a result that is not finite in stage {name!r}; lower the learning rate."
    work = np.array([learner.work.get(task, 0) for task in cohort.ids.tolist()], dtype=np.int64)
    if note and cohort.tasks.declared == "protected":
        note = _PROTECTED.format(name=name)
    return Outcome(tree, finite & ~failed, int(failed.sum()), int(strange.sum()), note, work, learner.cells)


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


def _one_by_one(
    engine: Engine, name: str, stage: Callable[[Cohort, State], State], cohort: Cohort, state: State
) -> tuple[State, NDArray[np.bool_], str]:
    trees: list[State | None] = []
    note = ""
    for position in range(len(cohort)):
        mine = {key: value[position : position + 1] for key, value in state.items()}
        try:
            trees.append(engine.over_tasks(name, stage, cohort.one(position), mine))
        except Exception as error:
            task = cohort.tasks.names[int(cohort.positions[position])]
            failure = error if isinstance(error, TaskFailure) else TaskFailure(task, name, error)
            note = note or str(failure)
            trees.append(None)
    done = next((tree for tree in trees if tree is not None), None)
    failed = np.array([tree is None for tree in trees])
    if done is None:
        return {}, failed, note
    empty = {key: torch.full_like(value, torch.nan if value.is_floating_point() else 0) for key, value in done.items()}
    return {key: torch.cat([(tree or empty)[key] for tree in trees]) for key in empty}, failed, note
