"""Shared factors on a private billboard: alternating minimisation for low-rank-plus-sparse models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedpriv.errors import InputError
from fedpriv.lrs.packing import unpack
from fedpriv.lrs.subspace import leading, orthonormal, solve_factors, tangent
from fedpriv.strategies.billboard import Billboard
from fedpriv.strategies.server_updates import SGD, NoisySum, ServerUpdate
from fedpriv.strategies.server_updates.update import State

__all__ = ["AlternatingMinimization", "AlternatingStep"]


class AlternatingStep(ServerUpdate):
    """Move orthonormal factors U by what was released about them, a sum of the forms that the strategy names.

    Attributes
    ----------
    first_step, last_step, cutoff, orthonormal
        As in :class:`AlternatingMinimization`.
    """

    first_step: float = Field(default=1.0, gt=0)
    last_step: float = Field(default=1.0, gt=0)
    cutoff: float = Field(default=1e-6, ge=0, lt=1)
    orthonormal: bool = True

    def initial_state(self, billboard: Mapping[str, NDArray[Any]]) -> State:
        """Keep nothing; refuse a model without factors, before anybody works."""
        if "factors" not in billboard:
            raise InputError(
                f"'alternating-minimization' needs the model 'low-rank', whose billboard holds 'factors', got "
                f"{sorted(billboard)}; set model.name='low-rank', or strategy.name='billboard'."
            )
        return {}

    def step(self, released: NoisySum, state: State) -> tuple[dict[str, NDArray[Any]], State]:
        """Make the step that the billboard's arrays ask for; there is no state."""
        before = released.billboard
        after, _ = SGD().step(released, state)
        factors = before["factors"]
        step = self._share(released) * (after["factors"] - factors)
        if "moments" in before and released.round == 1:
            moved = leading(unpack(after["moments"]), factors.shape[1])
        elif "matrix" in before:
            moved = solve_factors(unpack(after["matrix"]), after["vector"], self.cutoff)
        elif "curvature" in before:
            # The server's learning rate is in both H and G, and cancels.
            moved = factors + self._across(factors, solve_factors(unpack(after["curvature"]), step, self.cutoff))
        else:
            moved = factors + self._across(factors, step)
        if self.orthonormal:
            moved = orthonormal(moved, factors)
        elif not np.isfinite(moved).all():  # a step too large to be one: as with orthonormal factors, they stay
            moved = factors
        # Statistics were for this step; their places on the billboard stay zero.
        return {name: np.zeros_like(value) for name, value in before.items()} | {"factors": moved}, state

    def _share(self, released: NoisySum) -> float:
        """Return what the step of a round is multiplied by."""
        done = (released.round - 1) / max(released.rounds - 1, 1)
        return float(self.first_step ** (1 - done) * self.last_step**done)

    def _across(self, factors: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
        """Leave out the part of a step that only mixes orthonormal columns."""
        return tangent(factors, step) if self.orthonormal else step


class AlternatingMinimization(Billboard):
    """Publish orthonormal factors U, moved by what tasks say about them.

    Clipping, noise and charge are those of :class:`fedpriv.strategies.billboard.Billboard`; what is done here comes
    after the noise and costs nothing. Which step is made follows from the billboard, that is from the model
    :class:`fedpriv.models.low_rank.LowRank`:

    * factors alone: ``U <- QR(U + step (I - U U^T) G)`` for G the noisy mean of minus the clipped gradients;
    * with ``curvature``: the Newton step of variable projection, ``U <- QR(U + H^+ G)``;
    * with ``matrix`` and ``vector``: the published ``vec U = A^+ vec V``, vec stacking columns, then QR;
    * with ``moments``, in round 1: the leading eigenvectors of the noisy second moments.

    Attributes
    ----------
    first_step, last_step : float
        What the step is multiplied by in the first and in the last round, geometric in between. From a random start the
        gradient is small and large steps save rounds; small ones at the end leave less noise in U.
    cutoff : float
        Eigenvalues of A or H below this share of the largest count as zero. Noise calls for a large one.
    orthonormal : bool
        False leaves the factors as the step makes them: for tasks whose coefficients are always 1.

    References
    ----------
    Pal and others: Private and Efficient Meta-Learning with Low Rank and Sparse Decomposition, Algorithm 1 and section
    2.2. Two releases of A and V with noise of s sqrt L each are one of both together, as here, clipped and charged as a
    whole.
    """

    first_step: float = Field(default=1.0, gt=0)
    last_step: float = Field(default=1.0, gt=0)
    cutoff: float = Field(default=1e-6, ge=0, lt=1)
    orthonormal: bool = True

    @model_validator(mode="after")
    def _has_its_step(self) -> AlternatingMinimization:
        if self.server_update != SGD():
            raise InputError(
                "'alternating-minimization' has a step of its own, beside which 'server_update' would be without "
                "effect; leave it out, or use strategy.name='billboard'."
            )
        return self

    @property
    def server_step(self) -> ServerUpdate:
        """The step of these settings."""
        return AlternatingStep(**{name: getattr(self, name) for name in AlternatingStep.model_fields})
