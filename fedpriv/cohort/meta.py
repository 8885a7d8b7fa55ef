"""Meta-learning over the task axis: adapt to a support set, then differentiate the query loss through the adaptation.

One autograd graph holds all tasks of a cohort. Tasks do not touch each other, so the gradient of the sum of their
losses by the stacked parameters is every task's own gradient, and differentiating twice works the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedpriv.cohort.cohort import Batch
from fedpriv.cohort.engine import Engine
from fedpriv.cohort.inner_loop import InnerLoop
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.tasks import Population
from fedpriv.cohort.trees import Params
from fedpriv.errors import InputError

__all__ = [
    "MetaGradient",
    "adapt",
    "meta_gradient",
    "refuse_once_differentiable",
    "refuse_once_differentiable_on",
    "task_gradients",
]

StepGradient = Callable[[int, Params], Params]


@dataclass(frozen=True)
class MetaGradient:
    """What every task found.

    Attributes
    ----------
    gradient : Params, each [C, ...]
        The gradient of the query loss after adaptation, by the parameters before it (by those after it in first order).
    query_loss : Tensor, shape [C]
        Mean loss on the query set after adaptation; 0 for a task without query examples.
    """

    gradient: Params
    query_loss: Tensor


def task_gradients(
    engine: Engine, problem: Problem, params: Params, batch: Batch, *, create_graph: bool = False
) -> tuple[Params, Tensor]:
    """Return every task's gradient of its mean loss, [C, ...], and the losses [C].

    Parameters
    ----------
    engine, problem : Engine, Problem
        What computes the task axis; model and loss.
    params : Params, each [C, ...]
        Where to differentiate.
    batch : Batch
        Examples [C, n, ...].
    create_graph : bool
        Whether gradient and loss can be differentiated again, by ``params`` (which must require gradients then) and by
        the inputs.
    """
    leaves = params if create_graph else _leaves(params)
    with torch.enable_grad():
        losses = engine.losses(problem, leaves, batch)
        found = torch.autograd.grad(
            losses.sum(), list(leaves.values()), create_graph=create_graph, materialize_grads=True
        )
    return dict(zip(leaves, found, strict=True)), losses if create_graph else losses.detach()


def adapt(
    engine: Engine,
    problem: Problem,
    params: Params,
    support: Batch,
    inner: InnerLoop,
    *,
    create_graph: bool = False,
    step_gradient: StepGradient | None = None,
) -> Params:
    """Descend on every task's support loss: ``theta <- theta - learning_rate * gradient``, ``steps`` times.

    Parameters
    ----------
    engine, problem : Engine, Problem
        What computes the task axis; model and loss.
    params : Params, each [C, ...]
        Where every task begins; shared parameters come from :func:`fedpriv.cohort.broadcast`.
    support : Batch
        Support sets [C, n, ...]; a task without examples stays where it is.
    inner : InnerLoop
        Step size and number of steps.
    create_graph : bool
        Whether the result can be differentiated, by ``params`` if these require gradients and by the support inputs.
    step_gradient : callable or None
        Gives the gradients [C, ...] of a step from its number (from 0) and the parameters there, in place of those of
        the support loss: for noise, or for private gradients.

    Returns
    -------
    Params, each [C, ...]
    """
    here = params
    for step in range(inner.steps):
        if create_graph:
            here = {name: value if value.requires_grad else _leaf(value) for name, value in here.items()}
        if step_gradient is None:
            gradients, _ = task_gradients(engine, problem, here, support, create_graph=create_graph)
        else:
            gradients = step_gradient(step, here)
        here = {name: torch.sub(value, gradients[name], alpha=inner.learning_rate) for name, value in here.items()}
        if not create_graph:
            here = {name: value.detach() for name, value in here.items()}
    return here


def meta_gradient(
    engine: Engine,
    problem: Problem,
    params: Params,
    support: Batch,
    query: Batch,
    inner: InnerLoop,
    *,
    create_graph: bool = False,
    step_gradient: StepGradient | None = None,
) -> MetaGradient:
    """Return every task's gradient of its query loss after adaptation.

    For one step of second order this is ``(I - learning_rate * H) grad L(theta', query)`` with the Hessian ``H`` of
    the support loss at ``theta`` and ``theta' = theta - learning_rate * grad L(theta, support)``; several steps
    multiply such factors. First order leaves the factors out.

    Parameters
    ----------
    engine, problem, params, support, inner, step_gradient
        As for :func:`adapt`. In second order the meta-gradient goes through what ``step_gradient`` returns, too.
    query : Batch
        Query sets [C, q, ...].
    create_graph : bool
        Whether the result can be differentiated by the inputs of both batches, as gradient inversion needs.

    Returns
    -------
    MetaGradient

    References
    ----------
    Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, Algorithm 2.
    """
    through = inner.order == "second"
    if step_gradient is None and not any(value.requires_grad for value in params.values()):
        quick = engine.meta_shortcut(
            problem,
            params,
            support,
            query,
            inner,
            create_graph=create_graph,
        )
        if quick is not None:
            return MetaGradient(*quick)
    with torch.enable_grad():
        start = {name: value if value.requires_grad else _leaf(value) for name, value in params.items()}
        graph = through or create_graph
        adapted = adapt(engine, problem, start, support, inner, create_graph=graph, step_gradient=step_gradient)
        if not through:
            adapted = {name: value if value.requires_grad else _leaf(value) for name, value in adapted.items()}
        losses = engine.losses(problem, adapted, query)
        by = start if through else adapted
        found = torch.autograd.grad(losses.sum(), list(by.values()), create_graph=create_graph, materialize_grads=True)
    gradient = dict(zip(by, found, strict=True))
    return MetaGradient(gradient, losses if create_graph else losses.detach())


def refuse_once_differentiable(problem: Problem, inputs: Tensor, targets: Tensor) -> None:
    """Refuse, before anything starts, a model whose gradient cannot be differentiated.

    Torch does not always complain by itself: a gradient by chosen tensors leaves out what cannot be reached, and a
    second-order meta-gradient would silently be one of first order.

    Parameters
    ----------
    problem : Problem
        Model and loss.
    inputs, targets : Tensor, [n, ...] and [n]
        Made-up examples.

    Raises
    ------
    InputError
        A layer has no second derivative; the message names what to do.
    """
    params = _leaves(problem.initial())
    try:
        with torch.enable_grad():
            loss = problem.mean_loss(params, inputs, targets, torch.ones(len(inputs), dtype=problem.dtype))
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True, materialize_grads=True)
            # Back to everything that there is, not to chosen tensors: a layer that stops the way is reached, too.
            rolled = sum((value.square().sum() for value in gradients), start=torch.zeros((), dtype=problem.dtype))
            if rolled.requires_grad:
                torch.autograd.backward(rolled)
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"the model {type(problem.model).__name__} cannot be differentiated twice ({str(error).splitlines()[0]}); "
            "replace that layer, or use first order (client.order = 'first')."
        ) from error


def refuse_once_differentiable_on(problem: Problem, tasks: Population) -> None:
    """Do so on made-up examples in the shapes of some tasks."""
    inputs = torch.zeros(2, *tasks.input_shape, dtype=problem.dtype)
    if not tasks.input_dtype.startswith("float"):
        inputs = inputs.long()
    kind = problem.dtype if tasks.num_classes is None else torch.int64
    refuse_once_differentiable(problem, inputs, torch.zeros(2, *tasks.target_shape, dtype=kind))


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _leaves(params: Params) -> Params:
    return {name: _leaf(value) for name, value in params.items()}
