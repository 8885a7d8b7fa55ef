"""How a task adapts to its support set, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["InnerLoop", "Order"]

Order = Literal["second", "first"]


@dataclass(frozen=True)
class InnerLoop:
    """How a task adapts: full-batch gradient descent on its support set.

    Attributes
    ----------
    learning_rate : float
        Step size.
    steps : int
        Number of steps; 0 gives the plain gradient of the query loss.
    order : {"second", "first"}
        Whether the meta-gradient goes through the adaptation, or is taken at the adapted parameters alone.
    """

    learning_rate: float
    steps: int = 1
    order: Order = "second"
