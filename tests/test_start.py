"""How a run starts: where Ray lives, what a run leaves that did not start, which grid it takes, and who says so."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import experiment, noisy, toy_problem, toy_tasks
from test_cli import QUICK
from torch import nn

from fedpriv import ComponentFailure, InputError
from fedpriv.clients import GlobalModel
from fedpriv.cohort import Problem
from fedpriv.effort import choose_grid, seconds_of_training
from fedpriv.experiment.preparation import prepare
from fedpriv.privacy import FullParticipation, Ledger, Release, Target
from fedpriv.privacy.journal import Checkpoint
from fedpriv.runs import RunFolder
from fedpriv.runtime.short_folder import short_folder

SMALL = [*QUICK[1:], "--set=data.tasks=20", "--set=strategy.delta=1e-3", "--set=run.shards=1"]


def test_ray_starts_whatever_the_name_of_the_temporary_folder(fedpriv: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Sockets have room for 107 bytes: Ray gets a short folder of its own, which is gone afterwards."""
    long = tmp_path / ("gr\u00f6\u00dfe-" * 8)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", str(long))
    made: list[str] = []  # by this process: others have folders of the same kind
    make = tempfile.mkdtemp
    monkeypatch.setattr("tempfile.mkdtemp", lambda *a, **how: made.append(make(*a, **how)) or made[-1])
    code, _, err = fedpriv("run", "pmtl", *SMALL, "--set=run.grid=ray", "--out", "run")
    assert code == 0, err
    short = [one for one in made if Path(one).name.startswith("fed-")]
    assert short
    assert not any(Path(one).exists() for one in short)
    assert list(long.iterdir()) == []


def test_a_short_folder_is_its_owners_alone_and_never_long(tmp_path: Path) -> None:
    with short_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(os.fsencode(folder)) <= 41, "Ray adds 66 bytes, and a socket's path has 107"
    assert not folder.exists()
    long = tmp_path / ("x" * 60)
    long.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(long))
        with pytest.raises(ComponentFailure, match="set TMPDIR to such a folder"), short_folder(["/proc/none"]):
            pass
        with short_folder() as short:
            patch.setenv("TMPDIR", str(short))
            patch.setattr("tempfile.tempdir", None)  # so that Python reads it
            with short_folder(["/proc/none"]) as folder:
                assert folder.parent == short


def test_a_run_without_a_place_for_sockets_needs_none_in_process(tmp_path: Path, monkeypatch: Any) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setattr(short_folder.__wrapped__, "__defaults__", (["/proc/none"],))  # type: ignore[attr-defined]
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with pytest.raises(ComponentFailure, match=r"or use --set run\.grid=in-process"):
        experiment(toy_tasks(), grid="ray").run()
    experiment(toy_tasks(), grid="in-process").run()


