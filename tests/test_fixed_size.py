"""Cohorts of fixed size: their law, their certified accounting against derivations made here, where they count in full.

The statistical tests fail by chance with probability below 1e-6 each.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from helpers import C, experiment, toy_problem, toy_tasks, whole
from scipy import stats
from scipy.special import ndtr

from fedpriv import BudgetExceeded, InputError, NoGuarantee, Target
from fedpriv.clients import FedProx, GlobalModel, MeanRegularized
from fedpriv.cohort import Cohort, Key, Learner, LoopEngine, Params, State, nest
from fedpriv.privacy import (
    FixedSizeSampling,
    FullParticipation,
    NodePolicy,
    Notion,
    Observer,
    Output,
    PoissonSampling,
    Relation,
    Release,
    RenyiFilter,
    SystemEntropy,
    calibrate_noise_multiplier,
    calibrate_to_filter,
    claim,
    decide,
    delta_for,
    epsilon,
    fixed_size,
    gaussian_delta,
    guarantee_for,
)
from fedpriv.privacy.journal import Journal
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.terms import NoiseAt
from fedpriv.protocol import ALL
from fedpriv.strategies import Billboard

ADD, REPLACE = Relation.ADD_REMOVE, Relation.REPLACE_ONE
DELTA = 1e-5
FALSE_ALARM = 1e-6


def release(z: float, rate: float, name: str = "fixed-size") -> Release:
    return Release(noise_multiplier=z, sampling_name=name, rate=rate, clipping_norm=1.0)  # type: ignore[arg-type]


# (z, rate, rounds): certified, by Renyi divergences, the pair of a Poisson step at z / 2 (not valid), no amplification
ORACLES = {
    (1, 0.01, 1000): (14.82, 20.99, 13.36, 2269),
    (1, 0.1, 100): (34.17, 83.94, 31.37, 284),
    (2, 0.1, 200): (11.40, 20.71, 9.97, 159),
    (3, 0.1, 200): (5.70, 11.96, 5.05, 83.8),
    (5, 0.1, 200): (2.74, 5.96, 2.51, 39.4),
}


@pytest.mark.parametrize("case", ORACLES)
def test_oracles(case: tuple[float, float, int]) -> None:
    z, rate, rounds = case
    certified, renyi, lower, plain = ORACLES[case]
    history = {release(z, rate): rounds}
    found = epsilon(history, DELTA, REPLACE)
    assert found.accountant == "pld"
    assert found.value == pytest.approx(certified, abs=0.006), "the oracle has two decimals"
    assert epsilon(history, DELTA, REPLACE, "rdp").value == pytest.approx(renyi, abs=0.03)
    # What a real pair of populations costs can only be less: one task against all others pulling the other way.
    below = epsilon({release(z / 2, rate, "poisson"): rounds}, DELTA, ADD).value
    assert below == pytest.approx(lower, abs=0.02)
    assert below < found.value
    counted = {release(z, rate, "fixed-size-unamplified"): rounds}
    assert epsilon(counted, DELTA, REPLACE).value == pytest.approx(plain, rel=3e-3)
    assert epsilon(counted, DELTA, REPLACE) == epsilon({release(z, 1.0, "full"): rounds}, DELTA, REPLACE)
    assert epsilon({release(z, rate, "poisson"): rounds}, DELTA, REPLACE).value < found.value


def wor_deltas(z: float, rate: float, epsilons: np.ndarray) -> np.ndarray:
    """The certified curve of one release, in closed form."""
    size = np.abs(epsilons)
    above = rate * np.vectorize(gaussian_delta)(2.0 / z, np.log1p(np.expm1(size) / rate))
    return np.where(epsilons >= 0, above, -np.expm1(-size) + np.exp(-size) * above)


@pytest.mark.parametrize(("z", "rate"), [(1.0, 0.1), (0.7, 0.03), (4.0, 0.5)])
def test_one_release_by_integration(z: float, rate: float) -> None:
    """The worst pair of one release: all others pull one way, the task the other way, two clipping norms apart."""

    def present(x: mpmath.mpf) -> mpmath.mpf:
        return (1 - rate) * mpmath.npdf(x, 0, z) + rate * mpmath.npdf(x, 2, z)

    def absent(x: mpmath.mpf) -> mpmath.mpf:
        return mpmath.npdf(x, 0, z)

    def hockey_stick(eps: float, high: Any, low: Any, side: int) -> float:
        crossing = 1 + z * z / 2 * math.log((math.exp(side * eps) - (1 - rate)) / rate)
        ends = sorted(crossing + side * step for step in (0, 3, 8, 40))
        return float(mpmath.quad(lambda x: high(x) - mpmath.exp(eps) * low(x), ends))

    for eps in (0.02, 0.3, 1.0):
        found = float(wor_deltas(z, rate, np.array([eps]))[0])
        assert found == pytest.approx(hockey_stick(eps, present, absent, +1), rel=1e-8)
        if math.exp(-eps) > 1 - rate:
            assert hockey_stick(eps, absent, present, -1) <= found
        assert delta_for([release(z, rate)], eps, REPLACE) == pytest.approx(found, rel=1e-3)
        assert delta_for([release(z, rate)], eps, REPLACE) >= found * (1 - 1e-9), "rounding is pessimistic"
        # Both directions are one curve, and what is below 0 follows from what is above.
        other = float(wor_deltas(z, rate, np.array([-eps]))[0])
        assert other == pytest.approx(1 - math.exp(-eps) * (1 - found), rel=1e-12)


def test_the_curve_is_one_of_a_pair_of_distributions() -> None:
    """Convex and falling in e^eps, between max(0, 1 - e^eps) and 1: then a dominating pair exists."""
    for z, rate in ((1.0, 0.01), (0.5, 0.3), (6.0, 0.9)):
        alphas = np.linspace(0.05, 8.0, 4000)
        curve = wor_deltas(z, rate, np.log(alphas))
        assert (np.diff(curve) <= 1e-15).all()
        assert (np.diff(curve, 2) >= -1e-13).all()
        assert (curve >= np.maximum(0.0, 1.0 - alphas) - 1e-15).all()


def jumps(z: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Losses and masses of the dominating pair, from its construction and not from its curve.

    Above 0 the pair is (1 - q) Q + q P against Q, with P = N(2/z, 1) and Q = N(0, 1), where P is the more likely one;
    below 0 it is the mirror image, with masses e^-loss as large; what is left is an atom at 0.
    """
    mu = 2.0 / z
    edges = mu / 2 + np.linspace(0, mu / 2 + 10, 200_001)
    middle = (edges[1:] + edges[:-1]) / 2
    q_mass = np.diff(ndtr(edges))
    q_mass = np.where(q_mass > 0, q_mass, ndtr(-edges[:-1]) - ndtr(-edges[1:]))
    p_mass = ndtr(mu - edges[:-1]) - ndtr(mu - edges[1:])
    losses = np.log1p(rate * np.expm1(mu * middle - mu * mu / 2))
    up, down = (1 - rate) * q_mass + rate * p_mass, q_mass
    return np.concatenate([losses, -losses, [0.0]]), np.concatenate([up, down, [1 - up.sum() - down.sum()]])


