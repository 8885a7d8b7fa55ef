"""Chains of convolutions as matrix products over games, both ways, with all parameters in one vector.

Images keep their channels last. A layer multiplies their patches (im2col), with a last column for the bias. The way
back, a transposed convolution, is a product as well where there are many channels: a pixel belongs to the patches of a
few outputs only, and pixels at the same place within a stride have the same weights, so windows of adjoints times
rearranged weights give blocks of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fedpriv.cohort import Params, Problem
from fedpriv.cohort.fast.products import Convolution, Dense, Pointwise, Window, chain_steps

__all__ = ["FOLLOWING", "Chain", "Layer"]

FOLLOWING = (nn.Tanh, nn.Sigmoid, nn.ReLU)
"""What may follow a layer."""


@dataclass(frozen=True)
class Layer:
    """A product, on patches of images or on whole examples, and what follows it.

    Attributes
    ----------
    weight, bias : str, str or None
        Names of the parameters.
    window : Window or None
        How patches lie; None where it looks at whole examples.
    images : (int, int, int)
        Height, width and channels of what comes in.
    outputs : int
        Channels of what goes out.
    follows : type or None
        Layer without parameters behind it.
    """

    weight: str
    bias: str | None
    window: Window | None
    images: tuple[int, int, int]
    outputs: int
    follows: type[nn.Module] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what a weight looks at."""
        return self.images[:2] if self.window is None else self.window.size

    @property
    def places(self) -> tuple[int, int]:
        """How many patches lie below and beside each other."""
        return (1, 1) if self.window is None else self.window.places(*self.images[:2])

    @property
    def inputs(self) -> int:
        """Numbers of a patch."""
        return self.images[2] * self.size[0] * self.size[1]

    @property
    def height(self) -> int:
        """Rows of the weights as a matrix; the last one is the bias."""
        return self.inputs + (self.bias is not None)

    def rows(self, values: Tensor, games: int, last: float) -> Tensor:
        """Return what is multiplied, [G, r, height], of values [..., channels]; ``last`` is the column of the bias."""
        if self.window is None:
            whole = values.reshape(games, -1, self.inputs)
            return whole if self.bias is None else pad(whole, (0, 1), value=last)
        patches = self.window.look(values.view(-1, *self.images))
        made = values.new_empty(*patches.shape[:3], self.height)
        made[..., : self.inputs].view(patches.shape).copy_(patches)
        if self.bias is not None:
            made[..., -1] = last
        return made.view(games, -1, self.height)

    def turned(self, weight: Tensor) -> Tensor:
        """Return what :meth:`adjoint_windows` is multiplied by, from weights [G, height, out]."""
        if not self._by_windows:
            return weight[:, : self.inputs].mT
        used = weight[:, : self.inputs].flatten(1)
        index, high = self._turn
        return torch.cat([used, used.new_zeros(len(used), 1)], dim=1).index_select(1, index).view(len(used), high, -1)

    def adjoint_windows(self, deltas: Tensor) -> Tensor:
        """Return from adjoints [G, r, out] those of the outputs whose patches hold a block of pixels, [G, r', ...]."""
        if not self._by_windows:
            return deltas
        edges: list[int] = []
        for (low, count), length, (blocks, _) in zip(self._reach, self.places, self._blocks, strict=True):
            edges = [-low, blocks - 1 + low + count - length, *edges]
        outputs = pad(deltas.view(-1, *self.places, self.outputs), (0, 0, *edges))
        (_, down), (_, across) = self._reach
        views = outputs.unfold(1, down, 1).unfold(2, across, 1).permute(0, 1, 2, 4, 5, 3)
        return views.reshape(len(deltas), -1, down * across * self.outputs)

    def pixels(self, blocks: Tensor) -> Tensor:
        """Return values [G, r, channels] from what :meth:`adjoint_windows` times :meth:`turned` gives."""
        height, width, channels = self.images
        if self.window is None:
            return blocks.reshape(len(blocks), -1, channels)
        if not self._by_windows:
            patches = blocks.reshape(-1, *self.places, self.inputs)
            made = self.window.col2im(patches, torch.Size((len(patches), height, width, channels)))
            return made.reshape(len(blocks), -1, channels)
        (down, tall), (across, wide) = self._blocks
        made = blocks.view(-1, down, across, tall, wide, channels).transpose(2, 3)
        made = made.reshape(-1, down * tall, across * wide, channels)[:, :height, :width]
        return made.reshape(len(blocks), -1, channels)

    @cached_property
    def _by_windows(self) -> bool:
        """Whether windows of adjoints are smaller than the patches, which are summed (col2im) otherwise.

        Copies decide, not multiplications, of which windows take more: few channels leave a processor waiting.
        """
        (_, down), (_, across) = self._reach
        return self.window is not None and down * across * self.outputs < self.inputs

    @cached_property
    def _blocks(self) -> list[tuple[int, int]]:
        """Down and across: how many blocks, and how many pixels each."""
        strides = self.window.stride if self.window else (1, 1)
        return [(-(-length // stride), stride) for length, stride in zip(self.images[:2], strides, strict=True)]

    @cached_property
    def _reach(self) -> list[tuple[int, int]]:
        """Down and across: the first output whose patch holds pixels of the first block, and how many do."""
        found = []
        for axis in (0, 1):
            outputs = [output for _, _, output in self._taps(axis)]
            found.append((min(outputs), max(outputs) - min(outputs) + 1))
        return found

    def _taps(self, axis: int) -> list[tuple[int, int, int]]:
        """Return place in the block, place in the patch, and output, of all pairs that meet."""
        window = self.window or Window((1, 1), (1, 1), (0, 0))
        stride, padding = window.stride[axis], window.padding[axis]
        return [
            (pixel, place, (pixel + padding - place) // stride)
            for pixel in range(stride)
            for place in range(window.size[axis])
            if (pixel + padding - place) % stride == 0
        ]

    @cached_property
    def _turn(self) -> tuple[Tensor, int]:
        """Where each number of :meth:`turned` stands in the weights, and how many rows there are."""
        (_, tall), (_, wide) = self._blocks
        (top, down), (left, across) = self._reach
        channels, nothing = self.images[2], self.inputs * self.outputs
        index = torch.full((down, across, self.outputs, tall, wide, channels), nothing)
        standing = torch.arange(nothing).view(*self.size, channels, self.outputs)
        for row, row_place, below in self._taps(0):
            for column, column_place, beside in self._taps(1):
                index[below - top, beside - left, :, row, column] = standing[row_place, column_place].T
        return index.flatten(), down * across * self.outputs


@dataclass(frozen=True)
class Chain:
    """The layers of a network, for examples of one shape.

    Attributes
    ----------
    layers : tuple of Layer
        In their order.
    """

    layers: tuple[Layer, ...]

    @staticmethod
    def covers(problem: Problem) -> bool:
        """Tell whether a model begins with convolutions and has a linear layer as its last product.

        Each product may have one layer of :data:`FOLLOWING` right behind it, and nothing else stands between.
        """
        steps = chain_steps(problem.model) or []
        products = [step for step in steps if isinstance(step, Convolution | Dense)]
        pointwise = [(before, step.module) for before, step in pairwise(steps) if isinstance(step, Pointwise)]
        known = all(before in products and type(module) in FOLLOWING for before, module in pointwise)
        return known and bool(products) and isinstance(products[-1], Dense)

    @classmethod
    def of(cls, problem: Problem, shape: torch.Size) -> Chain:
        """Return the chain of a model that is covered, for examples of this shape, [c, H, W]."""
        channels, height, width = shape
        found: list[Layer] = []
        for step in chain_steps(problem.model) or []:
            if isinstance(step, Pointwise):
                found[-1] = replace(found[-1], follows=type(step.module))
            elif isinstance(step, Convolution | Dense):
                weight, bias = f"{step.name}.weight", f"{step.name}.bias" if step.bias else None
                window = step.window if isinstance(step, Convolution) else None
                outputs = len(problem.model.get_parameter(weight))
                found.append(Layer(weight, bias, window, (height, width, channels), outputs))
                (height, width), channels = found[-1].places, outputs
        return cls(tuple(found))

    def pack(self, params: Params) -> Tensor:
        """Return parameters [G, ...] as one matrix [G, P]; arrays that were not sent, and are not there, as zeros."""
        some = next(iter(params.values()))
        parts = []
        for layer in self.layers:
            if layer.weight in params:
                value = params[layer.weight].reshape(len(some), layer.outputs, layer.images[2], *layer.size)
                parts.append(value.permute(0, 3, 4, 2, 1).flatten(1))  # as images lie in memory
            else:
                parts.append(some.new_zeros(len(some), layer.inputs * layer.outputs))
            if layer.bias is not None:
                parts.append(params.get(layer.bias, some.new_zeros(len(some), layer.outputs)))
        return torch.cat(parts, dim=1)

    def unpack(self, flat: Tensor) -> list[Tensor]:
        """Return the weights of every layer, views [G, height, out] of [G, P]."""
        sizes = [layer.height * layer.outputs for layer in self.layers]
        parts = zip(torch.split(flat, sizes, dim=1), self.layers, strict=True)
        return [part.view(len(flat), layer.height, layer.outputs) for part, layer in parts]

    def rows(self, images: Tensor) -> Tensor:
        """Return what the first layer multiplies, [G, r, height], of images [G, n, c, H, W]."""
        return self.layers[0].rows(images.movedim(2, -1).contiguous(), len(images), 1.0)
