"""Coins: the exact law, the cipher they come from, and a secret that is moved on and never back."""

from __future__ import annotations

import hmac
import json
import struct
from collections import Counter
from fractions import Fraction
from itertools import pairwise, product
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord
from helpers import experiment, noisy, toy_problem, toy_tasks
from scipy import stats

from fedpriv import ComponentFailure, InputError
from fedpriv.clients import GlobalModel
from fedpriv.privacy import PoissonSampling, ReproducibleEntropy, SystemEntropy
from fedpriv.privacy.coins import Coins, binomial_table
from fedpriv.privacy.entropy import RoundSecret
from fedpriv.protocol import ALL, record_from_billboards
from fedpriv.runs import RunFolder
from fedpriv.runtime.grid import InProcessGrid
from fedpriv.runtime.node import NodeSpec
from fedpriv.strategies import Billboard


def keystream(key: bytes, blocks: int) -> bytes:
    """ChaCha20 after RFC 8439, section 2.3, with a zero nonce and a counter from 0: slow, and by itself."""

    def quarter(x: list[int], a: int, b: int, c: int, d: int) -> None:
        for one, two, three, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[one] = (x[one] + x[two]) & 0xFFFFFFFF
            mixed = x[three] ^ x[one]
            x[three] = ((mixed << turn) | (mixed >> (32 - turn))) & 0xFFFFFFFF

    out = b""
    for counter in range(blocks):
        start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter, 0, 0, 0]
        x = list(start)
        for _ in range(10):
            for places in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
                quarter(x, *places)
            for places in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter(x, *places)
        out += struct.pack("<16I", *((one + two) & 0xFFFFFFFF for one, two in zip(x, start, strict=True)))
    return out


