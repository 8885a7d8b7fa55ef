"""Advice is true: settings that are refused, what the message says to do, and that it is accepted when done."""

from __future__ import annotations

from typing import Any

import pytest
from advice import GONE, Case, cases
from helpers import experiment, toy_tasks

from fedpriv import Experiment, InputError, Target
from fedpriv.clients import (
    MAML,
    LowRankSparse,
    LowRankSparseNet,
    PublishedLowRankSparse,
)
from fedpriv.privacy.account import Account
from fedpriv.privacy.calibration import calibrate_noise_multiplier
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.sampling import PoissonSampling
from fedpriv.privacy.solve import solve
from fedpriv.privacy.target import check_delta, default_delta
from fedpriv.privacy.terms import Relation
from fedpriv.strategies import Billboard

BOARD = {"clipping_norm": 1.0, "rounds": 4, "noise_multiplier": 1.0, "sampling_rate": 0.25}
ASKED = {"noise_multiplier": 1.0, "rounds": 10, "sampling_rate": 0.1, "population": 100}
NODE = {"noise_at": "node"}
SERVER = {"noise_at": "server"}
METRICS = {"metrics": ("personal.accuracy",)}
REPLACE, ADD = Relation.REPLACE_ONE, Relation.ADD_REMOVE
TARGET = {"target": Target(epsilon=2.0), "noise_multiplier": GONE}


EACH = {"0": 1.0, "1": 2.0}


def checked(count: int = 8, **settings: Any) -> Billboard:
    """A strategy, checked against a population as a run does."""
    strategy = Billboard(**settings)
    strategy.resolve(count)
    return strategy


