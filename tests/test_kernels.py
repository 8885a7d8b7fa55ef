"""The hand-batched kernels against the loop, over models, losses, masks and sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedpriv import InputError
from fedpriv.cohort import Batch, Descent, Engine, KernelEngine, LoopEngine, Marks, Params, Problem, VmapEngine
from fedpriv.cohort.problem import Loss

SHAPE = (2, 3)


def network(depth: int, *, bias: bool, flatten: bool, dtype: torch.dtype, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()] if flatten else []
    width = 6 if flatten else SHAPE[-1]
    for _ in range(depth):
        layers += [nn.Linear(width, 7, bias=bias), nn.ReLU()]
        width = 7
    return nn.Sequential(*layers, nn.Linear(width, 3, bias=bias)).to(dtype)


def batch(count: int, size: int, loss: Loss, dtype: torch.dtype, *, flatten: bool, holes: list[int]) -> Batch:
    inputs = torch.randn(count, size, *(SHAPE if flatten else SHAPE[-1:]), dtype=dtype)
    targets = torch.randint(3, (count, size)) if loss == "cross-entropy" else torch.randn(count, size, 3, dtype=dtype)
    mask = torch.ones(count, size, dtype=dtype)
    for task, hole in enumerate(holes):
        mask[task % count, max(size - hole, 0) :] = 0  # a hole as long as the batch: the task rests
        inputs[task % count, max(size - hole, 0) :] = 0
    return Batch(inputs, targets, Marks(mask))


def a_step(engine: Engine, problem: Problem, examples: Batch, *how: Any) -> Params:
    """Return the weights of two tasks after one step from the public start."""
    params = {name: value.unsqueeze(0).repeat(2, *[1] * value.dim()) for name, value in problem.initial().items()}
    engine.descend(problem, params, [examples], Descent(0.1, *how))
    return params


@given(
    depth=st.integers(0, 2),
    count=st.integers(1, 4),
    size=st.integers(1, 5),
    steps=st.sampled_from([1, 4]),
    loss=st.sampled_from(["cross-entropy", "squared"]),
    double=st.booleans(),
    bias=st.booleans(),
    flatten=st.booleans(),
    holes=st.lists(st.integers(0, 5), max_size=4),
    pull=st.sampled_from(["none", "zero", "number", "per task", "own anchor"]),
    momentum=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_kernels_step_and_score_as_the_loop(
    depth: int, count: int, size: int, steps: int, loss: Loss, double: bool, bias: bool, flatten: bool,
    holes: list[int], pull: str, momentum: float, seed: int,
) -> None:  # fmt: skip
    dtype = torch.float64 if double else torch.float32
    problem = Problem(network(depth, bias=bias, flatten=flatten, dtype=dtype, seed=seed), loss)
    # Small enough for steps that go down: where they blow up, every rounding does, the loop's own too.
    start = {name: 0.3 * torch.randn(count, *value.shape, dtype=dtype) for name, value in problem.initial().items()}
    anchor = {name: torch.randn(value.shape[1:], dtype=dtype) for name, value in start.items()}
    if pull == "own anchor":
        anchor = {name: torch.randn_like(value) for name, value in start.items()}
    strength = {"zero": 0.0, "per task": torch.rand(count, dtype=dtype)}.get(pull, 0.3)
    results: list[Any] = []
    for engine in (LoopEngine(), KernelEngine()):
        torch.manual_seed(seed)
        params = {name: value.clone() for name, value in start.items()}
        batches = [batch(count, size, loss, dtype, flatten=flatten, holes=holes) for _ in range(steps)]
        descent = Descent(0.1, None if pull == "none" else anchor, strength, momentum)
        engine.descend(problem, params, batches, descent)
        # Scored where the loop ended: a small difference of weights may be a large one of the loss.
        ended = dict(zip(params, results[0], strict=False)) if results else params
        results.append([*params.values(), *engine.scores(problem, ended, batches[-1])])
    tolerance = 1e-10 if double else 2e-5
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(two, one, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_the_kernels_do_not_move_a_task_that_rests_or_stands_at_its_anchor() -> None:
    problem = Problem(network(1, bias=True, flatten=True, dtype=torch.float32, seed=0))
    params = {name: torch.randn(3, *value.shape) for name, value in problem.initial().items()}
    before = {name: value.clone() for name, value in params.items()}
    examples = batch(3, 4, "cross-entropy", torch.float32, flatten=True, holes=[4, 4, 4])
    KernelEngine().descend(problem, params, [examples], Descent(0.1, before, 0.7))
    away = {name: value + 1.0 for name, value in before.items()}
    KernelEngine().descend(problem, params, [examples], Descent(0.1, away, 0.7))
    for name, value in params.items():
        assert torch.equal(value, before[name])


class Tied(nn.Module):
    """An autoencoder whose two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(3, 3)
        self.up = nn.Linear(3, 3)
        self.up.weight = self.down.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.up(self.down(inputs).relu())
        return result


