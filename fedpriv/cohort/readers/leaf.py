"""LEAF's JSON: ``users``, ``num_samples`` and ``user_data`` with lists ``x`` and ``y`` for each user."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.cohort.readers.asked import Asked
from fedpriv.cohort.readers.encode import Mark
from fedpriv.cohort.readers.paths import at, inside
from fedpriv.cohort.readers.people import PART_WORDS, People, divide
from fedpriv.errors import InputError

__all__ = ["read_leaf"]

_DIGITS = 400
"""A whole number of more digits is larger than every float64."""
_ROUNDED = 2**53
"""A whole number of this size or more is rounded as a float64, so it cannot be used."""
_MOST = 1_000_000
"""Classes that are looked up, at most: a label beyond is none."""


def read_leaf(path: Path, asked: Asked) -> People:
    """Read one file, all files of a folder, or a folder with ``train`` and ``test``, whose division is then kept.

    Parameters
    ----------
    path : Path
        A ``.json`` file or a folder.
    asked : Asked
        What is said of the data; the split is for a folder that has no division of its own.

    Returns
    -------
    People
        Inputs float64 [N, d], or of the lists' own shape.

    Raises
    ------
    InputError
        A file is damaged, a user's lists do not fit, or, of a benchmark, a value cannot be used.
    """
    what = repr(path.name)
    shares, known, found = asked.shares("LEAF's files"), asked.known, asked.found
    reading = _Reading(what)
    for file, part in _files(path, what):
        reading.add(file, part)
    cuts = np.array(reading.owner, dtype=np.int64)
    own = np.array(reading.parts, dtype=np.int8)
    division = divide(what, reading.users, cuts, reading.place, shares if (own < 0).all() else own, asked.seed)
    inputs, good = _numbers(reading.inputs, reading, "x")
    if found is not None and not good.all():
        found("x", np.where(good, Mark.FINE, Mark.UNREADABLE).astype(np.int8), reading)
    if not asked.protected and not good.all():
        _refuse(reading, int(np.flatnonzero(~good)[0]), "x")
    if known is None:
        targets, fine = _numbers(reading.targets, reading, "y")
        number = None
    else:
        if known == "infer":
            known = _look_up(reading.targets)
        names = None if isinstance(known, int) else {name: place for place, name in enumerate(known)}
        number = known if isinstance(known, int) else len(known)
        targets = np.array([_label(one, names, number) for one in reading.targets], dtype=np.int64)
        fine = targets >= 0
    if found is not None and not fine.all():
        wrong = Mark.UNREADABLE if known is None else Mark.NO_CATEGORY
        found("y", np.where(fine, Mark.FINE, wrong).astype(np.int8), reading)
    if not asked.protected and not fine.all():
        _refuse(reading, int(np.flatnonzero(~fine)[0]), "y")
    return People.gather(asked.dataset, division, inputs, targets, number)


class _Reading:
    """What was read so far: examples in their order, whose they are, and where they stood."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.users: list[str] = []
        self.owner: list[int] = []
        self.parts: list[int] = []
        self.inputs: list[Any] = []
        self.targets: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._places: list[int] = []

    def place(self, row: int) -> str:
        """Return where an example stands."""
        return f"example {self._places[row]} of {self.users[self.owner[row]]!r} (counted from 0)"

    def add(self, file: Path, part: int) -> None:
        """Read one file."""
        where = repr(file.name)
        try:
            text = file.read_text(encoding="utf-8")
            found = json.loads(text, parse_int=_whole, object_pairs_hook=lambda pairs: _once(where, pairs))
        except OSError as error:
            raise InputError(f"{where} cannot be read: {error.strerror}; give the path of a JSON file.") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{where} is not UTF-8 at byte {error.start:,}; save it as UTF-8.") from None
        except (json.JSONDecodeError, RecursionError) as error:
            line = f" in line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise InputError(f"{where} is no whole JSON{line}; write the file again.") from None
        data = found.get("user_data") if isinstance(found, dict) else None
        users = found.get("users") if isinstance(found, dict) else None
        if not isinstance(data, dict) or not isinstance(users, list):
            raise InputError(f"{where} has no 'users' and 'user_data', so it is not of LEAF's form; give such a file.")
        sizes = found.get("num_samples", [None] * len(users))
        if not isinstance(sizes, list) or len(sizes) != len(users):
            raise InputError(f"{where} must have as many 'num_samples' as 'users' ({len(users)}); write it again.")
        missing = [one for one in users if not isinstance(one, str) or one not in data]
        if missing or len(data) != len(set(map(str, users))) or len(set(map(str, users))) < len(users):
            name = missing[0] if missing else "one of them"
            raise InputError(f"{where} must name each user of 'user_data' once in 'users', not so {name!r}; mend it.")
        for user, size in zip(users, sizes, strict=True):
            self._add(where, user, data[user], size, part)

    def _add(self, where: str, user: str, given: Any, size: Any, part: int) -> None:
        inputs, targets = (given.get("x"), given.get("y")) if isinstance(given, Mapping) else (None, None)
        if not isinstance(inputs, list) or not isinstance(targets, list):
            raise InputError(f"{where} must hold lists 'x' and 'y' for the user {user!r}; mend it.")
        if len(inputs) != len(targets) or size not in (None, len(inputs)):
            said = "" if size is None else f" and says {size}"
            raise InputError(
                f"{where} holds {len(inputs)} inputs and {len(targets)} targets of the user {user!r}{said}; each "
                "example needs both."
            )
        number = self._numbers.setdefault(user, len(self._numbers))
        if number == len(self.users):
            self.users.append(user)
        self.owner += [number] * len(inputs)
        self.parts += [part] * len(inputs)
        self.inputs += inputs
        self.targets += targets
        self._places += range(len(inputs))


