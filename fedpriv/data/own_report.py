"""What was read of a data file of one's own: its structure, and for its owner alone where values cannot be used."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.data.own_file import OwnFile, kind_of_file, own_tasks
from fedpriv.files import replacing, writing
from fedpriv.roster import Declared

if TYPE_CHECKING:
    from fedpriv.cohort.readers import Placed, Table

__all__ = ["check_own_file"]

_SHOWN = 40
"""Names of columns that are listed."""


def check_own_file(values: dict[str, Any], declared: Declared | None, private: Path | None = None) -> dict[str, Any]:
    """Read a file and tell its structure: headings, numbers of rows and people, shapes. No value is told.

    Parameters
    ----------
    values : dict
        Fields of :class:`fedpriv.data.own_file.OwnFile`. Without ``task`` and ``target`` a table is only opened.
    declared : {"benchmark", "protected"} or None
        What the data are; protected unless said.
    private : path or None
        A file, for its owner alone, that gets the place of each value that is missing, cannot be read or was changed,
        as a table of place, column and what it is.

    Raises
    ------
    InputError
        As :func:`fedpriv.data.own_file.own_tasks`.
    """
    from fedpriv.cohort.readers import is_saved_dataset, open_table, table_of_saved

    settings = OwnFile(**values)
    path = Path(settings.file).expanduser()
    kind = kind_of_file(path)
    found: dict[str, Any] = {"file": str(path), "kind": kind}
    if kind in ("table", "saved data set"):
        text = settings.model_dump(include={"separator", "decimal", "encoding"}, exclude_none=True)
        table = table_of_saved(path).table if is_saved_dataset(path) else open_table(path, **text)
        found |= _opened(table)
        if settings.task is None and settings.target is None:
            return found
    places: list[tuple[str, str, str]] = []
    try:
        told = (lambda *one: places.extend(_places(*one))) if private else None
        tasks = own_tasks(values, declared or "protected", told)
    finally:
        if private is not None:
            _write(private, places)
    parts = (tasks.train, tasks.validation, tasks.test)
    sizes = np.sum([part.sizes for part in parts], axis=0)
    shown = list(tasks.train.columns or ())
    found |= {
        "declared": tasks.declared,
        "people": len(tasks),
        "examples of a person": f"{sizes.min()} to {sizes.max()}, median {np.median(sizes):g}",
        "train, validation, test": ", ".join(f"{len(part.inputs):,}" for part in parts),
        "inputs": f"{tasks.input_dtype} {list(tasks.input_shape)}",
        **({"inputs are": _list(shown)} if shown else {}),
        "targets": "values" if tasks.num_classes is None else f"{tasks.num_classes} classes",
        "fingerprint": tasks.fingerprint,
        **({"private": str(private)} if private else {}),
    }
    return found


def _opened(table: Table) -> dict[str, Any]:
    return {
        **({"text": ", ".join(table.said)} if table.said else {}),
        "rows": table.rows,
        "columns": _headings(table),
    }


def _headings(table: Table) -> str:
    """List headings, unless the first line may be a row of data: then it is somebody's."""
    import pyarrow as pa

    from fedpriv.cohort.readers.column import as_numbers

    count = f"{len(table.columns):,}"
    numbers = as_numbers(pa.array(table.columns, pa.large_string()), ".,")
    if not np.isnan(numbers.values).all():
        return f"{count}: not shown, because the first line holds numbers and may be a row of data; put headings there"
    if table.said and any(_stands_below(table, name) for name in table.columns if name):
        return (
            f"{count}: not shown, because a cell of the first line stands in its column once more, so it may be a row "
            "of data; put headings there"
        )
    return _list([name or "(no name)" for name in table.columns])


def _stands_below(table: Table, heading: str) -> bool:
    import pyarrow.compute as pc

    from fedpriv.cohort.readers.column import as_text

    return bool(pc.any(pc.equal(as_text(table.column(heading)), heading)).as_py())


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,}: {', '.join(names[:_SHOWN])}{more}"


def _places(column: str, marks: NDArray[np.int8], where: Placed) -> list[tuple[str, str, str]]:
    from fedpriv.cohort.readers.encode import Mark

    return [
        (where.place(int(row)), column, Mark(int(marks[row])).name.lower().replace("_", " "))
        for row in np.flatnonzero(marks)
    ]


def _write(path: Path, places: list[tuple[str, str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("place", "column", "what"), *places])
    with writing(path), replacing(path, private=True) as file:
        file.write(text.getvalue().encode())
