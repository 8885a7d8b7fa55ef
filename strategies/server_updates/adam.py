"""Adam on the noisy mean (FedAdam): every coordinate has a step size of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedpriv.strategies.server_updates.update import NoisySum, ServerUpdate, State

__all__ = ["Adam"]


class Adam(ServerUpdate):
    """Adam on the noisy mean D of round t, with bias correction.

    From m = v = 0: ``m <- beta_1 m + (1 - beta_1) D`` and ``v <- beta_2 v + (1 - beta_2) D^2``, then
    ``x <- x + eta (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + tau)``.

    A coordinate moves by about eta in a round whatever the length of D, so a ``server_learning_rate`` of 0.01 to 0.1
    takes the place of one near 1. v holds the variance of the noise, too: where noise is most of D, steps are those of
    momentum, divided by the standard deviation of the noise in the mean.

    Attributes
    ----------
    beta_1, beta_2 : float
        Shares of the moments that stay from round to round, in [0, 1).
    tau : float
        What is added to the root of the second moment; the larger, the less steps adapt. Same unit as D.

    References
    ----------
    Reddi and others: Adaptive Federated Optimization, ICLR 2021, Algorithm 2 (FedAdam), whose defaults these are. It
    has no bias correction and begins with v of at least tau^2; the correction is that of Kingma and Ba: Adam,
    Algorithm 1, where t counts from 1.
    """

    beta_1: float = Field(default=0.9, ge=0, lt=1)
    beta_2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0)

    def initial_state(self, billboard: Mapping[str, NDArray[Any]]) -> State:
        """Start without moments."""
        return {f"{moment}/{name}": np.zeros(value.shape) for moment in "mv" for name, value in billboard.items()}

    def step(self, released: NoisySum, state: State) -> tuple[dict[str, NDArray[Any]], State]:
        """Update both moments, then move."""
        mean, number = released.mean(), released.round
        after, direction = {}, {}
        for name, value in mean.items():
            first = self.beta_1 * state[f"m/{name}"] + (1 - self.beta_1) * value
            second = self.beta_2 * state[f"v/{name}"] + (1 - self.beta_2) * np.square(value)
            after[f"m/{name}"], after[f"v/{name}"] = first, second
            root = np.sqrt(second / (1 - self.beta_2**number)) + self.tau
            direction[name] = first / (1 - self.beta_1**number) / root
        return released.moved(direction), after
