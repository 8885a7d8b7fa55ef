"""The limit: both passes of every layer as matrix products over a chunk of tasks, written out by hand.

There is nothing here but the gathering of mini-batches, the products, the clip and the sum. What an engine does beyond
this is its overhead. The convolutional network stands in ``bare_cnn``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.data import Data
from benchmarks.sides import bare_cnn
from benchmarks.sides.chunks import add_clipped, chunk_size, chunks
from benchmarks.sides.local import Params, Trainer
from benchmarks.work import Work

__all__ = ["trainer"]


def trainer(work: Work, data: Data, *, megabytes: float) -> Trainer:
    """Return the loop over chunks that hold so many megabytes of weights."""
    inputs = torch.from_numpy(data.inputs).flatten(0, 1)
    targets = torch.from_numpy(data.targets).flatten()
    rows = data.inputs.shape[1]
    size = chunk_size(work.network(), megabytes)
    step = {"mlp": _mlp, "linear": _linear, "cnn": bare_cnn.step}[work.model]

    def train(params: Params, tasks: range, order: Tensor) -> Params:
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in params.items()}
        for part, batches in chunks(tasks, order, size):
            local = {name: value.expand(len(part), *value.shape).clone() for name, value in params.items()}
            offset = torch.arange(part.start, part.stop).mul_(rows).view(-1, 1, 1)
            index = (batches + offset).transpose(0, 1).contiguous()  # [steps, C, b]
            for chosen in index:
                examples = inputs.index_select(0, chosen.flatten()).view(*chosen.shape, *inputs.shape[1:])
                step(local, examples, targets[chosen], work.learning_rate)
            add_clipped(total, params, local, work.clipping_norm)
        return total

    return train


def _linear(local: Params, x: Tensor, classes: Tensor, rate: float) -> None:
    weight, bias = local["1.weight"], local["1.bias"]
    delta = bare_cnn.slope(torch.baddbmm(bias.unsqueeze(1), x, weight.mT), classes)
    weight.baddbmm_(delta.mT, x, alpha=-rate)
    bias.sub_(delta.sum(dim=1), alpha=rate)


def _mlp(local: Params, x: Tensor, classes: Tensor, rate: float) -> None:
    first, bias, second, last = local["1.weight"], local["1.bias"], local["3.weight"], local["3.bias"]
    hidden = torch.baddbmm(bias.unsqueeze(1), x, first.mT).relu_()
    delta = bare_cnn.slope(torch.baddbmm(last.unsqueeze(1), hidden, second.mT), classes)
    below = torch.bmm(delta, second).mul_(hidden > 0)
    second.baddbmm_(delta.mT, hidden, alpha=-rate)
    last.sub_(delta.sum(dim=1), alpha=rate)
    first.baddbmm_(below.mT, x, alpha=-rate)
    bias.sub_(below.sum(dim=1), alpha=rate)