def test_the_coins_of_a_run_are_chacha20_under_its_secret() -> None:
    """From the secret to the ids by an own implementation of the cipher: whatever else they came from shows."""
    assert keystream(bytes(32), 1).hex().startswith("76b8e0ada0f13d90405d6ae55386bd28"), "RFC 8439, A.1, vector 1"
    secret = bytes(range(32))
    source = SystemEntropy(RoundSecret(1, secret))
    for number in (1, 2, 4):
        now = secret
        for _ in range(number - 1):
            now = hmac.digest(now, b"fedpriv next round", "sha256")
        key = hmac.digest(now, json.dumps(["fedpriv coins 2", number, "g"]).encode(), "sha256")
        stream = keystream(key, 16)
        assert source.coins(number, "g").whole(1 << 512) == int.from_bytes(stream[:64], "little")
        # A cohort of 3 of 100: words of 32 bits, of which 7 count, until three different ones are there.
        words = [word & 127 for word in struct.unpack("<256I", stream)]
        drawn: list[int] = []
        used = 0
        while len(set(drawn)) < 3:
            missing = 3 - len(set(drawn))
            count = -(-(missing << 7) // 100)
            drawn += [word for word in words[used : used + count] if word < 100][:missing]
            used += count
        assert source.coins(number, "g").subset(100, 3).tolist() == sorted(set(drawn))


def test_every_bit_of_the_secret_reaches_the_coins() -> None:
    """If 16 of them did, 4,000 secrets would agree about 120 times; with 32, two in 2,000 such tests would."""
    secrets = [RoundSecret.fresh() for _ in range(4000)]
    assert len({SystemEntropy(one).coins(1).whole(1 << 128) for one in secrets}) == 4000
    assert len({SystemEntropy(one).coins(9).whole(1 << 128) for one in secrets}) == 4000
    first = secrets[0].secret
    flipped = [bytes(byte ^ (1 << bit) if at == place else byte for at, byte in enumerate(first))
               for place in range(32) for bit in range(8)]  # fmt: skip
    assert len({SystemEntropy(RoundSecret(1, one)).coins(1).whole(1 << 128) for one in [first, *flipped]}) == 257


def test_the_secret_moves_on_and_never_back() -> None:
    start = RoundSecret.fresh()
    source = SystemEntropy(start)
    drawn = [source.coins(number, group).whole(1 << 128) for number in (1, 2, 3) for group in ("", "a")]
    assert len(set(drawn)) == 6, "rounds and groups have coins of their own"
    assert source.coins(3).whole(1 << 128) == drawn[4], "a round that is made again has the same coins"
    kept = source._coins
    assert kept is not None
    assert kept.round == 3
    assert start.secret != kept.secret, "the memory holds what leads to later rounds only"
    assert SystemEntropy(kept).coins(5).whole(1 << 128) == SystemEntropy(start).coins(5).whole(1 << 128)
    for late in (source, SystemEntropy(kept)):
        with pytest.raises(InputError, match="the coins of round 2 are forgotten; those from 3 on are left"):
            late.coins(2)


def test_noise_and_coins_never_share_a_key() -> None:
    secret = RoundSecret.fresh()
    stream = SystemEntropy(secret).coins(1).whole(1 << 1024).to_bytes(128, "little")
    mine = SystemEntropy(secret)
    fixed = ReproducibleEntropy(3)
    for number in (1, 2):
        for purpose in ("coins", "noise"):
            assert mine.bytes(purpose, number, 128) != stream
            assert mine.normal(purpose, number, 4).tobytes() != mine.normal(purpose, number, 4).tobytes()
            assert fixed.bytes(purpose, number, 16) != fixed.coins(number).whole(1 << 128).to_bytes(16, "little")


@pytest.mark.parametrize("rate", [0.5, 0.3, 1 / 3, 1e-3, 1 - 2**-20, 2**-60, 5e-324])
@pytest.mark.parametrize("tosses", [1, 2, 7, 40])
def test_the_number_of_heads_is_binomial_to_150_bits(tosses: int, rate: float) -> None:
    """Against exact fractions: the rate is one, too."""
    first, cumulative = binomial_table(tosses, rate)
    weights = [upper - lower for lower, upper in pairwise([0, *cumulative])]
    p, total, apart = Fraction(rate), cumulative[-1], Fraction(0)
    for heads in range(tosses + 1):
        exact = comb(tosses, heads) * p**heads * (1 - p) ** (tosses - heads)
        at = heads - first
        apart += abs(exact - (Fraction(weights[at], total) if 0 <= at < len(weights) else 0))
    assert apart / 2 < Fraction(1, 2**150)


def test_large_tables_are_binomial_as_well() -> None:
    for tosses, rate in ((10**6, 1e-4), (10**6, 0.5), (10**11, 1e-8)):
        first, cumulative = binomial_table(tosses, rate)
        heads = first + np.arange(len(cumulative))
        share = np.array([float(Fraction(one, cumulative[-1])) for one in cumulative])
        np.testing.assert_allclose(share, stats.binom.cdf(heads, tosses, rate), rtol=1e-6, atol=1e-12)


class Scripted:
    """Bits from a list of words, little-endian, 4 bytes each."""

    def __init__(self, words: list[int]) -> None:
        self.left = struct.pack(f"<{len(words)}I", *words)

    def __call__(self, count: int) -> bytes:
        taken, self.left = self.left[:count], self.left[count:]
        assert len(taken) == count, "more bits were asked for than there are"
        return taken


def test_all_words_together_give_every_answer_equally_often() -> None:
    """Every possible keystream once: an exact count, no statistics."""
    found = Counter(Coins(Scripted([word, *range(8)])).whole(3) for word in range(8) if word & 3 < 3)
    assert found == {0: 2, 1: 2, 2: 2}
    # Four words decide over a pair of four unless they are all the same.
    words = [one for one in product(range(4), repeat=4) if len(set(one)) > 1]
    pairs = Counter(tuple(Coins(Scripted([*one])).subset(4, 2).tolist()) for one in words)
    assert list(pairs.values()) == [42] * 6


def test_dense_and_sparse_subsets_have_one_law() -> None:
    """Pearson's statistic over who is in, for both ways of collecting; a false alarm has probability 1e-6."""
    coins = ReproducibleEntropy(1).coins(1)
    for population, size, times in ((130, 2, 20_000), (120, 2, 20_000), (30, 22, 4000)):
        counts = np.zeros(population)
        for _ in range(times):
            counts[coins.subset(population, size)] += 1
        spread = ((counts - times * size / population) ** 2).sum() / (
            times * size / population * (1 - size / population)
        )
        assert stats.chi2.sf(spread * (population - 1) / population, population - 1) > 1e-6
    assert coins.subset(10, 0).tolist() == []
    assert coins.subset(10**9, 0).tolist() == []
    assert coins.subset(10, 10).tolist() == list(range(10))
    for size in (-1, 11):
        with pytest.raises(InputError, match="0 to 10 members"):
            coins.subset(10, size)


def test_reproduced_coins_never_change() -> None:
    """Frozen: evidence that was made with a seed must stay reproducible."""
    coins = ReproducibleEntropy(0).coins(1)
    assert PoissonSampling(0.25).draw(20, coins).tolist() == [0, 4, 7, 19]
    assert PoissonSampling(1e-3).draw(10_000, coins).tolist() == [688, 7763, 8051, 9100, 9382]


def test_a_run_moves_its_secret_on_after_every_round(tmp_path: Path, monkeypatch: Any) -> None:
    """In its file, too, in place; who holds it then cannot derive who took part before."""
    key, seen, drawn = tmp_path / "run/checkpoints/coins.key", [], []
    original = Billboard.aggregate_train

    def note(self: Billboard, number: int, replies: Any) -> Any:
        content = key.read_bytes()
        seen.append(RoundSecret(int.from_bytes(content[:8], "big"), content[8:]))
        drawn.append(self.session.sampled[ALL].tolist())
        if number == 5:
            raise ComponentFailure("a shard died")
        return original(self, number, replies)

    monkeypatch.setattr(Billboard, "aggregate_train", note)
    many = experiment(toy_tasks(40), strategy=noisy(rounds=6, sampling_rate=0.5), checkpoint_every=3)
    with pytest.raises(ComponentFailure):
        many.run(tmp_path / "run")
    assert [one.round for one in seen] == [1, 2, 3, 4, 5]
    assert len({one.secret for one in seen}) == 5
    for one, ids in zip(seen, drawn, strict=True):
        assert PoissonSampling(0.5).draw(40, SystemEntropy(one).coins(one.round, ALL)).tolist() == ids
        with pytest.raises(InputError, match="are forgotten"):
            one.at(one.round - 1)
    assert key.stat().st_mode & 0o077 == 0
    folder = RunFolder(tmp_path / "other", {"run": {}}, resume=False)
    before = folder.coins()
    inode = (tmp_path / "other/checkpoints/coins.key").stat().st_ino
    folder.forget_coins(4, durably=True)
    assert folder.coins() == before.at(5)
    folder.forget_coins(2, durably=False)
    assert folder.coins() == before.at(5), "never back"
    assert (tmp_path / "other/checkpoints/coins.key").stat().st_ino == inode
    folder.close()


def test_a_round_that_is_asked_for_again_has_the_same_participants_without_a_folder() -> None:
    tasks = toy_tasks(40)
    problem = toy_problem(tasks)
    initial = record_from_billboards({ALL: {name: value.numpy() for name, value in problem.initial().items()}})
    drawn = []
    for _ in range(2):
        grid = InProcessGrid([NodeSpec(tasks, GlobalModel(), problem)])
        strategy = noisy(sampling_rate=0.5)
        strategy.bind(grid, initial, journal=None)
        for number in (1, 1, 2):
            strategy.configure_train(number, initial, ConfigRecord(), grid)
            drawn.append(strategy.session.sampled[ALL].tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != drawn[3], "another run has coins of its own; 40 agree by chance with probability 1e-12"
