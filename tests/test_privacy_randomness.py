"""Noise and coins: where they come from and what law they have.

The statistical tests that use fresh randomness fail by chance with probability below 1e-6 each; those on a
fixed seed never do.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedpriv.errors import InputError
from fedpriv.privacy import (
    Entropy,
    FullParticipation,
    PoissonSampling,
    ReproducibleEntropy,
    SystemEntropy,
    gaussian_sum,
    sampling_from,
)
from fedpriv.privacy import entropy as module

FALSE_ALARM = 1e-6
SOURCES = [SystemEntropy(), ReproducibleEntropy(5)]


@pytest.mark.parametrize("source", SOURCES, ids=["system", "reproducible"])
def test_normals_are_standard_normal(source: Entropy) -> None:
    sample = source.normal("noise", 1, 200_001)
    assert sample.dtype == np.float64
    n = sample.size
    bound = stats.norm.isf(FALSE_ALARM / 8)
    assert abs(sample.mean()) * math.sqrt(n) < bound
    assert abs(sample.var() - 1) * math.sqrt(n / 2) < bound
    assert stats.kstest(sample, "norm").pvalue > FALSE_ALARM / 4
    # independence of neighbours (the two halves of one Box-Muller pair, and two pairs) and of their sizes
    for lag in (1, 2):
        assert abs(np.corrcoef(sample[:-lag], sample[lag:])[0, 1]) * math.sqrt(n) < bound
        assert abs(np.corrcoef(sample[:-lag] ** 2, sample[lag:] ** 2)[0, 1]) * math.sqrt(n) < bound
    assert stats.chisquare(np.histogram(stats.norm.cdf(sample), 100, (0, 1))[0]).pvalue > FALSE_ALARM / 4


@pytest.mark.parametrize("source", SOURCES, ids=["system", "reproducible"])
def test_rounds_groups_and_purposes_are_independent(source: Entropy) -> None:
    draws = [
        source.normal("noise", 1, 20_000),
        source.normal("noise", 2, 20_000),
        source.normal("noise", 1, 20_000, "a"),
        source.normal("other", 1, 20_000),
    ]
    bound = stats.norm.isf(FALSE_ALARM / 12) / math.sqrt(20_000)
    off = np.corrcoef(draws)[np.triu_indices(4, 1)]
    assert np.abs(off).max() < bound


def test_reproducible_depends_on_its_key_only() -> None:
    first, second = ReproducibleEntropy(7), ReproducibleEntropy(7)
    second.normal("else", 9, 5)  # the order of the draws does not matter
    key = ("noise", 3, "g")

    def draw(source: Entropy, purpose: str, round: int, group: str) -> tuple[bytes, bytes, int]:
        return (
            source.bytes(purpose, round, 16, group),
            source.normal(purpose, round, (2, 2), group).tobytes(),
            source.coins(round, f"{group}/{purpose}").whole(1 << 62),
        )

    assert draw(first, *key) == draw(second, *key) == draw(first, *key)
    others = [
        draw(ReproducibleEntropy(8), *key),
        draw(first, "noisf", 3, "g"),
        draw(first, "noise", 4, "g"),
        draw(first, "noise", 3, ""),
        draw(first, "noise3", 3, "g"),
    ]
    for other in others:
        assert not set(other) & set(draw(first, *key))
    assert first.bytes("noise", 3, 16) != first.normal("noise", 3, 2).tobytes()
    assert (first.reproducible, SystemEntropy().reproducible) == (True, False)


def test_reproducible_values_never_change() -> None:
    """Frozen: evidence that was made with a seed must stay reproducible."""
    assert ReproducibleEntropy(0).bytes("noise", 0, 8).hex() == "80716742f996369c"
    assert ReproducibleEntropy(0).normal("noise", 0, 2) == pytest.approx(
        [-0.7600179386835404, -1.5361065837708914], rel=1e-12
    )


def test_system_entropy_never_repeats() -> None:
    source = SystemEntropy()
    assert source.bytes("noise", 1, 32) != source.bytes("noise", 1, 32)
    assert (source.normal("noise", 1, 4) != source.normal("noise", 1, 4)).all()
    coins = [source.coins(1).whole(1 << 62) for _ in range(2)]
    assert coins[0] != coins[1]


def test_the_global_generator_is_not_used() -> None:
    def draws() -> tuple[bytes, ...]:
        np.random.seed(0)
        source = SystemEntropy()
        return source.bytes("a", 0, 16), source.normal("a", 0, 2).tobytes()

    first, second = draws(), draws()
    assert first[0] != second[0]
    assert first[1] != second[1]
    state = np.random.get_state()[1].copy()
    SystemEntropy().normal("a", 0, 100)
    assert (state == np.random.get_state()[1]).all()


def test_pieces_do_not_change_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ReproducibleEntropy(1).normal("noise", 0, 1001)
    monkeypatch.setattr(module, "_PAIRS", 16)
    assert (ReproducibleEntropy(1).normal("noise", 0, 1001) == whole).all()
    assert ReproducibleEntropy(1).normal("noise", 0, ()).shape == ()
    assert ReproducibleEntropy(1).normal("noise", 0, (3, 0)).shape == (3, 0)


@pytest.mark.parametrize("seed", [-1, math.nan, 1.5, True, "1", None])
def test_wrong_seeds(seed: object) -> None:
    with pytest.raises(InputError, match="'seed'"):
        ReproducibleEntropy(seed)  # type: ignore[arg-type]


def test_gaussian_sum_adds_noise_of_the_declared_size() -> None:
    total = [np.zeros((200, 250)), np.full(50_000, 3.0)]
    noisy = gaussian_sum(total, 0.5, 2.0, SystemEntropy(), 4)
    assert [part.shape for part in noisy] == [(200, 250), (50_000,)]
    for part, centre in zip(noisy, (0.0, 3.0), strict=True):
        assert stats.kstest(part.ravel(), "norm", args=(centre, 1.0)).pvalue > FALSE_ALARM / 2
    assert (total[0] == 0).all()
    assert (noisy[0].ravel() != noisy[1] - 3.0).mean() > 0.99, (
        "on a grid two numbers agree once in a few thousand times"
    )


def test_gaussian_sum_at_its_limits() -> None:
    source = ReproducibleEntropy(3)
    total = [np.arange(3.0)]
    assert (gaussian_sum(total, 1.0, 0.0, source, 1)[0] == total[0]).all()
    again = [gaussian_sum(total, 1.0, 1.0, source, 1, "g")[0] for _ in range(2)]
    assert (again[0] == again[1]).all()  # a lost release is recomputed
    assert (gaussian_sum(total, 1.0, 1.0, source, 2, "g")[0] != again[0]).all()
    assert (gaussian_sum(total, 1.0, 1.0, source, 1, "h")[0] != again[0]).all()
    for z in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="noise_multiplier"):
            gaussian_sum(total, 1.0, z, source, 1)
    with pytest.raises(InputError, match="rounds to zero"):
        gaussian_sum(total, 1e-100, 1e-300, source, 1)
    with pytest.raises(InputError, match="not finite"):
        gaussian_sum([np.array([np.nan])], 1.0, 1.0, source, 1)


def test_coins_have_the_right_law() -> None:
    coins = SystemEntropy().coins(1)
    m, rate, rounds = 40, 0.3, 20_000
    counts = np.zeros(m)
    pairs = np.zeros((m, m))
    sizes = np.zeros(rounds)
    for t in range(rounds):
        ids = PoissonSampling(rate).draw(m, coins)
        flags = np.zeros(m)
        flags[ids] = 1
        counts += flags
        pairs += np.outer(flags, flags)
        sizes[t] = ids.size
    # every task at the rate; every pair independent; the size binomial (fixed size would show)
    z = (counts - rounds * rate) / math.sqrt(rounds * rate * (1 - rate))
    assert np.abs(z).max() < stats.norm.isf(FALSE_ALARM / (8 * m))
    both = pairs[np.triu_indices(m, 1)]
    std = math.sqrt(rounds * rate**2 * (1 - rate**2))
    assert np.abs(both - rounds * rate**2).max() / std < stats.norm.isf(FALSE_ALARM / (8 * both.size))
    observed = np.bincount(sizes.astype(int), minlength=m + 1)
    expected = stats.binom.pmf(np.arange(m + 1), m, rate) * rounds
    keep = expected > 10
    observed, expected = observed[keep], expected[keep]
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > FALSE_ALARM / 4


def test_draws_are_sorted_unique_and_cheap() -> None:
    coins = ReproducibleEntropy(2).coins(0)
    ids = PoissonSampling(1e-8).draw(10**11, coins)  # a walk over all ids would not end
    assert ids.dtype == np.int64
    assert 800 < ids.size < 1200
    assert (np.diff(ids) > 0).all()
    assert ids.max() > 10**10
    assert (PoissonSampling(1.0).draw(5, coins) == np.arange(5)).all()
    assert (FullParticipation().draw(5, coins) == np.arange(5)).all()
    assert PoissonSampling(1e-9).draw(1, coins).shape == (0,)


def test_samplings() -> None:
    assert sampling_from(1.0) == FullParticipation()
    assert sampling_from(0.5) == PoissonSampling(0.5)
    assert (sampling_from(0.5).name, sampling_from(1.0).name) == ("poisson", "full")
    for rate in (0.0, -0.1, 1.1, math.nan, True, "x"):
        with pytest.raises(InputError, match="'rate'"):
            sampling_from(rate)  # type: ignore[arg-type]
    for sampling in (PoissonSampling(0.5), FullParticipation()):
        with pytest.raises(InputError, match="'num_tasks'"):
            sampling.draw(0, SystemEntropy().coins(1))
