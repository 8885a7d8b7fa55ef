"""What bounds the part of one task in a sum: one norm for its whole update, or one for each group of arrays.

A task sends a vector whose groups g are clipped to norms C_g each. With noise of standard deviation s_g on the entries
of group g, one task moves the released sum by at most sqrt(sum_g C_g^2 / s_g^2) standard deviations, and by twice that
if its data are replaced. With shares a_g of the budget that add up to 1 and ``s_g = z C_g / sqrt(a_g)`` this is 1/z,
whatever the shares: every round is one Gaussian release with the noise multiplier z, so all accounting stays as it is,
with sampling too. The same in other words: the sum is divided by the scales ``w_g = C_g / sqrt(a_g)``, after which a
task's whole vector has a norm of at most 1, gets noise of standard deviation z, and is multiplied by them again.

The shares of arrays are chosen for the least noise in all: ``sum_g d_g s_g^2`` for groups of d_g entries is smallest at
``a_g`` proportional to ``C_g sqrt(d_g)``, where it is ``z^2 (sum_g C_g sqrt(d_g))^2``. By the inequality of Cauchy and
Schwarz that is never more than equal noise everywhere adds, ``z^2 (sum C_g^2) (sum d_g)``, and never more than equal
shares add. Sizes and norms are public, so the shares are.

With a quantile q a task sends one more entry, how far its bit "my update was not longer than its norm" lies from q
(:mod:`fedpriv.privacy.adaptive`): at most max(q, 1 - q), and 0 for a task that does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.privacy.adaptive import bit_share, default_count_stddev, next_norm
from fedpriv.privacy.clipping import LARGEST_NORM, check_clipping_norm, clip_rows, clipped_sum, update_norms

__all__ = ["BIT", "WHOLE", "Bounds", "Clipping", "layers"]

Arrays = dict[str, NDArray[Any]]

WHOLE = ""
"""The group of all arrays."""

BIT = "fedpriv/within"
"""Name of the entry that carries the bit."""


@dataclass(frozen=True)
class Bounds:
    """Clipping norms of a task's update.

    Attributes
    ----------
    norms : mapping from group to float
        ``{"": C}`` is one norm over all arrays. Otherwise a group covers the array of its name and those below it:
        "1" covers "1.weight" and "1.bias". Every array must be in exactly one group.
    quantile : float or None
        In (0, 1) where tasks send a bit, too; only with one norm for everything.

    Raises
    ------
    InputError
        A norm or the quantile is out of range.
    """

    norms: Mapping[str, float]
    quantile: float | None = None

    def __post_init__(self) -> None:
        for norm in self.norms.values():
            check_clipping_norm(norm)
        if not self.norms or (self.quantile is not None and set(self.norms) != {WHOLE}):
            raise InputError(
                f"clipping: bits go with one norm for the whole update, and there must be a norm; got {self.norms!r}."
            )
        if self.quantile is not None and not 0.0 < self.quantile < 1.0:
            raise InputError(f"clipping: a quantile lies between 0 and 1, both excluded, got {self.quantile!r}.")

    @property
    def norm(self) -> float:
        """Bound of the l2 norm of a whole update, the bit left out."""
        return math.hypot(*self.norms.values())

    @property
    def reach(self) -> float:
        """How far a bit may lie from the quantile."""
        return 0.0 if self.quantile is None else max(self.quantile, 1.0 - self.quantile)

    def members(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the arrays of each group.

        Raises
        ------
        InputError
            A group covers no array, or an array is in no group or in several.
        """
        if set(self.norms) == {WHOLE}:
            return {WHOLE: list(names)}
        found: dict[str, list[str]] = {group: [] for group in self.norms}
        for name in names:
            mine = [group for group in found if name == group or name.startswith(f"{group}.")]
            if len(mine) != 1:
                groups = ", ".join(map(repr, mine)) or "none"
                raise InputError(
                    f"every array must be in exactly one group of 'clipping_norms', and {name!r} is in {groups}; the "
                    f"arrays are {', '.join(map(repr, names))}."
                )
            found[mine[0]].append(name)
        for group, members in found.items():
            if not members:
                raise InputError(
                    f"the group {group!r} of 'clipping_norms' covers no array; the arrays are "
                    f"{', '.join(map(repr, names))}."
                )
        return found

    def marked(self, update: Arrays, counted: NDArray[np.bool_]) -> Arrays:
        """Add the bits of k tasks to their updates [k, ...]; tasks that do not count get 0."""
        if self.quantile is None:
            return update
        within = update_norms(list(update.values())) <= self.norm
        return {**update, BIT: np.where(counted, within - self.quantile, 0.0)[:, None]}

    def like(self, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return zeros, float64, for the sum of what tasks send whose update has the shapes of some arrays."""
        found = {name: np.zeros(value.shape) for name, value in arrays.items()}
        return found if self.quantile is None else {**found, BIT: np.zeros(1)}

    def rows(self, update: Mapping[str, NDArray[Any]]) -> Arrays:
        """Clip what k tasks send, arrays [k, ...], and keep them apart; a row that is not finite anywhere is 0."""
        return self._clipped(update, lambda arrays, bound: clip_rows(arrays, bound).rows)

    def sum(self, update: Mapping[str, NDArray[Any]], tasks: float = 1) -> Arrays:
        """Clip what k tasks send, arrays [k, ...], and add it up; a row that is not finite anywhere counts as 0.

        With ``tasks`` every row is clipped to what the sum of so many tasks can be; noise in it counts as more tasks.
        """
        return self._clipped(update, lambda arrays, bound: clipped_sum(arrays, bound * tasks))

    def scales(self, sizes: Mapping[str, int], bit_share: float = 0.0) -> tuple[float, dict[str, float]]:
        """Return the norm of a task's whole vector after the arrays were divided by scales, and the scales.

        One norm for everything needs no scales; there are none then.

        Parameters
        ----------
        sizes : mapping
            Number of entries of each array.
        bit_share : float
            Share of the budget that the bit gets, in (0, 1); of no effect where there is none.
        """
        if len(self.norms) == 1 and self.quantile is None:
            return self.norm, {}
        groups = self.members([name for name in sizes if name != BIT])
        wanted = {
            group: self.norms[group] * math.sqrt(sum(sizes[name] for name in names)) for group, names in groups.items()
        }
        whole, left = math.fsum(wanted.values()), 1.0 if self.quantile is None else 1.0 - bit_share
        scales: dict[str, float] = {}
        for group, names in groups.items():
            share = wanted[group] / whole * left
            # A group without entries has no share, and nothing is ever multiplied by its scale.
            scales.update(dict.fromkeys(names, self.norms[group] / math.sqrt(share) if share else 1.0))
        if self.quantile is not None:
            scales[BIT] = self.reach / math.sqrt(bit_share)
        return 1.0, scales

    def _clipped(self, update: Mapping[str, NDArray[Any]], clip: Callable[[list[Any], float], list[Any]]) -> Arrays:
        """Apply a way to clip to the arrays of each group, and to the bit."""
        kept = self._finite(update)
        groups = self.members([name for name in update if name != BIT])
        bounded = [(names, self.norms[group]) for group, names in groups.items()]
        if BIT in update:
            bounded.append(([BIT], self.reach))
        out: Arrays = {}
        for names, bound in bounded:
            out.update(zip(names, clip([kept[name] for name in names], bound), strict=True))
        return {name: out[name] for name in update}

    def _finite(self, update: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Replace whole rows by zeros where any group is not finite; one group sees to that itself."""
        if len(self.norms) == 1 and BIT not in update:
            return update
        counted = np.isfinite(update_norms(list(update.values())))
        if counted.all():
            return update
        return {
            name: np.where(counted.reshape(-1, *[1] * (value.ndim - 1)), value, 0) for name, value in update.items()
        }


def layers(names: Sequence[str], clipping_norm: float) -> dict[str, float]:
    """Return a group per layer, with equal norms that together are ``clipping_norm``.

    A layer is what stands before the last dot of an array's name.
    """
    found = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
    return dict.fromkeys(found, clipping_norm / math.sqrt(len(found)))


@dataclass(frozen=True)
class Clipping:
    """How updates are bounded over a run: one norm, one per group of arrays, or one that adapts to the updates.

    Attributes
    ----------
    clipping_norm : float or None
        Largest l2 norm of a task's update: the sensitivity of the sum when a task is added or removed. Give either this
        or ``clipping_norms``.
    clipping : {"flat", "per-layer", "adaptive"}
        One norm for the whole update; an equal one for each layer, together ``clipping_norm``; or one norm that starts
        at ``clipping_norm`` and follows a quantile of the updates' norms.
    clipping_norms : dict or None
        Norms of groups of arrays.
    target_clipped_quantile, clip_norm_lr : float
        Adaptive clipping: which share of the tasks shall stay within the norm, and by how much the norm's logarithm
        moves in a round at most, noise aside.
    clipped_count_stddev : float or None
        Adaptive clipping: standard deviation of the noise on the count of tasks within the norm.
    largest_clipping_norm : float or None
        Adaptive clipping: where the norm stops to grow; a million times ``clipping_norm`` unless given.

    Raises
    ------
    InputError
        The values do not go together.
    """

    clipping_norm: float | None = None
    clipping: Literal["flat", "per-layer", "adaptive"] = "flat"
    clipping_norms: Mapping[str, float] | None = None
    target_clipped_quantile: float = 0.5
    clip_norm_lr: float = 0.2
    clipped_count_stddev: float | None = None
    largest_clipping_norm: float | None = None

    def __post_init__(self) -> None:
        if (self.clipping_norm is None) == (self.clipping_norms is None):
            raise InputError("give either 'clipping_norm' or 'clipping_norms' (one per group); exactly one of them.")
        if self.clipping_norm is not None:
            check_clipping_norm(self.clipping_norm)
        if self.clipping_norms is not None:
            if self.clipping != "flat":
                raise InputError(
                    f"'clipping_norms' declares the groups itself, got clipping={self.clipping!r} beside it; give "
                    "'clipping_norm' instead, or leave out 'clipping'."
                )
            if not self.clipping_norms or WHOLE in self.clipping_norms:
                raise InputError(
                    '\'clipping_norms\' needs names of arrays or of layers, such as {"1" = 0.3, "3" = 0.2}.'
                )
            Bounds(self.clipping_norms)
        if self.adaptive:
            if self.largest_clipping_norm is not None:
                check_clipping_norm(self.largest_clipping_norm, "largest_clipping_norm")
                if self.largest_clipping_norm < self.start:
                    raise InputError(
                        f"'largest_clipping_norm' must be at least clipping_norm={self.clipping_norm}, where the norm "
                        f"starts, got {self.largest_clipping_norm}."
                    )
            return
        for name in ("target_clipped_quantile", "clip_norm_lr", "clipped_count_stddev", "largest_clipping_norm"):
            if getattr(self, name) != getattr(type(self), name):
                raise InputError(
                    f"{name!r} belongs to clipping='adaptive', got clipping={self.clipping!r}; leave it out."
                )

    @property
    def adaptive(self) -> bool:
        """Whether the norm follows a quantile of the updates' norms."""
        return self.clipping == "adaptive"

    @property
    def start(self) -> float:
        """Bound of a whole update in the first round."""
        return self.clipping_norm or Bounds(self.clipping_norms or {}).norm

    @property
    def largest_norm(self) -> float:
        """Where an adaptive norm stops to grow, a public constant."""
        return self.largest_clipping_norm or min(LARGEST_NORM, 1e6 * self.start)

    def bounds(self, names: Sequence[str], norm: float | None = None) -> Bounds:
        """Return what bounds the updates of a round.

        Parameters
        ----------
        names : sequence of str
            Names of the arrays.
        norm : float or None
            The norm that earlier rounds have adapted to; that of the first round unless given.
        """
        if self.adaptive:
            return Bounds({WHOLE: self.start if norm is None else norm}, self.target_clipped_quantile)
        if self.clipping == "per-layer":
            return Bounds(layers(names, self.start))
        return Bounds(self.clipping_norms or {WHOLE: self.start})

    def bit_share(self, expected: float, groups: int, noise_multiplier: float) -> float:
        """Return which share of the budget of a round the bits take; 0 without bits.

        Parameters
        ----------
        expected, groups, noise_multiplier
            As for :func:`fedpriv.privacy.adaptive.default_count_stddev`, over all groups together.
        """
        if not self.adaptive:
            return 0.0
        reach = Bounds({WHOLE: 1.0}, self.target_clipped_quantile).reach
        stddev = self.clipped_count_stddev
        if stddev is None:
            stddev = default_count_stddev(expected, groups, noise_multiplier, reach)
        return bit_share(noise_multiplier, stddev, reach)

    def next_norm(self, norm: float, excess: float) -> float:
        """Return the norm of the next round from this round's and the released mean of the bits."""
        return next_norm(norm, excess, self.clip_norm_lr, self.start, self.largest_norm)
