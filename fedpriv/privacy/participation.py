"""Who took part when, and who may: limits that the server keeps, because the guarantee rests on them.

Used where no secret coins can be assumed, as on real devices. A task counts as a participant when it is asked, whether
or not it answers: else its data could decide how often it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy.coins import Coins
from fedpriv.privacy.stream import Stream

__all__ = ["Participations", "cohort_size", "round_robin", "uniform_choice"]

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Participations:
    """How often each of m tasks was asked, and when last.

    Attributes
    ----------
    counts, last : ndarray of int32, shape [m]
        Number of rounds, and the last one's number from 1; 0 is never.
    """

    counts: NDArray[np.int32]
    last: NDArray[np.int32]

    @classmethod
    def none(cls, num_tasks: int) -> Participations:
        """Return the record before the first round."""
        return cls(np.zeros(num_tasks, dtype=np.int32), np.zeros(num_tasks, dtype=np.int32))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.int32]], num_tasks: int) -> Participations:
        """Read what :meth:`to_arrays` gave.

        Raises
        ------
        InputError
            Something is missing or belongs to another population.
        """
        if {name: array.shape for name, array in arrays.items()} != {"counts": (num_tasks,), "last": (num_tasks,)}:
            raise InputError(
                f"the checkpoint does not hold how often each of {num_tasks} tasks took part, so its limits cannot be "
                "kept; restore the checkpoint or start a new run."
            )
        return cls(arrays["counts"], arrays["last"])

    def to_arrays(self) -> dict[str, NDArray[np.int32]]:
        """Return the record as named arrays, for a checkpoint."""
        return {"counts": self.counts, "last": self.last}

    def may(self, ids: Ids, round: int, stream: Stream) -> NDArray[np.bool_]:
        """Return for some tasks whether they may be asked in a round."""
        rested = (self.counts[ids] == 0) | (round - self.last[ids] >= stream.separation)
        return np.asarray(rested & (self.counts[ids] < stream.participations))

    def after(self, ids: Ids, round: int, stream: Stream) -> Participations:
        """Return the record after a round in which these tasks were asked.

        Raises
        ------
        ComponentFailure
            A limit was not kept, by whatever chose the tasks: what was summed must not be released.
        """
        if len(np.unique(ids)) != len(ids) or not self.may(ids, round, stream).all():
            raise ComponentFailure(
                f"round {round} asked a task more than {stream.participations} times or less than "
                f"{stream.separation} rounds apart, which the noise was not made for; nothing was released."
            )
        counts, last = self.counts.copy(), self.last.copy()
        counts[ids] += 1
        last[ids] = round
        return Participations(counts, last)


def cohort_size(num_tasks: int, rate: float) -> int:
    """Return how many of ``num_tasks`` tasks take part in a round, a public constant: rounded down, at least 1."""
    return max(1, int(rate * num_tasks + 1e-9))


def round_robin(num_tasks: int, size: int, round: int) -> Ids:
    """Return the positions of a round (from 1) when all tasks take turns, sorted.

    Everybody's turn comes every ``num_tasks / size`` rounds, rounded down or up. Neighbours, who share a shard in
    simulations, have different turns.
    """
    turns = -(-num_tasks // size)
    order = np.lexsort((np.arange(num_tasks), np.arange(num_tasks) % turns))
    start = (round - 1) * size
    return np.sort(order[np.arange(start, start + size) % num_tasks]).astype(np.int64)


def uniform_choice(candidates: Ids, size: int, coins: Coins) -> Ids:
    """Return ``size`` of the candidates, every subset being equally likely, or all if there are fewer; sorted."""
    return candidates[coins.subset(len(candidates), min(size, len(candidates)))]
