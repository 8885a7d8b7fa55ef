"""Columns of tables, whatever library they come from, as arrays of pyarrow of a few kinds."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.names import nearest

__all__ = [
    "LISTED",
    "Kind",
    "Marks",
    "Numbers",
    "Placed",
    "Table",
    "as_column",
    "as_numbers",
    "as_text",
    "kind_of",
    "no_column",
    "of_objects",
]

Kind = Literal["text", "whole", "decimal", "boolean", "date", "list", "image", "other"]
Marks = Literal[".", ",", ".,"]
"""What may stand before the decimals of a number in a text."""

LISTED = "which `fedpriv data check FILE` lists"
"""How the reader of a file sees its headings."""

_ROUNDED = 2**53
_MISSING = ("", "na", "n/a", "nan", "null", "none")
_NAMES: dict[Kind, str] = {
    "text": "text", "whole": "whole numbers", "decimal": "decimal numbers", "boolean": "booleans", "date": "dates",
    "list": "lists", "image": "images",
}  # fmt: skip


class Placed(Protocol):
    """What can say where a row stands."""

    @property
    def place(self) -> Callable[[int], str]:
        """Returns where a row stands (counted from 0 here)."""


@dataclass(frozen=True, repr=False)
class Table:
    """A table that was read, and how sentences speak of it.

    Attributes
    ----------
    what : str
        What it is called.
    columns : tuple of str
        Its headings, without blanks at their ends; an empty one is a column without a name.
    rows : int
        How many.
    column : callable
        Returns the column of a heading, as :func:`as_column` makes it.
    place : callable
        Returns where a row stands (counted from 0 here).
    marks : {".", ",", ".,"}
        How texts write decimals.
    said : tuple of str
        What is told of the file: encoding, separator.
    listed : str
        Where its headings are seen.
    misread : str
        Why its headings may not be what was meant, with what to do; empty where nothing says so.
    """

    what: str
    columns: tuple[str, ...]
    rows: int
    column: Callable[[str], Any]
    place: Callable[[int], str]
    marks: Marks = "."
    said: tuple[str, ...] = ()
    listed: str = LISTED
    misread: str = ""

    def __post_init__(self) -> None:
        seen: dict[str, int] = {}
        for number, name in enumerate(self.columns, 1):
            if name and name in seen:
                # The heading stays unsaid: in a file without headings it is somebody's value.
                raise InputError(
                    f"{self.what} has the same heading in columns {seen[name]} and {number}; rename one of them, or "
                    "leave it out."
                )
            seen[name] = number
        if not self.rows:
            if self.misread:
                raise InputError(f"{self.what} has one heading and no rows, {self.misread}.")
            raise InputError(f"{self.what} has headings and no rows; give at least one row.")

    def kind(self, name: str) -> Kind:
        """Return what a column holds, by its type."""
        return kind_of(self.column(name))

    def holds(self, name: str) -> str:
        """Return what a column holds, in words, by its type."""
        values = self.column(name)
        return _NAMES.get(kind_of(values), f"values of type {values.type}")


def no_column(table: Table, name: str, what: str) -> InputError:
    """Return the sentence for a column that is not there. Other headings stay unsaid: without any they were values."""
    close = None if table.misread else nearest(name, filter(None, table.columns))
    hint = f"did you mean {close!r}? " if close else ""
    count = f"{len(table.columns):,} column{'' if len(table.columns) == 1 else 's'}"
    return InputError(
        f"{table.what} has no column {name!r} ({what}): {hint}it has {count}, {table.misread or table.listed}."
    )


def kind_of(values: Any) -> Kind:
    """Return what an array of pyarrow holds, by its type."""
    kind, types = values.type, pa.types
    if types.is_large_string(kind):
        return "text"
    if types.is_integer(kind):
        return "whole"
    if types.is_floating(kind):
        return "decimal"
    if types.is_boolean(kind):
        return "boolean"
    if types.is_timestamp(kind):
        return "date"
    if types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "list"
    if types.is_struct(kind) and {kind.field(place).name for place in range(kind.num_fields)} == {"bytes", "path"}:
        return "image"
    return "other"


def as_column(values: Any) -> Any:
    """Return an array of pyarrow as one piece, of as few types as there are kinds."""
    types = pa.types
    found = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(found, pa.ChunkedArray):  # too large for one piece of its type
        found = pa.concat_arrays([one.cast(pa.large_string()) for one in found.chunks])
    if isinstance(found, pa.ExtensionArray):
        found = found.storage
    kind = found.type
    if types.is_dictionary(kind):
        return as_column(found.dictionary_decode())
    if types.is_null(kind) or types.is_string(kind) or types.is_string_view(kind):
        return found.cast(pa.large_string())
    if types.is_decimal(kind) or types.is_float16(kind) or types.is_float32(kind):
        return found.cast(pa.float64())
    if types.is_date(kind):
        return found.cast(pa.timestamp("ms"))
    if types.is_list(kind):
        return found.cast(pa.large_list(kind.value_type))
    return found


def of_objects(values: Iterable[Any]) -> Any:
    """Return a column of Python objects as text: what is no text, number or date becomes one that nobody reads."""
    return pa.array([_written(one) for one in values], pa.large_string())


def _written(value: Any) -> str | None:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if value is None or (np.isscalar(value) and value != value):
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, int) and value.bit_length() > 1024:
        return "<int>"  # larger than every float64; Python refuses to write thousands of digits
    if isinstance(value, int | np.integer | decimal.Decimal):
        return str(value)
    if isinstance(value, float | np.floating):
        return repr(float(value))
    if isinstance(value, datetime.date):
        return None if str(value) == "NaT" else value.isoformat()
    return None if type(value).__name__ in ("NAType", "NaTType") else f"<{type(value).__name__}>"


def as_text(values: Any) -> Any:
    """Return text or whole numbers as text, without blanks at the ends, composed (NFC); gaps stay gaps."""
    text = values if pa.types.is_large_string(values.type) else values.cast(pa.large_string())
    return pc.utf8_normalize(pc.utf8_trim_whitespace(text), form="NFC")


@dataclass(frozen=True)
class Numbers:
    """A column as numbers.

    Attributes
    ----------
    values : ndarray of float64, shape [N]
        NaN where there is no number.
    missing : ndarray of bool, shape [N]
        Where nothing stands.
    rounded : ndarray of bool, shape [N]
        Where a whole number is 2**53 or more, or -2**53 or less: a float64 may be another number than was written.
    marks : ndarray of int8, shape [N]
        Where a number's decimals stand behind a point (1) or a comma (2).
    """

    values: NDArray[np.float64]
    missing: NDArray[np.bool_]
    rounded: NDArray[np.bool_]
    marks: NDArray[np.int8]


def as_numbers(values: Any, marks: Marks) -> Numbers:
    """Return numbers, and what is to be said of them: the one parser of numbers in texts.

    A number in a text has decimals behind one of ``marks`` and may have an exponent; there is nothing between its
    thousands. Infinities are no numbers.

    Parameters
    ----------
    values : pyarrow.Array
        Text, whole or decimal numbers, booleans.
    marks : {".", ",", ".,"}
        What may stand before decimals.
    """
    if not pa.types.is_large_string(values.type):
        found = np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        whole = np.full(len(found), pa.types.is_integer(values.type))
        return _numbers(found, np.isnan(found), whole, np.zeros(len(found), dtype=np.int8))
    text = pc.fill_null(pc.utf8_trim_whitespace(values), "")
    one = f"[{marks}]"
    number = f"^[+-]?([0-9]+{one}?[0-9]*|{one}[0-9]+)([eE][+-]?[0-9]+)?$"
    good = pc.match_substring_regex(text, number)
    plain = pc.replace_substring_regex(pc.replace_substring(text, ",", "."), r"^\+", "")
    found = np.asarray(
        pc.cast(pc.if_else(good, plain, pa.scalar(None, pa.large_string())), pa.float64()).to_numpy(
            zero_copy_only=False
        )
    )
    missing = pc.is_in(pc.utf8_lower(text), value_set=pa.array(_MISSING, pa.large_string()))
    behind = sum(place * _truth(pc.and_(good, pc.match_substring(text, mark))) for place, mark in ((1, "."), (2, ",")))
    whole = _truth(pc.match_substring_regex(text, "^[+-]?[0-9]+$"))
    return _numbers(found, _truth(missing), whole, np.asarray(behind, dtype=np.int8))


def _truth(values: Any) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _numbers(
    found: NDArray[np.float64], missing: NDArray[np.bool_], whole: NDArray[np.bool_], marks: NDArray[np.int8]
) -> Numbers:
    return Numbers(np.where(np.isfinite(found), found, np.nan), missing, whole & (np.abs(found) >= _ROUNDED), marks)
