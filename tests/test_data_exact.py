"""The Dirichlet draw of exact size: sizes, no example twice, two classes, classes that run out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.data.exact import draw_classes, exact_dirichlet
from fedpriv.errors import InputError
from fedpriv.randomness import generator


@st.composite
def draws(draw):
    counts = np.array(draw(st.lists(st.integers(0, 30), min_size=2, max_size=6)))
    total, outside = int(counts.sum()), int(counts.sum() - counts.max())
    if outside < 1:
        counts[:] = 4
        total, outside = int(counts.sum()), int(counts.sum() - counts.max())
    tasks = draw(st.integers(1, max(1, min(outside, total // 2))))
    examples = draw(st.integers(2, max(2, total // tasks)))
    alpha = draw(st.sampled_from([1e-300, 1e-6, 0.01, 0.3, 1.0, 100.0]))
    return (
        np.repeat(np.arange(len(counts)), counts),
        len(counts),
        tasks,
        examples,
        alpha,
        draw(st.integers(0, 9)),
    )


@given(draws())
@settings(max_examples=300, deadline=None)
def test_sizes_are_exact_nothing_twice_two_classes_each(case):
    labels, classes, tasks, examples, alpha, seed = case
    concentration = np.full(classes, alpha)
    arguments = {"tasks": tasks, "examples": examples, "concentration": concentration, "seed": seed}
    drawn = exact_dirichlet(labels, classes, **arguments)
    assert [len(indices) for indices in drawn] == [examples] * tasks
    together = np.concatenate(drawn)
    assert len(np.unique(together)) == tasks * examples
    assert all(len(np.unique(labels[indices])) >= 2 for indices in drawn)
    again = exact_dirichlet(labels, classes, **arguments)
    assert all((a == b).all() for a, b in zip(drawn, again, strict=True))


def test_the_exchange_between_tasks_rescues_the_last_task():
    # The pool is used up, and proportions without mixture leave one class to the last tasks.
    labels = np.repeat([0, 1, 2], [34, 3, 3])
    for seed in range(20):
        drawn = exact_dirichlet(labels, 3, tasks=5, examples=8, concentration=np.array([1e-9, 5.0, 5.0]), seed=seed)
        assert all(len(set(labels[indices])) >= 2 for indices in drawn)
        assert len(set(np.concatenate(drawn))) == 40


def test_an_exhausted_class_gives_its_mass_to_the_others_in_proportion():
    counts = np.zeros(3)
    for seed in range(400):
        left = np.array([2, 1000, 1000])
        classes = draw_classes(generator(seed, "test"), np.array([0.5, 0.1, 0.4]), left, 40)
        assert (left == [2, 1000, 1000]).all()
        counts += np.bincount(classes, minlength=3)
    assert counts[0] == 800
    # 1 to 4 behind the exhausted class; about 15,200 draws, standard deviation 0.003.
    assert counts[1] / counts[1:].sum() == pytest.approx(0.2, abs=0.015)


def test_one_by_one_gives_the_same_classes():
    # The definition, literally: renormalise before every single example.
    for seed in range(100):
        rng = generator(seed, "test")
        proportions = rng.dirichlet(np.full(5, 0.3))
        left = rng.integers(0, 6, size=5)
        left[0] += 3
        examples = int(left.sum()) - seed % 3
        uniform = generator(seed, "again").random(examples)
        expected, rest = [], left.copy()
        for u in uniform:
            weights = np.where(rest > 0, proportions, 0.0)
            weights = weights if weights.sum() > 0 else rest.astype(float)
            edges = np.cumsum(weights)
            expected.append(min(int(np.searchsorted(edges, u * edges[-1], side="right")), np.flatnonzero(weights)[-1]))
            rest[expected[-1]] -= 1
        assert draw_classes(generator(seed, "again"), proportions, left, examples).tolist() == expected


def test_classes_without_mass_are_drawn_in_proportion_to_the_pool():
    classes = draw_classes(generator(0, "test"), np.array([1.0, 0.0, 0.0]), np.array([1, 2, 3]), 6)
    assert np.bincount(classes).tolist() == [1, 2, 3]


def test_small_alpha_means_few_classes():
    labels = np.repeat(np.arange(10), 1000)
    kinds = {
        alpha: np.mean(
            [
                len(set(labels[indices]))
                for indices in exact_dirichlet(
                    labels, 10, tasks=100, examples=30, concentration=np.full(10, alpha), seed=1
                )
            ]
        )
        for alpha in (0.01, 0.3, 10.0)
    }
    assert kinds[0.01] < 2.6 < 3.5 < kinds[0.3] < 7 < kinds[10.0]


@pytest.mark.parametrize(
    ("tasks", "examples", "words"),
    [(11, 10, "need 110 examples, the data set has 100"), (21, 4, "only 20 examples are not of class 0")],
)
def test_impossible_draws_are_refused_up_front(tasks, examples, words):
    labels = np.repeat([0, 1], [80, 20])
    with pytest.raises(InputError, match=words):
        exact_dirichlet(labels, 2, tasks=tasks, examples=examples, concentration=np.ones(2), seed=0)
