"""Arrays, tensors and torch data sets in memory, one entry for each person."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fedpriv.cohort.intake import as_array, as_names, check_rows, columns_of, join
from fedpriv.cohort.readers.encode import read_labels
from fedpriv.cohort.readers.frame import table_of
from fedpriv.cohort.readers.people import People, as_split, divide
from fedpriv.cohort.readers.table import as_classes
from fedpriv.errors import InputError

__all__ = ["examples_of", "people_of_arrays"]


def people_of_arrays(given: Any, *, classes: Any, split: Any, seed: int, protected: bool, dataset: str) -> People:
    """Make people of inputs and targets for each.

    Parameters
    ----------
    given : mapping of str to (inputs, targets)
        As :meth:`fedpriv.cohort.Ragged.from_lists` takes an entry of each.
    classes, split, seed, protected, dataset
        As :func:`fedpriv.cohort.readers.read_leaf`.

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
    shares = as_split(split)
    if isinstance(shares, str):
        raise InputError("split of arrays must be three shares; give (0.6, 0.2, 0.2).")
    known = as_classes(classes, protected=protected)
    pairs = []
    for place, (name, pair) in enumerate(zip(names, given.values(), strict=True)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                f"the entry of {name!r} must be a pair (inputs, targets), got {type(pair).__name__}; give both."
            )
        check_rows(pair[0], pair[1], place)
        pairs.append(pair)
    rows, sizes = join([one for one, _ in pairs], "inputs of task number")
    text = isinstance(known, tuple)
    answers = [np.asarray(one, dtype=object) if text else one for _, one in pairs]
    found, others = (
        (np.concatenate(answers), [len(one) for one in answers])
        if text and answers
        else join(answers, "targets of task number", labels=True)
    )
    for name, size, other in zip(names, sizes, others, strict=True):
        if size != other:
            raise InputError(f"task {name!r} has {size} inputs and {other} targets; each example needs both.")
    owner = np.repeat(np.arange(len(names)), sizes)
    begins = np.concatenate([[0], np.cumsum(sizes)])
    division = divide(
        "the mapping",
        names,
        owner,
        lambda row: f"example {row - begins[owner[row]]} of {names[owner[row]]!r} (counted from 0)",
        shares,
        seed,
    )
    number: int | None
    if isinstance(known, tuple):
        import pandas as pd

        labels = read_labels(table_of(pd.DataFrame({"target": pd.Series(found, dtype=object)})), "target", known)
        targets, number = labels.values, len(known)
        if not protected and (targets < 0).any():
            row = int(np.flatnonzero(targets < 0)[0])
            name = names[owner[row]]
            raise InputError(
                f"task {name!r} holds {found[row]!r} as the label of example {row - begins[owner[row]]} (counted from "
                "0), which is none of the classes; mend it, or add it to classes."
            )
    else:
        targets = found
        whole = found.dtype.kind in "iub"  # others are refused by their type, as labels of all tasks are
        number = known if known != "infer" else int(found.max(initial=0)) + 1 if whole else 1
    if not protected:
        _refuse_unusable(
            rows, targets, number, lambda row: f"example {row - begins[owner[row]]} of {names[owner[row]]!r}"
        )
    columns = next((columns_of(one) for (one, _), size in zip(pairs, sizes, strict=True) if size), None)
    return People.gather(dataset, division, rows, targets, number, columns)


def _refuse_unusable(inputs: Any, targets: Any, number: int | None, place: Callable[[int], str]) -> None:
    """Refuse the first example of a benchmark that cannot be used."""
    for what, values in (("inputs", inputs), ("targets", targets)):
        if values.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
            if len(bad):
                raise InputError(
                    f"{what} hold no finite number in {place(int(bad[0]))} (counted from 0); mend it, or leave that "
                    "example out."
                )
    if number is not None and targets.ndim == 1 and targets.dtype.kind in "iu":
        bad = np.flatnonzero((targets < 0) | (targets >= number))
        if len(bad):
            raise InputError(
                f"the label {int(targets[bad[0]])} of {place(int(bad[0]))} (counted from 0) is none of the {number} "
                "classes, which are numbered from 0 on; mend it, or give a larger number of classes."
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
    if any(isinstance(one, str) for one in values):
        return np.array(values, dtype=object)
    what = f"an example of {name!r}"
    arrays = [as_array(one[None] if isinstance(one, Tensor) else [one], what, labels=True) for one in values]
    shapes = sorted({one.shape[1:] for one in arrays})
    if len(shapes) > 1:
        raise InputError(
            f"examples of {name!r} have different shapes, {shapes[0]} and {shapes[1]}; give all one shape."
        )
    return np.concatenate(arrays) if arrays else np.empty(0)
