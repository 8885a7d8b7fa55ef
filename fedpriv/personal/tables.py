"""Files of examples that a personal model is asked about: CSV, Parquet, or numpy's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.personal.outline import Outline

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["read_examples"]


def read_examples(path: Path, outline: Outline) -> NDArray[Any]:
    """Read examples [n, ...] from a file, in the units of the tasks' own.

    A table has a column for each number of an example. Where the run's data had names of columns, the table needs
    these, in any order, and others are left out; else all columns count, in their order.

    Parameters
    ----------
    path : Path
        Ends in ``.npy``, ``.csv`` (with a line of names or without) or ``.parquet``.
    outline : Outline
        Of the models.

    Raises
    ------
    InputError
        The file cannot be read, or does not hold such examples; row and column are named.
    """
    readers = {".npy": _numpy, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise InputError(f"examples are read from .csv, .parquet or .npy files, got {path}.")
    try:
        found = readers[path.suffix](path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give a file of examples.") from None
    except ValueError as error:  # pandas' and pyarrow's errors are of this kind
        raise InputError(f"{path} is no {path.suffix} file of numbers ({str(error).splitlines()[0]}).") from None
    if isinstance(found, np.ndarray):
        return found
    values = _of_columns(found, outline, path)
    shape = outline.roster.input_shape
    wide = int(np.prod(shape))
    if values.shape[1] != wide:
        raise InputError(
            f"{path} has {values.shape[1]} columns, and an example of this run has {wide} numbers; give one column for "
            "each."
        )
    return values.reshape(len(values), *shape)


def _of_columns(table: DataFrame, outline: Outline, path: Path) -> NDArray[Any]:
    names = outline.columns
    if names is not None and not all(isinstance(name, int) for name in table.columns):
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise InputError(f"{path} has no column {missing[0]!r}; the run's examples have {', '.join(names)}.")
        table = table[list(names)]
    for name in table.columns:
        if table[name].dtype.kind not in "fiub":
            raise InputError(f"column {name!r} of {path} does not hold numbers; give numbers in each row.")
        empty = table[name].isna().to_numpy()
        if empty.any():
            raise InputError(
                f"column {name!r} of {path} has no number in row {int(np.argmax(empty))} (counted from 0); fill it in."
            )
    found: NDArray[Any] = table.to_numpy()
    return found


def _numpy(path: Path) -> NDArray[Any]:
    found: NDArray[Any] = np.load(path, allow_pickle=False)
    return found


def _csv(path: Path) -> DataFrame:
    import pandas

    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    return pandas.read_csv(path, header=None if _all_numbers(first.strip().split(",")) else 0)


def _parquet(path: Path) -> DataFrame:
    import pandas

    return pandas.read_parquet(path)


def _all_numbers(fields: list[str]) -> bool:
    try:
        list(map(float, fields))
    except ValueError:
        return False
    return True
