"""Alternating minimisation with all data in one place: the reference for the federated runs, and for baselines."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.lrs.packing import unpack
from fedpriv.lrs.sparse import PersonalPart, pursue
from fedpriv.lrs.statistics import curvature, gradient, moments, normal_product
from fedpriv.lrs.subspace import conjugate_gradients, leading, newton_step, orthonormal, solve_factors, tangent

__all__ = ["Solver", "alternate", "moment_start"]

Array = NDArray[np.float64]
Solver = Literal["newton", "gradient", "normal-equations", "conjugate-gradients"]


def alternate(
    inputs: Tensor,
    targets: Tensor,
    counts: Tensor,
    start: Array,
    sparsity: int,
    *,
    iterations: int = 50,
    steps: int = 5,
    solver: Solver = "newton",
) -> tuple[Array, PersonalPart]:
    """Alternate between the tasks' own parts and the shared factors.

    Parameters
    ----------
    inputs, targets : Tensor, shapes [C, n, d] and [C, n]
        Examples of all tasks; padding is zero.
    counts : Tensor, shape [C]
        Examples of each task.
    start : ndarray, shape [d, r]
        First factors, orthonormal.
    sparsity : int
        k; 0 learns a representation alone.
    iterations, steps : int
        Outer iterations, and changes of the support in each, always from b = 0; four times as many at the end.
    solver : {"newton", "gradient", "normal-equations", "conjugate-gradients"}
        How the factors move: a step with the curvature that accounts for the tasks' refit, one along the gradient on
        the tangent space, or to the least-squares factors for w and b fixed (as published), from their normal equations
        or without forming them.

    Returns
    -------
    factors : ndarray, shape [d, r]
    own : PersonalPart
        Fitted to these factors.
    """
    factors, fresh = start, PersonalPart.zeros(len(inputs), start.shape[1], sparsity, inputs.dtype)
    for _ in range(iterations):
        own = pursue(inputs, targets, torch.from_numpy(factors), fresh, steps)
        factors = _moved(inputs, targets, counts, factors, own, solver)
    return factors, pursue(inputs, targets, torch.from_numpy(factors), fresh, 4 * steps)


def moment_start(inputs: Tensor, targets: Tensor, counts: Tensor, rank: int) -> Array:
    """Return first factors by the method of moments, shape [d, r]."""
    return leading(unpack(_mean(moments(inputs, targets, counts))), rank)


def _moved(inputs: Tensor, targets: Tensor, counts: Tensor, factors: Array, own: PersonalPart, solver: Solver) -> Array:
    """Return the next factors for the tasks' own parts."""
    weights, sparse, public = own.coefficients, own.sparse(inputs.shape[2]), torch.from_numpy(factors)
    if solver in ("newton", "gradient"):
        step = -_mean(gradient(inputs, targets, own.theta(public), weights, counts))
        if solver == "newton":
            bent = curvature(inputs, weights, own.columns(inputs, public), counts)
            return newton_step(factors, unpack(_mean(bent)), step)
        return orthonormal(factors + tangent(factors, step), factors)
    right = -_mean(gradient(inputs, targets, sparse, weights, counts))  # V is minus the gradient at U = 0
    if solver == "normal-equations":
        return orthonormal(solve_factors(_mean_matrix(inputs, weights, counts), right), factors)

    def product(direction: Array) -> Array:
        return _mean(normal_product(inputs, weights, counts, torch.from_numpy(direction)))

    return orthonormal(conjugate_gradients(product, right, factors), factors)


def _mean_matrix(inputs: Tensor, weights: Tensor, counts: Tensor) -> Array:
    """Return the mean of :func:`fedpriv.lrs.statistics.normal_equations`' A, without a matrix for each task."""
    outer = (weights.unsqueeze(2) * weights.unsqueeze(1)) / counts.clamp(min=1).view(-1, 1, 1)
    gram = inputs.transpose(1, 2) @ inputs
    side, rank = gram.shape[1], weights.shape[1]
    pairs = (outer.flatten(1).T @ gram.flatten(1)).reshape(rank, rank, side, side) / len(inputs)
    mean: Array = pairs.transpose(1, 2).reshape(rank * side, rank * side).numpy()
    return mean


def _mean(rows: Tensor) -> Array:
    mean: Array = rows.mean(dim=0).numpy()
    return mean
