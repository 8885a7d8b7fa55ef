"""Who takes part in a round, who took part when, and who may.

Limits are kept by the server, because the guarantee rests on them, where no secret coins can be assumed, as on real
devices. A task counts as a participant when it is asked, whether or not it answers: else its data could decide how
often it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.names import kebab
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.coins import Coins
from fedpriv.privacy.sampling import MIN_SEPARATION, TAKEN, Sampling, fixed_size, sampling_from
from fedpriv.privacy.terms import Relation

__all__ = ["Participation", "Participations", "cohort_size", "round_robin", "uniform_choice"]

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Participation:
    """How the tasks of each round are chosen: everybody, by secret coins, in cohorts of fixed size, or within limits.

    Attributes
    ----------
    sampling_rate : float
        In (0, 1]. Probability with which a task takes part in a round; 1 is full participation. With cohorts of fixed
        size and under limits the share of the tasks that is asked.
    sampling : {"poisson", "fixed-size"}
        Whether every task flips a secret coin of its own, or cohorts have a fixed size, as Flower's ``fraction_train``
        makes them: the whole number nearest to ``sampling_rate`` times the number of tasks (of each group). Coins
        protect more for the same noise; for fixed sizes see :mod:`fedpriv.privacy.sampling`.
    min_separation, max_participations : int or None
        Limits for every task: rounds from one participation to the next at least, and rounds in which it takes part at
        most. None stands for the largest separation that the rate permits, and for the least number of participations
        that the rounds then need.
    schedule : {"round-robin", "random"}
        Under limits: whether tasks take turns, or are drawn uniformly among those that the limits permit.
    limits : bool
        Whether there are limits although none is given, as for banded noise.

    Raises
    ------
    InputError
        The values do not go together.
    """

    sampling_rate: float = 1.0
    sampling: Literal["poisson", "fixed-size"] = "poisson"
    min_separation: int | None = None
    max_participations: int | None = None
    schedule: Literal["round-robin", "random"] = "round-robin"
    limits: bool = False

    def __post_init__(self) -> None:
        sampling_from(self.sampling_rate)
        if not self.limited:
            if self.schedule != "round-robin":
                raise InputError(
                    f"schedule={self.schedule!r} chooses among tasks that limits permit, and there are none; give "
                    "'min_separation', or leave it out for secret coins."
                )
            return
        if self.fixed_cohorts:
            raise InputError(
                "sampling='fixed-size' draws in secret, and limits assume no secret draw; leave 'sampling' out: under "
                "limits the same number of tasks is asked each round anyway."
            )
        if self.separation * self.sampling_rate > 1 + 1e-9:
            raise InputError(
                f"'sampling_rate' must be at most 1/{self.separation} with min_separation={self.min_separation}, got "
                f"{self.sampling_rate:g}: so many tasks each round could not wait so long."
            )

    @property
    def limited(self) -> bool:
        """Whether participation is limited instead of left to secret coins."""
        return self.limits or self.min_separation is not None or self.max_participations is not None

    @property
    def fixed_cohorts(self) -> bool:
        """Whether cohorts have a fixed size below that of the population, drawn in secret."""
        return self.sampling == "fixed-size" and self.sampling_rate < 1.0

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Neighbouring relations that hold for this scheme, the headline first; one of one's own may state others.

        Replace-one alone where another task takes the place of one that is removed. The row of the table of claims has
        to know them, and nodes are told whether add/remove holds.
        """
        both = (Relation.ADD_REMOVE, Relation.REPLACE_ONE)
        return both[1:] if self.fixed_cohorts else both

    @property
    def replaces(self) -> bool:
        """Whether add/remove does not hold, which is what nodes are told."""
        return Relation.ADD_REMOVE not in self.relations

    @property
    def separation(self) -> int:
        """Rounds from one participation to the next at least, where there are limits."""
        return self.min_separation or int(1 / self.sampling_rate + 1e-9)

    def sampling_of(self, num_tasks: int, *, counted: bool) -> Sampling:
        """Return how a round draws from a group of this size; of no meaning under limits.

        Parameters
        ----------
        num_tasks : int
            Size of the group.
        counted : bool
            Whether the draws of cohorts of fixed size are told by what tasks send later, so that none is amplified.
        """
        if self.fixed_cohorts:
            return fixed_size(self.sampling_rate, num_tasks, counted=counted)
        return sampling_from(self.sampling_rate)

    def scheme(self, num_tasks: int, *, counted: bool) -> str:
        """Return how tasks are chosen by the name that the table of claims may know.

        A class that chooses in its own way has its own name, in kebab-case: the formulas of others are not borrowed.
        Under limits it does not matter who chooses, because the limits alone are accounted for, and checked.

        Raises
        ------
        InputError
            The class has the name of a scheme that is accounted for already.
        """
        if self.limited:
            return MIN_SEPARATION
        sampling = self.sampling_of(num_tasks, counted=counted)
        inherited = type(self).choose is Participation.choose and "choose" not in vars(self)
        chooser = type(sampling) if inherited else type(self)
        if chooser in get_args(Sampling):
            return sampling.name
        if (name := kebab(chooser.__name__)) in TAKEN:
            raise InputError(
                f"the name {name!r} is taken by a scheme that chooses in another way, whose formulas would be "
                f"borrowed; give the class {chooser.__name__} another name."
            )
        return name

    def expected(self, num_tasks: int) -> float:
        """Return how many tasks of a group of this size take part in a round: a public constant."""
        if self.limited:
            return cohort_size(num_tasks, self.sampling_rate)
        return self.sampling_of(num_tasks, counted=False).participants(num_tasks)

    def banded_mechanism(self, sizes: Mapping[str, int], rounds: int, *, correlated: bool) -> BandedMechanism | None:
        """Return what rounds are charged for under limits, None without limits.

        Parameters
        ----------
        sizes : mapping
            Public group to its number of tasks.
        rounds : int
            Of the run.
        correlated : bool
            Whether noise is correlated over the separation.

        Raises
        ------
        InputError
            Some public group is too small for the separation, or its tasks would be used up before the last round.
        """
        if not self.limited:
            return None
        separation, needed, enough = self.separation, 1, rounds
        for group, tasks in sizes.items():
            size = cohort_size(tasks, self.sampling_rate)
            if tasks // size < separation:
                raise InputError(
                    f"'min_separation' must be at most {tasks // size} for the group {group!r}, got {separation}: "
                    f"{size} of its {tasks} tasks each round could not wait so long; use larger groups or a smaller "
                    "separation."
                )
            needed = max(needed, math.ceil(rounds * size / tasks))
            enough = min(enough, (self.max_participations or needed) * tasks // size)
        if self.max_participations is not None and self.max_participations < needed:
            raise InputError(
                f"{rounds} rounds need tasks that take part {needed} times, and max_participations="
                f"{self.max_participations}: late rounds would publish noise alone; use at most {enough} rounds, or "
                f"max_participations of at least {needed}."
            )
        # By the separation alone, a random schedule may ask a task this often; taking turns needs the least.
        most = 1 + (rounds - 1) // separation
        wanted = needed if self.schedule == "round-robin" else most
        participations = min(self.max_participations or wanted, most)
        bands = min(separation, rounds) if correlated else 1
        return BandedMechanism(horizon=rounds, participations=participations, separation=separation, bands=bands)

    def choose(
        self, number: int, ids: Ids, coins: Coins, banded: BandedMechanism | None, done: Participations | None
    ) -> Ids:
        """Return who of a group takes part in a round.

        Parameters
        ----------
        number : int
            Of the round, from 1.
        ids : ndarray of int64, shape [n]
            Tasks of the group, sorted.
        coins : Coins
            Where the draw comes from.
        banded, done : BandedMechanism and Participations, or None
            Under limits: what was charged, and who took part so far.
        """
        if banded is None or done is None:
            return ids[self.sampling_of(len(ids), counted=False).draw(len(ids), coins)]
        size = cohort_size(len(ids), self.sampling_rate)
        if self.schedule == "random":
            return uniform_choice(ids[done.may(ids, number, banded)], size, coins)
        turn = ids[round_robin(len(ids), size, number)]
        return turn[done.may(turn, number, banded)]


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

    def may(self, ids: Ids, round: int, banded: BandedMechanism) -> NDArray[np.bool_]:
        """Return for some tasks whether they may be asked in a round."""
        rested = (self.counts[ids] == 0) | (round - self.last[ids] >= banded.separation)
        return np.asarray(rested & (self.counts[ids] < banded.participations))

    def after(self, ids: Ids, round: int, banded: BandedMechanism) -> Participations:
        """Return the record after a round in which these tasks were asked.

        Raises
        ------
        ComponentFailure
            A limit was not kept, by whatever chose the tasks: what was summed must not be released.
        """
        if len(np.unique(ids)) != len(ids) or not self.may(ids, round, banded).all():
            raise ComponentFailure(
                f"round {round} asked a task more than {banded.participations} times or less than "
                f"{banded.separation} rounds apart, which the noise was not made for; nothing was released."
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
