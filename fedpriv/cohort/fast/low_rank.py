"""Meta-gradients of fully connected networks from shared parameters, without a copy of the weights for each task.

A step on s support examples moves a weight by a matrix of rank s: the products of each example's input with the
gradient by its output. So what a layer gives after the step follows from the shared weight and from those few vectors,
and nothing as large as the weights is made for a task but the meta-gradient itself, by one matrix product at the end.
The memory traffic of per-task weights is what limits the general way (:mod:`fedpriv.cohort.meta`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedpriv.cohort.cohort import Batch
from fedpriv.cohort.engine import mean_losses
from fedpriv.cohort.fast.chain import Layer
from fedpriv.cohort.inner_loop import InnerLoop
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.trees import Params

__all__ = ["low_rank_meta_gradient", "shared"]


@dataclass
class _Layer:
    """One layer of all tasks: the shared weight, how far each task has moved, and where the weight was used.

    The task's weight is ``weight - rate * sum of outer(deltas, inputs)``. Every use of ``weight`` is a product of one
    side with it; its gradient is the outer product of the other side's adjoint with that side.
    """

    weight: Tensor  # [C, out, in], one memory for all
    bias: Tensor | None  # [C, 1, out], likewise
    relu: bool
    rate: float
    inputs: list[Tensor] = field(default_factory=list)  # [C, s, in]
    deltas: list[Tensor] = field(default_factory=list)  # [C, s, out]
    forward_uses: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # input [C, n, in], output [C, n, out]
    backward_uses: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # delta [C, n, out], result [C, n, in]

    def forward(self, examples: Tensor) -> Tensor:
        """Return the outputs before the ReLU."""
        base = torch.bmm(examples, self.weight.mT)
        if self.bias is not None:
            base = base + self.bias
        self.forward_uses.append((examples, base))
        for inputs, deltas in zip(self.inputs, self.deltas, strict=True):
            base = base - self.rate * torch.bmm(torch.bmm(examples, inputs.mT), deltas)
            if self.bias is not None:
                base = base - self.rate * deltas.sum(dim=1, keepdim=True)
        return base

    def backward(self, delta: Tensor) -> Tensor:
        """Return the gradient by the inputs."""
        base = torch.bmm(delta, self.weight)
        self.backward_uses.append((delta, base))
        for inputs, deltas in zip(self.inputs, self.deltas, strict=True):
            base = base - self.rate * torch.bmm(torch.bmm(delta, deltas.mT), inputs)
        return base


def shared(params: Params) -> bool:
    """Tell whether all tasks have the same parameters: one memory, seen [C, ...]."""
    return all(value.dim() and (value.stride(0) == 0 or len(value) == 1) for value in params.values())


def low_rank_meta_gradient(
    chain: Sequence[Layer],
    problem: Problem,
    params: Params,
    support: Batch,
    query: Batch,
    inner: InnerLoop,
    *,
    create_graph: bool,
) -> tuple[Params, Tensor]:
    """Return meta-gradients [C, ...] and query losses [C], as :func:`fedpriv.cohort.meta.meta_gradient` does.

    Parameters
    ----------
    chain : sequence of Layer
        The network.
    problem, params, support, query
        Loss; shared parameters seen [C, ...]; both sets.
    inner : InnerLoop
        How tasks adapt, and of which order the gradients are.
    create_graph : bool
        Whether the result can be differentiated by the inputs.
    """
    through = inner.order == "second"
    layers = [
        _Layer(
            params[one.weight].detach().requires_grad_(),  # so that torch keeps track; nobody asks for its gradient
            None if one.bias is None else params[one.bias].detach().unsqueeze(1),
            one.relu,
            inner.learning_rate,
        )
        for one in chain
    ]
    with torch.enable_grad():
        for _ in range(inner.steps):
            _step(layers, problem, support, keep=through or create_graph)
        if not through:  # by the adapted weights: only what the query set does with them counts
            for layer in layers:
                layer.forward_uses.clear()
                layer.backward_uses.clear()
        values = query.inputs.flatten(2)
        for layer in layers:
            values = layer.forward(values)
            values = torch.relu(values) if layer.relu else values
        losses = mean_losses(problem, values, query)
        made = [use[1] for layer in layers for use in (*layer.forward_uses, *layer.backward_uses)]
        adjoints = list(torch.autograd.grad(losses.sum(), made, create_graph=create_graph, materialize_grads=True))
        gradient: Params = {}
        for one, layer in zip(chain, layers, strict=True):
            count = len(layer.forward_uses)
            outputs, adjoints = adjoints[:count], adjoints[count:]
            results, adjoints = adjoints[: len(layer.backward_uses)], adjoints[len(layer.backward_uses) :]
            left = torch.cat([*outputs, *(delta for delta, _ in layer.backward_uses)], dim=1)
            right = torch.cat([*(examples for examples, _ in layer.forward_uses), *results], dim=1)
            if not create_graph:
                left, right = left.detach(), right.detach()
            gradient[one.weight] = torch.bmm(left.mT, right)
            if one.bias is not None:
                gradient[one.bias] = torch.cat(outputs, dim=1).sum(dim=1)
    ordered = {name: gradient[name] if create_graph else gradient[name].detach() for name in params}
    return ordered, losses if create_graph else losses.detach()


def _step(layers: list[_Layer], problem: Problem, support: Batch, *, keep: bool) -> None:
    """Take one step of every task on its support set; ``keep`` the graph of it."""
    values, signs = [support.inputs.flatten(2)], []
    for layer in layers:
        before = layer.forward(values[-1])
        signs.append(before.detach() > 0 if layer.relu else None)
        values.append(torch.relu(before) if layer.relu else before)
    delta = _output_delta(problem, values[-1], support) * support.marks.share.unsqueeze(2)
    moves: list[tuple[Tensor, Tensor]] = []
    for position in range(len(layers) - 1, -1, -1):
        moves.append((values[position], delta))
        if position:
            sign = signs[position - 1]
            delta = layers[position].backward(delta)
            delta = delta if sign is None else delta * sign
    for layer, (inputs, move) in zip(reversed(layers), moves, strict=True):
        layer.inputs.append(inputs if keep else inputs.detach())
        layer.deltas.append(move if keep else move.detach())


def _output_delta(problem: Problem, outputs: Tensor, batch: Batch) -> Tensor:
    """Return the gradient of each example's loss by its outputs, [C, n, K]; padding keeps its place."""
    if problem.loss == "cross-entropy":
        wanted = torch.zeros_like(outputs).scatter_(2, batch.targets.unsqueeze(2), 1.0)
        return torch.softmax(outputs, dim=2) - wanted
    return outputs - batch.targets.reshape(outputs.shape)
