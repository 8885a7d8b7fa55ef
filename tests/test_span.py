"""First layers in the span of a task's own examples: against the loop, and with the same bits in any company."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedpriv.cohort import Cohort, KernelEngine, Key, Learner, LoopEngine, Params, Problem, Ragged, Tasks
from fedpriv.cohort.fast import span
from fedpriv.cohort.fast.span import Examples, span_widths
from fedpriv.cohort.fast.tiles import Tiles
from fedpriv.cohort.problem import Loss

SHAPE = (2, 3)


@pytest.fixture
def always() -> Iterator[None]:
    """Let the span be taken for every task that has an example, however small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(span, "_TASK_COST", -1e12)
        yield


def tasks_of(sizes: list[int], loss: Loss = "cross-entropy", shape: tuple[int, ...] = SHAPE) -> Tasks:
    generator = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    inputs = generator.standard_normal((offsets[-1], *shape)).astype(np.float32)
    targets: Any = np.arange(offsets[-1], dtype=np.int64) % 3
    if loss == "squared":
        targets = generator.standard_normal((offsets[-1], 3)).astype(np.float32)
    none = Ragged(inputs[:0], targets[:0], np.zeros(len(sizes) + 1, dtype=np.int64))
    names = tuple(f"task-{number}" for number in range(len(sizes)))
    classes = 3 if loss == "cross-entropy" else None
    return Tasks("made up", names, Ragged(inputs, targets, offsets), none, none, classes, "benchmark")


def problem_of(depth: int, *, bias: bool, dtype: torch.dtype, loss: Loss = "cross-entropy") -> Problem:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    width = 6
    for _ in range(depth):
        layers += [nn.Linear(width, 7, bias=bias), nn.ReLU()]
        width = 7
    return Problem(nn.Sequential(*layers, nn.Linear(width, 3, bias=bias)).to(dtype), loss)


