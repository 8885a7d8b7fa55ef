"""Epsilon against an oracle of our own: never below it by more than its error, and hardly above."""

from __future__ import annotations

import math
import random
import time

import mpmath
import pytest
from loss_oracle import Oracle, Part, oracle

from fedpriv.privacy import Relation, Release, delta_for, epsilon, gaussian_epsilon

NAMES = {"poisson": "poisson", "full": "full", "fixed": "fixed-size"}


def release(part: Part) -> Release:
    return Release(
        noise_multiplier=part.z,
        sampling_name=NAMES[part.kind],  # type: ignore[arg-type]
        rate=part.p,
        clipping_norm=1.0,
    )


def compare(parts: list[Part], delta: float, replace: bool) -> tuple[Oracle, float]:
    relation = Relation.REPLACE_ONE if replace else Relation.ADD_REMOVE
    found = epsilon({release(one): one.count for one in parts}, delta, relation).value
    truth = oracle(parts, delta, replace)
    assert truth.error <= max(1e-3 * truth.epsilon, 2e-5), "the oracle can follow"
    assert found >= truth.epsilon - truth.error, "never too small"
    share = 0.01 if delta < 1e-12 else 0.005
    assert found <= truth.epsilon + truth.error + max(share * truth.epsilon, 1e-4), "and tight"
    return truth, found


@pytest.mark.parametrize(("z", "count", "delta"), [(1.0, 1, 1e-15), (3.0, 40, 1e-8)])
def test_the_oracle_knows_plain_gaussians(z: float, count: int, delta: float) -> None:
    for replace in (False, True):
        truth = oracle([Part("full", z, 1.0, count)], delta, replace)
        exact = gaussian_epsilon((2 if replace else 1) * math.sqrt(count) / z, delta)
        assert truth.epsilon == pytest.approx(exact, abs=truth.error)
        assert truth.error < 1e-5 * exact


def test_the_oracle_on_two_releases_by_mpmath() -> None:
    """The curve of one release in closed form, integrated over the loss of the other; the direction is "remove"."""
    z, p, delta = 1.1, 0.2, 1e-9
    mu = mpmath.mpf(1) / z

    def one(eps: mpmath.mpf) -> mpmath.mpf:
        if mpmath.exp(eps) <= 1 - p:
            return 1 - mpmath.exp(eps)
        x = mpmath.log((mpmath.exp(eps) - 1 + p) / p) / mu + mu / 2
        kept = (1 - p) * mpmath.ncdf(-x) + p * mpmath.ncdf(mu - x)
        return kept - mpmath.exp(eps) * mpmath.ncdf(-x)

    def two(eps: float) -> float:
        def inner(x: mpmath.mpf) -> mpmath.mpf:
            density = (1 - p) * mpmath.npdf(x) + p * mpmath.npdf(x - mu)
            return density * one(eps - mpmath.log(1 - p + p * mpmath.exp(mu * x - mu * mu / 2)))

        return float(mpmath.quad(inner, mpmath.linspace(-10, 14, 25)))

    truth = oracle([Part("poisson", z, p, 2)], delta, False)
    with mpmath.workdps(30):
        assert two(truth.epsilon) == pytest.approx(delta, rel=1e-4)
    found = delta_for({release(Part("poisson", z, p, 2)): 2}, truth.epsilon)
    assert delta * (1 - 1e-4) <= found <= delta * (1 + 1e-3)


@pytest.mark.parametrize(
    ("parts", "delta", "replace", "published"),
    [
        ([Part("poisson", 1.5, 0.001, 100_000)], 1e-12, False, 1.59076),
        ([Part("poisson", 1.0, 0.01, 1000)], 1e-12, False, 3.9143),
        ([Part("poisson", 1.0, 1e-6, 100_000)], 1e-8, False, None),
        ([Part("poisson", 0.8, 0.05, 300), Part("full", 9.0, 1.0, 12)], 1e-15, True, None),
        ([Part("fixed", 2.0, 0.02, 400)], 1e-6, True, None),
    ],
)
def test_never_below_and_tight(parts: list[Part], delta: float, replace: bool, published: float | None) -> None:
    truth, found = compare(parts, delta, replace)
    if published is not None:
        assert truth.epsilon == pytest.approx(published, abs=5e-5)
    assert found <= truth.epsilon * 1.0005 + truth.error


