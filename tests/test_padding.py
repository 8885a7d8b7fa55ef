"""What stands where a task has fewer examples than its neighbours never reaches a model as zeros."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_tasks, whole
from torch import nn

from fedpriv import Experiment
from fedpriv.clients import MAML, GlobalModel, LowRankSparse, MeanRegularized
from fedpriv.cohort import (
    Cohort,
    Engine,
    InnerLoop,
    KernelEngine,
    Key,
    Learner,
    LoopEngine,
    Problem,
    Ragged,
    Schedule,
    Tasks,
    VmapEngine,
    adapt,
    broadcast,
    draw_episodes,
    meta_gradient,
)
from fedpriv.cohort.fast.products import ProductEngine
from fedpriv.lrs.packing import unpack
from fedpriv.models.low_rank import LowRank
from fedpriv.strategies import Billboard

SIZES = [7, 3, 5, 2]
ENGINES = [KernelEngine(), VmapEngine(), LoopEngine(), ProductEngine()]


class Standardise(nn.Module):
    """Each example minus its mean over its standard deviation: 0/0 for an example of zeros."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs - inputs.mean(dim=-1, keepdim=True)) / inputs.std(dim=-1, keepdim=True)


def standardising() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Standardise(), nn.Linear(5, 3))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: one.name + type(one).__name__)
def test_a_model_that_is_not_defined_at_zero_trains_and_scores_as_without_padding(engine: Engine) -> None:
    tasks = toy_tasks(4, sizes=SIZES)
    problem = Problem(standardising().double())
    learner, key = Learner(problem, engine), Key(1, 1)
    trained = learner.sgd(broadcast(problem.initial(), 4), whole(tasks), key, learning_rate=0.3, batch_size=4, epochs=3)
    scores = learner.evaluate(trained, whole(tasks))
    for task in range(4):
        model = standardising().double()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
        inputs = torch.from_numpy(tasks.train.inputs[tasks.train.rows(task)]).double()
        targets = torch.from_numpy(tasks.train.targets[tasks.train.rows(task)])
        for row in Schedule.draw(np.array([len(targets)]), np.array([task]), key, batch_size=4, epochs=3).index[0]:
            optimiser.zero_grad()
            chosen = row[row >= 0]
            nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(trained[name][task], value.detach(), rtol=1e-10, atol=1e-12)
        rows = tasks.test.rows(task)
        outputs = model(torch.from_numpy(tasks.test.inputs[rows]).double())
        loss = nn.functional.cross_entropy(outputs, torch.from_numpy(tasks.test.targets[rows]))
        torch.testing.assert_close(scores.loss[task], loss.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: one.name + type(one).__name__)
@pytest.mark.parametrize("order", ["first", "second"])
def test_meta_gradients_are_finite_where_sets_differ_in_size(engine: Engine, order: Any) -> None:
    tasks, problem = toy_tasks(4, sizes=[9, 4, 6, 5]), Problem(standardising().double())
    inner = InnerLoop(0.3, 2, order)

    def of(cohort: Cohort) -> Any:
        drawn = draw_episodes(cohort, Key(0, 1), shots=1)
        start = broadcast(problem.initial(), len(cohort))
        found = meta_gradient(engine, problem, start, drawn.support, drawn.query, inner)
        adapted = adapt(engine, problem, start, drawn.support, inner)
        return [*found.gradient.values(), found.query_loss, *adapted.values()]

    together = of(whole(tasks))
    for task in range(4):
        for one, all_of_them in zip(of(whole(tasks).one(task)), together, strict=True):
            assert torch.isfinite(one).all()
            torch.testing.assert_close(one[0], all_of_them[task], rtol=1e-10, atol=1e-12)


def test_padding_is_an_example_of_the_same_batch_of_the_same_task() -> None:
    tasks = toy_tasks(4, sizes=SIZES)
    cohort = Cohort(tasks, np.array([3, 0, 2]), torch.float64)
    index = np.array([[[1, -1, -1], [-1, -1, -1]], [[4, 6, -1], [5, -1, -1]], [[0, 1, 2], [3, 4, -1]]])
    for step, batch in enumerate(cohort.batches(index)):
        for place, task in enumerate([3, 0, 2]):
            rows = index[place, step]
            stands = np.where(rows >= 0, rows, max(rows[0], 0)) + tasks.train.offsets[task]
            np.testing.assert_array_equal(batch.inputs[place].numpy(), tasks.train.inputs[stands].astype(float))
            np.testing.assert_array_equal(batch.targets[place].numpy(), tasks.train.targets[stands])
            assert batch.mask[place].tolist() == (rows >= 0).tolist()
        cleared = batch.cleared()
        assert not cleared.inputs[batch.mask == 0].any()
        assert not cleared.targets[batch.mask == 0].any()
        assert torch.equal(cleared.inputs[batch.mask > 0], batch.inputs[batch.mask > 0])


