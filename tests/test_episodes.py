"""Episodes and few-shot tasks: nothing in two sets at once, nothing that depends on shards, sentences for bad input."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_tasks, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv import InputError
from fedpriv.cohort import Cohort, Key, Purpose, Tasks, check_shots, draw_episodes
from fedpriv.data import FewShot, few_shot, load

KEY = Key(3, 5, Purpose.EPISODE)


@functools.lru_cache
def few(ways: int = 3, seed: int = 0, **more: Any) -> tuple[Tasks, Tasks]:
    return few_shot(load("digits"), FewShot(ways=ways, examples=6, held_out=4, seed=seed, **more))


def rows(batch: Any, task: int) -> set[bytes]:
    real = batch.mask[task] > 0
    return {one.numpy().tobytes() for one in batch.inputs[task][real]}


@given(shots=st.integers(1, 3), queries=st.sampled_from([None, 1, 2]), seed=st.integers(0, 99), permute=st.booleans())
@settings(max_examples=25, deadline=None)
def test_support_and_query_are_disjoint_and_have_their_shots(
    shots: int, queries: int | None, seed: int, permute: bool
) -> None:
    tasks, _ = few()
    cohort = Cohort(tasks, np.arange(3))
    drawn = draw_episodes(cohort, Key(seed, 1, Purpose.EPISODE), shots=shots, queries=queries, permute_labels=permute)
    for task in range(3):
        support, query = rows(drawn.support, task), rows(drawn.query, task)
        own = {one.tobytes() for one in tasks.train.inputs[tasks.train.rows(task)]}
        assert not support & query
        assert support | query <= own
        for batch, wanted in ((drawn.support, shots), (drawn.query, queries)):
            called = batch.targets[task][batch.mask[task] > 0]
            counts = torch.bincount(called, minlength=3)
            assert (counts == wanted).all() if wanted else (counts > 0).all()
    if permute:
        assert drawn.labels is not None
        assert (drawn.labels.sort(dim=1).values == torch.arange(3)).all()
    else:
        assert drawn.labels is None


def test_names_of_classes_change_alike_in_support_and_query() -> None:
    tasks, _ = few()
    cohort = whole(tasks)
    plain = draw_episodes(cohort, KEY, shots=2, queries=1)
    named = draw_episodes(cohort, KEY, shots=2, queries=1, permute_labels=True)
    assert named.labels is not None
    for before, after in ((plain.support, named.support), (plain.query, named.query)):
        assert torch.equal(before.inputs, after.inputs)
        assert torch.equal(named.labels.gather(1, before.targets), after.targets)
    assert any(not torch.equal(row, torch.arange(3)) for row in named.labels)


def test_an_episode_depends_on_seed_round_and_task_only() -> None:
    tasks, _ = few()
    together = draw_episodes(Cohort(tasks, np.arange(6)), KEY, shots=1, queries=2, permute_labels=True)
    shard = tasks.shard(2, 6)
    alone = draw_episodes(Cohort(shard, np.array([1])), KEY, shots=1, queries=2, permute_labels=True)
    assert torch.equal(together.support.inputs[3], alone.support.inputs[0])
    assert torch.equal(together.query.targets[3], alone.query.targets[0])
    later = draw_episodes(Cohort(tasks, np.arange(6)), replace(KEY, round=6), shots=1, queries=2)
    assert not torch.equal(together.support.inputs, later.support.inputs)


def test_all_shots_are_given_where_nothing_is_asked() -> None:
    _, people = few(shots=2)
    drawn = draw_episodes(whole(people), KEY, shots=2, queries=0)
    assert (drawn.support.sizes == 3 * 2).all()
    assert (drawn.query.sizes == 0).all()


def test_regression_tasks_have_episodes() -> None:
    tasks = toy_tasks(3, sizes=[5, 6, 7])
    values = {
        part: replace(tasks.part(part), targets=tasks.part(part).targets.astype(float)[:, None])  # type: ignore[arg-type]
        for part in ("train", "validation", "test")
    }
    drawn = draw_episodes(whole(replace(tasks, num_classes=None, **values)), KEY, shots=2)
    assert drawn.support.sizes.tolist() == [2, 2, 2]
    assert drawn.query.sizes.tolist() == [3, 4, 5]


def test_too_many_shots_and_one_class_are_refused_in_a_sentence() -> None:
    tasks, _ = few()
    check_shots(tasks, 4)
    with pytest.raises(InputError, match=r"has 5 training examples of class 0, and 5 shots leave none.*to 4"):
        check_shots(tasks, 5)
    single = replace(tasks, train=replace(tasks.train, targets=np.zeros_like(tasks.train.targets)))
    with pytest.raises(InputError, match=r"has one class only \(0\).*2 ways"):
        check_shots(single, 1)


# --- few-shot tasks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [False, True])
def test_no_image_is_in_two_tasks_and_held_out_classes_in_none(turns: bool) -> None:
    tasks, people = few(turns=turns)
    tasks.check()
    people.check()
    seen = [one.tobytes() for side in (tasks, people) for part in (side.train, side.test) for one in part.inputs]
    assert len(seen) == len(set(seen))
    assert tasks.kinds is not None
    assert people.kinds is not None
    quarters = 4 if turns else 1
    mine, theirs = set((tasks.kinds // quarters).ravel().tolist()), set((people.kinds // quarters).ravel().tolist())
    assert not mine & theirs
    if turns:
        assert not ({6, 9} & mine and {6, 9} & theirs)
    assert (np.diff(np.sort(tasks.kinds, axis=1), axis=1) > 0).all()  # no class twice in a task


def test_labels_are_those_of_the_data_set_under_the_tasks_names() -> None:
    digits = load("digits")
    known = {one.tobytes(): int(label) for one, label in zip(digits.inputs, digits.targets, strict=True)}
    for side in few():
        assert side.kinds is not None
        for task in range(len(side)):
            own = side.train.rows(task)
            for image, label in zip(side.train.inputs[own], side.train.targets[own], strict=True):
                assert known[image.tobytes()] == side.kinds[task, label]


def test_six_and_nine_are_on_one_side_whatever_the_seed() -> None:
    for seed in range(6):
        tasks, people = few(turns=True, seed=seed, held_out_classes=3, tasks=10)
        assert tasks.kinds is not None
        assert people.kinds is not None
        sides = [{6, 9} & set((side.kinds // 4).ravel().tolist()) for side in (tasks, people)]
        assert sorted(map(len, sides)) == [0, 2]


def test_held_out_people_of_known_classes_have_other_images() -> None:
    tasks, people = few(held_out_classes=0)
    assert tasks.kinds is not None
    assert people.kinds is not None
    assert set(people.kinds.ravel()) & set(tasks.kinds.ravel())
    assert not rows_of(tasks) & rows_of(people)


def rows_of(side: Tasks) -> set[bytes]:
    return {one.tobytes() for part in (side.train, side.test) for one in part.inputs}


@pytest.mark.data
def test_writers_are_tasks() -> None:
    settings_ = FewShot(ways=5, shots=1, examples=10, by="writers", held_out=40)
    tasks, people = few_shot(load("femnist", size=14), settings_)
    tasks.check()
    people.check()
    check_shots(tasks, 1)
    assert len(tasks) + len(people) > 100
    assert not set(tasks.names) & set(people.names)
    assert (people.train.sizes == 5).all()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ways": 1}, "'ways' must be greater than or equal to 2, got 1"),
        ({"shots": 5}, r"5 shots of a class leave 1 of its 6 examples, and 2 are needed"),
        ({"ways": 6}, r"6 ways are more than the 5 classes of 'digits' to learn from"),
        ({"held_out_classes": 10}, "must be less than the 10 classes"),
        ({"tasks": 10**4}, r"examples for \d+ task tasks of 3 classes.*10000 are asked for"),
        ({"by": "writers"}, "'digits' has no writers"),
    ],
)
def test_impossible_tasks_are_refused_in_a_sentence(given: dict[str, Any], sentence: str) -> None:
    values = {"ways": 3, "examples": 6, "held_out": 4} | given
    with pytest.raises(InputError, match=sentence):
        few_shot(load("digits"), FewShot(**values))
