"""Backpropagation in numbers whose parts are derivatives: what convolutional games are differentiated with.

Such a number with its derivatives is a jet. Both attacks need the slope of ``<v, G(x)>`` by the guessed inputs ``x``,
where ``G`` is a gradient of second order and ``v`` does not depend on ``x``. Weights ``W + e1 W1 + e2 W2 + e1 e2 W12``
with ``e1 e1 = e2 e2 = 0`` carry directions along: the part at ``e1`` of an ordinary backpropagation is a Hessian times
``W1``, and the part at ``e1 e2`` of the gradient by the inputs is the slope. Nothing is kept for autograd, and every
part is made once.

A part of a product is the sum, over the ways to share its directions between the factors, of the products of parts.

References
----------
Pearlmutter: Fast Exact Multiplication by the Hessian. Neural Computation 6, 1994.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedpriv.adversary.chain import Chain, Layer
from fedpriv.cohort import Problem

__all__ = ["BOTH", "FIRST", "PLAIN", "SECOND", "Passes"]

PLAIN, FIRST, SECOND, BOTH = 0, 1, 2, 3
"""The parts: without a direction, at ``e1``, at ``e2``, at ``e1 e2``; bits tell the directions."""

_Parts = dict[int, Tensor]


class Passes:
    """Forward and backward passes of one set of examples per game, one part at a time.

    Parameters
    ----------
    chain : Chain
        The network.
    problem : Problem
        Whose loss.
    rows : Tensor, [G, r, height]
        The examples, see :meth:`Chain.rows`.
    targets : Tensor
        What to predict, [G, n] classes or [G, n, ...] values.
    """

    def __init__(self, chain: Chain, problem: Problem, rows: Tensor, targets: Tensor) -> None:
        self._layers = [_Step(layer) for layer in chain.layers]
        self._layers[0].rows[PLAIN] = rows
        self._chain, self._games = chain, len(targets)
        ends: dict[str, type[_CrossEntropy | _SquaredError]] = {
            "cross-entropy": _CrossEntropy,
            "squared": _SquaredError,
        }
        self._end = ends[problem.loss](targets)

    def extend(self, part: int, flat: Tensor) -> None:
        """Make one part of everything; ``flat`` [G or 1, P] is that part of the weights.

        The parts without some of its directions have to be there: plain before all others, both directions last.
        """
        values = flat
        for step, weight in zip(self._layers, self._chain.unpack(flat), strict=True):
            step.weights[part] = weight
            if step is not self._layers[0]:
                step.rows[part] = step.layer.rows(values, self._games, 1.0 if part == PLAIN else 0.0)
            values = step.forward(part)
        above = self._end.slope(part, values)
        for step in reversed(self._layers):
            step.backward(part, above)
            if step is not self._layers[0]:
                above = step.below(part)

    def by_weights(self, part: int) -> Tensor:
        """Return this part of the gradients by the weights, [G, P]."""
        return torch.cat([step.by_weights(part).flatten(1) for step in self._layers], dim=1)

    def by_inputs(self, part: int) -> Tensor:
        """Return this part of the gradients by the images, [G, n, c, H, W]."""
        below = self._layers[0].below(part)
        height, width, channels = self._layers[0].layer.images
        return below.view(self._games, -1, height, width, channels).movedim(-1, 2)


class _Step:
    """The parts of one layer."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.weights: _Parts = {}
        self.rows: _Parts = {}
        self._turned: _Parts = {}
        self._windows: _Parts = {}
        self._deltas: _Parts = {}  # adjoints of the product
        self._follows = None if layer.follows is None else _ActivationParts(layer.follows)

    def forward(self, part: int) -> Tensor:
        """Return this part of what the layer gives, [G, r, out]."""
        made = _products([(self.rows[one], self.weights[other]) for one, other in _splits(part) if one in self.rows])
        return made if self._follows is None else self._follows.forward(part, made)

    def backward(self, part: int, above: Tensor) -> None:
        """Take the adjoint of what :meth:`forward` gave."""
        self._deltas[part] = above if self._follows is None else self._follows.backward(part, above)

    def below(self, part: int) -> Tensor:
        """Return this part of the adjoint of what came in, [G, r, channels]."""
        for one, _ in _splits(part):
            if one not in self._windows:  # of the first layer nobody asks until the last part
                self._windows[one] = self.layer.adjoint_windows(self._deltas[one])
                self._turned[one] = self.layer.turned(self.weights[one])
        return self.layer.pixels(_products([(self._windows[one], self._turned[other]) for one, other in _splits(part)]))

    def by_weights(self, part: int) -> Tensor:
        """Return this part of the gradient by the weights, [G, height, out]."""
        pairs = [(self.rows[one].mT, self._deltas[other]) for one, other in _splits(part) if one in self.rows]
        return _products(pairs)


