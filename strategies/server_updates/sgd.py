"""Steps along the noisy mean, alone or with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedpriv.strategies.server_updates.update import NoisySum, ServerUpdate, State

__all__ = ["SGD", "Momentum"]


class SGD(ServerUpdate):
    """Move the billboard by ``server_learning_rate`` times the noisy mean: ``x <- x + eta D``. It has no state.

    References
    ----------
    PMTL, Algorithm 1, line 8; with a rate of 1 federated averaging of uniform weights.
    """

    def step(self, released: NoisySum, state: State) -> tuple[dict[str, NDArray[Any]], State]:
        """Add the sum, divided by the expected number of participants."""
        return released.moved(released.total, released.learning_rate / released.expected), state


class Momentum(ServerUpdate):
    """Heavy-ball momentum on the noisy mean D: ``v <- momentum v + D``, ``x <- x + eta v``, from v = 0.

    As in ``torch.optim.SGD`` without dampening, and Flower's ``FedAvgM``. The steps of a constant mean grow to
    ``eta / (1 - momentum)`` times it.

    Attributes
    ----------
    momentum : float
        Share of the last direction that stays, in [0, 1).

    References
    ----------
    Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification.
    """

    momentum: float = Field(default=0.9, ge=0, lt=1)

    def initial_state(self, billboard: Mapping[str, NDArray[Any]]) -> State:
        """Start at rest."""
        return {name: np.zeros(value.shape) for name, value in billboard.items()}

    def step(self, released: NoisySum, state: State) -> tuple[dict[str, NDArray[Any]], State]:
        """Turn the direction, then follow it."""
        mean = released.mean()
        velocity = {name: self.momentum * value + mean[name] for name, value in state.items()}
        return released.moved(velocity), velocity
