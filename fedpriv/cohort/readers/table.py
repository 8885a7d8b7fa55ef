"""From a table to people: whose each row is, what is read of it, and what cannot be used."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpriv.cohort.readers.asked import Asked, Found
from fedpriv.cohort.readers.column import Table, as_text, no_column
from fedpriv.cohort.readers.encode import Encoded, Mark, encode, read_labels, scale
from fedpriv.cohort.readers.features import Feature, as_feature, features_of
from fedpriv.cohort.readers.images import decoded
from fedpriv.cohort.readers.people import PART_WORDS, Division, People, Rows, as_split, divide, tidy
from fedpriv.errors import InputError

__all__ = ["inputs_of", "people_of"]

_LOG = logging.getLogger(__name__)


def people_of(
    table: Table,
    asked: Asked,
    *,
    task: str,
    target: Any,
    features: Any,
    groups: str | None = None,
    parts: NDArray[np.int8] | None = None,
) -> People:
    """Read people from a table with a row for each example.

    Parameters
    ----------
    table : Table
        What was read.
    asked : Asked
        What is said of the data.
    task : str
        The column that says whose a row is.
    target : str, sequence of str, or mapping of str
        The column of what is to be predicted; several of a regression, or how each is read (a range).
    features, groups
        As :meth:`fedpriv.Tasks.from_table` takes them.
    parts : ndarray of int8, shape [N], or None
        The part of each row, where the table itself does not say it.

    Raises
    ------
    InputError
        What was asked for is not there or does not fit; of a benchmark a value that cannot be used.
    """
    targets = _targets(target, protected=asked.protected)
    named = [(task, "the task"), *((one.column, "a target") for one in targets)]
    named += [] if groups is None else [(groups, "the group")]
    divided = as_split(asked.split)
    said_by = tidy(divided) if isinstance(divided, str) else None
    for name, what in named:
        if not isinstance(name, str) or tidy(name) not in table.columns:
            raise no_column(table, str(name), what)
    if said_by is not None and said_by not in table.columns:
        raise no_column(table, said_by, "which says the part")
    others = [*(tidy(name) for name, _ in named), *([said_by] if said_by else [])]
    if len(set(others)) < len(others):
        raise InputError(
            "the task, the targets, and what says the group and the part must be different columns; name each."
        )
    chosen = features_of(table, features, others, protected=asked.protected)
    known = asked.known
    spellings, owner = _owners(table, tidy(task))
    if said_by is not None:
        parts = _parts(table, said_by)
    shares = parts if parts is not None else divided
    division = divide(table.what, spellings, owner, table.place, shares, asked.seed)  # type: ignore[arg-type]
    report = _Report(table, asked.protected, asked.found)
    # A benchmark's table has one decimal mark, each person of protected data one of their own.
    whose = division.owner if asked.protected else None
    inputs, columns = _inputs(table, chosen, report, division, whose)
    if known is None:
        values = [report(one, encode(table, one, whose), "target") for one in targets]
        answers = values[0][:, 0] if len(values) == 1 and values[0].shape[1] == 1 else np.concatenate(values, axis=1)
        number = None
    else:
        if len(targets) > 1 or targets[0].how != "number":
            raise InputError(
                "classes go with one target column whose values are labels; name that column, or leave out classes."
            )
        labels = _look_up(table, targets[0].column) if known == "infer" else known
        answers = report(targets[0], read_labels(table, targets[0].column, labels), "label")
        number = labels if isinstance(labels, int) else len(labels)
    if features is None:
        _LOG.info("%s: read as features, by what the columns hold: %s.", table.what, ", ".join(map(_in_words, chosen)))
    people = People.gather(asked.dataset, division, inputs, answers, number, columns)
    return people if groups is None else replace(people, groups=_groups(table, tidy(groups), division))


def inputs_of(table: Table, features: Any) -> NDArray[Any]:
    """Return the inputs of new rows, read by the same public rules; NaN where a value cannot be used.

    Nothing is looked up in these rows, whatever they are: a model would be given other columns than it was trained on.

    Raises
    ------
    InputError
        A column is not there, or a rule needs the rows that a model was trained on.
    """
    chosen = features_of(table, features, (), protected=True)
    fitted = next((one for one in chosen if one.how in ("standardize", "standardize-within-task")), None)
    if fitted is not None:
        raise InputError(
            f"the column {fitted.column!r} is scaled by the rows that the model was trained on ({fitted.how}), which "
            "new rows do not bring; give a range [low, high] in features to predict from files."
        )
    return _inputs(table, chosen, _Report(table, True, None), None, None)[0]


class _Report:
    """Passes columns on: of a benchmark the first value that cannot be used is refused, what was changed counted."""

    def __init__(self, table: Table, protected: bool, found: Found | None) -> None:
        self._table, self._protected, self._found = table, protected, found

    def __call__(self, feature: Feature, encoded: Encoded, role: str = "feature") -> NDArray[Any]:
        marks = encoded.marks
        if self._found is not None and marks.any():
            self._found(feature.column, marks, self._table)
        if not self._protected and marks.any():
            self._benchmark(feature, marks, role)
        return encoded.values

    def _benchmark(self, feature: Feature, marks: NDArray[np.int8], role: str) -> None:
        table, column = self._table, feature.column
        bad = np.isin(marks, (Mark.MISSING, Mark.UNREADABLE, Mark.TOO_LARGE, Mark.ANOTHER_DECIMAL_MARK))
        bad |= (marks == Mark.NO_CATEGORY) & (role == "label")
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            where = f"in {table.place(row)}, column {column!r}"
            if marks[row] == Mark.MISSING:
                instead = (
                    ""
                    if role != "feature"
                    else ", or say in features what stands in for it, 'missing' beside a 'range'"
                )
                raise InputError(f"{table.what} has no value {where}; fill it, leave that row out{instead}.")
            value = repr(table.column(column)[row].as_py())
            shown = value if len(value) <= 60 else f"{value[:57]}..."
            if role == "label":
                raise InputError(
                    f"{table.what} holds {shown} {where}, which is none of the classes; mend it, or add it to classes."
                )
            if marks[row] == Mark.TOO_LARGE:
                reason = (
                    "a whole number that a float64 rounds"
                    if feature.how == "number"
                    else "too large to be standardized"
                )
                raise InputError(
                    f"{table.what} holds {shown} {where}, which is {reason}; mend it there, or give a range "
                    f"[low, high] in {'features' if role == 'feature' else role}."
                )
            if marks[row] == Mark.ANOTHER_DECIMAL_MARK:
                raise InputError(
                    f"{table.what} holds {shown} {where}, whose decimal mark is another than that of the rows before; "
                    "write one mark in all rows."
                )
            what = {"dates": "date (ISO 8601)", "boolean": "boolean"}.get(feature.how, "number")
            comma = "; give decimal=',' if that is a decimal comma" if what == "number" and "," in shown else ""
            raise InputError(f"{table.what} holds {shown} {where}, which is no {what}{comma}; mend it there.")
        for mark, words in (
            (Mark.CLIPPED, "lie outside of the range and are taken as its nearer end"),
            (Mark.NO_CATEGORY, "are none of the categories and are 0 in all their columns"),
        ):
            if count := int((marks == mark).sum()):
                _LOG.info("%s: %d values of %r %s.", table.what, count, column, words)


def _targets(given: Any, *, protected: bool) -> list[Feature]:
    pairs: list[tuple[Any, Any]]
    if isinstance(given, str):
        pairs = [(given, "number")]
    elif isinstance(given, Mapping):
        pairs = list(given.items())
    elif isinstance(given, Sequence):
        pairs = [(one, "number") for one in given]
    else:
        pairs = []
    if not pairs or not all(isinstance(name, str) for name, _ in pairs):
        raise InputError(
            f"target must name the column that is to be predicted, got {given!r}; give its name, or name and range "
            "[0, 100] to have it scaled."
        )
    found = [as_feature(tidy(name), how, protected=protected) for name, how in pairs]
    strange = next((one for one in found if one.how not in ("number", "range")), None)
    if strange is not None:
        raise InputError(
            f"the target {strange.column!r} must be a number or have a range [low, high], got {strange.how!r}; name "
            "labels in classes=['no', 'yes'] instead."
        )
    return found


def _owners(table: Table, column: str) -> tuple[list[str], Rows]:
    if table.kind(column) not in ("text", "whole"):
        raise InputError(
            f"{table.what} holds {table.holds(column)} in the column {column!r}, and names of people are text or whole "
            "numbers; give that column as text."
        )
    text = pc.fill_null(table.column(column).cast(pa.large_string()), "")
    coded = text.dictionary_encode()
    return coded.dictionary.to_pylist(), np.asarray(coded.indices.to_numpy(zero_copy_only=False)).astype(np.int64)


def _groups(table: Table, column: str, division: Division) -> tuple[int, ...]:
    """Return the public group of each person: names and groups are structure, so sentences may tell them."""
    if table.kind(column) not in ("text", "whole"):
        raise InputError(
            f"{table.what} holds {table.holds(column)} in the column {column!r}, and groups are whole numbers; give "
            "them as 1, 2 and so on."
        )
    coded = as_text(table.column(column)).dictionary_encode()
    texts: list[str] = coded.dictionary.to_pylist()
    code = np.asarray(pc.fill_null(coded.indices, len(texts)).to_numpy(zero_copy_only=False)).astype(np.int64)
    whole = np.array([bool(re.fullmatch(r"-?[0-9]{1,18}", text)) for text in texts] + [False])
    if len(strange := np.flatnonzero(~whole[code])):
        raise InputError(
            f"{table.what} has no whole number for the group in {table.place(int(strange[0]))}, column {column!r}; "
            "write the number of the person's group there."
        )
    of_row = np.array([int(text) if good else 0 for text, good in zip([*texts, ""], whole, strict=True)])[code]
    rows = np.concatenate(division.rows)
    person = np.concatenate([np.repeat(np.arange(len(cuts) - 1), np.diff(cuts)) for cuts in division.offsets])
    first = np.zeros(len(division.names), dtype=np.int64)
    first[person[::-1]] = rows[::-1]
    if len(other := np.flatnonzero(of_row[rows] != of_row[first[person]])):
        name, here, there = division.names[person[other[0]]], int(rows[other[0]]), int(first[person[other[0]]])
        raise InputError(
            f"{table.what} has {name!r} in group {of_row[there]} ({table.place(there)}) and in group {of_row[here]} "
            f"({table.place(here)}); write one group in all rows of a person."
        )
    return tuple(of_row[first].tolist())


def _parts(table: Table, column: str) -> NDArray[np.int8]:
    if table.kind(column) != "text":
        raise InputError(
            f"{table.what} holds {table.holds(column)} in the column {column!r}, which says the part; write train, "
            "validation or test there."
        )
    text = pc.fill_null(pc.utf8_lower(as_text(table.column(column))), "")
    words = list(PART_WORDS)
    place = np.asarray(
        pc.fill_null(pc.index_in(text, value_set=pa.array(words, pa.large_string())), -1).to_numpy(zero_copy_only=False)
    )
    strange = np.flatnonzero(place < 0)
    if len(strange):
        raise InputError(
            f"{table.what} names no part in {table.place(int(strange[0]))}, column {column!r}; write train, validation "
            "or test there."
        )
    number: NDArray[np.int8] = np.array([PART_WORDS[word] for word in words], dtype=np.int8)[place]
    return number


def _inputs(
    table: Table, chosen: list[Feature], report: _Report, division: Division | None, owner: Rows | None
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    if len(chosen) == 1 and table.kind(chosen[0].column) == "image":
        return decoded(table.column(chosen[0].column), table.what, table.place), None
    columns: list[str] = []
    blocks = []
    for one in chosen:
        encoded = encode(table, one, owner)
        block = report(one, encoded if division is None else scale(one, encoded, division))
        blocks.append(block)
        width = block.shape[1]
        columns += one.columns if width == len(one.columns) else [f"{one.column}[{place}]" for place in range(width)]
    return np.concatenate(blocks, axis=1), tuple(columns)


def _look_up(table: Table, column: str) -> tuple[str, ...] | int:
    """Look up the classes of a benchmark: whole numbers from 0 on are their own labels, text is put in order."""
    if table.kind(column) not in ("text", "whole", "boolean"):
        raise InputError(
            f"{table.what} holds {table.holds(column)} in the column {column!r}, which are no labels; give a column of "
            "text or whole numbers, or leave out classes for a regression."
        )
    found = sorted(one for one in as_text(table.column(column)).unique().to_pylist() if one)
    if all(one.isascii() and one.isdigit() and len(one) <= 20 for one in found) and found:
        numbers = sorted(map(int, found))
        if numbers == list(range(len(numbers))):
            _LOG.info("%s: looked up %d classes in the labels, 0 to %d.", table.what, len(found), numbers[-1])
            return len(numbers)
        found = sorted(found, key=int)
    _LOG.info("%s: looked up %d classes in the labels: %s.", table.what, len(found), ", ".join(found[:20]))
    return tuple(found)


def _in_words(feature: Feature) -> str:
    return f"{feature.column} ({feature.how})"
