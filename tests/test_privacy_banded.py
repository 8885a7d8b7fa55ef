"""Noise that is correlated over rounds: sensitivity by brute force, known errors, the law of the noise, the cost."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import mpmath
import numpy as np
import pytest
from helpers import banded_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import fedpriv.privacy
from fedpriv.errors import InputError, NoGuarantee
from fedpriv.privacy import (
    BandedMechanism,
    FullParticipation,
    NodePolicy,
    NoiseAt,
    Observer,
    Output,
    Relation,
    Release,
    RenyiFilter,
    ReproducibleEntropy,
    SystemEntropy,
    Target,
    calibrate_noise_multiplier,
    correlated_sum,
    decide,
    delta_for,
    epsilon,
    gaussian_mu,
    guarantee_for,
    renyi,
)
from fedpriv.privacy.banded_noise import next_noise


def limits_of(
    horizon: int = 6, participations: int = 2, separation: int = 3, bands: int | None = None
) -> BandedMechanism:
    bands = separation if bands is None else bands
    return BandedMechanism(horizon=horizon, participations=participations, separation=separation, bands=bands)


def release(noise: float = 2.0, clip: float = 0.5, **changes: int) -> Release:
    limits = limits_of(**changes)
    return Release(
        mechanism="banded",
        noise_multiplier=noise,
        sampling_name="min-separation",
        rate=1.0,
        clipping_norm=clip,
        banded=limits,
    )


def patterns(horizon: int, participations: int, separation: int) -> list[tuple[int, ...]]:
    """Return all sets of rounds that the limits admit."""
    found = []
    for count in range(1, participations + 1):
        for rounds in itertools.combinations(range(horizon), count):
            if all(later - earlier >= separation for earlier, later in itertools.pairwise(rounds)):
                found.append(rounds)
    return found


# --- the matrix ------------------------------------------------------------------------------------------------------


def test_coefficients_are_the_series_of_the_inverse_square_root() -> None:
    """(1 - x)^(-1/2) has the coefficients binomial(2j, j) / 4^j; the square of the whole series is all ones."""
    found = limits_of(40, 1, 40).coefficients()
    exact = [float(mpmath.binomial(2 * j, j) / mpmath.mpf(4) ** j) for j in range(40)]
    np.testing.assert_allclose(found, exact, rtol=1e-14)
    np.testing.assert_allclose(np.convolve(found, found)[:40], 1.0, rtol=1e-13)


def test_columns_have_norm_one_and_those_far_apart_are_orthogonal() -> None:
    for horizon, separation in ((1, 1), (7, 3), (12, 5), (4, 9)):
        c = banded_matrix(limits_of(horizon, 1, separation))
        np.testing.assert_allclose(np.linalg.norm(c, axis=0), 1.0, rtol=1e-14)
        assert np.array_equal(c, np.tril(c))
        gram = c.T @ c
        lag = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
        assert (gram[lag >= separation] == 0).all()
    np.testing.assert_array_equal(banded_matrix(limits_of(5, 5, 1)), np.eye(5))


@pytest.mark.parametrize(
    ("horizon", "participations", "separation", "bands"),
    [(7, 3, 2, 2), (8, 2, 3, 3), (8, 3, 3, 2), (6, 6, 1, 1), (9, 2, 4, 4), (5, 1, 7, 5)],
)
def test_sensitivity_by_brute_force(horizon: int, participations: int, separation: int, bands: int) -> None:
    """Whatever one task sends whenever it may, C X moves by at most sqrt(k); and by no less for some pattern.

    Updates on the line take all signs; updates in the plane are searched by ascent from random starts.
    """
    limits = limits_of(horizon, participations, separation, bands)
    c = banded_matrix(limits)
    largest = 0.0
    rng = np.random.default_rng(0)
    for rounds in patterns(horizon, participations, separation):
        columns = c[:, list(rounds)]
        for signs in itertools.product((-1.0, 0.0, 1.0), repeat=len(rounds)):
            largest = max(largest, float(np.linalg.norm(columns @ np.array(signs))))
        for _ in range(3):
            updates = rng.normal(size=(len(rounds), 2))
            for _ in range(30):  # the norm is convex: move each update to the border, along its gradient
                gradient = columns.T @ columns @ updates
                updates = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
            largest = max(largest, float(np.linalg.norm(columns @ updates)))
    assert largest <= limits.sensitivity * (1 + 1e-12)
    if len(patterns(horizon, participations, separation)[-1]) == participations:
        assert largest == pytest.approx(limits.sensitivity, rel=1e-12), "accounted no larger than it can be"


def test_brute_force_would_find_participations_that_are_too_close() -> None:
    """The limits matter: one round less apart, and a task moves more than is accounted."""
    limits = limits_of(8, 2, 3)
    c = banded_matrix(limits)
    worst = max(float(np.linalg.norm(c[:, list(rounds)].sum(axis=1))) for rounds in patterns(8, 2, 2))
    assert worst > 1.05 * limits.sensitivity
    with pytest.raises(InputError, match="'bands' must be at most separation=3, got 4"):
        limits_of(8, 2, 3, 4)


# --- errors that were computed elsewhere -----------------------------------------------------------------------------


def prefix_error(banded: BandedMechanism) -> float:
    """Root mean square of the noise in the sums over rounds 1 to t, over all t, in standard deviations of ``Z``."""
    inverse = np.linalg.inv(banded_matrix(banded))
    return float(np.sqrt(np.square(np.cumsum(inverse, axis=0)).sum() / banded.horizon))


@pytest.mark.parametrize(
    ("rounds", "participations", "separation", "error", "independent"),
    [(200, 20, 10, 36.2, 89), (1000, 486, 2, 734, 983), (500, 5, 100, 13.8, 70.6)],
)
def test_error_of_prefix_sums_at_epsilon_two(
    rounds: int, participations: int, separation: int, error: float, independent: float
) -> None:
    """Populations of 1,000, 206 and 10,000 with cohorts of 100: delta 1e-5, add/remove, units of the clipping norm."""
    z = calibrate_noise_multiplier(Target(epsilon=2.0, delta=1e-5), FullParticipation(), participations, 10_000)
    assert z == pytest.approx(math.sqrt(participations) / gaussian_mu(2.0, 1e-5), rel=1e-9)
    banded = limits_of(rounds, participations, separation)
    # The oracles have two or three digits: half a unit of the last one is allowed.
    assert z * prefix_error(banded) == pytest.approx(error, abs=0.05 if error < 100 else 0.5)
    alone = z * prefix_error(limits_of(rounds, participations, separation, 1))
    assert alone == pytest.approx(independent, abs=0.5 if independent > 80 else 0.05)
    assert alone == pytest.approx(z * math.sqrt((rounds + 1) / 2), rel=1e-12)
    found = epsilon([release(z, horizon=rounds, participations=participations, separation=separation)], 1e-5)
    assert found.accountant == "gaussian"
    assert 1.999 < found.value <= 2.0


# --- the noise -------------------------------------------------------------------------------------------------------


def released_noise(limits: BandedMechanism, size: int, entropy: SystemEntropy | ReproducibleEntropy) -> np.ndarray:
    """Return the noise [T, d] that a run adds to sums of zeros, with standard deviation 1 of Z."""
    past, rows = None, []
    for number in range(1, limits.horizon + 1):
        (noisy,), past = correlated_sum([np.zeros(size)], 1.0, 1.0, limits, past, entropy, number)
        rows.append(noisy)
    return np.array(rows)


@settings(max_examples=40, deadline=None)
@given(horizon=st.integers(1, 30), separation=st.integers(1, 12), bands=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_the_recursion_solves_the_triangular_system(horizon: int, separation: int, bands: int, seed: int) -> None:
    limits = limits_of(horizon, 1, max(separation, bands), bands)
    fresh = np.random.default_rng(seed).normal(size=(horizon, 3))
    past = np.zeros((len(limits.coefficients()) - 1, 3))
    found = []
    for number in range(1, horizon + 1):
        before = past.copy()
        noise, after = next_noise(limits, number, fresh[number - 1], past)
        again, _ = next_noise(limits, number, fresh[number - 1], past)
        np.testing.assert_array_equal(noise, again)
        np.testing.assert_array_equal(before, past)  # a round that fails is made again from it
        past = after
        found.append(noise)
    np.testing.assert_allclose(banded_matrix(limits) @ np.array(found), fresh, rtol=0, atol=1e-12)


def test_rounding_errors_do_not_grow() -> None:
    limits = limits_of(3000, 10, 100)
    fresh = np.array([ReproducibleEntropy(1).normal("noise", number, 2) for number in range(1, 3001)])
    noise, past = np.empty((3000, 2)), np.zeros((limits.bands - 1, 2))
    for number in range(1, 3001):  # before the released sums are rounded to their grid
        noise[number - 1], past = next_noise(limits, number, fresh[number - 1], past)
    scaled = noise / limits.column_norms()[:, None]
    back = sum(
        value * np.roll(scaled, j, axis=0) * (np.arange(3000) >= j)[:, None]
        for j, value in enumerate(limits.coefficients())
    )
    assert np.abs(back - fresh).max() < 1e-12


def test_the_noise_has_the_accounted_covariance() -> None:
    """C N must be independent standard normals over rounds and coordinates, from the operating system.

    False alarms: 45 + 9 + 9 + 8 tests at 1e-7 each, below 1e-5 in all (Bonferroni).
    """
    limits, size = limits_of(9, 2, 4), 40_000
    noise = released_noise(limits, size, SystemEntropy())
    white = banded_matrix(limits) @ noise
    level = 1e-7
    for s in range(9):
        for t in range(s + 1):
            # The mean product of n pairs has variance 1/n (2/n for squares); n is large, so it is normal.
            deviation = np.mean(white[s] * white[t]) - (s == t)
            assert abs(deviation) < stats.norm.isf(level / 2) * math.sqrt((2 if s == t else 1) / size), (s, t)
        assert stats.kstest(white[s], "norm").pvalue > level
        assert abs(stats.norm.ppf(level / 2)) > abs(np.mean(white[s])) * math.sqrt(size)
    for s in range(8):  # and over neighbouring coordinates
        lagged = np.mean(white[s, 1:] * white[s, :-1])
        assert abs(lagged) < stats.norm.isf(level / 2) / math.sqrt(size - 1)
    # The same, the way the theorem writes it: covariance over rounds is C^{-1} C^{-T}.
    inverse = np.linalg.inv(banded_matrix(limits))
    expected = inverse @ inverse.T
    # The entries of a sample covariance have variance (c_ss c_tt + c_st^2) / n.
    spread = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + np.square(expected)) / size)
    assert (np.abs(np.cov(noise) - expected) < stats.norm.isf(level / 2) * spread).all()
    assert np.abs(expected[0, 1:4]).min() > 0.05, "there is a correlation to be found"


def test_a_round_without_its_past_is_refused() -> None:
    limits = limits_of(5, 2, 3)
    zeros = [np.zeros((2, 2)), np.zeros(3)]
    arguments = (1.0, 1.0, limits)
    sums, past = correlated_sum(zeros, *arguments, None, ReproducibleEntropy(0), 1)
    assert [one.shape for one in sums] == [(2, 2), (3,)]
    assert past.shape == (2, 7)
    for wrong in (None, past[:1], past[:, :3]):
        with pytest.raises(InputError, match="may not be drawn again"):
            correlated_sum(zeros, *arguments, wrong, ReproducibleEntropy(0), 2)
    with pytest.raises(InputError, match="outside the 5 rounds"):
        correlated_sum(zeros, *arguments, past, ReproducibleEntropy(0), 6)


# --- what it costs ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    noise=st.floats(0.3, 50.0),
    participations=st.integers(1, 60),
    separation=st.integers(1, 20),
    exponent=st.floats(-9.0, -2.0),
    relation=st.sampled_from(Relation),
)
def test_a_banded_mechanism_costs_as_much_as_its_participations_alone(
    noise: float, participations: int, separation: int, exponent: float, relation: Relation
) -> None:
    """Not more, because columns are orthogonal; not less, because nothing is amplified; the horizon costs nothing."""
    delta = 10.0**exponent
    plain = Release(noise_multiplier=noise, sampling_name="full", rate=1.0, clipping_norm=1.0)
    banded = release(noise, participations=participations, separation=separation, horizon=1 + 60 * separation)
    one, many = epsilon([banded], delta, relation).value, epsilon({plain: participations}, delta, relation).value
    assert one == pytest.approx(many, rel=1e-9)
    assert renyi(banded, 7.5, relation) == pytest.approx(participations * renyi(plain, 7.5, relation), rel=1e-12)
    budget = RenyiFilter.for_budget(3.0, 1e-6, relation)
    assert budget.cost({banded: 2}) == pytest.approx(budget.cost({plain: 2 * participations}), rel=1e-12)
    more = release(noise, participations=participations + 1, separation=separation)
    assert epsilon([more], delta, relation).value > one or one == 0.0
    assert epsilon({banded: 2}, delta, relation).value >= one
    assert delta_for([banded], one, relation) <= delta * (1 + 1e-6)


def test_epsilon_by_an_independent_derivation() -> None:
    """The privacy loss of C X + Z for the worst pattern, by mpmath: N(mu^2/2, mu^2) with mu = ||C dX|| / z."""
    limits = limits_of(8, 3, 3)
    z, delta = 3.0, 1e-5
    largest = max(float(np.linalg.norm(banded_matrix(limits)[:, list(p)].sum(axis=1))) for p in patterns(8, 3, 3))
    for relation, factor in ((Relation.ADD_REMOVE, 1), (Relation.REPLACE_ONE, 2)):
        mu = mpmath.mpf(factor * largest) / z

        def excess(e: mpmath.mpf, mu: mpmath.mpf = mu) -> mpmath.mpf:
            return mpmath.ncdf(mu / 2 - e / mu) - mpmath.exp(e) * mpmath.ncdf(-mu / 2 - e / mu) - delta

        found = epsilon([release(z, horizon=8, participations=3, separation=3)], delta, relation).value
        assert found == pytest.approx(float(mpmath.findroot(excess, (0.5, 20), solver="bisect", tol=1e-28)), rel=1e-8)


def test_epsilon_by_monte_carlo() -> None:
    """delta = E[(1 - exp(epsilon - L))_+] over the losses of the noise that is really drawn, within 6 deviations."""
    limits = limits_of(7, 2, 3)
    z, count = 1.5, 200_000
    white = banded_matrix(limits) @ released_noise(limits, count, ReproducibleEntropy(3))
    shift = banded_matrix(limits)[:, [1, 4]].sum(axis=1) / z
    loss = shift @ white + shift @ shift / 2
    for e in (0.5, 2.0):
        terms = np.maximum(0.0, -np.expm1(e - loss))
        expected = delta_for([release(z, horizon=7)], e)
        assert abs(terms.mean() - expected) < 6 * terms.std() / math.sqrt(count)


@settings(max_examples=40, deadline=None)
@given(
    goal=st.floats(0.05, 20.0), exponent=st.floats(-10.0, -3.0), participations=st.integers(1, 1000),
    relation=st.sampled_from(Relation),
)  # fmt: skip
def test_calibration_meets_its_target_and_no_less_noise_does(
    goal: float, exponent: float, participations: int, relation: Relation
) -> None:
    delta = 10.0**exponent
    target = Target(epsilon=goal, delta=delta, relation=relation)
    z = calibrate_noise_multiplier(target, FullParticipation(), participations, 100)

    def found(noise: float) -> float:
        one = release(noise, participations=participations, separation=2, horizon=2000)
        return epsilon([one], delta, relation).value

    assert goal * 0.999 < found(z) <= goal
    assert found(z * (1 - 1e-6)) > goal


def test_releases_are_read_back_and_odd_ones_refused() -> None:
    one = release()
    assert Release.from_json(one.to_json()) == one
    assert one.rounds == 6
    plain = Release(noise_multiplier=1.0, sampling_name="poisson", rate=0.5, clipping_norm=1.0)
    assert '"stream"' not in plain.to_json(), "ledgers that were written before hold the same text"
    assert epsilon([release(0.0)], 1e-5).value == math.inf
    assert one.counted() == one, "nothing was amplified, so nothing is counted anew"
    values = {"noise_multiplier": 1.0, "rate": 1.0, "clipping_norm": 1.0}
    for wrong in (
        {"sampling_name": "min-separation"},
        {"mechanism": "banded", "sampling_name": "full"},
        {"mechanism": "banded", "sampling_name": "min-separation"},
        {"sampling_name": "full", "banded": limits_of()},
        {"mechanism": "banded", "sampling_name": "min-separation", "banded": limits_of(), "rate": 0.5},
    ):
        with pytest.raises(InputError):
            Release(**{**values, **wrong})
    broken = one.to_json().replace('"bands": 3', '"bands": 4')
    with pytest.raises(InputError, match="bands"):
        Release.from_json(broken)


def test_the_guarantee_says_what_is_assumed() -> None:
    found = guarantee_for([release(8.0, horizon=40, participations=20, separation=2)], delta=1e-5, num_tasks=100)
    text = str(found)
    for part in (
        "Joint differential privacy", "a coalition of all other tasks", "unit task", "relation zero-out",
        "replace-one: epsilon", "40 releases on 100 tasks", "no sampling assumed",
        "at most 20 participations of a task, at least 2 rounds apart, enforced by the server",
        "noise correlated over 2 rounds",
    ):  # fmt: skip
        assert part in text
    assert "the server keeps the limits of participation" in found.assumptions
    assert any("counts as zero in its place" in one for one in found.assumptions)
    assert not any("coins" in one for one in found.assumptions)
    alone = guarantee_for([release(8.0, bands=1)], delta=1e-5, num_tasks=100)
    assert "noise independent from round to round" in str(alone)
    public = guarantee_for(
        [release(8.0)], delta=1e-5, num_tasks=100, output=Output.BILLBOARDS, observer=Observer.PUBLIC
    )
    assert public.epsilon == guarantee_for([release(8.0)], delta=1e-5, num_tasks=100).epsilon
    for output in (Output.ROWS, Output.CLIPPED_SUM):
        with pytest.raises(NoGuarantee, match="'min-separation'"):
            guarantee_for(
                [release(8.0)], delta=1e-5, num_tasks=100, output=output, observer=Observer.SERVER,
                noise_at=NoiseAt.NODE,
            )  # fmt: skip


def test_a_node_counts_whole_banded_mechanisms() -> None:
    """It cannot see the noise, so the first participation counts as all that its limits allow."""
    one = release(4.0, participations=3, horizon=9)
    plain = Release(noise_multiplier=4.0, sampling_name="full", rate=1.0, clipping_norm=0.5)
    policy = NodePolicy(delta=1e-5)
    for before, banded in ((0, 1), (1, 1), (2, 1), (3, 2), (5, 2)):
        verdict = decide(policy, {one: before}, one)
        assert verdict.epsilon == pytest.approx(epsilon({plain: 3 * banded}, 1e-5).value)
        assert verdict.label == "if the server adds its noise, banded noise counted as a whole"
    mixed = decide(policy, Counter({one: 2, plain: 1}), plain)
    assert mixed.epsilon == pytest.approx(epsilon({plain: 5}, 1e-5).value)
    assert not decide(NodePolicy(max_participations=2), {one: 2}, one).allowed
    limit = epsilon([one], 1e-5).value
    assert decide(NodePolicy(max_epsilon=limit * 1.001, delta=1e-5), {one: 2}, one).allowed
    assert not decide(NodePolicy(max_epsilon=limit * 0.999, delta=1e-5), [], one).allowed


def test_the_old_name_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"privacy\.Stream is now called BandedMechanism; use that name"):
        assert fedpriv.privacy.Stream is BandedMechanism
    with pytest.raises(AttributeError, match="has no attribute 'Streams'"):
        fedpriv.privacy.Streams  # noqa: B018
