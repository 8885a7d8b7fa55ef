"""What is asked: all numbers of a run but one, who looks, and at what."""

from __future__ import annotations

import logging
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fedpriv.errors import InputError, NoGuarantee
from fedpriv.privacy.calibration import SMALLEST_EPSILON
from fedpriv.privacy.claims import Row, claim
from fedpriv.privacy.sampling import (
    FIXED_SIZE,
    UNAMPLIFIED,
    FixedSizeSampling,
    FullParticipation,
    PoissonSampling,
    Sampling,
    current,
    fixed_size,
)
from fedpriv.privacy.target import check_delta, default_delta
from fedpriv.privacy.terms import NoiseAt, Observer, Output, Relation, refuse_add_remove
from fedpriv.settings import Settings

__all__ = ["Account", "Unknown"]

Unknown = Literal["epsilon", "noise_multiplier", "rounds", "sampling_rate", "population"]

_log = logging.getLogger(__name__)

_SEEN = {
    Observer.PUBLIC: Output.BILLBOARDS,
    Observer.COALITION: Output.PERSONAL_MODELS,
    Observer.SERVER: Output.ROWS,
    Observer.EXPERIMENTER: Output.DIAGNOSTICS,
}


class Account(Settings):
    """The numbers of a run with one of them left out, which is the one that is asked for.

    Attributes
    ----------
    noise_multiplier : float or None
        Standard deviation of the noise in clipping norms.
    rounds : int or None
        Number of releases.
    sampling_rate : float or None
        Probability with which a task takes part in a round.
    cohort : int or None
        Participants of a round (expected ones, with Poisson sampling), instead of ``sampling_rate``.
    population : int or None
        Number of tasks.
    epsilon : float or None
        What all rounds together may cost.
    delta : float or None
        1/(100 population) unless given.
    sampling : {"poisson", "fixed-size", "fixed-size-unamplified", "full"}
        How tasks are chosen; the third counts every round in full.
    relation : Relation or None
        Under which ``epsilon`` holds; the first one of the claim unless given.
    observer : Observer
        Who looks: the public at the billboards, a coalition of all other tasks at their personal models, or the server
        at rows of updates.
    noise_at : NoiseAt
        Where the noise is added.
    tasks_per_person : int
        Tasks of one person: what all of them together cost is said, too.
    """

    noise_multiplier: float | None = Field(default=None, gt=0.0)
    rounds: int | None = Field(default=None, ge=1)
    sampling_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    cohort: int | None = Field(default=None, ge=1)
    population: int | None = Field(default=None, ge=1)
    epsilon: float | None = Field(default=None, ge=SMALLEST_EPSILON)
    delta: float | None = Field(default=None, gt=0.0, lt=1.0)
    sampling: Literal["poisson", "fixed-size", "fixed-size-unamplified", "full"] = "poisson"
    relation: Relation | None = None
    observer: Observer = Observer.PUBLIC
    noise_at: NoiseAt = NoiseAt.SERVER
    tasks_per_person: int = Field(default=1, ge=1)

    @field_validator("sampling", mode="before")
    @classmethod
    def _old_name(cls, value: Any) -> Any:
        if (name := current(value)) != value:
            _log.warning("the sampling %r is called %r now; use that name.", value, name)
        return name

    @model_validator(mode="after")
    def _can_be_answered(self) -> Self:
        row = self.row
        if self.relation is not None and self.relation not in row.relations:
            if self.fixed:
                refuse_add_remove(self.relation)
            raise NoGuarantee(
                f"{row.output.value} seen by the {row.observer.value} have a guarantee under "
                f"{' or '.join(row.relations)} only, not {self.relation.value}; use that relation."
            )
        self._check_cohort()
        unknown = self.unknown
        if self.delta is None and (self.population is None or unknown == "population"):
            raise InputError("'delta' is required where the number of tasks is not given; give --delta.")
        if self.population is not None:
            check_delta(self.checked_delta, self.population)
        return self

    def _check_cohort(self) -> None:
        if self.sampling == "full" and (self.sampling_rate not in (None, 1.0) or self.cohort is not None):
            raise InputError(
                "full participation means that every task takes part in every round; leave out --sampling-rate and "
                "--cohort, or choose --sampling poisson."
            )
        if self.sampling_rate is not None and self.cohort is not None:
            raise InputError("give either --sampling-rate or --cohort (participants of a round), not both.")
        if self.cohort is not None and self.population is not None and self.cohort > self.population:
            raise InputError(
                f"'cohort' must be at most the population, {self.population}, got {self.cohort}; draw fewer, or more "
                "tasks."
            )
        if self.sampling == FIXED_SIZE and self.population is None and self.cohort is None:
            raise InputError(
                f"the cohort of {self.sampling!r} sampling is a whole number of tasks, so it needs --population beside "
                "--sampling-rate, or --cohort; or choose --sampling poisson."
            )

    @property
    def fixed(self) -> bool:
        """Whether cohorts have a fixed size."""
        return self.sampling in (FIXED_SIZE, UNAMPLIFIED)

    @property
    def row(self) -> Row:
        """The line of the table of claims; what has none is refused."""
        return claim(_SEEN[self.observer], self.observer, self.noise_at, self.sampling)

    @property
    def unknown(self) -> Unknown:
        """The number that was left out.

        Raises
        ------
        InputError
            If it is not exactly one.
        """
        missing: list[Unknown] = []
        if self.epsilon is None:
            missing.append("epsilon")
        if self.noise_multiplier is None:
            missing.append("noise_multiplier")
        if self.rounds is None:
            missing.append("rounds")
        sampled = self.row.amplified and self.sampling != "full"  # otherwise a rate changes nothing
        known = self.sampling_rate is not None or (self.cohort is not None and self.population is not None)
        if sampled and not known:
            missing.append("sampling_rate" if self.cohort is None else "population")
        if len(missing) == 1:
            return missing[0]
        options = "--epsilon, --noise-multiplier and --rounds"
        if sampled:
            options = "--epsilon, --noise-multiplier, --rounds and --sampling-rate (or --cohort and --population)"
        if not missing:
            raise InputError(f"nothing is left to solve for; leave out one of {options}.")
        names = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
        hint = "; if all tasks take part in every round, say --sampling full" if "sampling_rate" in missing else ""
        raise InputError(f"give all but one of {options}: missing are {names}{hint}.")

    @property
    def stated_relation(self) -> Relation:
        """The relation of ``epsilon``."""
        return self.row.relations[0] if self.relation is None else self.relation

    @property
    def checked_delta(self) -> float:
        """The given delta, or the default of the population."""
        return default_delta(self.population or 1) if self.delta is None else self.delta

    def sampling_with(
        self, *, rate: float | None = None, cohort: int | None = None, population: int | None = None
    ) -> Sampling:
        """Return how tasks are chosen, with what was left out filled in."""
        if self.sampling == "full":
            return FullParticipation()
        rate = self.sampling_rate if rate is None else rate
        cohort = self.cohort if cohort is None else cohort
        tasks = self.population if population is None else population
        if self.fixed and tasks is not None and cohort is not None:
            return FixedSizeSampling(cohort, tasks, self.sampling == UNAMPLIFIED)
        if self.fixed and tasks is not None and rate is not None:
            return fixed_size(rate, tasks, counted=self.sampling == UNAMPLIFIED)
        if self.sampling == UNAMPLIFIED:
            return FixedSizeSampling(1, 1, counted=True)  # every round counts in full, whatever the size
        if cohort is not None and tasks is not None:
            rate = cohort / tasks
        return PoissonSampling(1.0 if rate is None else rate)

    def as_counted(self, sampling: Sampling) -> Sampling:
        """Return the sampling as it counts against this observer, who may know who takes part."""
        return sampling if self.row.amplified or self.fixed else FullParticipation()
