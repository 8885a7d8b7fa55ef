"""How long a run takes, roughly, and so which grid suits it: from public numbers, never by looking at data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedpriv.cohort import Problem

__all__ = ["GridChoice", "choose_grid", "seconds_of_training"]

_MULTIPLY_ADDS_PER_SECOND = 3e9
"""Of small products, on one core in a second."""

_EXAMPLE, _LOOP_STEP = 1e-6, 4e-4
"""Seconds besides the products: of an example in kernels or vmap, and of a step of one task in the loop."""

_RAY_SECONDS = 8.0
"""Seconds until Ray and its shards have started, and until they have ended."""


@dataclass(frozen=True)
class GridChoice:
    """A grid, and why."""

    grid: str  # "ray" or "in-process"
    why: str  # in words

    def __str__(self) -> str:
        return f"grid: {self.grid}, because {self.why}"


def choose_grid(seconds: float, cores: int) -> GridChoice:
    """Choose where training that takes so long on one core is done first, starts and ends included."""
    work = f"the training takes about {_rounded(seconds)} on one core"
    if cores < 2:
        return GridChoice("in-process", "this process may use one core")
    if seconds * (1 - 1 / cores) > _RAY_SECONDS:
        return GridChoice("ray", f"{work}, and this process may use {cores}")
    return GridChoice("in-process", f"{work}, and a start of Ray would not pay")


def seconds_of_training(problem: Problem, like: Tensor, evaluations: float, engine: str) -> float:
    """Estimate what so many per-example gradient evaluations take on one core; right within a factor of three or so.

    ``like`` is one made-up example, [1, ...].
    """
    own = _LOOP_STEP / 10 if engine == "loop" else _EXAMPLE  # mini-batches of 10 or so
    # Backward takes about twice as many products as forward.
    return evaluations * (own + 3 * _multiply_adds(problem, like) / _MULTIPLY_ADDS_PER_SECOND)


def _multiply_adds(problem: Problem, like: Tensor) -> float:
    """Count the multiply-adds of one example's forward pass: each weight counts once for each place it is used at."""
    found = 0.0

    def count(layer: nn.Module, _: Any, output: Any) -> None:
        nonlocal found
        for weight in layer.parameters(recurse=False):
            places = output.numel() / len(weight) if isinstance(output, Tensor) and weight.dim() > 1 else 1.0
            found += weight.numel() * max(1.0, places)

    hooks = [layer.register_forward_hook(count) for layer in problem.model.modules()]
    try:
        with torch.no_grad():
            problem.predict(problem.initial(), like)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _rounded(seconds: float) -> str:
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:,.0f} min"
