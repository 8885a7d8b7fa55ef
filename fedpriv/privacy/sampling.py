"""Which tasks take part in a round: the sampling that runs is the sampling that is accounted.

Fixed-size cohorts do not exist here: against a coalition of the other tasks they are not amplified at all, the formula
of Poisson sampling does not hold for them, and where a task is removed another one takes its place, so that the sum
moves by up to twice the clipping norm: not even add/remove without amplification describes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError

__all__ = ["FullParticipation", "PoissonSampling", "Sampling", "sampling_from"]


@dataclass(frozen=True)
class PoissonSampling:
    """Every task flips its own coin each round; the coins stay secret.

    Parameters
    ----------
    rate : float
        Probability in (0, 1] with which a task takes part in a round; 1 is the same as full participation.

    Raises
    ------
    InputError
        If the rate is outside (0, 1].
    """

    rate: float

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or math.isnan(self.rate):
            raise InputError(f"sampling: 'rate' must be a number in (0, 1], got {self.rate!r}.")
        if not 0.0 < self.rate <= 1.0:
            raise InputError(
                f"sampling: 'rate' must be in (0, 1], got {self.rate!r}; it is the probability that a task "
                "takes part in a round."
            )

    @property
    def name(self) -> str:
        """The name in releases and settings."""
        return "poisson"

    def draw(self, num_tasks: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw the tasks of one round.

        The number of heads of ``num_tasks`` independent coins is binomial and, given the number, every subset
        is equally likely; so drawing the number and then a subset has exactly the law of the coins, at a cost
        proportional to the sample when the rate is small.

        Parameters
        ----------
        num_tasks : int
            Size of the population, at least 1.
        generator : numpy.random.Generator
            Where the coins come from, usually :meth:`fedpriv.privacy.Entropy.generator`.

        Returns
        -------
        ndarray of int64, shape [n]
            Sorted ids in ``range(num_tasks)``; ``n`` is random and may be 0.
        """
        _check_num_tasks(num_tasks)
        if self.rate == 1.0:
            return np.arange(num_tasks, dtype=np.int64)
        count = int(generator.binomial(num_tasks, self.rate))
        if count == num_tasks:
            return np.arange(num_tasks, dtype=np.int64)
        ids = generator.choice(num_tasks, count, replace=False, shuffle=False).astype(np.int64, copy=False)
        ids.sort()
        return ids


@dataclass(frozen=True)
class FullParticipation:
    """Every task takes part in every round; nothing is amplified."""

    @property
    def rate(self) -> float:
        """The probability of taking part, 1."""
        return 1.0

    @property
    def name(self) -> str:
        """The name in releases and settings."""
        return "full"

    def draw(self, num_tasks: int, generator: np.random.Generator) -> NDArray[np.int64]:  # noqa: ARG002
        """Return all ids ``0 .. num_tasks - 1``; no coin is flipped."""
        _check_num_tasks(num_tasks)
        return np.arange(num_tasks, dtype=np.int64)


Sampling = PoissonSampling | FullParticipation


def sampling_from(rate: float) -> Sampling:
    """Return the sampling with this rate: full participation at 1, Poisson below.

    Raises
    ------
    InputError
        If the rate is outside (0, 1].
    """
    poisson = PoissonSampling(rate)
    return FullParticipation() if poisson.rate == 1.0 else poisson


def _check_num_tasks(num_tasks: int) -> None:
    if num_tasks < 1:
        raise InputError(f"sampling: 'num_tasks' must be at least 1, got {num_tasks}.")
