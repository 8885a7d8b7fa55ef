"""The data of the work and the order of its mini-batches, which all sides read from the same files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.work import Work

__all__ = ["FILES", "Data"]

FILES = ("inputs.npy", "targets.npy", "order.npy")
_ROUNDS = 3
"""Rounds with an order of mini-batches of their own; a longer run of a rival starts over."""


@dataclass(frozen=True)
class Data:
    """Synthetic examples around ten class centres."""

    # [m, n, ...] in the shape that the network takes, stored as float32; test examples stand behind those for training
    inputs: NDArray[np.float32] | NDArray[np.float64]
    targets: NDArray[np.int64]  # [m, n]
    order: NDArray[np.int64]  # [rounds, m, steps, batch]: example numbers within each task

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
        for name, array in zip(FILES, (inputs, targets, _orders(work)), strict=True):
            np.save(directory / name, array)

    @classmethod
    def open(cls, work: Work, directory: Path) -> Data:
        """Map the files: all processes then share one copy in the page cache, already warm from writing."""
        inputs, targets, order = (np.load(directory / name, mmap_mode="c") for name in FILES)
        inputs = inputs.astype(work.dtype, copy=False)
        return cls(inputs.reshape(*inputs.shape[:2], *work.shape), targets, order)

    def batches(self, number: int) -> NDArray[np.int64]:
        """Return the order of round ``number``, counted from 1: [m, steps, batch]."""
        found: NDArray[np.int64] = self.order[(number - 1) % len(self.order)]
        return found


def _orders(work: Work) -> NDArray[np.int64]:
    # The mini-batches are fedpriv's own, so that all sides provably do the same arithmetic. They are drawn here
    # because rivals need not pay for that, and because fedpriv is not installed in every rival's environment.
    from fedpriv.cohort import Key, Purpose, Schedule

    sizes, ids = np.full(work.tasks, work.examples), np.arange(work.tasks)
    rounds = [
        Schedule.draw(
            sizes, ids, Key(work.seed, number, Purpose.TRAIN), batch_size=work.batch_size, steps=work.steps
        ).index
        for number in range(1, _ROUNDS + 1)
    ]
    return np.stack(rounds)
