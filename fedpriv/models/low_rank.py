"""Shared factors of linear models, as a module: what the billboard of a low-rank-plus-sparse run holds."""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedpriv.errors import InputError
from fedpriv.lrs.packing import packed_size
from fedpriv.settings import Settings

__all__ = ["Factors", "LowRank"]

_MAX_NUMBERS = 4096
"""d r beyond which (d r)^2 / 2 numbers from every task are too many: 64 MB each."""


class Factors(nn.Module):
    """Orthonormal factors U, with places for what else tasks send about them; those stay zero on the billboard.

    As a model it is the sum of the factors' columns: the task whose coefficients are all 1. A task's own model, a
    vector theta, is one of these with theta in the first column and zeros elsewhere.

    Parameters
    ----------
    factors : Tensor, shape [d, r]
        U.
    places : dict of str to Tensor
        ``curvature``, ``matrix`` and ``vector``, or ``moments``, as :class:`LowRank` says.
    """

    def __init__(self, factors: Tensor, places: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.factors = nn.Parameter(factors)
        for name, value in (places or {}).items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return predictions [n, 1]."""
        return inputs.flatten(1) @ self.factors.sum(dim=1, keepdim=True)


class LowRank(Settings):
    """Shared factors U of low-rank-plus-sparse linear models.

    Attributes
    ----------
    rank : int
        r.
    update : {"gradient", "newton", "normal-equations"}
        What tasks send about U: a gradient (d r numbers), also the curvature that accounts for their own refit, which
        needs few rounds, or the paper's A and V; both of the last are (d r)^2 / 2 numbers. Only the first gets along
        with noise from few tasks.
    start : {"random", "moments"}
        Where U starts: anywhere, which costs nothing, or by the method of moments, which takes the first round.
    """

    rank: int = Field(default=1, ge=1)
    update: Literal["gradient", "newton", "normal-equations"] = "gradient"
    start: Literal["random", "moments"] = "random"

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        """Return the module for inputs of the given shape."""
        dimension = prod(inputs)
        if outputs != 1:
            raise InputError(f"the model 'low-rank' predicts one value, and the tasks have {outputs}; use 'linear'.")
        if self.rank > dimension:
            raise InputError(
                f"'rank' must be at most the number of features {dimension}, got {self.rank}; use a smaller one."
            )
        side = dimension * self.rank
        if self.update != "gradient" and side > _MAX_NUMBERS:
            raise InputError(
                f"update={self.update!r} needs features times rank of at most {_MAX_NUMBERS}, got {side}: every task "
                "would send the square of it; use update='gradient'."
            )
        shapes: dict[str, tuple[int, ...]] = {}
        if self.update == "newton":
            shapes["curvature"] = (packed_size(side),)
        if self.update == "normal-equations":
            shapes |= {"matrix": (packed_size(side),), "vector": (dimension, self.rank)}
        if self.start == "moments":
            shapes["moments"] = (packed_size(dimension),)
        factors = nn.init.orthogonal_(torch.empty((dimension, self.rank), dtype=torch.float64))
        return Factors(factors, {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()})
