"""What a task does for itself: its coefficients and its sparse part, with the shared factors fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from fedpriv.errors import InputError
from fedpriv.lrs.least_squares import least_squares
from fedpriv.names import renamed
from fedpriv.settings import Settings

__all__ = ["PersonalPart", "Thresholding", "pursue", "threshold"]

_MAX_EXCHANGES = 2
"""Tries to exchange a wrong coordinate at the end of a pursuit."""


@dataclass(frozen=True)
class PersonalPart:
    """What C tasks keep for themselves: r + k numbers each, and the coordinates of the k.

    Attributes
    ----------
    coefficients : Tensor, shape [C, r]
        w: weights of the shared factors.
    index : Tensor of int64, shape [C, k]
        Coordinates of the sparse part, all different.
    values : Tensor, shape [C, k]
        The sparse part at these coordinates; 0 where it is not used.
    """

    coefficients: Tensor
    index: Tensor
    values: Tensor

    @classmethod
    def zeros(cls, tasks: int, rank: int, sparsity: int, dtype: torch.dtype = torch.float64) -> PersonalPart:
        """Return the start w = 0, b = 0."""
        index = torch.arange(sparsity).expand(tasks, sparsity)
        return cls(torch.zeros((tasks, rank), dtype=dtype), index.clone(), torch.zeros((tasks, sparsity), dtype=dtype))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> PersonalPart:
        """Return what :meth:`to_state` stored."""
        return cls(state["coefficients"], state["index"], state["values"])

    def to_state(self) -> dict[str, Tensor]:
        """Return the three tensors by name, as a task's personal state."""
        return {"coefficients": self.coefficients, "index": self.index, "values": self.values}

    def sparse(self, dimension: int) -> Tensor:
        """Return b as a dense tensor [C, d]."""
        empty = torch.zeros((len(self.values), dimension), dtype=self.values.dtype)
        return empty.scatter(1, self.index, self.values)

    def columns(self, inputs: Tensor, factors: Tensor | None) -> Tensor:
        """Return what the own part is fitted on, [X U, X_S] of shape [C, n, r + k]; X_S alone without factors."""
        chosen = inputs.gather(2, self.index.unsqueeze(1).expand(-1, inputs.shape[1], -1))
        return chosen if factors is None else torch.cat([_shared(inputs, factors), chosen], dim=2)

    def theta(self, factors: Tensor) -> Tensor:
        """Return every task's model U w + b, shape [C, d], for factors U [d, r]."""
        # One product per task, as in _shared: where a fit is exact the residual is nothing but rounding, and with large
        # targets that fills the clipping norm. If it depended on who else is there, one task could move all others.
        shared = factors.expand(len(self.coefficients), *factors.shape) @ self.coefficients.unsqueeze(2)
        return shared.squeeze(2) + self.sparse(len(factors))


class Thresholding(Settings):
    """Constants of Algorithm 2, assumed known: ``Delta = alpha + c1 (gamma + beta / sqrt k)``.

    After each step ``gamma <- 2 c1 gamma + 2 (alpha + c1 beta / sqrt k)``.

    Attributes
    ----------
    alpha, beta : float
        Bounds of the error of v = U w, in its largest entry and in l2.
    gamma : float
        Bound of the first error of b in its largest entry.
    c1 : float
        Below 1/2: how fast the threshold falls.
    """

    alpha: float = Field(default=1e-9, ge=0)
    beta: float = Field(default=1e-9, ge=0)
    gamma: float = Field(default=2.0, gt=0)
    c1: float = Field(default=0.4, gt=0, lt=0.5)


