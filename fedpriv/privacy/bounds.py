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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.privacy.clipping import check_clipping_norm, clip_rows, clipped_sum, update_norms

__all__ = ["BIT", "WHOLE", "Bounds", "layers"]

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
        kept = self._finite(update)
        out: Arrays = {}
        for group, names in self._groups(update).items():
            clipped = clip_rows([kept[name] for name in names], self._bound(group)).rows
            out.update(zip(names, clipped, strict=True))
        return {name: out[name] for name in update}

    def sum(self, update: Mapping[str, NDArray[Any]], tasks: float = 1) -> Arrays:
        """Clip what k tasks send, arrays [k, ...], and add it up; a row that is not finite anywhere counts as 0.

        With ``tasks`` every row is clipped to what the sum of so many tasks can be; noise in it counts as more tasks.
        """
        kept = self._finite(update)
        out: Arrays = {}
        for group, names in self._groups(update).items():
            total = clipped_sum([kept[name] for name in names], self._bound(group) * tasks)
            out.update(zip(names, total, strict=True))
        return {name: out[name] for name in update}

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

    def _groups(self, update: Mapping[str, Any]) -> dict[str, list[str]]:
        groups = self.members([name for name in update if name != BIT])
        return {**groups, BIT: [BIT]} if BIT in update else groups

    def _bound(self, group: str) -> float:
        return self.reach if group == BIT else self.norms[group]

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
