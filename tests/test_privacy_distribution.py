"""Own privacy loss distributions against dp_accounting's, which shares no code with them, and what a query costs."""

from __future__ import annotations

import math
from typing import Any

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

from fedpriv.privacy import Relation, Release, epsilon, pld
from fedpriv.privacy.accounting import deltas_for
from fedpriv.privacy.distribution import compose, from_curve
from fedpriv.privacy.gaussian import gaussian_epsilon
from fedpriv.privacy.poisson import curves

RELATIONS = {
    Relation.ADD_REMOVE: NeighboringRelation.ADD_OR_REMOVE_ONE,
    Relation.REPLACE_ONE: NeighboringRelation.REPLACE_ONE,
}


def poisson(noise_multiplier: float, rate: float) -> Release:
    name = "poisson" if rate < 1 else "full"
    return Release(noise_multiplier=noise_multiplier, sampling_name=name, rate=rate, clipping_norm=1.0)


@pytest.mark.parametrize("relation", Relation)
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
@given(
    z=st.floats(0.3, 30.0), count=st.integers(1, 3000), exponent=st.floats(2, 10), relation=st.sampled_from(Relation)
)
def test_without_sampling_the_exact_curve_is_met_from_above(
    z: float, count: int, exponent: float, relation: Relation
) -> None:
    """Composed on the grid, release by release, though the accountant would merge them first."""
    sensitivity = 2.0 if relation is Relation.REPLACE_ONE else 1.0
    delta = 10.0**-exponent
    exact = gaussian_epsilon(sensitivity * math.sqrt(count) / z, delta)
    if exact > 300:
        return
    (curve,) = curves(z, 1.0, relation)
    single = from_curve(curve.deltas, max(sensitivity / z / 20, exact / 2e5), curve.smallest, curve.largest)
    found = compose([(single, count)]).epsilon(delta)
    assert exact * (1 - 1e-6) - 1e-9 <= found <= exact * 1.01 + 1e-3


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
    at = np.array([-2.0, -0.3, -0.1, 0.0, 0.05, 0.2, 0.5, 1.5])
    for relation, several in pairs.items():
        for curve, (first, second) in zip(curves(z, p, relation), several, strict=True):
            summed = [np.maximum(0.0, first - math.exp(one) * second).sum() * width for one in at]
            np.testing.assert_allclose(curve.deltas(at), summed, atol=1e-9)


def test_one_more_release_builds_nothing(monkeypatch: Any) -> None:
    built: list[float] = []

    def counted(*arguments: Any) -> Any:
        built.append(arguments[1])
        return from_curve(*arguments)

    monkeypatch.setattr(pld, "from_curve", counted)
    release = poisson(1.01, 0.013)
    first = epsilon({release: 10_000}, 1e-5).value
    assert len(built) == 2  # add and remove
    more = [epsilon({release: 10_000 + extra}, 1e-5).value for extra in (1, 2, 3)]
    assert len(built) == 2
    assert first < more[0] < more[1] < more[2] < first * 1.001
