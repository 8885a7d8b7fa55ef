"""Hand-batched steps for fully connected networks: the fastest engine where it applies.

Autograd allocates and walks over every task's weights several times in each step. Here both passes are batched matrix
products over the task axis, and the gradient is added to the weights in the product that makes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedpriv.cohort.cohort import Batch, Cohort
from fedpriv.cohort.descent import Descent, per_task
from fedpriv.cohort.engine import VmapEngine, average, mean_losses
from fedpriv.cohort.low_rank import low_rank_meta_gradient, shared
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.tiles import Tiles
from fedpriv.cohort.trees import Params, zeros_like

if TYPE_CHECKING:
    from fedpriv.cohort.meta import InnerLoop

__all__ = ["POINTWISE", "KernelEngine", "untouched"]


_threshold_backward = torch.ops.aten.threshold_backward
"""The gradient behind a ReLU, as autograd takes it: one pass, where a comparison and a product are two."""

POINTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.GELU, nn.SiLU)
"""Layers that treat every number alike, and can be differentiated twice."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class _Layer:
    """One linear layer of a chain, and whether a ReLU follows."""

    weight: str
    bias: str | None
    relu: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Of its parameters."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


class KernelEngine(VmapEngine):
    """Hand-batched kernels for chains of Flatten, Linear and ReLU; vmap for every other model."""

    name = "auto"

    def __init__(self) -> None:
        # Walking over a model costs as much as a step of a small tile; a node has one model.
        self._known: tuple[nn.Module, int, list[_Layer] | None] | None = None
        self.tiles = Tiles()

    def _layers(self, problem: Problem, axes: int) -> list[_Layer] | None:
        model = problem.model
        if self._known is None or self._known[0] is not model or self._known[1] != axes:
            self._known = (model, axes, _chain(model, axes))
        return self._known[2]

    def sgd(  # noqa: D102
        self, problem: Problem, start: Params, cohort: Cohort, index: NDArray[np.int64], descent: Descent
    ) -> Params:
        axes = 2 + len(cohort.tasks.input_shape)
        if self._layers(problem, axes) is None:
            return super().sgd(problem, start, cohort, index, descent)
        params = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in start.items()}
        # All steps of a few tasks, whose weights stay in the cache meanwhile, before the next few.
        everybody, each = np.arange(len(cohort)), sum(value[:1].nbytes for value in params.values())
        for here in self.tiles.cut(len(cohort), each, index.shape[1] * index.shape[2]):
            tile = {name: value[here].copy_(start[name][here].detach()) for name, value in params.items()}
            batches = cohort.subset(everybody[here]).batches(index[here])
            self.descend(problem, tile, batches, descent.part(here, params))
        return params

    def descend(self, problem: Problem, params: Params, batches: Iterable[Batch], descent: Descent) -> None:  # noqa: D102
        chain: _Chain | None = None
        batches = iter(batches)
        for batch in batches:
            if chain is None:
                layers = self._layers(problem, batch.inputs.dim())
                if layers is None:
                    super().descend(problem, params, itertools.chain([batch], batches), descent)
                    return
                chain = _Chain(layers, problem, params, descent, batch)
            chain.step(batch)

    def losses(self, problem: Problem, params: Params, batch: Batch) -> Tensor:  # noqa: D102
        layers = self._layers(problem, batch.inputs.dim())
        if layers is None:
            return super().losses(problem, params, batch)
        return mean_losses(problem, _forward(_views(layers, params), batch.inputs)[-1], batch)

    def meta_shortcut(  # noqa: D102
        self,
        problem: Problem,
        params: Params,
        support: Batch,
        query: Batch,
        inner: InnerLoop,
        *,
        create_graph: bool,
    ) -> tuple[Params, Tensor] | None:
        layers = self._layers(problem, query.inputs.dim())
        if layers is None or not shared(params):
            return None
        return low_rank_meta_gradient(layers, problem, params, support, query, inner, create_graph=create_graph)

    def scores(self, problem: Problem, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:  # noqa: D102
        layers = self._layers(problem, batch.inputs.dim())
        if layers is None:
            return super().scores(problem, params, batch)
        with torch.no_grad():
            outputs = _forward(_views(layers, params), batch.inputs)[-1]
            loss, correct = problem.judge(outputs.flatten(0, 1), batch.targets.flatten(0, 1))
        shape = batch.mask.shape
        return average(loss.view(shape), batch.mask), average(correct.view(shape), batch.mask)


def _chain(model: nn.Module, axes: int) -> list[_Layer] | None:
    """Return the linear layers of a fully connected network, or None for any other.

    ``axes`` counts those of the examples [C, n, ...]: a linear layer without Flatten maps the last one only.
    """
    if type(model) is not nn.Sequential:
        return None
    found: list[_Layer] = []
    flat = axes == 3
    for name, module in model._modules.items():  # named_children would skip a module that occurs twice
        if type(module) is nn.Linear:
            bias = None if module.bias is None else f"{name}.bias"
            found.append(_Layer(f"{name}.weight", bias, relu=False))
        elif type(module) is nn.ReLU and found and not found[-1].relu:
            found[-1] = replace(found[-1], relu=True)
        elif type(module) is nn.Flatten and not found and (module.start_dim, module.end_dim) == (1, -1):
            flat = axes >= 3
        else:
            return None
    if not flat or not found or found[-1].relu or not all(layer.relu for layer in found[:-1]):
        return None
    expected = {name for layer in found for name in layer.names}
    return found if untouched(model, expected) else None


def untouched(model: nn.Module, expected: set[str]) -> bool:
    """Tell whether a chain computes what its layers say, with these parameters and none that two layers share.

    Weights that are shared would be missing: autograd adds up their gradients, hand-batched code does not.
    """
    changed = any("forward" in vars(module) or any(map(vars(module).get, _HOOKS)) for module in model.modules())
    return not changed and {name for name, _ in model.named_parameters()} == expected


@dataclass(frozen=True)
class _View:
    """What one layer is computed with, for a tile of C tasks: making a view costs as much as a small product."""

    weight: Tensor  # [C, out, in]
    transposed: Tensor  # [C, in, out]
    bias: Tensor | None  # [C, 1, out]
    relu: bool


def _views(layers: list[_Layer], params: Params) -> list[_View]:
    return [
        _View(
            params[layer.weight],
            params[layer.weight].mT,
            None if layer.bias is None else params[layer.bias].unsqueeze(1),
            layer.relu,
        )
        for layer in layers
    ]


def _forward(views: list[_View], examples: Tensor) -> list[Tensor]:
    """Return the input of every layer and the outputs [C, n, K]."""
    values = [examples.flatten(2)]
    for view in views:
        if view.bias is None:
            made = torch.bmm(values[-1], view.transposed)
        else:
            made = torch.baddbmm(view.bias, values[-1], view.transposed)
        values.append(made.relu_() if view.relu else made)
    return values


class _Chain:
    """One tile of tasks on its way down; ``like`` is a batch in the shape of all."""

    def __init__(self, layers: list[_Layer], problem: Problem, params: Params, descent: Descent, like: Batch) -> None:
        self.problem, self.params, self.descent = problem, params, descent
        self.views = _views(layers, params)
        count, places = like.mask.shape
        self.ones = like.mask.new_ones(count, 1, places)
        self.minus = like.mask.new_full((), -1.0).expand(count, places, 1)
        self.strength = torch.as_tensor(descent.strength, dtype=like.mask.dtype)
        self.velocity = zeros_like(params) if descent.momentum else None
        # With momentum the weights' place is taken by the velocity, which then moves the weights.
        self.moved = self.views if self.velocity is None else _views(layers, self.velocity)
        self.rate = -descent.learning_rate if self.velocity is None else 1.0

    def step(self, batch: Batch) -> None:
        """Take one step of SGD in place."""
        marks = batch.marks
        padding = None if marks.padding is None else marks.padding.unsqueeze(2)
        inputs = _forward(self.views, batch.inputs)
        deltas = self._backward(inputs, self._output_gradient(inputs[-1], batch), padding)
        if self.descent.anchor is not None:
            self._pull(self.descent.anchor, marks.resting)
        elif self.velocity is not None:
            for value in self.velocity.values():
                value.mul_(self.descent.momentum)
        for moved, before, delta in zip(self.moved, inputs, deltas, strict=False):
            moved.weight.baddbmm_(delta.mT, before, alpha=self.rate)
            if moved.bias is not None:
                moved.bias.baddbmm_(self.ones, delta, alpha=self.rate)  # the sum over examples, in one call
        if self.velocity is not None:
            self._move(self.velocity, marks.resting)

    def _output_gradient(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the gradient of every task's mean loss by its outputs, [C, n, K]."""
        if self.problem.loss == "cross-entropy":
            delta = torch.softmax(outputs, dim=2).scatter_add_(2, batch.targets.unsqueeze(2), self.minus)
        else:
            delta = outputs - batch.targets.reshape(outputs.shape)
        return delta.mul_(batch.marks.share.unsqueeze(2))

    def _backward(self, inputs: list[Tensor], delta: Tensor, padding: Tensor | None) -> list[Tensor]:
        """Return the gradient by every layer's outputs, from the weights as they were in the forward pass."""
        if padding is not None:
            # Zero times infinity is NaN: padding has to be set to zero, or a task's own overflow on made-up examples
            # would decide whether it counts, depending on who else is in the cohort.
            for values in (delta, *inputs[1:-1]):
                values.masked_fill_(padding, 0.0)
        deltas = [delta]
        for position in range(len(self.views) - 1, 0, -1):
            delta = _threshold_backward(torch.bmm(delta, self.views[position].weight), inputs[position], 0)
            if padding is not None:
                delta.masked_fill_(padding, 0.0)
            deltas.insert(0, delta)
        return deltas

    def _pull(self, anchor: Params, resting: Tensor | None) -> None:
        for name, value in self.params.items():
            if self.velocity is None:
                _towards(value, anchor[name], self.descent.learning_rate * self.strength, resting)
            else:
                velocity = self.velocity[name].mul_(self.descent.momentum)
                velocity.addcmul_(value - anchor[name], per_task(self.strength, value))

    def _move(self, velocity: Params, resting: Tensor | None) -> None:
        for name, value in self.params.items():
            change = velocity[name]
            if resting is not None:
                change = change.masked_fill(per_task(resting, value), 0.0)
            value.sub_(change, alpha=self.descent.learning_rate)


def _towards(value: Tensor, anchor: Tensor, rate: Tensor, resting: Tensor | None) -> None:
    """Move in place by ``rate * (anchor - value)``, [C] or one for all; exactly nowhere at the anchor or at rest."""
    rate = per_task(rate, value)
    if resting is None:
        value.lerp_(anchor.expand_as(value), rate)
    else:
        value.copy_(torch.where(per_task(resting, value), value, value.lerp(anchor.expand_as(value), rate)))
