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
_SHEET = ("a workbook or an archive", "save its sheet as CSV (UTF-8)")
_TABLE = "give a table that is saved as CSV (UTF-8)"
_OTHERS = (
    (b"PK\x03\x04", *_SHEET),
    (b"\xd0\xcf\x11\xe0", *_SHEET),
    (b"\x1f\x8b", "packed with gzip", "add .gz to its name"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it first"),
    (b"\xfd7zXZ", "packed with xz", "unpack it first"),
    (b"\x89PNG", "a PNG image", _TABLE),
    (b"\xff\xd8\xff", "a JPEG image", _TABLE),
    (b"%PDF-", "a PDF document", _TABLE),
    (b"SQLite format 3\0", "an SQLite database", _TABLE),
)
"""What files of other kinds begin with, what they are, and what to do."""
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
        What stands before decimals; unless given the point, and between semicolons the point or the comma, one of both
        for each person (:func:`~fedpriv.cohort.readers.encode.encode`).
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
    if re.fullmatch('"?sep=.?"?[,;]*', first.strip(), re.IGNORECASE):
        raise InputError(
            f"{what} begins with a line 'sep=' for spreadsheets, and headings belong there; delete that line, the "
            "separator is found in the headings."
        )
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
    said = (
        f"encoding {known}",
        f"cells separated by a {_word(chosen)}",
        "decimals behind a " + " or a ".join({".": "point", ",": "comma"}[one] for one in marks),
    )
    return Table(
        what,
        columns,
        len(lines),
        lambda name: cells[number[name]],
        lambda row: f"line {lines[row]}",
        marks,
        said,
        misread=_misread(first, chosen, encoding) if len(columns) == 1 else "",
    )


def _word(separator: str) -> str:
    return _SEPARATORS.get(separator, repr(separator))


def _misread(first: str, separator: str, encoding: str | None) -> str:
    """Return why a table of one column may be another one."""
    other = max(_SEPARATORS, key=first.count)
    if other != separator and other in first:
        found, taken = _word(other), _word(separator)
        return f"because cells are separated by a {taken}, and its first line holds a {found}; give separator={other!r}"
    if encoding is not None:
        return f"read as {encoding}; leave encoding out if the file is UTF-8"
    return ""


def _text(path: Path, what: str, encoding: str | None) -> tuple[str, str]:
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged or not whole"
        raise InputError(f"{what} cannot be read: {reason}; see whether the path and the file are right.") from None
    other = next((one for one in _OTHERS if content.startswith(one[0])), None)
    if other is not None:
        raise InputError(f"{what} is {other[1]}, not a text table; {other[2]}.")
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    known = encoding or marked or "utf-8"
    if not isinstance(known, str):
        raise InputError(
            f"encoding must be a name such as 'utf-8' or 'latin-1', got {known!r}; leave it out for UTF-8."
        )
    try:
        text = content.decode(known)
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = content.count(b"\n", 0, start) + 1
        first = "leave encoding out if it is UTF-8" if encoding else "save it as UTF-8"
        raise InputError(
            f"{what} is not {known.upper()} in line {line} (byte {start:,}); {first}, or say what it is, such as "
            "encoding='latin-1' or 'cp1252'."
        ) from None
    except (LookupError, ValueError):  # the second for a NUL in the name
        raise InputError(f"the encoding {known!r} is unknown; give a name such as 'utf-8' or 'latin-1'.") from None
    if marked is not None and not codecs.lookup(known).name.startswith("utf"):
        raise InputError(
            f"{what} begins with the mark of {marked.removesuffix('-sig').upper()}, and encoding={encoding!r} is "
            "given; leave it out."
        )
    text = text.removeprefix("\ufeff")  # the same mark where the name of the encoding does not take it away
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{what} holds a NUL character in line {line}, so it is no text table; save it as CSV (UTF-8)."
        )
    return text, known


def _separator(path: Path, first: str, given: str | None) -> str:
    if given is not None:
        given = "\t" if given == r"\t" else given  # as TOML writes it between single quotation marks
        if not isinstance(given, str) or len(given) != 1 or given in '"\r\n':
            raise InputError(f"separator must be one character, got {given!r}; give ',', ';' or '\\t'.")
        return given
    if path.name.lower().removesuffix(".gz").endswith(".tsv"):
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
