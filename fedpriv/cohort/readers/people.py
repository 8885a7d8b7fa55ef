"""From rows to people: one spelling for each name, people in one order, each one's rows in three parts."""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.randomness import own_numbers
from fedpriv.split import Fractions, split_sizes

__all__ = ["PART_WORDS", "Division", "People", "Rows", "Split", "as_seen", "as_split", "divide", "is_text", "tidy"]

_LOG = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Split = Fractions | str
"""Shares of train, validation and test, or the name of a column that says the part of each row."""

PART_WORDS = {
    "train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2, "testing": 2,
}  # fmt: skip
"""Words for the three parts, in any case."""

_LEAST = 3
"""Rows that a person needs: two to train on and one to be scored on."""
_SHOWN = 10
"""People of too few rows that a sentence names."""


def tidy(text: str) -> str:
    """Return a text without blanks at its ends, in Unicode's composed form (NFC)."""
    found = text.strip()
    return found if found.isascii() else unicodedata.normalize("NFC", found)


def as_seen(name: str) -> str:
    """Return what people see of a name: without case and control or zero-width characters, and with single blanks."""
    kept = (one for one in name if one.isspace() or unicodedata.category(one) not in ("Cc", "Cf"))
    shown = name if name.isascii() and name.isprintable() else "".join(kept)
    return " ".join(shown.casefold().split())


def is_text(text: str) -> bool:
    """Tell whether a text is valid Unicode: half of a pair of surrogates can neither be written nor hashed."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Division:
    """Who the people are, and which rows are whose, in which part.

    Attributes
    ----------
    names : tuple of str
        In the order of their code points: it does not depend on the order of the rows.
    rows : tuple of 3 ndarrays of int64
        Rows of train, validation and test, person after person, in the order in which they were given.
    offsets : tuple of 3 ndarrays of int64, shape [m + 1]
        Where each person's rows begin.
    """

    names: tuple[str, ...]
    rows: tuple[Rows, Rows, Rows]
    offsets: tuple[Rows, Rows, Rows]

    @property
    def owner(self) -> Rows:
        """Whose each row is, shape [N]."""
        found = np.empty(sum(map(len, self.rows)), dtype=np.int64)
        for rows, cuts in zip(self.rows, self.offsets, strict=True):
            found[rows] = np.repeat(np.arange(len(self.names)), np.diff(cuts))
        return found


@dataclass(frozen=True, repr=False)
class People:
    """What every reader returns; :class:`fedpriv.Tasks` are made of it.

    Attributes
    ----------
    dataset : str
        Where the data came from.
    names : tuple of str
        A name for each person.
    parts : tuple of 3 tuples (inputs, targets, offsets)
        Train, validation and test.
    num_classes : int or None
        Number of classes; None for values.
    columns : tuple of str, or None
        What the columns of the inputs are called.
    groups : tuple of int, or None
        The public group of each person.
    """

    dataset: str
    names: tuple[str, ...]
    parts: tuple[tuple[NDArray[Any], NDArray[Any], Rows], ...]
    num_classes: int | None
    columns: tuple[str, ...] | None = None
    groups: tuple[int, ...] | None = None

    @classmethod
    def gather(
        cls,
        dataset: str,
        division: Division,
        inputs: NDArray[Any],
        targets: NDArray[Any],
        num_classes: int | None,
        columns: tuple[str, ...] | None = None,
    ) -> People:
        """Give each person the rows that are theirs."""
        parts = tuple(
            (inputs[rows], targets[rows], offsets)
            for rows, offsets in zip(division.rows, division.offsets, strict=True)
        )
        return cls(dataset, division.names, parts, num_classes, columns)


def as_split(given: Any) -> Split:
    """Return how to divide each person's rows.

    Raises
    ------
    InputError
        It is neither three shares nor the name of a column.
    """
    if isinstance(given, str) and given.strip():
        return given
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 3:
        shares = [float(one) for one in given if isinstance(one, int | float) and not isinstance(one, bool)]
        whole = math.isclose(sum(shares), 1.0, abs_tol=1e-9)
        if len(shares) == 3 and whole and min(shares[0], shares[2]) > 0 <= shares[1]:
            return shares[0], shares[1], shares[2]
    raise InputError(
        "split must be the shares of train, validation and test, which sum to 1 and are positive for train and test, "
        f"or the name of a column that says the part, got {given!r}; give [0.6, 0.2, 0.2]."
    )


def divide(
    what: str,
    spellings: Sequence[str],
    owner: Rows,
    place: Callable[[int], str],
    split: Fractions | NDArray[np.int8],
    seed: int,
) -> Division:
    """Find out who the people are, and divide each one's rows by a public seed, or as the rows say.

    The split depends on the seed, the person's name and the number of their rows; no value is looked at.

    Parameters
    ----------
    what : str
        What sentences call the data.
    spellings : sequence of str
        Names as they were written, each once.
    owner : ndarray of int64, shape [N]
        Which of them each row belongs to.
    place : callable
        Returns where a row stands, for sentences.
    split : tuple of 3 floats, or ndarray of int8, shape [N]
        Shares, or the part of each row: 0, 1 or 2.
    seed : int
        Public.

    Raises
    ------
    InputError
        A name is empty, two differ only in case, blanks or characters that are not seen, or somebody has too few rows.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be a whole number, 0 or more, got {seed!r}; give one, such as 0.")
    names, person = _one_spelling(what, spellings, owner, place)
    order = np.argsort(person, kind="stable")
    sizes = np.bincount(person, minlength=len(names))
    whose = person[order]
    part = _drawn(names, sizes, whose, split, seed) if isinstance(split, tuple) else split[order]
    counts = [np.bincount(whose[part == number], minlength=len(names)) for number in range(3)]
    few = np.flatnonzero((counts[0] < 2) | (counts[2] == 0))
    if len(few):
        by_column = not isinstance(split, tuple)
        said = [
            _few(names[one], [int(count[one]) for count in counts], place, order[whose == one], by_column=by_column)
            for one in few[:_SHOWN]
        ]
        _refuse_few(what, said, len(few), by_column=by_column)
    rows = [order[part == number].astype(np.int64) for number in range(3)]
    cuts = [np.concatenate([[0], np.cumsum(one)]).astype(np.int64) for one in counts]
    return Division(names, (rows[0], rows[1], rows[2]), (cuts[0], cuts[1], cuts[2]))


