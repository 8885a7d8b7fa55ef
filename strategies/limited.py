"""Who takes part where nobody can promise secret coins: limits that the server keeps, and a schedule within them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedpriv.errors import InputError
from fedpriv.privacy.coins import Coins
from fedpriv.privacy.participation import Participations, cohort_size, round_robin, uniform_choice
from fedpriv.privacy.sampling import FullParticipation, Sampling
from fedpriv.privacy.stream import Stream
from fedpriv.strategies.base import TaskStrategy

__all__ = ["LimitedStrategy"]

Ids = NDArray[np.int64]


class LimitedStrategy(TaskStrategy):
    """Base of strategies that may limit how often, and how far apart, a task takes part.

    Attributes
    ----------
    noise : {"independent", "banded"}
        Whether each round draws its noise alone, or noise is correlated over ``min_separation`` rounds, so that much of
        it cancels in the billboard. Banded noise is for real devices, where nobody can promise secret coins: nothing is
        assumed about who takes part but the limits below, and nothing is gained from sampling.
    min_separation, max_participations : int or None
        Limits that this strategy keeps for every task: rounds from one participation to the next at least, and rounds
        in which it takes part at most. Given any of them, or banded noise, ``sampling_rate`` is the share of the tasks
        that is asked each round, and all rounds are charged when the first one is. None stands for the largest
        separation that the rate permits, and for the least number of participations that the rounds then need.
    schedule : {"round-robin", "random"}
        Under limits: whether tasks take turns, or are drawn uniformly among those that the limits permit.
    """

    noise: Literal["independent", "banded"] = "independent"
    min_separation: int | None = Field(default=None, ge=1)
    max_participations: int | None = Field(default=None, ge=1)
    schedule: Literal["round-robin", "random"] = "round-robin"

    @model_validator(mode="after")
    def _limits_can_be_kept(self) -> LimitedStrategy:
        if not self.limited:
            if self.schedule != "round-robin":
                raise ValueError(
                    f"schedule={self.schedule!r} chooses among tasks that limits permit, and there are none; give "
                    "'min_separation', or leave it out for secret coins."
                )
            return self
        if self.fixed_cohorts:
            raise ValueError(
                "sampling='fixed-size' draws in secret, and limits assume no secret draw; leave 'sampling' out: under "
                "limits the same number of tasks is asked each round anyway."
            )
        if self._separation * self.sampling_rate > 1 + 1e-9:
            raise ValueError(
                f"'sampling_rate' must be at most 1/{self._separation} with min_separation={self.min_separation}, got "
                f"{self.sampling_rate:g}: so many tasks each round could not wait so long."
            )
        if self.noise == "banded" and self._separation < 2:
            raise ValueError(
                "banded noise needs tasks that wait between two participations: use 'min_separation' of at least 2 and "
                "'sampling_rate' of at most 1 / min_separation, or noise='independent'."
            )
        return self

    @property
    def limited(self) -> bool:
        """Whether participation is limited instead of left to secret coins."""
        return self.noise == "banded" or self.min_separation is not None or self.max_participations is not None

    @property
    def _separation(self) -> int:
        return self.min_separation or int(1 / self.sampling_rate + 1e-9)

    def stream(self, num_tasks: int) -> Stream | None:
        """Return what the rounds are charged for under limits, None without limits.

        Raises
        ------
        InputError
            Some public group is too small for the separation, or its tasks would be used up before the last round.
        """
        if not self.limited:
            return None
        separation, needed, enough = self._separation, 1, self.rounds
        for group, ids in self._members(num_tasks).items():
            size = cohort_size(len(ids), self.sampling_rate)
            if len(ids) // size < separation:
                raise InputError(
                    f"'min_separation' must be at most {len(ids) // size} for the group {group!r}, got {separation}: "
                    f"{size} of its {len(ids)} tasks each round could not wait so long; use larger groups or a smaller "
                    "separation."
                )
            needed = max(needed, math.ceil(self.rounds * size / len(ids)))
            enough = min(enough, (self.max_participations or needed) * len(ids) // size)
        if self.max_participations is not None and self.max_participations < needed:
            raise InputError(
                f"{self.rounds} rounds need tasks that take part {needed} times, and max_participations="
                f"{self.max_participations}: late rounds would publish noise alone; use at most {enough} rounds, or "
                f"max_participations of at least {needed}."
            )
        # By the separation alone, a random schedule may ask a task this often; taking turns needs the least.
        most = 1 + (self.rounds - 1) // separation
        wanted = needed if self.schedule == "round-robin" else most
        participations = min(self.max_participations or wanted, most)
        bands = min(separation, self.rounds) if self.noise == "banded" else 1
        return Stream(horizon=self.rounds, participations=participations, separation=separation, bands=bands)

    def priced(self, num_tasks: int, rounds: int) -> tuple[Sampling, int]:
        """Return a sampling and how many releases with it cost as much as a number of rounds, for the same noise.

        A stream costs one plain release per participation, whenever it stops.
        """
        stream = self.stream(num_tasks)
        return super().priced(num_tasks, rounds) if stream is None else (FullParticipation(), stream.participations)

    def choose(self, number: int, group: str, ids: Ids, coins: Coins) -> Ids:
        """Return who of a group takes part in a round: by coins, or as the limits permit."""
        stream = self.session.stream
        if stream is None:
            return super().choose(number, group, ids, coins)
        size = cohort_size(len(ids), self.sampling_rate)
        done = self.participations()
        if self.schedule == "random":
            return uniform_choice(ids[done.may(ids, number, stream)], size, coins)
        turn = ids[round_robin(len(ids), size, number)]
        return turn[done.may(turn, number, stream)]

    def participations(self) -> Participations:
        """Return how often each task was asked up to the last boundary, and when last."""
        session = self.session
        if session.boundary.round == 0:
            return Participations.none(session.registry.num_tasks)
        return Participations.from_arrays(session.boundary.participations, session.registry.num_tasks)

    def check_boundary(self) -> None:
        """Refuse to go on with a stream whose past noise or participations are not there."""
        session, boundary = self.session, self.session.boundary
        stream = session.stream
        if stream is None or boundary.round in (0, self.rounds):
            return
        Participations.from_arrays(boundary.participations, session.registry.num_tasks)
        if stream.bands > 1 and session.noise_multiplier and set(boundary.noise) != set(session.groups):
            raise InputError(
                f"the noise of round {boundary.round} is not in the checkpoint, and later noise depends on it; it may "
                "not be drawn again: restore the checkpoint or start a new run."
            )

    def expected(self, num_tasks: int) -> float:
        """Return how many tasks of a group of this size take part in a round: a public constant."""
        return cohort_size(num_tasks, self.sampling_rate) if self.limited else super().expected(num_tasks)
