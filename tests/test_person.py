"""What a history costs a person with several tasks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import experiment, noisy, toy_tasks
from scipy.stats import binom, norm

from fedpriv import InputError
from fedpriv.privacy import Release, epsilon
from fedpriv.privacy.gaussian import gaussian_epsilon
from fedpriv.privacy.person import person_epsilon
from fedpriv.privacy.terms import Relation

ADD, REPLACE, ZERO = Relation.ADD_REMOVE, Relation.REPLACE_ONE, Relation.ZERO_OUT


def release(rate: float = 1.0, noise: float = 2.0, **more: Any) -> Release:
    name = "full" if rate == 1.0 else "poisson"
    return Release(**{"noise_multiplier": noise, "sampling_name": name, "rate": rate, "clipping_norm": 1.0} | more)


@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_plain_gaussian_noise_has_the_exact_curve(tasks: int) -> None:
    for relation, factor in ((ADD, 1), (ZERO, 1), (REPLACE, 2)):
        found = person_epsilon({release(): 4}, 1e-6, relation, tasks)
        assert found.value == pytest.approx(gaussian_epsilon(factor * tasks * math.sqrt(4) / 2.0, 1e-6), rel=1e-12)
    rows = person_epsilon({release(noise_at="node"): 4}, 1e-6, REPLACE, tasks)
    assert rows.value == pytest.approx(gaussian_epsilon(2 * math.sqrt(tasks * 4) / 2.0, 1e-6), rel=1e-12)


def test_one_task_is_no_special_case() -> None:
    history = {release(0.1): 20}
    assert person_epsilon(history, 1e-5, ADD, 1) == epsilon(history, 1e-5, ADD)
    assert person_epsilon([], 1e-5, ADD, 3).value == 0.0
    assert math.isinf(person_epsilon([release(noise=0.0)], 1e-5, ADD, 3).value)
    with pytest.raises(InputError, match="at least 1 task"):
        person_epsilon(history, 1e-5, ADD, 0)


@pytest.mark.parametrize("rate", [0.02, 0.3])
@pytest.mark.parametrize("tasks", [2, 4])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_one_sampled_release_is_never_below_the_truth(rate: float, tasks: int, delta: float) -> None:
    """How many of a person's tasks are drawn is binomial: the divergence of that mixture, on a fine grid."""
    noise = 1.5
    x = np.linspace(-15 * noise, tasks + 15 * noise, 400_001)
    absent = norm.pdf(x, 0.0, noise)
    present = sum(binom.pmf(j, tasks, rate) * norm.pdf(x, j, noise) for j in range(tasks + 1))
    found = person_epsilon([release(rate, noise)], delta, ADD, tasks)
    for one, two in ((present, absent), (absent, present)):
        true = float(np.maximum(one - math.exp(found.value) * two, 0.0).sum() * (x[1] - x[0]))
        assert true <= delta
    assert found.value <= gaussian_epsilon(tasks / noise, delta)


def test_walking_task_by_task_is_better_than_no_sampling_at_all() -> None:
    history = {release(0.01, 1.0): 500}
    found = [person_epsilon(history, 1e-6, ADD, tasks).value for tasks in (1, 2, 3)]
    assert found[0] * 2 < found[1] < found[2] < gaussian_epsilon(3 * math.sqrt(500), 1e-6)
    assert found[1] < 3 * found[0]
    assert person_epsilon(history, 1e-6, ADD, 5).value < 20 * found[0]


def test_the_report_says_what_people_with_several_tasks_spend(tmp_path: Path) -> None:
    result = experiment(toy_tasks(12), strategy=noisy(), report=True).run(tmp_path / "run")
    made = {release(0.6, 1.0): 4}
    people = result.summary["people"]
    assert [one["tasks"] for one in people] == [2, 5]
    for one in people:
        assert one["epsilon"] == person_epsilon(made, result.guarantee.delta, ADD, one["tasks"]).value
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Epsilon (add/remove of 2 tasks of one person)" in page
    assert experiment(toy_tasks(4)).run().summary["people"] == []


def test_the_account_says_what_a_person_with_several_tasks_spends(fedpriv: Any) -> None:
    words = ("account", "--noise-multiplier=2", "--sampling-rate=0.1", "--rounds=50", "--population=1000")
    code, text, error = fedpriv(*words, "--tasks-per-person=3", "--json")
    assert code == 0, error
    found = json.loads(text)["person"]
    expected = person_epsilon({release(0.1): 50}, 1e-5, ADD, 3)
    assert found == {
        "tasks": 3,
        "epsilon": expected.value,
        "relation": "add/remove of 3 tasks",
        "accountant": expected.accountant,
    }
    _, text, _ = fedpriv(*words, "--tasks-per-person=3")
    assert "a person with 3 tasks: epsilon = " in text
    assert "add/remove of 3 tasks" in text
    assert "person" not in fedpriv(*words)[1]
    code, _, error = fedpriv(*words, "--tasks-per-person=0")
    assert code == 2
    assert "tasks_per_person" in error
