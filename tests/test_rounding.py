"""What had noise added lies on a public grid, wherever noise meets data."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from helpers import experiment, noisy, toy_problem, toy_tasks, whole
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_maml import people

from fedpriv import Target
from fedpriv.clients import MAML, GlobalModel
from fedpriv.cohort import Key, Learner
from fedpriv.privacy import BandedMechanism, Release, ReproducibleEntropy, gaussian_sum, guarantee_for
from fedpriv.privacy.banded_noise import correlated_sum
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.metrics import noisy_means
from fedpriv.privacy.rounding import grid_step, to_grid
from fedpriv.protocol import ALL, Reply, Request
from fedpriv.runtime.node import Node, NodeSpec

FLOATS = st.floats(-1e300, 1e300)
SOURCE = ReproducibleEntropy(0)


def on_grid(values: Any, std: float) -> bool:
    """Whether all numbers are whole multiples of the largest power of two at most std / 1024, and not all are 0."""
    step = 2.0 ** math.floor(math.log2(std / 1024))
    steps = np.asarray(values, dtype=np.float64) / step
    return bool((steps == np.rint(steps)).all() and steps.any())


@given(std=st.floats(5e-324, 1e300))
def test_a_step_is_the_largest_power_of_two_of_at_most_a_1024th(std: float) -> None:
    step = grid_step(std)
    assert math.frexp(step)[0] == 0.5
    smallest = 5e-324
    assert step == smallest or Fraction(step) <= Fraction(std) / 1024
    assert 2 * Fraction(step) > Fraction(std) / 1024


@given(value=FLOATS, std=st.floats(0, 1e300))
def test_a_number_becomes_the_nearest_of_the_grid_and_stays_there(value: float, std: float) -> None:
    (found,) = to_grid(np.array([value]), std)
    if std == 0:
        assert found == value
        return
    step = Fraction(grid_step(std))
    assert abs(Fraction(float(found)) - Fraction(value)) <= step / 2
    assert (Fraction(float(found)) / step).denominator == 1
    assert to_grid(np.array([found]), std) == found


def test_what_is_not_finite_stays_so() -> None:
    assert np.isnan(to_grid(np.array([np.nan]), 1.0)).all()
    assert to_grid(np.array([np.inf, -np.inf]), 1.0).tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize(("norm", "multiplier"), [(0.3, 1.0), (1.0, 1e-6), (1e-80, 3.0), (1e80, 0.7)])
def test_noisy_sums_lie_on_the_grid_within_half_a_step_of_the_exact_ones(norm: float, multiplier: float) -> None:
    total, std = [np.linspace(-5 * norm, 9 * norm, 60).reshape(3, 20), np.full(7, norm / 3)], norm * multiplier
    found = gaussian_sum(total, norm, multiplier, SOURCE, 1)
    exact = np.concatenate([one.ravel() for one in total]) + std * SOURCE.normal("noise", 1, 67)
    flat = np.concatenate([one.ravel() for one in found])
    assert on_grid(flat, std)
    assert np.abs(flat - exact).max() <= std / 2048 * (1 + 1e-9)
    assert all((one == two).all() for one, two in zip(gaussian_sum(total, norm, 0.0, SOURCE, 1), total, strict=True))


def test_rounding_adds_less_than_a_ten_millionth_of_the_variance() -> None:
    noise = SOURCE.normal("noise", 1, 200_000)
    added = np.square(to_grid(noise, 1.0) - noise).mean()
    assert 0.5e-7 < added < 1e-7, "2^-20 / 12, and less where the deviation is not a power of two"


def test_the_last_bits_of_a_sum_do_not_get_out() -> None:
    """Sums that differ in the 40th bit: without a grid every one of them shows in what is released."""
    sums = np.linspace(0.9, 0.9 + 2**-40, 50)
    noise = SOURCE.normal("noise", 1, 1)
    assert len({float(one + noise[0]) for one in sums}) > 40
    assert len({gaussian_sum([np.array([one])], 1.0, 1.0, SOURCE, 1)[0].item() for one in sums}) == 1


def test_correlated_sums_and_published_metrics_lie_on_the_grid() -> None:
    banded, past = BandedMechanism(horizon=4, participations=2, separation=2, bands=2), None
    for number in (1, 2, 3):
        (found,), past = correlated_sum([np.full(9, 0.123456789)], 0.3, 1.1, banded, past, SOURCE, number)
        assert on_grid(found, 0.33)
    names = ("personal.accuracy", "personal.loss", "billboard.loss")
    published = noisy_means([(np.array([1.0, 2.0, 1 / 3]), 64)], names, 4.0, 64, 2.0, SOURCE, 1)
    ranges = np.array([1.0, 4.0, 4.0])
    sums = (np.array([published.values[name] for name in names]) / ranges - 0.5) * 64
    assert on_grid(sums, 2.0 * math.sqrt(3) / 2), "64 tasks and a range of 4: nothing is rounded on the way back"


def rows(reply: Any, round: int = 1) -> NDArray[np.float64]:
    """Return what a node with local noise sends, flat."""
    tasks = toy_tasks(3)
    problem = toy_problem(tasks)
    node = Node(NodeSpec(tasks, GlobalModel(), problem, noise_seed=5))
    start = {ALL: {name: value.numpy() for name, value in problem.initial().items()}}
    said = Declaration(0.3, 0.9, noise_at="node")
    answer = Reply.from_content(node.train(Request(round, start, {ALL: np.arange(3)}, reply, said).to_content()))
    return np.concatenate([value.reshape(3 if reply == "rows" else 1, -1) for value in answer.updates[ALL].values()], 1)


def test_rows_with_noise_of_their_own_and_their_sums_lie_on_the_grid() -> None:
    assert on_grid(rows("rows"), 0.27)
    assert on_grid(rows("sum"), 0.27)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_noise_of_clients_lies_on_the_grid_and_lets_gradients_through(dtype: torch.dtype) -> None:
    tasks = toy_tasks(3)
    learner = Learner(toy_problem(tasks), noise=SOURCE)
    cohort = whole(tasks, dtype)
    value = torch.linspace(-3, 8, 33, dtype=dtype).reshape(3, 11).requires_grad_()
    found = learner.noisy(value, 0.3, "test", cohort, Key(0, 1))
    assert found.dtype == dtype
    assert on_grid(found.detach().numpy(), 0.3)
    plain = value + 0.3 * learner.normal("test", cohort, Key(0, 1), (11,))
    assert (found - plain).abs().max().item() <= 0.3 / 2048 * (1 + 1e-5)
    (slope,) = torch.autograd.grad(found.sum(), value)
    assert (slope == 1).all()
    assert torch.equal(learner.noisy(value, 0.0, "test", cohort, Key(0, 1)), value)


def test_all_noise_of_maml_lies_on_the_grid(monkeypatch: Any) -> None:
    """Inputs, adaptation and what is sent: nothing else of a client adds noise."""
    tasks, _ = people()
    original, seen = Learner.noisy, []

    def noisy_(self: Learner, value: Any, std: float, purpose: str, *more: Any) -> Any:
        found = original(self, value, std, purpose, *more)
        assert on_grid(found.detach().numpy(), std)
        seen.append(purpose.split()[1])
        return found

    monkeypatch.setattr(Learner, "noisy", noisy_)
    drawn: list[str] = []
    normal = Learner.normal

    def normal_(self: Learner, purpose: str, *more: Any) -> Any:
        drawn.append(purpose.split()[1])
        return normal(self, purpose, *more)

    monkeypatch.setattr(Learner, "normal", normal_)
    places = dict.fromkeys(("noise_support", "noise_query", "noise_adaptation", "noise_validation"), 0.3)
    client = MAML(shots=2, queries=2, order="first", adaptation_clip=1.0, episodes="fixed", **places)
    experiment(tasks, client=client, strategy=noisy(rounds=1)).run()
    assert set(seen) == {"support", "query", "step", "validation"}
    assert seen == drawn, "no noise goes another way"


def test_the_billboard_moves_by_multiples_of_the_step() -> None:
    """A whole run, in float64: start and step are public, and what lies between is on the grid."""
    tasks = toy_tasks(4)
    alone = experiment(tasks, strategy=noisy(rounds=1, sampling_rate=1.0, server_learning_rate=4.0))
    before = {name: value.numpy() for name, value in alone.problem().initial().items()}
    after = alone.run().billboards[ALL]
    step = 2.0 ** math.floor(math.log2(0.3 / 1024))
    for name, value in after.items():
        steps = (value - before[name]) / step
        assert np.abs(steps - np.rint(steps)).max() < 1e-9
        assert steps.any()


def test_that_it_is_not_proven_exact_stands_beside_every_guarantee(fedpriv: Any) -> None:
    release = Release(noise_multiplier=2.0, sampling_name="poisson", rate=0.1, clipping_norm=1.0)
    found = guarantee_for({release: 3}, delta=1e-4, num_tasks=100)
    assert "not proven exact" in str(found)
    assert "not proven exact" in " ".join(found.assumptions)
    result = experiment(toy_tasks(4), strategy=noisy(noise_multiplier=None, target=Target(epsilon=2.0))).run()
    assert "not proven exact" in str(result.guarantee)
    assert "not proven exact" in " ".join(result.guarantee.assumptions)
    code, out, _ = fedpriv(
        "account", "--population", "1000", "--rounds", "10", "--noise-multiplier", "2", "--sampling-rate", "0.1"
    )
    assert code == 0
    assert "not proven exact" in out
