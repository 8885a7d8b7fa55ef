"""What a task may send about the factors: a gradient, sufficient statistics, or moments. Means over its examples."""

from __future__ import annotations

import torch
from torch import Tensor

from fedpriv.lrs.packing import packed_places

__all__ = ["clip_to", "curvature", "gradient", "moments", "normal_equations", "normal_product"]


_ZERO_SHARE = 1e-20
"""Squared norm of a projected column, as a share of the column's own, below which it counts as zero."""


def gradient(inputs: Tensor, targets: Tensor, theta: Tensor, coefficients: Tensor, counts: Tensor) -> Tensor:
    """Return the gradient of every task's loss in U: ``X^T (X theta - y) w^T / m``.

    Parameters
    ----------
    inputs, targets : Tensor, shapes [C, n, d] and [C, n]
        Examples; padding is zero.
    theta : Tensor, shape [C, d]
        U w + b.
    coefficients : Tensor, shape [C, r]
        w.
    counts : Tensor, shape [C]
        Examples of each task; a task without any has gradient 0.

    Returns
    -------
    Tensor, shape [C, d, r]
    """
    residual = (inputs @ theta.unsqueeze(2)).squeeze(2) - targets
    slope = (residual.unsqueeze(1) @ inputs).squeeze(1) / counts.clamp(min=1).unsqueeze(1)
    return slope.unsqueeze(2) * coefficients.unsqueeze(1)


def normal_equations(
    inputs: Tensor, targets: Tensor, sparse: Tensor, coefficients: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what each task adds to the normal equations of U.

    With ``vec`` stacking *columns*, ``X U w = (w^T kron X) vec(U)``; so the least-squares U of all tasks solves
    ``(sum_i A_i) vec(U) = vec(sum_i V_i)`` with ``A_i = (w w^T) kron (X^T X) / m`` and ``V_i = X^T (y - X b) w^T / m``.

    Parameters
    ----------
    inputs, targets, coefficients, counts
        As in :func:`gradient`.
    sparse : Tensor, shape [C, d]
        b.

    Returns
    -------
    A : Tensor, shape [C, p (p + 1) / 2] for p = d r
        Packed (:mod:`fedpriv.lrs.packing`): its l2 norm is the Frobenius norm of the matrix.
    V : Tensor, shape [C, d, r]
    """
    matrix = _kronecker(coefficients, inputs.transpose(1, 2) @ inputs, counts)
    return matrix, -gradient(inputs, targets, sparse, coefficients, counts)  # at U = 0


def curvature(inputs: Tensor, coefficients: Tensor, fitted: Tensor, counts: Tensor) -> Tensor:
    """Return what each task adds to the curvature of the loss in U when its own part follows U.

    With P the projection away from the columns that the task fits for itself, ``H_i = (w w^T) kron (X^T P X) / m``:
    the Gauss-Newton matrix of variable projection. A step ``H^-1 (mean of -gradient)`` accounts for the refit of w and
    b, so it converges quadratically where alternation is linear. H is zero along U itself; a task with no more examples
    than columns adds nothing.

    Parameters
    ----------
    inputs, coefficients, counts
        As in :func:`gradient`.
    fitted : Tensor, shape [C, n, p]
        ``[X U, X_S]``.

    Returns
    -------
    Tensor, shape [C, d r (d r + 1) / 2]
        Packed.
    """
    basis = torch.linalg.qr(fitted)[0]
    projected = inputs - basis @ (basis.transpose(1, 2) @ inputs)
    # Where the own part fits all that there is, what remains is rounding, and a step that divides by it is nonsense.
    nothing = projected.square().sum(dim=1) <= _ZERO_SHARE * inputs.square().sum(dim=1)
    projected = projected.masked_fill(nothing.unsqueeze(1), 0.0)
    return _kronecker(coefficients, projected.transpose(1, 2) @ projected, counts)


def normal_product(inputs: Tensor, coefficients: Tensor, counts: Tensor, direction: Tensor) -> Tensor:
    """Return each task's ``A_i vec(P)`` as a matrix, without forming A: ``X^T X P w w^T / m``.

    Parameters
    ----------
    inputs, coefficients, counts
        As in :func:`gradient`.
    direction : Tensor, shape [d, r]
        P.

    Returns
    -------
    Tensor, shape [C, d, r]
    """
    along = (coefficients @ direction.T).unsqueeze(2)
    image = inputs.transpose(1, 2) @ (inputs @ along) / counts.clamp(min=1).view(-1, 1, 1)
    return image * coefficients.unsqueeze(1)


def moments(inputs: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Return each task's mean of ``y^2 x x^T``, packed: shape [C, d (d + 1) / 2].

    For standard normal inputs its expectation is ``2 theta theta^T + (||theta||^2 + sigma^2) I``: over many tasks the
    leading eigenvectors estimate the span of U, if the rows of the sparse parts are sparse, too.
    """
    weighted = inputs * (targets.square() / counts.clamp(min=1).unsqueeze(1)).unsqueeze(2)
    return _pack(weighted.transpose(1, 2) @ inputs)


def clip_to(rows: Tensor, norm: float | None) -> Tensor:
    """Clip each task's rows [C, ...] to an l2 norm and divide by it; None leaves them alone."""
    if norm is None:
        return rows
    flat = rows.flatten(1)
    largest = torch.linalg.vector_norm(flat, dim=1).clamp(min=norm)
    clipped: Tensor = flat / largest.unsqueeze(1)
    return clipped.reshape(rows.shape)


def _kronecker(coefficients: Tensor, gram: Tensor, counts: Tensor) -> Tensor:
    """Return ``(w w^T) kron gram / m``, packed, for gram [C, d, d]."""
    side = coefficients.shape[1] * gram.shape[1]
    outer = coefficients.unsqueeze(2) * coefficients.unsqueeze(1) / counts.clamp(min=1).view(-1, 1, 1)
    # Entry (a d + i, b d + j) is w_a w_b gram_ij: column a of U comes before column b.
    return _pack(torch.einsum("cab,cij->caibj", outer, gram).reshape(len(gram), side, side))


def _pack(matrices: Tensor) -> Tensor:
    """Pack symmetric matrices [C, p, p]; what is on both sides of the diagonal is taken from above it."""
    side = matrices.shape[1]
    rows, columns, weights = packed_places(side)
    return matrices.flatten(1).index_select(1, torch.from_numpy(rows * side + columns)).mul_(torch.from_numpy(weights))