def _drawn(names: Sequence[str], sizes: Rows, whose: Rows, shares: Fractions, seed: int) -> NDArray[np.int8]:
    """Return the part of each row, people after people: each one's rows are put in an order of their own and cut."""
    begins = np.cumsum(sizes) - sizes
    mixed = np.lexsort((own_numbers(seed, "own/split", names, sizes), whose))
    rank = np.empty(len(whose), dtype=np.int64)
    rank[mixed] = np.arange(len(whose)) - begins[whose]  # the rows of a person lie together before and after
    different, which = np.unique(sizes, return_inverse=True)
    cuts = np.cumsum([split_sizes(int(size), shares)[:2] for size in different], axis=1)[which][whose]
    found: NDArray[np.int8] = (rank[:, None] >= cuts).sum(axis=1).astype(np.int8)
    return found


def _one_spelling(
    what: str, spellings: Sequence[str], owner: Rows, place: Callable[[int], str]
) -> tuple[tuple[str, ...], Rows]:
    """Return the people's names in order, and whose each row is."""
    written = [tidy(one) for one in spellings]
    if not written:
        raise InputError(f"{what} has no rows, so there are no people; give at least {_LEAST} rows for each person.")
    empty = next((number for number, one in enumerate(written) if not one), None)
    if empty is not None:
        raise InputError(
            f"{what} has a row without a name of its person, {_first(owner, empty, place)}; write whose it is, or "
            "leave the row out."
        )
    strange = next((number for number, one in enumerate(written) if not is_text(one)), None)
    if strange is not None:
        raise InputError(
            f"{what} has the name {written[strange]!a}, {_first(owner, strange, place)}, which is no valid Unicode "
            "(half of a pair of surrogates); write the name again."
        )
    names = tuple(sorted(set(written)))
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(as_seen(name), name)
        if other != name:
            one, two = (_first(owner, written.index(each), place) for each in (other, name))
            unseen = "blanks or characters that are not seen"
            differ = "upper and lower case" if other.casefold() == name.casefold() else unseen
            raise InputError(
                f"{what} has the names {other!r} ({one}) and {name!r} ({two}), which differ in {differ} only, so one "
                "person may be two tasks, each protected by half; write one spelling, or rename one of "
                "them if they are two people."
            )
    if len(names) < len(written):
        _LOG.info(
            "%s: %d names are spelled in several ways (blanks at an end, composed letters); each is one task.",
            what,
            sum(count > 1 for count in _counts(written).values()),
        )
    number = {name: position for position, name in enumerate(names)}
    return names, np.array([number[one] for one in written], dtype=np.int64)[owner]


def _counts(values: Sequence[str]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for one in values:
        found[one] = found.get(one, 0) + 1
    return found


def _first(owner: Rows, spelling: int, place: Callable[[int], str]) -> str:
    rows = np.flatnonzero(owner == spelling)
    return place(int(rows[0])) if len(rows) else "without examples"


def _few(name: str, sizes: list[int], place: Callable[[int], str], rows: Rows, *, by_column: bool) -> tuple[str, str]:
    """Return a person's name, and how many rows they have."""
    where = f" ({place(int(rows[0]))})" if len(rows) else ""
    has = f"{sum(sizes)} row{'' if sum(sizes) == 1 else 's'}{where}"
    return name, f"{has}, {sizes[0]} of them to train on and {sizes[2]} to test" if by_column else has


def _refuse_few(what: str, said: list[tuple[str, str]], count: int, *, by_column: bool) -> None:
    """Refuse all people of too few rows at once: numbers of rows are structure."""
    if count == 1:
        start = f"task {said[0][0]!r} of {what} has {said[0][1]}"
    else:
        more = f" and {count - len(said):,} more" if count > len(said) else ""
        start = (
            f"{count:,} tasks of {what} have too few rows: " + "; ".join(f"{n!r} has {has}" for n, has in said) + more
        )
    if by_column:
        raise InputError(
            f"{start}; each person needs 2 and 1: change the column that says the part, or leave the person out."
        )
    raise InputError(
        f"{start}, and each person needs at least {_LEAST}, 2 to train on and 1 to test; leave such people out "
        "beforehand."
    )