def test_the_repaired_command_may_use_the_folder_of_a_run_that_did_not_start(
    fedpriv: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    words = ["run", "pmtl", *SMALL, "--out", "run"]
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    code, _, err = fedpriv(*words, "--set=run.grid=ray")
    assert code == 4
    assert "check RAY_TMPDIR" in err, "what is wrong here is named"
    code, _, err = fedpriv(*words, "--set=run.grid=in-process", "--set=client.strength=2.0")
    assert code == 0, err
    code, _, err = fedpriv(*words)
    assert code == 2
    assert "holds a run already" in err


def test_what_has_started_is_never_removed(tmp_path: Path) -> None:
    """Not a file of a run that asked its first task, nor one that was in the folder before."""
    config: dict[str, Any] = {"run": {}}
    own = tmp_path / "run/checkpoints/mine.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    first = RunFolder(tmp_path / "run", config, resume=False)
    assert own.exists()
    first.close()
    again = RunFolder(tmp_path / "run", config, resume=False)
    again.checkpoints.stage(Checkpoint(0, {"all": {"w": np.zeros(1)}}))
    again.checkpoints.promote(0)
    again.started()
    name = again.run_id
    again.close()
    with pytest.raises(InputError, match="holds a run already"):
        RunFolder(tmp_path / "run", config, resume=False)
    resumed = RunFolder(tmp_path / "run", config, resume=True)
    assert resumed.run_id == name
    resumed.close()


def test_a_ledger_of_people_in_the_folder_stays_when_a_run_there_begins_anew(tmp_path: Path) -> None:
    """It holds what other runs have spent, so nobody may forget it."""
    path = tmp_path / "run/ledger.sqlite"
    path.parent.mkdir()
    ledger = Ledger(path)
    ledger.register("people", fingerprint="f", num_tasks=6, declared="protected", budget=Target(epsilon=1, delta=1e-3))
    kept = {file.name: file.read_bytes() for file in path.parent.glob("ledger.sqlite*")}
    for _ in range(2):
        RunFolder(tmp_path / "run", {"run": {}}, resume=False).close()
        assert {name: (path.parent / name).read_bytes() for name in kept} == kept
    ledger.charge("people", "another run", 1, "all", Release.of(FullParticipation(), 20.0))
    RunFolder(tmp_path / "run", {"run": {}}, resume=False).close()
    assert Ledger(path).runs("people") == ["another run"]
    own = tmp_path / "own/ledger.sqlite"
    for data in ("one benchmark", "another one"):  # under one name
        RunFolder(own.parent, {"run": {}}, resume=False).close()
        assert not own.exists()
        Ledger(own).register("benchmark", fingerprint=data, num_tasks=6, declared="benchmark")


def test_a_run_says_that_it_started_before_it_asks_the_first_task(tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[bool] = []
    original = RunFolder.started

    def watch(folder: RunFolder) -> None:
        seen.append((folder.path / "not-started").exists())
        original(folder)
        seen.append((folder.path / "not-started").exists())

    def stop(*_: Any, **__: Any) -> None:
        assert seen == [True, False]
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "started", watch)
    monkeypatch.setattr("fedpriv.experiment.execution.serve", stop)
    with pytest.raises(KeyboardInterrupt):
        experiment(toy_tasks()).run(tmp_path / "run")


def test_the_grid_follows_from_the_work_and_the_cores() -> None:
    assert choose_grid(15.0, 2).grid == "in-process", "half of it is less than a start of Ray"
    assert choose_grid(20.0, 2).grid == "ray"
    assert choose_grid(10.0, 16).grid == "ray"
    assert choose_grid(1e6, 1).grid == "in-process"
    assert "one core" in choose_grid(1e6, 1).why
    tasks = toy_tasks(20)
    short = experiment(tasks, grid="auto", shards=None, strategy=noisy(rounds=3))
    long = short.model_copy(update={"strategy": noisy(rounds=3_000_000)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedpriv.experiment.preparation.usable_cores", lambda: 2)
        assert prepare(short, reproduced=False).choice.grid == "in-process"
        assert prepare(long, reproduced=False).choice.grid == "ray"
        asked = long.model_copy(update={"grid": "in-process"})
        assert prepare(asked, reproduced=False).choice.grid == "in-process"
        patch.setattr("fedpriv.experiment.preparation.usable_cores", lambda: 1)
        assert prepare(long, reproduced=False).choice.grid == "in-process"


def test_the_estimate_counts_each_weight_where_it_is_used() -> None:
    """A convolution uses its weights once for each place; the loop takes a step of one task at a time."""
    image = torch.zeros(1, 1, 6, 6)
    flat = Problem(nn.Sequential(nn.Flatten(), nn.Linear(36, 10)))
    folded = Problem(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 10)))
    fixed = seconds_of_training(Problem(nn.Linear(1, 1, bias=False)), torch.zeros(1, 1), 1e9, "auto")
    per_product = (seconds_of_training(flat, image, 1e9, "auto") - fixed) / (36 * 10 + 10 - 1)
    conv = (seconds_of_training(folded, image, 1e9, "auto") - fixed) / per_product + 1
    assert conv == pytest.approx(4 * 9 * 16 + 4 + 64 * 10 + 10)
    problem = toy_problem(toy_tasks())
    auto, loop = (seconds_of_training(problem, torch.zeros(1, 5).double(), 1e6, name) for name in ("auto", "loop"))
    assert loop > 10 * auto
    assert not problem.model[0]._forward_hooks  # type: ignore[index]


def test_the_work_of_a_run_is_what_its_clients_count() -> None:
    """Epochs of a participation and of the final fit, seen in the dry run."""
    few, many = (experiment(toy_tasks(), client=GlobalModel(epochs=epochs)) for epochs in (1, 8))
    seen: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedpriv.experiment.preparation.seconds_of_training", lambda *words: seen.append(words[2]) or 0.0)
        for run in (few, many):
            prepare(run.model_copy(update={"grid": "auto"}), reproduced=False)
    examples = len(few.tasks.train.inputs)
    assert seen == [examples, 8 * examples]


def test_a_run_says_its_grid_and_why_and_shows_its_table_before_it_draws(
    fedpriv: Any, monkeypatch: Any, capsys: Any
) -> None:
    shown: list[str] = []

    def draw(*folders: Any) -> None:
        found = capsys.readouterr()
        shown.append(found.out)
        sys.stderr.write(found.err)

    monkeypatch.setattr("fedpriv.report.write_report", draw)
    code, _, err = fedpriv("run", "pmtl", *SMALL, "--out", "run")
    assert code == 0
    assert len(shown) == 1
    assert "personal" in shown[0]
    assert "Joint differential privacy" in shown[0]
    assert [line for line in err.splitlines() if line.startswith("grid: in-process, because ")]
    code, _, err = fedpriv("run", "pmtl", *SMALL, "--set=run.grid=in-process", "--out", "asked")
    assert (code, "grid: " in err) == (0, False), "whoever chose it knows it"
    code, out, _ = fedpriv("--version")
    assert (code, out.split()[0]) == (0, "fedpriv")


BESIDE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")] {only}
sys.path += {more}
import fedpriv
from fedpriv.{module} import {name}
print(fedpriv.__file__)
"""


@pytest.mark.parametrize("case", ["editable", "not installed", "installed"])
def test_a_script_beside_a_clone_named_like_the_package(tmp_path: Path, case: str) -> None:
    """The folder beside the script is no package; what is installed comes first, then what the clone holds."""
    root = Path(__file__).parent.parent
    (tmp_path / "fedpriv").symlink_to(root)
    site = tmp_path / "site"
    words = {"only": "if True else None", "more": [], "module": "strategies", "name": "Billboard"}
    expected = root / "fedpriv/__init__.py"
    if case == "editable":
        words["only"] = "if False else sys.meta_path"
    if case == "installed":
        expected = site / "fedpriv/__init__.py"
        expected.parent.mkdir(parents=True)
        expected.write_text("")
        (site / "fedpriv/other.py").write_text("here = True\n")
        words |= {"more": [str(site)], "module": "other", "name": "here"}
    (tmp_path / "script.py").write_text(BESIDE.format(**words))
    ran = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()) == expected
