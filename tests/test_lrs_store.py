"""Personal models in a file: exact, compact, and quick to ask."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from fedpriv import InputError
from fedpriv.lrs.store import PersonalModels


def models(tasks: int = 7, dimension: int = 9, rank: int = 2, sparsity: int = 3, seed: int = 0) -> PersonalModels:
    rng = np.random.default_rng(seed)
    index = np.array([rng.permutation(dimension)[:sparsity] for _ in range(tasks)]).reshape(tasks, sparsity)
    return PersonalModels(
        rng.normal(size=(dimension, rank)), rng.normal(size=(tasks, rank)), index, rng.normal(size=(tasks, sparsity))
    )


@pytest.mark.parametrize("sparsity", [0, 3])
def test_a_file_gives_back_the_models(tmp_path: Path, sparsity: int) -> None:
    made, path = models(sparsity=sparsity), tmp_path / "models.safetensors"
    made.save(path, dtype="float64")
    found, tasks = PersonalModels.open(path), np.array([6, 0, 0, 3])
    expected = made.coefficients @ made.factors.T
    np.put_along_axis(expected, made.index, np.take_along_axis(expected, made.index, 1) + made.values, 1)
    np.testing.assert_allclose(found.theta(tasks), expected[tasks], atol=1e-14)
    inputs = np.random.default_rng(1).normal(size=(4, 9))
    np.testing.assert_allclose(found.predict(tasks, inputs), (inputs * expected[tasks]).sum(axis=1), atol=1e-12)


def test_a_task_takes_r_plus_k_numbers_and_k_short_positions(tmp_path: Path) -> None:
    path = tmp_path / "models.safetensors"
    models(tasks=1000).save(path)
    opened = PersonalModels.open(path)
    assert opened.bytes_per_task == 4 * (2 + 3) + 2 * 3
    assert path.stat().st_size <= 1000 * opened.bytes_per_task + 9 * 2 * 8 + 600


def test_the_file_has_the_safetensors_format(tmp_path: Path) -> None:
    """Read by the letter of the format, without our reader."""
    made, path = models(), tmp_path / "models.safetensors"
    made.save(path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert set(header) == {"__metadata__", "factors", "coefficients", "index", "values"}
    start, stop = header["factors"]["data_offsets"]
    body = data[8 + length :]
    np.testing.assert_array_equal(np.frombuffer(body[start:stop]).reshape(header["factors"]["shape"]), made.factors)
    assert max(one["data_offsets"][1] for name, one in header.items() if name != "__metadata__") == len(body)


def test_bad_files_and_questions_are_refused(tmp_path: Path) -> None:
    made, path = models(), tmp_path / "models.safetensors"
    with pytest.raises(InputError, match="cannot be read"):
        PersonalModels.open(path)
    made.save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", b"\xff" * 100, whole.replace(b"coefficients", b"coefficientz")):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="does not hold personal models, or is cut short"):
            PersonalModels.open(path)
    with pytest.raises(InputError, match="tasks are numbered 0 to 6 here, got 0 to 7"):
        made.theta(np.array([0, 7]))
    with pytest.raises(InputError, match=r"'inputs' must have shape \(1, 9\)"):
        made.predict(np.array([0]), np.zeros((2, 9)))
    with pytest.raises(InputError, match="'dtype' must be"):
        made.save(path, dtype="int8")


def test_a_hundred_thousand_pairs_a_second(tmp_path: Path) -> None:
    """The best of five: a busy machine must not fail it; it takes about a twentieth of that on a quiet one."""
    path = tmp_path / "models.safetensors"
    models(tasks=20_000, dimension=50, rank=2, sparsity=5).save(path)
    opened, rng = PersonalModels.open(path), np.random.default_rng(0)
    tasks, inputs = rng.integers(20_000, size=20_000), rng.normal(size=(20_000, 50))
    seconds = []
    for _ in range(5):
        began = time.process_time()
        opened.predict(tasks, inputs)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.2, f"{20_000 / min(seconds):,.0f} pairs a second"
