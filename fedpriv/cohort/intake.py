"""What people bring as data, as arrays of numbers, or a sentence that says what to do.

Only types and shapes are looked at, never a value: they are structure, which may refuse a start. What values cannot be
computed with is found by :mod:`fedpriv.cohort.usable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.errors import InputError

__all__ = ["as_array", "as_entries", "as_loose", "as_names", "as_offsets", "check_rows", "columns_of", "join"]

_OTHER_KINDS = {
    "b": ("booleans", "give numbers, .astype('float32') for 0.0 and 1.0"),
    "c": ("complex numbers", "give real and imaginary parts as numbers of their own"),
    "M": ("dates", "give numbers, such as days since a fixed date"),
    "m": ("time spans", "give numbers, such as seconds"),
    "S": ("bytes", "give numbers; number classes and words by a list that is fixed beforehand"),
    "U": ("text", "give numbers; number classes and words by a list that is fixed beforehand"),
    "O": ("Python objects", "make numbers of them, np.asarray(values, dtype='float32')"),
    "V": ("records", "give one plain array of numbers"),
}


def as_array(values: Any, what: str, *, labels: bool = False) -> NDArray[Any]:
    """Return an array of floating or whole numbers that torch can read, in native byte order.

    Parameters
    ----------
    values : array, Tensor, DataFrame, list
        Numbers of any of numpy's types but uint64. Floats of 16 bits become float32 and those of more than 64 bits
        float64; a Tensor is detached and brought to the CPU; lists get the type that numpy gives them.
    what : str
        What sentences call it.
    labels : bool
        Whether booleans are welcome.

    Raises
    ------
    InputError
        There is a mask, which would be lost, or a type that holds no real numbers.
    """
    found = _plain(values, what, labels=labels)
    kind = found.dtype.kind
    if kind == "O" and not found.ndim:
        raise InputError(
            f"{what} must be an array of numbers [n, ...], got {_kind(values)}; give the array that it holds, of a "
            "sparse matrix .toarray()."
        )
    if kind in _OTHER_KINDS and not (labels and kind == "b"):
        holds, advice = _OTHER_KINDS[kind]
        raise InputError(f"{what} must hold numbers, got {_kind(values)} of {holds} ({found.dtype}); {advice}.")
    if found.dtype.newbyteorder("=") == np.uint64:
        raise InputError(f"{what} must hold numbers that torch knows, got uint64; give .astype('int64').")
    if not found.ndim:
        raise InputError(f"{what} must have an axis of examples, got a single number; give an array [n, ...].")
    if kind == "f" and found.dtype.itemsize not in (4, 8):
        return found.astype(np.float32 if found.dtype.itemsize < 4 else np.float64)
    found = found.astype(found.dtype.newbyteorder("="), copy=False)
    # Torch cannot go backwards; other strides stay, of which a million equal rows are made without memory.
    return found.copy() if any(step < 0 for step in found.strides) else found


def _plain(values: Any, what: str, *, labels: bool = False) -> NDArray[Any]:
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_quantized:
            raise InputError(f"{what} is a sparse or quantized tensor; give .to_dense() or .dequantize().")
        values = values.detach().cpu().resolve_conj().resolve_neg()
        narrow = values.is_floating_point() and values.element_size() < 4  # bfloat16 is no type of numpy's
        found: NDArray[Any] = (values.float() if narrow else values).numpy()
        return found
    inside = values if isinstance(values, list | tuple) else ()
    if isinstance(values, np.ma.MaskedArray) or any(isinstance(one, np.ma.MaskedArray) for one in inside):
        raise InputError(
            f"{what} is a masked array, whose mask would be lost; leave the masked examples out, or fill them "
            "(.filled(value))."
        )
    columns = getattr(values, "dtypes", None)  # of pandas and its like
    if columns is not None:
        strange = [one for one in np.atleast_1d(np.asarray(columns, dtype=object)) if not isinstance(one, np.dtype)]
        if strange:
            numbers = getattr(strange[0], "kind", "O") in "biuf"
            same = ".to_numpy('int64', na_value=-1)" if labels else ".to_numpy('float32', na_value=float('nan'))"
            advice = f"give {same}, where a gap is a value that cannot be used" if numbers else _OTHER_KINDS["U"][1]
            raise InputError(f"{what} is a {_kind(values)} with columns of type {strange[0]}; {advice}.")
    try:
        return np.asarray(values)
    except Exception as error:
        # Its text may hold values.
        raise InputError(
            f"{what} is a {_kind(values)} that makes no array ({type(error).__name__}); give one array of numbers "
            "[n, ...], all examples of one shape."
        ) from None


def as_loose(values: Any) -> NDArray[Any] | None:
    """Return an array whatever type its values give it, of objects where they have none in common; None of others.

    The type of a list or a pandas table follows from its values: one that is missing makes whole numbers floats or
    objects, a text makes all of a list texts. What of them are numbers is for the caller to find out, value by value.
    """
    if isinstance(values, Tensor):
        return as_array(values, "it", labels=True)
    if isinstance(values, np.ma.MaskedArray):
        return None
    types = [] if values is None else np.atleast_1d(np.asarray(getattr(values, "dtypes", []), dtype=object)).tolist()
    objects = isinstance(values, list | tuple) or any(not isinstance(one, np.dtype) for one in types)
    if any(getattr(one, "kind", "O") in "Mm" for one in types):
        return None
    try:
        found = np.asarray(values)
        return np.asarray(values, dtype=object) if objects and found.dtype.kind not in "biuf" else found
    except Exception:  # whose text may hold values; :func:`as_array` says what is wrong
        return None


def _kind(values: Any) -> str:
    return type(values).__name__


def columns_of(values: Any) -> tuple[str, ...] | None:
    """Return the names of a table's columns, or None of what names none."""
    names = getattr(values, "columns", None)
    return None if names is None or callable(names) else tuple(map(str, names))


