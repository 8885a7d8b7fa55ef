"""Personal models in one compact file, r + k numbers per task, and predictions straight from it.

The file has the safetensors format. It holds what belongs to its tasks, so it stays where their data are.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.files import replacing

__all__ = ["PAIRS", "PersonalModels", "footprint", "served"]

Array = NDArray[Any]
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
        small = np.uint16 if len(self.factors) <= 1 << 16 else np.int32
        kinds = dict(zip(_NAMES, (np.float64, dtype, small, dtype), strict=True))
        largest = max((float(np.abs(one).max()) for one in (self.coefficients, self.values) if one.size), default=0.0)
        limit = float(np.finfo(np.float32).max)
        if dtype == "float32" and largest > limit:
            raise InputError(
                f"numbers must be at most {limit:.3g} in float32, got {largest:.3g}, which would be "
                "read back as infinite; use dtype='float64'."
            )
        arrays = {name: np.ascontiguousarray(getattr(self, name), kind) for name, kind in kinds.items()}
        content = safetensors.numpy.save(arrays, {"format": "fedpriv low-rank-sparse 1"})
        try:
            with replacing(path, private=True) as file:
                file.write(content)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another file.") from None

    @classmethod
    def open(cls, path: Path) -> PersonalModels:
        """Read a file.

        Raises
        ------
        InputError
            The file is missing, cut short, or holds something else.
        """
        try:
            arrays = safetensors.numpy.load(path.read_bytes())
            factors, coefficients, index, values = (arrays[name] for name in _NAMES)
            if any(one.ndim != 2 or (one.dtype.kind == "f") != (one is not index) for one in arrays.values()):
                raise ValueError
            if coefficients.shape != (len(index), factors.shape[1]) or index.shape != values.shape:
                raise ValueError
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); give the path of a file of models.") from None
        except (ValueError, KeyError, safetensors.SafetensorError):
            raise InputError(f"{path} does not hold personal models, or is cut short; write it anew.") from None
        return cls(factors, coefficients, index, values)

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
    for _ in range(6):
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
