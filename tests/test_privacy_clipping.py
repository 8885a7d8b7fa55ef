"""Clipping: sensitivity by brute force, for rows of every kind."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpriv.errors import InputError
from fedpriv.privacy import clip_rows, clipped_sum, update_norms
from fedpriv.privacy import clipping as module

WILD = np.array(
    [
        [0.0, 0.0, 0.0],
        [1.0, 2.0, 2.0],
        [1e300, -1e300, 1e300],
        [1.7e308, 1.7e308, 1.7e308],
        [5e-324, 0.0, 5e-324],
        [1e-170, 1e-170, 0.0],
        [np.nan, 0.0, 1.0],
        [np.inf, 0.0, 0.0],
        [-np.inf, np.nan, 0.0],
        [0.3, 0.0, 0.1],
        [1e9, 1e-9, 1.0],
    ]
)


def total_norm(parts: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(part)) for part in parts)))


def test_norms() -> None:
    norms = update_norms([WILD[:, :1], WILD[:, 1:]])
    assert norms[1] == 3.0
    assert norms[0] == 0.0
    assert norms[2] == pytest.approx(np.sqrt(3) * 1e300)
    assert norms[3] == np.finfo(float).max  # would be infinite, but the row is finite
    assert 0 < norms[4] < 1e-322
    assert norms[5] == pytest.approx(np.sqrt(2) * 1e-170)
    assert np.isinf(norms[6:9]).all()


@given(
    arrays(np.float64, (6, 5), elements=st.floats(allow_nan=True, allow_infinity=True)),
    st.sampled_from([1e-100, 1e-3, 0.7, 1.0, 1e6, 1e100]),
)
@example(np.vstack([WILD[:6], WILD[:6]])[:6, [0, 1, 2, 0, 1]], 1.0)
@settings(max_examples=100, deadline=None)
def test_clipped_rows_obey_the_norm(values: np.ndarray, clip: float) -> None:
    split = [values[:, :2], values[:, 2:].reshape(6, 3, 1)]
    clipped = clip_rows(split, clip)
    joined = np.hstack([rows.reshape(6, -1) for rows in clipped.rows])
    finite = np.isfinite(values).all(axis=1)
    assert (clipped.counted == finite).all()
    assert (joined[~finite] == 0).all()
    norms = np.array([np.max(np.abs(row)) for row in joined])
    scaled = [np.linalg.norm(row / big) * big if big else 0.0 for row, big in zip(joined, norms, strict=True)]
    assert max(scaled) <= clip * (1 + 1e-12)
    kept = finite & (clipped.norms <= clip)
    assert (joined[kept] == values[kept]).all()  # what is short enough is not touched
    shortened = finite & (clipped.norms > clip)
    assert np.asarray(scaled)[shortened] == pytest.approx(clip, rel=1e-12)
    together = np.concatenate([part.ravel() for part in clipped_sum(split, clip)])
    assert together == pytest.approx(joined.sum(axis=0), rel=1e-12, abs=1e-12 * clip)


@pytest.mark.parametrize("clip", [1e-3, 1.0, 50.0])
def test_sensitivity_by_brute_force(clip: float) -> None:
    def summed(rows: np.ndarray) -> list[np.ndarray]:
        return clipped_sum([rows[:, :2], rows[:, 2:]], clip)

    whole = summed(WILD)
    assert all(np.isfinite(part).all() for part in whole)
    for k in range(len(WILD)):
        without = summed(np.delete(WILD, k, axis=0))
        assert total_norm([a - b for a, b in zip(whole, without, strict=True)]) <= clip * (1 + 1e-9)
        for other in (*WILD, -WILD[1], -WILD[2]):
            changed = WILD.copy()
            changed[k] = other
            moved = [a - b for a, b in zip(whole, summed(changed), strict=True)]
            assert total_norm(moved) <= 2 * clip * (1 + 1e-9)
    # the bounds are met: a heavy row against nobody, and against its opposite
    assert total_norm(summed(WILD[2:3])) == pytest.approx(clip)
    opposite = [a - b for a, b in zip(summed(WILD[2:3]), summed(-WILD[2:3]), strict=True)]
    assert total_norm(opposite) == pytest.approx(2 * clip)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint64, np.bool_, np.float16, np.float32])
def test_every_real_dtype(dtype: type) -> None:
    values = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]]).astype(dtype)
    (total,) = clipped_sum([values], 1.0)
    expected = np.array([1, 0, 1]) / np.sqrt(2) + np.array([1, 1, 1]) / np.sqrt(3)
    assert total.dtype == np.float64
    assert total == pytest.approx(expected)
    big = np.full((1, 4), np.iinfo(np.int64).min)
    assert clipped_sum([big], 1.0)[0] == pytest.approx(np.full(4, -0.5))


def test_blocks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    values = [generator.normal(size=(13, 4, 3)), generator.normal(size=(13,)), generator.normal(size=(13, 0))]
    values[0][4, 0, 0] = np.nan
    values[0][7] = 1e250
    whole = clipped_sum(values, 0.5)
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 5)
    for a, b in zip(whole, clipped_sum(values, 0.5), strict=True):
        assert a == pytest.approx(b, rel=1e-13, abs=1e-15)
    assert [part.shape for part in whole] == [(4, 3), (), (0,)]


def test_nobody_answers() -> None:
    total = clipped_sum([np.zeros((0, 3), dtype=np.float32)], 1.0)
    assert (total[0] == np.zeros(3)).all()
    assert clip_rows([np.zeros((0, 3))], 1.0).norms.shape == (0,)


def test_no_clipping_gives_back_the_plain_sum() -> None:
    values = np.random.default_rng(1).normal(size=(20, 7))
    assert clipped_sum([values], 1e100)[0] == pytest.approx(values.sum(axis=0), rel=1e-13)


def test_a_thousand_large_updates_are_quick() -> None:
    values = np.random.default_rng(2).normal(size=(1000, 50_890)).astype(np.float32)
    start = time.perf_counter()
    clipped_sum([values], 1.0)
    assert time.perf_counter() - start < 5  # 0.2 s on a free core


def test_refusals() -> None:
    for clip in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="clipping_norm"):
            clipped_sum([np.ones((1, 1))], clip)
    for wrong in ([], [np.ones((2, 1)), np.ones((3, 1))], [np.float64(1)], [np.ones((1, 1), dtype=complex)]):
        with pytest.raises(InputError):
            clipped_sum(wrong, 1.0)
