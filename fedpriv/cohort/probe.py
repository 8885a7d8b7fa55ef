"""A dry run on made-up tasks, to see that the algorithm works with this model and this engine.

Mistakes in an algorithm must show before any private data are touched. Later a failure is treated as a property of
one task's data: that task counts as zero, and the run goes on.
"""

from __future__ import annotations

import re
from math import prod

import numpy as np
import torch
from torch import Tensor

from fedpriv.cohort.algorithm import ClientAlgorithm
from fedpriv.cohort.cohort import Cohort
from fedpriv.cohort.engine import Engine, LoopEngine
from fedpriv.cohort.fast.kernels import KernelEngine
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.purity import generators_kept, refuse_impure_forward, untouched, unused_parameters
from fedpriv.cohort.randomness import Key, Purpose
from fedpriv.cohort.sharing import Sharing
from fedpriv.cohort.stages import Stages
from fedpriv.cohort.tasks import Population, Ragged, Tasks
from fedpriv.cohort.trees import broadcast
from fedpriv.errors import InputError

__all__ = ["notes_on", "probe"]

_TASKS, _EXAMPLES = 2, 3
_LOOKS_UP = re.compile(r"IndexError|out of (range|bounds)|non-negative", re.IGNORECASE)
"""What layers say that get a number for an id: embeddings, ``gather``, ``one_hot``."""


def probe(algorithm: ClientAlgorithm, problem: Problem, engine: Engine, like: Population) -> tuple[float, float]:
    """Run every stage on two made-up tasks in the shape of the real examples, together and each alone.

    Parameters
    ----------
    algorithm, problem, engine
        What shall work together.
    like : Tasks or Roster
        Only shapes and types are taken from it, no value.

    Returns
    -------
    (float, float)
        Gradient evaluations for each training example, in one participation and in the final fit.

    Raises
    ------
    InputError
        A stage fails, an update does not have the billboard's names and shapes, a task gets something else together
        with others than alone, or the algorithm draws from a global generator or is wrong about ``updates_use_state``.
    """
    with generators_kept():
        return _probe(algorithm, problem, engine, like)


def _probe(algorithm: ClientAlgorithm, problem: Problem, engine: Engine, like: Population) -> tuple[float, float]:
    tasks, pair = _made_up(like), np.arange(_TASKS)
    cohort = Cohort(tasks, pair, problem.dtype)
    others = [Cohort(tasks, np.where(pair == kept, pair, _TASKS), problem.dtype) for kept in pair]
    stages = Stages(algorithm, problem, engine)
    stages.stage = "the model itself"
    try:
        _check_outputs(untouched(problem), cohort)
        refuse_impure_forward(problem, cohort.one(0).part("train").inputs[0])
        together = stages.run(cohort)
        trained, finished = stages.trained, sum(stages.learner.work.values()) - stages.trained
        stages.refuse_mixing(together, cohort, others)
        stages.refuse_hidden_state(cohort)
        return trained / (_TASKS * _EXAMPLES), finished / (_TASKS * _EXAMPLES)
    except InputError:
        raise
    except Exception as error:
        cause = (str(error).strip() or type(error).__name__).split(". ")[0].splitlines()[0]
        kind = like.input_dtype
        if not kind.startswith("float") and stages.stage == "the model itself":
            raise InputError(
                f"the inputs are {kind}, and whole numbers reach the model as int64, as nn.Embedding takes them; "
                f"{type(problem.model).__name__} cannot compute with them ({type(error).__name__}: {cause}). Give "
                "floats, of images inputs.astype('float32') / 255."
            ) from error
        if kind.startswith("float") and _LOOKS_UP.search(f"{type(error).__name__} {cause}"):
            raise InputError(
                f"{type(problem.model).__name__} looks up a place that is not there ({type(error).__name__}: {cause}): "
                "before any data are touched it is tried on made-up numbers, which have fractions and either sign, "
                "whatever ranges were declared, so they are no ids. Use ids.long().clamp(0, 6) in forward, or name the "
                "column's categories in data.features, as in {'day': ['mon', 'tue']}, and put nn.Linear on its columns "
                "of 0 and 1."
            ) from error
        advice = "mend it"
        if engine.name != "loop" and _works(algorithm, problem, LoopEngine(), like):
            advice = "mend it, or try run.engine='loop'"
        raise InputError(
            f"{type(algorithm).__name__} with {type(problem.model).__name__} fails in stage {stages.stage!r} on "
            f"examples of shape {like.input_shape} with the engine {engine.name!r}: {type(error).__name__}: {cause}; "
            f"{advice}."
        ) from error


