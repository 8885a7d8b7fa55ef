"""How columns become inputs: by ranges and lists that the user gives, or within each task, never by everybody's values.

======================================  ==============================================================================
``"age": (0, 120)``                     a number, from 0 at the low end to 1 at the high one; outside, the nearer end
``"born": ("1900-01-01", ...)``         the same between two dates (ISO 8601)
``"sex": ["f", "m"]``                   a column of 0 and 1 for each text; what is none of them is 0 in all
``"income": "number"``                  a number as it is
``"smoker": "boolean"``                 0 for false, no and 0; 1 for true, yes and 1
``"income": "standardize-within-task"``  a number less the mean of the task's own training rows, by their deviation
``"income": "standardize"``             the same over everybody's training rows: for a benchmark only
``"sex": "categories"``                 one column for each text that occurs: for a benchmark only
``{"range": (0, 120), "missing": 40}``  a number, with what stands in for one that is missing
======================================  ==============================================================================
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

import numpy as np

from fedpriv.cohort.readers.column import Table, as_numbers, as_text, no_column
from fedpriv.cohort.readers.people import tidy
from fedpriv.errors import InputError

__all__ = ["Feature", "as_feature", "day_of", "features_of", "looked_up"]

How = Literal["number", "range", "dates", "categories", "boolean", "standardize", "standardize-within-task"]
_WORDS = ("number", "boolean", "standardize-within-task", "standardize", "categories")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MOST = 100
"""Categories of a column that are looked up, at most."""


@dataclass(frozen=True)
class Feature:
    """How one column becomes one or more columns of inputs.

    Attributes
    ----------
    column : str
        Its heading.
    how : str
        What is done with it.
    low, high : float
        Ends of a range; of dates in days since 1970.
    categories : tuple of str
        In the order of their columns.
    missing : float or None
        What stands in for a number that is missing, before it is scaled; without it the task counts as zero.
    """

    column: str
    how: How
    low: float = 0.0
    high: float = 1.0
    categories: tuple[str, ...] = ()
    missing: float | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What its columns of inputs are called."""
        if self.how == "categories":
            return tuple(f"{self.column}={one}" for one in self.categories)
        return (self.column,)


def features_of(table: Table, given: Any, others: Sequence[str], *, protected: bool) -> list[Feature]:
    """Return how the columns of a table become inputs.

    Parameters
    ----------
    table : Table
        Its headings are looked at, and the types of its columns.
    given : None, str, sequence of str, or mapping of str
        Columns and how each is read. A list of names means numbers as they are; ``pixel*`` names all columns that
        begin so; None means all that are not ``others``, and that what they hold is looked up.
    others : sequence of str
        Columns that are no features: names, targets, parts.
    protected : bool
        Whether the data are protected: then nothing is looked up in values.

    Raises
    ------
    InputError
        A column is not there, is named twice or is not a feature, or how it shall be read is unknown or not allowed.
    """
    if given is None:
        if protected:
            raise InputError(
                "features must say what protected data are read as, because what a column holds would be looked up in "
                "people's values; name each column with a range [0, 120], a list of categories ['f', 'm'] or 'number'."
            )
        rest = [one for one in table.columns if one and one not in others and not one.startswith("__index_level_")]
        wanted: dict[str, Any] = dict.fromkeys(rest, "look up")
    elif isinstance(given, str):
        wanted = {given: "number"}
    elif isinstance(given, Mapping):
        wanted = dict(given)
    elif isinstance(given, Sequence) and all(isinstance(one, str) for one in given):
        wanted = dict.fromkeys(given, "number")
        if len(wanted) < len(given):
            raise InputError(f"features names {_twice(given)!r} more than once; name each column once.")
    else:
        raise InputError(
            f"features must be a list of columns or say how each is read, got {type(given).__name__}; name each column "
            "with a range [0, 120], a list of categories ['f', 'm'] or 'number'."
        )
    found: dict[str, Feature] = {}
    for name, how in wanted.items():
        feature = None if how == "look up" else as_feature(name, how, protected=protected)
        matched = _matched(table, name, wanted, others)
        for column in matched:
            if column in found:
                raise InputError(f"features names the column {column!r} more than once; name each column once.")
            chosen = looked_up(table, column) if feature is None else replace(feature, column=column)
            found[column] = _categories(table, chosen) if chosen.how == "categories" else chosen
    if not found:
        raise InputError(f"{table.what} has no column that is a feature; name at least one in features.")
    return list(found.values())


def _matched(table: Table, name: str, wanted: Mapping[str, Any], others: Sequence[str]) -> list[str]:
    tidied = tidy(name)
    if tidied in table.columns:
        if tidied in others:
            raise InputError(
                f"the column {name!r} is the task, the target or the part, so it is no feature; leave it out there."
            )
        return [tidied]
    if "*" in tidied:
        own = {tidy(one) for one in wanted} | set(others)
        if matched := [one for one in table.columns if one and one not in own and fnmatchcase(one, tidied)]:
            return matched
    raise no_column(table, name, "named in features")


