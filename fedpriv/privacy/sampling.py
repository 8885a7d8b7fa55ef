"""Which tasks take part in a round: the sampling that runs is the sampling that is accounted.

With a cohort of fixed size another task takes the place of one that is removed, so that the sum moves by up to twice
the clipping norm: the formulas of Poisson sampling and the relation add/remove do not describe it, only replace-one
does. Its amplification needs more than secret draws. A coalition of all other tasks counts its own participations and
knows who else took part; and where updates depend on earlier rounds, the updates of the others tell the same to
everybody, round after round, because nobody's part is independent of theirs. In both cases every round counts in full,
which is what the name "fixed-size-unamplified" stands for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.privacy.coins import Coins

__all__ = [
    "FIXED_SIZE",
    "MIN_SEPARATION",
    "OLD_NAMES",
    "TAKEN",
    "UNAMPLIFIED",
    "FixedSizeSampling",
    "FullParticipation",
    "PoissonSampling",
    "Sampling",
    "current",
    "fixed_size",
    "sampling_from",
]

FIXED_SIZE = "fixed-size"
"""Name of cohorts of fixed size that sampling amplifies."""

UNAMPLIFIED = "fixed-size-unamplified"
"""Name of cohorts of fixed size of which every round counts as a participation."""

MIN_SEPARATION = "min-separation"
"""Name of participation of which nothing is assumed but limits: so many rounds apart, so often at most."""

OLD_NAMES = {"fixed-size-counted": UNAMPLIFIED, "limited": MIN_SEPARATION}
"""Names until version 0.1, by which ledgers go on to spell releases: equal releases have equal text."""

TAKEN = ("poisson", "full", FIXED_SIZE, UNAMPLIFIED, MIN_SEPARATION, *OLD_NAMES)
"""Names of the schemes that are proven here; no class that chooses in another way may bear one."""


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
    name: ClassVar[str] = "poisson"
    """The name in releases and settings."""

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or math.isnan(self.rate):
            raise InputError(f"sampling: 'rate' must be a number in (0, 1], got {self.rate!r}.")
        if not 0.0 < self.rate <= 1.0:
            raise InputError(
                f"sampling: 'rate' must be in (0, 1], got {self.rate!r}; it is the probability that a task "
                "takes part in a round."
            )

    def participants(self, num_tasks: int) -> float:
        """Return the expected number of participants, a public constant."""
        return self.rate * num_tasks

    def draw(self, num_tasks: int, coins: Coins) -> NDArray[np.int64]:
        """Draw the tasks of one round.

        The number of heads of ``num_tasks`` independent coins is binomial and, given the number, every subset
        is equally likely; so drawing the number and then a subset has exactly the law of the coins, at a cost
        proportional to the sample when the rate is small.

        Parameters
        ----------
        num_tasks : int
            Size of the population, at least 1.
        coins : Coins
            Where the coins come from, usually :meth:`fedpriv.privacy.Entropy.coins`.

        Returns
        -------
        ndarray of int64, shape [n]
            Sorted ids in ``range(num_tasks)``; ``n`` is random and may be 0.
        """
        _check_num_tasks(num_tasks)
        if self.rate == 1.0:
            return np.arange(num_tasks, dtype=np.int64)
        return coins.subset(num_tasks, coins.heads(num_tasks, self.rate))


@dataclass(frozen=True)
class FullParticipation:
    """Every task takes part in every round; nothing is amplified."""

    rate: ClassVar[float] = 1.0
    """The probability of taking part."""
    name: ClassVar[str] = "full"
    """The name in releases and settings."""

    def participants(self, num_tasks: int) -> float:
        """Return the number of participants, a public constant."""
        return float(num_tasks)

    def draw(self, num_tasks: int, coins: Coins) -> NDArray[np.int64]:  # noqa: ARG002
        """Return all ids ``0 .. num_tasks - 1``; no coin is flipped."""
        _check_num_tasks(num_tasks)
        return np.arange(num_tasks, dtype=np.int64)


@dataclass(frozen=True)
class FixedSizeSampling:
    """A subset of fixed size, uniform among all of that size and drawn anew each round; who is drawn stays secret.

    Parameters
    ----------
    size : int
        Number of participants of every round, from 1 to ``num_tasks``; public.
    num_tasks : int
        Number of tasks to draw from; public.
    counted : bool
        True if every round is accounted for in full, as if each task took part in it. See the module's description
        for when that must be.

    Raises
    ------
    InputError
        If a number is not whole or out of range.
    """

    size: int
    num_tasks: int
    counted: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "num_tasks"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"sampling: {name!r} must be a whole number of at least 1, got {value!r}.")
        if self.size > self.num_tasks:
            raise InputError(
                f"sampling: 'size' must be at most the number of tasks, {self.num_tasks}, got {self.size}; draw fewer."
            )

    @property
    def rate(self) -> float:
        """The probability with which a task takes part in a round."""
        return self.size / self.num_tasks

    @property
    def name(self) -> str:
        """The name in releases."""
        return UNAMPLIFIED if self.counted else FIXED_SIZE

    def participants(self, num_tasks: int) -> float:
        """Return the number of participants, a public constant."""
        self._check(num_tasks)
        return float(self.size)

    def draw(self, num_tasks: int, coins: Coins) -> NDArray[np.int64]:
        """Draw the tasks of one round: sorted ids, int64 [size].

        Raises
        ------
        InputError
            If the population is not the one that the rate was computed for.
        """
        self._check(num_tasks)
        return coins.subset(num_tasks, self.size)

    def _check(self, num_tasks: int) -> None:
        if num_tasks != self.num_tasks:
            raise InputError(f"sampling: this draws from {self.num_tasks} tasks, got 'num_tasks' = {num_tasks}.")


Sampling = PoissonSampling | FullParticipation | FixedSizeSampling


def current(name: Any) -> Any:
    """Return the name that a sampling has now; what is no old name is returned as it is."""
    return OLD_NAMES.get(name, name) if isinstance(name, str) else name


def sampling_from(rate: float) -> Sampling:
    """Return the sampling with this rate: full participation at 1, Poisson below.

    Raises
    ------
    InputError
        If the rate is outside (0, 1].
    """
    poisson = PoissonSampling(rate)
    return FullParticipation() if poisson.rate == 1.0 else poisson


def fixed_size(rate: float, num_tasks: int, *, counted: bool = False) -> FixedSizeSampling:
    """Return cohorts of the whole number that is nearest to ``rate * num_tasks`` (a half rounds up), at least 1.

    What is accounted is the size, not the rate that was asked for.

    Raises
    ------
    InputError
        If the rate is outside (0, 1] or there are no tasks.
    """
    share = PoissonSampling(rate).rate
    _check_num_tasks(num_tasks)
    return FixedSizeSampling(min(num_tasks, max(1, math.floor(share * num_tasks + 0.5))), num_tasks, counted)


def _check_num_tasks(num_tasks: int) -> None:
    if num_tasks < 1:
        raise InputError(f"sampling: 'num_tasks' must be at least 1, got {num_tasks}.")
