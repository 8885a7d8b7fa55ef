"""Small populations and experiments for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedpriv.cohort import Cohort, Problem, Ragged, Tasks
from fedpriv.models import build_model
from fedpriv.privacy.journal import Journal
from fedpriv.runs.checkpoint import CheckpointStore


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
