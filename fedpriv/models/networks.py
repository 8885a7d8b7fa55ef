"""Small networks without buffers, dropout or batch norm: pure functions of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from fedpriv.errors import InputError
from fedpriv.models.factored import Factored
from fedpriv.models.low_rank import LowRank
from fedpriv.models.own import build_own, refuse_no_maker
from fedpriv.own_code import load
from fedpriv.settings import Settings

__all__ = ["CNN", "MLP", "MODELS", "Linear", "LowRankNet", "build_model"]

Shape = tuple[int, ...]


class Linear(Settings):
    """Softmax (or linear) regression on flattened inputs.

    Attributes
    ----------
    zero_init : bool
        Start from zeros, the usual start of a convex model.
    """

    zero_init: bool = True

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        """Return the module for inputs of the given shape."""
        layer = nn.Linear(prod(inputs), outputs)
        if self.zero_init:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(nn.Flatten(), layer)


class MLP(Settings):
    """Fully connected layers with ReLU.

    Attributes
    ----------
    hidden : int
        Width of the one hidden layer.
    """

    hidden: int = Field(default=64, ge=1)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        """Return the module for inputs of the given shape."""
        return nn.Sequential(
            nn.Flatten(), nn.Linear(prod(inputs), self.hidden), nn.ReLU(), nn.Linear(self.hidden, outputs)
        )


class CNN(Settings):
    """Two strided 3x3 convolutions and a linear layer, for images [channels, height, width].

    Attributes
    ----------
    width : int
        Channels of the first convolution; the second has twice as many.
    """

    width: int = Field(default=16, ge=1)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        """Return the module for inputs of the given shape."""
        if len(inputs) != 3:
            raise InputError(f"the model 'cnn' needs images [channels, height, width], got shape {inputs}; use 'mlp'.")
        channels, height, width = inputs
        after = 2 * self.width * _halved(_halved(height)) * _halved(_halved(width))
        return nn.Sequential(
            nn.Conv2d(channels, self.width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.width, 2 * self.width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(after, outputs),
        )


class LowRankNet(Settings):
    """A network by name with a bank of directions for each layer.

    Attributes
    ----------
    network : {"linear", "mlp", "cnn"}
        The network.
    rank : int
        Directions of each layer, so a task has as many coefficients per layer; 0 leaves tasks a sparse part only.
    hidden : int
        Width of the hidden layer of ``mlp``.
    width : int
        Channels of the first convolution of ``cnn``.
    """

    network: Literal["linear", "mlp", "cnn"] = "mlp"
    rank: int = Field(default=4, ge=0)
    hidden: int = Field(default=64, ge=1)
    width: int = Field(default=16, ge=1)

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        """Return the module for inputs of the given shape."""
        kinds: dict[str, Callable[[], Linear | MLP | CNN]] = {
            "linear": Linear,
            "mlp": lambda: MLP(hidden=self.hidden),
            "cnn": lambda: CNN(width=self.width),
        }
        return Factored(kinds[self.network]().build(inputs, outputs), self.rank)


def _halved(size: int) -> int:
    return (size + 1) // 2


MODELS: dict[str, Callable[..., Linear | MLP | CNN | LowRank | LowRankNet]] = {
    "linear": Linear,
    "mlp": MLP,
    "cnn": CNN,
    "low-rank": LowRank,
    "low-rank-net": LowRankNet,
}


def build_model(
    name: str,
    inputs: Shape,
    outputs: int,
    settings: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Build a network with public initial values drawn from ``seed``.

    Parameters
    ----------
    name : str
        One of ``MODELS``, or one of users' own.
    inputs : tuple of int
        Shape of one example.
    outputs : int
        Number of classes, or of regression targets.
    settings : mapping, optional
        Settings of the model.
    seed : int
        Seed of the initial values; the global generator is left as it was.
    dtype : torch.dtype
        Floating type of the parameters; one of users' own keeps its types.

    Raises
    ------
    InputError
        The name or a setting is unknown, or the shape does not fit.
    """
    if name not in MODELS:
        make = load("model", name, MODELS).value
        refuse_no_maker(name, make)
        return build_own(name, make, settings or {}, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chosen = MODELS[name](**(settings or {}))
        try:
            return chosen.build(inputs, outputs).to(dtype)
        except RuntimeError as error:
            cause = str(error).splitlines()[0]
            raise InputError(f"the model {name!r} cannot be built with {chosen!r}: {cause}; make it smaller.") from None
