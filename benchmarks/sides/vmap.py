"""The loop over tasks as `torch.func.vmap`, in chunks: what one writes who knows PyTorch's function transforms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.data import Data
from benchmarks.sides.chunks import add_clipped, chunk_size, chunks
from benchmarks.sides.local import Params, Trainer
from benchmarks.work import Work

__all__ = ["trainer"]


def trainer(work: Work, data: Data, *, megabytes: float) -> Trainer:
    """Return the loop over chunks that hold so many megabytes of weights."""
    model = work.network()
    inputs, targets = torch.from_numpy(data.inputs), torch.from_numpy(data.targets)
    size = chunk_size(model, megabytes)

    def loss(params: Params, examples: Tensor, classes: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, params, (examples,)), classes)

    gradient = vmap(grad(loss))

    def train(params: Params, tasks: range, order: Tensor) -> Params:
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in params.items()}
        for part, batches in chunks(tasks, order, size):
            rows = torch.arange(part.start, part.stop).unsqueeze(1)
            local = {name: value.expand(len(part), *value.shape).clone() for name, value in params.items()}
            for step in range(work.steps):
                index = batches[:, step]
                slopes = gradient(local, inputs[rows, index], targets[rows, index])
                for name, value in local.items():
                    value.sub_(slopes[name], alpha=work.learning_rate)
            add_clipped(total, params, local, work.clipping_norm)
        return total

    return train
