"""Tables in text files: separated by commas, semicolons, tabs or bars, plain or gzip.

Every cell stays text until its column is asked for: what a column holds is told by the user, never by its cells.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedpriv.cohort.readers.column import Marks, Table
from fedpriv.cohort.readers.people import tidy
from fedpriv.errors import InputError

__all__ = ["read_text_table"]

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CHUNK = 10_000


def read_text_table(
    path: Path, *, separator: str | None = None, decimal: str | None = None, encoding: str | None = None
) -> Table:
    """Read a table whose first line names its columns.

    Parameters
    ----------
    path : Path
        The file; one that ends in ``.gz`` is unpacked.
    separator : str or None
        What stands between two cells; unless given the sign of comma, semicolon, tab and bar that is in the first line
        most often, and the tab in a ``.tsv``.
    decimal : {".", ","} or None
        What stands before decimals; unless given the point, and between semicolons the point or the comma.
    encoding : str or None
        UTF-8 unless given or the file begins with the mark of UTF-16. Nothing is guessed.

    Raises
    ------
    InputError
        The file cannot be read, is no text of that encoding, or a line has another number of cells than the first.
    """
    what = repr(path.name)
    text, known = _text(path, what, encoding)
    first = re.split("[\r\n]", text, maxsplit=1)[0]
    if not first.strip():
        raise InputError(f"{what} has no headings: its first line is empty; name the columns there.")
    chosen = _separator(path, first, separator)
    if decimal not in (None, ".", ","):
        raise InputError(f"decimal must be '.' or ',', got {decimal!r}; leave it out for the point.")
    if decimal == chosen:
        raise InputError(
            f"{what} has {chosen!r} between cells, so it cannot stand before decimals; give separator=';' if the cells "
            "are separated by semicolons."
        )
    marks: Marks = ".,"
    if decimal is not None:
        marks = "," if decimal == "," else "."
    elif chosen != ";":
        marks = "."
    records = _records(text, what, chosen)
    _, heading = next(records)
    columns = tuple(tidy(name) for name in heading)
    cells, lines = _columns(records, len(columns), what)
    number = {name: position for position, name in enumerate(columns)}
    said = (f"encoding {known}", f"cells separated by a {_SEPARATORS.get(chosen, repr(chosen))}")
    return Table(
        what,
        columns,
        len(lines),
        lambda name: cells[number[name]],
        lambda row: f"line {lines[row]}",
        marks,
        said,
    )


def _text(path: Path, what: str, encoding: str | None) -> tuple[str, str]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged or not whole"
        raise InputError(f"{what} cannot be read: {reason}; see whether the path and the file are right.") from None
    if content[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise InputError(f"{what} is a workbook or an archive, not a text table; save its sheet as CSV (UTF-8).")
    known = encoding or next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(known)
    except LookupError:
        raise InputError(f"the encoding {known!r} is unknown; give a name such as 'utf-8' or 'latin-1'.") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{what} is not {known.upper()} in line {line} (byte {error.start:,}); save it as UTF-8, or say what it "
            "is, such as encoding='latin-1' or 'cp1252'."
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{what} holds a NUL character in line {line}, so it is no text table; save it as CSV (UTF-8)."
        )
    return text, known


def _separator(path: Path, first: str, given: str | None) -> str:
    if given is not None:
        if not isinstance(given, str) or len(given) != 1 or given in '"\r\n':
            raise InputError(f"separator must be one character, got {given!r}; give ',', ';' or '\\t'.")
        return given
    if path.name.removesuffix(".gz").endswith(".tsv"):
        return "\t"
    return max(_SEPARATORS, key=first.count)  # of equal ones the first; only of the headings, which are public


def _records(text: str, what: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not empty with the line that it begins in."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    limit = csv.field_size_limit()
    begins = 1
    while True:
        try:
            csv.field_size_limit(max(limit, len(text) + 1))
            record = next(reader, None)
        except csv.Error:
            raise InputError(
                f'{what} has a quotation mark (") out of place in the record that begins in line {begins}; close it, '
                "or double it inside of a quoted cell."
            ) from None
        finally:
            csv.field_size_limit(limit)
        if record is None:
            return
        if record:
            yield begins, record
        begins = reader.line_num + 1


def _columns(records: Iterator[tuple[int, list[str]]], width: int, what: str) -> tuple[list[Any], array[int]]:
    pieces: list[list[Any]] = [[] for _ in range(width)]
    lines = array("q")
    rows: list[list[str]] = []

    def pack() -> None:
        for place, cells in enumerate(zip(*rows, strict=True)):
            pieces[place].append(pa.array(cells, pa.large_string()))
        rows.clear()

    for line, record in records:
        if len(record) != width:
            raise InputError(
                f"{what} has {len(record)} cells in line {line} where its first line names {width} columns; mend that "
                "line, or give the separator if it is another one."
            )
        lines.append(line)
        rows.append(record)
        if len(rows) == _CHUNK:
            pack()
    pack()
    return [pa.concat_arrays(one) if one else pa.array([], pa.large_string()) for one in pieces], lines
