"""Accounting against published numbers, other libraries and derivations written here from the definitions."""

from __future__ import annotations

import math
from collections import Counter

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr

from fedpriv.errors import InputError, NoGuarantee
from fedpriv.privacy import (
    Relation,
    Release,
    delta_for,
    epsilon,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    renyi,
)

ADD, REPLACE = Relation.ADD_REMOVE, Relation.REPLACE_ONE
DELTA = 1e-5


def release(z: float, rate: float = 1.0, clip: float = 1.0) -> Release:
    name = "poisson" if rate < 1 else "full"
    return Release(noise_multiplier=z, sampling_name=name, rate=rate, clipping_norm=clip)


# (z, rate, rounds): PLD add/remove, RDP add/remove, PLD replace-one
ORACLES = {
    (1, 0.01, 1000): (1.8289, 2.1014, 2.8440),
    (1, 0.1, 100): (7.0466, 7.9039, 10.5164),
    (2, 0.1, 200): (3.3598, 3.6797, 6.5363),
    (3, 0.1, 200): (2.0038, 2.1929, 4.0746),
    (0.8, 0.02, 500): (4.6682, 5.3719, 6.2415),
    (5, 1.0, 100): (9.9973, 10.7255, 24.3816),
}


@pytest.mark.parametrize("case", ORACLES)
def test_poisson_oracles_to_three_digits(case: tuple[float, float, int]) -> None:
    z, rate, rounds = case
    pld, rdp, replace = ORACLES[case]
    history = {release(z, rate): rounds}
    assert epsilon(history, DELTA, ADD, "pld").value == pytest.approx(pld, rel=1e-3)
    assert epsilon(history, DELTA, ADD, "rdp").value == pytest.approx(rdp, rel=1e-3)
    assert epsilon(history, DELTA, REPLACE, "pld").value == pytest.approx(replace, rel=1e-3)


@pytest.mark.parametrize(("rho", "expected"), [(0.1, 1.7601), (0.5, 4.3772), (1.0, 6.5730)])
def test_gaussian_oracles_by_zcdp(rho: float, expected: float) -> None:
    assert gaussian_epsilon(math.sqrt(2 * rho), DELTA) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("eps", "sigma", "mu"),
    [
        (0.5, 7.03183, 0.1422),
        (1, 3.73063, 0.2681),
        (2, 1.99381, 0.5016),
        (4, 1.08116, 0.9249),
        (8, 0.60023, 1.666),
    ],
)
def test_analytic_gaussian_oracles(eps: float, sigma: float, mu: float) -> None:
    assert 1 / gaussian_mu(eps, DELTA) == pytest.approx(sigma, rel=1e-5)
    assert gaussian_mu(eps, DELTA) == pytest.approx(mu, abs=1e-4)


