"""Personal models in one compact file, r + k numbers per task, and predictions straight from it.

The file has the safetensors format: eight bytes with the length of a JSON header, the header, the arrays. It holds what
belongs to its tasks, so it stays where their data are.
"""

from __future__ import annotations

import json
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.files import replacing

__all__ = ["PAIRS", "PersonalModels", "footprint", "served"]

Array = NDArray[Any]
_TYPES = {"F64": "<f8", "F32": "<f4", "U16": "<u2", "I32": "<i4"}
_NAMES = ("factors", "coefficients", "index", "values")

PAIRS = 1000
"""(task, x) pairs that are asked at a time where speed is measured."""


@dataclass(frozen=True)
class PersonalModels:
    """Models theta_i = U w_i + b_i of t tasks, ready to be asked.

    Attributes
    ----------
    factors : ndarray, shape [d, r]
        U.
    coefficients : ndarray, shape [t, r]
        w.
    index : ndarray of integers, shape [t, k]
        Where the sparse parts stand.
    values : ndarray, shape [t, k]
        What stands there.
    """

    factors: Array
    coefficients: Array
    index: Array
    values: Array

    def __len__(self) -> int:
        return len(self.coefficients)

    @property
    def bytes_per_task(self) -> int:
        """Size of a task's own part."""
        return sum(int(one.itemsize) * one.shape[1] for one in (self.coefficients, self.index, self.values))

    def predict(self, tasks: NDArray[np.int64], inputs: Array) -> NDArray[np.float64]:
        """Predict for pairs of a task and an example, without building theta: O(d r + k) each.

        Parameters
        ----------
        tasks : ndarray of int64, shape [n]
            Positions of the tasks, in any order and as often as wanted.
        inputs : ndarray, shape [n, d]
            Examples.

        Returns
        -------
        ndarray of float64, shape [n]

        Raises
        ------
        InputError
            A task that is not here, positions that are no whole numbers, or examples of another shape.
        """
        self._check(tasks)
        if inputs.shape != (len(tasks), len(self.factors)):
            raise InputError(
                f"'inputs' must have shape ({len(tasks)}, {len(self.factors)}), an example for each task asked, got "
                f"{inputs.shape}."
            )
        shared = np.einsum("nr,nr->n", inputs @ self.factors, self.coefficients[tasks])
        chosen = np.take_along_axis(inputs, self.index[tasks].astype(np.int64), axis=1)
        found: NDArray[np.float64] = shared + np.einsum("nk,nk->n", chosen, self.values[tasks])
        return found

    def theta(self, tasks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return whole models, shape [n, d]."""
        self._check(tasks)
        dense = self.coefficients[tasks].astype(np.float64) @ self.factors.T
        rows = np.arange(len(tasks))[:, None]
        dense[rows, self.index[tasks].astype(np.int64)] += self.values[tasks]
        return dense

    def save(self, path: Path, *, dtype: str = "float32") -> None:
        """Write the file.

        Parameters
        ----------
        path : Path
            Usually ends in ``.safetensors``.
        dtype : {"float32", "float64"}
            Of the coefficients and values; the factors keep float64, and positions take two bytes up to d = 65,536.

        Raises
        ------
        InputError
            The file cannot be written, or a number is too large for float32.
        """
        if dtype not in ("float32", "float64"):
            raise InputError(f"'dtype' must be 'float32' or 'float64', got {dtype!r}.")
        small = "U16" if len(self.factors) <= 1 << 16 else "I32"
        own = "F32" if dtype == "float32" else "F64"
        kinds = dict(zip(_NAMES, ("F64", own, small, own), strict=True))
        largest = max((float(np.abs(one).max()) for one in (self.coefficients, self.values) if one.size), default=0.0)
        limit = float(np.finfo(np.float32).max)
        if dtype == "float32" and largest > limit:
            raise InputError(
                f"numbers must be at most {limit:.3g} in float32, got {largest:.3g}, which would be "
                "read back as infinite; use dtype='float64'."
            )
        arrays = {name: np.ascontiguousarray(getattr(self, name), _TYPES[kind]) for name, kind in kinds.items()}
        header: dict[str, Any] = {"__metadata__": {"format": "fedpriv low-rank-sparse 1"}}
        start = 0
        for name, array in arrays.items():
            stop = start + array.nbytes
            header[name] = {"dtype": kinds[name], "shape": list(array.shape), "data_offsets": [start, stop]}
            start = stop
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # arrays begin at a multiple of 8
        try:
            with replacing(path, private=True) as file:
                file.write(struct.pack("<Q", len(text)) + text)
                for array in arrays.values():
                    file.write(array.data)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another file.") from None

    @classmethod
    def open(cls, path: Path) -> PersonalModels:
        """Open a file; rows are read when they are asked for.

        Raises
        ------
        InputError
            The file is missing, cut short, or holds something else.
        """
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, 1 << 20)))
            arrays = {}
            for name in _NAMES:
                about = header[name]
                start, stop = about["data_offsets"]
                kind, shape = np.dtype(_TYPES[about["dtype"]]), tuple(about["shape"])
                if stop - start != kind.itemsize * int(np.prod(shape)) or path.stat().st_size < 8 + length + stop:
                    raise ValueError
                if start < 0 or len(shape) != 2 or (kind.kind == "f") != (name != "index"):
                    raise ValueError
                if stop == start:  # an empty array cannot be mapped
                    arrays[name] = np.empty(shape, kind)
                else:
                    arrays[name] = np.memmap(path, dtype=kind, mode="r", offset=8 + length + start, shape=shape)
            factors, coefficients, index, values = (arrays[name].shape for name in _NAMES)
            if coefficients != (len(arrays["index"]), factors[1]) or index != values:
                raise ValueError
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); give the path of a file of models.") from None
        except (ValueError, KeyError, TypeError, RecursionError, struct.error):
            raise InputError(f"{path} does not hold personal models, or is cut short; write it anew.") from None
        return cls(**arrays)

    def _check(self, tasks: NDArray[np.int64]) -> None:
        if not isinstance(tasks, np.ndarray) or tasks.ndim != 1 or tasks.dtype.kind not in "iu":
            found = f"{tasks.dtype} of shape {tasks.shape}" if isinstance(tasks, np.ndarray) else type(tasks).__name__
            raise InputError(
                f"'tasks' must be an array of whole numbers, one for each example, got {found}; give the tasks' "
                "positions as int64."
            )
        if len(tasks) and not (tasks.min() >= 0 and tasks.max() < len(self)):
            raise InputError(f"tasks are numbered 0 to {len(self) - 1} here, got {tasks.min()} to {tasks.max()}.")


def served(models: PersonalModels) -> dict[str, float]:
    """Return what models take: a task's numbers and bytes, and microseconds for a (task, x) pair, measured here."""
    rng = np.random.default_rng(0)
    asked = rng.integers(0, len(models), PAIRS)
    inputs = rng.standard_normal((PAIRS, len(models.factors)))
    took = []
    for _ in range(6):  # the first one reads the file
        began = time.perf_counter()
        models.predict(asked, inputs)
        took.append(time.perf_counter() - began)
    return {
        "numbers_per_task": models.coefficients.shape[1] + models.values.shape[1],
        "bytes_per_task": models.bytes_per_task,
        "microseconds_per_pair": 1e6 * min(took) / PAIRS,
    }


def footprint(tasks: int, dimension: int, rank: int, sparsity: int) -> dict[str, float]:
    """Return what so many models would take in their file, found with made-up ones of the same shape."""
    rng = np.random.default_rng(0)
    index = np.stack([rng.permutation(dimension)[:sparsity] for _ in range(tasks)])
    own = rng.standard_normal((tasks, rank)), index, rng.standard_normal((tasks, sparsity))
    with tempfile.TemporaryDirectory(prefix="fedpriv-") as folder:
        path = Path(folder) / "models.safetensors"
        PersonalModels(rng.standard_normal((dimension, rank)), *own).save(path)
        return served(PersonalModels.open(path))
