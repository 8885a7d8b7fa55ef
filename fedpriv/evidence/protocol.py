"""A protocol: what is asked, with which seeds, and what would refute the claim, decided before the first report run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from fedpriv.errors import InputError
from fedpriv.names import unknown
from fedpriv.settings import Settings

__all__ = ["Protocol", "Tuning", "read_protocol"]

Seed = Annotated[int, Field(ge=0)]


class Tuning(Settings):
    """What was tried before.

    Attributes
    ----------
    seeds : tuple of int
        Seeds that settings were chosen with; report seeds must be others.
    """

    seeds: tuple[Seed, ...] = ()


class Protocol(Settings):
    """What every protocol says.

    Attributes
    ----------
    question : str
        What is asked.
    preset : str
        The preset that all runs start from.
    report_seeds : tuple of int
        Fresh seeds of the report, at least 2.
    contrast : str
        The primary contrast, in words.
    level : float
        Its level of significance, after the correction for several tests.
    refuted : str
        What would have refuted the claim.
    tuning : Tuning
        What was tried before.
    own : dict
        What only this protocol has.
    """

    question: str
    preset: str
    report_seeds: Annotated[tuple[Seed, ...], Field(min_length=2)]
    contrast: str
    level: float = Field(default=0.05, gt=0, lt=1)
    refuted: str
    tuning: Tuning = Tuning()
    own: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fresh_seeds(self) -> Protocol:
        if len(set(self.report_seeds)) != len(self.report_seeds):
            raise ValueError("report_seeds names a seed twice; a seed counts once.")
        used = sorted({*self.report_seeds} & {*self.tuning.seeds})
        if used:
            raise ValueError(f"report_seeds must be fresh, but {used[0]} was used for tuning; take another seed.")
        return self


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
        found = tomllib.loads(path.read_text())
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
