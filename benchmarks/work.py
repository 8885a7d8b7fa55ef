"""The work that all sides do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

__all__ = ["MODELS", "TASKS", "Model", "Work"]

Model = Literal["mlp", "linear", "cnn"]
MODELS: tuple[Model, ...] = get_args(Model)
TASKS: dict[Model, int] = {"mlp": 1000, "linear": 1000, "cnn": 200}
"""In a round. The convolutions are slower on all sides, and a run must end."""

_SIDE_PIXELS = 28


@dataclass(frozen=True)
class Work:
    """One round is ``tasks`` tasks, each ``steps`` SGD steps from the global model, then one private release."""

    model: Model = "mlp"  # with one hidden layer; or one linear layer; or two strided convolutions and a linear layer
    tasks: int = 1000
    examples: int = 100  # for training, per task
    test_examples: int = 2  # per task, scored outside the measured time
    hidden: int = 64  # width of the MLP
    # Local SGD.
    steps: int = 10
    batch_size: int = 10
    learning_rate: float = 0.1
    # The Gaussian mechanism: whole update clipped in l2, noise on the sum, public denominator ``tasks``.
    clipping_norm: float = 0.5
    noise_multiplier: float = 1.0
    seed: int = 0  # of data, initial values and mini-batches
    dtype: Literal["float32", "float64"] = "float32"  # speed is measured with the first, sides compared with the second

    @property
    def features(self) -> int:
        return _SIDE_PIXELS * _SIDE_PIXELS

    @property
    def classes(self) -> int:
        return 10

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example, as the network takes it."""
        return (1, _SIDE_PIXELS, _SIDE_PIXELS) if self.model == "cnn" else (self.features,)

    def network(self) -> nn.Sequential:
        """The network with its public initial values: all sides start from these very numbers."""
        return self._network().to(getattr(torch, self.dtype))

    def _network(self) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if self.model == "cnn":
                return nn.Sequential(
                    nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
                    nn.ReLU(),
                    nn.Flatten(),
                    nn.Linear(32 * 7 * 7, self.classes),
                )
            if self.model == "linear":
                layer = nn.Linear(self.features, self.classes)
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
                return nn.Sequential(nn.Flatten(), layer)
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(self.features, self.hidden),
                nn.ReLU(),
                nn.Linear(self.hidden, self.classes),
            )

    @property
    def architecture(self) -> str:
        return {
            "mlp": f"MLP {self.features}-{self.hidden}-{self.classes}",
            "linear": f"linear {self.features}-{self.classes}, from zero",
            "cnn": "CNN: 3x3 convolutions with stride 2 to 16 and 32 channels, ReLU, linear",
        }[self.model]

    def describe(self) -> str:
        size = sum(value.numel() for value in self.network().parameters())
        return (
            f"{self.architecture} ({size:,} parameters), {self.tasks} tasks, {self.examples} examples per task, "
            f"{self.steps} SGD steps of {self.batch_size}, learning rate {self.learning_rate}, clipping norm "
            f"{self.clipping_norm}, noise multiplier {self.noise_multiplier}"
        )
