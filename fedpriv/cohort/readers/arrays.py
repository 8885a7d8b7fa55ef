"""Arrays, tensors and torch data sets in memory, one entry for each person."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.cohort.intake import as_array, as_loose, as_names, check_rows, columns_of, join
from fedpriv.cohort.readers.asked import Asked
from fedpriv.cohort.readers.column import as_numbers, of_objects
from fedpriv.cohort.readers.encode import read_labels
from fedpriv.cohort.readers.frame import table_of
from fedpriv.cohort.readers.people import People, divide
from fedpriv.errors import InputError

__all__ = ["examples_of", "people_of_arrays"]


def people_of_arrays(given: Any, asked: Asked) -> People:
    """Make people of inputs and targets for each.

    Types of lists, pandas tables and arrays of objects follow from the values in them, which decide nothing where data
    are protected: such inputs and targets are read as floats there, one by one where they are objects. Labels are read
    alike in all types, also of a benchmark.

    Parameters
    ----------
    given : mapping of str to (inputs, targets)
        As :meth:`fedpriv.cohort.Ragged.from_lists` takes an entry of each.
    asked : Asked
        What is said of the data.

    Raises
    ------
    InputError
        It is no such mapping, an entry's inputs and targets differ in number, or entries differ in shape or type.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            "give a mapping with (inputs, targets) for each person's name, {'ann': (x, y)}, got "
            f"{type(given).__name__}."
        )
    names = as_names(given)
    shares = asked.shares("arrays")
    known = asked.known
    pairs = []
    for place, (name, pair) in enumerate(zip(names, given.values(), strict=True)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                f"the entry of {name!r} must be a pair (inputs, targets), got {type(pair).__name__}; give both."
            )
        check_rows(pair[0], pair[1], place)
        inputs, other = pair
        if asked.protected:
            inputs, other = _as_floats(inputs), _as_floats(other) if known is None else other
        pairs.append((inputs, other))
    rows, sizes = join([one for one, _ in pairs], "inputs of task number")
    labels = None if known is None else [_labels(other, name) for name, (_, other) in zip(names, pairs, strict=True)]
    targets, others = (
        join([other for _, other in pairs], "targets of task number", labels=True)
        if labels is None
        else (np.concatenate(labels), list(map(len, labels)))
    )
    for name, size, other in zip(names, sizes, others, strict=True):
        if size != other:
            raise InputError(f"task {name!r} has {size} inputs and {other} targets; each example needs both.")
    owner = np.repeat(np.arange(len(names)), sizes)
    begins = np.concatenate([[0], np.cumsum(sizes)])

    def example(row: int) -> str:
        return f"example {row - begins[owner[row]]} of {names[owner[row]]!r} (counted from 0)"

    division = divide("the mapping", names, owner, example, shares, asked.seed)
    number: int | None = None
    if known is not None:
        classes = _look_up(targets) if known == "infer" else known
        number = classes if isinstance(classes, int) else len(classes)
        written, targets = targets, _read_labels(targets, classes)
        if not asked.protected and (targets < 0).any():
            row = int(np.flatnonzero(targets < 0)[0])
            raise _no_class(str(written[row])[:60], example(row), classes)
    if not asked.protected:
        _refuse_unusable(rows, targets, example)
    columns = next((columns_of(one) for (one, _), size in zip(pairs, sizes, strict=True) if size), None)
    return People.gather(asked.dataset, division, rows, targets, number, columns)


def _as_floats(values: Any) -> Any:
    """Return values whose type follows from them as floats, NaN where there is no number; others as they are."""
    if isinstance(values, Tensor | np.ma.MaskedArray) or (isinstance(values, np.ndarray) and values.dtype != object):
        return values
    found = as_loose(values)
    if found is None or not found.ndim or found.dtype.kind not in "iuO":
        return values
    if found.dtype == object:
        plain = [int(one) if isinstance(one, bool | np.bool_) else one for one in found.ravel().tolist()]
        number = as_numbers(of_objects(plain), ".")
    else:
        number = as_numbers(pa.array(found.ravel()), ".")
    found = np.where(number.rounded, np.nan, number.values).reshape(found.shape)
    columns = columns_of(values)
    if columns is None:
        return found
    import pandas as pd

    return pd.DataFrame(found, columns=list(columns))


def _labels(values: Any, name: str) -> NDArray[Any]:
    """Return one person's labels as they are, numbers or objects."""
    found = as_loose(values)
    if found is None or found.dtype.kind not in "biufOU":
        found = as_array(values, f"the labels of {name!r}", labels=True)  # which says what is wrong with their type
    if found.ndim != 1:
        raise InputError(
            f"the labels of {name!r} have the shape {found.shape}, and classes need one label for each example, [n]; "
            "give .argmax(axis=1) of one-hot rows, .reshape(-1) of labels in one column, or leave out classes."
        )
    return found if found.dtype.kind in "biuf" else found.astype(object)


