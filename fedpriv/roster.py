"""Who the tasks of a population are: all that a strategy, a ledger and a server need to know of them beforehand."""

from __future__ import annotations

import hashlib
import hmac
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from fedpriv.errors import InputError
from fedpriv.files import replacing
from fedpriv.settings import Settings

__all__ = ["Declared", "Roster", "fingerprint_of", "salted_name", "spellings_of"]

Declared = Literal["benchmark", "protected"]
_FORMAT = 1


def fingerprint_of(names: Iterable[str]) -> str:
    """Return the SHA-256 over names in their order, which a ledger recognises a population by."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()


def spellings_of(names: Iterable[str]) -> list[str]:
    """Return names after Unicode normalisation (NFC): two that are equal look alike."""
    return [name if name.isascii() else unicodedata.normalize("NFC", name) for name in names]


def salted_name(name: str, salt: bytes) -> str:
    """Return what stands for a name where names are not known: its HMAC-SHA256 under the population's salt, in hex."""
    (same,) = spellings_of([name])
    return hmac.new(salt, same.encode(), "sha256").hexdigest()


class Roster(Settings):
    """Who the tasks of a population are, in the order of their ids; it holds no example and no label.

    Attributes
    ----------
    dataset : str
        Where the data came from, for reports.
    names : tuple of str
        A stable name per task, or what stands for it (:meth:`salted`).
    declared : {"benchmark", "protected"}
        Public benchmark data, or data of people, whose runs spend one budget.
    input_shape, target_shape : tuple of int
        Shape of one example's input, and of its target (empty for classes).
    input_dtype : str
        Type of the inputs as numpy names it: floats reach the model in the run's ``dtype``, whole numbers as int64.
    num_classes : int or None
        Number of classes; None for regression.
    groups : tuple of int, or None
        A *public* cluster label per task.
    salted_names : bool
        Whether the names are hashes under the population's salt.
    format : int
        Version of the file.

    Raises
    ------
    InputError
        A value does not fit.
    """

    dataset: str
    names: tuple[str, ...] = Field(min_length=1)
    declared: Declared
    input_shape: tuple[int, ...]
    input_dtype: str
    target_shape: tuple[int, ...] = ()
    num_classes: int | None = Field(default=None, ge=1)
    groups: tuple[int, ...] | None = None
    salted_names: bool = False
    format: Literal[1] = 1

    @field_validator("names")
    @classmethod
    def _can_be_written(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        whole = "".join(names)
        if "\0" in whole or any("\ud800" <= letter <= "\udfff" for letter in (whole if not whole.isascii() else "")):
            raise ValueError("names must be text that UTF-8 can write, without the character NUL; rename that task.")
        return names

    @field_validator("input_dtype")
    @classmethod
    def _is_a_type(cls, name: str) -> str:
        if not name.startswith(("float", "int", "uint", "bool")):
            raise ValueError(f"input_dtype must name a type of numbers, such as float32, got {name!r}.")
        return name

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        kind = "regression" if self.num_classes is None else f"{self.num_classes} classes"
        return (
            f"Roster({self.dataset!r}: {len(self)} tasks, {self.declared}, {kind}, inputs {self.input_dtype} "
            f"{self.input_shape})"
        )

    __str__ = __repr__

    @cached_property
    def fingerprint(self) -> str:
        """What a ledger recognises the population by."""
        return fingerprint_of(self.names)

    @property
    def spellings(self) -> list[str]:
        """The names after Unicode normalisation."""
        return spellings_of(self.names)

    @property
    def outputs(self) -> int:
        """How many outputs a model needs: one per class, or one per value of a target."""
        return self.num_classes or prod(self.target_shape)

    def part(self, first: int, last: int) -> str:
        """Return the fingerprint of tasks ``first`` to ``last``."""
        return fingerprint_of(self.names[first:last])

    def place(self, names: tuple[str, ...]) -> int:
        """Return the id of the first of these names; the others must follow it, in the roster's order.

        Raises
        ------
        InputError
            One is not in the roster, or they do not lie together.
        """
        try:
            first = self.names.index(names[0])
        except ValueError:
            first = -1
        if first >= 0 and self.names[first : first + len(names)] == names:
            return first
        known = set(self.names)
        strange = next((name for name in names if name not in known), None)
        if strange is not None:
            raise InputError(
                f"task {strange!r} is not in the roster of {self.dataset!r}; leave it out, or have it added to a new "
                "version of the roster."
            )
        raise InputError(
            f"the tasks from {names[0]!r} on do not follow each other in the roster of {self.dataset!r}; give them in "
            "its order, or as several nodes."
        )

    def salted(self, salt: bytes) -> Roster:
        """Return this roster with hashes for names, for a server that shall know no name.

        Parameters
        ----------
        salt : bytes
            That of the population, :meth:`fedpriv.privacy.Ledger.salt`: with one salt per population the same people
            are the same again in the next version of their roster.
        """
        names = tuple(salted_name(name, salt) for name in self.names)
        return Roster.model_construct(**self.model_dump() | {"names": names, "salted_names": True})

    def check(self) -> None:
        """Refuse what cannot be a population: no task, names that look alike, labels that do not fit.

        Raises
        ------
        InputError
            One of these.
        """
        if not len(self):
            raise InputError("there are no tasks; give one name and one array of examples for each person.")
        # One person spelled in two ways of Unicode that look alike would be two tasks, and protected as half of each.
        same = self.spellings
        if len(set(same)) < len(self):
            twice = min(name for name, count in Counter(same).items() if count > 1)
            raise InputError(
                f"task names must be unique, also after Unicode normalisation, got {twice!r} more than once; rename "
                "one of them, or join their examples if they are one person's."
            )
        if self.groups is not None and len(self.groups) != len(self):
            raise InputError(
                f"groups must give one public label per task, got {len(self.groups)} labels for {len(self)} tasks."
            )

    def to_json(self) -> str:
        """Return the roster as text, which :meth:`from_json` reads."""
        return json.dumps(self.model_dump() | {"fingerprint": self.fingerprint})

    @classmethod
    def from_json(cls, text: str) -> Roster:
        """Read what :meth:`to_json` gave.

        Raises
        ------
        InputError
            It is no roster, one of a newer fedpriv, or its names are not those it was written with.
        """
        try:
            found: Any = json.loads(text)
        except ValueError as error:
            raise InputError(f"the roster is damaged: it is not JSON ({error}); have it written again.") from None
        if not isinstance(found, dict):
            raise InputError(f"the roster is damaged: it holds a {type(found).__name__}; have it written again.")
        if found.get("format") != _FORMAT:
            raise InputError(
                f"the roster has format {found.get('format')!r}, and this fedpriv reads format {_FORMAT}; upgrade "
                "fedpriv, or have it written by this version."
            )
        stated = found.pop("fingerprint", None)
        roster = cls(**found)
        roster.check()
        if roster.fingerprint != stated:
            raise InputError("the roster's names are not those of its fingerprint; have it written again.")
        return roster

    def write(self, path: Path) -> None:
        """Write the roster to a file, atomically."""
        with replacing(path, private=True) as file:
            file.write(self.to_json().encode())

    @classmethod
    def read(cls, path: Path) -> Roster:
        """Read a file that :meth:`write` made.

        Raises
        ------
        InputError
            The file cannot be read, or is no roster.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the roster {path} cannot be read ({error}); give the path of one.") from None
        return cls.from_json(text)
