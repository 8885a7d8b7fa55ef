"""Columns as numbers, by a public rule for each; what a rule cannot use is marked, row by row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpriv.cohort.readers.column import Kind, Numbers, Table, as_numbers, as_text
from fedpriv.cohort.readers.features import Feature, day_of
from fedpriv.cohort.readers.people import Division, Rows
from fedpriv.errors import InputError

__all__ = ["Encoded", "Mark", "encode", "read_labels", "scale"]

_WHOLE = re.compile("-?[0-9]+")
_TRUE, _FALSE = ("true", "yes", "1", "t", "y"), ("false", "no", "0", "f", "n")
_READS: dict[str, tuple[Kind, ...]] = {
    "number": ("text", "whole", "decimal", "list"),
    "range": ("text", "whole", "decimal", "list"),
    "standardize": ("text", "whole", "decimal"),
    "standardize-within-task": ("text", "whole", "decimal"),
    "dates": ("text", "date"),
    "categories": ("text", "whole", "decimal", "boolean"),
    "boolean": ("text", "whole", "decimal", "boolean"),
}
_SQUARED = 1e140
"""Numbers that can be standardized: the squares of a billion such have a sum."""
_ADVICE: dict[Kind, str] = {
    "boolean": "write 'boolean' for it",
    "date": "write two dates, ['1900-01-01', '2030-01-01'], for it",
    "whole": "write two numbers, [0, 120], for it",
    "decimal": "write two numbers, [0, 120], for it",
}


class Mark(IntEnum):
    """What is to be said of a value."""

    FINE = 0
    MISSING = 1
    UNREADABLE = 2
    CLIPPED = 3
    NO_CATEGORY = 4
    TOO_LARGE = 5
    ANOTHER_DECIMAL_MARK = 6


@dataclass(frozen=True)
class Encoded:
    """One column as numbers.

    Attributes
    ----------
    values : ndarray of float64, shape [N, k] (of labels int64 [N])
        NaN (of labels -1) where a value cannot be used: such a task counts as zero.
    marks : ndarray of int8, shape [N]
        A :class:`Mark` for each row.
    """

    values: NDArray[Any]
    marks: NDArray[np.int8]


def encode(table: Table, feature: Feature, owner: Rows | None = None) -> Encoded:
    """Return a column as numbers, but for what is fitted afterwards (:func:`scale`).

    Parameters
    ----------
    table : Table
        What was read.
    feature : Feature
        How its column is read.
    owner : ndarray of int64, shape [N], or None
        Whose each row is. A person's numbers in a column have one decimal mark, that of the first, so nobody's row
        changes how another's is read. None: all rows are one person's.

    Raises
    ------
    InputError
        The column's type cannot be read in that way.
    """
    values, kind = table.column(feature.column), table.kind(feature.column)
    if kind not in _READS[feature.how]:
        advice = _ADVICE.get(kind, "name the columns in features that hold numbers or text")
        raise InputError(
            f"{table.what} holds {table.holds(feature.column)} in the column {feature.column!r}, which cannot be read "
            f"as {feature.how!r}; {advice}."
        )
    if kind == "list":
        return _vectors(table, feature, values)
    if feature.how == "categories":
        _refuse_others(table, feature.column, feature.categories, "categories")
        return _one_hot(values, feature.categories)
    if feature.how == "boolean":
        return _truth(values)
    if feature.how == "dates":
        return _ranged(feature, *_days(values))
    return _measured(feature, as_numbers(values, table.marks), owner)


def _measured(feature: Feature, numbers: Numbers, owner: Rows | None = None) -> Encoded:
    """Return numbers by a rule; those of another decimal mark, and those that were rounded, cannot be used."""
    found = _ranged(feature, numbers.values, numbers.missing)
    marks, values = found.marks.copy(), found.values.copy()
    if feature.how != "range":  # in which a distance of 1 makes no difference
        marks[numbers.rounded] = Mark.TOO_LARGE
    marks[_others(numbers.marks, owner)] = Mark.ANOTHER_DECIMAL_MARK
    values[marks >= Mark.TOO_LARGE] = np.nan
    return Encoded(values, marks)


def _others(marks: NDArray[np.int8], owner: Rows | None) -> NDArray[np.bool_]:
    """Tell which numbers have another decimal mark than the first that their person wrote with one."""
    rows = np.flatnonzero(marks)
    people, first, which = np.unique(
        np.zeros_like(rows) if owner is None else owner[rows], return_index=True, return_inverse=True
    )
    found = np.zeros(len(marks), dtype=bool)
    if len(people):
        found[rows] = marks[rows] != marks[rows][first][which]
    return found


def _ranged(feature: Feature, numbers: NDArray[np.float64], missing: NDArray[np.bool_]) -> Encoded:
    marks = np.zeros(len(numbers), dtype=np.int8)
    if feature.missing is not None:
        numbers, missing = np.where(missing, feature.missing, numbers), np.zeros_like(missing)
    marks[np.isnan(numbers)] = Mark.UNREADABLE
    marks[missing] = Mark.MISSING
    if feature.how in ("range", "dates"):
        marks[(numbers < feature.low) | (numbers > feature.high)] = Mark.CLIPPED
        numbers = (np.clip(numbers, feature.low, feature.high) - feature.low) / (feature.high - feature.low)
    return Encoded(numbers[:, None], marks)


def _days(values: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return days since 1970; of texts in ISO 8601, without a zone in UTC."""
    if pa.types.is_timestamp(values.type):
        moments = values.cast(pa.timestamp("us"), safe=False)
        missing = np.asarray(values.is_null().to_numpy(zero_copy_only=False))
        ticks = np.asarray(pc.cast(moments.cast(pa.int64()), pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        return ticks / 86_400e6, missing
    text = pc.fill_null(pc.utf8_trim_whitespace(values), "")
    missing = np.asarray(pc.equal(text, "").to_numpy(zero_copy_only=False))
    # Not by pandas, which raises for some dates even where errors shall be gaps.
    coded = text.dictionary_encode()
    days = np.array([day_of(one) for one in coded.dictionary.to_pylist()], dtype=np.float64)  # None becomes NaN
    return days[np.asarray(coded.indices.to_numpy(zero_copy_only=False))], missing


def _one_hot(values: Any, categories: tuple[str, ...]) -> Encoded:
    which = _among(values, categories)
    found = (which[:, None] == np.arange(len(categories))).astype(np.float64)
    return Encoded(found, np.where(which < 0, Mark.NO_CATEGORY, Mark.FINE).astype(np.int8))


def _among(values: Any, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return which of some names each value is, -1 where it is none of them.

    A value that is missing in one person's rows makes pandas write everybody's 1 as 1.0 and True as 'true'. So these
    are the same, unless names differ in nothing else.
    """
    given = pa.array(names, pa.large_string())
    text, same = _alike(as_text(values)), _alike(given)
    if len(same.unique()) < len(names):
        text, same = as_text(values), given
    place = pc.fill_null(pc.index_in(pc.fill_null(text, ""), value_set=same), -1)
    return np.asarray(place.to_numpy(zero_copy_only=False)).astype(np.int64)


def _alike(text: Any) -> Any:
    text = pc.replace_substring_regex(text, r"^([+-]?[0-9]+)\.0*$", r"\1")
    lower = pc.utf8_lower(text)
    return pc.if_else(pc.is_in(lower, value_set=pa.array(["false", "true"], pa.large_string())), lower, text)


def _truth(values: Any) -> Encoded:
    text = pc.fill_null(pc.utf8_lower(_alike(as_text(values))), "")

    def among(words: tuple[str, ...]) -> NDArray[np.bool_]:
        return np.asarray(pc.is_in(text, value_set=pa.array(words, pa.large_string())).to_numpy(zero_copy_only=False))

    yes, no, nothing = among(_TRUE), among(_FALSE), among(("",))
    marks = np.where(yes | no, Mark.FINE, np.where(nothing, Mark.MISSING, Mark.UNREADABLE)).astype(np.int8)
    return Encoded(np.where(yes, 1.0, np.where(no, 0.0, np.nan))[:, None], marks)


def _vectors(table: Table, feature: Feature, values: Any) -> Encoded:
    """Return a column of lists, all of one length, which is structure; lists in lists are laid out in a row."""
    here = np.asarray(values.is_valid().to_numpy(zero_copy_only=False))
    rows = np.flatnonzero(here)  # a list that is missing is a value that is missing
    inner, count = values.drop_null(), len(rows)
    while pa.types.is_large_list(inner.type) or pa.types.is_list(inner.type) or pa.types.is_fixed_size_list(inner.type):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(inner), 0).to_numpy(zero_copy_only=False))
        strange = np.flatnonzero(lengths != lengths[0]) if len(lengths) else lengths
        if len(strange):
            row = int(rows[int(strange[0]) * len(rows) // count])
            raise InputError(
                f"{table.what} holds lists of different lengths in the column {feature.column!r}, {lengths[0]} and "
                f"{lengths[strange[0]]} in {table.place(row)}; give all rows the same length."
            )
        inner = pc.list_flatten(inner)
        count = len(inner)
    if not (pa.types.is_integer(inner.type) or pa.types.is_floating(inner.type)):
        raise InputError(
            f"{table.what} holds lists of {inner.type} in the column {feature.column!r}; give lists of numbers."
        )
    one = _measured(feature, as_numbers(inner, table.marks))
    width = len(one.values) // max(len(rows), 1)
    if not width:
        raise InputError(
            f"{table.what} holds empty lists in the column {feature.column!r}; give numbers in them, or leave that "
            "column out."
        )
    found = np.full((len(here), width), np.nan)
    marks = np.full(len(here), Mark.MISSING, dtype=np.int8)
    found[rows] = one.values.reshape(len(rows), width)
    marks[rows] = one.marks.reshape(len(rows), width).max(axis=1, initial=0)
    return Encoded(found, marks)


def read_labels(table: Table, column: str, classes: int | tuple[str, ...]) -> Encoded:
    """Return labels as whole numbers from 0 on, -1 where a value is none of the classes.

    Raises
    ------
    InputError
        The column's type holds no labels.
    """
    values, kind = table.column(column), table.kind(column)
    if kind not in ("text", "whole", "decimal", "boolean"):
        raise InputError(
            f"{table.what} holds {table.holds(column)} in the column {column!r}, which are no labels; give a column of "
            "text or whole numbers, or leave out classes for a regression."
        )
    if isinstance(classes, int):
        read = as_numbers(values, table.marks)
        numbers, missing = read.values, read.missing
        if kind == "text":  # a file writes booleans as words
            words = pc.fill_null(pc.utf8_lower(as_text(values)), "")
            for number, word in enumerate(("false", "true")):
                numbers[np.asarray(pc.equal(words, word).to_numpy(zero_copy_only=False))] = number
        good = (numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers))
        found = np.where(good, numbers, -1).astype(np.int64)
    else:
        _refuse_others(table, column, classes, "classes")
        found = _among(values, classes)
        nothing = pc.is_in(pc.fill_null(as_text(values), ""), value_set=pa.array(["", "nan"], pa.large_string()))
        missing = np.asarray(nothing.to_numpy(zero_copy_only=False)) & (found < 0)
    marks = np.where(found >= 0, Mark.FINE, np.where(missing, Mark.MISSING, Mark.NO_CATEGORY)).astype(np.int8)
    return Encoded(found, marks)


def _refuse_others(table: Table, column: str, names: tuple[str, ...], what: str) -> None:
    """Refuse names that no value of a column's type can have."""
    kind = table.kind(column)
    strange = {
        "boolean": next((one for one in names if one.lower() not in ("false", "true")), None),
    }.get(kind)
    if kind in ("whole", "decimal"):
        strange = next((one for one in names if not _WHOLE.fullmatch(one)), None)
    if strange is not None:
        holds = "['false', 'true']" if kind == "boolean" else "as text, ['0', '1']"
        instead = " or their number" if what == "classes" else ""
        raise InputError(
            f"{table.what} holds {table.holds(column)} in the column {column!r}, and {strange!r} of its {what} is "
            f"none; name them as they stand there, {holds}{instead}."
        )


def scale(feature: Feature, encoded: Encoded, division: Division) -> Encoded:
    """Return a column less a mean and divided by a standard deviation, of everybody's training rows or of the own ones.

    A column without deviation is only moved. Every value of a task is scaled by what its own rows say, so nothing of
    one task reaches another where that is asked for. A number whose square is larger than every float64 has no
    deviation: what is scaled by it is NaN, and the number is marked.
    """
    values, marks = encoded.values, encoded.marks.copy()
    if feature.how not in ("standardize", "standardize-within-task"):
        return encoded
    marks[(marks == Mark.FINE) & (np.abs(values) > _SQUARED).any(axis=1)] = Mark.TOO_LARGE
    bounded = np.where(np.abs(values) > _SQUARED, np.nan, values)  # so that nothing overflows, and numpy says nothing
    return Encoded(_standardized(feature, bounded, division), marks)


def _standardized(feature: Feature, values: NDArray[np.float64], division: Division) -> NDArray[np.float64]:
    if feature.how == "standardize":
        own = values[division.rows[0]]
        return np.asarray((values - own.mean(axis=0)) / _deviation(own))
    found: NDArray[np.float64] = values.copy()
    for task in range(len(division.names)):
        mine = [rows[cuts[task] : cuts[task + 1]] for rows, cuts in zip(division.rows, division.offsets, strict=True)]
        own = values[mine[0]]
        every = np.concatenate(mine)
        found[every] = (values[every] - own.mean(axis=0)) / _deviation(own)
    return found


def _deviation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    found = values.std(axis=0)
    return np.asarray(np.where(found > 0, found, 1.0))
