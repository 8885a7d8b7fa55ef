"""Examples that a personal model is asked about, and what its outputs mean."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedpriv.cohort import Problem
from fedpriv.errors import InputError
from fedpriv.roster import Roster

__all__ = ["answer", "as_inputs"]

_ROWS_AT_A_TIME = 4096


def as_inputs(examples: Any, roster: Roster, dtype: torch.dtype) -> Tensor:
    """Return examples [n, ...] as the model takes them.

    Parameters
    ----------
    examples : array_like
        Numbers, in the units and the order of columns of the tasks' own examples.
    roster : Roster
        Says what an example is.
    dtype : torch.dtype
        Of the model, which floats are turned into; whole numbers become int64.

    Raises
    ------
    InputError
        They are no numbers, have another shape, or cannot be computed with; the row is named.
    """
    found = np.asarray(examples)
    shape = tuple(roster.input_shape)
    if found.dtype.kind not in "fiub":
        raise InputError(f"examples must be numbers, got {found.dtype}; give an array of numbers of shape [n, ...].")
    if found.ndim < 1 or found.shape[1:] != shape:
        advice = "; for a single one add an axis, x[None]" if found.shape == shape else ""
        raise InputError(
            f"examples must have shape (n, {', '.join(map(str, shape))}), one row for each, got {found.shape}{advice}."
        )
    flat = found.reshape(len(found), prod(shape)).astype(np.float64)
    whole = not roster.input_dtype.startswith("float")
    limit = torch.finfo(dtype).max
    bad = ~(flat == np.floor(flat)).all(axis=1) if whole else ~(np.abs(flat) <= limit).all(axis=1)
    if bad.any():
        what = "a number that is not whole, and these are ids" if whole else f"a NaN, or more than {limit:.3g}"
        raise InputError(f"row {int(np.argmax(bad))} of the examples (counted from 0) holds {what}; mend it.")
    kind = torch.int64 if whole else dtype
    return torch.from_numpy(np.array(found, dtype=torch.empty(0, dtype=kind).numpy().dtype))


def answer(
    model: nn.Module, problem: Problem, inputs: Tensor, target_shape: tuple[int, ...], *, probabilities: bool
) -> NDArray[Any]:
    """Return what a model predicts.

    Parameters
    ----------
    model : nn.Module
        Of one task, in evaluation mode.
    problem : Problem
        Its loss says what its outputs mean.
    inputs : Tensor, shape [n, ...]
        As :func:`as_inputs` made them.
    target_shape : tuple of int
        Shape of one value in regression; empty for a single number.
    probabilities : bool
        For classes: the probability of each, in place of the most probable one.

    Returns
    -------
    ndarray
        int64 [n] (classes), floating [n, K] (probabilities) or floating [n, *target_shape] (values).

    Raises
    ------
    InputError
        Probabilities of values.
    """
    classes = problem.loss == "cross-entropy"
    if probabilities and not classes:
        raise InputError("this model predicts values, which have no probabilities; leave out 'probabilities'.")
    with torch.no_grad():
        pieces = [model(inputs[start : start + _ROWS_AT_A_TIME]) for start in range(0, len(inputs), _ROWS_AT_A_TIME)]
        if not pieces:
            pieces = [model(inputs.new_zeros((1, *inputs.shape[1:])))[:0]]
        outputs = torch.cat(pieces)
    found: NDArray[Any]
    if probabilities:
        found = outputs.softmax(dim=-1).numpy()
    elif classes:
        found = outputs.argmax(dim=-1).numpy()
    else:
        found = outputs.reshape(len(inputs), *target_shape).numpy()
    return found
