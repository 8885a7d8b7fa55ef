"""Advice about attacks is true: rows that cannot be attacked, what is said, and that doing it helps."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from advice import Case, cases
from test_attacks import WAYS, network, sets
from torch import nn

from fedpriv.adversary import Games, ObservedRows, observe_rows, query_match, which_task
from fedpriv.clients import MAML
from fedpriv.cohort import Cohort, Key, Learner, LoopEngine, Problem, Ragged, Tasks
from fedpriv.data import FewShot, few_shot, load

KEY = Key(3, 2)


@functools.cache
def people(*, flat: bool = False, each: int | None = None) -> Tasks:
    """Tasks of eight people; with ``each``, of so many examples of each class and none to test by."""
    data = load("digits")
    data = replace(data, inputs=data.inputs.reshape(len(data), -1)) if flat else data
    tasks, _ = few_shot(data, FewShot(ways=WAYS, examples=6, tasks=8, held_out=1, held_out_classes=0))
    if each is None:
        return tasks
    none = Ragged(data.inputs[:0], data.targets[:0], np.zeros(len(tasks) + 1, np.int64))
    return replace(tasks, train=cut(tasks.train, dict.fromkeys(range(8), each)), test=none)


def cut(part: Ragged, each: dict[int, int]) -> Ragged:
    """Leave some tasks so many examples of each class and no more."""
    inputs, targets = ([of[part.rows(task)] for task in range(len(part))] for of in (part.inputs, part.targets))
    for task, count in each.items():
        some = np.concatenate([np.flatnonzero(targets[task] == kind)[:count] for kind in range(WAYS)])
        inputs[task], targets[task] = inputs[task][some], targets[task][some]
    return Ragged.from_lists(inputs, targets)


def rows_of(tasks: Tasks, queries: int = 1, *, bias: bool = True) -> Any:
    net = network("mlp")
    problem = Problem(net if bias else nn.Sequential(*list(net)[:-1], nn.Linear(16, WAYS, bias=False)))
    client = MAML(learning_rate=1.0, queries=queries)
    cohort = Cohort(tasks, np.arange(len(tasks)))
    _, rows = client.train(Learner(problem), problem.initial(), {}, cohort, KEY)
    return problem, client, problem.initial(), rows, cohort


def seen_of(
    who: int = 8, *, queries: int = 1, bias: bool = True, flat: bool = False, each: int | None = None
) -> tuple[ObservedRows, Cohort]:
    """What a server saw of so many tasks."""
    parts = rows_of(people(flat=flat, each=each), queries, bias=bias)
    seen, left_out = observe_rows(*parts, KEY)
    assert left_out == 0
    return seen.part(slice(0, who)), parts[-1]


def played(*, games: int = 2, validation: int = 1, labels: Any = "known", **changes: Any) -> None:
    seen, cohort = seen_of(**changes)
    found = Games(games=games, validation=validation, labels=labels, iterations=1).play(seen, "query", cohort)
    assert found.outcomes["inversion"]["controlled"].games == games


def named(**changes: Any) -> None:
    seen, cohort = seen_of(**changes)
    assert which_task(seen, cohort).tasks == len(seen)


def put_beside(queries: int = 1, damage: dict[int, float] | None = None, leave_out: tuple[int, ...] = ()) -> None:
    """Put rows beside their episodes: task 1 is short of examples, and the rows of some tasks hold one number alone."""
    problem, client, billboard, rows, cohort = rows_of(replace(people(), train=cut(people().train, {1: 2})), queries)
    for place, number in (damage or {}).items():
        for value in rows.values():
            value[place] = number
    left = np.setdiff1d(cohort.positions, leave_out)
    some = {name: value[left] for name, value in rows.items()}
    seen, _ = observe_rows(problem, client, billboard, some, Cohort(cohort.tasks, left), KEY)
    assert set(seen.positions.tolist()) <= set(left.tolist())


def matched(value: float = 1.0, leave_out: tuple[int, ...] = ()) -> None:
    """Compare gradients, of which number 1 holds one number alone, with guesses."""
    problem = Problem(network("mlp").double())
    seen = {name: torch.ones(2, *one.shape, dtype=torch.float64) for name, one in problem.initial().items()}
    for one in seen.values():
        one[1] = value
    left = [number for number in range(2) if number not in leave_out]
    guess = sets(len(left), 1, 1)
    match = query_match(
        LoopEngine(), problem, problem.initial(), {name: one[left] for name, one in seen.items()}, guess.targets
    )
    assert match(guess.inputs).isfinite().all()


NOBODY = dict.fromkeys([0, *range(2, 8)], 0.0)
"""All tasks but the short one sent zeros."""

ATTACKS = [
    *cases(
        played,
        {},
        (
            {"games": 3, "validation": 2, "who": 4},
            "lower attack.games or attack.validation, or let more tasks",
            {"games": 2},
            {"validation": 1},
            {"who": 5},
        ),
        (
            {"each": 3, "queries": 2},
            "lower client.queries, or give its classes more examples than client.shots and client.queries take",
            {"queries": 1},
            {"each": 4},
        ),
        ({"labels": "counted", "bias": False}, "set attack.labels = 'known'", {"labels": "known"}),
        ({"flat": True}, "; use a data set of images", {"flat": False}),
    ),
    *cases(
        named,
        {},
        ({"who": 3}, "needs the rows of 4 tasks or more, got {}; let more take part", {"who": 4}),
    ),
    *cases(
        put_beside,
        {},
        (
            {"damage": {5: math.nan}},
            "a node that does not clip sent them: leave these tasks out",
            {"leave_out": (5,)},
        ),
        (
            {"damage": NOBODY, "queries": 3},
            "than client.shots and client.queries ask for; lower these",
            {"queries": 1},
        ),
    ),
    *cases(
        matched,
        {},
        ({"value": math.nan}, "leave them out: the server counted them as zero", {"leave_out": (1,)}),
        ({"value": 0.0}, "leave them out, they point nowhere", {"leave_out": (1,)}),
    ),
]


@pytest.mark.parametrize("case", ATTACKS)
def test_attacks_that_follow_the_advice_are_played(case: Case) -> None:
    case.refused()
    case.followed()