@pytest.mark.parametrize(
    ("part", "delta", "replace"),
    [
        (Part("poisson", 0.694778, 1.28599e-5, 46), 2.128e-15, False),
        (Part("poisson", 0.544653, 1.6026e-6, 4), 1.8215e-14, True),
    ],
)
def test_few_rounds_at_tiny_rates_are_tight(part: Part, delta: float, replace: bool) -> None:
    """Nearly all losses are about 0, so rounding must not count in proportion to them: delta is far smaller."""
    truth, found = compare([part], delta, replace)
    assert found <= truth.epsilon * 1.002 + truth.error


def test_the_oracle_does_not_follow_one_direction_only() -> None:
    assert math.isnan(oracle([Part("poisson", 5.2666, 5.087e-4, 2)], 3.56e-7, False).epsilon)


def draw(rng: random.Random) -> tuple[list[Part], float, bool]:
    """Draw a history, a delta and a relation."""
    kind = rng.choice(["poisson"] * 5 + ["full", "fixed", "fixed", "mixed", "mixed"])
    replace = kind == "fixed" or rng.random() < 0.5
    delta = 10 ** rng.uniform(-15, -3)

    def sampled(most: float) -> Part:
        p = 10 ** rng.uniform(-7 if kind == "poisson" else -3, -0.01)
        count = int(10 ** rng.uniform(0, most))
        return Part("fixed" if kind == "fixed" else "poisson", 10 ** rng.uniform(-0.3, 1.0), p, count)

    full = Part("full", 10 ** rng.uniform(0.3, 2), 1.0, int(10 ** rng.uniform(0, 3)))
    if kind == "full":
        return [full], delta, replace
    if kind == "mixed":
        first = sampled(4)
        second = Part("poisson", first.z * rng.uniform(0.7, 1.4), min(0.99, first.p * rng.uniform(0.5, 2)), 50)
        return [first, second, full][: rng.choice([2, 3])], delta, replace
    return [sampled(6)], delta, replace


@pytest.mark.soak
def test_two_hundred_random_settings() -> None:
    rng = random.Random(20)
    above = below = slowest = 0.0
    failed, seen, skipped = [], 0, 0
    while seen < 200:
        parts, delta, replace = draw(rng)
        start = time.process_time()
        relation = Relation.REPLACE_ONE if replace else Relation.ADD_REMOVE
        found = epsilon({release(one): one.count for one in parts}, delta, relation).value
        took = time.process_time() - start
        slowest = max(slowest, took)
        assert took < 20
        if not found < 500:
            continue  # protects nobody
        truth = oracle(parts, delta, replace)
        if not truth.error <= max(1e-3 * truth.epsilon, 2e-5):
            skipped += 1
            continue
        seen += 1
        more = found - truth.epsilon
        share = more / max(1e-4 / (0.01 if delta < 1e-12 else 0.005), truth.epsilon)
        above, below = max(above, share), min(below, more + truth.error)
        if more < -truth.error or share > (0.01 if delta < 1e-12 else 0.005):
            failed.append((parts, delta, replace, truth, found))
        print(seen, parts, f"{delta:.2g}", replace, truth, found, f"{share:.2g} {took:.2f} s", flush=True)  # noqa: T201
    print(  # noqa: T201
        f"max above {above:.3g}, min below {below:.3g}, slowest {slowest:.2f} s, skipped {skipped}; failed {failed}"
    )
    assert not failed
    assert skipped <= 40
