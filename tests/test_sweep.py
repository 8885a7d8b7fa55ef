"""Sweeps: what is asked for, what is refused before anything runs, resume after kill -9, warm shards, the outcome."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_tasks
from rich.console import Console
from threadpoolctl import threadpool_info
from torch import nn

from fedpriv import InputError
from fedpriv.cli.sweep import table_of
from fedpriv.clients import MeanRegularized
from fedpriv.cohort import LoopEngine, Problem
from fedpriv.cohort.probe import probe
from fedpriv.config import apply, build_experiment, parse_assignments
from fedpriv.errors import ComponentFailure
from fedpriv.progress import Progress
from fedpriv.protocol import ALL
from fedpriv.runs import RunRecord
from fedpriv.runtime.pool import ShardPool
from fedpriv.scenarios import scenario
from fedpriv.statistics import Interval, interval
from fedpriv.sweep import Job, JobRunner, Plan, check_jobs
from fedpriv.sweep.figure import draw
from fedpriv.sweep.results import CellResult, Results, collect
from fedpriv.sweep.words import parse_grid, parse_seeds
from fedpriv.sweep.workers import Workers, _run

SETTINGS = [
    *["run.grid=in-process", "data.tasks=20", "strategy.rounds=2", "strategy.noise_multiplier=3.0"],
    *["client.epochs=1", "client.final_epochs=1", "strategy.evaluate_every=0"],
]
TINY = [*(f"--set={item}" for item in SETTINGS), "--jobs=1"]
CLINIC = [
    *["--set=run.declared=protected", "--set=run.population=clinic", "--set=run.ledger=clinic.sqlite"],
    *["--set=run.budget_epsilon=2.0", "--set=run.budget_delta=1e-5", "--set=data.seed=0"],
]


# --- words -----------------------------------------------------------------------------------------------------------


def test_grids_are_lists_of_toml_values() -> None:
    found = parse_grid(
        ["client.strength=0.5,[0.1, 1]", "model.name=mlp,linear", 'data.partition="a,b",c', "data.x={a=1}"]
    )
    assert found == {
        "client.strength": [0.5, [0.1, 1]],
        "model.name": ["mlp", "linear"],
        "data.partition": ["a,b", "c"],
        "data.x": [{"a": 1}],
    }


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [0, 1, 2]), ("3,5,9", [3, 5, 9]), ("2001-2003", [2001, 2002, 2003]), ("7,", [7]), ("1-2, 8", [1, 2, 8])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "x", "3-1", "1,1", "1-3,2", "-1", "1.5", "0-10000", ","])
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(InputError, match="--seeds"):
        parse_seeds(text)


SEEDS = ["--seeds", "2"]
GRID = ["--grid", "client.strength=0.5,1"]
WRONG = [
    (GRID, "--seeds is required"),
    (SEEDS, "at least one --grid"),
    ([*SEEDS, "--grid", "client.strength"], "key=v1,v2"),
    ([*SEEDS, "--grid", "client.strength="], "without empty values"),
    ([*SEEDS, "--grid", "client.strength=1,,2"], "without empty values"),
    ([*SEEDS, "--grid", "client.strength=1,1.0"], "client.strength the value 1.0 twice"),
    ([*SEEDS, *GRID, *GRID], "names client.strength twice"),
    ([*SEEDS, "--grid", "strength=1,2"], "dotted key"),
    ([*SEEDS, "--grid", "client.strenght=1,2"], "did you mean 'strength'"),
    ([*SEEDS, "--grid", "client.strength=1,-2"], "-2"),
    ([*SEEDS, "--grid", "strategy.delta=1e-5,0.1", "--set", "strategy.epsilon=1"], "below 1/m"),
    ([*SEEDS, "--grid", "strategy.epsilon=1,2000"], "at most 1000"),
    ([*SEEDS, "--grid", "run.seed=1,2"], "use --seeds"),
    ([*SEEDS, *GRID, "--set", "run.seed=1"], "use --seeds"),
    ([*SEEDS, "--grid", "run.grid=ray,flower"], "Flower's own engine"),
    ([*SEEDS, "--grid", "strategy.epsilon=1,2", "--grid", "strategy.noise_multiplier=1,2"], "same run"),
    ([*SEEDS, *GRID, "--resume"], "--resume needs --out"),
    ([*SEEDS, *GRID, "--resume", "--out", "nowhere"], "no sweep to resume"),
    ([*SEEDS, *GRID, "--reproduce", *CLINIC], "protects nobody"),
    ([*SEEDS, "--grid", "data.tasks=20,30", *CLINIC], "same tasks in all runs"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_sweeps_are_one_sentence_and_start_nothing(
    fedpriv: Any, tmp_path: Path, words: Any, sentence: str
) -> None:
    code, out, err = fedpriv("sweep", "pmtl", *TINY, *words)
    assert code == 2, err
    assert sentence in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


# --- outcome ---------------------------------------------------------------------------------------------------------


def test_a_sweep_is_ordinary_runs_with_a_table_and_a_figure(fedpriv: Any, tmp_path: Path) -> None:
    words = ["sweep", "pmtl", *TINY, "--grid", "client.strength=1,[0.1,1]", "--grid", "strategy.noise_multiplier=2,4"]
    code, out, err = fedpriv(*words, "--seeds", "3,4")
    assert code == 0, err
    assert "not released" in out
    assert "each run is accounted alone" in out
    folder = tmp_path / "runs/sweeps/pmtl-digits"
    found = json.loads((folder / "sweep.json").read_text())
    assert found["released"] is False
    assert [cell["values"] for cell in found["cells"]][1] == {"client.strength": 1, "strategy.noise_multiplier": 4}
    rows = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert len(rows) == len(found["runs"]) == 8
    for row in rows:
        summary = json.loads((folder / row["run"] / "summary.json").read_text())
        assert float(row["personal_accuracy"]) == summary["diagnostics"]["accuracy"]["personal"]
        assert float(row["billboard_loss"]) == summary["diagnostics"]["loss"]["billboard"]
        assert float(row["epsilon"]) == summary["guarantee"]["epsilon"]
        assert summary["seed"] == int(row["seed"])
    cell = found["cells"][0]
    mine = [float(row["personal_accuracy"]) for row in rows if row["run"].startswith("1-")]
    assert cell["accuracy"]["personal"] == vars(interval(mine))
    assert (folder / "figures/sweep.svg").stat().st_size > 5000
    assert "![accuracy](figures/sweep.svg)" in (folder / "sweep.md").read_text()
    first = folder / rows[0]["run"]
    assert fedpriv("report", str(first))[0] == 0, "every run can be reported on"
    assert fedpriv("ledger", "check", str(first))[0] == 0
    code, out, _ = fedpriv(*words, "--seeds", "5,", "--json")
    assert json.loads(out)["sweep"] == "runs/sweeps/pmtl-digits-2", "a sweep never overwrites another"
    assert code == 0
    code, _, err = fedpriv(*words, "--seeds", "5,", "--out", "runs/sweeps/pmtl-digits-2")
    assert code == 2
    assert "not empty" in err
    code, _, err = fedpriv(*words, "--seeds", "6,", "--out", "runs/sweeps/pmtl-digits-2", "--resume")
    assert code == 2
    assert "another seeds: [5] then, [6] now" in err


def test_what_a_refused_sweep_is_told_to_do_helps(fedpriv: Any, tmp_path: Path) -> None:
    words = ["sweep", "pmtl", *TINY, "--set=strategy.rounds=1", "--set=run.baseline=false"]
    words += ["--grid=client.strength=1", "--seeds=1"]

    def refused(*more: str, asked: list[str] = words) -> str:
        code, out, err = fedpriv(*asked, *more)
        assert (code, out) == (2, ""), err
        return str(err)

    assert "nothing of its own, so 'rmse.amht' cannot be shown; leave out --show." in refused(
        "--out=s", "--show=rmse.amht"
    )
    assert "s holds no sweep to resume; leave out --resume to start one." in refused("--out=s", "--resume")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/file").write_text("mine")
    assert refused("--out=notes").endswith("and holds no sweep; choose another --out.\n"), "there is nothing to resume"
    assert "cannot be written (Not a directory); choose another --out." in refused("--out=notes/file/s")
    assert not (tmp_path / "s").exists()
    assert fedpriv(*words, "--out=s")[0] == 0
    assert "it holds a sweep; choose another --out, or go on with --resume." in refused("--out=s")
    for more in (["--seeds=2"], ["--grid=client.strength=2"], ["--set=data.tasks=30"]):
        told = refused("--out=s", "--resume", asked=["sweep", "pmtl", *more])
        assert "resume with the old one (what is left out is taken from there), or start a new sweep." in told
    for asked in (words, ["sweep", "pmtl"]):
        assert fedpriv(*asked, "--out=s", "--resume")[0] == 0
    plan = tmp_path / "s/sweep.toml"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:30])
    assert "restore it or start a new sweep." in refused("--out=s", "--resume")
    plan.write_bytes(whole)
    assert fedpriv("sweep", "pmtl", "--seeds=1", "--out=s", "--resume")[0] == 0


def test_protected_data_are_refused_up_front_or_all_paid(fedpriv: Any, tmp_path: Path) -> None:
    words = ["sweep", "pmtl", *TINY, *CLINIC, "--grid", "client.strength=0.5,1", "--out", "sweep"]
    code, _, err = fedpriv(*words, "--seeds", "40")
    assert code == 3, err
    assert "80 runs together" in err
    assert list(tmp_path.iterdir()) == [], "nothing was started, no ledger written"
    code, out, err = fedpriv(*words, "--seeds", "1", "--json")
    assert code == 0, err
    assert "spend one budget" in json.loads(out)["note"]
    code, out, _ = fedpriv("ledger", "show", "clinic", "--ledger", "clinic.sqlite", "--json")
    assert len(json.loads(out)["runs"]) == 2
    words[-1] = "more"
    code, _, err = fedpriv(*words, "--seeds", "40")
    assert code == 3
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("at_once", [1, 2])
def test_kill_nine_then_resume_repeats_nothing(tmp_path: Path, fedpriv: Any, at_once: int) -> None:
    """Nor do processes that had runs go on without the one that started them."""
    rounds = 120  # and no snapshot before 100: a run must not be past its first one before the kill comes
    words = [
        *["sweep", "pmtl", *TINY, f"--set=strategy.rounds={rounds}", "--set=run.checkpoint_every=100"],
        *["--grid", "client.strength=0.5,1", "--seeds", "2", "--out", "sweep", "--jobs", str(at_once)],
    ]
    folder = tmp_path / "sweep"
    process = subprocess.Popen(
        [sys.executable, "-m", "fedpriv", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    )
    deadline = time.monotonic() + 120

    def half_done() -> list[Path]:
        started = [path.parent for path in folder.glob("*/seed-*/checkpoints") if any(path.glob("round-00000[2-9]*"))]
        return [path for path in started if not (path / "summary.json").exists()]

    while not (list(folder.glob("*/seed-*/summary.json")) and half_done()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # comes back when all processes that hold the pipes are gone
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed-*/summary.json")}
    cut = half_done()
    assert 1 <= len(cut) <= at_once
    published = {path: path.read_bytes() for run in cut for path in (run / "checkpoints").glob("round-*.npz")}
    assert finished
    assert not (folder / "sweep.json").exists()
    code, out, err = fedpriv("sweep", "pmtl", "--resume", "--out", "sweep", "--json", *words[-2:])
    assert code == 0, err
    assert len(json.loads(out)["runs"]) == 4
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "finished runs were not repeated"
    kept = {path: path.read_bytes() for run in cut for path in (run / "checkpoints").glob("round-*.npz")}
    assert all(kept.get(path, content) == content for path, content in published.items()), "nothing was drawn again"
    for run in cut:
        assert len(json.loads((run / "summary.json").read_text())["releases"]) == rounds
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed-*/summary.json")}
    assert fedpriv(*words, "--resume")[0] == 0, "a finished sweep is read, with the same words, too"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_that_fails_is_named(tmp_path: Path, fedpriv: Any, monkeypatch: Any) -> None:
    from fedpriv.errors import ComponentFailure
    from fedpriv.experiment import Experiment

    original = Experiment.run
    count = iter(range(9))

    def run(self: Experiment, *words: Any, **more: Any) -> Any:
        if next(count) == 1:
            raise ComponentFailure("the disk is full.")
        return original(self, *words, **more)

    monkeypatch.setattr(Experiment, "run", run)
    code, _, err = fedpriv("sweep", "pmtl", *TINY, *GRID, "--seeds", "1", "--out", "sweep")
    assert code == 4
    assert "run sweep/2-strength-1/seed-0: the disk is full. Finished runs are kept; go on with --resume." in err
    assert fedpriv("sweep", "pmtl", "--out", "sweep", "--resume")[0] == 0


# --- warm shards -----------------------------------------------------------------------------------------------------


def jobs(out: Path) -> list[Job]:
    chosen = scenario("pmtl")
    sets = [*SETTINGS, "run.grid=ray", "run.dtype=float64", "run.shards=2"]
    config = apply(chosen.preset(), parse_assignments(sets))
    return Plan("pmtl", "digits", config, {"model.name": ["linear", "mlp"]}, [3, 4], reproduce=True).jobs(out)


def test_warm_shards_give_the_numbers_of_single_runs(tmp_path: Path) -> None:
    """Also: the processes are the same for all runs, and one that dies while it is idle is replaced."""
    seen: list[set[int]] = []
    results = []
    with JobRunner(build_experiment, at_once=1) as runner:
        pool = runner._pool
        for job, record in runner.run(jobs(tmp_path)):
            idle = pool._idle
            processes = pool.ray.get([shard.process.remote() for shard in idle])
            seen.append(set(processes))
            results.append((job, record))
            if len(seen) == 3:
                os.kill(processes[0], signal.SIGKILL)
        with pytest.raises(InputError, match=r"hand it over with run\(pool=\.\.\.\)"):
            ShardPool().connect(1)  # it would wait for cores that the idle shards hold
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[3] & seen[2]) == 1, "one shard was replaced, the other kept"
    assert len(seen[3]) == 2
    for job, record in results:
        summary = record.to_json()
        alone = build_experiment(apply(job.config, {"run.grid": "in-process"})).run(reproduce=job.reproduce)
        for name, value in alone.billboards[ALL].items():
            found = _last_billboard(job.folder)[name]
            np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-12)
        assert summary["guarantee"] == alone.summary["guarantee"]
        for measure in ("accuracy", "loss"):
            assert summary["diagnostics"][measure] == pytest.approx(alone.summary["diagnostics"][measure], rel=1e-9)


# --- runs side by side -----------------------------------------------------------------------------------------------


def side_by_side(out: Path, **changes: Any) -> list[Job]:
    chosen = scenario("pmtl")
    config = apply(chosen.preset(), parse_assignments([*SETTINGS, "run.dtype=float64"]) | changes)
    return Plan("pmtl", "digits", config, {"client.strength": [0.5, 1.0]}, [3, 4], reproduce=True).jobs(out)


def with_two(jobs: list[Job], build: Any) -> list[dict[str, Any]]:
    with JobRunner(build, at_once=2) as runner:
        check_jobs(jobs, build, prepare=runner.prepare)
        assert runner.at_once == 2
        return [record.to_json() for _, record in runner.run(jobs)]


def keeping(config: Any, data_dir: Path | None = None) -> Any:
    """Build a run, in a worker only where data are kept for the next one."""
    from fedpriv.data.keep import _KEPT

    if multiprocessing.parent_process() is not None and _KEPT.get() is None:
        raise ComponentFailure("every run would load its data again.")
    return build_experiment(config, data_dir)


def test_runs_side_by_side_give_the_numbers_of_single_runs(tmp_path: Path) -> None:
    """And keep data between them."""
    asked = side_by_side(tmp_path / "two")
    for job, summary in zip(asked, with_two(asked, keeping), strict=True):
        alone = build_experiment(apply(job.config, {"run.shards": 3})).run(reproduce=job.reproduce)
        for name, value in alone.billboards[ALL].items():
            np.testing.assert_allclose(_last_billboard(job.folder)[name], value, rtol=1e-9, atol=1e-12)
        assert summary["guarantee"] == alone.summary["guarantee"]
        assert summary["seed"] == job.seed


class TwoWords(Exception):
    """An error that can be sent and not be read again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def failing(config: Any, data_dir: Path | None = None) -> Any:
    """Build a run that breaks off if it is the wrong one, or dies with its whole process."""
    experiment = build_experiment(config, data_dir)
    strange = experiment.client.strength in (3.0, 4.0, 5.0, 6.0) and multiprocessing.parent_process() is not None
    if strange and experiment.client.strength == 3.0:
        raise ComponentFailure("the disk is full.")
    if strange and experiment.client.strength == 5.0:
        raise TwoWords("no", "luck")
    if strange and experiment.client.strength == 6.0:
        raise ComponentFailure(f"torch {torch.get_num_threads()}, {[one['num_threads'] for one in threadpool_info()]}.")
    if strange:
        os.kill(os.getpid(), signal.SIGKILL)
    return experiment


