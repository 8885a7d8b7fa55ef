"""The shared factors on the server: steps that keep columns orthonormal, and solving the normal equations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError

__all__ = ["conjugate_gradients", "leading", "newton_step", "orthonormal", "sine", "solve_factors", "tangent"]

Array = NDArray[np.float64]


def orthonormal(matrix: Array, otherwise: Array | None = None) -> Array:
    """Return an orthonormal basis of the columns of a matrix [d, r], by QR with a positive diagonal.

    The sign matters: a basis that flips from round to round would not fit the tasks' coefficients.

    Parameters
    ----------
    matrix : ndarray, shape [d, r]
    otherwise : ndarray or None
        What to return for a matrix of zeros or one that is not finite.
    """
    if otherwise is not None and not (np.isfinite(matrix).all() and matrix.any()):
        return otherwise
    basis, triangle = np.linalg.qr(matrix)
    found: Array = basis * np.where(np.diagonal(triangle) < 0, -1.0, 1.0)
    return found


def tangent(factors: Array, step: Array) -> Array:
    """Return the part of a step [d, r] that leaves the span of U: (I - U U^T) step."""
    found: Array = step - factors @ (factors.T @ step)
    return found


def solve_factors(matrix: Array, right: Array, cutoff: float = 1e-9) -> Array:
    """Solve ``A vec(U) = vec(V)`` with ``vec`` stacking columns; the solution of least norm where A is singular.

    Parameters
    ----------
    matrix : ndarray, shape [d r, d r]
        A, symmetric.
    right : ndarray, shape [d, r]
        V.
    cutoff : float
        Eigenvalues below this share of the largest count as zero: with fewer tasks than directions A is singular, and
        with noise it may have negative eigenvalues.

    Returns
    -------
    ndarray, shape [d, r]
        Not orthonormal yet; zeros if A has no positive eigenvalue, or if A or V is not finite.
    """
    if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
        return np.zeros_like(right)
    values, vectors = np.linalg.eigh(matrix)
    kept = values > max(cutoff * values[-1], 0.0)
    basis = vectors[:, kept]
    vector = basis @ ((basis.T @ right.reshape(-1, order="F")) / values[kept])
    found: Array = vector.reshape(right.shape, order="F")
    return found


def newton_step(factors: Array, matrix: Array, step: Array, cutoff: float = 1e-6) -> Array:
    """Return the factors after a step ``H^-1 step`` across their span.

    Parameters
    ----------
    factors, step : ndarray, shape [d, r]
        U, and minus the mean gradient.
    matrix : ndarray, shape [d r, d r]
        H, the mean of :func:`fedpriv.lrs.statistics.curvature`: zero along U itself.
    cutoff : float
        As in :func:`solve_factors`.
    """
    return orthonormal(factors + tangent(factors, solve_factors(matrix, step, cutoff)), factors)


def conjugate_gradients(
    product: Callable[[Array], Array], right: Array, start: Array, *, tolerance: float = 1e-12, steps: int = 1000
) -> Array:
    """Solve ``A(U) = V`` for a symmetric positive semidefinite map between matrices [d, r], without forming it.

    Parameters
    ----------
    product : callable
        Applies the map, such as the mean of :func:`fedpriv.lrs.statistics.normal_product`.
    right, start : ndarray, shape [d, r]
        V, and where to start.
    tolerance : float
        Stop at a residual of this share of the right side.
    steps : int
        Products at most.
    """
    found = start.astype(np.float64)
    residual = right - product(found)
    direction, size = residual, float(np.vdot(residual, residual))
    goal = (tolerance * float(np.linalg.norm(right))) ** 2
    for _ in range(steps):
        if size <= goal:
            break
        image = product(direction)
        curvature = float(np.vdot(direction, image))
        if curvature <= 0:  # the rest lies where A is zero: any value does
            break
        length = size / curvature
        found = found + length * direction
        residual = residual - length * image
        size, before = float(np.vdot(residual, residual)), size
        direction = residual + (size / before) * direction
    return found


def leading(matrix: Array, rank: int) -> Array:
    """Return the eigenvectors [d, r] of the largest eigenvalues of a symmetric matrix: the method of moments."""
    if rank > len(matrix):
        raise InputError(f"'rank' must be at most the number of features {len(matrix)}, got {rank}; use a smaller one.")
    return np.linalg.eigh(matrix)[1][:, ::-1][:, :rank].copy()


def sine(one: Array, two: Array) -> float:
    """Return the sine of the largest angle between the spans of two orthonormal bases [d, r]."""
    return float(np.linalg.norm(tangent(one, two), 2))
