"""How fedpriv's simulation grows: registered tasks, sampled tasks, rounds, personal states, runs of a sweep.

``python -m benchmarks.scale`` measures all parts, each in a fresh process, and writes ``docs/scale.md`` with a figure.
``python -m benchmarks.scale --parts overhead curve`` measures some and keeps what was found for the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.memory import Watch, unreclaimable
from benchmarks.parts import command
from benchmarks.scale_report import write_report
from fedpriv import Experiment
from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.cohort import ClientAlgorithm, Cohort, Key, Learner, Params, Ragged, State, Tasks, broadcast, zeros_like
from fedpriv.strategies import Billboard

RESULTS = Path(__file__).with_name("scale.json")
_GRIDS = ("ray", "in-process")


class Idle(ClientAlgorithm):
    """A client that sends zeros: what is left is the round itself."""

    def train(
        self,
        learner: Learner,  # noqa: ARG002
        billboard: Params,
        state: State,
        cohort: Cohort,
        key: Key,  # noqa: ARG002
    ) -> tuple[State, Params]:
        return state, zeros_like(broadcast(billboard, len(cohort)))


def population(count: int, examples: int, features: int) -> Tasks:
    """``count`` tasks with so many training examples and one for the test; two classes."""
    rng = np.random.default_rng(0)

    def part(rows: int) -> Ragged:
        inputs = rng.standard_normal((count * rows, features), dtype=np.float32)
        return Ragged(inputs, np.tile(np.arange(rows) % 2, count), np.arange(count + 1, dtype=np.int64) * rows)

    names = tuple(f"synthetic/{number:07d}" for number in range(count))
    return Tasks("synthetic", names, part(examples), part(0), part(1), num_classes=2, declared="benchmark")


def network(features: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def run(tasks: Tasks, client: ClientAlgorithm, model: nn.Module, rounds: int, **settings: Any) -> dict[str, Any]:
    """Run an experiment with a run folder and a ledger; return seconds per round and memory."""
    sampled = settings.pop("sampled", len(tasks))
    ends: list[float] = []
    begins: list[float] = []
    memory: list[float] = []

    def stamp(done: int, total: int) -> None:
        ends.append(time.perf_counter())
        if done % max(1, total // 10) == 0:
            memory.append(unreclaimable())
        begins.append(time.perf_counter())  # looking at the memory is no part of a round

    strategy = Billboard(
        clipping_norm=1.0, noise_multiplier=1.0, rounds=rounds, sampling_rate=sampled / len(tasks), delta=1e-9
    )
    experiment = Experiment(
        tasks=tasks, model=model, client=client, strategy=strategy, baseline=False, shards=2, **settings
    )
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        summary = experiment.run(Path(folder) / "run", progress=stamp).summary
    seconds = np.subtract(ends[1:], begins[:-1])  # the first round sets up what the others find
    return {
        "tasks": len(tasks),
        "sampled": sampled,
        "seconds": float(np.median(seconds)) if len(seconds) else float("nan"),
        "smallest": float(seconds.min()) if len(seconds) else float("nan"),
        "memory": memory,
        "peak_memory": watch.peak,
        "total_seconds": summary["seconds"]["total"],
    }


def overhead() -> list[dict[str, Any]]:
    """A round without work, 100 sampled tasks, by registered tasks."""
    found = []
    for grid in _GRIDS:
        for count in (1_000, 10_000, 100_000, 1_000_000):
            one = run(
                population(count, 2, 4), Idle(), network(4, 4), 200, sampled=100, grid=grid, checkpoint_every=1000
            )
            found.append({"grid": grid, **one})
    return found


def curve() -> list[dict[str, Any]]:
    """A round of training by sampled tasks, 100,000 registered."""
    tasks = population(100_000, 20, 100)
    client = GlobalModel(learning_rate=0.1, steps=10, batch_size=5)
    sizes = {100: 40, 1_000: 20, 10_000: 8, 100_000: 5}
    return [run(tasks, client, network(100, 32), rounds, sampled=sampled) for sampled, rounds in sizes.items()]


def growth() -> list[dict[str, Any]]:
    """Memory over 1,000 rounds."""
    tasks = population(1_000, 20, 100)
    client = MeanRegularized(learning_rate=0.1, steps=5, batch_size=5)
    return [run(tasks, client, network(100, 32), 1_000, sampled=100)]


def states() -> list[dict[str, Any]]:
    """100,000 tasks that each keep an MLP 784-64-10, 20 GB in all."""
    tasks = population(100_000, 2, 784)
    client = MeanRegularized(learning_rate=0.1, steps=1, batch_size=2)
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    parameters = sum(value.numel() for value in model.parameters())
    one = run(tasks, client, model, 2, checkpoint_every=1000, state_memory=1.0)
    return [{"bytes": len(tasks) * parameters * 4, **one}]


def sweep() -> list[dict[str, Any]]:
    """A sweep of 40 short runs as a user starts it: the whole call against what its runs spend in their rounds."""
    found = []
    for jobs in ([], ["--jobs", "1"]):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "sweep"
            words = ["sweep", "pmtl", "--grid", "strategy.epsilon=1,2,4,8", "--seeds", "10", "--out", str(out), *jobs]
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "fedpriv", *words], stdout=subprocess.DEVNULL, check=True)
            total = time.perf_counter() - began
            result = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
        training = result["seconds"]["training"]
        found.append({"runs": len(result["runs"]), "total_seconds": total, "training_seconds": training})
    return found


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "overhead": overhead,
    "curve": curve,
    "growth": growth,
    "states": states,
    "sweep": sweep,
}


if __name__ == "__main__":
    command("benchmarks.scale", __doc__, PARTS, RESULTS, Path("docs/scale.md"), write_report)
