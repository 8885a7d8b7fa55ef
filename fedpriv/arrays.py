"""Arrays in Flower's records and back, in the NPY format that Flower writes itself.

Flower parses and writes an NPY header with every array, which takes longer than a small array takes to train on. Here a
header is written once per dtype and shape and parsed once per distinct header; any other content goes Flower's own way.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.lib import format as npy
from numpy.typing import NDArray

__all__ = ["Arrays", "arrays_from", "record_of"]

Arrays = dict[str, NDArray[Any]]

_STYPE = Array(np.zeros(1)).stype
_KINDS = "biuf"  # what has neither pickles nor fields


def record_of(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return arrays as a record of Flower; their bytes are copied once."""
    record = ArrayRecord()
    for name, value in arrays.items():
        if value.dtype.kind in _KINDS:
            data = _header(value.dtype.str, value.shape) + value.tobytes()  # in C order
            record[name] = Array(_name(value.dtype), value.shape, _STYPE, data)
        else:
            record[name] = Array(np.ascontiguousarray(value))
    return record


def arrays_from(record: Mapping[str, Array]) -> Arrays:
    """Return the arrays of a record; they may share its memory and must not be written to.

    Raises
    ------
    TypeError, ValueError
        As Flower's ``Array.numpy``, for content that is no array.
    """
    return {name: _numpy(value) for name, value in record.items()}


def _numpy(array: Array) -> NDArray[Any]:
    data = array.data
    start = 10 + int.from_bytes(data[8:10], "little")
    if array.stype == _STYPE and data[:8] == npy.magic(1, 0):
        dtype, shape, count = _parsed(data[:start])
        if dtype is not None and len(data) == start + count * dtype.itemsize:
            return np.frombuffer(data, dtype, count, start).reshape(shape)
    return array.numpy()


@lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


@lru_cache(maxsize=4096)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@lru_cache(maxsize=4096)
def _parsed(header: bytes) -> tuple[np.dtype[Any] | None, tuple[int, ...], int]:
    """Return dtype, shape and number of entries; no dtype for what only numpy itself should read."""
    try:
        shape, fortran, dtype = npy.read_array_header_1_0(io.BytesIO(header[8:]))
    except ValueError:
        return None, (), 0
    if fortran or dtype.kind not in _KINDS:
        return None, (), 0
    return dtype, shape, int(np.prod(shape, dtype=np.int64))
