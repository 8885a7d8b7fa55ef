"""Files of tables by their endings."""

from __future__ import annotations

from pathlib import Path

from fedpriv.cohort.readers.column import Table
from fedpriv.cohort.readers.frame import table_of_parquet
from fedpriv.cohort.readers.paths import at
from fedpriv.cohort.readers.text_table import read_text_table
from fedpriv.errors import InputError

__all__ = ["is_table", "open_table"]

_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_PARQUET = (".parquet", ".pq")


def is_table(path: Path) -> bool:
    """Tell whether a path has the ending of a table."""
    return path.name.lower().endswith(_TEXT + _PARQUET)


def open_table(
    path: Path, *, separator: str | None = None, decimal: str | None = None, encoding: str | None = None
) -> Table:
    """Open a table in a file, by its ending: text, plain or gzip, or Parquet.

    Parameters
    ----------
    path : Path
        The file.
    separator, decimal, encoding : str or None
        Of a text file, as :func:`~fedpriv.cohort.readers.text_table.read_text_table`.

    Raises
    ------
    InputError
        There is no such file, its ending is unknown, or as the reader of its kind.
    """
    here = at(path)
    if here == "folder":
        raise InputError(f"{str(path)!r} is a folder, and a table is one file; give the path of a file in it.")
    if here is None:
        raise InputError(f"there is no file {str(path)!r}; give the path of a table ({', '.join(_TEXT + _PARQUET)}).")
    name = path.name.lower()
    if name.endswith(_PARQUET):
        if (separator, decimal, encoding) != (None, None, None):
            raise InputError("separator, decimal and encoding are of text files; leave them out for Parquet.")
        return table_of_parquet(path)
    if name.endswith(_TEXT):
        return read_text_table(path, separator=separator, decimal=decimal, encoding=encoding)
    raise InputError(f"{path.name!r} has no known ending; save the table as one of {', '.join(_TEXT + _PARQUET)}.")