FAILURES = {
    3.0: r"seed-3: the disk is full\. Finished runs are kept",
    5.0: r"seed-3: TwoWords: no luck\. Finished runs are kept",
    6.0: r"seed-3: torch 1, \[1(, 1)*\]\.",
    4.0: r"a process with runs in it died.*--jobs 1",  # the last one: nothing runs in these processes afterwards
}


def test_a_run_that_fails_beside_others_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    """All in the same two processes, whose start takes longer than the runs."""
    sweeps = {strength: side_by_side(tmp_path / str(strength)) for strength in FAILURES}
    for strength, asked in sweeps.items():
        config = apply(asked[-1].config, {"client.strength": strength, "run.seed": 3})
        asked[-1] = replace(asked[-1], config=config, folder=tmp_path / str(strength) / "last/seed-3")
    with JobRunner(failing, at_once=2) as runner:
        check_jobs(sweeps[3.0], failing, prepare=runner.prepare)
        assert runner.at_once == 2
        for strength, said in FAILURES.items():
            with pytest.raises(ComponentFailure, match=said):
                list(runner.run(sweeps[strength]))
    for strength, asked in sweeps.items():
        with JobRunner(failing, at_once=None if strength == 4.0 else 1) as runner:
            check_jobs(asked[:-1], failing, prepare=runner.prepare)
            assert len(list(runner.run(asked[:-1]))) == 3


