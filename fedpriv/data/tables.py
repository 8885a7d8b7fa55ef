"""Columns of text tables: comma-separated, tab-separated or otherwise, gzip, plain, or inside a zip archive."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpriv.data.idx import read_content
from fedpriv.errors import InputError

__all__ = ["numbers", "read_columns"]


def read_columns(
    path: Path, names: Sequence[str], rows: int, *, delimiter: str = ",", member: str = "", heading: bool = True
) -> dict[str, list[str]]:
    """Read columns of a table as text.

    Parameters
    ----------
    path : Path
        The file, gzip or plain, or a zip archive.
    names : sequence of str
        Columns that are wanted, by the heading (what follows a colon there is passed over); without a heading, all
        columns in their order.
    rows : int
        How many rows there must be.
    delimiter : str
        What stands between two columns.
    member : str
        Which file of a zip archive.
    heading : bool
        Whether the first line names the columns.

    Raises
    ------
    InputError
        The file is damaged, lacks a column, or has another number of rows.
    """
    where = f"{str(path)!r}" + (f" ({member})" if member else "")
    advice = "put the right file there, then run `fedpriv data check`."
    lines = _text(path, member, where).splitlines()
    table = list(csv.reader(lines, delimiter=delimiter)) if len(delimiter) == 1 else [x.split(delimiter) for x in lines]
    head = [name.partition(":")[0] for name in table.pop(0)] if heading and table else list(names)
    missing = [name for name in names if name not in head]
    if missing:
        raise InputError(
            f"the table {where} has no column {missing[0]!r} (it has {', '.join(head) or 'none'}); {advice}"
        )
    uneven = next((number for number, row in enumerate(table) if len(row) < len(head)), None)
    if uneven is not None or len(table) != rows:
        found = f"{len(table):,} rows" if uneven is None else f"a row with {len(table[uneven])} columns"
        raise InputError(f"the table {where} must have {rows:,} rows of {len(head)} columns, got {found}; {advice}")
    return {name: [row[head.index(name)] for row in table] for name in names}


def numbers(columns: dict[str, list[str]], name: str, path: Path) -> NDArray[np.float64]:
    """Return a column as numbers, float64 [n].

    Raises
    ------
    InputError
        An entry is no finite number.
    """
    try:
        found = np.array(columns[name], dtype=np.float64)
        if np.isfinite(found).all():
            return found
    except ValueError:
        pass
    raise InputError(f"the column {name!r} of {str(path)!r} must hold finite numbers; fetch the file again.")


def _text(path: Path, member: str, where: str) -> str:
    try:
        if not member:
            return read_content(path).decode()
        with zipfile.ZipFile(path) as archive:
            return io.TextIOWrapper(archive.open(member), encoding="latin-1").read()
    except (zipfile.BadZipFile, zlib.error, KeyError, UnicodeDecodeError, EOFError, OSError) as error:
        raise InputError(
            f"the file {where} is damaged ({error}); fetch it again, then run `fedpriv data check`."
        ) from None