def as_feature(name: str, how: Any, *, protected: bool) -> Feature:
    """Return how one column is read, from what a user wrote.

    Raises
    ------
    InputError
        It cannot be understood, or would fit something over the values of protected data.
    """
    missing = None
    if isinstance(how, Mapping):
        rest = set(how) - {"range", "missing"}
        if rest or not how:
            raise InputError(
                f"features: {name!r} may say 'range' and 'missing', got {sorted(map(str, how))}; give the range "
                "[0, 120] and for 'missing' a number such as 40."
            )
        missing = how.get("missing")
        if missing is not None and not _is_number(missing):
            raise InputError(f"features: 'missing' of {name!r} must be a number, got {missing!r}; give one.")
        how = how.get("range", "number")
        if missing is not None and not (how == "number" or (_is_pair(how) and all(map(_is_number, how)))):
            raise InputError(
                f"features: 'missing' of {name!r} goes with a range of numbers; leave it out, a missing category is 0 "
                "in all columns."
            )
    feature = _read(name, how, protected=protected)
    if missing is not None and feature.how == "range" and not feature.low <= missing <= feature.high:
        raise InputError(
            f"features: 'missing' of {name!r} must lie in its range, {feature.low:g} to {feature.high:g}, got "
            f"{missing:g}; give a number in it, or widen the range."
        )
    return feature if missing is None else replace(feature, missing=float(missing))


def _read(name: str, how: Any, *, protected: bool) -> Feature:
    if isinstance(how, str) and how in _WORDS:
        if how in ("standardize", "categories") and protected:
            instead = (
                "[low, high] or 'standardize-within-task'" if how == "standardize" else "the list, such as ['f', 'm']"
            )
            raise InputError(
                f"features: {how!r} of {name!r} would be fitted to everybody's values, which no budget pays for, so it "
                f"is for public benchmarks only; give {instead}."
            )
        return Feature(name, cast(How, how))
    if _is_pair(how):
        ends = [float(one) if _is_number(one) else day_of(one) for one in how]
        if ends[0] is not None and ends[1] is not None and _is_number(how[0]) == _is_number(how[1]):
            if not math.isfinite(ends[1] - ends[0]):
                raise InputError(
                    f"features: the range of {name!r} is wider than the largest float64, got {_shown(how)}; give a "
                    "smaller one."
                )
            if not ends[0] < ends[1]:
                raise InputError(f"features: the range of {name!r} must rise, got {_shown(how)}; give [low, high].")
            return Feature(name, "range" if _is_number(how[0]) else "dates", ends[0], ends[1])
    if isinstance(how, Sequence) and not isinstance(how, str) and how and all(isinstance(one, str) for one in how):
        categories = tuple(map(tidy, how))
        if len(set(categories)) < len(categories):
            raise InputError(
                f"features: the categories of {name!r} hold {_twice(categories)!r} more than once; keep one of them."
            )
        return Feature(name, "categories", categories=categories)
    raise InputError(
        f"features: {name!r} must be two numbers or dates (a range), a list of texts (categories; numbers among them "
        f"in quotation marks), or one of {', '.join(map(repr, _WORDS))}, got {_shown(how)}."
    )


def looked_up(table: Table, column: str) -> Feature:
    """Return how a column of a benchmark is read, by its type, and of text by what it holds.

    Raises
    ------
    InputError
        It is of a type that cannot be read without being told how.
    """
    kind = table.kind(column)
    if kind in ("whole", "decimal", "list", "image"):
        return Feature(column, "number")
    if kind == "boolean":
        return Feature(column, "boolean")
    if kind == "text":
        numbers = as_numbers(table.column(column), table.marks)
        if not (np.isnan(numbers.values) & ~numbers.missing).any():
            return Feature(column, "number")
        words = {one.lower() for one in as_text(table.column(column)).unique().to_pylist() if one}
        if words <= {"true", "false"}:
            return Feature(column, "boolean")
        return Feature(column, "categories")
    raise InputError(
        f"{table.what} holds {table.holds(column)} in the column {column!r}; say in features how they are read, of "
        "dates as a range ['1900-01-01', '2030-01-01'], or name the other columns there."
    )


def _categories(table: Table, feature: Feature) -> Feature:
    """Look up the categories of a benchmark's column where none are given."""
    if feature.categories:
        return feature
    if table.kind(feature.column) not in ("text", "whole", "decimal", "boolean"):
        return feature  # its type is refused where it is read
    found = sorted({one for one in as_text(table.column(feature.column)).unique().to_pylist() if one})
    if len(found) > _MOST:
        raise InputError(
            f"{table.what} holds {len(found):,} different texts in the column {feature.column!r}, too many to look up "
            f"(at most {_MOST}); give their list in features, or name the other columns there."
        )
    return replace(feature, categories=tuple(found))


def _is_pair(how: Any) -> bool:
    return isinstance(how, Sequence) and not isinstance(how, str) and len(how) == 2


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else value.bit_length() < 1024


def day_of(value: Any) -> float | None:
    """Return the days from 1970 to a date (of text in ISO 8601, without a zone in UTC), or None of what is none."""
    if isinstance(value, str) and "-" in value:
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime.date):
        return None
    moment = value if isinstance(value, datetime.datetime) else datetime.datetime(value.year, value.month, value.day)
    utc = moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment
    return (utc - _EPOCH) / datetime.timedelta(days=1)


def _twice(values: Sequence[str]) -> str:
    return next(one for place, one in enumerate(values) if one in values[:place])


def _shown(how: Any) -> str:
    try:
        text = repr(how)
    except ValueError:  # a whole number of thousands of digits
        return f"a {type(how).__name__}"
    return text if len(text) <= 200 else f"a {type(how).__name__}"
