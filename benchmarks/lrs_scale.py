"""How AMHT-LRS grows with the number of tasks, and how fast personal models are served from their compact file.

``python -m benchmarks.lrs_scale`` measures everything, each number of tasks in a fresh process, and writes
``docs/scale-lrs.md`` with a figure. A task's examples (40 in 50 dimensions, 16 KB) are drawn from its number where it
is worked on and forgotten afterwards: 16 GB for a million tasks are never in memory together. Seconds are of processor
time, because the machine may be busy with other things.
"""

from __future__ import annotations

import tempfile
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.memory import Watch, unreclaimable
from benchmarks.parts import command
from benchmarks.scale_report import growth_figure, table
from fedpriv import Experiment
from fedpriv.clients import LowRankSparse
from fedpriv.cohort import Cohort, Key, Learner, Params, Ragged, State, Tasks
from fedpriv.cohort.trees import concatenate
from fedpriv.experiment import ModelSettings
from fedpriv.lrs.store import PersonalModels
from fedpriv.strategies import AlternatingMinimization

RESULTS = Path(__file__).with_name("lrs_scale.json")
DIMENSION, RANK, SPARSITY, SAMPLES, NOISE = 50, 2, 5, 40, 0.1
_TASKS_AT_A_TIME = 512
_TASKS = {1_000: 5, 10_000: 3, 100_000: 1, 1_000_000: 1}
"""Outer iterations that are measured, by tasks; a single one includes the set-up of the run."""


def drawn(ids: np.ndarray[Any, Any]) -> Tasks:
    """Draw the examples of some tasks from their numbers."""
    factors = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMENSION, RANK)))[0]
    inputs = np.empty((len(ids), SAMPLES, DIMENSION))
    targets = np.empty((len(ids), SAMPLES))
    for row, task in enumerate(ids.tolist()):
        rng = np.random.Generator(np.random.SFC64(task))
        theta = factors @ rng.standard_normal(RANK)
        theta[rng.permutation(DIMENSION)[:SPARSITY]] += rng.standard_normal(SPARSITY)
        rng.standard_normal(out=inputs[row])
        targets[row] = inputs[row] @ theta + NOISE * rng.standard_normal(SAMPLES)
    block = Ragged.from_block(inputs, targets)
    nothing = Ragged.from_block(inputs[:, :0], targets[:, :0])
    return Tasks("drawn", tuple(map(str, ids)), block, nothing, nothing, num_classes=None, declared="benchmark")


class GeneratedLowRankSparse(LowRankSparse):
    """The client, on examples that are drawn where they are needed."""

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        done = []
        for start in range(0, len(cohort), _TASKS_AT_A_TIME):
            some = cohort.positions[start : start + _TASKS_AT_A_TIME]
            piece = Cohort(drawn(some + cohort.tasks.first), np.arange(len(some)), cohort.dtype)
            mine = {name: value[start : start + _TASKS_AT_A_TIME] for name, value in state.items()}
            done.append(super().train(learner, billboard, mine, piece, key))
        return concatenate([one for one, _ in done]), concatenate([one for _, one in done])

    def finish(self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key) -> State:  # noqa: ARG002
        return state


def population(count: int) -> Tasks:
    """Tasks by name only: their examples are one zero, seen from everywhere."""

    def part(rows: int) -> Ragged:
        inputs = np.broadcast_to(np.zeros(1), (count * rows, DIMENSION))
        targets = np.broadcast_to(np.zeros(1), count * rows)
        return Ragged(inputs, targets, np.arange(count + 1, dtype=np.int64) * rows)

    names = tuple(f"drawn/{number:07d}" for number in range(count))
    return Tasks("drawn", names, part(2), part(0), part(1), num_classes=None, declared="benchmark")


def iteration(count: int) -> dict[str, Any]:
    """Measure outer iterations in which all tasks take part: pursuit, clipped gradients, sum, noise, charge, step."""
    rounds = _TASKS[count]
    strategy = AlternatingMinimization(
        clipping_norm=1.0, noise_multiplier=1.0, rounds=rounds, delta=1e-9, evaluate_every=0
    )
    experiment = Experiment(
        tasks=population(count),
        model=ModelSettings(name="low-rank", settings={"rank": RANK}),
        client=GeneratedLowRankSparse(sparsity=SPARSITY, steps=2),
        strategy=strategy,
        baseline=False,
        dtype="float64",
        grid="in-process",
        shards=1,
        checkpoint_every=1000,
    )
    before = unreclaimable()
    ends = []

    def stamp(done: int, total: int) -> None:  # noqa: ARG001
        ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        began = time.process_time()
        summary = experiment.run(Path(folder) / "run", progress=stamp).summary
        total = time.process_time() - began
    seconds = np.diff(ends) if len(ends) > 1 else np.array([ends[0] - began])
    return {
        "tasks": count,
        "rounds": rounds,
        "seconds": float(np.median(seconds)),
        "wall_seconds": float(summary["seconds"]["rounds"]) / rounds,
        "run_seconds": total,
        "before": before,
        "peak_memory": watch.peak,
    }


