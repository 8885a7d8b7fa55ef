"""Chains of linear layers and ReLU: what makes one, and its steps as batched products over the task axis.

Autograd allocates and walks over every task's weights several times in each step. Here both passes are batched matrix
products over the task axis, and the gradient is added to the weights in the product that makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedpriv.cohort.cohort import Batch
from fedpriv.cohort.descent import Descent, per_task
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.trees import Params, zeros_like

__all__ = ["POINTWISE", "Chain", "Layer", "forward", "layers_of", "untouched", "views_of"]


_threshold_backward = torch.ops.aten.threshold_backward
"""The gradient behind a ReLU, as autograd takes it: one pass, where a comparison and a product are two."""

POINTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.GELU, nn.SiLU)
"""Layers that treat every number alike, and can be differentiated twice."""

_VECTOR_NUMBERS = 16
"""Numbers that a processor of today treats at once."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Layer:
    """One linear layer of a chain, and whether a ReLU follows."""

    weight: str
    bias: str | None
    relu: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Of its parameters."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def layers_of(model: nn.Module, axes: int) -> list[Layer] | None:
    """Return the linear layers of a fully connected network, or None for any other.

    ``axes`` counts those of the examples [C, n, ...]: a linear layer without Flatten maps the last one only.
    """
    if type(model) is not nn.Sequential:
        return None
    found: list[Layer] = []
    flat = axes == 3
    for name, module in model._modules.items():  # named_children would skip a module that occurs twice
        if type(module) is nn.Linear:
            bias = None if module.bias is None else f"{name}.bias"
            found.append(Layer(f"{name}.weight", bias, relu=False))
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
    """Tell whether a chain computes what its layers say, with these parameters: none shared by two layers, none frozen.

    Weights that are shared would be missing: autograd adds up their gradients, hand-batched code does not. Frozen ones
    are no part of what tasks train.
    """
    changed = any("forward" in vars(module) or any(map(vars(module).get, _HOOKS)) for module in model.modules())
    return not changed and {name for name, value in model.named_parameters() if value.requires_grad} == expected


@dataclass(frozen=True)
class View:
    """What one layer is computed with, for a tile of C tasks: making a view costs as much as a small product."""

    weight: Tensor  # [C, out, in]
    transposed: Tensor  # [C, in, out]
    bias: Tensor | None  # [C, 1, out]
    relu: bool


def views_of(layers: list[Layer], params: Params) -> list[View]:
    """Return what the layers are computed with, from parameters [C, ...]."""
    return [
        View(
            params[layer.weight],
            params[layer.weight].mT,
            None if layer.bias is None else params[layer.bias].unsqueeze(1),
            layer.relu,
        )
        for layer in layers
    ]


def forward(views: list[View], examples: Tensor) -> list[Tensor]:
    """Return the input of every layer and the outputs [C, n, K]."""
    values = [examples.flatten(2)]
    for view in views:
        if view.bias is None:
            made = torch.bmm(values[-1], view.transposed)
        else:
            made = torch.baddbmm(view.bias, values[-1], view.transposed)
        values.append(made.relu_() if view.relu else made)
    return values