def pursue(
    inputs: Tensor,
    targets: Tensor,
    factors: Tensor,
    own: PersonalPart,
    steps: int,
    *,
    fixed: bool = False,
    ridge: float = 0.0,
) -> PersonalPart:
    """Hard thresholding pursuit with joint refit: the k largest entries of a gradient step, then least squares.

    First (w, b) are fitted anew on the old support, because the factors may have moved. Then each step takes the k
    largest entries of ``b + X^T (y - X theta) / s`` as the support, where s is the mean squared norm of X's columns (m
    for standardised data: units cancel), and fits w and b on it together. Plain thresholding of such a step diverges
    unless m is several times larger than it has to be here.

    With few examples a large wrong entry can hold its place. So at last come exchanges: k more coordinates that
    correlate with the residual, a fit on 2 k, the k largest of it; kept by the tasks whose error falls.

    Parameters
    ----------
    inputs : Tensor, shape [C, n, d]
        Examples; padding is zero.
    targets : Tensor, shape [C, n]
        What to predict; padding is zero.
    factors : Tensor, shape [d, r]
        U; r may be 0: a sparse model alone.
    own : PersonalPart
        Where to start.
    steps : int
        Changes of the support; 0 only fits on the old one.
    fixed : bool
        Keep w as it is and fit the sparse part alone.
    ridge : float
        lambda of the penalty ``lambda ||b||^2`` on the sparse part, beside the sum of a task's squared errors. Supports
        are chosen, and w and b fitted, for both together.

    Returns
    -------
    PersonalPart

    Raises
    ------
    InputError
        k or r is larger than d.
    """
    _check(inputs, factors, own)
    shared = _shared(inputs, factors)
    if ridge:
        inputs, targets, shared = _penalised(inputs, targets, shared, ridge)
    scale = inputs.square().sum(dim=(1, 2)) / inputs.shape[2]
    step = torch.where(scale > 0, 1.0 / scale.clamp(min=torch.finfo(scale.dtype).tiny), 0.0).unsqueeze(1)
    own = _refit(inputs, targets, shared, own, used=own.values != 0, fixed=fixed)
    if not own.values.shape[1]:
        return own
    for _ in range(steps):
        residual = targets - _predict(inputs, shared, own)
        moved = own.sparse(inputs.shape[2]) + step * (residual.unsqueeze(1) @ inputs).squeeze(1)
        index = moved.abs().topk(own.index.shape[1], dim=1).indices
        chosen = PersonalPart(own.coefficients, index, own.values)
        own = _refit(inputs, targets, shared, chosen, fixed=fixed)
    for _ in range(_MAX_EXCHANGES if steps else 0):
        other = _exchanged(inputs, targets, shared, own, fixed=fixed)
        own = _better(inputs, targets, shared, own, other)
    return own


def threshold(
    inputs: Tensor,
    targets: Tensor,
    counts: Tensor,
    factors: Tensor,
    own: PersonalPart,
    steps: int,
    rule: Thresholding,
    *,
    fixed: bool = False,
) -> PersonalPart:
    """Hard thresholding as published (Algorithm 2), then least squares for w alone.

    For v = U w fixed, ``steps`` times ``b <- HT(b - X^T (X (b + v) - y) / m, Delta)`` with the falling threshold of
    ``rule``. It needs restricted isometry, so m several times k log d: where it does not hold, b diverges. Of more than
    k entries the k largest are kept. A b that fits the task's own examples worse than b = 0 does, or is not finite, is
    set to 0.

    Parameters
    ----------
    inputs, targets, factors, own, fixed
        As in :func:`pursue`.
    counts : Tensor, shape [C]
        m of each task.
    steps : int
        T, iterations of Algorithm 2.
    rule : Thresholding
        Its constants.
    """
    _check(inputs, factors, own)
    shared, dimension, sparsity = _shared(inputs, factors), inputs.shape[2], own.index.shape[1]

    def refit(own: PersonalPart) -> PersonalPart:
        if fixed:
            return own
        rest = targets - (inputs @ own.sparse(dimension).unsqueeze(2)).squeeze(2)
        return PersonalPart(least_squares(shared, rest), own.index, own.values)

    own = refit(own)
    wanted = targets - (shared @ own.coefficients.unsqueeze(2)).squeeze(2)
    dense, gamma = own.sparse(dimension), rule.gamma
    slack = rule.beta / max(sparsity, 1) ** 0.5
    for _ in range(steps):
        residual = (inputs @ dense.unsqueeze(2)).squeeze(2) - wanted
        dense = dense - (residual.unsqueeze(1) @ inputs).squeeze(1) / counts.clamp(min=1).unsqueeze(1)
        dense = torch.where(dense.abs() > rule.alpha + rule.c1 * (gamma + slack), dense, 0.0)
        gamma = 2 * rule.c1 * gamma + 2 * (rule.alpha + rule.c1 * slack)
    index = dense.abs().topk(sparsity, dim=1).indices
    values = dense.gather(1, index)
    found = PersonalPart(own.coefficients, index, values).sparse(dimension).unsqueeze(2)
    error, without = (wanted - (inputs @ found).squeeze(2)).square().sum(dim=1), wanted.square().sum(dim=1)
    helps = (error <= without).unsqueeze(1)  # not NaN, either
    return refit(PersonalPart(own.coefficients, index, torch.where(helps, values, 0.0)))


