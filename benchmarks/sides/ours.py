"""Our side: an Experiment on the Ray grid with a run folder, as `fedpriv run` does it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Data
from benchmarks.outcome import Outcome, cpu_seconds
from benchmarks.work import Work
from fedpriv import Experiment
from fedpriv.clients import GlobalModel
from fedpriv.cohort import Ragged, Tasks
from fedpriv.protocol import ALL
from fedpriv.strategies import Billboard

__all__ = ["run_fedpriv"]


def _tasks(work: Work, directory: Path) -> Tasks:
    data = Data.open(work, directory)

    def part(start: int, stop: int) -> Ragged:
        inputs = np.ascontiguousarray(data.inputs[:, start:stop]).reshape(-1, *work.shape)
        targets = np.ascontiguousarray(data.targets[:, start:stop]).reshape(-1)
        return Ragged(inputs, targets, np.arange(work.tasks + 1, dtype=np.int64) * (stop - start))

    names = tuple(f"synthetic/{number:05d}" for number in range(work.tasks))
    everything = work.examples + work.test_examples
    return Tasks(
        "synthetic",
        names,
        train=part(0, work.examples),
        validation=part(0, 0),
        test=part(work.examples, everything),
        num_classes=work.classes,
        declared="benchmark",
    )


def run_fedpriv(
    work: Work, directory: Path, *, rounds: int, warm_up: int, shards: int
) -> tuple[Outcome, dict[str, np.ndarray[Any, Any]]]:
    """Run the work on our Ray grid; return the times of the measured rounds and the last global model."""
    experiment = Experiment(
        tasks=_tasks(work, directory),
        model=work.network(),
        client=GlobalModel(learning_rate=work.learning_rate, steps=work.steps, batch_size=work.batch_size),
        strategy=Billboard(
            clipping_norm=work.clipping_norm, noise_multiplier=work.noise_multiplier, rounds=warm_up + rounds
        ),
        seed=work.seed,
        dtype=work.dtype,
        shards=shards,
        baseline=False,
    )
    ends: list[float] = []
    used: list[float] = []

    def stamp(done: int, total: int) -> None:
        ends.append(time.perf_counter())
        if done in (warm_up, total):
            used.append(cpu_seconds())

    result = experiment.run(directory / "fedpriv-run", progress=stamp)
    # A round lasts from the end of the one before it, so checkpoints and the log count, too.
    seconds = np.diff(ends[warm_up - 1 :]).tolist() if warm_up else []
    return Outcome(seconds, work.tasks, used[-1] - used[0]), result.billboards[ALL]