def test_a_process_that_is_killed_while_it_counts_a_round_holds_nobody_up(tmp_path: Path) -> None:
    (job, *_) = side_by_side(tmp_path)
    job = replace(job, config=apply(job.config, {"client.strength": 4.0, "run.seed": 3}))
    workers = Workers(1, failing, None, None)
    # Another thread, since a thread may take a lock twice.
    other = threading.Thread(target=workers._rounds.get_lock().acquire)
    other.start()
    other.join()
    seen = threading.Thread(target=lambda: _broken(workers, [job]), daemon=True)
    seen.start()
    seen.join(60)
    assert not seen.is_alive()


def _broken(workers: Workers, asked: list[Job]) -> None:
    with Progress(quiet=True, runs=1) as progress, pytest.raises(ComponentFailure, match="died"):
        list(workers.run(asked, progress))
    workers.close()


def test_what_comes_back_through_the_pipe_is_small(tmp_path: Path, monkeypatch: Any) -> None:
    """A process that is killed leaves half of a message that is longer than the pipe, and its reader waits for ever."""
    monkeypatch.setattr("fedpriv.sweep.workers._run_here", lambda _: {"releases": ["x"] * 10**6}, raising=False)
    assert len(pickle.dumps(_run(side_by_side(tmp_path)[0]))) < 1000


