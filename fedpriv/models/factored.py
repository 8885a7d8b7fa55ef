"""A network with a bank of directions for each of its layers: what the billboard of a neural low-rank run holds."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor, nn

from fedpriv.errors import InputError

__all__ = ["Factored", "factored_layers"]

_START_LENGTH = 0.01
"""Length of a direction at the start. Only directions count, so a short one is soon forgotten."""


class Factored(nn.Module):
    """A network and, for each of its layers that are not frozen, ``rank`` directions in which a task may move it.

    As a model it is the network alone: the model of a task whose coefficients are all 0. Its parameters are those of
    the network, ``net.<name>`` [...], and those of the bank, ``bank.<name>`` [rank, ...].

    Parameters
    ----------
    net : nn.Module
        The network; it is kept, not copied.
    rank : int
        Directions of each layer; 0 for none.

    Raises
    ------
    InputError
        A layer has fewer numbers than ``rank``.
    """

    def __init__(self, net: nn.Module, rank: int) -> None:
        super().__init__()
        if rank < 0:
            raise InputError(f"'rank' must be at least 0, got {rank}; 0 leaves out the directions.")
        self.net, self.rank = net, rank
        self.bank = nn.Module()
        if not rank:
            return
        learned = {name: value for name, value in net.named_parameters() if value.requires_grad}
        for layer, names in factored_layers(learned).items():
            values = [net.get_parameter(name) for name in names]
            numbers = sum(value.numel() for value in values)
            if rank > numbers:
                raise InputError(
                    f"'rank' must be at most {numbers}, the numbers of layer {layer!r}, got {rank}: it cannot be "
                    "moved in more directions than it has; use a smaller rank."
                )
            slot = _slot(self.bank, layer)
            for name, value in zip(names, values, strict=True):
                start = torch.randn(rank, *value.shape, dtype=value.dtype) * (_START_LENGTH / sqrt(numbers))
                slot.register_parameter(name.rpartition(".")[2], nn.Parameter(start))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the network gives."""
        outputs: Tensor = self.net(inputs)
        return outputs


def factored_layers(params: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the names of each layer's arrays: "1.weight" and "1.bias" are of layer "1"."""
    found: dict[str, list[str]] = {}
    for name in params:
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def _slot(bank: nn.Module, layer: str) -> nn.Module:
    """Return the place of a layer in the bank, so that its arrays are named as those of the network."""
    for part in layer.split(".") if layer else []:
        if part not in dict(bank.named_children()):
            bank.add_module(part, nn.Module())
        bank = bank.get_submodule(part)
    return bank
