"""Named tensors: parameters, personal states and updates are dictionaries from a name to a tensor.

With a leading task axis a tree holds one value per task of a cohort.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "KEPT",
    "Params",
    "State",
    "broadcast",
    "concatenate",
    "nest",
    "one",
    "select",
    "subtract",
    "unnest",
    "zeros_like",
]

Params = dict[str, Tensor]
State = dict[str, Tensor]

KEPT = "kept"
"""The prefix in a state of parameters that stay with the task (``client.share``)."""


def broadcast(tree: Params, count: int) -> Params:
    """Give every one of ``count`` tasks the same values: [...] becomes a view [count, ...], not to be written to."""
    return {name: value.unsqueeze(0).expand(count, *value.shape) for name, value in tree.items()}


def subtract(left: Params, right: Params) -> Params:
    """Return ``left - right``, broadcasting over the task axis."""
    return {name: value - right[name] for name, value in left.items()}


def zeros_like(tree: Params) -> Params:
    """Return zeros of the same shapes."""
    return {name: torch.zeros_like(value) for name, value in tree.items()}


def one(tree: Params, position: int) -> Params:
    """Return the tree of the task at ``position`` as a cohort of one: [C, ...] becomes [1, ...]."""
    return {name: value[position : position + 1] for name, value in tree.items()}


def concatenate(trees: Sequence[Params]) -> Params:
    """Join cohorts along the task axis."""
    return {name: torch.cat([tree[name] for tree in trees]) for name in trees[0]}


def select(mask: Tensor, yes: Params, no: Params) -> Params:
    """Choose per task: ``yes`` where ``mask`` [C] is true, else ``no``."""
    return {name: torch.where(mask.view(-1, *[1] * (value.dim() - 1)), value, no[name]) for name, value in yes.items()}


def nest(prefix: str, tree: Params) -> State:
    """Put a tree under a prefix, so that a state can hold several."""
    return {f"{prefix}/{name}": value for name, value in tree.items()}


def unnest(prefix: str, state: State) -> Params:
    """Return the tree that :func:`nest` put under ``prefix``."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
