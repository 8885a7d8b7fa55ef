"""Tables in memory and in columnar files: pandas, pyarrow and what speaks its interface, Parquet, saved data sets."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedpriv.cohort.readers.column import LISTED, Table, as_column, of_objects
from fedpriv.cohort.readers.paths import at
from fedpriv.cohort.readers.people import PART_WORDS, tidy
from fedpriv.errors import InputError

__all__ = ["SavedDataset", "is_saved_dataset", "table_of", "table_of_parquet", "table_of_saved"]


@runtime_checkable
class _SpeaksArrow(Protocol):
    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


def _row(row: int) -> str:
    return f"row {row} (counted from 0)"


def table_of(frame: Any) -> Table:
    """Return a table in memory; the index of a pandas frame is not looked at.

    Parameters
    ----------
    frame : pandas.DataFrame, pyarrow.Table, or another frame with Arrow's interface
        A row for each example.

    Raises
    ------
    InputError
        It is no table, or a column's type is unknown to Arrow.
    """
    import pandas as pd

    if isinstance(frame, pd.DataFrame):
        names = [str(one) for one in frame.columns]
        see = "which frame.columns lists"
        return _table("the frame", names, len(frame), lambda number: _series(frame.iloc[:, number]), see)
    if isinstance(frame, pa.Table | _SpeaksArrow):
        whole = frame if isinstance(frame, pa.Table) else pa.table(frame)
        see = "which table.column_names lists"
        return _table("the table", whole.column_names, whole.num_rows, whole.column, see)
    raise InputError(
        f"a frame must be a pandas.DataFrame or a pyarrow.Table, got {type(frame).__name__}; give "
        "pandas.DataFrame(...) of it, or use Tasks.from_arrays({name: (inputs, targets)})."
    )


def table_of_parquet(path: Path) -> Table:
    """Return the table of a Parquet file; columns are read when they are asked for.

    Raises
    ------
    InputError
        The file cannot be read, or is no Parquet file.
    """
    what = repr(path.name)

    def read(number: int) -> Any:
        with pq.ParquetFile(path) as file:
            return _valid(file.read(columns=[names[number]])).column(0)

    def guarded(number: int) -> Any:
        return _unless_damaged(what, "Parquet file", lambda: read(number))

    def heading() -> tuple[list[str], int]:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow.names, file.metadata.num_rows

    names, rows = _unless_damaged(what, "Parquet file", heading)
    return _table(what, names, rows, guarded)


class SavedDataset:
    """A data set that Hugging Face's ``save_to_disk`` wrote: its table, its parts, and what its columns mean.

    Attributes
    ----------
    table : Table
        All rows.
    parts : ndarray of int8, shape [N], or None
        Where it was saved as several splits: the part of each row.
    class_names : dict
        Names of the classes of each column of labels.
    """

    def __init__(self, table: Table, parts: NDArray[np.int8] | None, class_names: dict[str, tuple[str, ...]]) -> None:
        self.table, self.parts, self.class_names = table, parts, class_names


def is_saved_dataset(path: Path) -> bool:
    """Tell whether a folder is one that ``save_to_disk`` wrote."""
    return "file" in (at(path / "state.json"), at(path / "dataset_dict.json"))


def table_of_saved(path: Path) -> SavedDataset:
    """Read a folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote; nothing is downloaded.

    Raises
    ------
    InputError
        It is no such folder, or a file of it is damaged.
    """
    what = repr(path.name)
    if not is_saved_dataset(path):
        holds = "holds neither state.json nor dataset_dict.json" if at(path) == "folder" else "is no folder"
        raise InputError(f"{what} is no data set that save_to_disk wrote: it {holds}; give the folder that it made.")
    if at(path / "dataset_dict.json") != "file":
        whole, names = _one_saved(path, what)
        return SavedDataset(_table(what, whole.column_names, whole.num_rows, whole.column), None, names)
    splits = _json(path / "dataset_dict.json", what).get("splits", [])
    pieces, parts = [], []
    names = {}
    for split in splits:
        if str(split).lower() not in PART_WORDS:
            raise InputError(
                f"{what} has the split {split!r}, which is neither train, validation nor test; give the folder of one "
                "split, or save it under one of these names."
            )
        piece, names = _one_saved(path / str(split), what)
        pieces.append(piece)
        parts.append(np.full(piece.num_rows, PART_WORDS[str(split).lower()], dtype=np.int8))
    if not pieces or any(not one.schema.equals(pieces[0].schema) for one in pieces):
        raise InputError(f"{what} has no splits, or splits of different columns; save them with the same columns.")
    whole = pa.concat_tables(pieces)
    table = _table(what, whole.column_names, whole.num_rows, whole.column)
    return SavedDataset(table, np.concatenate(parts), names)


def _one_saved(folder: Path, what: str) -> tuple[Any, dict[str, tuple[str, ...]]]:
    state = _json(folder / "state.json", what)
    if state.get("_indices_data_files"):
        raise InputError(f"{what} was saved with a choice of rows beside it; save flatten_indices() of it.")
    files = [folder / str(one.get("filename")) for one in state.get("_data_files", [])]
    if not files:
        raise InputError(f"{what} names no files in its state.json; save the data set again.")

    def read() -> Any:
        tables = []
        for file in files:
            with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
                tables.append(_valid(stream.read_all()))
        return pa.concat_tables(tables)

    about = _json(folder / "dataset_info.json", what).get("features") or {}
    names = {
        column: tuple(map(str, kind["names"]))
        for column, kind in about.items()
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and kind.get("names")
    }
    return _unless_damaged(what, "saved data set", read), names


def _json(file: Path, what: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except PermissionError:
        raise _closed(what) from None
    except (OSError, ValueError):
        raise InputError(f"{what} has no readable {file.name}, so it is damaged; save the data set again.") from None
    return found if isinstance(found, dict) else {}


def _table(what: str, names: list[str], rows: int, read: Callable[[int], Any], listed: str = LISTED) -> Table:
    headings = tuple(map(tidy, names))
    numbers = {name: number for number, name in enumerate(headings)}

    @functools.cache
    def column(name: str) -> Any:
        try:
            found = as_column(read(numbers[name]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, UnicodeEncodeError) as error:
            # Their text may hold values.
            raise InputError(
                f"{what} has a column {name!r} whose type cannot be read ({type(error).__name__}); give it as text or "
                "numbers."
            ) from None
        if len(found) != rows:
            raise InputError(f"{what} is damaged: a column has {len(found)} of {rows} rows; write the file again.")
        return found

    return Table(what, headings, rows, column, _row, listed=listed)


def _series(series: Any) -> Any:
    """Return a column of pandas; objects become text, so that one person's value does not change all others'."""
    if series.dtype == object or str(series.dtype).startswith(("period", "interval", "Sparse", "complex")):
        return of_objects(series.tolist())
    return pa.array(series, from_pandas=True)


def _valid(table: Any) -> Any:
    """Return a table of a file, checked through: Arrow trusts what it reads, and a damaged offset ends the process."""
    table.validate(full=True)
    _ = table.column_names  # which may be no text
    return table


def _closed(what: str) -> InputError:
    return InputError(f"{what} cannot be read: Permission denied; give yourself the right to read it, or another copy.")


def _unless_damaged(what: str, kind: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise InputError(f"{what} is not whole: a file of it is missing; give the path of a whole {kind}.") from None
    except PermissionError:
        raise _closed(what) from None
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:  # whose text may hold values
        raise InputError(f"{what} is damaged or no {kind} ({type(error).__name__}); write the file again.") from None
