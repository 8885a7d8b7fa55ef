"""The first layer of a fully connected network, in the span of a task's own examples.

A step of SGD moves the first layer's weights by a combination of the examples in its mini-batch, so after any number of
steps they are ``W = W0 - rate * D^T X``, with one row of ``D`` per example: the sum of the gradients by the layer's
outputs at that example. What the layer gives at a mini-batch ``r`` follows without ever making ``W``:

    X[r] W^T = (X W0^T)[r] - rate * (X X^T)[r] D.

So each task needs one product with ``W0`` before its first step and one with ``X`` after its last, on its own rows
where they lie, and steps in between as wide as its number of examples instead of the number of its inputs. The inner
products ``X X^T`` follow from data alone and are kept from round to round, as many as fit. A pull towards an anchor
shrinks ``D`` in every step and moves ``W0`` along the line to the anchor, by what is known before the first step.

Inner products are as exact as the steps they replace. Only where steps are so long that training diverges, on float32
inputs whose common offset is thousands of times their spread, do they lose more. Examples may not be overwritten while
an engine holds products of them.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.cohort.cohort import Batch, Cohort, padded_width
from fedpriv.cohort.descent import Descent, per_task
from fedpriv.cohort.fast.chain import Chain, Layer
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.tasks import Ragged
from fedpriv.cohort.trees import Params

__all__ = ["Examples", "bytes_in_span", "descend_in_span", "span_widths"]

_MIN_FACTOR = 1e-30
"""What is left of a start after so many pulls that nothing depends on it any more."""
_KEPT_BYTES = 2**28
"""Of inner products that an engine keeps; tasks that come when these are full have theirs computed in every round."""

# Costs in units of a multiplication and addition within a large product, 32 ps on the core where they were measured.
_STEP_COST = 30
"""What a step adds per weight to its two products, because its mini-batch does not fill the processor."""

_MEMORY_COST = 40
"""What it takes to bring an input of an example, or a weight's change, from memory."""

_TASK_COST = 1e6
"""What the calls cost that are made for a single task."""

_MAX_EXAMPLES = 1024
"""Tasks with more examples go by mini-batches: the inner products of one would fill the cache."""


