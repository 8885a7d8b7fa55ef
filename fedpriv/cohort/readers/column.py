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
    "Kind",
    "Marks",
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
    """

    what: str
    columns: tuple[str, ...]
    rows: int
    column: Callable[[str], Any]
    place: Callable[[int], str]
    marks: Marks = "."
    said: tuple[str, ...] = ()

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
    close = nearest(name, filter(None, table.columns))
    hint = f"did you mean {close!r}? " if close else ""
    return InputError(
        f"{table.what} has no column {name!r} ({what}): {hint}it has {len(table.columns):,} columns, which "
        "`fedpriv data check FILE` lists."
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


def as_numbers(values: Any, marks: Marks) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return numbers, NaN where there is none, and where a value is missing.

    A number in a text has decimals behind one of ``marks`` and may have an exponent; there is nothing between its
    thousands. Infinities are no numbers.

    Parameters
    ----------
    values : pyarrow.Array
        Text, whole or decimal numbers, booleans.
    marks : {".", ",", ".,"}
        What may stand before decimals.

    Returns
    -------
    ndarray of float64, ndarray of bool, both shape [N]
    """
    if not pa.types.is_large_string(values.type):
        # A whole number beyond 2**53 is rounded, as in every table of floats.
        found = np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        missing = np.isnan(found)
        return np.where(np.isfinite(found), found, np.nan), missing
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
    return np.where(np.isfinite(found), found, np.nan), np.asarray(missing.to_numpy(zero_copy_only=False))