def _read_labels(labels: NDArray[Any], classes: int | tuple[str, ...]) -> NDArray[np.int64]:
    import pandas as pd

    return read_labels(
        table_of(pd.DataFrame({"labels": pd.Series(labels, dtype=labels.dtype)})), "labels", classes
    ).values


def _no_class(label: str, example: str, classes: int | tuple[str, ...]) -> InputError:
    if isinstance(classes, int):
        return InputError(
            f"the label {label} of {example} is none of the {classes} classes, which are numbered from 0 on; mend it, "
            "or give a larger number of classes."
        )
    return InputError(
        f"the label {label!r} of {example} is none of the names of classes; mend it, or add it to classes."
    )


def _look_up(labels: NDArray[Any]) -> int:
    """Return the number of classes of a benchmark whose labels are numbers from 0 on."""
    if labels.dtype.kind not in "biuf":
        raise InputError("classes='infer' needs labels that are whole numbers; give the classes' names, in order.")
    return max(int(np.nan_to_num(labels.astype(np.float64), posinf=0, neginf=0).max(initial=0)), 0) + 1


def _refuse_unusable(inputs: Any, targets: Any, place: Callable[[int], str]) -> None:
    """Refuse the first example of a benchmark that cannot be used."""
    for what, values in (("inputs", inputs), ("targets", targets)):
        if values.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
            if len(bad):
                raise InputError(
                    f"{what} hold no finite number in {place(int(bad[0]))}; mend it, or leave that example out."
                )


def examples_of(given: Any, *, protected: bool) -> dict[str, tuple[Any, Any]]:
    """Return the examples of torch data sets: everything that iterating over one gives, pairs (input, target).

    Raises
    ------
    InputError
        It is no mapping of data sets, or one gives something else than pairs, fewer than it says, or an error.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"give a mapping with a data set for each person's name, {{'ann': dataset}}, got {type(given).__name__}."
        )
    found: dict[str, tuple[Any, Any]] = {}
    for name, dataset in given.items():
        pairs = list(_items(name, dataset, protected))
        if not all(isinstance(one, tuple | list) and len(one) == 2 for one in pairs):
            raise InputError(
                f"the data set of {name!r} must give pairs (input, target); wrap it in one that gives both as numbers."
            )
        found[name] = (_stacked(name, [x for x, _ in pairs]), _stacked(name, [y for _, y in pairs]))
    return found


def _items(name: str, dataset: Any, protected: bool) -> Iterator[Any]:
    """Yield what a data set gives; the text of an error of its own may hold values, so it stays unsaid."""
    try:
        size = len(dataset)
    except TypeError:  # one that is only iterated over
        if not np.iterable(dataset):
            raise InputError(f"the entry of {name!r} is no data set, got {type(dataset).__name__}; give one.") from None
        size = None
    stream = iter(dataset) if size is None else None
    places: Iterable[int] = itertools.count() if size is None else range(size)
    for place in places:
        try:
            yield dataset[place] if stream is None else next(stream)
        except StopIteration:
            return
        except Exception as error:
            said = "" if size is None else f" of the {size:,} that its length says"
            raise InputError(
                f"the data set of {name!r} gives no example {place} (counted from 0){said}, but an error of type "
                f"{type(error).__name__}; mend the data set."
            ) from (None if protected else error)


def _stacked(name: str, values: list[Any]) -> Any:
    """Return all examples as one array: of objects where one is text, or is missing and has no shape."""
    if any(map(_has_no_type, values)):
        known = [tuple(np.shape(one)) for one in values if one is not None]
        if not any(known):
            return np.array([one.item() if isinstance(one, Tensor) else one for one in values], dtype=object)
        values = [np.full(max(known), np.nan) if one is None else one for one in values]
    what = f"an example of {name!r}"
    arrays = [as_array(one[None] if isinstance(one, Tensor) else [one], what, labels=True) for one in values]
    shapes = sorted({one.shape[1:] for one in arrays})
    if len(shapes) > 1:
        raise InputError(
            f"examples of {name!r} have different shapes, {shapes[0]} and {shapes[1]}; give all one shape."
        )
    return np.concatenate(arrays) if arrays else np.empty(0)


def _has_no_type(value: Any) -> bool:
    """Tell whether one value would change the type that its data set's examples have."""
    large = isinstance(value, int) and value.bit_length() > 63
    return value is None or large or isinstance(value, str | complex)
