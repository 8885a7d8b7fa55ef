"""How a task's update is bounded: one clipping norm, one per group of arrays, or one that adapts to the updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any, Literal

from flwr.app import ArrayRecord
from pydantic import Field, model_validator

from fedpriv.errors import InputError
from fedpriv.privacy.adaptive import bit_share, default_count_stddev, next_norm
from fedpriv.privacy.bounds import WHOLE, Bounds, layers
from fedpriv.privacy.clipping import LARGEST_NORM, check_clipping_norm
from fedpriv.privacy.journal import Boundary
from fedpriv.strategies.limited import LimitedStrategy

__all__ = ["ClippedStrategy"]


class ClippedStrategy(LimitedStrategy):
    """Base of strategies that clip updates.

    Attributes
    ----------
    clipping_norm : float or None
        Largest l2 norm of a task's update: the sensitivity of the sum when a task is added or removed. Give either this
        or ``clipping_norms``.
    clipping : {"flat", "per-layer", "adaptive"}
        One norm for the whole update; an equal one for each layer, together ``clipping_norm``; or one norm that starts
        at ``clipping_norm`` and follows a quantile of the updates' norms (Andrew et al., 2021). The cost is the same:
        the noise multiplier is that of everything a round releases.
    clipping_norms : dict or None
        Norms of groups of arrays, such as ``{"1" = 0.3, "3" = 0.2}``: "1" covers "1.weight" and "1.bias". Every array
        must be in exactly one group. The noise of each group follows its norm and size
        (:mod:`fedpriv.privacy.bounds`).
    target_clipped_quantile, clip_norm_lr : float
        Adaptive clipping: which share of the tasks shall stay within the norm, and by how much the norm's logarithm
        moves in a round at most, noise aside.
    clipped_count_stddev : float or None
        Adaptive clipping: standard deviation of the noise on the count of tasks within the norm (of each public group).
        A twentieth of the expected participants unless given, or as much as keeps its share of the budget at 1/20.
    largest_clipping_norm : float or None
        Adaptive clipping: where the norm stops to grow; a million times ``clipping_norm`` unless given.
    """

    clipping_norm: float | None = Field(default=None, gt=0)
    clipping: Literal["flat", "per-layer", "adaptive"] = "flat"
    clipping_norms: dict[str, float] | None = None
    target_clipped_quantile: float = Field(default=0.5, ge=0.001, le=0.999)
    clip_norm_lr: float = Field(default=0.2, gt=0)
    clipped_count_stddev: float | None = Field(default=None, gt=0)
    largest_clipping_norm: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_way_to_clip(self) -> ClippedStrategy:
        if (self.clipping_norm is None) == (self.clipping_norms is None):
            raise ValueError("give either 'clipping_norm' or 'clipping_norms' (one per group); exactly one of them.")
        if self.clipping_norm is not None:
            check_clipping_norm(self.clipping_norm)
        if self.clipping_norms is not None:
            if self.clipping != "flat":
                raise ValueError(
                    f"'clipping_norms' declares the groups itself, got clipping={self.clipping!r} beside it; give "
                    "'clipping_norm' instead, or leave out 'clipping'."
                )
            if not self.clipping_norms or WHOLE in self.clipping_norms:
                raise ValueError(
                    '\'clipping_norms\' needs names of arrays or of layers, such as {"1" = 0.3, "3" = 0.2}.'
                )
            Bounds(self.clipping_norms)
        if self.clipping == "adaptive":
            self._check_adaptive()
            return self
        for name in ("target_clipped_quantile", "clip_norm_lr", "clipped_count_stddev", "largest_clipping_norm"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name!r} belongs to clipping='adaptive', got clipping={self.clipping!r}; leave it out."
                )
        return self

    def _check_adaptive(self) -> None:
        if self.limited:
            raise ValueError(
                "adaptive clipping changes the norm from round to round, and the noise of a stream is made, and "
                "charged, for one norm; use clipping='flat' with limits of participation, or secret coins "
                "('sampling_rate' alone)."
            )
        if self.largest_clipping_norm is not None:
            check_clipping_norm(self.largest_clipping_norm, "largest_clipping_norm")
        if self.largest_clipping_norm is not None and self.largest_clipping_norm < (self.clipping_norm or 0.0):
            raise ValueError(
                f"'largest_clipping_norm' must be at least clipping_norm={self.clipping_norm}, where the norm starts, "
                f"got {self.largest_clipping_norm}."
            )

    @property
    def adaptive(self) -> bool:
        """Whether the norm follows a quantile of the updates' norms."""
        return self.clipping == "adaptive"

    @property
    def largest_norm(self) -> float:
        """Where an adaptive norm stops to grow, a public constant."""
        return self.largest_clipping_norm or min(LARGEST_NORM, 1e6 * self._start)

    @property
    def _start(self) -> float:
        """Bound of a whole update in the first round."""
        return self.clipping_norm or Bounds(self.clipping_norms or {}).norm

    def bounds(self, boundary: Boundary, names: Sequence[str] | None = None) -> Bounds:
        """Return what bounds the updates of the round after a boundary.

        Parameters
        ----------
        boundary : Boundary
            Of the round before.
        names : sequence of str or None
            Names of the arrays; those of the boundary's billboards unless given.
        """
        if self.adaptive:
            norm = boundary.clipping_norm if boundary.clipping_norm is not None else self._start
            return Bounds({WHOLE: norm}, self.target_clipped_quantile)
        if self.clipping == "per-layer":
            arrays = list(next(iter(boundary.billboards.values()))) if names is None else names
            return Bounds(layers(arrays, self._start))
        return Bounds(self.clipping_norms or {WHOLE: self._start})

    def declared(self, boundary: Boundary) -> dict[str, Any]:
        """Return what the requests of the round after a boundary declare about clipping."""
        bounds = self.bounds(boundary)
        found: dict[str, Any] = {"clipping_norm": bounds.norm, "target_quantile": bounds.quantile}
        return found if WHOLE in bounds.norms else {**found, "clipping_norms": bounds.norms}

    def check_nodes(self, *, classes: bool, largest_norm: float | None) -> None:
        """Refuse to let the norm grow beyond what the nodes' policy allows."""
        super().check_nodes(classes=classes, largest_norm=largest_norm)
        if self.adaptive and largest_norm is not None and self.largest_norm > largest_norm:
            raise InputError(
                f"the nodes' policy allows clipping norms up to {largest_norm:g} ('max_clipping_norm'), and the "
                f"adaptive one may grow to {self.largest_norm:g}; set 'largest_clipping_norm' to {largest_norm:g}."
            )

    def check_arrays(self, names: Sequence[str]) -> None:
        """Refuse groups of arrays that do not fit a model's arrays."""
        self.bounds(Boundary(0, {}), names).members(names)

    def check(self, num_tasks: int) -> None:
        """Refuse, before anything is written, what does not fit a population of this size."""
        super().check(num_tasks)
        if self.adaptive:
            self._bit_share(self._members(num_tasks), self.resolve_noise(num_tasks))

    def check_boundary(self) -> None:
        """Refuse to go on without the clipping norm of the next round."""
        super().check_boundary()
        session = self.session
        self.check_arrays(list(next(iter(session.boundary.billboards.values()))))
        if self.adaptive and session.boundary.clipping_norm is None:
            raise InputError(
                f"the clipping norm after round {session.boundary.round} is not in the checkpoint; restore the "
                "checkpoint or start a new run."
            )

    def first_boundary(self, initial_arrays: ArrayRecord, num_tasks: int) -> Boundary:
        """Return the public start; with adaptive clipping, the norm belongs to it."""
        first = super().first_boundary(initial_arrays, num_tasks)
        return replace(first, clipping_norm=self.clipping_norm) if self.adaptive else first

    def bit_share(self) -> float:
        """Return which share of the budget of a round the bits take; 0 without bits."""
        return self._bit_share(self.session.groups, self.session.noise_multiplier) if self.adaptive else 0.0

    def _bit_share(self, members: Mapping[str, Sized], noise_multiplier: float) -> float:
        groups = [self.expected(len(ids)) for ids in members.values()]
        reach = Bounds({WHOLE: 1.0}, self.target_clipped_quantile).reach
        stddev = self.clipped_count_stddev
        if stddev is None:
            stddev = default_count_stddev(sum(groups), len(groups), noise_multiplier, reach)
        return bit_share(noise_multiplier, stddev, reach)

    def next_clipping_norm(self) -> float | None:
        """Return the norm of the next round from what this round released; None if it stays."""
        session = self.session
        if not self.adaptive:
            return None
        expected = sum(self.expected(len(ids)) for ids in session.groups.values())
        excess = sum(session.bits.values()) / expected
        return next_norm(self.bounds(session.boundary).norm, excess, self.clip_norm_lr, self._start, self.largest_norm)