def check_rows(inputs: Any, targets: Any, place: int) -> None:
    """Refuse two tables whose rows have the same labels in another order: pairing them by place would be wrong.

    Raises
    ------
    InputError
        They are; the task's place is named.
    """
    one, other = (getattr(values, "index", None) for values in (inputs, targets))
    if one is None or other is None or callable(one) or callable(other) or list(one) == list(other):
        return
    if len(one) == len(other) and set(one) == set(other):
        if len(set(one)) < len(one):  # .loc would give each of them several times
            raise InputError(
                f"inputs and targets of task number {place} (counted from 0) have an index in another order whose "
                "labels occur more than once, so they pair no rows; bring both in one order, and give .to_numpy() of "
                "both."
            )
        raise InputError(
            f"inputs and targets of task number {place} (counted from 0) have the same index in another order, and "
            "rows are paired by place; give targets.loc[inputs.index], or .to_numpy() of both if places are meant."
        )


def as_entries(values: Any, what: str) -> list[Any]:
    """Return a list with one entry per task.

    Raises
    ------
    InputError
        It is a mapping, one table, or nothing that has entries.
    """
    if isinstance(values, Mapping | str | bytes) or hasattr(values, "columns") or not np.iterable(values):
        raise InputError(f"{what} must be a list with one array per task, in the order of names, got {_kind(values)}.")
    return list(values)


def as_offsets(values: Any, count: int) -> NDArray[np.int64]:
    """Return where tasks begin and end among ``count`` rows, int64 [m + 1].

    Raises
    ------
    InputError
        They do not begin with 0, fall, do not end with ``count``, or are no whole numbers.
    """
    found = _plain(values, "offsets")
    if found.ndim != 1 or not len(found) or found.dtype.kind not in "iu":
        raise InputError(
            f"offsets must be whole numbers [m + 1], got {found.dtype} of shape {found.shape}; Ragged.from_lists makes "
            "them."
        )
    found = found.astype(np.int64, copy=False)
    falls = np.flatnonzero(np.diff(found) < 0)
    if found[0] != 0 or len(falls) or found[-1] != count:
        wrong = f"fall behind entry {falls[0]}" if len(falls) else f"go from {found[0]} to {found[-1]}"
        raise InputError(
            f"offsets must begin with 0, never fall, and end with the number of examples ({count}), but they {wrong}; "
            "Ragged.from_lists makes them."
        )
    return found


def as_names(values: Any) -> tuple[str, ...]:
    """Return names as a tuple of text.

    Raises
    ------
    InputError
        One is no text, or cannot be written as UTF-8.
    """
    if isinstance(values, str) or not np.iterable(values):
        raise InputError(f"names must be a sequence with one name per task, got {_kind(values)}.")
    found = tuple(values)
    for place, name in enumerate(found):
        if not isinstance(name, str):
            raise InputError(
                f"names must be text, got {_kind(name)} at place {place} (counted from 0); use str(...), and the same "
                "spelling in every run."
            )
    whole = "".join(found)
    if not whole.isascii() and any("\ud800" <= letter <= "\udfff" for letter in whole):
        raise InputError("names must be text that UTF-8 can write, got half of a surrogate pair; rename that task.")
    if "\0" in whole:
        raise InputError(
            "names must not hold the character NUL, which parts them in the fingerprint; rename that task."
        )
    return tuple(map(str, found))


def join(entries: Sequence[Any], what: str, *, labels: bool = False) -> tuple[NDArray[Any], list[int]]:
    """Join one array per task; return all rows and how many each has.

    Parameters
    ----------
    entries : sequence
        As :func:`as_array` takes them. Shape and type of an entry without rows do not matter.
    what : str
        What sentences call one entry.
    labels : bool
        As :func:`as_array`; whole numbers of some entries then become floats beside floats of others.

    Raises
    ------
    InputError
        There is none, or entries differ in the shape of an example, or some inputs hold whole numbers and some do not.
    """
    if not len(entries):
        raise InputError(f"there is no {what} at all, so there are no tasks; give one array per task.")
    found = [as_array(one, f"{what} {place} (counted from 0)", labels=labels) for place, one in enumerate(entries)]
    rows = [place for place, one in enumerate(found) if len(one)]
    if not rows:
        return found[0], [0] * len(found)
    columns = columns_of(entries[rows[0]])
    for place in rows:
        other = columns_of(entries[place])
        if columns is not None and other is not None and other != columns:
            raise InputError(
                f"{what} {place} (counted from 0) has other columns, or in another order, than number {rows[0]}; give "
                "all tables the same with table[columns]."
            )
    first = found[rows[0]]
    for place in rows:
        one = found[place]
        if one.shape[1:] != first.shape[1:]:
            raise InputError(
                f"{what} {place} (counted from 0) holds examples of shape {one.shape[1:]}, number {rows[0]} holds "
                f"{first.shape[1:]}; all tasks need one shape."
            )
        if not labels and (one.dtype.kind == "f") != (first.dtype.kind == "f"):
            raise InputError(
                f"{what} {place} (counted from 0) holds {one.dtype}, number {rows[0]} holds {first.dtype}; give all "
                "tasks one type, such as .astype('float32')."
            )
    return np.concatenate([found[place] for place in rows]), [len(one) for one in found]