class _ActivationParts:
    """The parts of what follows a layer, and of its slopes.

    The slope of a tanh is ``1 - f f``, that of a sigmoid ``f - f f``: its parts follow from those of the values. The
    slope of a ReLU has no part but the plain one.
    """

    def __init__(self, kind: type[nn.Module]) -> None:
        self._kind = kind
        self._values: _Parts = {}
        self._slopes: _Parts = {}
        self._above: _Parts = {}
        self._second: Tensor  # a part of the slopes by the same part of the values
        self._before: Tensor  # the second part of what came in, for both directions

    def forward(self, part: int, before: Tensor) -> Tensor:
        """Return this part of the values; ``before`` may be written to."""
        if part == PLAIN:
            return self._begin(before)
        slopes = self._slopes
        if part == SECOND:
            self._before = before
            value = before * slopes[PLAIN]
        else:
            value = before.mul_(slopes[PLAIN])
        if self._kind is not nn.ReLU:
            if part == BOTH:
                value.addcmul_(slopes[FIRST], self._before)
            slopes[part] = self._second * value
            if part == BOTH:
                slopes[BOTH].addcmul_(self._values[FIRST], self._values[SECOND], value=-2.0)
            self._values[part] = value
        return value

    def backward(self, part: int, above: Tensor) -> Tensor:
        """Return this part of the adjoint of what came in."""
        self._above[part] = above
        made = above * self._slopes[PLAIN]
        for one, other in _splits(part):
            if other != PLAIN and other in self._slopes:
                made.addcmul_(self._above[one], self._slopes[other])
        return made

    def _begin(self, before: Tensor) -> Tensor:
        if self._kind is nn.ReLU:
            self._slopes[PLAIN] = (before > 0).to(before.dtype)
            return before.relu_()
        if self._kind is nn.Tanh:
            value = before.tanh_()
            self._slopes[PLAIN] = value.square().neg_().add_(1.0)
            self._second = value * -2.0
        else:
            value = before.sigmoid_()
            self._slopes[PLAIN] = torch.addcmul(value, value, value, value=-1.0)
            self._second = 1.0 - 2.0 * value
        return value


class _CrossEntropy:
    """The parts of the gradient of the mean cross-entropy by the outputs, [G, n, K]."""

    def __init__(self, targets: Tensor) -> None:
        self._targets = targets.long()
        self._outputs: _Parts = {}
        self._chances: _Parts = {}

    def slope(self, part: int, outputs: Tensor) -> Tensor:
        """Return one part, from that part of the outputs."""
        chances, share = self._chances, 1.0 / outputs.shape[1]
        self._outputs[part] = outputs
        if part == PLAIN:
            chances[PLAIN] = torch.softmax(outputs, dim=2)
            minus = outputs.new_full((), -1.0).expand(*self._targets.shape, 1)
            return chances[PLAIN].scatter_add(2, self._targets.unsqueeze(2), minus).mul_(share)
        made = chances[PLAIN] * (outputs - _mean(chances[PLAIN], outputs))
        if part == BOTH:
            first, second = self._outputs[FIRST], chances[SECOND]
            made += second * (first - _mean(chances[PLAIN], first)) - chances[PLAIN] * _mean(second, first)
        chances[part] = made
        return made * share


class _SquaredError:
    """The same of half the squared error, summed over outputs and averaged over examples."""

    def __init__(self, targets: Tensor) -> None:
        self._targets = targets

    def slope(self, part: int, outputs: Tensor) -> Tensor:
        """Return one part, from that part of the outputs."""
        moved = outputs - self._targets.reshape(outputs.shape) if part == PLAIN else outputs
        return moved / outputs.shape[1]


def _splits(part: int) -> list[tuple[int, int]]:
    """Return the ways to share the directions of a part between two factors."""
    return [(one, part - one) for one in range(part + 1) if one & part == one]


def _products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the sum of the products of rows [G, r, k] and weights [G or 1, k, out]."""
    rows, weight = pairs[0]
    if len(weight) == 1:  # those of all games: one large product
        made = torch.mm(rows.flatten(0, 1), weight[0]).view(*rows.shape[:2], -1)
    else:
        made = torch.bmm(rows, weight)
    for rows, weight in pairs[1:]:
        if len(weight) == 1:
            made.view(-1, made.shape[2]).addmm_(rows.flatten(0, 1), weight[0])
        else:
            made.baddbmm_(rows, weight)
    return made


def _mean(chances: Tensor, values: Tensor) -> Tensor:
    return (chances * values).sum(dim=2, keepdim=True)
