"""The banded mechanism: noise that is correlated over rounds, one Gaussian mechanism for a whole training.

The server publishes functions of ``X + C^{-1} Z``, where the rows of ``X`` [T, d] are the clipped sums of the rounds
and those of ``Z`` are independent noise: as private as ``C X + Z`` (Denisov et al., NeurIPS 2022). Here ``C`` is lower
triangular, Toeplitz with the first ``bands`` coefficients of (1 - x)^(-1/2) (banded square root: Kalinin and Lampert,
NeurIPS 2024), and then every column is divided by its norm. Columns that are ``bands`` or more apart share no row
(Choquette-Choo et al., NeurIPS 2023, on banded matrices and separated participation), so the columns that one task's
updates are multiplied with, ``participations`` at most, are orthogonal and of norm 1: whatever these updates, they move
``C X`` by at most ``clipping_norm * sqrt(participations)``, and by twice that if they are replaced by others.

Nothing is assumed about who takes part, only that the limits were kept. Updates may react to what was published: given
the past, round t moves by a shift that is fixed and adds fresh noise, and the squared shifts never sum to more than the
bound, which is what fully adaptive composition of Gaussian mechanisms asks for (Smith and Thakurta, NeurIPS 2022; for
a Renyi filter, Feldman and Zrnic, NeurIPS 2021). So other releases may come between the rounds, too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedpriv.settings import Settings

__all__ = ["BandedMechanism"]

Vector = NDArray[np.float64]


class BandedMechanism(Settings):
    """Limits of participation and bands of noise, for all rounds together; charged as a whole when the first begins.

    Attributes
    ----------
    horizon : int
        Number of rounds T.
    participations : int
        How often a task takes part at most, k.
    separation : int
        Rounds between two participations of a task at least, b: 3 means rounds 1, 4, 7.
    bands : int
        Rounds whose noise is related, at most ``separation``; 1 is independent noise.
    """

    horizon: int = Field(ge=1)
    participations: int = Field(ge=1)
    separation: int = Field(ge=1)
    bands: int = Field(ge=1)

    @model_validator(mode="after")
    def _columns_are_orthogonal(self) -> BandedMechanism:
        if self.bands > self.separation:
            raise ValueError(
                f"'bands' must be at most separation={self.separation}, got {self.bands}: a task that takes part again "
                "while its noise is still related would be protected less than accounted."
            )
        return self

    @property
    def sensitivity(self) -> float:
        """How far one task moves ``C X`` at most, in clipping norms: sqrt(k)."""
        return math.sqrt(self.participations)

    def coefficients(self) -> Vector:
        """Return c_0 = 1, c_j = c_{j-1} (2j - 1) / (2j), the first ``bands`` of them."""
        found = np.ones(min(self.bands, self.horizon))
        for j in range(1, len(found)):
            found[j] = found[j - 1] * (2 * j - 1) / (2 * j)
        return found

    def column_norms(self) -> Vector:
        """Return the norms [T] of the Toeplitz columns; the last ones are cut off by the end of training."""
        whole = np.sqrt(np.cumsum(np.square(self.coefficients())))
        rows = np.minimum(self.horizon - np.arange(self.horizon), len(whole))
        return np.asarray(whole[rows - 1], dtype=np.float64)
