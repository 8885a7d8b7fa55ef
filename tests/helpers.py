"""Small populations and experiments for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedpriv import Experiment
from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.cohort import Cohort, Problem, Ragged, Tasks
from fedpriv.experiment import ModelSettings
from fedpriv.models import build_model
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.journal import Journal
from fedpriv.protocol import ALL
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.strategies import Billboard


def toy_tasks(count: int = 6, *, features: int = 5, classes: int = 3, seed: int = 0, sizes: Any = None) -> Tasks:
    """Ragged classification tasks whose classes are linearly related to the inputs."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(features, classes))

    def part(lengths: list[int]) -> Ragged:
        inputs = [rng.normal(size=(n, features)).astype(np.float32) for n in lengths]
        targets = [np.argmax(x @ directions + rng.normal(size=classes), axis=1) for x in inputs]
        for labels in targets:
            if len(labels) > 1:
                labels[:2] = [0, 1]
        return Ragged.from_lists(inputs, targets)

    sizes = sizes if sizes is not None else rng.integers(2, 14, size=count).tolist()
    return Tasks(
        "toy",
        tuple(f"task-{k}" for k in range(count)),
        part(sizes),
        part([3] * count),
        part([4] * count),
        classes,
        declared="benchmark",
    )


def toy_problem(tasks: Tasks, *, dtype: torch.dtype = torch.float64, model: str = "mlp", seed: int = 0) -> Problem:
    settings = {"hidden": 7} if model == "mlp" else {}
    return Problem(build_model(model, tasks.input_shape, tasks.num_classes or 1, settings, seed=seed, dtype=dtype))


def whole(tasks: Tasks, dtype: torch.dtype = torch.float64) -> Cohort:
    return Cohort(tasks, np.arange(len(tasks)), dtype)


C = 0.3
"""Clipping norm of these experiments."""


def experiment(tasks: Tasks, **changes: Any) -> Experiment:
    """A run of one noiseless round in this process, in float64, without baseline and report."""
    settings: dict[str, Any] = {
        "tasks": tasks,
        "model": ModelSettings(name="mlp", settings={"hidden": 7}),
        "client": GlobalModel(learning_rate=0.5),
        "strategy": Billboard(clipping_norm=C, rounds=1, noise_multiplier=0.0),
        "dtype": "float64",
        "grid": "in-process",
        "shards": 1,
        "baseline": False,
        "report": False,
    }
    return Experiment(**{**settings, **changes})


def noisy(**changes: Any) -> Billboard:
    """A strategy of four noisy rounds."""
    settings: dict[str, Any] = {
        "clipping_norm": C,
        "rounds": 4,
        "noise_multiplier": 1.0,
        "sampling_rate": 0.6,
    }
    return Billboard(**{**settings, **changes})


def personal(**changes: Any) -> Experiment:
    """A run of nine noisy rounds with personal models, on two shards."""
    client = MeanRegularized(strength=0.5, learning_rate=0.3, final_epochs=2)
    settings = {"client": client, "strategy": noisy(rounds=9), "checkpoint_every": 4, "shards": 2}
    return experiment(changes.pop("tasks", toy_tasks(7)), **{**settings, **changes})


def final(tasks: Tasks, **changes: Any) -> dict[str, Any]:
    """What such a run publishes last."""
    return experiment(tasks, **changes).run(reproduce=0).billboards[ALL]


def moved(one: dict[str, Any], two: dict[str, Any]) -> float:
    """How far apart two billboards are, in l2."""
    return float(np.sqrt(sum(np.square(np.float64(one[name]) - two[name]).sum() for name in one)))


def same(one: Any, two: Any, tolerance: float = 0.0) -> None:
    """Two results have the same billboards and scores."""
    for name, value in one.billboards[ALL].items():
        np.testing.assert_allclose(two.billboards[ALL][name], value, rtol=tolerance, atol=tolerance)
    for name, scores in one.scores.items():
        if name in two.scores:
            np.testing.assert_allclose(two.scores[name], scores, rtol=max(tolerance, 1e-6))


class Explosive(nn.Module):
    """A linear model that fails on inputs above a threshold: stands in for any task-specific error."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if float(inputs.max()) > 1e3:
            raise RuntimeError("boom")
        output: torch.Tensor = self.layer(inputs)
        return output


class Crash(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def banded_matrix(banded: BandedMechanism) -> np.ndarray:
    """Return the normalised C [T, T] of a banded mechanism, which a run never builds."""
    out = np.zeros((banded.horizon, banded.horizon))
    for j, value in enumerate(banded.coefficients()):
        np.fill_diagonal(out[j:], value)
    return out / banded.column_norms()


@contextmanager
def crash_at(monkeypatch: Any, moment: str, round: int) -> Iterator[None]:
    """Let the process die, in the block, at one moment of publishing one round."""
    owner, method = {
        "before stage": (CheckpointStore, "stage"),
        "after stage": (Journal, "charge"),
        "after charge": (CheckpointStore, "promote"),
        "after promote": (CheckpointStore, "promote"),
    }[moment]
    original = getattr(owner, method)

    def crash(self: Any, *arguments: Any) -> Any:
        number = getattr(arguments[0], "round", arguments[0])
        if number != round:
            return original(self, *arguments)
        if moment == "after promote":
            original(self, *arguments)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, crash)
        with pytest.raises(Crash):
            yield


class Once(torch.autograd.Function):
    """An identity whose gradient has no gradient."""

    @staticmethod
    def forward(inputs: torch.Tensor) -> torch.Tensor:
        return inputs.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0]


class Unbending(nn.Module):
    """A linear model that cannot be differentiated twice."""

    def __init__(self, features: int = 64, classes: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = Once.apply(self.layer(inputs.flatten(1)))
        return out