def _works(algorithm: ClientAlgorithm, problem: Problem, engine: Engine, like: Population) -> bool:
    try:
        probe(algorithm, problem, engine, like)
    except InputError:
        return False
    return True


def notes_on(problem: Problem, engine: Engine, like: Population, sharing: Sharing) -> list[str]:
    """Return what a user should know of a model that works: what is shared, what is not used, how it is computed.

    Parameters
    ----------
    problem, engine
        What works together.
    sharing : Sharing
        Of this model.
    like : Tasks or Roster
        Only shapes and types are taken from it, no value.
    """
    batch, found = Cohort(_made_up(like), np.arange(_TASKS), problem.dtype).part("train"), []
    kept = sum(value.numel() for value in sharing.kept.values())
    shared = f"{problem.num_parameters - kept:,} numbers of the model are shared"
    if kept:
        found.append(f"{shared}, and {kept:,} stay with each task (client.share): no noise meets them.")
    if problem.num_constants:
        found.append(
            f"{shared}, and {problem.num_constants:,} are frozen: public constants, which nobody trains and no noise "
            "meets."
        )
    unused = unused_parameters(problem, batch.inputs[0])
    if unused:
        found.append(
            f"no output of the model depends on {', '.join(unused)}: published with noise, but never learned; freeze "
            "such parameters, or remove them."
        )
    if isinstance(engine, KernelEngine):
        engine.losses(problem, broadcast(problem.initial(), _TASKS), batch)
        if engine.obstacle is not None:
            found.append(
                f"vmap cannot compute {type(problem.model).__name__} ({engine.obstacle.rstrip('.')}), so tasks are "
                "trained one after the other, which is slower."
            )
    return found


def _check_outputs(problem: Problem, cohort: Cohort) -> None:
    """Compare what the model gives with what shall be predicted; training would fail for every task."""
    batch, classes = cohort.one(0).part("train"), cohort.tasks.num_classes
    with torch.no_grad():
        outputs = problem.predict(problem.initial(), batch.inputs[0])
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"the model must give one tensor of outputs, got {type(outputs).__name__}; return the outputs alone."
        )
    found = tuple(outputs.shape)
    examples, *values = batch.targets[0].shape
    if problem.loss == "cross-entropy":
        if classes is not None and (len(found) != 2 or found[1] < classes):
            raise InputError(
                f"the model must give {classes} outputs for every example, one per class, got shape {found} for "
                f"{examples} examples; change its last layer."
            )
    elif not found or found[0] != examples or prod(found[1:]) != prod(values):
        raise InputError(
            f"the model must give outputs of shape {tuple(values)} for every example, got shape {found} for {examples} "
            "examples; change its last layer."
        )


def _made_up(like: Population) -> Tasks:
    """Return one task more than a cohort has, in the shape of the real ones; no two have the same data.

    All examples of a task are of one class, so that episodes of few examples can be drawn.
    """
    count, draw = _TASKS + 1, Key(0, 0, Purpose.MODEL).generator(0)
    inputs = draw.standard_normal((count, _EXAMPLES, *like.input_shape))
    if not like.input_dtype.startswith("float"):
        inputs = np.zeros_like(inputs)  # ids: of others nobody knows whether they exist
    targets = draw.standard_normal((count, _EXAMPLES, *like.target_shape))
    if like.num_classes is not None:
        labels = np.arange(count).reshape(-1, *[1] * (targets.ndim - 1)) % like.num_classes
        targets = np.broadcast_to(labels, targets.shape).astype(np.int64)
    part = Ragged.from_block(inputs.astype(like.input_dtype), targets)
    names = tuple(f"probe-{number}" for number in range(count))
    return Tasks("probe", names, part, part, part, like.num_classes, "benchmark")