def _files(path: Path, what: str) -> list[tuple[Path, int]]:
    """Return the files to be read with the part that each is (-1: not said)."""
    if at(path) != "folder":
        return [(path, -1)]
    parts = [one for one in inside(path) if one.name.lower() in PART_WORDS and at(one) == "folder"]
    found = [(file, PART_WORDS[one.name.lower()]) for one in parts for file in inside(one) if file.suffix == ".json"]
    found = found or [(file, -1) for file in inside(path) if file.suffix == ".json"]
    if not found:
        raise InputError(f"{what} holds no .json file; give a file, or a folder of files or of train and test.")
    return found


def _shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _numbers(values: list[Any], reading: _Reading, key: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return examples as floats, NaN where there is no number, and which have only numbers."""
    shape = _shape(values[0]) if values else ()
    if 0 in shape:
        raise InputError(f"{reading.what} holds empty lists in '{key}', {reading.place(0)}; give numbers in each.")
    flat = np.empty((len(values), math.prod(shape)), dtype=np.float64)
    for row, value in enumerate(values):
        if not _fill(flat[row], value, shape):
            raise InputError(
                f"{reading.what} holds lists of another shape than {list(shape)} in '{key}', {reading.place(row)}; all "
                "examples need one shape, and text is turned into numbers beforehand."
            )
    flat[~np.isfinite(flat)] = np.nan
    return flat.reshape(len(values), *shape), np.asarray(~np.isnan(flat).any(axis=1))


def _fill(out: NDArray[np.float64], value: Any, shape: tuple[int, ...]) -> bool:
    """Write nested lists of numbers into a row; tell whether they have the shape."""
    if not shape:
        out[0] = _number(value)
        return not isinstance(value, list)
    if not isinstance(value, list) or len(value) != shape[0]:
        return False
    if len(shape) == 1:
        if any(isinstance(one, list) for one in value):
            return False
        out[:] = [_number(one) for one in value]
        return True
    step = math.prod(shape[1:])
    return all(_fill(out[place * step : (place + 1) * step], one, shape[1:]) for place, one in enumerate(value))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return math.nan if isinstance(value, int) and abs(value) >= _ROUNDED else float(value)


def _whole(text: str) -> float:
    """Return a whole number of JSON, NaN where no float is so large: Python refuses to read thousands of digits."""
    return int(text) if len(text) <= _DIGITS else math.nan


def _once(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of two entries with one key, Python would drop the first without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        shown = ascii(twice if len(twice) <= 60 else twice[:57] + "...")
        raise InputError(f"{where} has the key {shown} twice in one place, so one would replace the other; keep one.")
    return found


def _label(value: Any, names: dict[str, int] | None, number: int) -> int:
    if not isinstance(value, str | int | float) or value != value:
        return -1
    if names is not None:
        return names.get(str(value).strip(), -1)
    return -1 if isinstance(value, str) or value not in range(number) else int(value)


def _look_up(targets: list[Any]) -> int | tuple[str, ...]:
    usable = [one for one in targets if isinstance(one, str | int | float) and one == one]
    whole = [one for one in usable if isinstance(one, int)]
    if len(whole) < len(usable):
        return tuple(sorted({str(one).strip() for one in usable}))
    return min(max(whole, default=0) + 1, _MOST)


def _refuse(reading: _Reading, row: int, key: str) -> None:
    value = reading.targets[row] if key == "y" else "a value"
    shown = repr(value) if key == "y" and len(repr(value)) < 60 else "a value"
    what = (
        "no label or number that can be used"
        if key == "y"
        else "no finite number, or a whole one that a float64 rounds"
    )
    raise InputError(f"{reading.what} holds {shown} in '{key}', {reading.place(row)}, which is {what}; mend it.")
