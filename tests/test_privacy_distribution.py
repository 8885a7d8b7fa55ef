"""Privacy losses and their composition: each error that is covered, and what a query costs.

dp_accounting shares no code with these, but rounds as a plain transform does: it is asked where delta is large only.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.privacy import Relation, Release, contour, distribution, epsilon
from fedpriv.privacy.accounting import deltas_for
from fedpriv.privacy.contour import Composition
from fedpriv.privacy.gaussian import gaussian_epsilon
from fedpriv.privacy.poisson import log_ratio, poisson_losses
from fedpriv.privacy.without_replacement import wor_losses

RELATIONS = {
    Relation.ADD_REMOVE: NeighboringRelation.ADD_OR_REMOVE_ONE,
    Relation.REPLACE_ONE: NeighboringRelation.REPLACE_ONE,
}


def poisson(noise_multiplier: float, rate: float) -> Release:
    name = "poisson" if rate < 1 else "full"
    return Release(noise_multiplier=noise_multiplier, sampling_name=name, rate=rate, clipping_norm=1.0)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(
    ("events", "delta"),
    [
        ([(1.0, 0.01, 1000)], 1e-5),
        ([(0.8, 0.3, 20)], 1e-6),
        ([(2.0, 0.1, 50), (4.0, 0.5, 30), (10.0, 1.0, 7)], 1e-5),
        ([(1.0, 0.02, 1), (3.0, 0.002, 400)], 1e-9),
    ],
)
def test_agrees_with_dp_accounting(events: list[tuple[float, float, int]], delta: float, relation: Relation) -> None:
    library = PLDAccountant(RELATIONS[relation], value_discretization_interval=1e-4)
    parts = [
        SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(z)) if rate < 1 else GaussianDpEvent(z), count)
        for z, rate, count in events
    ]
    library.compose(ComposedDpEvent(parts))
    releases = {poisson(z, rate): count for z, rate, count in events}
    found = epsilon(releases, delta, relation, "pld").value
    assert found == pytest.approx(library.get_epsilon(delta), rel=2e-3)
    for at in (0.5 * found, found):
        assert deltas_for(releases, [at], relation)[0] == pytest.approx(library.get_delta(at), rel=2e-2)


@settings(max_examples=25, deadline=None)
@given(z=st.floats(0.3, 30.0), count=st.integers(1, 3000), exponent=st.floats(2, 15), doubled=st.booleans())
def test_without_sampling_the_exact_curve_is_met_from_above(
    z: float, count: int, exponent: float, doubled: bool
) -> None:
    """Integrated along the line, though the accountant knows the closed form; no other release helps at the end."""
    mu, delta = (2.0 if doubled else 1.0) * math.sqrt(count) / z, 10.0**-exponent
    exact = gaussian_epsilon(mu, delta)
    found = Composition([], mu * mu).epsilon(delta)
    assert exact * (1 - 1e-11) <= found <= exact * (1 + 1e-5) + 1e-9


def test_both_directions_of_sampling_are_those_of_integration() -> None:
    """Each curve by summing densities on a fine grid of outputs: no closed form, no threshold."""
    z, p = 1.3, 0.2
    x = np.linspace(-30, 30, 2_000_001)
    width = x[1] - x[0]

    def density(centre: float) -> Any:
        return np.exp(-0.5 * (x - centre) ** 2) / math.sqrt(2 * math.pi)

    none, plus, minus = density(0), density(1 / z), density(-1 / z)
    mixed = (1 - p) * none + p * plus
    pairs = {
        Relation.ADD_REMOVE: [(mixed, none), (none, mixed)],
        Relation.REPLACE_ONE: [((1 - p) * none + p * minus, mixed)],
    }
    at = [0.0, 0.05, 0.2, 0.5, 1.5]
    for relation, several in pairs.items():
        for losses, (first, second) in zip(poisson_losses(z, p, relation, 1e-15), several, strict=True):
            summed = [np.maximum(0.0, first - math.exp(one) * second).sum() * width for one in at]
            found = Composition([(losses, 1)], 0.0).deltas(at)
            np.testing.assert_allclose(found, summed, rtol=1e-4, atol=1e-9)
            assert (np.asarray(found) >= np.asarray(summed) * (1 - 1e-9)).all()


@pytest.mark.parametrize("cut", [1e-2, 1e-3, 1e-5])
def test_what_is_cut_off_counts_as_an_infinite_loss(cut: float) -> None:
    """With a tail of any size cut off the answer may only grow, by about what was cut off."""
    z, p, count = 1.0, 0.3, 3
    whole = poisson_losses(z, p, Relation.ADD_REMOVE, 1e-18)
    short = poisson_losses(z, p, Relation.ADD_REMOVE, cut)
    for one, other in zip(whole, short, strict=True):
        exact, found = (Composition([(each, count)], 0.0).deltas([0.5, 2.0, 3.0]) for each in (one, other))
        assert all(a * (1 - 1e-3) <= b <= a * (1 + 1e-3) + count * cut for a, b in zip(exact, found, strict=True))
        limit = 1 - (1 - cut) ** count
        assert Composition([(other, count)], 0.0).epsilon(0.99 * limit) == math.inf
        assert all(value >= limit * (1 - 1e-9) for value in found)


@pytest.mark.parametrize("name", ["_END_EXPONENT", "_MARGIN_EXPONENT", "_ROUNDING"])
def test_what_the_integral_leaves_out_is_added(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An early end and coarse steps make answers larger, never smaller; so does more rounding."""
    mu, deltas = 0.8, [10.0**-k for k in range(1, 15)]
    exact = [gaussian_epsilon(mu, delta) for delta in deltas]
    monkeypatch.setattr(contour, name, {"_END_EXPONENT": 1.0, "_MARGIN_EXPONENT": -2.0, "_ROUNDING": 1e-6}[name])
    for one, delta in zip(exact, deltas, strict=True):
        found = Composition([], mu * mu).epsilon(delta)
        assert one * (1 - 1e-11) <= found <= one * 2


