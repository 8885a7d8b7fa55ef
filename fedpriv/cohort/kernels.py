"""Hand-batched steps for fully connected networks: the fastest engine where it applies.

Autograd allocates and walks over every task's weights several times in each step. Here both passes are batched matrix
products over the task axis, and the gradient is added to the weights in the product that makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedpriv.cohort.cohort import Batch
from fedpriv.cohort.engine import VmapEngine, average
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.trees import Params

__all__ = ["KernelEngine"]


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class _Layer:
    """One linear layer of a chain, and whether a ReLU follows."""

    name: str
    bias: bool
    relu: bool


class KernelEngine(VmapEngine):
    """Hand-batched kernels for chains of Flatten, Linear and ReLU; vmap for every other model."""

    name = "auto"

    def __init__(self) -> None:
        # Walking over a model costs as much as a step of a small chunk; a node has one model.
        self._known: tuple[nn.Module, int, list[_Layer] | None] | None = None

    def _layers(self, problem: Problem, batch: Batch) -> list[_Layer] | None:
        model, axes = problem.model, batch.inputs.dim()
        if self._known is None or self._known[0] is not model or self._known[1] != axes:
            self._known = (model, axes, _chain(model, axes))
        return self._known[2]

    def step(  # noqa: D102
        self,
        problem: Problem,
        params: Params,
        batch: Batch,
        learning_rate: float,
        anchor: Params | None = None,
        strength: float | Tensor = 0.0,
        velocity: Params | None = None,
        momentum: float = 0.0,
    ) -> None:
        layers = self._layers(problem, batch)
        if layers is None:
            super().step(problem, params, batch, learning_rate, anchor, strength, velocity, momentum)
            return
        strength = torch.as_tensor(strength, dtype=batch.mask.dtype)
        padding = batch.mask == 0
        padded = bool(padding.any())
        awake = batch.sizes > 0
        resting = None if bool(awake.all()) else ~awake
        inputs = _forward(layers, params, batch.inputs)
        delta = _output_gradient(problem, inputs.pop(), batch)
        if padded:
            # Zero times infinity is NaN: padding has to be set to zero, or a task's own overflow on made-up examples
            # would decide whether it counts, depending on who else is in the cohort.
            for values in (delta, *inputs[1:]):
                values.masked_fill_(padding.unsqueeze(2), 0.0)
        # With momentum the weights' place is taken by the velocity, which then moves the weights.
        moved, rate = (params, -learning_rate) if velocity is None else (velocity, 1.0)
        for position in range(len(layers) - 1, -1, -1):
            layer, before = layers[position], inputs[position]
            name = f"{layer.name}.weight"
            # The way back needs the weights as they were in the forward pass: before anything is added to them.
            below = torch.bmm(delta, params[name]).mul_(before > 0) if position else delta
            if padded and position:
                below.masked_fill_(padding.unsqueeze(2), 0.0)
            for key in (name, f"{layer.name}.bias")[: 1 + layer.bias]:
                if velocity is not None:
                    velocity[key].mul_(momentum)
                if anchor is not None and velocity is None:
                    _towards(params[key], anchor[key], learning_rate * strength, resting)
                elif anchor is not None and velocity is not None:
                    velocity[key].addcmul_(params[key] - anchor[key], _per_task(strength, params[key]))
            moved[name].baddbmm_(delta.mT, before, alpha=rate)
            if layer.bias:
                moved[f"{layer.name}.bias"].add_(delta.sum(dim=1), alpha=rate)
            delta = below
        if velocity is not None:
            for name, value in params.items():
                change = velocity[name]
                if resting is not None:
                    change = change.masked_fill(_per_task(resting, value), 0.0)
                value.sub_(change, alpha=learning_rate)

    def scores(self, problem: Problem, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:  # noqa: D102
        layers = self._layers(problem, batch)
        if layers is None:
            return super().scores(problem, params, batch)
        with torch.no_grad():
            outputs = _forward(layers, params, batch.inputs)[-1]
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
            found.append(_Layer(name, module.bias is not None, relu=False))
        elif type(module) is nn.ReLU and found and not found[-1].relu:
            found[-1] = _Layer(name=found[-1].name, bias=found[-1].bias, relu=True)
        elif type(module) is nn.Flatten and not found and (module.start_dim, module.end_dim) == (1, -1):
            flat = axes >= 3
        else:
            return None
    if not flat or not found or found[-1].relu or not all(layer.relu for layer in found[:-1]):
        return None
    expected = [f"{layer.name}.{kind}" for layer in found for kind in ("weight", "bias")[: 1 + layer.bias]]
    changed = any("forward" in vars(module) or any(map(vars(module).get, _HOOKS)) for module in model.modules())
    # Weights that two layers share would be missing here: autograd adds up their gradients, these kernels do not.
    return None if changed or {name for name, _ in model.named_parameters()} != set(expected) else found


def _forward(layers: list[_Layer], params: Params, examples: Tensor) -> list[Tensor]:
    """Return the input of every layer and the outputs [C, n, K]."""
    values = [examples.flatten(2)]
    for layer in layers:
        weight = params[f"{layer.name}.weight"].mT
        if layer.bias:
            made = torch.baddbmm(params[f"{layer.name}.bias"].unsqueeze(1), values[-1], weight)
        else:
            made = torch.bmm(values[-1], weight)
        values.append(made.relu_() if layer.relu else made)
    return values


def _output_gradient(problem: Problem, outputs: Tensor, batch: Batch) -> Tensor:
    """Return the gradient of every task's mean loss by its outputs, [C, n, K]."""
    if problem.loss == "cross-entropy":
        delta = torch.softmax(outputs, dim=2)
        classes = batch.targets.unsqueeze(2)
        delta.scatter_add_(2, classes, delta.new_full((), -1.0).expand(classes.shape))
    else:
        delta = outputs - batch.targets.reshape(outputs.shape)
    share = batch.mask / batch.sizes.clamp(min=1.0).unsqueeze(1)
    return delta.mul_(share.unsqueeze(2))


def _towards(value: Tensor, anchor: Tensor, rate: Tensor, resting: Tensor | None) -> None:
    """Move in place by ``rate * (anchor - value)``, [C] or one for all; exactly nowhere at the anchor or at rest."""
    rate = _per_task(rate, value)
    if resting is None:
        value.lerp_(anchor.expand_as(value), rate)
    else:
        value.copy_(torch.where(_per_task(resting, value), value, value.lerp(anchor.expand_as(value), rate)))


def _per_task(values: Tensor, like: Tensor) -> Tensor:
    """Return one number per task [C] in a shape that multiplies [C, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))
