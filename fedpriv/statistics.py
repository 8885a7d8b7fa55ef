"""Statistics over seeds: t intervals, paired contrasts, Holm's correction for several of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedpriv.errors import InputError

__all__ = ["Contrast", "Interval", "contrast", "holm", "interval", "spread_over_tasks"]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95% interval.

    Attributes
    ----------
    mean : float
        The mean.
    half : float or None
        Half the width of Student's interval; None for a single value, which says nothing about its spread.
    count : int
        Number of values.
    """

    mean: float
    half: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half is None else f"{self.mean:.3f} \u00b1 {self.half:.3f}"

    @property
    def low(self) -> float:
        """Lower end; minus infinity for a single value."""
        return -math.inf if self.half is None else self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end; infinity for a single value."""
        return math.inf if self.half is None else self.mean + self.half


@dataclass(frozen=True)
class Contrast:
    """A paired difference over seeds.

    Attributes
    ----------
    interval : Interval
        Of the differences.
    p : float
        Of the two-sided t-test that their mean is 0.
    """

    interval: Interval
    p: float


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return mean and t interval of values that were drawn independently, one per seed.

    Raises
    ------
    InputError
        No values.
    """
    mean, error = _mean_and_error(values)
    if error is None:
        return Interval(mean, None, 1)
    from scipy.special import stdtrit

    return Interval(mean, float(stdtrit(len(values) - 1, 0.5 + level / 2)) * error, len(values))


def contrast(first: Sequence[float], second: Sequence[float]) -> Contrast:
    """Compare two columns seed by seed: the same seed means the same partition and start.

    Raises
    ------
    InputError
        The columns differ in length, or hold fewer than two seeds.
    """
    if len(first) != len(second) or len(first) < 2:
        raise InputError(
            f"a paired contrast needs two columns of the same 2 or more seeds, got {len(first)} and {len(second)} "
            "values; run the missing seeds."
        )
    differences = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    mean, error = _mean_and_error(differences)
    if not error:  # all differences are equal: certain, or nothing at all
        return Contrast(interval(differences), 0.0 if mean else 1.0)
    from scipy.special import stdtr

    return Contrast(interval(differences), 2.0 * float(stdtr(len(differences) - 1, -abs(mean / error))))


def spread_over_tasks(values: Sequence[float], *, higher_is_better: bool | None) -> dict[str, float | None]:
    """Return how a measure differs over tasks.

    Parameters
    ----------
    values : sequence of float
        One for each task that has one, all finite.
    higher_is_better : bool or None
        None if nobody knows: then no task is the worst.

    Returns
    -------
    dict
        ``worst_decile``, the mean over the worst tenth of the tasks (at least one of them), and ``deviation``, the
        standard deviation over tasks; None where there is none.

    References
    ----------
    Li, Sanjabi, Beirami, Smith: Fair Resource Allocation in Federated Learning, table 1 ("worst 10%").
    """
    if not values:
        return {"worst_decile": None, "deviation": None}
    _, error = _mean_and_error(values)
    worst = None
    if higher_is_better is not None:
        few = sorted(values, reverse=not higher_is_better)[: math.ceil(len(values) / 10)]
        worst = math.fsum(few) / len(few)
    return {"worst_decile": worst, "deviation": None if error is None else error * math.sqrt(len(values))}


def holm(values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given: they hold for all tests together."""
    adjusted, worst = [0.0] * len(values), 0.0
    for position, place in enumerate(sorted(range(len(values)), key=lambda at: values[at])):
        worst = max(worst, min(1.0, values[place] * (len(values) - position)))
        adjusted[place] = worst
    return adjusted


def _mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error, None for a single value."""
    count = len(values)
    if not count:
        raise InputError("a mean needs at least one value, got none; run at least one seed.")
    mean = math.fsum(values) / count
    if count == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