class Chain:
    """One tile of tasks on its way down.

    ``like`` is a batch in the shape of all. Where its examples come from a layer below, ``inner`` asks for what that
    layer needs: the gradient by them.
    """

    def __init__(
        self,
        layers: list[Layer],
        problem: Problem,
        params: Params,
        descent: Descent,
        like: Batch,
        *,
        inner: bool = False,
    ) -> None:
        self.problem, self.params, self.descent, self.inner = problem, params, descent, inner
        self.views = views_of(layers, params)
        count, places = like.mask.shape
        self.ones = like.mask.new_ones(count, 1, places)
        self.minus = like.mask.new_full((), -1.0).expand(count, places, 1)
        self.strength = torch.as_tensor(descent.strength, dtype=like.mask.dtype)
        self.velocity = zeros_like(params) if descent.momentum else None
        # With momentum the weights' place is taken by the velocity, which then moves the weights.
        self.moved = self.views if self.velocity is None else views_of(layers, self.velocity)
        self.rate = -descent.learning_rate if self.velocity is None else 1.0

    def step(self, batch: Batch) -> Tensor:
        """Take one step of SGD in place; return the gradient [C, n, ...] by the lowest values that have one.

        These are the examples of an inner chain, else the outputs of the first layer. The gradient is 0 on padding.
        """
        marks = batch.marks
        padding = None if marks.padding is None else marks.padding.unsqueeze(2)
        inputs = forward(self.views, batch.inputs)
        deltas = self._backward(inputs, self._output_gradient(inputs[-1], batch), padding)
        if self.descent.anchor is not None:
            self._pull(self.descent.anchor, marks.resting)
        elif self.velocity is not None:
            for value in self.velocity.values():
                value.mul_(self.descent.momentum)
        for moved, before, delta in zip(self.moved, inputs, deltas[self.inner :], strict=False):
            moved.weight.baddbmm_(delta.mT, before, alpha=self.rate)
            if moved.bias is not None:
                moved.bias.baddbmm_(self.ones, delta, alpha=self.rate)  # the sum over examples, in one call
        if self.velocity is not None:
            self._move(self.velocity, marks.resting)
        return deltas[0]

    def _output_gradient(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the gradient of every task's mean loss by its outputs, [C, n, K]."""
        if self.problem.loss == "cross-entropy":
            delta = _softmax(outputs).scatter_add_(2, batch.targets.unsqueeze(2), self.minus)
        else:
            delta = outputs - batch.targets.reshape(outputs.shape)
        return delta.mul_(batch.marks.share.unsqueeze(2))

    def _backward(self, inputs: list[Tensor], delta: Tensor, padding: Tensor | None) -> list[Tensor]:
        """Return the gradient by every layer's outputs, from the weights as they were in the forward pass."""
        if padding is not None:
            # Zero times infinity is NaN: padding has to be set to zero, or a task's own overflow on made-up examples
            # would decide whether it counts, depending on who else is in the cohort.
            for values in (delta, *inputs[1 - self.inner : -1]):
                values.masked_fill_(padding, 0.0)
        deltas = [delta]
        for position in range(len(self.views) - 1, -self.inner, -1):
            delta = _threshold_backward(torch.bmm(delta, self.views[position].weight), inputs[position], 0)
            if padding is not None:
                delta.masked_fill_(padding, 0.0)
            deltas.insert(0, delta)
        return deltas

    def _pull(self, anchor: Params, resting: Tensor | None) -> None:
        for name, value in self.params.items():
            velocity = None if self.velocity is None else self.velocity[name].mul_(self.descent.momentum)
            if name not in anchor:
                continue  # stays with the task
            if velocity is None:
                _towards(value, anchor[name], self.descent.learning_rate * self.strength, resting)
            else:
                velocity.addcmul_(value - anchor[name], per_task(self.strength, value))

    def _move(self, velocity: Params, resting: Tensor | None) -> None:
        for name, value in self.params.items():
            change = velocity[name]
            if resting is not None:
                change = change.masked_fill(per_task(resting, value), 0.0)
            value.sub_(change, alpha=self.descent.learning_rate)


def _softmax(values: Tensor) -> Tensor:
    """Return the softmax of every row of [C, n, K]; torch's own takes three times as long where rows are short."""
    if values.shape[2] > _VECTOR_NUMBERS:
        return torch.softmax(values, dim=2)
    found = (values - values.amax(dim=2, keepdim=True)).exp_()
    return found.div_(found.sum(dim=2, keepdim=True))


def _towards(value: Tensor, anchor: Tensor, rate: Tensor, resting: Tensor | None) -> None:
    """Move in place by ``rate * (anchor - value)``, [C] or one for all; exactly nowhere at the anchor or at rest."""
    rate = per_task(rate, value)
    if resting is None:
        value.lerp_(anchor.expand_as(value), rate)
    else:
        value.copy_(torch.where(per_task(resting, value), value, value.lerp(anchor.expand_as(value), rate)))
