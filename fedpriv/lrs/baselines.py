"""What low-rank plus sparse models are compared with: one model, own models, a representation, a task's offset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.lrs.alternate import alternate
from fedpriv.lrs.least_squares import solve_normal
from fedpriv.lrs.sparse import PersonalPart, pursue

__all__ = ["best", "full", "offsets", "representation", "ridge", "rmse", "shrunk", "single", "sparse_only"]

Array = NDArray[np.float64]


def single(inputs: Tensor, targets: Tensor) -> Tensor:
    """Fit one model for all tasks on the pooled examples; shape [1, d].

    Parameters
    ----------
    inputs, targets : Tensor, shapes [C, n, d] and [C, n]
        Examples; padding is zero. The same for all functions here.
    """
    rows = inputs.flatten(0, 1)
    return solve_normal((rows.T @ rows).unsqueeze(0), (rows.T @ targets.flatten()).unsqueeze(0))


def full(inputs: Tensor, targets: Tensor) -> Tensor:
    """Fit a model per task on its own examples, that of least norm if several fit; shape [C, d]."""
    solution: Tensor = torch.linalg.lstsq(inputs, targets.unsqueeze(2), driver="gelsd").solution
    return solution.squeeze(2)


def ridge(
    inputs: Tensor,
    targets: Tensor,
    validation: tuple[Tensor, Tensor],
    strengths: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0),
) -> Tensor:
    """Fit a model per task by ridge regression; shape [C, d].

    The strength, relative to the mean squared norm of a task's columns, is the one with the smallest error on the
    validation part (inputs [C, v, d], targets [C, v]) of all tasks together.
    """
    dimension = inputs.shape[2]
    gram, right = inputs.transpose(1, 2) @ inputs, (targets.unsqueeze(1) @ inputs).squeeze(1)
    scale = torch.diagonal(gram, dim1=1, dim2=2).mean(dim=1).view(-1, 1, 1) * torch.eye(dimension, dtype=inputs.dtype)
    fits = [solve_normal(gram + strength * scale, right) for strength in strengths]
    return best(fits, validation)


def shrunk(
    inputs: Tensor,
    targets: Tensor,
    validation: tuple[Tensor, Tensor],
    towards: Tensor | None = None,
    strengths: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
) -> Tensor:
    """Fit a model per task by ridge regression around a common one; shape [C, d].

    Parameters
    ----------
    inputs, targets : Tensor
        As for all functions here.
    validation : pair of Tensors
        Decides the strength, for all tasks together, as in :func:`ridge`.
    towards : Tensor or None
        Common model [1, d]; None shrinks towards 0.
    strengths : sequence of float
        Penalties beside the sum of a task's squared errors, in the units of the data.
    """
    centre = torch.zeros((1, inputs.shape[2]), dtype=inputs.dtype) if towards is None else towards
    rest = targets - inputs @ centre.squeeze(0)
    gram, right = inputs.transpose(1, 2) @ inputs, (rest.unsqueeze(1) @ inputs).squeeze(1)
    unit = torch.eye(inputs.shape[2], dtype=inputs.dtype)
    return best([centre + solve_normal(gram + strength * unit, right) for strength in strengths], validation)


def best(fits: Sequence[Tensor], validation: tuple[Tensor, Tensor]) -> Tensor:
    """Return the fit with the smallest squared error on the validation part of all tasks together."""
    seen, wanted = validation
    errors = [float(((seen @ fit.unsqueeze(2)).squeeze(2) - wanted).square().sum()) for fit in fits]
    return fits[int(np.argmin(errors))]


def representation(inputs: Tensor, targets: Tensor, counts: Tensor, start: Array, *, iterations: int = 15) -> Tensor:
    """Learn shared factors [d, r] and coefficients without a sparse part; shape [C, d]."""
    factors, own = alternate(inputs, targets, counts, start, 0, iterations=iterations, solver="normal-equations")
    return own.theta(torch.from_numpy(factors))


def sparse_only(inputs: Tensor, targets: Tensor, sparsity: int, steps: int = 20, ridge: float = 0.0) -> Tensor:
    """Fit a k-sparse model per task by hard thresholding pursuit; shape [C, d]."""
    nothing = torch.zeros((inputs.shape[2], 0), dtype=inputs.dtype)
    return pursue(inputs, targets, nothing, PersonalPart.zeros(len(inputs), 0, sparsity), steps, ridge=ridge).theta(
        nothing
    )


def offsets(inputs: Tensor, targets: Tensor, counts: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Fit one model with an offset per task, all that a prompt is in a linear model; shapes [1, d] and [C].

    With a ridge, the offsets (not the model) are shrunk as by so many examples more whose residual is 0.
    """
    share = counts.clamp(min=1).unsqueeze(1)
    centre, level = inputs.sum(dim=1) / share, targets.sum(dim=1) / share.squeeze(1)
    real = torch.arange(inputs.shape[1]) < counts.unsqueeze(1)
    theta = single((inputs - centre.unsqueeze(1)) * real.unsqueeze(2), (targets - level.unsqueeze(1)) * real)
    return theta, (level - (centre @ theta.T).squeeze(1)) * counts / (counts + ridge).clamp(min=1)


def rmse(theta: Tensor, inputs: Tensor, targets: Tensor, counts: Tensor, offset: Tensor | None = None) -> Array:
    """Return each task's root mean squared error, shape [C]; NaN for a task without examples.

    Parameters
    ----------
    theta : Tensor, shape [C, d] or [1, d]
        Models.
    inputs, targets, counts
        Examples to score on: [C, n, d], [C, n] (padding is zero) and how many each task has, [C].
    offset : Tensor or None
        Added to every prediction of a task, shape [C].
    """
    found = (inputs @ theta.unsqueeze(2)).squeeze(2)
    real = torch.arange(inputs.shape[1]) < counts.unsqueeze(1)
    if offset is not None:
        found = found + offset.unsqueeze(1)
    errors = torch.where(real, found - targets, 0.0).square().sum(dim=1)
    mean: Array = (errors / counts).sqrt().numpy()
    return mean
