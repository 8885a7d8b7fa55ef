"""The work that both sides do, and its data, which both sides read from the same files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["Data", "Outcome", "Work", "cpu_seconds"]


@dataclass(frozen=True)
class Work:
    """One round is ``tasks`` tasks, each ``steps`` SGD steps from the global model, then one private release.

    Attributes
    ----------
    tasks, examples, test_examples
        Population, training examples per task, and test examples per task (scored outside the measured time).
    features, hidden, classes
        The network: an MLP with one hidden layer.
    steps, batch_size, learning_rate
        Local SGD.
    clipping_norm, noise_multiplier
        The Gaussian mechanism: whole update clipped in l2, noise on the sum, public denominator ``tasks``.
    seed
        Of data, initial values and mini-batches.
    """

    tasks: int = 1000
    examples: int = 100
    test_examples: int = 2
    features: int = 784
    hidden: int = 64
    classes: int = 10
    steps: int = 10
    batch_size: int = 10
    learning_rate: float = 0.1
    clipping_norm: float = 0.5
    noise_multiplier: float = 1.0
    seed: int = 0

    def network(self) -> nn.Module:
        """The MLP with its public initial values: both sides start from these very numbers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(self.features, self.hidden),
                nn.ReLU(),
                nn.Linear(self.hidden, self.classes),
            )

    def describe(self) -> str:
        return (
            f"MLP {self.features}-{self.hidden}-{self.classes}, {self.tasks} tasks, {self.examples} examples per "
            f"task, {self.steps} SGD steps of {self.batch_size}, learning rate {self.learning_rate}, clipping norm "
            f"{self.clipping_norm}, noise multiplier {self.noise_multiplier}"
        )


@dataclass(frozen=True)
class Data:
    """Synthetic examples: float32 [m, n, features] around ten class centres, labels int64 [m, n]."""

    inputs: NDArray[np.float32]
    targets: NDArray[np.int64]

    @staticmethod
    def write(work: Work, directory: Path) -> None:
        rng = np.random.default_rng(work.seed)
        rows = work.examples + work.test_examples
        targets = rng.integers(work.classes, size=(work.tasks, rows))
        targets[:, :2] = [0, 1]  # a task with a single class would be refused
        centres = rng.standard_normal((work.classes, work.features), dtype=np.float32)
        inputs = rng.standard_normal((work.tasks, rows, work.features), dtype=np.float32)
        for block, labels in zip(inputs, targets, strict=True):
            block *= 0.5
            block += 0.3 * centres[labels]
        np.save(directory / "inputs.npy", inputs)
        np.save(directory / "targets.npy", targets)

    @classmethod
    def open(cls, directory: Path) -> Data:
        """Map the files: all processes then share one copy in the page cache, already warm from writing."""
        return cls(np.load(directory / "inputs.npy", mmap_mode="c"), np.load(directory / "targets.npy", mmap_mode="c"))


def cpu_seconds() -> float:
    """CPU time so far of this process and all that descend from it: the driver, Ray and its actors (Linux)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        number = int(entry.parent.name)
        parents[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    mine = {os.getpid()}
    while more := {number for number, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(ticks[number] for number in mine) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Outcome:
    """What one side measured.

    Attributes
    ----------
    seconds
        Of each measured round, from asking the tasks to the charged release.
    tasks
        Tasks trained in each measured round.
    cpu_seconds
        Of all processes of the side together, over the measured rounds: what a busy machine does not blur.
    """

    seconds: list[float]
    tasks: int
    cpu_seconds: float

    @property
    def tasks_per_second(self) -> float:
        return self.tasks * len(self.seconds) / sum(self.seconds)

    @property
    def tasks_per_cpu_second(self) -> float:
        return self.tasks * len(self.seconds) / self.cpu_seconds

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Outcome:
        return cls(**json.loads(path.read_text()))
