"""Targets, calibration and the adaptive budget filter."""

from __future__ import annotations

import math
import time

import pytest

from fedpriv.errors import InputError
from fedpriv.privacy import (
    FullParticipation,
    PoissonSampling,
    Relation,
    Release,
    RenyiFilter,
    Target,
    calibrate_noise_multiplier,
    calibrate_to_filter,
    check_delta,
    default_delta,
    epsilon,
    sampling_from,
)

CASES = [
    (2.0, 1e-5, 0.5, 100, Relation.ADD_REMOVE),
    (8.0, 1e-5, 0.1, 20, Relation.REPLACE_ONE),
    (0.05, 1e-6, 0.5, 10, Relation.ADD_REMOVE),
    (8.0, 1e-5, 0.001, 1, Relation.ADD_REMOVE),
    (2.0, 1e-5, 1.0, 100, Relation.ADD_REMOVE),
    (1.0, 1e-5, 1.0, 1, Relation.REPLACE_ONE),
]


@pytest.mark.parametrize(("eps", "delta", "rate", "rounds", "relation"), CASES)
def test_calibration_is_within_one_per_cent_and_never_above(
    eps: float, delta: float, rate: float, rounds: int, relation: Relation
) -> None:
    sampling = sampling_from(rate)
    start = time.process_time()
    z = calibrate_noise_multiplier(Target(epsilon=eps, delta=delta, relation=relation), sampling, rounds, 1000)
    assert time.process_time() - start < 30  # about 3 s on a free core
    release = Release(noise_multiplier=z, sampling_name=sampling.name, rate=rate, clipping_norm=1.0)
    assert 0.99 * eps <= epsilon({release: rounds}, delta, relation).value <= eps


def test_calibration_again_is_free() -> None:
    target = Target(epsilon=2.0, delta=1e-5)
    first = calibrate_noise_multiplier(target, PoissonSampling(0.5), 100, 1000)
    start = time.perf_counter()
    assert calibrate_noise_multiplier(target, PoissonSampling(0.5), 100, 1000) == first
    assert time.perf_counter() - start < 0.1


def test_full_participation_is_one_gaussian() -> None:
    z = calibrate_noise_multiplier(Target(epsilon=2.0, delta=1e-5), FullParticipation(), 100, 1000)
    assert z == pytest.approx(1.99381 * 10, rel=1e-5)


def test_calibration_refuses() -> None:
    target = Target(epsilon=2.0, delta=1e-5)
    with pytest.raises(InputError, match="'rounds' must be at least 1, got 0"):
        calibrate_noise_multiplier(target, FullParticipation(), 0, 100)
    with pytest.raises(InputError, match="1/m"):
        calibrate_noise_multiplier(target, FullParticipation(), 1, 100_000)
    with pytest.raises(InputError, match="at most 1000"):
        calibrate_noise_multiplier(Target(epsilon=1e6), PoissonSampling(0.5), 1, 100)


def test_delta_of_one_over_m_is_refused() -> None:
    for delta in (0.01, 0.02, 0.0, 1.0, math.nan):
        with pytest.raises(InputError, match="'delta'"):
            check_delta(delta, 100)
    assert len(check_delta(0.005, 100)) == 1
    assert "above" in check_delta(0.005, 100)[0]
    assert check_delta(1e-3, 100) == []
    assert check_delta(default_delta(100), 100) == []
    assert default_delta(100) == 1e-4
    assert Target(epsilon=1.0).delta_for(100) == 1e-4
    for epsilon_ in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="epsilon"):
            Target(epsilon=epsilon_)


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_what_a_filter_admits_meets_the_budget(relation: Relation, rate: float) -> None:
    budget = RenyiFilter.for_budget(2.0, 1e-5, relation)
    sampling = sampling_from(rate)
    z = calibrate_to_filter(budget, sampling, 50)
    release = Release(noise_multiplier=z, sampling_name=sampling.name, rate=rate, clipping_norm=1.0)
    assert budget.admits(budget.cost({release: 50}))
    assert not budget.admits(budget.cost({release: 51}))
    spent = epsilon({release: 50}, 1e-5, relation).value
    assert 1.7 < spent <= 2.0  # a filter costs something, but not much


def test_filter_order_is_the_best_for_gaussians() -> None:
    best = RenyiFilter.for_budget(2.0, 1e-5)
    for order in (best.order - 0.5, best.order + 0.5, 2.0, 40.0):
        other = RenyiFilter.at_order(order, 2.0, 1e-5) if order != 2.0 else None
        if other is None:
            with pytest.raises(InputError, match="no budget"):
                RenyiFilter.at_order(order, 2.0, 1e-5)
        else:
            assert other.allowance / other.order < best.allowance / best.order
    with pytest.raises(InputError, match="positive and finite"):
        RenyiFilter.for_budget(math.inf, 1e-5)


def test_tiny_budgets_have_a_filter() -> None:
    budget = RenyiFilter.for_budget(0.01, 1e-6)
    z = calibrate_to_filter(budget, FullParticipation(), 1)
    release = Release(noise_multiplier=z, sampling_name="full", rate=1.0, clipping_norm=1.0)
    assert epsilon([release], 1e-6).value <= 0.01