def _shared(inputs: Tensor, factors: Tensor) -> Tensor:
    """Return X U [C, n, r], one product per task: its rounding must not depend on the tasks beside it."""
    return inputs @ factors.expand(len(inputs), *factors.shape)


def _penalised(inputs: Tensor, targets: Tensor, shared: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Add an example for each coordinate of b that says it is 0: the penalty as data, whatever is done with them."""
    tasks, _, dimension = inputs.shape
    rows = (ridge**0.5 * torch.eye(dimension, dtype=inputs.dtype)).expand(tasks, -1, -1)
    return (
        torch.cat([inputs, rows], dim=1),
        torch.cat([targets, targets.new_zeros((tasks, dimension))], dim=1),
        torch.cat([shared, shared.new_zeros((tasks, dimension, shared.shape[2]))], dim=1),
    )


def _refit(
    inputs: Tensor,
    targets: Tensor,
    shared: Tensor,
    own: PersonalPart,
    used: Tensor | None = None,
    *,
    fixed: bool = False,
) -> PersonalPart:
    """Fit w and b together on one support [C, k]; entries that are not ``used`` become 0."""
    columns = own.columns(inputs, None)
    if used is not None:
        columns = columns * used.unsqueeze(1)
    if fixed:
        rest = targets - (shared @ own.coefficients.unsqueeze(2)).squeeze(2)
        return PersonalPart(own.coefficients, own.index, least_squares(columns, rest))
    found = least_squares(torch.cat([shared, columns], dim=2), targets)
    rank = shared.shape[2]
    return PersonalPart(found[:, :rank], own.index, found[:, rank:])


def _exchanged(inputs: Tensor, targets: Tensor, shared: Tensor, own: PersonalPart, *, fixed: bool) -> PersonalPart:
    """Fit on the support and as many new coordinates, and again on the largest of both, by what they explain."""
    sparsity, norms = own.index.shape[1], inputs.square().sum(dim=1).sqrt()
    residual = targets - _predict(inputs, shared, own)
    linked = ((residual.unsqueeze(1) @ inputs).squeeze(1) / norms.clamp(min=torch.finfo(norms.dtype).tiny)).abs()
    linked.scatter_(1, own.index, -1.0)
    more = linked.topk(min(sparsity, inputs.shape[2] - sparsity), dim=1).indices
    index = torch.cat([own.index, more], dim=1)
    both = _refit(inputs, targets, shared, PersonalPart(own.coefficients, index, torch.zeros_like(index)), fixed=fixed)
    size = both.values.abs() * norms.gather(1, index)
    kept = index.gather(1, size.topk(sparsity, dim=1).indices)
    return _refit(inputs, targets, shared, PersonalPart(own.coefficients, kept, own.values), fixed=fixed)


def _better(inputs: Tensor, targets: Tensor, shared: Tensor, one: PersonalPart, two: PersonalPart) -> PersonalPart:
    """Return, per task, the second of two fits if its error is smaller."""
    first, second = ((targets - _predict(inputs, shared, own)).square().sum(dim=1) for own in (one, two))
    wins = (second < first).unsqueeze(1)
    return PersonalPart(
        torch.where(wins, two.coefficients, one.coefficients),
        torch.where(wins, two.index, one.index),
        torch.where(wins, two.values, one.values),
    )


def _predict(inputs: Tensor, shared: Tensor, own: PersonalPart) -> Tensor:
    theta = own.sparse(inputs.shape[2]).unsqueeze(2)
    return (inputs @ theta + shared @ own.coefficients.unsqueeze(2)).squeeze(2)


def _check(inputs: Tensor, factors: Tensor, own: PersonalPart) -> None:
    dimension, sparsity, rank = inputs.shape[2], own.index.shape[1], factors.shape[1]
    if len(factors) != dimension:
        raise InputError(f"the factors have {len(factors)} rows where examples have {dimension} features.")
    if sparsity > dimension:
        raise InputError(f"'sparsity' must be at most the number of features {dimension}, got {sparsity}; use fewer.")
    if rank > dimension:
        raise InputError(f"'rank' must be at most the number of features {dimension}, got {rank}; use a smaller one.")


def __getattr__(name: str) -> Any:
    return globals()[renamed(__name__, name, {"Own": "PersonalPart"})]