SETTINGS = [
    *cases(
        Billboard,
        BOARD,
        ({"min_separation": 8}, "must be at most 1/", {"sampling_rate": 0.125}),
        (
            {"schedule": "random"},
            "give 'min_separation', or leave it out",
            {"min_separation": 2},
            {"schedule": GONE},
        ),
        (
            {**NODE, "min_separation": 2},
            "leave out 'noise', 'min_separation' and 'max_participations', or set noise_at = 'server'",
            {"min_separation": GONE},
            SERVER,
        ),
        (
            {**NODE, "clipping": "per-layer"},
            "give 'clipping_norm' alone, or set noise_at = 'server'",
            {"clipping": GONE},
            SERVER,
        ),
        (
            {**NODE, **METRICS, "metrics_epsilon": 0.1},
            "leave out 'metrics', or set noise_at = 'server'",
            {"metrics": GONE, "metrics_epsilon": GONE},
            SERVER,
        ),
        (
            {**NODE, **TARGET, "group_epsilons": {"0": 1.0, "1": 2.0}, "groups": (0, 1)},
            "give one epsilon, or set noise_at = 'server'",
            {"group_epsilons": GONE},
            SERVER,
        ),
        (
            {"target": Target(epsilon=1.0)},
            "give either a target (epsilon, delta) or a noise_multiplier; exactly one",
            {"target": GONE},
            {"noise_multiplier": GONE},
        ),
        ({**TARGET, "delta": 1e-5}, "leave out 'delta' beside it", {"delta": GONE}),
        (METRICS, "give 'metrics_epsilon', such as a tenth of the target, or leave out", {"metrics": GONE}),
        ({**METRICS, **TARGET}, "such as a tenth of the target, or leave out", {"metrics_epsilon": 0.2}),
        (
            {**NODE, "target": Target(epsilon=1.0, relation=ADD), "noise_multiplier": GONE},
            "set relation = 'replace-one'.",
            {"target": Target(epsilon=1.0, relation=REPLACE)},
        ),
        (
            {"sampling": "fixed-size", "target": Target(epsilon=1.0, relation=ADD), "noise_multiplier": GONE},
            "set relation = 'replace-one', or sampling = 'poisson'",
            {"target": Target(epsilon=1.0, relation=REPLACE)},
            {"sampling": "poisson"},
        ),
        (
            {**TARGET, "group_epsilons": {"0": 1.0, "1": 3.0}},
            "give target=Target(epsilon=...)",
            {"target": Target(epsilon=3.0)},
        ),
        (
            {"clipping_norms": {"1": 1.0}},
            "give either 'clipping_norm' or 'clipping_norms' (one per group); exactly one",
            {"clipping_norm": GONE},
            {"clipping_norms": GONE},
        ),
        (
            {"clipping_norms": {"1": 1.0}, "clipping_norm": GONE, "clipping": "per-layer"},
            "give 'clipping_norm' instead, or leave out 'clipping'",
            {"clipping_norms": GONE, "clipping_norm": 1.0},
            {"clipping": GONE},
        ),
        (
            {"clip_norm_lr": 0.1},
            "belongs to clipping='adaptive', got clipping={}; leave it out.",
            {"clip_norm_lr": GONE},
            {"clipping": "adaptive"},
        ),
        (
            {"clipping": "adaptive", "min_separation": 2},
            "use clipping='flat' with limits of participation, or secret coins",
            {"clipping": "flat"},
            {"min_separation": GONE},
        ),
        (
            {"sampling": "fixed-size", "min_separation": 2},
            "leave 'sampling' out",
            {"sampling": GONE},
        ),
        (
            {"noise": "banded", "min_separation": 1},
            "use 'min_separation' of at least 2 and 'sampling_rate' of at most 1 / min_separation, or "
            "noise='independent'",
            {"min_separation": 4},
            {"noise": "independent"},
        ),
        (
            {"metrics": ("personal.loss",) * 2},
            "name each once",
            {"metrics": ("personal.loss",), "metrics_epsilon": 1.0},
        ),
        (
            {"metrics_every": 2},
            "give them, or leave it out",
            {**METRICS, "metrics_epsilon": 1.0},
            {"metrics_every": GONE},
        ),
    ),
    *cases(
        checked,
        {**BOARD, **TARGET},
        (
            {"group_epsilons": {"0": 1.0, "1": 2.0}},
            "give 'groups', or one epsilon",
            {"groups": (0, 1) * 4},
            {"group_epsilons": GONE},
        ),
        (
            {"group_epsilons": {"0": 2.0}, "groups": (0, 1) * 4},
            "; give its epsilon",
            {"group_epsilons": {"0": 2.0, "1": 1.0}},
        ),
        (
            {"min_separation": 4, "groups": (0, 0, 0, 0, 0, 0, 1, 1)},
            "use larger groups or a smaller separation",
            {"groups": (0, 1) * 4},
            {"min_separation": 2},
        ),
        (
            {"rounds": 40, "min_separation": 4, "max_participations": 2},
            "use at most {} rounds, or ",
            {"rounds": 8},
            {"max_participations": 10},
        ),
        ({"groups": (0, 1)}, "leave it out for one billboard", {"groups": GONE}),
    ),
    *cases(
        MAML,
        {},
        (
            {"adaptation_clip": 1.0},
            "set order = 'first', or put the noise on the whole row (strategy.noise_at = 'node')",
            {"order": "first"},
            {"adaptation_clip": GONE},
        ),
    ),
    *cases(
        LowRankSparse,
        {"coefficients": "one"},
        (
            {"matrix_norm": 1.0, "vector_norm": 2.0},
            "give both the larger one, or neither",
            {"matrix_norm": 2.0},
            {"matrix_norm": GONE, "vector_norm": GONE},
        ),
    ),
    *cases(PublishedLowRankSparse, {}, ({"ridge": 0.5}, "leave it out or use 'low-rank-sparse'", {"ridge": GONE})),
    *cases(
        calibrate_noise_multiplier,
        {"target": Target(epsilon=1.0), "sampling": PoissonSampling(0.1), "rounds": 1, "num_tasks": 100},
        (
            {"beside": {Release(noise_multiplier=1.0, sampling_name="full", rate=1.0, clipping_norm=1.0): 1}},
            "give them less ('metrics_epsilon')",
            {"beside": {Release(noise_multiplier=30.0, sampling_name="full", rate=1.0, clipping_norm=1.0): 1}},
        ),
        (
            {"sampling": PoissonSampling(1e-5)},
            "; use a smaller delta or a larger rate",
            {"target": Target(epsilon=1.0, delta=9e-6)},
            {"sampling": PoissonSampling(0.1)},
        ),
    ),
    *cases(
        LowRankSparseNet,
        {},
        (
            {"fit_share": 0.5, "personal_steps": 0},
            "set 'personal_steps' to at least 1",
            {"personal_steps": 1},
        ),
        (
            {"fit_share": 0.5, "final_steps": 0},
            "set 'final_steps' to at least 1, or 'sparsity' to 0",
            {"final_steps": 1},
            {"sparsity": 0},
        ),
    ),
]


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_follow_the_advice_are_accepted(case: Case) -> None:
    case.refused()
    assert len(case.followed()) >= 1


def asked(**settings: Any) -> float:
    return solve(Account(**settings)).epsilon().value


