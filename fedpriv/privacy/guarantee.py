"""The guarantee: one frozen value that says what is promised, to whom, and how it was accounted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fedpriv.errors import InputError, NoGuarantee
from fedpriv.privacy.accounting import (
    Accountant,
    Releases,
    count_releases,
    counted_in_full,
    epsilon,
    shared_relations,
)
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.claims import Row, claim
from fedpriv.privacy.cost import GAUSSIAN
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.rounding import NOT_EXACT
from fedpriv.privacy.sampling import FIXED_SIZE, MIN_SEPARATION, UNAMPLIFIED, current
from fedpriv.privacy.target import check_delta
from fedpriv.privacy.terms import NoiseAt, Notion, Observer, Output, Relation

__all__ = [
    "AGAINST",
    "REACHED",
    "UNWATCHED",
    "WATCHED",
    "Guarantee",
    "assumptions_for",
    "guarantee_for",
    "guarantees_for",
]

AGAINST = {
    Observer.PUBLIC: "the public, who knows neither the coins nor who took part",
    Observer.COALITION: "a coalition of all other tasks",
    Observer.SERVER: "the server",
}
"""Whom a guarantee holds against, in words."""

_ENUMS = {"notion": Notion, "relation": Relation, "observer": Observer, "output": Output, "noise_at": NoiseAt}


@dataclass(frozen=True)
class Guarantee:
    """What is promised; it cannot be constructed for a combination that the table of claims refuses.

    Attributes
    ----------
    notion : Notion
        What kind of privacy.
    unit : str
        What is protected: "task" (one learner with all its data).
    relation : Relation
        Neighbouring relation of ``epsilon``.
    observer, output, noise_at
        Who looks, at what, and where the noise is added.
    epsilon, delta : float
        Infinity means no guarantee; 0 with no rounds means that nothing was released.
    accountant : str
        Which accountant found epsilon.
    epsilon_replace_one : float
        The epsilon under replace-one, printed beside another relation; both are the same where only replace-one holds.
    sampling : str
        How tasks were chosen, in words.
    sampling_names : tuple of str
        Names of the samplings that ran, as releases name them.
    rounds : int
        Number of releases that were charged: all rounds of a banded mechanism once it began.
    noise_multiplier, clipping_norm : float or None
        Of the updates, where there are any; None if the releases differ in it, or there were none.
    num_tasks : int
        Size of the population.
    public : str
        What is public and not protected.
    assumptions : tuple of str
        What must hold besides.
    reproduction : bool
        True if noise and coins came from a seed; then nothing is promised.
    warnings : tuple of str
        Sentences that must be shown beside the guarantee.
    """

    notion: Notion
    unit: str
    relation: Relation
    observer: Observer
    output: Output
    noise_at: NoiseAt
    epsilon: float
    delta: float
    accountant: str
    epsilon_replace_one: float
    sampling: str
    sampling_names: tuple[str, ...]
    rounds: int
    noise_multiplier: float | None
    clipping_norm: float | None
    num_tasks: int
    public: str
    assumptions: tuple[str, ...] = ()
    reproduction: bool = False
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_delta(self.delta, self.num_tasks)
        for name in self.sampling_names or ("full",):
            row = claim(self.output, self.observer, self.noise_at, name)
            if self.notion != row.notion or not row.holds(self.relation):
                raise NoGuarantee(
                    f"{self.output.value} carry {row.notion.value} under {' or '.join(row.relations)}, not "
                    f"{self.notion.value} under {self.relation.value}; use guarantee_for(...)."
                )
        if not self.epsilon >= 0.0 or not self.epsilon_replace_one >= 0.0:
            raise NoGuarantee(f"epsilon must be at least 0, got {self.epsilon!r}; use guarantee_for(...).")

    def with_unreachable(self) -> Guarantee:
        """Return this guarantee for a run in which some nodes could not be reached: with what that assumes, said."""
        said = f"Some nodes could not be reached and count as zero, so this assumes that {REACHED}."
        return replace(self, assumptions=(*self.assumptions, REACHED), warnings=(*self.warnings, said))

    def with_network(self) -> Guarantee:
        """Return this guarantee for a run on real machines: who watches the network sees who was asked in a round."""
        if not {_COINS_HIDDEN, _DRAW_HIDDEN} & set(self.assumptions):
            return self  # nothing is owed to the draw
        return replace(self, assumptions=(*self.assumptions, UNWATCHED), warnings=(*self.warnings, WATCHED))

    @property
    def holds(self) -> bool:
        """Whether anything is promised."""
        return not self.reproduction and math.isfinite(self.epsilon)

    def __str__(self) -> str:
        if self.rounds == 0:
            text = (
                f"Nothing was released: epsilon 0 ({self.notion.value}, unit {self.unit}, "
                f"{self.relation.value}) against {AGAINST[self.observer]}."
            )
        elif math.isinf(self.epsilon):
            text = (
                f"no guarantee: at least one of {self.rounds} releases had no noise (or far too little), so "
                f"epsilon is infinite for the {self.output.value}."
            )
        else:
            text = self._promise()
        if self.reproduction:
            text = (
                "reproduction, no guarantee: noise and coins came from a seed. With secret randomness the "
                f"mechanism would have had: {text}"
            )
        return " ".join([text, *self.warnings])

    def _promise(self) -> str:
        other = f" (replace-one: epsilon = {self.epsilon_replace_one:.4g})"
        return (
            f"{self.notion.value[0].upper()}{self.notion.value[1:]} of the {self.output.value} against "
            f"{AGAINST[self.observer]}: unit {self.unit}, relation {self.relation.value}, "
            f"epsilon = {self.epsilon:.4g}, delta = {self.delta:.3g}, accountant {self.accountant}"
            f"{'' if self.relation is Relation.REPLACE_ONE else other}. "
            f"{self.rounds} release{'s' if self.rounds != 1 else ''} on {self.num_tasks} tasks, "
            f"{self.sampling}, noise {_number(self.noise_multiplier)}, clipping norm "
            f"{_number(self.clipping_norm)}. The noise is computed in floating point: not proven exact."
        )

    def to_json(self) -> dict[str, Any]:
        """Return a dict for a JSON file; an infinite epsilon becomes the text ``"inf"``."""
        values: dict[str, Any] = {key: _plain(value) for key, value in asdict(self).items()}
        values["sentence"] = str(self)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Guarantee:
        """Read back what :meth:`to_json` wrote; checked against the table of claims again.

        Raises
        ------
        InputError
            If a value is missing or wrong.
        """
        try:
            kept = {field.name: values[field.name] for field in fields(cls)}
            for name, kind in _ENUMS.items():
                kept[name] = kind(kept[name])
            for name in ("epsilon", "epsilon_replace_one"):
                kept[name] = float(kept[name])
            for name in ("sampling_names", "assumptions", "warnings"):
                kept[name] = tuple(kept[name])
            kept["sampling_names"] = tuple(map(current, kept["sampling_names"]))
            kept["relation"] = _proven(kept["relation"], kept["sampling_names"])  # older files said add/remove
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"guarantee: {error} is missing or wrong; the text was not written by fedpriv.") from None
        return cls(**kept)


_COINS_HIDDEN = "the sampling coins stay secret"
_DRAW_HIDDEN = "who is drawn stays secret from everybody, from the other tasks too"

UNWATCHED = "nobody who reads the billboards watches the network, where who was asked in a round can be seen"
"""What must hold besides where nodes are real machines and the draw counts for the guarantee."""

WATCHED = "Not against who watches the network: who was asked in a round can be seen there."
"""The same, as a warning."""

REACHED = "whether a node can be reached does not depend on one task's data"
"""What must hold besides where tasks of nodes that could not be reached counted as zero."""


def guarantee_for(
    releases: Releases,
    *,
    delta: float,
    num_tasks: int,
    output: Output = Output.PERSONAL_MODELS,
    observer: Observer = Observer.COALITION,
    noise_at: NoiseAt = NoiseAt.SERVER,
    relation: Relation | None = None,
    reproduction: bool = False,
    assumptions: tuple[str, ...] = (),
) -> Guarantee:
    """Account for the releases and say what may be claimed.

    Parameters
    ----------
    releases : mapping from Release to count, or iterable of Release
        The history, for instance :meth:`fedpriv.privacy.Ledger.counts`.
    delta : float
        In (0, 1/num_tasks).
    num_tasks : int
        Size of the population.
    output, observer, noise_at
        What is claimed against whom; looked up in the table of claims first.
    relation : Relation or None
        None takes the headline relation of the table's row. Add/remove of a history with limits of participation is
        stated as what is proven for it, zero-out; epsilon is the same.
    reproduction : bool
        True if the randomness came from a seed.
    assumptions : tuple of str
        More assumptions than the row's own.

    Raises
    ------
    NoGuarantee
        If the table of claims refuses the combination.
    InputError
        If delta is not acceptable for the population.
    """
    counts = count_releases(releases)
    names = tuple(sorted({release.sampling_name for release in counts}))
    made = sorted({(release.sampling_name, release.mechanism) for release in counts}) or [("full", GAUSSIAN)]
    rows = [claim(output, observer, noise_at, name, mechanism) for name, mechanism in made]
    row = rows[0]
    warnings = check_delta(delta, num_tasks)
    shared = [one for row in rows for one in row.relations if all(other.holds(one) for other in rows)]
    relation = _proven(shared[0] if relation is None else Relation(relation), names)
    amplified = any(one.amplified for one in rows)
    # "auto" looks at each release; without amplification all are plain Gaussians, whatever their rate.
    accountant: Accountant = "auto" if amplified else "gaussian"
    found = epsilon(counts, delta, relation, accountant)
    replaced = epsilon(counts, delta, Relation.REPLACE_ONE, accountant)
    # What is said of the noise is about updates; published metrics have a noise of their own.
    stated = [release for release in counts if release.measures is None] or list(counts)
    public = "the number of tasks, the initial model, all settings, and the billboards"
    return Guarantee(
        notion=row.notion,
        unit="task",
        relation=relation,
        observer=row.observer,
        output=row.output,
        noise_at=row.noise_at,
        epsilon=found.value,
        delta=delta,
        accountant=found.accountant,
        epsilon_replace_one=replaced.value,
        sampling=_sampling(counts),
        sampling_names=names,
        rounds=sum(count * release.rounds for release, count in counts.items()),
        noise_multiplier=_only({release.noise_multiplier for release in stated}),
        clipping_norm=_only({release.clipping_norm for release in stated}),
        num_tasks=num_tasks,
        public=f"{public} and metrics" if any(release.measures for release in counts) else public,
        assumptions=(*assumptions_for(row, names, amplified=amplified), *assumptions),
        reproduction=reproduction,
        warnings=tuple(warnings),
    )


def guarantees_for(
    counts: Counter[Release], *, delta: float, num_tasks: int, relation: Relation, reproduction: bool = False
) -> tuple[Guarantee, Guarantee]:
    """Return the headline, and the guarantee of the personal models, which differ for cohorts of fixed size.

    Parameters
    ----------
    counts : Counter of Release
        All releases of a run.
    delta, num_tasks, relation, reproduction
        As :func:`guarantee_for`.
    """
    how: dict[str, Any] = {"delta": delta, "num_tasks": num_tasks, "reproduction": reproduction}
    if counts and all(release.noise_at == "node" for release in counts):
        rows = guarantee_for(counts, output=Output.ROWS, observer=Observer.SERVER, noise_at=NoiseAt.NODE, **how)
        return rows, rows
    personal = guarantee_for(counted_in_full(counts), relation=relation, **how)
    if shared_relations([counts])[0] is not Relation.REPLACE_ONE:
        return personal, personal
    billboards = guarantee_for(counts, output=Output.BILLBOARDS, observer=Observer.PUBLIC, relation=relation, **how)
    return billboards, personal


def _proven(relation: Relation, names: tuple[str, ...]) -> Relation:
    return Relation.ZERO_OUT if relation is Relation.ADD_REMOVE and MIN_SEPARATION in names else relation


def assumptions_for(row: Row, names: tuple[str, ...], *, amplified: bool) -> list[str]:
    """Return what must hold besides: for a line of the table, the samplings that ran, and whether any amplifies."""
    out = []
    if row.noise_at is NoiseAt.SERVER:
        out.append("the server is trusted with the updates and adds its noise")
    else:
        out.append("every node runs its own noise; sampling hides nothing from the server")
    if amplified and "poisson" in names:
        out.append(_COINS_HIDDEN)
    if FIXED_SIZE in names:
        out.append(_DRAW_HIDDEN)
        out.append("what a task sends depends on the billboard and its own data, not on rounds before")
    if MIN_SEPARATION in names:
        out.append("the server keeps the limits of participation")
        out.append("the list of tasks and who is asked are public: a task that is removed counts as zero in its place")
    if row.notion is Notion.JOINT_DP:
        out.append("a task's personal model depends on the billboards and its own data only")
    return [*out, NOT_EXACT]


def _sampling(counts: dict[Release, int]) -> str:
    plain = [release for release in counts if release.banded is None and release.measures is None]
    kinds = sorted({(release.sampling_name, release.rate) for release in plain})
    metrics = ["all tasks for the metrics"] if any(release.measures for release in counts) else []
    words = {
        "full": "full participation",
        "poisson": "Poisson, rate {rate:g}",
        FIXED_SIZE: "cohorts of fixed size, rate {rate:g}",
        UNAMPLIFIED: "cohorts of fixed size, rate {rate:g} (every round counted in full)",
    }
    banded = sorted({_limits(release.banded) for release in counts if release.banded is not None})
    return (
        " and ".join(
            [*(words.get(name, name + ", rate {rate:g}").format(rate=rate) for name, rate in kinds), *banded, *metrics]
        )
        or "no sampling"
    )


def _limits(banded: BandedMechanism) -> str:
    times = f"{banded.participations} participation{'s' if banded.participations != 1 else ''} of a task"
    noise = f"correlated over {banded.bands} rounds" if banded.bands > 1 else "independent from round to round"
    return (
        f"no sampling assumed (at most {times}, at least {banded.separation} round"
        f"{'s' if banded.separation != 1 else ''} apart, enforced by the server; noise {noise})"
    )


def _only(values: set[float | None]) -> float | None:
    return next(iter(values)) if len(values) == 1 else None


def _number(value: float | None) -> str:
    return "varying" if value is None else f"{value:.4g}"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return str(value) if isinstance(value, Notion | Relation | Observer | Output | NoiseAt) else value
