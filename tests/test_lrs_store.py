"""Personal models in a file: exact, compact, and quick to ask."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpriv import InputError
from fedpriv.data import synthetic_tasks
from fedpriv.lrs.store import PersonalModels
from fedpriv.personal import nodes


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


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It was written by hand: arrays in the order of their names here, the header filled up to a multiple of 8."""
    made, path = models(), tmp_path / "models.safetensors"
    kinds = {
        "factors": ("F64", "<f8"),
        "coefficients": ("F32", "<f4"),
        "index": ("U16", "<u2"),
        "values": ("F32", "<f4"),
    }
    arrays = {name: getattr(made, name).astype(kind) for name, (_, kind) in kinds.items()}
    header, start = {"__metadata__": {"format": "fedpriv low-rank-sparse 1"}}, 0
    for name, one in arrays.items():
        about = {
            "dtype": kinds[name][0],
            "shape": list(one.shape),
            "data_offsets": [start, start := start + one.nbytes],
        }
        header[name] = about  # type: ignore[assignment]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(one.tobytes() for one in arrays.values()))
    found = PersonalModels.open(path)
    for name, one in arrays.items():
        np.testing.assert_array_equal(getattr(found, name), one, strict=True)


def test_bad_files_and_questions_are_refused(tmp_path: Path) -> None:
    made, path = models(), tmp_path / "models.safetensors"
    with pytest.raises(InputError, match="cannot be read"):
        PersonalModels.open(path)
    made.save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", b"\xff" * 100, whole.replace(b"coefficients", b"coefficientz")):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="does not hold personal models, or is cut short; write it anew"):
            PersonalModels.open(path)
        made.save(path)
        np.testing.assert_array_equal(PersonalModels.open(path).factors, made.factors)
    (length,) = struct.unpack("<Q", whole[:8])
    for name, about in (
        ("coefficients", {"shape": [2, 7]}),
        ("index", {"shape": [3, 7]}),
        ("values", {"shape": [21]}),
        ("values", {"shape": [3, 7]}),
        ("values", {"data_offsets": [-84, 0]}),
        ("factors", {"dtype": "F32", "shape": [9, 4]}),
        ("values", {"dtype": "I32"}),
    ):
        header = json.loads(whole[8 : 8 + length])
        header[name] |= about
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        with pytest.raises(InputError, match="does not hold personal models, or is cut short"):
            PersonalModels.open(path)
    path.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000)
    with pytest.raises(InputError, match="does not hold personal models, or is cut short"):
        PersonalModels.open(path)
    for tasks, said in (
        (np.array([0.0]), r"float64 of shape \(1,\)"),
        (np.array([[0]]), r"int64 of shape \(1, 1\)"),
        (np.array([True]), "got bool"),
        ([0], "got list"),
    ):
        with pytest.raises(InputError, match=f"'tasks' must be an array of whole numbers.*{said}"):
            made.predict(tasks, np.zeros((1, 9)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tasks are numbered 0 to 6 here, got 0 to 7"):
        made.theta(np.array([0, 7]))
    with pytest.raises(InputError, match=r"'inputs' must have shape \(1, 9\)"):
        made.predict(np.array([0]), np.zeros((2, 9)))
    with pytest.raises(InputError, match="'dtype' must be"):
        made.save(path, dtype="int8")


def test_numbers_beyond_float32_are_refused_and_not_made_infinite(tmp_path: Path) -> None:
    made, path = models(), tmp_path / "models.safetensors"
    for name in ("coefficients", "values"):
        large = replace(made, **{name: getattr(made, name) * 1e60})
        with pytest.raises(InputError, match=r"at most 3.4e\+38 in float32, got .*e\+60, .*use dtype='float64'"):
            large.save(path)
        assert not path.exists()
        large.save(path, dtype="float64")
        np.testing.assert_array_equal(getattr(PersonalModels.open(path), name), getattr(large, name))
        path.unlink()


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


SMALL = [
    "data.tasks=12",
    "data.dimension=8",
    "data.samples=16",
    "data.sparsity=1",
    "data.overlap=2",
    "client.sparsity=1",
]


def test_a_run_exports_the_models_that_it_scored(fedpriv: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Not new ones: the error of what the file predicts is the run's own, not that of another fit."""
    monkeypatch.setattr(nodes, "_TASKS_AT_A_TIME", 5)  # states are read in three pieces, as more than 4,096 are
    settings = [f"--set={one}" for one in [*SMALL, "data.noise=0.3", "data.seed=5"]]
    code, out, _ = fedpriv("run", "lrs-synthetic", *settings, "--out=r", "--json")
    assert code == 0
    code, out, err = fedpriv("models", "r", "--out=m.safetensors", "--dtype=float64", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["tasks"], found["numbers_per_task"], found["bytes_per_task"]) == (12, 2, 8 * 2 + 2)
    assert found["released"] is False
    assert found["file_bytes"] == (tmp_path / "m.safetensors").stat().st_size
    tasks = synthetic_tasks(
        "low-rank-sparse", tasks=12, dimension=8, samples=16, sparsity=1, overlap=2, noise=0.3, seed=5
    )
    owner = np.repeat(np.arange(12), tasks.test.sizes)
    guessed = PersonalModels.open(tmp_path / "m.safetensors").predict(owner, tasks.test.inputs)
    losses = np.bincount(owner, (guessed - tasks.test.targets) ** 2) / tasks.test.sizes / 2
    scored = json.loads((tmp_path / "r/summary.json").read_text())["diagnostics"]["loss"]["personal"]
    assert losses.mean() == pytest.approx(scored, rel=1e-9)


def test_what_cannot_be_exported_is_a_sentence(fedpriv: Any) -> None:
    small = [f"--set={one}" for one in ["data.tasks=20", "strategy.rounds=1", "run.grid=in-process", "client.epochs=1"]]
    assert fedpriv("run", "pmtl", *small, "--out=p")[0] == 0
    two = [f"--set={one}" for one in [*SMALL, "strategy.groups=[0,0,0,0,0,0,1,1,1,1,1,1]"]]
    assert fedpriv("run", "lrs-synthetic", *two, "--out=two")[0] == 0
    for words, said in (
        (["two", "--out=m.safetensors"], "there is a billboard for each of 2 groups, and a compact file holds one;"),
        (["p", "--out=m.safetensors"], "only low-rank-plus-sparse models have a compact file"),
        (["nowhere"], "is not a run folder: it holds no config.toml; give the --out of a run."),
    ):
        code, _, err = fedpriv("models", *words)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1
    for folder in ("two", "p"):  # as the sentences advise
        assert fedpriv("models", folder, "--out", f"{folder}-models")[0] == 0
    new = [f"--set={one}" for one in [*SMALL, "client.name=low-rank-sparse"]]
    assert fedpriv("run", "lrs-synthetic", *new, "--out=new")[0] == 0
    Path("new/summary.json").unlink()
    code, _, err = fedpriv("models", "new")
    assert (code, "is not finished; go on with `fedpriv run ... --out new --resume` first." in err) == (2, True)
    assert fedpriv("run", "lrs-synthetic", "--out=new", "--resume")[0] == 0
    assert fedpriv("models", "new", "--out=m.safetensors")[0] == 0
