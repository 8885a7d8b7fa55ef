"""Finds the number that was left out: the best one with which epsilon still holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedpriv.errors import InputError
from fedpriv.privacy.account import Account, Unknown
from fedpriv.privacy.accounting import Epsilon, counted_in_full, epsilon
from fedpriv.privacy.attacker import Attacker, attacker_for
from fedpriv.privacy.calibration import calibrate_noise_multiplier, needs_no_noise, without_noise
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.person import person_epsilon
from fedpriv.privacy.sampling import FIXED_SIZE, UNAMPLIFIED, FixedSizeSampling, Sampling
from fedpriv.privacy.target import Target, check_delta
from fedpriv.privacy.terms import Relation

__all__ = ["Answer", "solve"]

_MAX_ROUNDS = 10**9
"""Most rounds that are looked at."""

_MIN_SHARE_OF_TARGET = 0.997
"""A rate is found once epsilon is between this and 1 of its target."""


@dataclass(frozen=True)
class Answer:
    """All numbers of a run, the one that was asked for among them.

    Attributes
    ----------
    question : Account
        What was asked.
    solved_for : str
        Which number was found.
    noise_multiplier, rounds, sampling, population, delta
        As in :class:`fedpriv.privacy.account.Account`, with the number that was found; None is a population of unknown
        size.
    """

    question: Account
    solved_for: Unknown
    noise_multiplier: float
    rounds: int
    sampling: Sampling
    population: int | None
    delta: float

    @property
    def history(self) -> dict[Release, int]:
        """What is accounted for."""
        return self.history_of(self.rounds)

    def history_of(self, rounds: int) -> dict[Release, int]:
        """Return what a number of rounds releases."""
        return {Release.of(self.question.as_counted(self.sampling), self.noise_multiplier): rounds}

    def epsilon(self, relation: Relation | None = None, *, rdp: bool = False, rounds: int | None = None) -> Epsilon:
        """Return epsilon; under the stated relation and of all rounds unless told otherwise."""
        relation = self.question.stated_relation if relation is None else relation
        history = self.history_of(self.rounds if rounds is None else rounds)
        return epsilon(history, self.delta, relation, "rdp" if rdp else "auto")

    def person(self) -> Epsilon | None:
        """Return what a person with several tasks spends, under the stated relation of all of them; None for one."""
        tasks = self.question.tasks_per_person
        if tasks == 1:
            return None
        return person_epsilon(self.history, self.delta, self.question.stated_relation, tasks)

    def attacker(self) -> Attacker:
        """Return what all releases together allow an attacker, under the stated relation."""
        return attacker_for(self.history, self.question.stated_relation)

    @property
    def rate(self) -> float | None:
        """The probability with which a task takes part; None where it does not matter and was not given."""
        unsized = isinstance(self.sampling, FixedSizeSampling) and self.cohort is None
        return None if unsized else self.sampling.rate

    @property
    def cohort(self) -> int | None:
        """Participants of every round, where that is a fixed number."""
        if not isinstance(self.sampling, FixedSizeSampling) or self.sampling.num_tasks != self.population:
            return None
        return self.sampling.size

    @property
    def warnings(self) -> list[str]:
        """What should be known besides, or changed although it is allowed."""
        said = []
        if self.question.sampling == FIXED_SIZE:
            known = epsilon(counted_in_full(self.history), self.delta, Relation.REPLACE_ONE).value
            said.append(
                f"the other tasks know who takes part: against a coalition of them epsilon is {known:.5g} "
                f"(--observer coalition --sampling {UNAMPLIFIED})."
            )
        counted = self.question.as_counted(self.sampling)
        if needs_no_noise(counted, self.rounds, self.delta):
            said.append(f"{without_noise(counted, self.rounds, self.delta)}; use a smaller delta.")
        if self.population is None:
            return [*said, "delta must be far below 1/number of tasks; give --population to have it checked."]
        return [*said, *check_delta(self.delta, self.population)]


def solve(question: Account) -> Answer:
    """Find the number that the question leaves out.

    A number of rounds is the largest with which epsilon holds, and one more breaks it. So are a cohort's size, and the
    other way round a number of tasks. A noise multiplier is the smallest, a Poisson rate the largest, up to less than
    a per cent of epsilon.

    Raises
    ------
    InputError
        If no number will do; the message says what else to change.
    """
    unknown, delta = question.unknown, question.checked_delta

    def answer(
        *,
        noise: float | None = None,
        rounds: int | None = None,
        sampling: Sampling | None = None,
        population: int | None = None,
    ) -> Answer:
        return Answer(
            question,
            unknown,
            noise or question.noise_multiplier or math.nan,
            rounds or question.rounds or 1,
            sampling or question.sampling_with(),
            population or question.population,
            delta,
        )

    goal = math.inf if question.epsilon is None else question.epsilon
    if unknown == "epsilon":
        return answer()
    if unknown == "noise_multiplier":
        target = Target(epsilon=goal, delta=delta, relation=question.stated_relation)
        sampling = question.as_counted(question.sampling_with())
        # The size of the population is checked where the question is asked.
        return answer(noise=calibrate_noise_multiplier(target, sampling, question.rounds or 1, 1))
    if unknown == "rounds":
        return answer(rounds=_most_rounds(lambda rounds: answer(rounds=rounds).epsilon().value, goal))
    if unknown == "population":
        cohort = question.cohort or 1

        def of_tasks(count: int) -> Answer:
            return answer(sampling=question.sampling_with(population=count), population=count)

        return of_tasks(_fewest_tasks(lambda count: of_tasks(int(count)).epsilon().value, goal, cohort, delta))
    if question.fixed and question.population is not None:
        size = _largest_cohort(
            lambda size: answer(sampling=question.sampling_with(cohort=int(size))).epsilon().value,
            goal,
            question.population,
        )
        return answer(sampling=question.sampling_with(cohort=size))
    rate = _largest_rate(lambda rate: answer(sampling=question.sampling_with(rate=rate)).epsilon().value, goal)
    return answer(sampling=question.sampling_with(rate=rate))


def _most_rounds(cost: Callable[[int], float], goal: float) -> int:
    if cost(1) > goal:
        raise InputError(f"a single round costs epsilon {cost(1):.4g}, more than {goal:.4g}; use more noise.")
    holds, breaks = 1, 2
    while cost(breaks) <= goal:
        if breaks >= _MAX_ROUNDS:
            raise InputError(f"even {_MAX_ROUNDS:,} rounds cost less than epsilon {goal:.4g}; use less noise.")
        holds, breaks = breaks, min(_MAX_ROUNDS, breaks * 8)
    return int(_boundary(lambda rounds: cost(int(rounds)), goal, holds, breaks, whole=True))


def _largest_cohort(cost: Callable[[float], float], goal: float, population: int) -> int:
    if cost(population) <= goal:
        return population
    if cost(1) > goal:
        raise InputError(
            f"even a cohort of one task costs epsilon {cost(1):.4g}, more than {goal:.4g}; use more noise or fewer "
            "rounds."
        )
    return int(_boundary(cost, goal, 1, population, whole=True))


def _fewest_tasks(cost: Callable[[float], float], goal: float, cohort: int, delta: float) -> int:
    most = math.ceil(1.0 / delta) - 1  # delta must stay below 1/m
    if cohort > most:
        raise InputError(f"'delta' must be below 1/m for m >= {cohort} tasks, got {delta:.3g}; use a smaller delta.")
    if cost(cohort) <= goal:
        return cohort
    breaks, holds = cohort, min(most, 2 * cohort)
    while cost(holds) > goal:
        if holds >= most:
            raise InputError(
                f"no population of fewer than 1/delta = {1 / delta:.4g} tasks brings epsilon to {goal:.4g}; use a "
                "smaller delta, more noise or fewer rounds."
            )
        breaks, holds = holds, min(most, holds * 8)
    return int(_boundary(cost, goal, holds, breaks, whole=True))


def _largest_rate(cost: Callable[[float], float], goal: float) -> float:
    if cost(1.0) <= goal:
        return 1.0
    breaks, holds = 1.0, 0.25
    while cost(holds) > goal:
        if holds < 1e-12:
            raise InputError(f"no sampling rate brings epsilon to {goal:.4g}; use more noise.")
        breaks, holds = holds, holds / 16.0
    return _boundary(cost, goal, holds, breaks, whole=False)


def _boundary(cost: Callable[[float], float], goal: float, holds: float, breaks: float, *, whole: bool) -> float:
    """Move two ends together until they meet: ``cost`` is at most the goal at ``holds`` and above it at ``breaks``.

    The next point is where the line through both ends crosses the goal on logarithmic axes; every third one halves the
    gap, so that a bent curve cannot hold the search up.
    """
    low, high = cost(holds), cost(breaks)
    for step in range(200):
        if whole and abs(holds - breaks) <= 1.0:
            break
        if not whole and (low >= _MIN_SHARE_OF_TARGET * goal or abs(breaks / holds - 1.0) < 1e-9):
            break
        a, b = math.log(holds), math.log(breaks)
        share = 0.5
        if step % 3 != 2 and low > 0.0 and math.isfinite(high) and high > low:
            aim = goal if whole else goal * math.sqrt(_MIN_SHARE_OF_TARGET)
            share = (math.log(aim) - math.log(low)) / (math.log(high) - math.log(low))
            share = min(0.999, max(0.001, share))
        point = math.exp(a + share * (b - a))
        if whole:
            inner = sorted((holds, breaks))
            point = min(max(round(point), inner[0] + 1), inner[1] - 1)
        value = cost(point)
        if value <= goal:
            holds, low = point, value
        else:
            breaks, high = point, value
    return holds