class Fixed(Tiles):
    """Tiles of so many tasks."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def cut(self, count: int, bytes_per_task: int, work: int) -> Iterator[slice]:
        for first in range(0, count, self.size):
            yield slice(first, min(first + self.size, count))


def trained(engine: Any, cohort: Cohort, problem: Problem, **how: Any) -> Params:
    # Tasks differ in where they start, as with personal models.
    shift = torch.from_numpy(cohort.ids).to(cohort.dtype) / 50
    start = {name: value + shift.view(-1, *[1] * value.dim()) for name, value in problem.initial().items()}
    return Learner(problem, engine).sgd(start, cohort, Key(0, 1), **{"learning_rate": 0.1, "batch_size": 4, **how})


def alike(sizes: list[int]) -> list[Any]:
    """Return the tasks of each padded width, as a node puts them into cohorts."""
    widths = np.array([0 if not size else 1 << (size - 1).bit_length() for size in sizes])
    return [np.flatnonzero(widths == width) for width in np.unique(widths)]


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    depth=st.integers(0, 2),
    bias=st.booleans(),
    double=st.booleans(),
    loss=st.sampled_from(["cross-entropy", "squared"]),
    length=st.sampled_from([{"epochs": 1}, {"epochs": 3}, {"steps": 1}, {"steps": 9}]),
    batch_size=st.sampled_from([1, 4, 64]),
    pull=st.sampled_from(["none", "number", "per task", "own anchor"]),
    momentum=st.sampled_from([0.0, 0.0, 0.9]),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_tasks_descend_as_the_loop_does_and_have_the_same_bits_in_any_company(
    sizes: list[int], depth: int, bias: bool, double: bool, loss: Loss, length: dict[str, int], batch_size: int,
    pull: str, momentum: float, seed: int,
) -> None:  # fmt: skip
    dtype = torch.float64 if double else torch.float32
    problem = problem_of(depth, bias=bias, dtype=dtype, loss=loss)
    generator = np.random.default_rng(seed)
    count = len(sizes)
    anchor = {name: value + 0.1 for name, value in problem.initial().items()}
    if pull == "own anchor":
        anchor = {name: value + torch.rand(count, *value.shape, dtype=dtype) for name, value in anchor.items()}
    strengths = torch.linspace(0, 0.5, count, dtype=torch.float64)

    def pulled(which: Any) -> dict[str, Any]:
        how: dict[str, Any] = {**length, "batch_size": batch_size, "momentum": momentum, "learning_rate": 0.05}
        if pull != "none":
            how["anchor"] = {name: value[which] if pull == "own anchor" else value for name, value in anchor.items()}
            how["strength"] = strengths[which] if pull == "per task" else 0.3
        return how

    tasks = tasks_of(sizes, loss)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(span, "_TASK_COST", -1e12)
        engine = KernelEngine()
        for mine in alike(sizes):
            wanted = trained(LoopEngine(), Cohort(tasks, mine, dtype), problem, **pulled(mine))
            first = trained(KernelEngine(), Cohort(tasks, mine, dtype), problem, **pulled(mine))
            for name, value in first.items():
                # Momentum on a squared loss amplifies rounding: 1.5e-5 was seen in float32, which is the type's own.
                tolerance = 1e-10 if double else 1e-4
                torch.testing.assert_close(value, wanted[name], rtol=tolerance, atol=tolerance)
            # In another order and other tiles; then again, with what was kept; then each as a shard of its own.
            order = generator.permutation(mine)
            engine.tiles = Fixed(seed + 1)
            for _ in range(2):
                found = trained(engine, Cohort(tasks, order, dtype), problem, **pulled(order))
                for name, value in first.items():
                    assert torch.equal(found[name], value[np.searchsorted(mine, order)])
            for place, task in list(enumerate(mine.tolist()))[:2]:
                shard = Cohort(tasks.shard(task, task + 1), np.array([0]), dtype)
                alone = trained(KernelEngine(), shard, problem, **pulled([task]))
                assert all(torch.equal(alone[name][0], value[place]) for name, value in first.items())


def widths(sizes: list[int], inputs: int, outputs: int, *, steps: int, batch: int) -> list[int]:
    index = np.zeros((len(sizes), steps, batch), dtype=np.int64)
    return span_widths(index, np.array(sizes), inputs, outputs).tolist()


def test_the_span_is_taken_where_it_costs_less_with_nothing_kept() -> None:
    assert widths([100], 784, 64, steps=10, batch=10) == [104]
    assert widths([100], 784, 10, steps=10, batch=10) == [0]  # a softmax model: products are small beside X X^T
    assert widths([100], 784, 10, steps=50, batch=10) == [104]
    assert widths([300, 65], 784, 64, steps=30, batch=10) == [0, 72]
    assert widths([100], 784, 64, steps=1, batch=10) == [0]
    assert widths([8], 6, 7, steps=10, batch=4) == [0]  # calls for single tasks would cost more than the steps
    assert widths([5000], 784, 64, steps=10**6, batch=10) == [0]  # a matrix of 100 MB


def test_the_choice_follows_from_a_tasks_own_steps() -> None:
    """Beside a task of three epochs, one of a single step rests most of the time, and goes by mini-batches."""
    index = np.zeros((2, 30, 10), dtype=np.int64)
    index[1, 1:] = -1
    assert span_widths(index, np.array([100, 100]), 784, 64).tolist() == [104, 0]


def test_an_mlp_takes_the_span_and_agrees_with_the_loop_in_float32() -> None:
    tasks, mine = tasks_of([100, 97, 70], shape=(28, 28)), np.arange(3)
    torch.manual_seed(0)
    problem = Problem(nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 3)))
    engine = KernelEngine()
    how: dict[str, Any] = {"steps": 10, "batch_size": 10, "learning_rate": 0.01}
    found, wanted = (trained(one, Cohort(tasks, mine), problem, **how) for one in (engine, LoopEngine()))
    assert engine._examples is not None
    assert len(engine._examples._kept) == 3
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_task_whose_data_or_weights_overflow_stays_alone(poison: float, depth: int) -> None:
    """Padding is made up from a task's own examples; 0 times infinity is NaN."""
    problem = problem_of(depth, bias=True, dtype=torch.float32)
    clean, dirty = tasks_of([5, 7, 6]), tasks_of([5, 7, 6])
    dirty.train.inputs[5:12] = poison
    how: dict[str, Any] = {"epochs": 2, "anchor": problem.initial(), "strength": 0.1}
    one, two = (trained(KernelEngine(), Cohort(tasks, np.arange(3)), problem, **how) for tasks in (clean, dirty))
    for name, value in one.items():
        assert torch.equal(value[[0, 2]], two[name][[0, 2]])
        assert not two[name][1].isfinite().all() or depth


@pytest.mark.usefixtures("always")
def test_a_task_at_rest_and_one_at_its_anchor_do_not_move() -> None:
    problem = problem_of(1, bias=True, dtype=torch.float32)
    tasks = tasks_of([0, 6])
    start = {name: value.expand(2, *value.shape) for name, value in problem.initial().items()}
    away = {name: value + 1 for name, value in problem.initial().items()}
    learner = Learner(problem, KernelEngine())
    how: dict[str, Any] = {"learning_rate": 0.1, "batch_size": 8, "steps": 1}
    found = learner.sgd(start, Cohort(tasks, np.arange(2)), Key(0, 1), anchor=away, strength=0.7, **how)
    assert all(torch.equal(found[name][0], start[name][0]) for name in start)
    # One step from the anchor is the same for every strength, so that none wins by rounding.
    models = [
        learner.sgd(start, Cohort(tasks, np.arange(2)), Key(0, 1), anchor=problem.initial(), strength=strength, **how)
        for strength in (0.1, 0.2, 3.0)
    ]
    assert all(torch.equal(models[0][name], other[name]) for other in models for name in start)


