"""Losses of convolutional chains as batched matrix products over the task axis, for gradients of gradients.

``vmap`` turns a convolution whose weights are every task's own into one of many groups, whose second derivatives are
slow on CPUs. Here images keep their channels last, patches are copied once, and each layer is one batched product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fedpriv.cohort.cohort import Batch
from fedpriv.cohort.engine import mean_losses
from fedpriv.cohort.fast.chain import POINTWISE, untouched
from fedpriv.cohort.fast.kernels import KernelEngine
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.trees import Params

__all__ = ["Convolution", "Dense", "Pointwise", "ProductEngine", "Step", "Window", "chain_steps"]

Step = Callable[[Params, Tensor], Tensor]


class ProductEngine(KernelEngine):
    """Losses of chains of Conv2d, Linear, Flatten and pointwise layers; all else as :class:`KernelEngine`."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: tuple[nn.Module, list[Step] | None] | None = None

    def losses(self, problem: Problem, params: Params, batch: Batch) -> Tensor:  # noqa: D102
        if self._seen is None or self._seen[0] is not problem.model:
            self._seen = (problem.model, chain_steps(problem.model))
        steps = self._seen[1]
        if steps is None or batch.inputs.dim() != 5:
            return super().losses(problem, params, batch)
        values = batch.inputs.movedim(2, -1)  # [C, n, H, W, c]
        for step in steps:
            values = step(params, values)
        return mean_losses(problem, values, batch)


@dataclass(frozen=True)
class Convolution:
    """Weights [C, out, c, k, l] on images [C, n, H, W, c]."""

    name: str
    window: Window
    bias: bool

    def __call__(self, params: Params, values: Tensor) -> Tensor:  # noqa: D102
        weight = params[f"{self.name}.weight"]
        count, outputs = weight.shape[:2]
        patches: Tensor = _Im2col.apply(values.flatten(0, 1), self.window)  # type: ignore[no-untyped-call]
        height, width = patches.shape[1:3]
        rows = patches.view(count, -1, patches.shape[-1])
        columns = weight.permute(0, 3, 4, 2, 1).reshape(count, -1, outputs)
        made = _product(rows, columns, params[f"{self.name}.bias"] if self.bias else None)
        return made.view(count, -1, height, width, outputs)


@dataclass(frozen=True)
class Dense:
    """Weights [C, out, in] on values [C, n, in]."""

    name: str
    bias: bool

    def __call__(self, params: Params, values: Tensor) -> Tensor:  # noqa: D102
        bias = params[f"{self.name}.bias"] if self.bias else None
        return _product(values, params[f"{self.name}.weight"].mT, bias)


@dataclass(frozen=True)
class Pointwise:
    """A layer without parameters that looks at one value at a time."""

    module: nn.Module

    def __call__(self, params: Params, values: Tensor) -> Tensor:  # noqa: ARG002, D102
        made: Tensor = self.module(values)
        return made


def _product(rows: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, columns)


def _flatten(params: Params, values: Tensor) -> Tensor:  # noqa: ARG001
    return values.movedim(-1, 2).flatten(2) if values.dim() == 5 else values


def chain_steps(model: nn.Module) -> list[Step] | None:
    """Return what a chain does, or None for a model that is computed otherwise."""
    if type(model) is not nn.Sequential:
        return None
    found: list[Step] = []
    names: set[str] = set()
    flat = False
    for name, module in model._modules.items():
        if type(module) is nn.Conv2d and not flat:
            if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
                return None
            window = Window(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding))
            if module.dilation != (1, 1):
                return None
            found.append(Convolution(name, window, module.bias is not None))
        elif type(module) is nn.Linear and flat:
            found.append(Dense(name, module.bias is not None))
        elif type(module) is nn.Flatten and not flat and (module.start_dim, module.end_dim) == (1, -1):
            flat = True
            found.append(_flatten)
        elif type(module) in POINTWISE and found:
            found.append(Pointwise(module))
        else:
            return None
        names |= {f"{name}.{own}" for own, _ in module.named_parameters()}
    convolves = any(isinstance(step, Convolution) for step in found)
    return found if flat and convolves and untouched(model, names) else None


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return sizes[0], sizes[1]


@dataclass(frozen=True)
class Window:
    """How patches lie on images."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def places(self, height: int, width: int) -> tuple[int, int]:
        """Return how many patches lie below and beside each other on images of this size."""
        ends = zip((height, width), self.size, self.stride, self.padding, strict=True)
        down, across = ((end + 2 * padding - size) // stride + 1 for end, size, stride, padding in ends)
        return down, across

    def look(self, images: Tensor) -> Tensor:
        """Return the patches [N, H', W', k, l, c] of images [N, H, W, c], as a view if there is no padding."""
        down, across = self.padding
        if any(self.padding):
            images = pad(images, (0, 0, across, across, down, down))
        views = images.unfold(1, self.size[0], self.stride[0]).unfold(2, self.size[1], self.stride[1])
        return views.permute(0, 1, 2, 4, 5, 3)

    def im2col(self, images: Tensor) -> Tensor:
        """Return the patches [N, H', W', k l c] of images [N, H, W, c]."""
        return self.look(images).flatten(3)

    def col2im(self, patches: Tensor, shape: torch.Size) -> Tensor:
        """Return the sum of patches at their places: the transpose of :meth:`im2col`."""
        count, height, width, channels = shape
        (down, across), (first, second) = self.padding, self.stride
        made = patches.new_zeros(count, height + 2 * down, width + 2 * across, channels)
        rows, columns = patches.shape[1:3]
        parts = patches.view(*patches.shape[:3], *self.size, channels)
        for row in range(self.size[0]):
            for column in range(self.size[1]):
                here = made[:, row : row + first * rows : first, column : column + second * columns : second]
                here += parts[:, :, :, row, column]
        return made[:, down : down + height, across : across + width]


class _Im2col(torch.autograd.Function):
    """Both are linear and each is the transpose of the other, so each is the gradient of the other, to any order."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, window: Window) -> Tensor:
        ctx.window, ctx.shape = window, images.shape
        return window.im2col(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Col2im.apply(gradients[0], ctx.window, ctx.shape), None  # type: ignore[no-untyped-call]


class _Col2im(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patches: Tensor, window: Window, shape: torch.Size) -> Tensor:
        ctx.window = window
        return window.col2im(patches.contiguous(), shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Im2col.apply(gradients[0], ctx.window), None, None  # type: ignore[no-untyped-call]