ACCOUNTS = cases(
    asked,
    ASKED,
    ({"epsilon": 3.0}, "leave out one of", {"rounds": GONE}, {"noise_multiplier": GONE}, {"sampling_rate": GONE}),
    ({"noise_multiplier": GONE}, "give all but one of", {"epsilon": 1.0}),
    ({"sampling_rate": GONE}, "; if all tasks take part in every round, say --sampling full", {"sampling": "full"}),
    ({"cohort": 10}, "give either --sampling-rate or --cohort", {"sampling_rate": GONE}, {"cohort": GONE}),
    (
        {"sampling": "full"},
        "leave out --sampling-rate and --cohort, or choose --sampling poisson",
        {"sampling_rate": GONE},
        {"sampling": "poisson"},
    ),
    ({"population": GONE}, "give --delta", {"delta": 1e-4}),
    ({"delta": 0.5}, "one random task's data would satisfy it; use {}.", {"delta": 1e-4}),
    (
        {"sampling": "fixed-size", "relation": "add/remove"},
        "use the relation replace-one, or Poisson sampling",
        {"relation": "replace-one"},
        {"sampling": "poisson"},
    ),
    (
        {"observer": "server", "noise_at": "node", "sampling": "full", "sampling_rate": GONE, "relation": "add/remove"},
        "; use that relation",
        {"relation": "replace-one"},
    ),
    ({"observer": "server"}, "add the noise on the node", {"noise_at": "node"}),
    (
        {"cohort": 200, "sampling_rate": GONE},
        "draw fewer, or more tasks",
        {"cohort": 20},
        {"population": 2000},
    ),
    (
        {"sampling": "fixed-size", "population": GONE, "delta": 1e-5},
        "it needs --population beside --sampling-rate, or --cohort; or choose --sampling poisson",
        {"population": 100},
        {"cohort": 10, "population": 100, "sampling_rate": GONE},
        {"sampling": "poisson"},
    ),
    (
        {"observer": "coalition", "sampling": "fixed-size", "relation": "replace-one"},
        "or let every task flip its own coin ('poisson')",
        {"sampling": "poisson"},
        {"sampling": "fixed-size-unamplified"},
    ),
    (
        {"noise_multiplier": 0.5, "rounds": GONE, "epsilon": 0.1, "sampling_rate": 0.5},
        "a single round costs epsilon {}, more than {}; use more noise.",
        {"noise_multiplier": 50.0},
    ),
    ({"noise_multiplier": 1e9, "rounds": GONE, "epsilon": 1000.0}, "; use less noise.", {"noise_multiplier": 1.0}),
    (
        {"sampling": "fixed-size", "relation": "replace-one", "sampling_rate": GONE, "epsilon": 0.01},
        "even a cohort of one task costs epsilon {}, more than {}; use more noise or",
        {"noise_multiplier": 50.0},
    ),
    (
        {"cohort": 50, "sampling_rate": GONE, "population": GONE, "epsilon": 1.0, "delta": 0.1},
        "for m >= {} tasks, got {}; use a smaller delta",
        {"delta": 1e-5},
    ),
    (
        {"cohort": 3, "sampling_rate": GONE, "population": GONE, "epsilon": 0.3, "delta": 0.1, "rounds": 4},
        "brings epsilon to {}; use a smaller delta, more noise or fewer rounds",
        {"noise_multiplier": 5.0},
        {"delta": 1e-3, "epsilon": 0.3},
    ),
    (
        {"noise_multiplier": 0.2, "sampling_rate": GONE, "epsilon": 0.1, "delta": 1e-15, "rounds": 1},
        "no sampling rate brings epsilon to {}; use more noise.",
        {"noise_multiplier": 5.0},
    ),
)


@pytest.mark.parametrize("case", ACCOUNTS)
def test_questions_that_follow_the_advice_are_answered(case: Case) -> None:
    case.refused()
    assert all(0.0 < value < float("inf") for value in case.followed())


def test_a_delta_is_checked_once_the_population_is_given() -> None:
    advice = "give --population to have it checked."

    def said(**more: int) -> list[str]:
        return solve(Account(noise_multiplier=1.0, rounds=1, sampling_rate=0.1, delta=1e-4, **more)).warnings

    (note,) = said()
    assert note.endswith(advice)
    assert said(population=100) == []
    assert "above 1/(10 m)" in said(population=5000)[0]
    with pytest.raises(InputError, match="below 1/m"):
        said(population=20_000)


def test_the_default_delta_of_groups_follows_from_all_tasks() -> None:
    """Not from a group's own size, which would give a larger delta, a weaker promise."""
    groups = (0,) * 2 + (1,) * 18

    def grouped(delta: float | None = None) -> Experiment:
        target = Target(epsilon=2.0, delta=delta)
        strategy = checked(
            20,
            **{**BOARD, **TARGET, "noise_multiplier": None, "target": target, "groups": groups, "group_epsilons": EACH},
        )
        return experiment(toy_tasks(20, sizes=[4] * 20), strategy=strategy)

    assert grouped().delta == default_delta(20) == 1 / (100 * 20)
    assert grouped().delta < default_delta(groups.count(1)) < default_delta(groups.count(0))
    grouped(0.9 / 20).check()
    for delta in (1 / 20, 0.9 / groups.count(0)):  # the second is below 1/m of the small group
        with pytest.raises(InputError, match=r"below 1/m = 0\.05 for m = 20 tasks"):
            grouped(delta).check()
    assert check_delta(grouped().delta, 20) == []