SCRIPT = """
from pathlib import Path
from test_sweep import build_experiment, side_by_side
from fedpriv.sweep import JobRunner, check_jobs

asked = side_by_side(Path("two"))[:2]
with JobRunner(build_experiment, at_once=2) as runner:
    check_jobs(asked, build_experiment, prepare=runner.prepare)
    print(runner.at_once, len(list(runner.run(asked))))
"""


@pytest.mark.parametrize("piped", [False, True])
def test_a_script_needs_no_guard(tmp_path: Path, piped: bool) -> None:
    """Processes do not run it again; one that is piped in could not be."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-" if piped else "script.py"],
        input=SCRIPT if piped else "",
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "forecast to be worse" not in line]
    assert (done.stdout, said) == ("2 2\n", [])


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_ctrl_c_says_one_word_while_processes_start(tmp_path: Path) -> None:
    """A terminal sends it to all of them, also before they can ignore it."""
    words = ["sweep", "pmtl", *TINY[:-1], *GRID, "--seeds=2", "--jobs=2", "--out=sweep"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedpriv", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 3:  # two, and the one that multiprocessing cleans up with
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    time.sleep(0.1)  # Python itself has started, and imports
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    how_far = ("sweep: 0 of 4", "checks of all runs: ")  # every 5 seconds
    said = [line for line in err.splitlines() if not line.startswith(how_far)]
    more = "; go on with --resume" if (tmp_path / "sweep/sweep.toml").exists() else ""  # before, nothing can
    assert said == [f"fedpriv: stopped{more}."]


def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    words = ["sweep", "pmtl", *TINY[:-1], *GRID, "--set=strategy.rounds=3000", "--seeds=2", "--jobs=2", "--out=sweep"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedpriv", *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "sweep").glob("*/*/checkpoints/round-00000[2-9]*"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)  # comes back when all processes that hold the pipes are gone
    assert process.returncode != 0
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jobs=0"], "--jobs must be at least 1, got 0"),
        (["--jobs=2", "--set=run.grid=ray"], "leave out --jobs, or run.grid=ray"),
        (["--jobs=2", *CLINIC], "with a ledger of its own"),
    ],
)
def test_runs_that_cannot_stand_side_by_side(fedpriv: Any, tmp_path: Path, words: list[str], said: str) -> None:
    code, _, err = fedpriv("sweep", "pmtl", *TINY[:-1], *GRID, "--seeds=1", "--out=s", *words)
    assert (code, said in err) == (2, True), err
    assert not (tmp_path / "s").exists()


def test_functions_of_a_script_run_one_by_one(tmp_path: Path, monkeypatch: Any) -> None:
    asked = side_by_side(tmp_path)
    monkeypatch.setattr(failing, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "failing", failing, raising=False)
    with JobRunner(failing) as runner:
        check_jobs(asked, failing, prepare=runner.prepare)
        assert runner.at_once == 1
    with JobRunner(failing, at_once=2) as runner, pytest.raises(InputError, match="got 2 with failing; move them"):
        check_jobs(asked[:1], failing, prepare=runner.prepare)
    monkeypatch.undo()  # in this module again
    with JobRunner(failing, at_once=2) as runner:
        check_jobs(asked[:1], failing, prepare=runner.prepare)  # of one run no process needs to start


def test_what_would_be_large_or_cannot_be_sent_runs_one_by_one(tmp_path: Path, monkeypatch: Any) -> None:
    asked = side_by_side(tmp_path)
    for build, small in ((build_experiment, 1000), (lambda *words: build_experiment(*words), 2**29)):
        monkeypatch.setattr("fedpriv.sweep.runner._SMALL_BYTES", small)
        with JobRunner(build) as runner:
            check_jobs(asked, build, prepare=runner.prepare)
            assert runner.at_once == 1


def test_what_fails_while_shards_start_in_the_background_is_told_to_whom_asks_for_them(monkeypatch: Any) -> None:
    """A pool that nobody asks closes without a word."""

    def refuse(*_: Any) -> None:
        raise ComponentFailure("Ray did not start (no memory).")

    monkeypatch.setattr("fedpriv.runtime.pool._start", refuse)
    with ShardPool() as pool:
        pool.warm(1)
        with pytest.raises(ComponentFailure, match="no memory"):
            pool.connect(1)
        pool.warm(1)


def test_draws_of_ray_while_it_starts_are_not_taken_for_a_models(monkeypatch: Any) -> None:
    begun = threading.Event()

    def start(*_: Any) -> None:
        begun.set()
        for _ in range(10_000_000):  # many turns of the interpreter: all through a dry run that does not wait
            random.random()
        raise ComponentFailure("Ray did not start (no memory).")

    monkeypatch.setattr("fedpriv.runtime.pool._start", start)
    with ShardPool() as pool:
        pool.warm(1)
        begun.wait()
        probe(MeanRegularized(), Problem(nn.Linear(5, 3)), LoopEngine(), toy_tasks(3))


def _last_billboard(folder: Path) -> Any:
    from fedpriv.runs import CheckpointStore

    store = CheckpointStore(folder / "checkpoints")
    return store.load(store.rounds()[-1]).billboards[ALL]


# --- figure ----------------------------------------------------------------------------------------------------------


def made_up(accuracy: float | None) -> RunRecord:
    models = {"personal": accuracy, "billboard": accuracy, "local_only": None}
    words = dict.fromkeys(("notion", "unit", "relation", "observer", "sentence"), "made up")
    return RunRecord.model_validate(
        {
            "format": 1,
            "guarantee": {**words, "epsilon": 1.0, "delta": 1e-5},
            "diagnostics": {"accuracy": models, "loss": dict.fromkeys(models, 0.5)},
            "tasks_per_second": 10.0,
            "seconds": {"rounds": 1.0, "finish": 0.5},
            "ledger": {"declared": "benchmark"},
        }
    )


def drawn(grid: dict[str, list[Any]], accuracy: float | None, out: Path) -> Any:
    plan = Plan("pmtl", "digits", scenario("pmtl").preset(), grid, [0, 1])
    done = [(job, made_up(accuracy)) for job in plan.jobs(out)]
    return draw(collect(plan, out, done, 2.0)), collect(plan, out, done, 2.0)


def test_figures_have_panels_categories_and_losses(tmp_path: Path) -> None:
    figure, results = drawn({"strategy.epsilon": [8, 1, 2], "client.strength": [1, [0.1, 1]]}, 0.5, tmp_path)
    one, two = figure.axes
    assert [label.get_text() for label in one.get_xticklabels()] == ["1", "2", "8"]
    assert one.get_xscale() == "log"
    assert two.get_title() == "client.strength = [0.1, 1]"
    assert results.seconds == {"training": 12 * 1.5, "total": 2.0}
    figure, results = drawn({"model.name": ["linear", "mlp"], "run.engine": ["auto", "loop"]}, None, tmp_path)
    assert results.measure == "loss"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["linear", "mlp"]
    assert "Diagnostics, not released" in figure._supxlabel.get_text()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("run.ledger=x.db,y.db", "--grid cannot vary run.ledger; use --set run.ledger"),
        ("run.population=a,b", "--grid cannot vary run.population"),
        ("run.declared=protected,benchmark", "--grid cannot vary run.declared"),
        ("run.budget_epsilon=1,2", "--grid cannot vary run.budget_epsilon"),
    ],
)
def test_the_same_people_cannot_pay_from_two_budgets(fedpriv: Any, tmp_path: Path, grid: str, message: str) -> None:
    code, _, err = fedpriv("sweep", "pmtl", *TINY, *CLINIC, "--grid", grid, "--seeds", "1")
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


def test_groups_that_come_with_the_data_may_have_epsilons_of_their_own(fedpriv: Any, tmp_path: Path) -> None:
    """What all runs together cost is asked with the groups of the tasks, as each run asks."""
    words = ["--set=data.groups=2", "--set=strategy.epsilon={0=1.0, 1=2.0}", "--grid=client.learning_rate=0.1,0.2"]
    code, _, err = fedpriv("sweep", "pmtl", *TINY, *CLINIC, *words, "--seeds=1")
    assert code == 3, err
    assert "2 runs together are too much" in err
    code, _, err = fedpriv("sweep", "pmtl", *TINY, *CLINIC, "--set=run.budget_epsilon=9.0", *words, "--seeds=1")
    assert code == 0, err


def test_a_cell_says_what_its_run_used(fedpriv: Any) -> None:
    both = ["--grid=strategy.epsilon=1", "--grid=strategy.noise_multiplier=1,2"]
    code, _, err = fedpriv("sweep", "pmtl", *TINY, *both, "--seeds", "1")
    assert code == 2
    assert "would run without strategy.epsilon" in err


def test_a_reproduction_claims_no_epsilon(fedpriv: Any, tmp_path: Path) -> None:
    words = ["--grid=client.learning_rate=0.1", "--seeds", "1", "--reproduce", "--out", "same"]
    assert fedpriv("sweep", "pmtl", *TINY, *words)[0] == 0
    (row,) = csv.DictReader((tmp_path / "same/sweep.csv").read_text().splitlines())
    assert row["epsilon"] == ""
    assert float(row["epsilon_if_secret"]) > 0
    found = json.loads((tmp_path / "same/sweep.json").read_text())
    assert found["cells"][0]["epsilon"] is None
    assert found["runs"][0]["epsilon"] is None


def test_an_out_that_is_a_file_is_a_sentence(fedpriv: Any, tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("")
    code, _, err = fedpriv("sweep", "pmtl", *TINY, "--grid=client.learning_rate=0.1", "--seeds=1", "--out=afile")
    assert code == 2
    assert err.count("\n") == 1
    assert "not a folder" in err


def test_what_a_scenario_measures_stands_in_table_and_files(fedpriv: Any, tmp_path: Path) -> None:
    small = ["data.tasks=12", "data.dimension=8", "data.samples=16", "data.sparsity=1", "data.overlap=2"]
    words = [f"--set={item}" for item in [*small, "client.sparsity=1"]]
    asked = ["sweep", "lrs-synthetic", *words, "--grid=strategy.rounds=1,2", "--seeds=2", "--out=s"]
    code, _, err = fedpriv(*asked, "--show=rmse.amth")
    assert code == 2
    assert "did you mean 'rmse.amht'?" in err
    assert "--resume" in err
    code, out, _ = fedpriv("sweep", "lrs-synthetic", "--out=s", "--resume", "--show=rmse.amht,rmse.sparse", "--json")
    assert code == 0
    with (tmp_path / "s/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = json.loads(out)
    for cell, rounds in zip(found["cells"], "12", strict=True):
        column = [float(row["rmse.amht"]) for row in rows if row["strategy.rounds"] == rounds]
        assert cell["measures"]["rmse.amht"]["mean"] == pytest.approx(np.mean(column))
        stored = [json.loads((tmp_path / "s" / row["run"] / "summary.json").read_text()) for row in rows]
        assert {float(row["rmse.amht"]) for row in rows} == {one["measures"]["rmse"]["amht"] for one in stored}
    page = (tmp_path / "s/sweep.md").read_text()
    assert "rmse.amht | rmse.sparse" in page
    assert "personal" not in page.splitlines()[4]
    code, _, err = fedpriv(
        "sweep", "pmtl", *TINY, "--grid=strategy.rounds=1", "--seeds=1", "--out=p", "--show=rmse.amht"
    )
    assert code == 2
    assert "measures nothing of its own" in err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("width", [80, 100])
def test_what_varies_is_never_cut(width: int) -> None:
    """Method names of any length, and several keys, beside accuracies with their intervals."""
    grid = {"client.name": ["mean-regularized", "global-model", "low-rank-sparse-net"], "strategy.epsilon": [0.25, 16]}
    plan = Plan("pmtl", "digits", scenario("pmtl").preset(), grid, [0, 1])
    some = Interval(0.6543, 0.0123, 2)
    measures = {one: dict.fromkeys(("personal", "billboard", "local_only"), some) for one in ("accuracy", "loss")}
    cells = [CellResult(cell.values, 1.999, measures, {}, 1234.5) for cell in plan.cells()]
    out = io.StringIO()
    Console(file=out, width=width).print(table_of(Results(plan, [], cells, False, {})))
    for word in ("name", "epsilon", *grid["client.name"], "0.25"):
        assert re.search(rf"[│┃] {re.escape(word)} +[│┃]", out.getvalue()), out.getvalue()
    assert "…" not in out.getvalue()
    assert "..." not in out.getvalue()