def exact_delta(mu: float, eps: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        m, e = mpmath.mpf(mu), mpmath.mpf(eps)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


@pytest.mark.parametrize("mu", [1e-12, 1e-6, 1e-3, 0.049, 0.051, 0.3, 1.0, 3.0, 9.9, 30.0, 1e3])
def test_gaussian_delta_against_mpmath(mu: float) -> None:
    for tail in (-mu / 2, -3.0, -0.4, 0.0, 1.0, 4.0, 12.0, 30.0):
        eps = mu * (tail + mu / 2)
        if eps >= 0:
            assert gaussian_delta(mu, eps) == pytest.approx(float(exact_delta(mu, eps)), rel=1e-8, abs=1e-300)


@given(st.floats(-6, 4), st.floats(-300, -0.05))
@settings(max_examples=60, deadline=None)
def test_gaussian_epsilon_is_tight_and_never_below(log_mu: float, log_delta: float) -> None:
    mu, delta = 10**log_mu, 10**log_delta
    eps = gaussian_epsilon(mu, delta)
    with mpmath.workdps(60):
        assert exact_delta(mu, eps) <= mpmath.mpf(delta) * (1 + mpmath.mpf("1e-9"))
        slack = 1e-9 * eps + 1e-9 * mu
        assert eps == 0 or exact_delta(mu, max(0.0, eps - slack)) >= mpmath.mpf(delta) * (1 - mpmath.mpf("1e-6"))


@given(st.floats(-3, 2.9), st.floats(-50, -1))
@settings(max_examples=40, deadline=None)
def test_gaussian_mu_inverts_epsilon(log_eps: float, log_delta: float) -> None:
    eps, delta = 10**log_eps, 10**log_delta
    found = gaussian_epsilon(gaussian_mu(eps, delta), delta)
    assert found <= eps * (1 + 1e-9)
    assert found == pytest.approx(eps, rel=1e-6)


def test_one_sampled_release_against_quadrature() -> None:
    """Both directions of add/remove for one release, integrated from the definition."""
    z, p = 1.3, 0.2

    def mix(x: mpmath.mpf, shift: float) -> mpmath.mpf:
        return (1 - p) * mpmath.npdf(x, 0, z) + p * mpmath.npdf(x, shift, z)

    def hockey_stick(eps: float, high: float, low: float, side: int) -> float:
        """Integrate mix(high) - e^eps mix(low) where it is positive: from its crossing outwards."""

        def difference(x: mpmath.mpf) -> mpmath.mpf:
            return mix(x, high) - mpmath.exp(eps) * mix(x, low)

        def log_ratio(x: mpmath.mpf) -> mpmath.mpf:
            return mpmath.log(mix(x, high) / mix(x, low)) - eps  # monotone, so there is one crossing

        crossing = mpmath.findroot(log_ratio, (-25, 25), solver="illinois")
        ends = sorted(crossing + side * step for step in (0, 5, 10, 40))
        return float(mpmath.quad(difference, ends))

    for eps in (0.05, 0.2, 0.8, 1.5):
        deltas = [hockey_stick(eps, 1.0, 0.0, +1)]
        if math.exp(-eps) > 1 - p:  # otherwise the other direction is never positive
            deltas.append(hockey_stick(eps, 0.0, 1.0, -1))
        history = [release(z, p)]
        assert delta_for(history, eps) == pytest.approx(max(deltas), rel=1e-4, abs=1e-9)
        both = hockey_stick(eps, 1.0, -1.0, +1)
        assert delta_for(history, eps, REPLACE) == pytest.approx(both, rel=1e-4, abs=1e-9)


def own_pld_delta(z: float, p: float, rounds: int, eps: float, replace: bool) -> float:
    """delta(eps) of Poisson sampling by FFT on an own grid; numpy only, nothing of dp_accounting.

    The loss L(x) = log P(x)/Q(x) is monotone; masses of P per cell of width dx are found by inverting L on a
    fine x-grid, and put on the cell's middle (an unbiased grid: the error of T steps is of the order dx
    sqrt(T)).
    """
    deltas = []
    x = np.linspace(-14 * z - 2, 14 * z + 2, 400_001)
    middle = (x[1:] + x[:-1]) / 2

    def log_density(shift: float) -> np.ndarray:
        centre = -0.5 * (middle / z) ** 2
        return np.logaddexp(np.log1p(-p) + centre, np.log(p) - 0.5 * ((middle - shift) / z) ** 2)

    def mass(shift: float) -> np.ndarray:
        cdf = (1 - p) * np.exp(log_ndtr(x / z)) + p * np.exp(log_ndtr((x - shift) / z))
        return np.diff(cdf)

    flat, bare = -0.5 * (middle / z) ** 2, np.diff(np.exp(log_ndtr(x / z)))
    if replace:
        pairs = [(mass(1.0), log_density(1.0) - log_density(-1.0))]
    else:
        ratio = log_density(1.0) - flat
        pairs = [(mass(1.0), ratio), (bare, -ratio)]
    size, width = 1 << 18, 2.0e-4
    for probabilities, loss in pairs:
        # Split each mass over the two neighbouring grid points so that its mean is kept.
        place = loss / width + size // 2
        low = np.floor(place).astype(int)
        share = place - low
        grid = np.zeros(size)
        inside = (low >= 0) & (low < size - 1)
        np.add.at(grid, low[inside], (probabilities * (1 - share))[inside])
        np.add.at(grid, low[inside] + 1, (probabilities * share)[inside])
        assert grid.sum() > 1 - 1e-9
        composed = np.fft.irfft(np.fft.rfft(np.roll(grid, -(size // 2))) ** rounds, size)
        composed = np.clip(np.roll(composed, size // 2), 0, None)
        losses = (np.arange(size) - size // 2) * width
        above = losses > eps
        deltas.append(float(np.sum(composed[above] * -np.expm1(eps - losses[above]))))
    return max(deltas)


@pytest.mark.parametrize(("z", "p", "rounds"), [(1.0, 0.01, 1000), (2.0, 0.1, 200), (3.0, 0.5, 30)])
def test_own_privacy_loss_distribution_agrees(z: float, p: float, rounds: int) -> None:
    for relation in Relation:
        eps = epsilon({release(z, p): rounds}, DELTA, relation).value
        own = own_pld_delta(z, p, rounds, eps, relation is REPLACE)
        assert own == pytest.approx(DELTA, rel=5e-3)
        assert delta_for({release(z, p): rounds}, eps, relation) == pytest.approx(own, rel=5e-3)


def test_opacus_agrees_with_rdp_and_bounds_pld() -> None:
    for z, rate, rounds in [(1.0, 0.01, 1000), (2.0, 0.1, 200), (5.0, 1.0, 100)]:
        history = {release(z, rate): rounds}
        opacus = epsilon(history, DELTA, ADD, "opacus-rdp").value
        assert opacus == pytest.approx(epsilon(history, DELTA, ADD, "rdp").value, rel=5e-3)
        assert epsilon(history, DELTA, ADD, "pld").value <= 1.01 * opacus


def test_rdp_knows_that_replace_one_doubles_the_sensitivity() -> None:
    """dp_accounting's RdpAccountant ignores the relation of a plain Gaussian: 2.17 where 4.38 is right."""
    from dp_accounting import GaussianDpEvent, NeighboringRelation
    from dp_accounting.rdp import RdpAccountant

    trap = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    trap.compose(GaussianDpEvent(2.0))
    exact = epsilon([release(2.0)], DELTA, REPLACE).value
    assert exact == pytest.approx(4.377, abs=1e-3)
    ours = epsilon([release(2.0)], DELTA, REPLACE, "rdp").value
    assert exact < ours < 1.1 * exact
    assert trap.get_epsilon(DELTA) < 0.6 * exact  # were this to fail, the workaround could go


def test_renyi_quadrature_agrees_with_the_library_and_with_itself() -> None:
    from fedpriv.privacy.gaussian_cost import _quadrature

    for z, rate, order in [(1.0, 0.1, 8.0), (2.0, 0.5, 2.0), (0.5, 0.3, 3.0), (5.0, 0.5, 32.0)]:
        library = renyi(release(z, rate), order)
        assert _quadrature(z, rate, order, ADD) == pytest.approx(library, rel=1e-9)
        # replace-one by adaptive quadrature in mpmath
        lo, hi = -(2 * order + 12 * z), 2 * order + 12 * z

        def density(x: mpmath.mpf, sign: int, z: float = z, rate: float = rate) -> mpmath.mpf:
            return (1 - rate) * mpmath.npdf(x, 0, z) + rate * mpmath.npdf(x, sign, z)

        whole = mpmath.quad(
            lambda x, order=order: density(x, -1) ** order * density(x, 1) ** (1 - order),
            mpmath.linspace(lo, hi, 60),
        )
        assert renyi(release(z, rate), order, REPLACE) == pytest.approx(
            float(mpmath.log(whole) / (order - 1)), rel=1e-6
        )
    assert renyi(release(2.0), 4.0, REPLACE) == pytest.approx(4.0 * 4 / (2 * 4))


def test_no_noise_and_no_release() -> None:
    for accountant in ("auto", "pld", "rdp", "gaussian", "opacus-rdp"):
        assert epsilon([release(0.0, 0.5)], DELTA, ADD, accountant).value == math.inf
        assert epsilon([], DELTA, ADD, accountant).value == 0.0
    assert delta_for([release(0.0)], 3.0) == 1.0
    assert delta_for([], 0.0) == 0.0


@pytest.mark.parametrize("z", [5e-324, 1e-160, 1e-3, 1e3, 1e9, 1e300])
@pytest.mark.parametrize("rate", [1e-9, 0.5, 1.0])
def test_extreme_noise_gives_numbers_and_no_warnings(z: float, rate: float) -> None:
    for relation in Relation:
        value = epsilon({release(z, rate): 10}, DELTA, relation).value
        assert value >= 0.0
        if z >= 1e3:
            assert value < 0.1
        if z <= 1e-160 and rate == 1.0:
            assert value == math.inf
    assert epsilon({release(1.0, 1e-12): 10**9}, DELTA).value < 500  # the grid gives up, a bound remains


def test_equal_events_merge_and_asking_changes_nothing() -> None:
    mixed = Counter({release(2.0, 0.1, clip=1.0): 60, release(2.0, 0.1, clip=0.3): 40})
    before = dict(mixed)
    whole = epsilon({release(2.0, 0.1): 100}, DELTA)
    assert epsilon(mixed, DELTA) == whole == epsilon(list(mixed.elements()), DELTA)
    assert dict(mixed) == before
    together = epsilon({release(2.0, 0.1): 100, release(4.0): 2}, DELTA).value
    assert together > whole.value


@given(st.floats(1, 4), st.floats(0.05, 0.6), st.integers(1, 60), st.floats(1.05, 2))
@settings(max_examples=4, deadline=None)
def test_monotone(z: float, rate: float, rounds: int, more: float) -> None:
    def value(z: float, rate: float, rounds: int, relation: Relation = ADD, accountant: str = "pld") -> float:
        return epsilon({release(z, min(1.0, rate)): rounds}, DELTA, relation, accountant).value

    here = value(z, rate, rounds)
    slack = 1 + 1e-3
    assert value(z * more, rate, rounds) <= here * slack
    assert value(z, rate * more, rounds) >= here / slack
    assert value(z, rate, rounds + 5) >= here / slack
    assert value(z, rate, rounds, REPLACE) >= here / slack
    assert here <= 1.01 * value(z, rate, rounds, ADD, "rdp")
    assert here <= value(z, rate, rounds, ADD, "gaussian") * slack
    assert delta_for({release(z, rate): rounds}, here) <= DELTA * slack


def test_refusals_are_sentences() -> None:
    with pytest.raises(NoGuarantee, match="'pld'"):
        epsilon([release(1.0, 0.5)], DELTA, REPLACE, "opacus-rdp")
    with pytest.raises(NoGuarantee, match="add/remove"):
        epsilon([release(1.0)], DELTA, REPLACE, "opacus-rdp")
    with pytest.raises(InputError, match="did you mean 'pld'"):
        epsilon([release(1.0)], DELTA, ADD, "pdl")
    for delta in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(InputError, match="'delta'"):
            epsilon([release(1.0)], delta)
    for count in (-1, 1.5, True):
        with pytest.raises(InputError, match="whole number"):
            epsilon({release(1.0): count}, DELTA)
    for z in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="noise_multiplier"):
            release(z)
    with pytest.raises(InputError, match="full participation"):
        Release(noise_multiplier=1.0, sampling_name="full", rate=0.5, clipping_norm=1.0)


def test_release_round_trip() -> None:
    one = release(1.25, 0.1, 0.7)
    assert Release.from_json(one.to_json()) == one
    assert hash(Release.from_json(one.to_json())) == hash(one)
    for text in ("", "[]", '{"version": 2}', one.to_json().replace("0.7", "-1")):
        with pytest.raises(InputError):
            Release.from_json(text)
