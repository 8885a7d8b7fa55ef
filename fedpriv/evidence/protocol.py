"""A protocol: what is asked, with which seeds, and what would refute the claim, decided before the first report run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from fedpriv.errors import InputError
from fedpriv.names import unknown
from fedpriv.settings import Settings

__all__ = ["Arm", "Point", "Protocol", "Trial", "Tuning", "read_protocol"]

Seed = Annotated[int, Field(ge=0)]


def _dotted(tables: Any) -> Any:
    """Turn ``{"strategy": {"rounds": 5}}``, as TOML reads ``strategy.rounds = 5``, into ``{"strategy.rounds": 5}``."""
    if not isinstance(tables, Mapping):
        return tables
    return {
        f"{section}.{key}" if key else section: value
        for section, values in tables.items()
        for key, value in (values.items() if isinstance(values, Mapping) else [("", values)])
    }


Changes = Annotated[dict[str, Any], BeforeValidator(_dotted)]
Side = Annotated[str, Field(pattern=r"^[\w-]+(\.(personal|billboard|local_only|[\w-]+(\.[\w-]+)+))?$")]
Pair = tuple[Side, Side]
Values = Annotated[tuple[Any, ...], Field(min_length=1)]


class Trial(Settings):
    """What every arm tries at one point.

    Attributes
    ----------
    grid : dict
        Values by dotted key; every combination is tried.
    seeds : tuple of int
        With these seeds.
    """

    grid: Annotated[dict[str, Values], BeforeValidator(_dotted), Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]


class Tuning(Settings):
    """What was tried before.

    Attributes
    ----------
    seeds : tuple of int
        Seeds that settings were chosen with; report seeds must be others.
    at : dict
        By point, what every arm tries there: the same for all.
    """

    seeds: tuple[Seed, ...] = ()
    at: dict[str, Trial] = Field(default_factory=dict)

    @property
    def used(self) -> set[int]:
        """All seeds that any setting was chosen with."""
        return {*self.seeds, *(seed for trial in self.at.values() for seed in trial.seeds)}


class Point(Settings):
    """Where arms are compared: a data set, an epsilon.

    Attributes
    ----------
    preset : str or None
        The preset that runs start from here; None for that of the protocol.
    settings : dict
        Changes by dotted key.
    seeds : int or None
        How many of the report seeds are run here, the first ones, where a run takes long; None for all. With one only,
        nothing can be said about the spread over seeds.
    """

    preset: str | None = None
    settings: Changes = Field(default_factory=dict)
    seeds: int | None = Field(default=None, ge=1)


class Arm(Settings):
    """What is compared: a set of settings.

    Attributes
    ----------
    label : str
        In words, for tables and figures.
    settings : dict
        Changes by dotted key, after those of the point.
    at : dict
        By point, what tuning chose for this arm there.
    """

    label: str = ""
    settings: Changes = Field(default_factory=dict)
    at: dict[str, Changes] = Field(default_factory=dict)


class Protocol(Settings):
    """What every protocol says.

    Attributes
    ----------
    question : str
        What is asked.
    preset : str or None
        The preset that runs start from; None where every point names its own.
    report_seeds : tuple of int
        Fresh seeds of the report, at least 2.
    contrast : str
        The primary contrast, in words.
    level : float
        Its level of significance, after the correction for several tests.
    refuted : str
        What would have refuted the claim.
    points, arms : dict
        By name, where what is compared; a protocol without them says in keys of its own what it runs.
    claims : tuple of pairs
        Sides of which the first is claimed to be better, at every point: an arm, or ``arm.model`` where it is not the
        personal models, or ``arm.rmse.amht`` for what the scenario measures under that name.
    shown : tuple of pairs
        Differences that are shown beside them without a claim; the correction for several tests covers both.
    tuning : Tuning
        What was tried before.
    own : dict
        What only this protocol has.
    """

    question: str
    preset: str | None = None
    report_seeds: Annotated[tuple[Seed, ...], Field(min_length=2)]
    contrast: str
    level: float = Field(default=0.05, gt=0, lt=1)
    refuted: str
    points: dict[str, Point] = Field(default_factory=dict)
    arms: dict[str, Arm] = Field(default_factory=dict)
    claims: tuple[Pair, ...] = ()
    shown: tuple[Pair, ...] = ()
    tuning: Tuning = Tuning()
    own: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fresh_seeds(self) -> Protocol:
        if len(set(self.report_seeds)) != len(self.report_seeds):
            raise ValueError("report_seeds names a seed twice; a seed counts once.")
        used = sorted({*self.report_seeds} & self.tuning.used)
        if used:
            raise ValueError(f"report_seeds must be fresh, but {used[0]} was used for tuning; take another seed.")
        return self

    @model_validator(mode="after")
    def _known_names(self) -> Protocol:
        if self.preset is None and not (self.points and all(point.preset for point in self.points.values())):
            raise ValueError("no 'preset' is named from which runs start; name one, or one for every point.")
        for pair in (*self.claims, *self.shown):
            for side in pair:
                arm = side.partition(".")[0]
                if arm not in self.arms:
                    raise ValueError(unknown("arm", arm, self.arms))
        named = [("tuning", point) for point in self.tuning.at]
        named += [(f"arm {name!r}", point) for name, arm in self.arms.items() for point in arm.at]
        for place, point in named:
            if point not in self.points:
                raise ValueError(f"{place}: " + unknown("point", point, self.points))
        return self

    @property
    def seeds(self) -> dict[str, tuple[int, ...]]:
        """The report seeds of every point."""
        return {name: self.report_seeds[: point.seeds] for name, point in self.points.items()}

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All differences that are tested."""
        return (*self.claims, *self.shown)


def read_protocol(path: Path, own: Sequence[str] = ()) -> Protocol:
    """Read a protocol.

    Parameters
    ----------
    path : Path
        Its TOML file.
    own : sequence of str
        Keys that this protocol has besides those of every protocol; each must be there.

    Raises
    ------
    InputError
        The file is missing or damaged, a key is missing or unknown, or a report seed is not fresh.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"the protocol {path} cannot be read ({error.strerror}); commit one before the runs."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the protocol {path} is not valid TOML: {error}.") from None
    known = {name for name in Protocol.model_fields if name != "own"} | set(own)
    needed = {name for name, field in Protocol.model_fields.items() if field.is_required()} | set(own)
    for key in found:
        if key not in known:
            raise InputError(f"the protocol {path}: {unknown('key', key, known)}")
    for key in sorted(needed - set(found)):
        raise InputError(f"the protocol {path} lacks {key!r}; say it before the first report run.")
    special = {key: found.pop(key) for key in own}
    tuning = found.pop("tuning", {})
    try:
        return Protocol(**found, tuning=Tuning(**tuning), own=special)
    except (InputError, ValidationError, TypeError) as error:
        raise InputError(f"the protocol {path}: {error}") from None
