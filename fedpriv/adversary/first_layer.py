"""The first fully connected layer: what it gives away without any optimisation, and how not to build its gradient.

Its gradient is a sum of few outer products, one of each example, in the support set as in the query set. So inner
products and norms need the factors only, and the attack never touches a gradient as large as the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedpriv.cohort import Batch, InnerLoop, Params, Problem, broadcast
from fedpriv.cohort.fast.chain import POINTWISE, untouched

__all__ = ["FirstLayer", "class_counts", "first_layer_inputs"]


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


@dataclass(frozen=True)
class FirstLayer:
    """A chain that begins with a linear layer with a bias, and the seen gradients at unit length.

    The first layer's weights enter a meta-gradient only through the pre-activations ``z = x W + b`` of support and
    query examples at the billboard: adapting moves those of a query example by ``-rate * sum_n (x_q x_n + 1) delta_n``.
    With the derivatives ``d`` by all of them, the layer's gradient is the sum of ``d x`` over both sets.
    """

    problem: Problem
    weight: Tensor  # [out, in]
    bias: Tensor  # [out]
    rest: Params  # each [G, ...], to be differentiated by
    steps: tuple[tuple[str, nn.Module], ...]
    seen_weight: Tensor  # [G, out, in]
    seen_bias: Tensor  # [G, out]
    seen_rest: Params  # each [G, ...]

    @classmethod
    def of(cls, problem: Problem, billboard: Params, seen: Params) -> FirstLayer | None:
        """Return None for models that do not begin like this; the seen gradients are of length 1."""
        model = problem.model
        parts = list(model._modules.items()) if type(model) is nn.Sequential else []
        head = parts[0][1] if parts else None
        if type(head) is nn.Flatten and (head.start_dim, head.end_dim) == (1, -1):
            parts = parts[1:]
        if not parts or type(parts[0][1]) is not nn.Linear or parts[0][1].bias is None:
            return None
        first, steps = parts[0][0], tuple((name, module) for name, module in parts[1:] if module is not None)
        layers = [(name, module) for name, module in parts if module is not None]
        expected = {f"{name}.{own}" for name, module in layers for own, _ in module.named_parameters()}
        plain = all(type(module) is nn.Linear or type(module) in POINTWISE for _, module in steps)
        if not plain or not untouched(model, expected):
            return None
        own = (f"{first}.weight", f"{first}.bias")
        if not set(own) <= set(seen):  # an array that starts from zero is not sent
            return None
        count = len(next(iter(seen.values())))
        unit = dict(seen)
        rest = {name: value for name, value in broadcast(billboard, count).items() if name not in own}
        return cls(
            problem,
            billboard[own[0]],
            billboard[own[1]],
            {name: value.detach().requires_grad_() for name, value in rest.items()},
            steps,
            unit.pop(own[0]),
            unit.pop(own[1]),
            unit,
        )

    def query_cosine(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cosines [G] for guessed query sets [G, n, ...], with the billboard's parameters."""
        x = inputs.flatten(2)
        z = nn.functional.linear(x, self.weight, self.bias)
        if not z.requires_grad:
            z.requires_grad_()
        with torch.enable_grad():
            delta, rest = self._slopes(self._loss(self.rest, z, labels), [z], self.rest)
        return self._cosine(x, delta[0], rest)

    def support_cosine(self, inputs: Tensor, labels: Tensor, query: Batch, inner: InnerLoop) -> Tensor:
        """Return the cosines [G] for guessed support sets [G, n, ...], after one step of adaptation."""
        x, known = inputs.flatten(2), query.inputs.flatten(2)
        z = nn.functional.linear(x, self.weight, self.bias)
        if not z.requires_grad:
            z.requires_grad_()
        start = nn.functional.linear(known, self.weight, self.bias).requires_grad_()
        with torch.enable_grad():
            (delta,), slopes = self._slopes(self._loss(self.rest, z, labels), [z], self.rest)
            near = torch.bmm(known, x.mT) + 1.0
            moved = start - inner.learning_rate * torch.bmm(near, delta)
            adapted = {name: value - inner.learning_rate * slopes[name] for name, value in self.rest.items()}
            loss = self._loss(adapted, moved, query.targets)
            if inner.order == "first":
                (late,), rest = self._slopes(loss, [moved], adapted)
                return self._cosine(known, late, rest)
            found, rest = self._slopes(loss, [z, start], self.rest)
            return self._cosine(torch.cat([x, known], dim=1), torch.cat(found, dim=1), rest)

    def _loss(self, params: Params, values: Tensor, labels: Tensor) -> Tensor:
        for name, module in self.steps:
            if isinstance(module, nn.Linear):
                values = torch.bmm(values, params[f"{name}.weight"].mT)
                if module.bias is not None:
                    values = values + params[f"{name}.bias"].unsqueeze(1)
            else:
                values = module(values)
        loss, _ = self.problem.judge(values.flatten(0, 1), labels.flatten(0, 1))
        return loss.view(labels.shape[:2]).mean(dim=1).sum()

    @staticmethod
    def _slopes(loss: Tensor, by: list[Tensor], params: Params) -> tuple[list[Tensor], Params]:
        found = torch.autograd.grad(loss, [*by, *params.values()], create_graph=True, materialize_grads=True)
        return list(found[: len(by)]), dict(zip(params, found[len(by) :], strict=True))

    def _cosine(self, x: Tensor, delta: Tensor, rest: Params) -> Tensor:
        """Compare the sum of outer products of ``delta`` and ``x``, both [G, n, ...], and the rest with the seen."""
        bias = delta.sum(dim=1)
        inner = (delta * torch.bmm(x, self.seen_weight.mT)).sum(dim=(1, 2)) + (bias * self.seen_bias).sum(dim=1)
        square = (torch.bmm(delta, delta.mT) * torch.bmm(x, x.mT)).sum(dim=(1, 2)) + bias.square().sum(dim=1)
        for name, seen in self.seen_rest.items():
            inner = inner + (rest[name] * seen).flatten(1).sum(dim=1)
            square = square + rest[name].square().flatten(1).sum(dim=1)
        return inner / square.clamp_min(1e-24).sqrt()