def tied_chain() -> nn.Sequential:
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    two.weight = one.weight
    return nn.Sequential(one, nn.ReLU(), two)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
        nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3)),
        Tied(),
        tied_chain(),
    ],
    ids=["tanh", "no activation", "ends in relu", "layer norm", "tied", "tied chain"],
)
def test_other_models_fall_back_to_vmap(model: nn.Module) -> None:
    problem, examples = Problem(model), batch(2, 4, "cross-entropy", torch.float32, flatten=False, holes=[])
    results = [a_step(engine, problem, examples) for engine in (VmapEngine(), KernelEngine())]
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name])


def test_a_layer_that_is_registered_twice_is_refused() -> None:
    shared = nn.Linear(3, 3)
    with pytest.raises(InputError, match=r"layer '2' is layer '0' again; register it once"):
        Problem(nn.Sequential(shared, nn.ReLU(), shared))


def test_images_without_flatten_are_not_mistaken_for_vectors() -> None:
    """A linear layer maps the last axis only; flattening first would be another model."""
    model = nn.Sequential(nn.Linear(3, 3))
    examples = batch(2, 4, "squared", torch.float32, flatten=True, holes=[])
    problem = Problem(model, "squared")
    wide = Batch(examples.inputs, torch.randn(2, 4, *SHAPE), examples.marks)
    params, other = (a_step(engine, problem, wide) for engine in (KernelEngine(), VmapEngine()))
    for name, value in params.items():
        assert torch.equal(value, other[name])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("engine", [KernelEngine(), VmapEngine(), LoopEngine()], ids=lambda one: one.name)
def test_padding_that_overflows_does_not_count(engine: Engine, momentum: float) -> None:
    """Zero times infinity is NaN: on padding, a task's own large weights would decide whether the task counts."""
    problem = Problem(network(1, bias=True, flatten=False, dtype=torch.float32, seed=0), "squared")
    params = {name: torch.full((2, *value.shape), 1e30) for name, value in problem.initial().items()}
    before = {name: value.clone() for name, value in params.items()}
    examples = batch(2, 4, "squared", torch.float32, flatten=False, holes=[4, 4])
    engine.descend(problem, params, [examples], Descent(0.1, before, 0.5, momentum))
    for name, value in params.items():
        assert torch.equal(value, before[name])


def test_a_strength_of_another_type_and_a_shared_activation() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 4), shared, nn.Linear(4, 4), shared, nn.Linear(4, 3))
    problem, examples = Problem(model), batch(2, 4, "cross-entropy", torch.float32, flatten=False, holes=[1])
    strength = torch.tensor([0.2, 0.4], dtype=torch.float64)
    anchor = {name: value + 1 for name, value in problem.initial().items()}
    results = [a_step(engine, problem, examples, anchor, strength) for engine in (LoopEngine(), KernelEngine())]
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-5, atol=1e-6)


class Summed(nn.Module):
    """Two parameters whose gradients are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(3, 3))
        self.b = nn.Parameter(torch.zeros(3, 3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ (self.a + self.b)


def test_parameters_that_share_a_gradient_are_pulled_apart() -> None:
    problem, examples = Problem(Summed()), batch(2, 4, "cross-entropy", torch.float32, flatten=False, holes=[])
    anchor = {"a": torch.full((3, 3), 5.0), "b": torch.full((3, 3), -5.0)}
    results = [a_step(engine, problem, examples, anchor, 0.5) for engine in (LoopEngine(), VmapEngine())]
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value)


def test_a_layer_with_a_forward_of_its_own_falls_back_to_vmap() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].forward = lambda inputs: 2 * nn.functional.linear(inputs, model[0].weight, model[0].bias)
    problem, examples = Problem(model), batch(2, 4, "cross-entropy", torch.float32, flatten=False, holes=[])
    results = [a_step(engine, problem, examples) for engine in (VmapEngine(), KernelEngine())]
    assert torch.equal(results[0]["0.weight"], results[1]["0.weight"])


def test_products_do_not_depend_on_where_their_matrices_lie() -> None:
    """Bits of a task in any company rest on it: a product beside others begins at another address than alone."""
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in ((10, 20, 7), (33, 10, 10), (10, 13, 3), (7, 5, 1)):
        left = torch.randn(9, rows, inner, generator=generator)
        right = torch.randn(9, inner, columns, generator=generator)
        together = torch.bmm(left, right)
        for task in range(9):
            assert torch.equal(
                torch.bmm(left[task : task + 1].clone(), right[task : task + 1].clone())[0], together[task]
            )