@pytest.mark.parametrize(("z", "rate", "rounds"), [(1.0, 0.01, 1000), (3.0, 0.1, 200), (0.8, 0.3, 8)])
def test_composition_by_an_own_transform(z: float, rate: float, rounds: int) -> None:
    losses, masses = jumps(z, rate)
    size, width = 1 << 19, 2.0e-4
    place = losses / width + size // 2
    low = np.floor(place).astype(int)
    share = place - low
    grid = np.zeros(size)
    inside = (low >= 0) & (low < size - 1)
    np.add.at(grid, low[inside], (masses * (1 - share))[inside])
    np.add.at(grid, low[inside] + 1, (masses * share)[inside])
    composed = np.fft.irfft(np.fft.rfft(np.roll(grid, -(size // 2))) ** rounds, size)
    composed = np.clip(np.roll(composed, size // 2), 0, None)
    total = (np.arange(size) - size // 2) * width
    eps = epsilon({release(z, rate): rounds}, DELTA, REPLACE).value
    own = float(np.sum((composed * -np.expm1(np.minimum(0.0, eps - total)))[total > eps]))
    assert own == pytest.approx(DELTA, rel=5e-3)


def test_composition_by_simulation() -> None:
    """Sums of simulated losses; the bound is 5 standard errors, beyond which chance goes once in two million."""
    z, rate, rounds, draws = 3.0, 0.1, 50, 200_000
    losses, masses = jumps(z, rate)
    rng = np.random.default_rng(0)
    moved = rng.binomial(rounds, 1 - masses[-1], size=draws)
    cumulated = np.cumsum(masses[:-1]) / masses[:-1].sum()
    drawn = losses[np.searchsorted(cumulated, rng.random(moved.sum()))]
    totals = np.add.reduceat(np.append(drawn, 0.0), np.minimum(np.cumsum(moved) - moved, drawn.size))
    totals[moved == 0] = 0.0
    for eps in (0.2, 0.6, 1.2):
        gains = np.maximum(0.0, -np.expm1(eps - totals))
        error = gains.std() / math.sqrt(draws)
        assert abs(gains.mean() - delta_for({release(z, rate): rounds}, eps, REPLACE)) < 5 * error


def test_other_releases_compose() -> None:
    fixed, poisson, full = release(2.0, 0.1), release(3.0, 0.2, "poisson"), release(20.0, 1.0, "full")
    alone = [epsilon({one: 20}, DELTA, REPLACE).value for one in (fixed, poisson, full)]
    together = epsilon({fixed: 20, poisson: 20, full: 20}, DELTA, REPLACE).value
    assert max(alone) < together < sum(epsilon({one: 20}, DELTA / 3, REPLACE).value for one in (fixed, poisson, full))
    halves = Counter({release(2.0, 0.1): 12, fixed.model_copy(update={"clipping_norm": 0.5}): 8})
    assert epsilon(halves, DELTA, REPLACE) == epsilon({fixed: 20}, DELTA, REPLACE)


def test_extremes_fail_safe() -> None:
    for z in (5e-324, 1e-160, 1e-3, 1e3, 1e9, 1e300):
        for rate in (1e-9, 0.5, 1.0):
            value = epsilon({release(z, rate): 10}, DELTA, REPLACE).value
            assert value <= epsilon({release(z, rate).counted(): 10}, DELTA, REPLACE).value
            assert value < 0.1 or z < 1e3
    assert epsilon([release(0.0, 0.5)], DELTA, REPLACE).value == math.inf


def test_add_remove_is_refused_everywhere() -> None:
    for name in ("fixed-size", "fixed-size-unamplified"):
        one = release(2.0, 0.1, name)
        for accountant in ("auto", "pld", "rdp", "gaussian", "opacus-rdp"):
            with pytest.raises(NoGuarantee, match="takes the place of one that is removed; use the relation"):
                epsilon({one: 3, release(2.0, 0.1, "poisson"): 1}, DELTA, ADD, accountant)  # type: ignore[arg-type]
        with pytest.raises(NoGuarantee, match="replace-one"):
            delta_for([one], 1.0)
        with pytest.raises(NoGuarantee, match="replace-one"):
            RenyiFilter.for_budget(1.0, DELTA, ADD).cost({one: 1})
    for counted in (False, True):
        with pytest.raises(NoGuarantee, match="replace-one"):
            calibrate_noise_multiplier(Target(epsilon=1.0), FixedSizeSampling(1, 10, counted), 5, 10)


def test_calibration_and_filter() -> None:
    sampling = FixedSizeSampling(50, 500)
    target = Target(epsilon=2.0, delta=DELTA, relation=REPLACE)
    z = calibrate_noise_multiplier(target, sampling, 50, 500)
    assert 0.99 * 2.0 <= epsilon({Release.of(sampling, z): 50}, DELTA, REPLACE).value <= 2.0
    counted = FixedSizeSampling(50, 500, counted=True)
    plain = calibrate_noise_multiplier(target, counted, 50, 500)
    assert plain == pytest.approx(2 * math.sqrt(50) * 1.99381, rel=1e-5)
    assert plain > 2 * z
    budget = RenyiFilter.for_budget(2.0, DELTA, REPLACE)
    noise = calibrate_to_filter(budget, sampling, 50)
    assert z < noise < plain
    assert budget.admits(budget.cost({Release.of(sampling, noise): 50}))
    assert not budget.admits(budget.cost({Release.of(sampling, noise): 51}))
    assert epsilon({Release.of(sampling, noise): 50}, DELTA, REPLACE).value <= 2.0


def test_renyi_takes_noise_relative_to_two_clipping_norms() -> None:
    """Without sampling dp_accounting's bound is the Gaussian's, order mu^2 / 2 with mu = 2 / z."""
    from dp_accounting.rdp.rdp_privacy_accountant import _compute_rdp_sample_wor_gaussian as library

    from fedpriv.privacy.gaussian_cost import wor_renyi

    assert wor_renyi(4.0, 1.0, (2.0, 8.0)) == pytest.approx([2 * 4 / 16 / 2, 8 * 4 / 16 / 2])
    for rate in (1 / 3, 0.01, 37 / 1009):
        orders = (1.5, 2.0, 7.0)
        assert wor_renyi(3.0, rate, orders) == pytest.approx(library(rate, 1.5, orders).tolist(), rel=1e-9)


# --- the law of the draws --------------------------------------------------------------------------------------------


def test_every_subset_is_equally_likely_and_rounds_are_independent() -> None:
    coins = SystemEntropy().coins(1)
    sampling = FixedSizeSampling(3, 6)
    index = {subset: number for number, subset in enumerate(itertools.combinations(range(6), 3))}
    draws = [index[tuple(sampling.draw(6, coins).tolist())] for _ in range(40_000)]
    assert stats.chisquare(np.bincount(draws, minlength=20)).pvalue > FALSE_ALARM / 2
    pairs = np.bincount(np.array(draws[:-1]) * 20 + np.array(draws[1:]), minlength=400)
    assert stats.chisquare(pairs).pvalue > FALSE_ALARM / 2


def test_large_draws_are_uniform_sorted_and_of_the_size() -> None:
    coins = SystemEntropy().coins(1)
    m, size, rounds = 200, 30, 10_000
    counts = np.zeros(m)
    for _ in range(rounds):
        ids = FixedSizeSampling(size, m).draw(m, coins)
        assert ids.dtype == np.int64
        assert len(ids) == size
        assert (np.diff(ids) > 0).all()
        counts[ids] += 1
    spread = math.sqrt(rounds * size / m * (1 - size / m))
    assert np.abs(counts - rounds * size / m).max() / spread < stats.norm.isf(FALSE_ALARM / (2 * m))
    ids = FixedSizeSampling(1000, 10**11).draw(10**11, coins)  # a walk over all ids would not end
    assert len(set(ids.tolist())) == 1000
    assert (FixedSizeSampling(5, 5).draw(5, coins) == np.arange(5)).all()


def test_sizes_and_refusals() -> None:
    for rate, m, size in [(0.01, 10_000, 100), (0.5, 5, 3), (0.3, 5, 2), (1e-9, 7, 1), (1.0, 7, 7), (0.999, 7, 7)]:
        found = fixed_size(rate, m)
        assert (found.size, found.rate, found.participants(m)) == (size, size / m, size)
    assert (fixed_size(0.5, 4).name, fixed_size(0.5, 4, counted=True).name) == ("fixed-size", "fixed-size-unamplified")
    for size, m in [(0, 5), (6, 5), (1.5, 5), (True, 5), (-1, 5), (1, 0)]:
        with pytest.raises(InputError, match=r"'size'|'num_tasks'"):
            FixedSizeSampling(size, m)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'num_tasks' = 9"):
        FixedSizeSampling(2, 10).draw(9, SystemEntropy().coins(1))
    with pytest.raises(InputError, match="'rate'"):
        fixed_size(0.0, 10)


# --- claims ----------------------------------------------------------------------------------------------------------


def test_only_the_public_is_fooled_by_a_draw() -> None:
    row = claim(Output.BILLBOARDS, Observer.PUBLIC, NoiseAt.SERVER, FixedSizeSampling(1, 10))
    assert (row.relations, row.amplified, row.notion) == ((REPLACE,), True, Notion.DP)
    for output, observer, noise_at in [
        (Output.PERSONAL_MODELS, Observer.COALITION, NoiseAt.SERVER),
        (Output.ROWS, Observer.SERVER, NoiseAt.NODE),
        (Output.CLIPPED_SUM, Observer.SERVER, NoiseAt.NODE),
    ]:
        with pytest.raises(NoGuarantee, match=r"count every round in full \('fixed-size-unamplified'\)"):
            claim(output, observer, noise_at, "fixed-size")
        row = claim(output, observer, noise_at, "fixed-size-unamplified")
        assert (row.relations, row.amplified) == ((REPLACE,), False)


def test_guarantees() -> None:
    one = release(5.0, 0.1)
    public = guarantee_for({one: 200}, delta=DELTA, num_tasks=1000, output=Output.BILLBOARDS, observer=Observer.PUBLIC)
    assert public.epsilon == public.epsilon_replace_one == pytest.approx(2.74, abs=0.006)
    assert (public.relation, public.accountant) == (REPLACE, "pld")
    assert "cohorts of fixed size, rate 0.1," in str(public)
    assert any("other tasks too" in said for said in public.assumptions)
    with pytest.raises(NoGuarantee, match="unamplified"):
        guarantee_for({one: 200}, delta=DELTA, num_tasks=1000)
    joint = guarantee_for({one.counted(): 200}, delta=DELTA, num_tasks=1000)
    assert (joint.notion, joint.relation, joint.accountant) == (Notion.JOINT_DP, REPLACE, "gaussian")
    assert joint.epsilon == pytest.approx(39.4, abs=0.05)
    assert "every round counted in full" in str(joint)
    mixed = guarantee_for({one.counted(): 20, release(5.0, 0.1, "poisson"): 20}, delta=DELTA, num_tasks=1000)
    assert mixed.relation is REPLACE
    assert mixed.epsilon > guarantee_for({one.counted(): 20}, delta=DELTA, num_tasks=1000).epsilon
    with pytest.raises(NoGuarantee, match="add/remove"):
        guarantee_for({one.counted(): 20}, delta=DELTA, num_tasks=1000, relation=ADD)
    server = guarantee_for(
        {one.counted(): 2},
        delta=DELTA,
        num_tasks=100,
        output=Output.ROWS,
        observer=Observer.SERVER,
        noise_at=NoiseAt.NODE,
    )
    assert server.epsilon == epsilon({release(5.0, 1.0, "full"): 2}, DELTA, REPLACE).value


def test_a_node_counts_in_full_and_under_replace_one() -> None:
    asked = release(5.0, 0.1, "fixed-size-unamplified")
    refused = decide(NodePolicy(max_epsilon=100.0), [], asked)
    assert not refused.allowed
    assert "set 'relation' to replace-one" in refused.reason
    granted = decide(NodePolicy(max_epsilon=100.0, relation=REPLACE), {asked: 3}, asked)
    assert granted.allowed
    assert granted.epsilon == epsilon({release(5.0, 1.0, "full"): 4}, DELTA, REPLACE).value
    assert decide(NodePolicy(max_participations=2), [asked], asked).allowed
    assert not decide(NodePolicy(max_participations=2), {asked: 2}, asked).allowed


def test_a_ledger_tells_what_it_can(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.register("p", fingerprint="f", num_tasks=100, declared="protected", budget=None)
    ledger.charge("p", "run", 1, "a", release(5.0, 0.1))
    ledger.charge("p", "run", 1, "b", release(5.0, 0.2))
    ledger.charge("p", "run", 2, "b", release(5.0, 0.2, "poisson"))
    found = ledger.describe("p")
    assert found["spent"]["add/remove"] is None
    assert found["spent"]["replace-one"] > 0
    assert ledger.counts("p") == {release(5.0, 0.2): 1, release(5.0, 0.2, "poisson"): 1}
    with pytest.raises(NoGuarantee):
        ledger.spent("p", DELTA)
    assert Release.from_json(release(5.0, 0.1).to_json()) == release(5.0, 0.1)


# --- strategies and clients ------------------------------------------------------------------------------------------


def strategy(**changes: Any) -> Billboard:
    settings = {
        "clipping_norm": C,
        "rounds": 3,
        "noise_multiplier": 4.0,
        "sampling_rate": 0.5,
        "sampling": "fixed-size",
    }
    return Billboard(**{**settings, **changes})


class Lazy(GlobalModel):
    """A client that somebody derived from one whose updates do not use its state, with an own way to train."""

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        return super().train(learner, billboard, state, cohort, key)


def test_what_a_client_says_about_its_updates_is_true_and_not_inherited() -> None:
    tasks = toy_tasks(4)
    problem = toy_problem(tasks)
    learner = Learner(problem, LoopEngine())
    billboard = problem.initial()

    def update(client: Any, state: State) -> Params:
        found: Params = client.train(learner, billboard, state, whole(tasks), Key(0, 3))[1]
        return found

    for client in (GlobalModel(final_epochs=1), FedProx(mu=0.3)):
        assert not client.updates_use_state
        ran = client.finish(learner, billboard, {}, whole(tasks), Key(0, 2))
        one, two = update(client, {}), update(client, ran)
        assert all(torch.equal(one[name], two[name]) for name in one)
    personal = MeanRegularized()
    assert personal.updates_use_state
    start = personal.initial_state(billboard, whole(tasks))
    moved = {**start, **nest("model", {name: value + 1 for name, value in personal.personal(billboard, start, whole(tasks)).items()})}  # fmt: skip  # noqa: E501
    assert any(not torch.equal(update(personal, start)[name], update(personal, moved)[name]) for name in billboard)
    assert Lazy.updates_use_state, "a subclass that trains anew must say it anew"


@pytest.mark.parametrize(
    ("client", "policy", "name"),
    [
        (GlobalModel(), None, "fixed-size"),
        (MeanRegularized(), None, "fixed-size-unamplified"),
        (Lazy(), None, "fixed-size-unamplified"),
        (GlobalModel(), NodePolicy(max_participations=1), "fixed-size-unamplified"),
        (GlobalModel(), NodePolicy(min_noise_multiplier=1.0), "fixed-size"),
    ],
    ids=str,
)
def test_amplified_only_if_nothing_tells_who_was_drawn(tmp_path: Path, client: Any, policy: Any, name: str) -> None:
    tasks = toy_tasks(7)
    run = experiment(tasks, client=client, policy=policy, strategy=strategy()).run(tmp_path / "run")
    entries = Ledger(tmp_path / "run/ledger.sqlite").entries("toy")
    assert {(one.release.sampling_name, one.release.rate) for one in entries} == {(name, 4 / 7)}
    assert len(entries) == 3
    assert (run.guarantee.observer, run.guarantee.output) == (Observer.PUBLIC, Output.BILLBOARDS)
    assert (run.personal_guarantee.observer, run.personal_guarantee.notion) == (Observer.COALITION, Notion.JOINT_DP)
    plain = epsilon({release(4.0, 1.0, "full"): 3}, run.guarantee.delta, REPLACE).value
    assert run.personal_guarantee.epsilon == plain
    assert (run.guarantee.epsilon < plain) == (name == "fixed-size")
    assert run.guarantee.relation is run.personal_guarantee.relation is REPLACE


def test_a_node_hears_that_cohorts_have_a_fixed_size() -> None:
    policy = NodePolicy(max_epsilon=1e6)  # generous, but under add/remove
    drawn = experiment(toy_tasks(7), policy=policy, strategy=strategy(rounds=1)).run()
    assert any("set 'relation' to replace-one" in said for said in drawn.summary["warnings"])
    for agreed in (policy, NodePolicy(max_epsilon=1e6, relation=REPLACE)):
        sampling = "poisson" if agreed is policy else "fixed-size"
        drawn = experiment(toy_tasks(7), policy=agreed, strategy=strategy(rounds=1, sampling=sampling)).run()
        assert [said for said in drawn.summary["warnings"] if "forecast" not in said] == []


def test_groups_have_cohorts_of_their_own() -> None:
    tasks = toy_tasks(9)
    bound = strategy(groups=(0, 0, 0, 0, 0, 0, 1, 1, 1), sampling_rate=0.4, noise_multiplier=None,
                     target=Target(epsilon=3.0, delta=1e-3)).for_updates(use_state=False)  # fmt: skip
    assert [bound.plan.sampling_of(size).participants(size) for size in (6, 3)] == [2.0, 1.0]
    assert bound.plan.sampling_of(6).rate == 1 / 3
    ((planned, rounds),) = bound.resolve(9).releases(3).items()
    assert (planned.rate, planned.sampling_name, rounds) == (1 / 3, "fixed-size", 3)
    assert 2.9 < epsilon({planned: 3}, 1e-3, REPLACE).value <= 3.0
    run = experiment(tasks, client=GlobalModel(), strategy=bound).run()
    assert run.guarantee.epsilon <= 3.0


def test_the_denominator_is_the_size_of_the_cohort() -> None:
    """Nobody's answer and no rounding of the rate changes the step: 4 of 7 tasks, not 3.5."""
    tasks = toy_tasks(7)
    steps = []
    for rate in (0.5, 4 / 7):
        run = experiment(
            tasks, client=GlobalModel(), strategy=strategy(sampling_rate=rate, noise_multiplier=0.0, rounds=1)
        ).run(reproduce=3)
        steps.append(run.billboards[ALL])
    assert all(np.array_equal(steps[0][name], steps[1][name]) for name in steps[0])


def test_a_budget_holds_against_the_other_tasks(tmp_path: Path) -> None:
    """They know who took part, so a population pays in full for what is amplified towards the public only."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    budget = Target(epsilon=2.0, delta=DELTA, relation=REPLACE)
    ledger.register("p", fingerprint="f", num_tasks=100, declared="protected", budget=budget)
    drawn, everybody = release(20.0, 0.1), release(20.0, 1.0, "full")
    enough = Journal(ledger, "p", "run").enough_noise(FixedSizeSampling(10, 100), 20)
    assert enough == Journal(ledger, "p", "run").enough_noise(FullParticipation(), 20)
    assert enough is not None
    ledger.check("p", "run", {release(enough, 0.1): 20})
    refused = []
    for one in (drawn, everybody):
        rounds = 1
        while True:
            try:
                ledger.check("p", "run", {one: rounds})
            except BudgetExceeded:
                break
            rounds += 1
        refused.append(rounds)
    assert refused[0] == refused[1] > 1
    ledger.charge("p", "run", 1, "", drawn)
    assert ledger.spent("p", DELTA, REPLACE) == epsilon([everybody], DELTA, REPLACE)
    assert ledger.describe("p")["spent"]["replace-one"] == epsilon([everybody], DELTA, REPLACE).value


def test_wrong_combinations_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set relation = 'replace-one', or sampling = 'poisson'"):
        strategy(noise_multiplier=None, target=Target(epsilon=1.0, relation=ADD))
    assert strategy(noise_multiplier=None, target=Target(epsilon=1.0)).plan.relation is REPLACE
    assert strategy(sampling_rate=1.0).plan.relation is ADD, "everybody takes part: nothing is drawn"
    with pytest.raises(InputError, match="'poisson' or 'fixed-size'"):
        strategy(sampling="fixed")
    protected = {"population": "p", "ledger": tmp_path / "l.sqlite"}
    with pytest.raises(InputError, match=r"run\.budget_relation = 'replace-one'"):
        experiment(toy_tasks(7), strategy=strategy(), budget=Target(epsilon=5.0), **protected)
    experiment(toy_tasks(7), strategy=strategy(), budget=Target(epsilon=5.0, relation=REPLACE), **protected)
    assert not (tmp_path / "l.sqlite").exists()


def test_poisson_stays_what_it_was() -> None:
    plain = Billboard(clipping_norm=C, rounds=3, noise_multiplier=4.0, sampling_rate=0.5)
    assert plain.plan.sampling_of(10) == PoissonSampling(0.5)
    run = experiment(toy_tasks(7), strategy=plain).run()
    assert run.guarantee is run.personal_guarantee
    assert run.guarantee.relation is ADD


@pytest.mark.parametrize("client", ["mean-regularized", "global-model"])
def test_pmtl_from_the_command_line(fedpriv: Any, tmp_path: Path, client: str) -> None:
    words = [
        *["run", "pmtl", "--set=strategy.sampling=fixed-size", "--set=strategy.rounds=3", "--set=run.grid=in-process"],
        *["--set=run.baseline=false", f"--set=client.name={client}", "--out=run"],
    ]
    code, out, err = fedpriv(*words)
    assert code == 0, err
    said = " ".join(out.split())
    assert "Differential privacy of the billboards against the public" in said
    assert "Joint differential privacy of the personal models against a coalition of all other tasks" in said
    assert said.count("relation replace-one") == 2
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    public, joint = summary["guarantee"], summary["personal_guarantee"]
    assert public["epsilon"] <= 2.0, "the target"
    full = {Release(**{**public_release(summary), "sampling_name": "full", "rate": 1.0}): 3}
    assert joint["epsilon"] == pytest.approx(epsilon(full, 1e-5, REPLACE).value, rel=1e-9)
    assert (joint["epsilon"] > public["epsilon"] * 1.2) == (client == "global-model")
    page = (tmp_path / "run/report.html").read_text()
    assert "Epsilon of the personal models (replace-one)" in page or client == "mean-regularized"
    assert "a coalition of all other tasks" in page
    code, shown, err = fedpriv("ledger", "show", "run")
    assert code == 0, err
    assert "(replace-one)" in shown
    assert "add/remove" not in shown


def public_release(summary: dict[str, Any]) -> dict[str, Any]:
    entry = summary["releases"][0]
    return {name: entry[name] for name in ("noise_multiplier", "clipping_norm")}
