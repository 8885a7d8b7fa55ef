"""What most research code does: a Python loop over tasks and steps, one network, one optimizer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.data import Data
from benchmarks.sides.local import Params, Trainer
from benchmarks.work import Work

__all__ = ["trainer"]


def trainer(work: Work, data: Data, *, optimizer: Literal["default", "foreach", "fused"] = "default") -> Trainer:
    """Return the loop; ``optimizer`` is which of PyTorch's implementations of SGD it uses."""
    model = work.network()
    options = {} if optimizer == "default" else {optimizer: True}
    inputs, targets = torch.from_numpy(data.inputs), torch.from_numpy(data.targets)

    def train(params: Params, tasks: range, order: Tensor) -> Params:
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in params.items()}
        sgd = torch.optim.SGD(model.parameters(), lr=work.learning_rate, **options)
        for task, batches in zip(tasks, order, strict=True):
            model.load_state_dict(params)
            for rows in batches:
                sgd.zero_grad()
                nn.functional.cross_entropy(model(inputs[task][rows]), targets[task][rows]).backward()
                sgd.step()
            drift = {name: (value.detach() - params[name]).double() for name, value in model.named_parameters()}
            norm = torch.stack([value.norm() for value in drift.values()]).norm().item()
            factor = min(1.0, work.clipping_norm / norm) if norm else 1.0
            for name, value in drift.items():
                total[name].add_(value, alpha=factor)
        return total

    return train
