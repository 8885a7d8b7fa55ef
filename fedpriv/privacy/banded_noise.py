"""Noise that is correlated over rounds, made round by round from fresh noise and the last ``bands - 1`` vectors.

Row t of ``C^{-1} Z`` (see :mod:`fedpriv.privacy.banded`) solves a triangular system: with ``N_t = n_t W_t``, where
``n_t`` is the norm of column t, ``W_t = Z_t - c_1 W_{t-1} - ... - c_{b-1} W_{t-b+1}``. The coefficients fall, so the
recursion damps rounding errors (the roots of such a polynomial lie outside the unit circle: Enestroem and Kakeya).

The vectors ``W`` are as secret as the updates: who knows them can take the noise off what was published. They belong to
the round's checkpoint, and are never drawn again: a second draw of a past round's noise would be averaged away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.entropy import Entropy
from fedpriv.privacy.mechanisms import gaussian_sum

__all__ = ["correlated_sum", "next_noise"]

Vectors = NDArray[np.float64]


def correlated_sum(
    total: Sequence[NDArray[Any]],
    clipping_norm: float,
    noise_multiplier: float,
    banded: BandedMechanism,
    past: Vectors | None,
    entropy: Entropy,
    round: int,
    group: str = "",
) -> tuple[list[NDArray[np.float64]], Vectors]:
    """Add the noise of one round of a banded mechanism to a clipped sum.

    Parameters
    ----------
    total : sequence of arrays
        The output of :func:`fedpriv.privacy.clipped_sum`; d numbers in all.
    clipping_norm, noise_multiplier : float
        ``Z`` has a standard deviation of ``noise_multiplier * clipping_norm``. One participation costs what a plain
        Gaussian release with this multiplier costs.
    banded : BandedMechanism
        Horizon, limits and bands.
    past : array [bands - 1, d] or None
        What the round before returned; None before round 1.
    entropy, round, group
        As for :func:`fedpriv.privacy.gaussian_sum`, rounds from 1 to ``banded.horizon``; each group has a mechanism of
        its own.

    Returns
    -------
    sums : list of float64 arrays
        New arrays of the same shapes.
    past : array [bands - 1, d], float64
        For the next round: secret, 8 (bands - 1) d bytes.

    Raises
    ------
    InputError
        If the round lies outside the horizon, or ``past`` does not belong to it.
    """
    size = sum(np.asarray(array).size for array in total)
    if not 1 <= round <= banded.horizon:
        raise InputError(
            f"mechanism: round {round} lies outside the {banded.horizon} rounds that the banded mechanism was charged "
            "for; start a new run, which is charged for a mechanism of its own."
        )
    shape = (len(banded.coefficients()) - 1, size)
    if past is None and round == 1:
        past = np.zeros(shape)
    if past is None or past.shape != shape:
        found = None if past is None else past.shape
        raise InputError(
            f"mechanism: round {round} needs the noise of the rounds before it, an array of shape {shape}, got "
            f"{found}; it may not be drawn again, so start a new run."
        )
    after = past

    def relate(fresh: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal after
        noise, after = next_noise(banded, round, fresh, past)
        return noise

    sums = gaussian_sum(total, clipping_norm, noise_multiplier, entropy, round, group, relate=relate)
    return sums, after


def next_noise(
    banded: BandedMechanism, round: int, fresh: NDArray[np.float64], past: Vectors
) -> tuple[NDArray[np.float64], Vectors]:
    """Return row ``round`` (from 1) of ``C^{-1} Z`` for independent standard normals [d], and the new past.

    Row i of ``past`` holds the vector ``W`` of the last round that is i + 1 modulo ``bands - 1``; zeros stand for
    rounds before the first. ``past`` itself stays as it is: a round that fails is made again from it.
    """
    coefficients = banded.coefficients()
    mine = np.array(fresh, dtype=np.float64)
    kept = np.array(past)
    term = np.empty_like(mine)
    # One after the other and not as a matrix product, whose rounding would depend on the number of threads.
    for j in range(1, min(len(coefficients), round)):
        np.multiply(past[(round - 1 - j) % len(past)], coefficients[j], out=term)
        mine -= term
    if len(kept):
        kept[(round - 1) % len(kept)] = mine
    return mine * banded.column_norms()[round - 1], kept
