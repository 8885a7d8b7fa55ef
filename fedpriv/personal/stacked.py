"""Arrays with a leading task axis in one safetensors file, written some tasks at a time and read task by task.

The library writes a file from memory only, and these may be larger than it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
from numpy.typing import NDArray

from fedpriv.errors import InputError

__all__ = ["Layout", "StackedFile", "read_layout", "rows_of", "whole"]

_KINDS = {
    "float32": "F32", "float64": "F64", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Which arrays a file holds.

    Attributes
    ----------
    arrays : mapping
        Name to (dtype as numpy names it, whole shape).
    about : mapping
        Texts for its header.
    """

    arrays: Mapping[str, tuple[str, tuple[int, ...]]]
    about: Mapping[str, str]

    def header(self) -> tuple[bytes, dict[str, int], int]:
        """Return the head of the file, where in the file each array begins, and how long the file is."""
        entries: dict[str, Any] = {"__metadata__": dict(self.about)}
        starts, place = {}, 0
        # Wider types first, as the library does it: then each lies where its type wants it.
        for name, (kind, shape) in sorted(self.arrays.items(), key=lambda one: (-np.dtype(one[1][0]).itemsize, one[0])):
            size = prod(shape) * np.dtype(kind).itemsize
            entries[name] = {"dtype": _KINDS[kind], "shape": list(shape), "data_offsets": [place, place + size]}
            starts[name], place = place, place + size
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        head = struct.pack("<Q", len(text)) + text
        return head, {name: len(head) + start for name, start in starts.items()}, len(head) + place


class StackedFile:
    """A file at work: rows come in any order.

    Parameters
    ----------
    file : BinaryIO
        Open for writing, and empty.
    layout : Layout
        What it shall hold.
    """

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self._handle, self._layout = file.fileno(), layout
        head, self._starts, size = layout.header()
        _write(self._handle, head, 0)
        os.ftruncate(self._handle, size)

    def put_whole(self, name: str, value: NDArray[Any]) -> None:
        """Write a whole array."""
        _write(
            self._handle, np.ascontiguousarray(value, dtype=self._layout.arrays[name][0]).tobytes(), self._starts[name]
        )

    def put(self, name: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write rows [C, ...] of an array, at these places of its first axis."""
        kind, shape = self._layout.arrays[name]
        size = prod(shape[1:]) * np.dtype(kind).itemsize
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], np.ascontiguousarray(values[order], dtype=kind)
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            if len(run):
                _write(
                    self._handle, values[run[0] : run[-1] + 1].tobytes(), self._starts[name] + int(rows[run[0]]) * size
                )


def read_layout(path: Path) -> Layout:
    """Return what a file holds.

    Raises
    ------
    InputError
        It is missing, or no such file, or cut short.
    """
    names = {code: kind for kind, code in _KINDS.items()}
    try:
        with safetensors.safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            arrays = {name: (names[one.get_dtype()], tuple(one.get_shape())) for name, one in slices.items()}
            return Layout(arrays, file.metadata() or {})
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give the folder of an export.") from None
    except (KeyError, ValueError, safetensors.SafetensorError):
        raise InputError(f"{path} does not hold personal models, or is cut short; export them anew.") from None


def rows_of(path: Path, names: list[str], places: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Read rows of arrays, [C, ...] each."""
    with safetensors.safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in names}
        first, last = int(places.min()), int(places.max()) + 1
        if last - first == len(places):
            return {name: one[first:last][places - first] for name, one in slices.items()}
        return {
            name: np.concatenate([one[place : place + 1] for place in places.tolist()]) for name, one in slices.items()
        }


def whole(path: Path, names: list[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Read whole arrays."""
    with safetensors.safe_open(path, framework="np") as file:
        for name in names:
            yield name, file.get_tensor(name)


def _write(handle: int, content: bytes, place: int) -> None:
    view = memoryview(content)
    while view:
        done = os.pwrite(handle, view, place)
        view, place = view[done:], place + done
