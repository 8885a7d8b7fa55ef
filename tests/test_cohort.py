"""Batches, schedules and the two engines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import toy_problem, toy_tasks, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedpriv import InputError
from fedpriv.cohort import (
    Cohort,
    Key,
    Learner,
    LoopEngine,
    Problem,
    Purpose,
    Schedule,
    TaskFailure,
    VmapEngine,
    broadcast,
)


def test_padded_part_holds_exactly_the_tasks_examples() -> None:
    tasks = toy_tasks(5, sizes=[2, 9, 4, 3, 7])
    batch = whole(tasks).part("train")
    assert batch.inputs.shape == (5, 16, 5)  # padded to a power of two
    assert batch.sizes.tolist() == [2, 9, 4, 3, 7]
    for k in range(5):
        mine = tasks.train.inputs[tasks.train.rows(k)]
        np.testing.assert_allclose(batch.inputs[k, : len(mine)].numpy(), mine)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    batch_size=st.integers(1, 15),
    epochs=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_epoch_uses_every_example_once(sizes: list[int], batch_size: int, epochs: int) -> None:
    count = np.array(sizes)
    schedule = Schedule.draw(count, np.arange(len(sizes)), Key(3, 1), batch_size=batch_size, epochs=epochs)
    assert schedule.evaluations.tolist() == [size * epochs for size in sizes]
    for k, size in enumerate(sizes):
        used = schedule.index[k][schedule.index[k] >= 0]
        assert np.bincount(used, minlength=size).tolist() == [epochs] * size


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), steps=st.integers(1, 11))
@settings(max_examples=30, deadline=None)
def test_steps_cut_reshuffled_epochs(sizes: list[int], steps: int) -> None:
    schedule = Schedule.draw(np.array(sizes), np.arange(len(sizes)), Key(0, 1), batch_size=4, steps=steps)
    assert ((schedule.index >= 0).any(axis=2).sum(axis=1) == steps).all()


def test_schedule_depends_on_the_task_not_on_its_neighbours() -> None:
    sizes, ids = np.array([5, 8, 3]), np.array([10, 11, 12])
    together = Schedule.draw(sizes, ids, Key(1, 2), batch_size=2, epochs=2).index
    alone = Schedule.draw(sizes[1:2], ids[1:2], Key(1, 2), batch_size=2, epochs=2).index
    np.testing.assert_array_equal(together[1, : alone.shape[1]], alone[0])


@pytest.mark.parametrize("other", [Key(2, 2), Key(1, 3), Key(1, 2, Purpose.FINISH)])
def test_streams_differ_by_seed_round_purpose_and_task(other: Key) -> None:
    one = Key(1, 2).generator(0).random(4)
    assert not np.allclose(one, other.generator(0).random(4))
    assert not np.allclose(one, Key(1, 2).generator(1).random(4))
    np.testing.assert_array_equal(one, Key(1, 2).generator(0).random(4))


@given(
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=4),
    model=st.sampled_from(["linear", "mlp"]),
    strength=st.sampled_from([0.0, 0.7]),
    batch_size=st.sampled_from([1, 3, 20]),
    seed=st.integers(0, 5),
)
@settings(max_examples=15, deadline=None)
def test_vmap_and_loop_agree_in_float64(
    sizes: list[int], model: str, strength: float, batch_size: int, seed: int
) -> None:
    tasks = toy_tasks(len(sizes), sizes=sizes, seed=seed)
    problem = toy_problem(tasks, model=model, seed=seed)
    anchor = {name: value + 0.1 for name, value in problem.initial().items()}
    results = []
    for engine in (VmapEngine(), LoopEngine()):
        learner = Learner(problem, engine)
        start = broadcast(problem.initial(), len(tasks))
        trained = learner.sgd(
            start, whole(tasks), Key(seed, 1), learning_rate=0.3, batch_size=batch_size, epochs=2,
            anchor=anchor, strength=strength,
        )  # fmt: skip
        scores = learner.evaluate(trained, whole(tasks))
        results.append([*trained.values(), scores.loss, scores.accuracy])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_sgd_equals_a_plain_torch_loop() -> None:
    tasks = toy_tasks(3, sizes=[6, 9, 4])
    problem = toy_problem(tasks)
    key = Key(5, 3)
    trained = Learner(problem).sgd(
        broadcast(problem.initial(), 3), whole(tasks), key, learning_rate=0.2, batch_size=4, epochs=2
    )
    for k in range(3):
        model = toy_problem(tasks).model
        optimiser = torch.optim.SGD(model.parameters(), lr=0.2)
        rows = tasks.train.rows(k)
        inputs = torch.from_numpy(tasks.train.inputs[rows]).double()
        targets = torch.from_numpy(tasks.train.targets[rows])
        index = Schedule.draw(np.array([len(targets)]), np.array([k]), key, batch_size=4, epochs=2).index[0]
        for step in index:
            chosen = step[step >= 0]
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(trained[name][k], value.detach(), rtol=1e-12, atol=1e-12)


def test_start_is_not_changed_by_training() -> None:
    tasks = toy_tasks(3)
    problem = toy_problem(tasks)
    start = broadcast(problem.initial(), 3)
    before = {name: value.clone() for name, value in start.items()}
    Learner(problem).sgd(start, whole(tasks), Key(0, 1), learning_rate=0.5, batch_size=2, epochs=1)
    for name, value in start.items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_loop_names_the_failing_task_and_stage() -> None:
    tasks = toy_tasks(3)

    def stage(cohort: Cohort, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if cohort.ids[0] == 1:
            raise ValueError("bad luck")
        return state

    with pytest.raises(TaskFailure, match=r"task 'task-1' failed in stage 'train': ValueError: bad luck"):
        LoopEngine().over_tasks("train", stage, whole(tasks), {"x": torch.zeros(3)})


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.BatchNorm1d(5), "GroupNorm"),
        (nn.BatchNorm1d(5, track_running_stats=False), "GroupNorm"),
        (nn.InstanceNorm1d(5, track_running_stats=True), "running statistics"),
        (nn.Dropout(0.5), "global generator"),
    ],
)
def test_impure_layers_are_refused_by_name(layer: nn.Module, word: str) -> None:
    with pytest.raises(InputError, match=word) as error:
        Problem(nn.Sequential(nn.Linear(5, 5), layer, nn.Linear(5, 3)))
    assert "'1'" in str(error.value)


def test_a_buffer_that_could_learn_is_refused_by_name() -> None:
    model = nn.Linear(5, 3)
    model.register_buffer("seen", torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InputError, match="seen"):
        Problem(model)


def test_tasks_with_no_or_one_example_are_refused() -> None:
    for sizes, word in (([4, 0, 4], "no training examples"), ([4, 1, 4], "one training example")):
        with pytest.raises(InputError, match=word):
            toy_tasks(3, sizes=sizes).check()
    bad = toy_tasks(3)
    bad.train.inputs[0, 0] = np.nan
    with pytest.raises(InputError, match=r"'task-0' holds a NaN"):
        bad.check()


def test_momentum_is_that_of_torch() -> None:
    tasks = toy_tasks(1, sizes=[8])
    problem = toy_problem(tasks)
    model, start = problem.model, broadcast(problem.initial(), 1)
    key, batch = Key(2, 1), 4
    ours = Learner(problem).sgd(
        start, whole(tasks), key, learning_rate=0.1, batch_size=batch, epochs=3, momentum=0.9,
        anchor=problem.initial(), strength=0.01,
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    index = Schedule.draw(np.array([8]), np.array([0]), key, batch_size=batch, epochs=3).index[0]
    anchor = [value.detach().clone() for value in model.parameters()]
    for rows in index:
        optimizer.zero_grad()
        inputs = torch.from_numpy(tasks.train.inputs[rows]).double()
        loss = nn.functional.cross_entropy(model(inputs), torch.from_numpy(tasks.train.targets[rows]))
        pull = sum(((w - a) ** 2).sum() for w, a in zip(model.parameters(), anchor, strict=True))
        (loss + 0.005 * pull).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(ours[name][0], value.detach(), rtol=1e-10, atol=1e-12)
