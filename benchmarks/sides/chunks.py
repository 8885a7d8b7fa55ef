"""Chunks of tasks, and their clipped sum: shared by the sides that batch over tasks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.sides.local import Params

__all__ = ["add_clipped", "chunk_size", "chunks"]


def chunk_size(model: nn.Module, megabytes: float) -> int:
    """How many tasks' weights fit into so many megabytes; at least one."""
    each = sum(value.numel() * value.element_size() for value in model.parameters())
    return max(1, int(megabytes * 2**20 / each))


def chunks(tasks: range, order: Tensor, size: int) -> Iterator[tuple[range, Tensor]]:
    """Cut the tasks and their mini-batches."""
    for start in range(0, len(tasks), size):
        part = tasks[start : start + size]
        yield part, order[start : start + len(part)]


def add_clipped(total: Params, params: Params, local: Params, bound: float) -> None:
    """Add every task's clipped drift to the float64 total; ``local`` is used up."""
    squares: Tensor | float = 0.0
    for name, value in local.items():
        drift = value.sub_(params[name]).flatten(1)
        squares = squares + torch.linalg.vector_norm(drift, dim=1, dtype=torch.float64).square()
    factor = (bound / torch.as_tensor(squares).sqrt().clamp_(min=1e-30)).clamp_(max=1.0)
    for name, value in local.items():
        total[name].view(-1).addmv_(value.flatten(1).double().mT, factor)
