"""Bad input of low-rank-plus-sparse runs, each through the command: a sentence, or the stated fallback and no NaN."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TINY = ["data.tasks=6", "data.dimension=8", "data.samples=16", "data.sparsity=1", "data.overlap=2", "client.sparsity=1"]


def run(fedpriv: Any, *settings: str, preset: str = "exact", scenario: str = "lrs-synthetic") -> tuple[int, Any, str]:
    words = [f"--set={one}" for one in settings]
    code, out, err = fedpriv("run", scenario, f"--preset={preset}", *words, "--json")
    return code, json.loads(out) if code == 0 else None, err


def finite(found: Any) -> bool:
    """Whether no number anywhere in an answer is a NaN or infinite (epsilon is, without noise)."""
    if isinstance(found, dict):
        return all(finite(value) for key, value in found.items() if "guarantee" not in key and "epsilon" not in key)
    if isinstance(found, list):
        return all(map(finite, found))
    return not isinstance(found, float) or math.isfinite(found)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["client.sparsity=9"], "'sparsity' must be at most the number of features 8, got 9"),
        (["model.rank=9"], "'rank' must be at most the number of features 8, got 9"),
        (["data.rank=9"], "'rank' must be at most the dimension 8, got 9"),
        (["data.samples=0"], "'samples' must be greater than or equal to 2, got 0"),
        (["client.name=published-low-rank-sparse", "client.ridge=1.0"], "'ridge' has no place in Algorithm 2"),
        (["client.ridge=-1.0"], "ridge"),
        (["run.dtype=float32"], "run.dtype='float64'"),
    ],
)
def test_what_cannot_be_is_one_sentence(fedpriv: Any, tmp_path: Path, settings: list[str], said: str) -> None:
    code, _, err = run(fedpriv, *TINY, *settings)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("exact", ["data.samples=2", "data.rank=4", "model.rank=4"]),  # fewer samples than r
        ("exact", ["data.samples=3", "client.sparsity=8"]),  # fewer samples than k, and k = d
        ("exact", ["client.batches=20", "strategy.rounds=18"]),  # rounds in which no task has a sample
        (
            "normal-equations",
            ["data.tasks=1", "data.samples=3", "strategy.rounds=3"],
        ),  # A is not invertible: rank 3 of 8
        (
            "normal-equations",
            ["data.samples=2", "data.rank=4", "model.rank=4", "strategy.rounds=3"],
        ),  # 12 examples, 32 unknowns
        ("private", ["data.samples=2", "data.overlap=1", "data.tasks=8", "strategy.rounds=2"]),
    ],
)
def test_too_little_to_decide_falls_back_to_a_ridge(fedpriv: Any, preset: str, settings: list[str]) -> None:
    code, found, err = run(fedpriv, *TINY, *settings, preset=preset)
    assert (code, err) == (0, "")
    assert finite(found)
    assert 0 <= found["rmse"]["amht"] < 100


def test_constant_targets_and_collinear_features(fedpriv: Any, tmp_path: Path) -> None:
    """Of 40 schools one has equal results, one only girls of equal ability: both columns are multiples of the first."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4_059):
        school = number % 40
        ability = 1.5 if school == 1 else rng.normal()
        sex = "F" if school == 1 or rng.random() < 0.5 else "M"
        result = 0.25 if school == 0 else 0.6 * ability + rng.normal()
        rows.append(f"{school},{result:.6f},mixed,0,mid 50%,mid 50%,{ability:.6f},{sex},Mxd,{number}")
    heading = "school,normexam,schgend,schavg,vr,intake,standLRT,sex,type,student"
    (tmp_path / "schools").mkdir()
    (tmp_path / "schools/exam.csv.gz").write_bytes(gzip.compress("\n".join([heading, *rows, ""]).encode()))
    for settings in (["client.sparsity=3", "client.ridge=0.0"], ["client.coefficients=free", "client.sparsity=1"]):
        words = [f"--set={one}" for one in ["data.name=exam", *settings]]
        code, out, err = fedpriv(
            "run", "lrs-ratings", *words, f"--data-dir={tmp_path}", "--json", f"--out=r{settings[0][-1]}"
        )
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert finite({name: found[name] for name in ("rmse", "starved", "rich", "diagnostics") if name != "starved"})
        assert found["rmse"]["amht"] < 1.2
    code, _, err = fedpriv(
        "run", "lrs-ratings", "--set=data.name=exam", f"--data-dir={tmp_path}", "--set=client.sparsity=4"
    )
    assert code == 2
    assert "'sparsity' must be at most the number of features 3, got 4" in err