def without_validation(tasks: Tasks, poisoned: int) -> Tasks:
    """Tasks of which only two have validation examples, those of one of them infinite."""
    shape = tasks.input_shape
    inputs = [np.full((2 if task in (1, poisoned) else 0, *shape), np.inf, np.float32) for task in range(len(tasks))]
    inputs[1][:] = np.arange(2 * shape[0]).reshape(2, -1)
    targets = [np.zeros(len(value), dtype=np.int64) for value in inputs]
    return replace(tasks, validation=Ragged.from_lists(inputs, targets))


def test_a_task_without_examples_in_a_part_gets_its_own_of_another_never_those_of_a_neighbour() -> None:
    tasks = without_validation(toy_tasks(4, sizes=SIZES), 3)
    batch = whole(tasks).part("validation")
    for task in (0, 2):
        first = int(tasks.train.offsets[task])
        assert torch.equal(batch.inputs[task], torch.from_numpy(tasks.train.inputs[[first, first]]).double())
        assert batch.targets[task].tolist() == [tasks.train.targets[first]] * 2
        assert not batch.mask[task].any()
    scores = Learner(Problem(standardising().double())).evaluate(
        broadcast(Problem(standardising().double()).initial(), 4), whole(tasks), "validation"
    )
    assert scores.loss.isfinite().tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "client",
    [
        GlobalModel(learning_rate=0.1, batch_size=4, final_epochs=1),
        MeanRegularized(learning_rate=0.1, batch_size=4, strength=(0.1, 1.0), final_epochs=1),
        MAML(learning_rate=0.1, steps=1, shots=1),
    ],
    ids=lambda one: type(one).__name__,
)
def test_every_task_counts_in_a_run(client: Any) -> None:
    """Seven examples in batches of four were enough to lose every task."""
    tasks = toy_tasks(6, sizes=[7, 7, 9, 7, 8, 7])
    tasks.train.targets[:] = np.concatenate([np.arange(size) % 3 for size in tasks.train.sizes])
    run = Experiment(
        tasks=tasks,
        model=standardising(),
        client=client,
        strategy=Billboard(clipping_norm=1.0, sampling_rate=1.0, rounds=2, noise_multiplier=0.0),
        grid="in-process",
    ).run(reproduce=1)
    assert "updates" not in " ".join(run.summary["warnings"])
    assert np.isfinite(run.scores["personal.loss"]).all()


def test_sums_over_examples_leave_padding_out() -> None:
    """What stands for padding is an example, and statistics of linear models add examples up without a mask."""
    rng, sizes = np.random.default_rng(0), [5, 9, 16]

    def part(counts: list[int]) -> Ragged:
        inputs = [rng.normal(size=(count, 4)) for count in counts]
        return Ragged.from_lists(inputs, [value.sum(axis=1) + 0.3 * value[:, 0] ** 2 for value in inputs])

    tasks = Tasks("sums", ("a", "b", "c"), part(sizes), part([2] * 3), part([2] * 3), None, declared="benchmark")
    model = LowRank(update="normal-equations", start="moments").build((4,), 1)
    learner, billboard = Learner(Problem(model, "squared")), Problem(model, "squared").initial()
    client = LowRankSparse(sparsity=1)

    def of(cohort: Cohort, round: int) -> list[torch.Tensor]:
        begun = client.initial_state(billboard, cohort)
        state, update = client.train(learner, billboard, begun, cohort, Key(0, round))
        final = client.finish(learner, billboard, state, cohort, Key(0, 0))
        return [*update.values(), final["coefficients"], final["values"]]

    everybody = Cohort(tasks, np.arange(3), torch.float64)
    for round in (1, 2):
        for task, size in enumerate(sizes):
            rows = tasks.train.rows(task)
            for one, together in zip(of(everybody.one(task), round), of(everybody, round), strict=True):
                torch.testing.assert_close(one[0], together[task], rtol=1e-10, atol=1e-12)
            if round == 1:
                x, y = tasks.train.inputs[rows], tasks.train.targets[rows]
                wanted = np.einsum("n,ni,nj->ij", y**2, x, x) / size
                found = unpack(of(everybody, 1)[list(billboard).index("moments")][task].numpy())
                np.testing.assert_allclose(found, wanted, rtol=1e-10)