def span_widths(index: NDArray[np.int64], sizes: NDArray[np.int64], inputs: int, outputs: int) -> NDArray[np.int64]:
    """Choose for which tasks the span costs less; by each task's own numbers, for the same bits in any company.

    Parameters
    ----------
    index : ndarray of int64, shape [C, S, b]
        Example numbers of S mini-batches; -1 is padding.
    sizes : ndarray of int64, shape [C]
        Examples of every task.
    inputs, outputs : int
        Of the first layer.

    Returns
    -------
    ndarray of int64, shape [C]
        How many places a task's examples are padded to; 0 where mini-batches cost less.
    """
    # Eight widths from one power of two to the next: at most an eighth is padding.
    places = np.maximum(padded_width(sizes) // 16, 1)
    widths: NDArray[np.int64] = -(-sizes // places) * places
    steps, batch = (index >= 0).any(axis=2).sum(axis=1), index.shape[2]
    # Two products per step, as slow as they are thin; the mini-batch is gathered, the weights are read and written.
    thin = 1.0 * steps * inputs * (outputs * (2 * batch + _STEP_COST) + _MEMORY_COST * batch)
    # Two large products in all; the inner products, as if none were kept; one product with those per step.
    span = (
        1.0 * sizes * inputs * (2 * outputs + _MEMORY_COST + sizes)
        + 2.0 * steps * batch * widths * outputs
        + _TASK_COST
    )
    return np.where((span < thin) & (widths <= _MAX_EXAMPLES), widths, 0)


def bytes_in_span(width: int, weight: Tensor) -> int:
    """Return the size of a task that decides about tiles, with a first layer whose weights are [C, h, d].

    What the steps of a task touch; the weights count half, because they are written once. So many tasks of little data
    share a tile that calls cost little, and a tile is still smaller than a cohort.
    """
    return max(width * (width + 2 * weight.shape[1]) * weight.element_size(), weight[:1].nbytes // 2)


class Examples:
    """The examples of all tasks as matrices [n, d], and their inner products as far as they are kept.

    Attributes
    ----------
    data : Ragged
        The part of the tasks that this is about.
    dtype : torch.dtype
        Floating type of everything handed out.
    bias : bool
        Whether every example has one more input, which is 1: a bias is its weight.
    """

    def __init__(self, data: Ragged, dtype: torch.dtype, *, bias: bool) -> None:
        self.data, self.dtype, self.bias = data, dtype, bias
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes to it
            self._rows = torch.from_numpy(np.ascontiguousarray(data.inputs)).flatten(1)
        self._room = _KEPT_BYTES
        self._kept: dict[int, Tensor] = {}

    def matrix(self, task: int) -> Tensor:
        """Return the examples of the task at a position, [n, d]; without the input of 1."""
        rows = self._rows[self.data.rows(task)]
        return rows if rows.dtype == self.dtype else rows.to(self.dtype)

    def products(self, task: int, matrix: Tensor, width: int) -> Tensor:
        """Return the inner products of the examples of the task at a position, padded with 0 to [width, width]."""
        found = self._kept.get(task)
        if found is None:
            found = matrix.new_zeros(width, width)
            mine = found[: len(matrix), : len(matrix)]
            torch.mm(matrix, matrix.T, out=mine)
            if self.bias:
                mine += 1.0
            if found.nbytes <= self._room:
                self._room -= found.nbytes
                self._kept[task] = found
        return found


class _SpanLayer:
    """The first layer of a tile of C tasks on its way down."""

    def __init__(
        self,
        layer: Layer,
        examples: Examples,
        cohort: Cohort,
        index: NDArray[np.int64],
        width: int,
        start: Params,
        descent: Descent,
    ) -> None:
        count, steps, batch = index.shape
        self.names, self.relu, self.rate = layer.names, layer.relu, -descent.learning_rate
        self.start, self.anchor = [start[name] for name in layer.names], None
        tasks = cohort.positions.tolist()
        self.matrices = [examples.matrix(task) for task in tasks]
        self.first, self.far = self._outputs(self.start, width), None
        self.moved = torch.zeros_like(self.first)  # D
        pairs = zip(tasks, self.matrices, strict=True)
        self.products = torch.stack([examples.products(task, matrix, width) for task, matrix in pairs])
        # The task's own first example stands in for padding: what comes of it stays in the task, and is cleared.
        rows = np.maximum(index, 0) + (np.arange(count) * width)[:, None, None]
        self.rows = torch.from_numpy(np.ascontiguousarray(rows.swapaxes(0, 1)).reshape(steps, count * batch))
        self.shape = (count, batch)
        if descent.anchor is not None and layer.weight in descent.anchor:  # the whole layer, or nothing of it
            self.anchor = [descent.anchor[name].expand_as(start[name]) for name in layer.names]
            self.far = self._outputs(self.anchor, width)
            pull = torch.as_tensor(descent.learning_rate * descent.strength, dtype=torch.float64)
            works = torch.from_numpy((index >= 0).any(axis=2).T.astype(np.float64))  # [S, C]; who rests is not pulled
            keep = torch.cat([torch.ones(1, count, dtype=torch.float64), 1.0 - pull * works])[..., None, None]
            self.keep, self.gone = _rounded(keep, examples.dtype), (1.0 - keep.cumprod(dim=0)).to(examples.dtype)

    def forward(self, step: int) -> Tensor:
        """Return what the layer gives at the mini-batch of a step, [C, b, h]."""
        made = self._at(step, self.first)
        if self.far is not None:
            made.lerp_(self._at(step, self.far), self.gone[step])
        if step:
            made.baddbmm_(self._at(step, self.products), self.moved, alpha=self.rate)
        return made.relu_() if self.relu else made

    def backward(self, step: int, delta: Tensor) -> None:
        """Take the step, from the gradient [C, b, h] by the layer's outputs; zero on padding."""
        if self.far is not None:
            self.moved *= self.keep[step + 1]
        self.moved.flatten(0, 1).index_add_(0, self.rows[step], delta.flatten(0, 1))

    def write(self, params: Params) -> None:
        """Write weight and bias after the last step."""
        ends = [params[name] for name in self.names]
        starts = self.start
        if self.anchor is not None:
            gone = self.gone[-1, :, 0, 0]
            starts = [
                start.lerp(anchor, per_task(gone, start)) for start, anchor in zip(starts, self.anchor, strict=True)
            ]
        for end, start, moved, matrix in zip(ends[0], starts[0], self.moved, self.matrices, strict=True):
            torch.addmm(start, moved[: len(matrix)].T, matrix, alpha=self.rate, out=end)
        for end, start in zip(ends[1:], starts[1:], strict=True):  # the bias, if there is one
            torch.add(start, self.moved.sum(dim=1), alpha=self.rate, out=end)

    def _outputs(self, layer: list[Tensor], width: int) -> Tensor:
        """Return what a layer gives at all examples, [C, width, h]; anything at all where a task has none."""
        made = layer[0].new_empty(len(self.matrices), width, layer[0].shape[1])
        for place, matrix, weight in zip(made, self.matrices, layer[0].mT, strict=True):
            torch.mm(matrix, weight, out=place[: len(matrix)])
        return made.add_(layer[1].unsqueeze(1)) if len(layer) > 1 else made

    def _at(self, step: int, values: Tensor) -> Tensor:
        """Return the rows [C, b, ...] of the examples in the mini-batch of a step."""
        return values.flatten(0, 1).index_select(0, self.rows[step]).view(*self.shape, -1)


def _rounded(factors: Tensor, dtype: torch.dtype) -> Tensor:
    """Round factors [S, ...] so that their running products are rounded, too: one by one, errors of a sign add up."""
    exact, rounded = factors.cumprod(dim=0), factors.to(dtype)
    made = rounded[0].double()
    for step in range(1, len(factors)):
        # Who rests keeps a factor of 1: when it rests depends on the tasks beside it, and bits must not.
        moves = (made.abs() > _MIN_FACTOR) & (factors[step] != 1.0)
        rounded[step] = torch.where(moves, exact[step] / made, factors[step]).to(dtype)
        made = made * rounded[step].double()
    return rounded


def descend_in_span(
    problem: Problem,
    layers: list[Layer],
    examples: Examples,
    cohort: Cohort,
    index: NDArray[np.int64],
    width: int,
    start: Params,
    params: Params,
    descent: Descent,
) -> None:
    """Take the steps of SGD for a tile of C tasks, with the first layer in the span of each task's examples.

    Parameters
    ----------
    problem : Problem
        Model and loss.
    layers : list of Layer
        The layers of the model.
    examples : Examples
        Of all tasks of the shard.
    cohort : Cohort
        The tasks of the tile.
    index : ndarray of int64, shape [C, S, b]
        Example numbers of S mini-batches; -1 is padding.
    width : int
        From :func:`span_widths`.
    start, params : Params, each [C, ...]
        Weights before the first step, which stay; where those after the last one are written to.
    descent : Descent
        Step size and pull, without momentum.
    """
    first = _SpanLayer(layers[0], examples, cohort, index, width, start, descent)
    above = {name: value.copy_(start[name]) for name, value in params.items() if name not in layers[0].names}
    chain: Chain | None = None
    for step, (_, targets, marks) in enumerate(cohort.marked(index)):
        batch = Batch(first.forward(step), targets, marks)
        chain = chain or Chain(layers[1:], problem, above, descent, batch, inner=True)
        first.backward(step, chain.step(batch))
    first.write(params)
