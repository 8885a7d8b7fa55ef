"""Least squares for many tasks at once that never gives NaN: ridge where a task's equations do not decide."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PIVOT", "RIDGE", "least_squares", "solve_normal"]

RIDGE = 1e-6
"""Ridge of the fallback, as a share of each column's squared norm."""

PIVOT = 1e-10
"""A system is called singular if a squared pivot of its Cholesky factor, columns scaled to norm 1, is below this."""


def least_squares(columns: Tensor, targets: Tensor) -> Tensor:
    """Minimise ``||columns c - targets||^2`` for every task.

    Rows of zeros (padding) and columns of zeros change nothing; the coefficient of a column of zeros is 0.

    Parameters
    ----------
    columns : Tensor, shape [C, n, p]
        Features of each task's examples; ``p`` may be 0 and ``n`` below ``p``.
    targets : Tensor, shape [C, n]
        What to predict.

    Returns
    -------
    Tensor, shape [C, p]
        See :func:`solve_normal` for collinear columns and for fewer examples than columns.
    """
    transposed = columns.transpose(1, 2)
    return solve_normal(transposed @ columns, (transposed @ targets.unsqueeze(2)).squeeze(2))


def solve_normal(gram: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive semidefinite systems, one per task.

    Columns are scaled to norm 1 first, so the answer does not depend on units. A system that is singular (squared
    pivot below ``PIVOT``) gets a ridge of ``RIDGE`` times each column's squared norm, which is close to the solution of
    least norm. Whether it does depends on this task alone.

    Parameters
    ----------
    gram : Tensor, shape [C, p, p]
    right : Tensor, shape [C, p]

    Returns
    -------
    Tensor, shape [C, p]
        Finite if the input is.
    """
    count, size = right.shape
    if not size or not count:
        return torch.zeros_like(right)
    norms = torch.diagonal(gram, dim1=1, dim2=2).sqrt()
    inverse = torch.where(norms > 0, 1.0 / norms.clamp(min=torch.finfo(gram.dtype).tiny), 0.0)
    scaled = gram * inverse.unsqueeze(1) * inverse.unsqueeze(2)
    torch.diagonal(scaled, dim1=1, dim2=2).copy_(torch.ones_like(norms))  # 1 for a column of zeros, too
    factor, failed = torch.linalg.cholesky_ex(scaled)
    pivots = torch.diagonal(factor, dim1=1, dim2=2).square().amin(dim=1)
    singular = torch.nonzero((failed > 0) | ~(pivots >= PIVOT)).flatten()
    if len(singular):
        damped = scaled[singular] + RIDGE * torch.eye(size, dtype=gram.dtype)
        factor[singular] = torch.linalg.cholesky_ex(damped)[0]
    solution = torch.cholesky_solve((right * inverse).unsqueeze(2), factor).squeeze(2)
    return solution * inverse
