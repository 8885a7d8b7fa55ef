"""What computes over the task axis: vmap for any pure model, and a plain loop that is reference and debugger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, vmap

from fedpriv.cohort.cohort import Batch, Cohort, Marks
from fedpriv.cohort.descent import Descent, per_task
from fedpriv.cohort.inner_loop import InnerLoop
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.trees import Params, State, broadcast, concatenate, one, zeros_like
from fedpriv.errors import ComponentFailure, InputError

__all__ = [
    "Engine",
    "LoopEngine",
    "TaskFailure",
    "VmapEngine",
    "average",
    "mean_losses",
    "plain_attention",
    "why_not_vmap",
]

Stage = Callable[[Cohort, State], State]


class TaskFailure(ComponentFailure):
    """One task failed in one stage of its algorithm; the message names both."""

    def __init__(self, task: str, stage: str, cause: BaseException) -> None:
        self.task, self.stage = task, stage
        super().__init__(f"task {task!r} failed in stage {stage!r}: {type(cause).__name__}: {cause}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (ComponentFailure, (str(self),))


class Engine(ABC):
    """Computes steps, gradients and scores for all tasks of a cohort."""

    name: str

    @property
    def loops(self) -> bool:
        """Whether it computes one task after the other, as far as is known."""
        return False

    def may_loop(self, problem: Problem, axes: int) -> bool:  # noqa: ARG002
        """Tell whether it may come to that, for inputs [C, n, ...] of so many axes: time can depend on data then."""
        return self.loops

    def sgd(
        self, problem: Problem, start: Params, cohort: Cohort, index: NDArray[np.int64], descent: Descent
    ) -> Params:
        """Take one step of SGD for each mini-batch; return the new weights [C, ...].

        Parameters
        ----------
        problem : Problem
            Model and loss.
        start : Params, each [C, ...]
            Where every task begins; not changed.
        cohort : Cohort
            The tasks.
        index : ndarray of int64, shape [C, S, b]
            Example numbers of S mini-batches; -1 is padding. A task without examples in a batch rests.
        descent : Descent
            Step size, pull and momentum.
        """
        params = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in start.items()}
        self.descend(problem, params, cohort.batches(index), descent)
        return params

    def descend(self, problem: Problem, params: Params, batches: Iterable[Batch], descent: Descent) -> None:
        """Take one step of SGD in place, from rest, for each batch."""
        velocity = zeros_like(params) if descent.momentum else None
        anchor = descent.anchor
        for batch in batches:
            gradients = self.gradients(problem, params, batch)
            for name, value in params.items():
                gradient = gradients[name]
                if anchor is not None and name in anchor:
                    # Exactly 0 at the anchor: else rounding would break ties between strengths.
                    pull = torch.sub(value, anchor[name])
                    strength = torch.as_tensor(descent.strength, dtype=value.dtype)
                    # A new tensor: two parameters may share one gradient (x @ (a + b)).
                    gradient = torch.addcmul(gradient, pull, per_task(strength, value))
                if velocity is not None:
                    gradient = velocity[name].mul_(descent.momentum).add_(gradient)
                if batch.marks.resting is not None:
                    gradient = gradient.masked_fill(per_task(batch.marks.resting, value), 0.0)
                value.sub_(gradient, alpha=descent.learning_rate)

    @abstractmethod
    def gradients(self, problem: Problem, params: Params, batch: Batch) -> Params:
        """Return every task's gradient of its mean loss; parameters and gradients are [C, ...]."""

    @abstractmethod
    def losses(self, problem: Problem, params: Params, batch: Batch) -> Tensor:
        """Return every task's mean loss [C], differentiable as often as the model; 0 for a task without examples."""

    def meta_shortcut(
        self,
        problem: Problem,  # noqa: ARG002
        params: Params,  # noqa: ARG002
        support: Batch,  # noqa: ARG002
        query: Batch,  # noqa: ARG002
        inner: InnerLoop,  # noqa: ARG002
        *,
        create_graph: bool,  # noqa: ARG002
    ) -> tuple[Params, Tensor] | None:
        """Return meta-gradients [C, ...] and query losses [C] if this engine knows a faster way; None otherwise."""
        return None

    @abstractmethod
    def scores(self, problem: Problem, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean loss and accuracy of every task, both [C]; NaN for a task without examples."""

    @abstractmethod
    def over_tasks(self, stage: str, function: Stage, cohort: Cohort, state: State) -> State:
        """Run one stage of an algorithm on a cohort whose state is [C, ...]; return a tree [C, ...]."""


class VmapEngine(Engine):
    """All tasks at once with ``torch.func.vmap``."""

    name = "vmap"

    def gradients(self, problem: Problem, params: Params, batch: Batch) -> Params:  # noqa: D102
        gradient = vmap(grad(problem.mean_loss))
        result: Params = gradient(params, batch.inputs, batch.targets, batch.mask)
        return result

    def losses(self, problem: Problem, params: Params, batch: Batch) -> Tensor:  # noqa: D102
        found: Tensor = vmap(problem.mean_loss)(params, batch.inputs, batch.targets, batch.mask)
        return found

    def scores(self, problem: Problem, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:  # noqa: D102
        with _scoring(problem) as scored:
            loss, correct = vmap(scored.losses)(params, batch.inputs, batch.targets)
        return average(loss, batch.mask), average(correct, batch.mask)

    def over_tasks(self, stage: str, function: Stage, cohort: Cohort, state: State) -> State:  # noqa: ARG002, D102
        return function(cohort, state)


class LoopEngine(Engine):
    """One task after the other with plain autograd; a failure names the task and the stage."""

    name = "loop"

    @property
    def loops(self) -> bool:  # noqa: D102
        return True

    def gradients(self, problem: Problem, params: Params, batch: Batch) -> Params:  # noqa: D102
        rows: list[Params] = []
        for position in range(len(batch.mask)):
            leaves = {name: value[position].detach().requires_grad_() for name, value in params.items()}
            loss = problem.mean_loss(leaves, batch.inputs[position], batch.targets[position], batch.mask[position])
            found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
            rows.append(dict(zip(leaves, found, strict=True)))
        return {name: torch.stack([row[name] for row in rows]) for name in params}

    def losses(self, problem: Problem, params: Params, batch: Batch) -> Tensor:  # noqa: D102
        return torch.stack(
            [
                problem.mean_loss(
                    {name: value[position] for name, value in params.items()},
                    batch.inputs[position],
                    batch.targets[position],
                    batch.mask[position],
                )
                for position in range(len(batch.mask))
            ]
        )

    def scores(self, problem: Problem, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:  # noqa: D102
        losses, hits = [], []
        with _scoring(problem) as scored:
            for position in range(len(batch.mask)):
                task = {name: value[position] for name, value in params.items()}
                loss, correct = scored.losses(task, batch.inputs[position], batch.targets[position])
                losses.append(loss)
                hits.append(correct)
        return average(torch.stack(losses), batch.mask), average(torch.stack(hits), batch.mask)

    def over_tasks(self, stage: str, function: Stage, cohort: Cohort, state: State) -> State:  # noqa: D102
        results = []
        for position in range(len(cohort)):
            try:
                results.append(function(cohort.one(position), one(state, position)))
            except Exception as error:
                name = cohort.tasks.names[int(cohort.positions[position])]
                raise TaskFailure(name, stage, error) from error
        return concatenate(results)


@contextmanager
def _scoring(problem: Problem) -> Iterator[Problem]:
    """Give the model in evaluation mode; attention is computed as in training there, since vmap knows no other way."""
    with plain_attention(), torch.no_grad():
        yield problem.scored


@contextmanager
def plain_attention() -> Iterator[None]:
    """Leave out the fused kernels that torch has for attention in evaluation mode."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def why_not_vmap(problem: Problem, like: Batch) -> str | None:
    """Return what stops ``vmap`` from computing a model, found with zeros in the shape of a batch; None if nothing.

    Raises
    ------
    InputError
        The model draws random numbers.
    """
    shape, several = like.inputs.shape[2:], min(2, like.inputs.shape[1])
    inputs = like.inputs.new_zeros((2, several, *shape))
    targets = like.targets.new_zeros((2, several, *like.targets.shape[2:]))
    batch = Batch(inputs, targets, Marks(like.mask.new_ones((2, several)), full=True))
    engine, params = VmapEngine(), broadcast(problem.initial(), 2)
    try:
        engine.gradients(problem, params, batch)
        engine.losses(problem, params, batch)
        engine.scores(problem, params, batch)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "random operation" in reason:
            raise InputError(
                f"the model {type(problem.model).__name__} draws random numbers, so results would depend on sharding; "
                "remove what draws them."
            ) from error
        return reason
    return None


def mean_losses(problem: Problem, outputs: Tensor, batch: Batch) -> Tensor:
    """Return every task's mean loss [C] from its outputs [C, n, K]; padding counts 0."""
    loss, _ = problem.judge(outputs.flatten(0, 1), batch.targets.flatten(0, 1))
    loss = loss.view(batch.mask.shape)
    return ((loss if batch.marks.full else torch.where(batch.mask > 0, loss, 0.0)) * batch.marks.share).sum(dim=1)


def average(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of [C, n] over each task's real examples, [C]; NaN without any."""
    count = mask.sum(dim=1)
    mean = torch.where(mask > 0, values, 0.0).sum(dim=1) / count.clamp(min=1.0)
    return torch.where(count > 0, mean, torch.full_like(mean, torch.nan))
