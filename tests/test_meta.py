"""Meta-gradients of all tasks at once against one task after the other, written out with plain autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Unbending
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from fedpriv import InputError
from fedpriv.cohort import (
    Batch,
    Engine,
    InnerLoop,
    KernelEngine,
    LoopEngine,
    Marks,
    Order,
    Params,
    Problem,
    VmapEngine,
    adapt,
    meta_gradient,
    refuse_once_differentiable,
)
from fedpriv.cohort.problem import Loss

ENGINES = (KernelEngine, VmapEngine, LoopEngine)
SHAPE = (1, 4, 4)


def network(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    if kind == "deep":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)
        ).double()
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)).double()
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()


def examples(count: int, size: int, loss: Loss, holes: list[int], seed: int) -> Batch:
    made = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, size, *SHAPE, dtype=torch.float64, generator=made)
    if loss == "cross-entropy":
        targets = torch.randint(3, (count, size), generator=made)
    else:
        targets = torch.randn(count, size, 3, dtype=torch.float64, generator=made)
    mask = torch.ones(count, size, dtype=torch.float64)
    for task, hole in enumerate(holes):
        mask[task % count, max(size - hole, 0) :] = 0  # a hole as long as the batch leaves nothing
        inputs[task % count, max(size - hole, 0) :] = 0
    return Batch(inputs, targets, Marks(mask))


def stacked(problem: Problem, count: int, *, shared: bool, seed: int) -> Params:
    made = torch.Generator().manual_seed(seed)
    start = {name: value.unsqueeze(0).expand(count, *value.shape) for name, value in problem.initial().items()}
    if shared:
        return start
    return {
        name: value + 0.1 * torch.randn(value.shape, dtype=value.dtype, generator=made) for name, value in start.items()
    }


def by_hand(
    problem: Problem, params: Params, support: Batch, query: Batch, inner: InnerLoop, task: int
) -> tuple[Any, ...]:
    """Return gradient, loss and adapted parameters of one task, from its real examples only."""

    def loss_of(weights: dict[str, Tensor], batch: Batch) -> Tensor:
        real = batch.mask[task] > 0
        inputs, targets = batch.inputs[task][real], batch.targets[task][real]
        outputs = functional_call(problem.model, weights, (inputs,))
        if not len(targets):
            return outputs.sum()
        if problem.loss == "cross-entropy":
            return nn.functional.cross_entropy(outputs, targets)
        return 0.5 * (outputs - targets).square().sum(dim=1).mean()

    theta = {name: value[task].clone().requires_grad_() for name, value in params.items()}
    here = dict(theta)
    for _ in range(inner.steps):
        found = torch.autograd.grad(loss_of(here, support), list(here.values()), create_graph=True)
        if inner.order == "first":
            found = tuple(one.detach() for one in found)
        here = {name: value - inner.learning_rate * one for (name, value), one in zip(here.items(), found, strict=True)}
    loss = loss_of(here, query)
    # Without second derivatives the factor of every step is the identity, so both are gradients by the start.
    gradient = torch.autograd.grad(loss, list(theta.values()))
    return dict(zip(theta, gradient, strict=True)), loss.detach(), here


@given(
    kind=st.sampled_from(["mlp", "deep", "linear", "cnn"]),
    loss=st.sampled_from(["cross-entropy", "squared"]),
    order=st.sampled_from(["second", "first"]),
    steps=st.integers(0, 3),
    count=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    support_holes=st.lists(st.integers(0, 5), max_size=3),
    query_holes=st.lists(st.integers(0, 6), max_size=3),
    shared=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_every_engine_agrees_with_autograd_task_by_task(
    kind: str, loss: Loss, order: Order, steps: int, count: int, sizes: tuple[int, int], support_holes: list[int],
    query_holes: list[int], shared: bool, seed: int,
) -> None:  # fmt: skip
    problem, inner = Problem(network(kind, seed), loss), InnerLoop(0.3, steps, order)
    params = stacked(problem, count, shared=shared, seed=seed)
    support = examples(count, sizes[0], loss, support_holes, seed)
    query = examples(count, sizes[1], loss, query_holes, seed + 100)
    wanted = [by_hand(problem, params, support, query, inner, task) for task in range(count)]
    for engine in ENGINES:
        found = meta_gradient(engine(), problem, params, support, query, inner)
        moved = adapt(engine(), problem, params, support, inner)
        assert not any(value.requires_grad for value in (*found.gradient.values(), *moved.values()))
        for task, (gradient, query_loss, adapted) in enumerate(wanted):
            assert torch.allclose(found.query_loss[task], query_loss, rtol=1e-10, atol=1e-10)
            for name in params:
                assert torch.allclose(found.gradient[name][task], gradient[name], rtol=1e-10, atol=1e-10), engine
                assert torch.allclose(moved[name][task], adapted[name], rtol=1e-10, atol=1e-10), engine


@pytest.mark.parametrize("engine", ENGINES)
def test_second_order_is_the_first_times_one_minus_the_hessian(engine: type[Engine]) -> None:
    """(I - a H) g of Finn et al., with the Hessian of the support loss from torch.autograd.functional."""
    problem, rate = Problem(network("linear")), 0.2
    params = stacked(problem, 1, shared=True, seed=0)
    support, query = (examples(1, size, "cross-entropy", [], size) for size in (3, 5))
    first, second = (
        meta_gradient(engine(), problem, params, support, query, InnerLoop(rate, 1, order)).gradient["1.weight"][0]
        for order in ("first", "second")
    )
    hessian = torch.autograd.functional.hessian(
        lambda flat: problem.mean_loss(
            {"1.weight": flat.view(3, 16)}, support.inputs[0], support.targets[0], support.mask[0]
        ),
        params["1.weight"][0].reshape(-1),
    )
    wanted = first.reshape(-1) - rate * hessian @ first.reshape(-1)
    assert torch.allclose(second.reshape(-1), wanted, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(second, first)


@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_an_attacker_can_differentiate_by_the_inputs(kind: str, order: Order) -> None:
    """Gradient inversion moves inputs until the meta-gradient fits: compare with finite differences."""
    problem, inner = Problem(network(kind)), InnerLoop(0.3, 2, order)
    params = stacked(problem, 2, shared=True, seed=0)
    support, query = (examples(2, 2, "cross-entropy", [], seed) for seed in (1, 2))
    for engine in ENGINES:

        def score(wanted: Tensor, given: Tensor, made: type[Engine] = engine) -> Tensor:
            parts = (Batch(wanted, support.targets, support.marks), Batch(given, query.targets, query.marks))
            found = meta_gradient(made(), problem, params, *parts, inner, create_graph=True).gradient
            return torch.stack([value.square().sum() for value in found.values()]).sum()

        inputs = (support.inputs.clone().requires_grad_(), query.inputs.clone().requires_grad_())
        assert torch.autograd.gradcheck(score, inputs, eps=1e-6, atol=1e-5, fast_mode=True)


def test_noise_of_an_adaptation_step_moves_what_is_learned() -> None:
    problem, inner = Problem(network("mlp")), InnerLoop(0.5, 1)
    params = stacked(problem, 2, shared=True, seed=0)
    support = examples(2, 2, "cross-entropy", [], 1)
    still = {name: torch.zeros_like(value) for name, value in params.items()}
    found = adapt(KernelEngine(), problem, params, support, inner, step_gradient=lambda step, here: still)
    assert all(torch.equal(found[name], params[name]) for name in params)
    ones = {name: torch.ones_like(value) for name, value in params.items()}
    moved = adapt(KernelEngine(), problem, params, support, inner, step_gradient=lambda step, here: ones)
    assert all(torch.allclose(moved[name], params[name] - 0.5) for name in params)


def test_a_model_that_is_not_twice_differentiable_is_refused() -> None:
    """A gradient by the parameters alone does not fail here: it silently leaves the second derivative out."""
    batch = examples(1, 3, "cross-entropy", [], 1)
    with pytest.raises(InputError, match=r"Unbending cannot be differentiated twice.*client.order = 'first'"):
        refuse_once_differentiable(Problem(Unbending(16).double()), batch.inputs[0], batch.targets[0])