@pytest.mark.usefixtures("always")
def test_what_is_kept_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, problem = tasks_of([9] * 20), problem_of(1, bias=True, dtype=torch.float32)
    cohort = Cohort(tasks, np.arange(20))
    wanted = trained(KernelEngine(), cohort, problem, epochs=2)
    each = 9 * 9 * 4
    monkeypatch.setattr(span, "_KEPT_BYTES", 5 * each + 3)
    engine = KernelEngine()
    for _ in range(3):
        found = trained(engine, cohort, problem, epochs=2)
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
        assert engine._examples is not None
        assert sum(value.nbytes for value in engine._examples._kept.values()) == 5 * each


@pytest.mark.usefixtures("always")
def test_an_engine_does_not_mix_up_the_data_of_two_populations_models_or_types() -> None:
    engine = KernelEngine()
    for sizes in ([6, 7], [7, 5]):
        tasks = tasks_of(sizes)
        for bias in (True, False):
            for dtype in (torch.float32, torch.float64):
                problem = problem_of(1, bias=bias, dtype=dtype)
                cohort = Cohort(tasks, np.arange(2), dtype)
                one, two = (trained(each, cohort, problem, epochs=2) for each in (engine, KernelEngine()))
                assert all(torch.equal(one[name], value) for name, value in two.items())


@pytest.mark.parametrize("how", ["read only", "fortran", "reversed"])
def test_examples_are_read_from_any_array_without_a_warning(how: str) -> None:
    data = tasks_of([3, 4]).train
    wanted = data.inputs[3:].reshape(4, -1).copy()
    inputs = {"fortran": np.asfortranarray(data.inputs), "reversed": data.inputs[::-1].copy()[::-1]}.get(
        how, data.inputs
    )
    inputs.flags.writeable = how != "read only"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        examples = Examples(Ragged(inputs, data.targets, data.offsets), torch.float64, bias=True)
    matrix = examples.matrix(1)
    assert np.array_equal(matrix.numpy(), wanted)
    products = examples.products(1, matrix, 6)
    np.testing.assert_allclose(products[:4, :4].numpy(), wanted.astype(float) @ wanted.T.astype(float) + 1, rtol=1e-12)
    assert not products[4:].any()
    assert not products[:, 4:].any()
    assert examples.products(1, matrix, 6) is products


def test_the_factors_of_a_pull_do_not_drift_and_rest_where_a_task_rests() -> None:
    """Rounded one by one, 2,000 factors of 0.9999 are off by 6e-6 in all; and when a task rests, neighbours decide."""
    pulled = torch.cat([torch.ones(1, 3, dtype=torch.float64), torch.full((2000, 3), 0.9999, dtype=torch.float64)])
    pulled[1000:, 1] = 1.0
    pulled[5:, 2] = 0.0
    rounded = span._rounded(pulled, torch.float32)
    assert rounded.dtype == torch.float32
    made, exact = rounded.double().cumprod(dim=0), pulled.cumprod(dim=0)
    torch.testing.assert_close(made, exact, rtol=1.5e-7, atol=0)
    assert (pulled.float().double().cumprod(dim=0)[-1, 0] / exact[-1, 0] - 1).abs() > 1e-6
    assert torch.equal(rounded[1000:, 1], torch.ones(1001))
    alone = span._rounded(pulled[:1000, 1:2], torch.float32)
    assert torch.equal(alone[:, 0], rounded[:1000, 1])
    assert torch.equal(span._rounded(pulled, torch.float64)[:5], pulled[:5])


def test_a_pulled_task_with_few_steps_has_the_same_bits_beside_one_with_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span, "_TASK_COST", -1e12)
    sizes = [33, 64, 40, 57, 35]
    tasks, problem = (
        tasks_of(sizes, "cross-entropy"),
        problem_of(1, bias=True, dtype=torch.float32, loss="cross-entropy"),
    )
    for seed in range(4):
        how = {
            "epochs": 3,
            "batch_size": 10,
            "learning_rate": 0.1,
            "anchor": problem.initial(),
            "strength": 2 + seed / 7,
        }
        together = trained(KernelEngine(), Cohort(tasks, np.arange(5)), problem, **how)
        for task in range(5):
            alone = trained(KernelEngine(), Cohort(tasks, np.array([task])), problem, **how)
            assert all(torch.equal(alone[name][0], value[task]) for name, value in together.items())
