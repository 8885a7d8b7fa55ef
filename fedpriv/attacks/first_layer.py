"""What the gradient of a first fully connected layer gives away without any optimisation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["class_counts", "first_layer_inputs"]


def first_layer_inputs(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return what every neuron of a first linear layer was fed with, and how much to trust it.

    A neuron's weight gradient is the sum of ``delta_n x_n`` over examples and its bias gradient the sum of
    ``delta_n``: their quotient is an average of inputs, and one input exactly where a single example was active.

    Parameters
    ----------
    weight : Tensor, shape [G, out, in]
        Gradients by the layer's weights, of G games.
    bias : Tensor, shape [G, out]
        Gradients by its bias.

    Returns
    -------
    inputs : Tensor, shape [G, out, in]
        Candidates, one of each neuron; zero where the bias gradient is.
    strength : Tensor, shape [G, out]
        Size of the bias gradient: rounding decides where it is small.

    References
    ----------
    Phong, Aono, Hayashi, Wang, Moriai: Privacy-Preserving Deep Learning via Additively Homomorphic Encryption. 2018.
    """
    silent = bias == 0
    quotient = weight / torch.where(silent, torch.ones_like(bias), bias).unsqueeze(2)
    return torch.where(silent.unsqueeze(2), torch.zeros_like(quotient), quotient), bias.abs()


def class_counts(bias: Tensor, shares: Tensor, examples: int) -> Tensor:
    """Return how many examples of each class a batch had, for an attacker who was not told.

    The last layer's bias gradient is the mean of ``p - 1[y = c]`` over the batch. With the mean prediction p on public
    data, the counts follow up to rounding; what is left over goes to the largest remainders, so they add up.

    Parameters
    ----------
    bias : Tensor, shape [G, K]
        Gradients by the last layer's bias; in the scale of the loss, so of rows that were not clipped.
    shares : Tensor, shape [K]
        Mean predicted probabilities at the billboard, on public data.
    examples : int
        Size of the batch.

    Returns
    -------
    Tensor, int64 [G, K]
    """
    wanted = (examples * (shares - bias)).clamp_min(1e-6)
    wanted = examples * wanted / wanted.sum(dim=1, keepdim=True)
    counts = wanted.floor().to(torch.int64)
    order = (wanted - counts).argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    missing = examples - counts.sum(dim=1, keepdim=True)
    return counts + (order < missing).to(torch.int64)
