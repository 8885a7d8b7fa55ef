"""The learner: what a client algorithm trains and scores with, whatever the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.cohort.batches import Schedule
from fedpriv.cohort.cohort import Cohort
from fedpriv.cohort.descent import Descent
from fedpriv.cohort.engine import Engine
from fedpriv.cohort.fast.kernels import KernelEngine
from fedpriv.cohort.metrics import Metric, measured
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.randomness import Key
from fedpriv.cohort.tasks import Part
from fedpriv.cohort.trees import Params

__all__ = ["Learner", "Noise", "Scores"]


class Noise(Protocol):
    """A node's own source of secret noise, asked by purpose, round and task."""

    def normal(self, purpose: str, round: int, shape: int | Sequence[int], group: str = "") -> NDArray[np.float64]:
        """Return independent standard normals of this shape."""


@dataclass(frozen=True)
class Scores:
    """Mean loss and accuracy of every task, both [C], and further metrics by name, each [C]."""

    loss: Tensor
    accuracy: Tensor
    own: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Learner:
    """A problem and an engine, with a count of the gradient work done for each task.

    Attributes
    ----------
    problem : Problem
        Model and loss.
    engine : Engine
        How the task axis is computed.
    work : dict
        Per-example gradient evaluations so far, by task id.
    cells : int
        Places for an example in all mini-batches so far; work over cells tells how little was padding.
    noise : Noise or None
        Where noise of the tasks themselves comes from; the operating system if None.
    metrics : tuple of Metric
        What test parts are scored by beside loss and accuracy.
    """

    problem: Problem
    engine: Engine = field(default_factory=KernelEngine)
    work: dict[int, int] = field(default_factory=dict)
    cells: int = 0
    noise: Noise | None = None
    metrics: tuple[Metric, ...] = ()

    def sgd(
        self,
        start: Params,
        cohort: Cohort,
        key: Key,
        *,
        learning_rate: float,
        batch_size: int,
        epochs: int | NDArray[np.int64] | None = None,
        steps: int | None = None,
        anchor: Params | None = None,
        strength: float | Tensor = 0.0,
        momentum: float = 0.0,
        examples: NDArray[np.int64] | None = None,
    ) -> Params:
        """Run mini-batch SGD on every task of a cohort.

        Each step is ``w <- w - learning_rate * (mean gradient + strength * (w - anchor))``: the gradient of the
        task's mean loss plus ``strength / 2 * ||w - anchor||^2`` (PMTL, Algorithm 1, line 13).

        Parameters
        ----------
        start : Params, each [C, ...]
            Where each task begins.
        cohort : Cohort
            The tasks and their data.
        key : Key
            Stream of the mini-batches.
        learning_rate : float
            Step size.
        batch_size, epochs, steps
            See :meth:`fedpriv.cohort.batches.Schedule.draw`.
        anchor : Params, each [...] or [C, ...]
            What to stay close to; None for no regulariser. Parameters that it lacks are not pulled.
        strength : float or Tensor of shape [C]
            Strength of the regulariser (lambda), relative to the loss averaged over examples.
        momentum : float
            Momentum as in ``torch.optim.SGD``; every call starts from rest.
        examples : ndarray of int64, shape [C, n], or None
            Numbers of the training examples that are used, -1 for padding after them; None for all.

        Returns
        -------
        Params, each [C, ...]
        """
        sizes, room = cohort.sizes("train"), None
        if examples is not None:
            sizes, room = (examples >= 0).sum(axis=1), examples.shape[1]
        schedule = Schedule.draw(sizes, cohort.ids, key, batch_size=batch_size, epochs=epochs, steps=steps, room=room)
        if examples is not None:
            schedule = schedule.among(examples)
        self.count(cohort, schedule.evaluations)
        self.cells += schedule.index.size
        if not isinstance(strength, Tensor) and not strength:
            anchor = None  # FedAvg: nothing to compute for a pull of 0
        descent = Descent(learning_rate, anchor, strength, momentum)
        return self.engine.sgd(self.problem, start, cohort, schedule.index, descent)

    def count(self, cohort: Cohort, evaluations: NDArray[np.int64]) -> None:
        """Add per-example gradient evaluations [C] to the work of a cohort's tasks."""
        for task, count in zip(cohort.ids.tolist(), evaluations.tolist(), strict=True):
            self.work[task] = self.work.get(task, 0) + count

    def normal(self, purpose: str, cohort: Cohort, key: Key, shape: Sequence[int]) -> Tensor:
        """Return standard normals [C, *shape] in the cohort's type, drawn by every task for itself.

        They are secret: they come from the node's own source, never from the public seed of ``key``, of which only the
        round is used.
        """
        if self.noise is None:
            from fedpriv.privacy.entropy import SystemEntropy

            self.noise = SystemEntropy()
        rows = [self.noise.normal(purpose, key.round, shape, f"task {task}") for task in cohort.ids.tolist()]
        return torch.from_numpy(np.stack(rows)).to(cohort.dtype)

    def noisy(self, value: Tensor, std: float, purpose: str, cohort: Cohort, key: Key) -> Tensor:
        """Return what every task computed, [C, ...], with local noise of this standard deviation, on a grid.

        See :meth:`normal` for the noise and :mod:`fedpriv.privacy.rounding` for the grid. Gradients pass as if nothing
        was rounded.
        """
        from fedpriv.privacy.rounding import to_grid

        noisy = value + std * self.normal(purpose, cohort, key, value.shape[1:])
        exact = noisy.detach().double()
        rounded = torch.from_numpy(to_grid(exact.numpy(), std)) if std else exact
        return noisy + (rounded - exact).to(noisy.dtype)

    def evaluate(self, params: Params, cohort: Cohort, part: Part = "test") -> Scores:
        """Score every task's model [C, ...] on one part of its data."""
        batch = cohort.part(part)
        loss, accuracy = self.engine.scores(self.problem, params, batch)
        own = measured(self.metrics if part == "test" else (), self.problem, params, batch)
        # A model of NaN still "predicts" class 0: no loss, no accuracy.
        return Scores(loss, torch.where(loss.isfinite(), accuracy, torch.nan), own)
