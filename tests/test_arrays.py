"""Arrays in Flower's records: the bytes are Flower's own, and what Flower reads is read alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpriv.arrays import arrays_from, record_of

KINDS = st.sampled_from(["?", "u1", "i4", "<i8", ">i4", "<f4", ">f8", "f2"])
ARRAYS = KINDS.flatmap(lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))


@given(ARRAYS, st.booleans())
def test_records_are_flowers_own_both_ways(value: np.ndarray, turned: bool) -> None:
    value = value.T if turned else value
    ours, theirs = record_of({"a": value})["a"], Array(np.ascontiguousarray(value).reshape(value.shape))
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (theirs.dtype, theirs.shape, theirs.stype, theirs.data)
    found = arrays_from({"a": Array(value)})["a"]  # Flower keeps the Fortran order of a transposed array
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert found.tobytes() == value.tobytes()


def test_what_is_no_plain_array_goes_flowers_way() -> None:
    words = np.array(["one", "three"])
    assert arrays_from(record_of({"words": words}))["words"].tolist() == ["one", "three"]
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.arange(3), version=(2, 0))  # another version of the format
    assert arrays_from({"a": Array("int64", (3,), "numpy.ndarray", buffer.getvalue())})["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("cut", [3, 9, 40, 130])
def test_a_damaged_array_is_refused_and_never_read_short(cut: int) -> None:
    whole = record_of({"a": np.arange(5.0)})["a"]
    with pytest.raises((ValueError, EOFError)):
        arrays_from(ArrayRecord({"a": Array(whole.dtype, whole.shape, whole.stype, whole.data[:cut])}))
    # What follows the last entry is not read, as in Flower.
    longer = Array(whole.dtype, whole.shape, whole.stype, whole.data + b"more")
    assert arrays_from({"a": longer})["a"].tolist() == longer.numpy().tolist()
