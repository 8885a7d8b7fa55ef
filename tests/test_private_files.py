"""Modes of everything that a run writes, and what a full disk does to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import experiment, noisy, toy_tasks

from fedpriv.clients import MeanRegularized
from fedpriv.errors import ComponentFailure
from fedpriv.lrs.store import PersonalModels
from fedpriv.protocol import ALL
from fedpriv.report import write_report
from fedpriv.runs.checkpoint import CheckpointStore

READABLE = {"config.toml", ".lock"}
"""What no task's data decide: settings. Means of scores are no release, so they are nobody else's either."""
CLOSED = {"checkpoints", "private", "figures"}
"""Folders of a run that nobody else may look into."""


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(root: Path) -> set[str]:
    """Return what others can read below a folder, or list, although it may tell of single tasks."""
    found = set()
    for folder, folders, files in os.walk(root):
        for name in folders:
            if name in CLOSED and (Path(folder) / name).stat().st_mode & 0o077:
                found.add(f"{folder}/{name}")
        for name in files:
            path = Path(folder) / name
            hidden = Path(folder).name == "figures" and not Path(folder).stat().st_mode & 0o077
            if name not in READABLE and not hidden and path.stat().st_mode & 0o077:
                found.add(str(path))
    return found


def test_only_the_owner_reads_what_tells_of_single_tasks(tmp_path: Path, monkeypatch: Any) -> None:
    """At every moment of a run with personal models, secrets, correlated noise and metrics.

    What an attacked run keeps in ``private/`` is looked at in ``test_malicious.py``.
    """
    seen: set[str] = set()
    for method in ("stage", "promote", "seal", "promote_measured"):
        original = getattr(CheckpointStore, method)

        def watched(self: CheckpointStore, *arguments: Any, original: Any = original) -> None:
            original(self, *arguments)
            seen.update(path.name for path in self.directory.iterdir())
            assert open_to_others(tmp_path) == set()

        monkeypatch.setattr(CheckpointStore, method, watched)
    more = {"metrics": ("personal.loss",), "metrics_every": 2, "metrics_epsilon": 1.0}
    strategy = noisy(rounds=6, noise="banded", sampling_rate=0.25, min_separation=3, **more)
    client = MeanRegularized(strength=0.5, learning_rate=0.3, final_epochs=1)
    people = {"client": client, "strategy": strategy, "checkpoint_every": 2, "population": "p"}
    experiment(toy_tasks(12), ledger=tmp_path / "people.sqlite", **people).run(
        tmp_path / "run", about={"scenario": "toy"}
    )
    write_report(tmp_path / "run")
    assert open_to_others(tmp_path) == set()
    kinds = {"round-", "states-", "noise-", "metrics-", "coins.key", "run-id", "ledger.head", "pending", "about.json"}
    assert {kind for kind in kinds if any(name.startswith(kind) for name in seen)} == kinds
    for name in ("people.sqlite", "people.sqlite.head", "run/summary.json", "run/report.html"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600, name
    assert (tmp_path / "run/figures").stat().st_mode & 0o777 == 0o700


def test_an_export_of_personal_models_is_private_whatever_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"older")
    rng = np.random.default_rng(0)
    index = np.zeros((4, 1), dtype=np.int64)
    PersonalModels(rng.normal(size=(5, 2)), rng.normal(size=(4, 2)), index, rng.normal(size=(4, 1))).save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(PersonalModels.open(path)) == 4


def test_a_folder_that_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True, mode=0o755)
    experiment(toy_tasks(6), strategy=noisy(rounds=1)).run(tmp_path / "run")
    assert (tmp_path / "run/checkpoints").stat().st_mode & 0o777 == 0o700


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.parametrize("moment", ["stage", "seal", "log", "write_summary", "snapshot", "charge"])
def test_a_full_disk_is_a_sentence_and_the_run_goes_on(tmp_path: Path, monkeypatch: Any, moment: str) -> None:
    """Whatever is being written then; what was computed before stays."""
    from fedpriv.privacy.journal import Journal
    from fedpriv.runs import RunFolder
    from fedpriv.runtime.grid import InProcessGrid

    owner: Any = {"log": RunFolder, "write_summary": RunFolder, "snapshot": InProcessGrid, "charge": Journal}.get(
        moment, CheckpointStore
    )
    many = experiment(
        toy_tasks(7), client=MeanRegularized(strength=0.5, learning_rate=0.3, final_epochs=1),
        strategy=noisy(rounds=6, evaluate_every=1), checkpoint_every=3,
    )  # fmt: skip
    reference = many.run(reproduce=6)
    original = getattr(owner, moment)
    calls: list[int] = []
    with small_disk(tmp_path / "disk") as disk:

        def filling(self: Any, *arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == (1 if moment in ("write_summary", "seal", "snapshot") else 4):
                fill(disk)
            return original(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, moment, filling)
            with pytest.raises(ComponentFailure, match=r"disk is full") as found:
                many.run(disk / "run", reproduce=6)
        assert found.value.exit_code == 4
        assert "\n" not in str(found.value)
        published = max(CheckpointStore(disk / "run/checkpoints").rounds())
        (disk / "filler").unlink()
        assert published >= (6 if moment == "write_summary" else 2)
        result = many.run(disk / "run", reproduce=6, resume=True)
        for name, value in reference.billboards[ALL].items():
            np.testing.assert_allclose(result.billboards[ALL][name], value, rtol=1e-9)
        assert result.guarantee == reference.guarantee
        assert not list(disk.glob("**/*.tmp"))