def serving() -> dict[str, Any]:
    """Measure predictions for (task, x) pairs, from a file of a million tasks, in batches of 1,000."""
    rng = np.random.default_rng(0)
    tasks, batch, batches = 1_000_000, 1_000, 200
    index = np.argsort(rng.random((tasks, DIMENSION), dtype=np.float32), axis=1)[:, :SPARSITY]
    factors = np.linalg.qr(rng.standard_normal((DIMENSION, RANK)))[0]
    own = rng.standard_normal((tasks, RANK)), index, rng.standard_normal((tasks, SPARSITY))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models.safetensors"
        PersonalModels(factors, *own).save(path)
        size = path.stat().st_size
        models = PersonalModels.open(path)
        asked = rng.integers(0, tasks, (batches, batch))
        inputs = rng.standard_normal((batch, DIMENSION))
        for one in asked:  # rows come from the disk once
            models.predict(one, inputs)
        took = []
        for one in asked:
            began = time.process_time()
            models.predict(one, inputs)
            took.append(time.process_time() - began)
    return {
        "tasks": tasks,
        "bytes_per_task": models.bytes_per_task,
        "file_bytes": size,
        "batch": batch,
        "seconds_per_batch": float(np.median(took)),
        "pairs_per_second": batch / float(np.median(took)),
    }


_TEXT = Path(__file__).with_suffix(".md")
"""The words of the page, with fields."""


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write the page; parts that were never measured are left out."""
    rows = [results[str(count)] for count in _TASKS if str(count) in results]
    head = ("tasks", "iterations", "seconds per iteration", "microseconds per task", "peak memory, GiB")
    lines = [
        (
            f"{one['tasks']:,}",
            str(one["rounds"]),
            f"{one['seconds']:.3g}",
            f"{one['seconds'] / one['tasks'] * 1e6:.0f}",
            f"{one['peak_memory']:.2f}",
        )
        for one in rows
    ]
    per_task = [one["seconds"] / one["tasks"] for one in rows]
    peak = max(one["peak_memory"] for one in rows)
    slope = np.polyfit(np.log([one["tasks"] for one in rows]), np.log([one["seconds"] for one in rows]), 1)[0]
    verdict = (
        f"Time grows as tasks to the power {slope:.2f}; time per task differs by a factor of "
        f"{max(per_task) / min(per_task):.2f} between {rows[0]['tasks']:,} and {rows[-1]['tasks']:,} tasks. The "
        f"peak of memory is {peak:.2f} GiB (limit: 8)."
    )
    one = results.get("serving")
    served = (
        f"{one['tasks']:,} tasks in a safetensors file of {one['file_bytes'] / 1e6:.1f} MB: {one['bytes_per_task']} "
        f"bytes per task. Predictions for (task, x) pairs in random order, {one['batch']:,} at a time, on one core: "
        f"{one['pairs_per_second']:,.0f} pairs a second ({one['seconds_per_batch'] * 1e3:.2f} ms a batch; goal: "
        "100,000)."
        if one
        else "Not measured yet."
    )
    path.write_text(
        _TEXT.read_text(encoding="utf-8").format(
            today=date.today().isoformat(),
            machine=describe_machine(),
            table=table(head, lines, "---:"),
            verdict=verdict,
            serving=served,
        ),
        encoding="utf-8",
    )
    growth_figure(
        [one["tasks"] for one in rows],
        [one["seconds"] for one in rows],
        "tasks, all of which take part",
        "processor seconds per outer iteration",
        path.parent / "images" / "scale-lrs.svg",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    measured = {**{str(count): partial(iteration, count) for count in _TASKS}, "serving": serving}
    command("benchmarks.lrs_scale", __doc__, measured, RESULTS, Path("docs/scale-lrs.md"), write_report)
