"""One SGD step of the convolutional network for a chunk of tasks, by hand.

A convolution is a matrix product over columns of patches. Values keep the shape [C, channels, b, height, width], so
that every task's columns are one matrix [channels * 9, b * height * width] and no product needs a transposed copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.sides.local import Params

__all__ = ["slope", "step"]


def step(local: Params, x: Tensor, classes: Tensor, rate: float) -> None:
    """Change the weights in place by one step on examples [C, b, 1, 28, 28]."""
    count, batch = x.shape[:2]
    first, first_bias = local["0.weight"].view(count, 16, 9), local["0.bias"]
    second, second_bias = local["2.weight"].view(count, 32, 144), local["2.bias"]
    third, third_bias = local["5.weight"], local["5.bias"]

    columns = _patches(x.view(count, 1, batch, 28, 28))
    one = torch.baddbmm(first_bias.unsqueeze(2), first, columns).relu_()
    inner = _patches(one.view(count, 16, batch, 14, 14))
    two = torch.baddbmm(second_bias.unsqueeze(2), second, inner).relu_()
    flat = two.view(count, 32, batch, 49).transpose(1, 2).reshape(count, batch, 32 * 49)
    delta = slope(torch.baddbmm(third_bias.unsqueeze(1), flat, third.mT), classes)

    below = torch.bmm(delta, third).mul_(flat > 0).view(count, batch, 32, 49).transpose(1, 2).reshape(count, 32, -1)
    third.baddbmm_(delta.mT, flat, alpha=-rate)
    third_bias.sub_(delta.sum(dim=1), alpha=rate)
    lowest = _fold(torch.bmm(second.mT, below), count, batch).mul_(one > 0)
    second.baddbmm_(below, inner.mT, alpha=-rate)
    second_bias.sub_(below.sum(dim=2), alpha=rate)
    first.baddbmm_(lowest, columns.mT, alpha=-rate)
    first_bias.sub_(lowest.sum(dim=2), alpha=rate)


def slope(outputs: Tensor, classes: Tensor) -> Tensor:
    """Return the gradient of the mean cross-entropy by the outputs [C, b, K]."""
    delta = torch.softmax(outputs, dim=2)
    delta.scatter_add_(2, classes.unsqueeze(2), delta.new_full((), -1.0).expand(*classes.shape, 1))
    return delta.div_(classes.shape[1])


def _patches(values: Tensor) -> Tensor:
    """Return the 3x3 patches at stride 2 of [C, k, b, h, w] with a border of zeros: [C, k * 9, b * h/2 * w/2]."""
    count, channels, batch, height, width = values.shape
    padded = values.new_zeros(count, channels, batch, height + 2, width + 2)
    padded[..., 1:-1, 1:-1] = values
    task, channel, example, row, column = padded.stride()
    view = padded.as_strided(
        (count, channels, 3, 3, batch, height // 2, width // 2),
        (task, channel, row, column, example, 2 * row, 2 * column),
    )
    return view.reshape(count, channels * 9, batch * (height // 2) * (width // 2))


def _fold(patches: Tensor, count: int, batch: int) -> Tensor:
    """Add the patches of the second convolution [C, 144, b * 49] up where they came from: [C, 16, b * 196]."""
    source = patches.view(count, 16, 3, 3, batch, 7, 7)
    padded = patches.new_zeros(count, 16, batch, 16, 16)
    for row in range(3):
        for column in range(3):
            padded[..., row : row + 14 : 2, column : column + 14 : 2] += source[:, :, row, column]
    return padded[..., 1:-1, 1:-1].reshape(count, 16, batch * 196)
