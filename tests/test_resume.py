"""Crashes: whatever the moment, the run goes on to the same models, and the ledger never holds too little."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Crash, crash_at, experiment, noisy, personal, same, toy_tasks

from fedpriv import ComponentFailure, InputError
from fedpriv.config import apply, build_experiment, parse_assignments
from fedpriv.privacy.journal import Journal
from fedpriv.privacy.ledger import Ledger
from fedpriv.protocol import ALL
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runtime.pool import ShardPool
from fedpriv.runtime.ray_grid import RayGrid
from fedpriv.scenarios import scenario
from fedpriv.strategies import Billboard
from fedpriv.summary import RunResult


@cache
def undisturbed() -> RunResult:
    return personal().run(reproduce=6)


@pytest.mark.parametrize("round", [1, 4, 5, 8, 9])
@pytest.mark.parametrize("moment", ["before stage", "after stage", "after charge", "after promote"])
def test_every_moment_of_publishing(tmp_path: Path, monkeypatch: Any, moment: str, round: int) -> None:
    with crash_at(monkeypatch, moment, round):
        personal().run(tmp_path / "run", reproduce=6)
    ledger = Ledger(tmp_path / "run/ledger.sqlite")
    population = ledger.populations()[0]
    charged = len(ledger.entries(population))
    published = max(CheckpointStore(tmp_path / "run/checkpoints").rounds())
    assert published <= charged == (round if "charge" in moment or "promote" in moment else round - 1)
    resumed = personal(shards=3).run(tmp_path / "run", reproduce=6, resume=True)
    same(undisturbed(), resumed, 1e-9)
    assert len(ledger.entries(population)) == 9, "a charged release is read back, not charged again"


def test_a_round_whose_nodes_add_the_noise_is_not_asked_for_again(tmp_path: Path, monkeypatch: Any) -> None:
    """Its rows are out when it is staged: asked again after another sum of the same rows, they would be drawn anew."""
    asked: list[int] = []
    reserve = Journal.reserve

    def reserved(self: Journal, number: int, *arguments: Any) -> None:
        asked.append(number)
        reserve(self, number, *arguments)

    monkeypatch.setattr(Journal, "reserve", reserved)
    local = noisy(rounds=9, noise_at="node")
    for round, moment in enumerate(("after stage", "after charge", "after promote"), start=4):
        with crash_at(monkeypatch, moment, round):
            personal(strategy=local).run(tmp_path / "run", reproduce=6, resume=round > 4)
    personal(strategy=local, shards=3).run(tmp_path / "run", reproduce=6, resume=True)
    assert asked == list(range(1, 10))
    ledger = Ledger(tmp_path / "run/ledger.sqlite")
    assert len(ledger.entries(ledger.populations()[0])) == 9


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_damaged_checkpoint_that_was_staged_is_never_passed_over(tmp_path: Path, monkeypatch: Any, keep: int) -> None:
    with crash_at(monkeypatch, "after charge", 7):
        personal().run(tmp_path / "run", reproduce=6)
    pending = tmp_path / "run/checkpoints/pending.npz"
    whole = pending.read_bytes()
    pending.write_bytes(whole[:keep])
    with pytest.raises(ComponentFailure, match=r"pending\.npz cannot be read .*restore it from a copy"):
        personal().run(tmp_path / "run", reproduce=6, resume=True)
    pending.write_bytes(whole)
    same(undisturbed(), personal().run(tmp_path / "run", reproduce=6, resume=True), 1e-9)


def test_checkpoints_are_on_the_disk_before_their_charge_and_before_the_next_round(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """A name that a power failure takes back would let rows that are out be drawn again."""
    events: list[str] = []
    flush, charge, stage = os.fsync, Ledger.charge_many, CheckpointStore.stage

    def fsync(handle: int) -> None:
        flush(handle)
        events.append(Path(f"/proc/self/fd/{handle}").readlink().name)

    def charge_many(self: Ledger, *arguments: Any, **more: Any) -> int:
        events.append("charge")
        assert CheckpointStore(tmp_path / "run/checkpoints").pending() is not None
        return charge(self, *arguments, **more)

    def staged(self: CheckpointStore, checkpoint: Any) -> None:
        events.append("stage")
        stage(self, checkpoint)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Ledger, "charge_many", charge_many)
    monkeypatch.setattr(CheckpointStore, "stage", staged)
    personal(strategy=noisy(rounds=3)).run(tmp_path / "run", reproduce=6)
    assert events.count("charge") == 3
    for position, event in enumerate(events):
        if event == "charge":
            assert events[position - 3 : position - 1] == ["stage", f".pending.npz.{os.getpid()}.tmp"]
            assert [events[position - 1], events[position + 1]] == ["checkpoints", "checkpoints"]


def test_a_round_that_failed_is_drawn_with_the_same_participants(tmp_path: Path, monkeypatch: Any) -> None:
    """With fresh coins a task that makes rounds fail would be missing from what gets published in the end."""
    drawn: list[list[int]] = []
    original = Billboard.aggregate_train

    def note(self: Billboard, number: int, replies: Any) -> Any:
        if number == 3:
            drawn.append(self.session.sampled[ALL].tolist())
            if len(drawn) < 3:
                raise ComponentFailure("a shard died")
        return original(self, number, replies)

    monkeypatch.setattr(Billboard, "aggregate_train", note)
    many = experiment(toy_tasks(40), strategy=noisy(rounds=4, sampling_rate=0.5))
    for attempt in range(2):
        with pytest.raises(ComponentFailure):
            many.run(tmp_path / "run", resume=attempt > 0)
        assert (tmp_path / "run/checkpoints/coins.key").stat().st_mode & 0o077 == 0
    many.run(tmp_path / "run", resume=True)
    assert drawn[0] == drawn[1] == drawn[2], "40 fair coins agree by chance with probability 1e-12"
    assert not (tmp_path / "run/checkpoints/coins.key").exists(), "a finished run forgets its coins"
    drawn.clear()
    with pytest.raises(ComponentFailure):
        many.run(tmp_path / "other")
    drawn_first = drawn.copy()
    drawn.clear()
    with pytest.raises(ComponentFailure):
        many.run(tmp_path / "third")
    assert drawn != drawn_first, "another run has coins of its own"


def test_a_damaged_summary_is_written_again_without_the_coins(tmp_path: Path) -> None:
    """They were deleted when the run was finished, and no round is left that needs them."""
    many = experiment(toy_tasks(9), strategy=noisy(rounds=3, sampling_rate=0.5))
    first = many.run(tmp_path / "run")
    (tmp_path / "run/summary.json").write_text("{")
    with pytest.raises(InputError, match=r"delete it and go on with --resume"):
        many.run(tmp_path / "run", resume=True)
    (tmp_path / "run/summary.json").unlink()
    again = many.run(tmp_path / "run", resume=True)
    same(first, again)
    assert again.summary["guarantee"] == first.summary["guarantee"]
    key = tmp_path / "run/checkpoints/coins.key"
    key.write_bytes(bytes(40))  # as a kill between the summary and the deletion leaves it
    many.run(tmp_path / "run", resume=True)
    assert not key.exists()


def test_a_run_in_progress_does_not_go_on_without_its_coins(tmp_path: Path, monkeypatch: Any) -> None:
    many = experiment(toy_tasks(9), strategy=noisy(rounds=3, sampling_rate=0.5))
    original = Journal.charge

    def crash(self: Journal, checkpoint: Any, releases: Any) -> None:
        if checkpoint.round == 2:
            raise Crash
        original(self, checkpoint, releases)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "charge", crash)
        with pytest.raises(Crash):
            many.run(tmp_path / "run")
    key = tmp_path / "run/checkpoints/coins.key"
    whole = key.read_bytes()
    for content, message in ((None, "is gone"), (b"x", r"is damaged \(1 bytes where 40 belong\)")):
        key.unlink() if content is None else key.write_bytes(content)
        with pytest.raises(InputError, match=message):
            many.run(tmp_path / "run", resume=True)
    key.write_bytes(whole)
    many.run(tmp_path / "run", resume=True)


def test_two_processes_cannot_share_a_run_folder(tmp_path: Path) -> None:
    from fedpriv.runs import RunFolder

    folder = RunFolder(tmp_path / "run", {"run": {}}, resume=False)
    with pytest.raises(ComponentFailure, match=r"wait for it or choose another folder \(--out\)"):
        RunFolder(tmp_path / "run", {"run": {}}, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be made \(Not a directory\); choose another one \(--out\)"):
        RunFolder(tmp_path / "file/run", {"run": {}}, resume=False)
    RunFolder(tmp_path / "another", {"run": {}}, resume=False).close()
    folder.close()
    RunFolder(tmp_path / "run", {"run": {}}, resume=True).close()


def test_a_run_from_before_a_list_was_known_goes_on(tmp_path: Path) -> None:
    """An empty list is what a key that nobody wrote means; a list with something in it is another run."""
    from fedpriv.runs import RunFolder

    RunFolder(tmp_path / "run", {"client": {"name": "maml"}}, resume=False).close()
    RunFolder(tmp_path / "run", {"client": {"name": "maml", "from_zero": []}}, resume=True).close()
    with pytest.raises(InputError, match=r"client\.from_zero was None .* and is \['3\.bias'\] now"):
        RunFolder(tmp_path / "run", {"client": {"name": "maml", "from_zero": ["3.bias"]}}, resume=True)
    with pytest.raises(InputError, match=r"client\.shots was None .* and is 0 now"):
        RunFolder(tmp_path / "run", {"client": {"name": "maml", "shots": 0}}, resume=True)


def test_a_damaged_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    from fedpriv import FedprivError

    personal().run(tmp_path / "run", reproduce=6)
    (tmp_path / "run/summary.json").unlink()
    newest = sorted((tmp_path / "run/checkpoints").glob("round-*.npz"))[-1]
    newest.write_bytes(newest.read_bytes()[:50])
    with pytest.raises(FedprivError, match=newest.name):
        personal().run(tmp_path / "run", reproduce=6, resume=True)


def test_ray_gives_the_same_numbers_and_a_killed_shard_is_rebuilt(
    pool: ShardPool, tmp_path: Path, monkeypatch: Any
) -> None:
    original = RayGrid.deliver
    killed: list[int] = []

    def deliver(self: RayGrid, messages: Any, timeout: Any) -> Any:
        number = messages[0].metadata.group_id
        if number in ("3", "6") and len(killed) < 2 and "train" in messages[0].metadata.message_type:
            victim = self.processes()[len(killed) + 1]
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)
        return original(self, messages, timeout)

    monkeypatch.setattr(RayGrid, "deliver", deliver)
    result = personal(grid="ray").run(tmp_path / "run", reproduce=6, pool=pool)
    assert len(killed) == 2
    same(undisturbed(), result, 1e-9)


SETTINGS = [
    "data.tasks=40", "model.name=linear", "client.epochs=1", "client.final_epochs=2", "strategy.noise_multiplier=2.0",
    "strategy.evaluate_every=0", "run.checkpoint_every=7", "run.baseline=false", "run.report=false",
]  # fmt: skip


def launch(folder: Path, rounds: int, grid: str, *more: str) -> subprocess.Popen[str]:
    sets = [f"--set={item}" for item in [*SETTINGS, f"strategy.rounds={rounds}", f"run.grid={grid}"]]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fedpriv",
            "run",
            "pmtl",
            "--reproduce",
            "8",
            "--out",
            str(folder),
            "--json",
            *sets,
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def killed_and_resumed(
    tmp_path: Path, kills: int, rounds: int, grid: str, seed: int, more: tuple[str, ...] = ()
) -> None:
    """Kill a run again and again at random moments of its rounds; it must end where an undisturbed one ends."""
    rng, sets = random.Random(seed), [f"--set={item}" for item in more]
    changes = [*SETTINGS, f"strategy.rounds={rounds}", f"run.grid={grid}", "run.seed=8", *more]
    config = apply(scenario("pmtl").preset(), parse_assignments(changes))
    whole = build_experiment(config).run(tmp_path / "whole", reproduce=8)
    took = whole.summary["seconds"]["rounds"]
    folder, done = tmp_path / "run", 0
    while True:
        process = launch(folder, rounds, grid, *sets, *(["--resume"] if (folder / "config.toml").exists() else []))
        if done < kills:
            before = _published(folder)
            while process.poll() is None and _published(folder) == before:
                time.sleep(0.02)  # past start-up: it publishes again
            time.sleep(rng.uniform(0, 1.5 * took / kills))
            with contextlib.suppress(ProcessLookupError):  # it may be over by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if process.returncode != -signal.SIGKILL:
                break
            done += 1
            charged = len(Ledger(folder / "ledger.sqlite").entries(_population(folder)))
            assert charged >= _published(folder)
            continue
        _, err = process.communicate()
        assert process.returncode == 0, err
        break
    assert done >= max(1, kills // 2), "the kills came too late to mean anything"
    one, two = CheckpointStore(tmp_path / "whole/checkpoints"), CheckpointStore(folder / "checkpoints")
    for name, value in one.load(rounds).billboards[ALL].items():
        np.testing.assert_allclose(two.load(rounds).billboards[ALL][name], value, rtol=1e-5, atol=1e-7)
    first, second = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "run"))
    assert second["diagnostics"]["per_task"] == first["diagnostics"]["per_task"]
    assert second["guarantee"] == first["guarantee"]
    assert len(Ledger(folder / "ledger.sqlite").entries(_population(folder))) == rounds


def _population(folder: Path) -> str:
    return Ledger(folder / "ledger.sqlite").populations()[0]


def _published(folder: Path) -> int:
    checkpoints = folder / "checkpoints"
    return max(CheckpointStore(checkpoints).rounds(), default=0) if checkpoints.exists() else 0


def test_kill_and_resume(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, kills=2, rounds=60, grid="in-process", seed=1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("grid", ["in-process", "ray"])
def test_twenty_kills(tmp_path: Path, grid: str) -> None:
    killed_and_resumed(tmp_path, kills=20, rounds=600, grid=grid, seed=2)


def test_a_run_does_not_go_on_without_the_ledger_that_paid_for_it(tmp_path: Path) -> None:
    """Going on with a new ledger would print an epsilon for the later rounds only."""
    personal().run(tmp_path / "run", reproduce=6)
    (tmp_path / "run/summary.json").unlink()
    whole = (tmp_path / "run/ledger.sqlite").read_bytes()
    (tmp_path / "run/ledger.sqlite").unlink()
    with pytest.raises(InputError, match="is gone"):
        personal().run(tmp_path / "run", reproduce=6, resume=True)
    (tmp_path / "run/ledger.sqlite").write_bytes(whole)
    identity = tmp_path / "run/checkpoints/run-id"
    name = identity.read_text()
    identity.unlink()
    with pytest.raises(InputError, match="lost the name"):
        personal().run(tmp_path / "run", reproduce=6, resume=True)
    identity.write_text("another-" + name)
    with pytest.raises(InputError, match="does not hold all 9 rounds"):
        personal().run(tmp_path / "run", reproduce=6, resume=True)
    identity.write_text(name)
    personal().run(tmp_path / "run", reproduce=6, resume=True)


def test_an_interrupt_is_not_a_success_and_the_run_goes_on(tmp_path: Path) -> None:
    process = launch(tmp_path / "run", 4000, "in-process")  # more than a starved test could miss
    while process.poll() is None and _published(tmp_path / "run") < 3:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err


@pytest.mark.timeout(300)
def test_a_termination_is_handled_as_an_interrupt(tmp_path: Path) -> None:
    """Also where Ray runs, which has a handler of its own; and the run goes on."""
    for number, grid in enumerate(("ray", "in-process")):
        process = launch(tmp_path / "run", 100_000, grid, *(["--resume"] if number else []))
        before = _published(tmp_path / "run")
        while process.poll() is None and _published(tmp_path / "run") < before + 3:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate()
        assert process.returncode == 143, err
        assert err.splitlines()[-1] == "fedpriv: stopped; go on with --resume."
        assert "SIGTERM" not in err
        assert "Traceback" not in err


def test_a_damaged_summary_of_tasks_with_noise_of_their_own_is_not_to_be_deleted(tmp_path: Path) -> None:
    """Personal states are trained again from the last snapshot on, and the rows would go out with other noise."""
    local = experiment(toy_tasks(6), strategy=noisy(rounds=3, noise_at="node", reply="rows"))
    local.run(tmp_path / "run")
    summary = tmp_path / "run/summary.json"
    whole = summary.read_text(encoding="utf-8")
    summary.write_text("{")
    with pytest.raises(InputError, match=r"restore it from a copy: these tasks added local noise"):
        local.run(tmp_path / "run", resume=True)
    summary.write_text(whole, encoding="utf-8")
    assert local.run(tmp_path / "run", resume=True).summary["finished"]
