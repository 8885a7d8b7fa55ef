"""Local guarantees about examples: what a task's node can promise about single examples by local noise.

They stand beside the guarantee of the task, never in its place: the unit is smaller, and they are not charged to the
ledger, whose unit is the task.
"""

from __future__ import annotations

import math
from dataclasses import replace

from fedpriv.errors import InputError
from fedpriv.privacy.guarantee import Guarantee, guarantee_for
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.rounding import NOT_EXACT
from fedpriv.privacy.terms import NoiseAt, Observer, Output

__all__ = ["pixel_guarantee", "support_guarantee"]


def pixel_guarantee(
    std: float,
    *,
    values: int,
    low: float,
    high: float,
    participations: int,
    delta: float,
    num_tasks: int,
    reproduction: bool = False,
) -> Guarantee:
    """Return what Gaussian noise on an example's values promises about them, towards the server and all who see less.

    Two examples of ``values`` numbers between ``low`` and ``high`` are up to ``(high - low) sqrt(values)`` apart, and
    that is the sensitivity: an image of 28x28 pixels has a range of 28 times one pixel's, so noise that still shows the
    image promises little. Labels are not protected at all.

    Parameters
    ----------
    std : float
        Standard deviation of the noise on every value, the smaller one if support and query differ.
    values : int
        Numbers of one example.
    low, high : float
        The declared range; the node clamps to it before the noise.
    participations : int
        How often the example is used at most, each time with fresh noise.
    delta, num_tasks, reproduction
        As for :func:`fedpriv.privacy.guarantee_for`.

    Raises
    ------
    InputError
        The range is empty or a number is out of bounds.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"local: the range of the inputs must go from a smaller to a larger number, got {low}..{high}."
        )
    if values < 1 or not 0 < std < math.inf:
        raise InputError(f"local: at least one value and noise above 0 are needed, got {values} and {std!r}.")
    sensitivity = (high - low) * math.sqrt(values)
    found = _gaussian(std, sensitivity, participations, delta, num_tasks, reproduction=reproduction)
    return replace(
        found,
        unit="the pixels of one example (its label is not protected)",
        public="everything but pixels: labels, which example is used when, all settings",
        assumptions=(
            "every node runs its own noise",
            f"inputs are clamped to {low:g}..{high:g}; the sensitivity is {sensitivity:.4g} for {values} values",
            NOT_EXACT,
        ),
    )


def support_guarantee(
    noise_multiplier: float,
    clip: float,
    *,
    steps: int,
    participations: int,
    delta: float,
    num_tasks: int,
    reproduction: bool = False,
) -> Guarantee:
    """Return what a private adaptation promises about one support example: clipped per example, noise in every step.

    It holds in first order only, for an example that is never in a query set: the gradient of the query loss is then
    computed from noisy parameters alone. The query set has no protection.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise on the sum of clipped gradients, in clips.
    clip : float
        Largest norm of one example's gradient.
    steps, participations : int
        Steps of one adaptation, and how often the task adapts at most.
    delta, num_tasks, reproduction
        As for :func:`fedpriv.privacy.guarantee_for`.

    References
    ----------
    Li, Khodak, Caldas, Talwalkar: Differentially Private Meta-Learning. ICLR 2020.
    """
    found = _gaussian(
        noise_multiplier * clip, 2 * clip, steps * participations, delta, num_tasks, reproduction=reproduction
    )
    return replace(
        found,
        unit="one support example",
        public="everything but the support examples: the query set, all settings",
        assumptions=(
            "every node runs its own noise",
            "support and query examples never change places, and meta-gradients are of first order",
            NOT_EXACT,
        ),
    )


def _gaussian(
    std: float, sensitivity: float, times: int, delta: float, num_tasks: int, *, reproduction: bool
) -> Guarantee:
    """Compose Gaussian releases whose terms are at most ``sensitivity`` apart when one is replaced."""
    # A release counts noise against half of what replacing moves.
    release = Release(
        noise_multiplier=2 * std / sensitivity,
        sampling_name="full",
        rate=1.0,
        clipping_norm=sensitivity / 2,
        noise_at="node",
    )
    return guarantee_for(
        {release: times},
        delta=delta,
        num_tasks=num_tasks,
        output=Output.ROWS,
        observer=Observer.SERVER,
        noise_at=NoiseAt.NODE,
        reproduction=reproduction,
    )