@pytest.mark.parametrize(("index", "step"), [(0, 0.5), (24, 2.0), (40, 20.0)])
def test_shorter_panels_change_no_more_than_is_counted_as_rounding(
    index: int, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rate, z in ((0.3, 0.4), (1e-4, 1.0), (0.01, 5.0), (1e-6, 0.5)):
        for relation in (Relation.ADD_REMOVE, Relation.REPLACE_ONE):
            several = [*poisson_losses(z, rate, relation, 1e-15), wor_losses(z, rate, 1e-15)]
            first = [one.transform(index, step, 64) for one in several]
            with monkeypatch.context() as patch:
                patch.setattr(distribution, "_MAX_RADIANS", 3.0)
                second = [one._transform(index, step, 64) for one in several]
            for losses, one, other in zip(several, first, second, strict=True):
                assert one is not None
                assert other is not None
                allowed = losses.rounding(index)
                most = np.minimum(allowed.most, allowed.each * step * np.arange(65)) + allowed.dropped
                assert (np.abs(one - other) <= most).all()


def test_moments_and_what_they_may_be_rounded_by() -> None:
    """Each moment by exact sums over the same nodes: the error is what is counted, and small at a small rate."""
    z, rate, index, step = 0.7, 1e-5, 24, 40.0
    losses = poisson_losses(z, rate, Relation.ADD_REMOVE, 1e-18)[0]
    nodes, weights, _ = losses._coarse
    tilt, allowed = distribution.exponent(index), losses.rounding(index)
    changes = losses.transform(index, step, 8)
    assert changes is not None
    with mpmath.workdps(40):
        masses = [mpmath.exp(one) for one in nodes]
        missing = 1 - mpmath.fsum(masses)
        tilted = [mass * mpmath.exp(tilt * loss) for mass, loss in zip(masses, weights, strict=True)]
        whole = mpmath.fsum(tilted)
        found = mpmath.exp(losses.log_moment(index))
        assert abs(found / (whole + missing) - 1) <= allowed.whole + 1e-18
        for k in range(1, 9, 3):
            turned = [one * mpmath.expj(k * step * loss) for one, loss in zip(tilted, weights, strict=True)]
            exact = mpmath.fsum(turned) / whole - 1
            assert abs(exact - mpmath.mpc(changes[k])) <= allowed.each * k * step + allowed.dropped
    assert allowed.whole < 1e-17
    assert allowed.each * step < 1e-15


@pytest.mark.parametrize("rate", [1 - 1e-12, 1 - 1e-5, 0.6, 1e-9])
def test_losses_do_not_cancel(rate: float) -> None:
    at = np.asarray([-3.0, 0.0, 1.0, 2.0, 2.3, 3.0, 4.95, 5.0001, 7.0])
    with mpmath.workdps(50):
        p = mpmath.mpf(rate)
        exact = [float(mpmath.log(1 - p + p * mpmath.exp(10 * mpmath.mpf(float(x)) - 50))) for x in at]
    np.testing.assert_allclose(log_ratio(10.0, rate, at), exact, rtol=1e-12)


def test_one_more_release_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[float] = []
    transform = distribution.Distribution._transform

    def counted(*arguments: Any) -> Any:
        built.append(arguments[1])
        return transform(*arguments)

    monkeypatch.setattr(distribution.Distribution, "_transform", counted)
    release = poisson(1.01, 0.013)
    first = epsilon({release: 10_000}, 1e-5).value
    before = len(built)
    assert 1 <= before <= 4  # a direction may need a second line
    more = [epsilon({release: 10_000 + extra}, 1e-5).value for extra in (1, 2, 3)]
    assert len(built) == before
    assert first < more[0] < more[1] < more[2] < first * 1.001
