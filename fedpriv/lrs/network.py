"""Networks that are low-rank plus sparse: where a task's numbers stand in a network, and how it fits them.

All parameters of a network are one vector of d numbers here, layer after layer. A task's network is
``theta_0 + U w + b``: U has one block of r orthonormal columns per layer, w one coefficient per column, and b is zero
but at k places anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from fedpriv.lrs.sparse import PersonalPart

__all__ = ["Directions", "Layout", "fit", "orthonormal_columns"]

_MIN_SINGULAR_SHARE = 1e-6
"""Share of the largest singular value below which a direction is rounding."""


@dataclass(frozen=True)
class Layout:
    """How named arrays lie one after the other in a vector.

    Attributes
    ----------
    shapes : dict
        Shape by name.
    """

    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> Layout:
        """Return the layout of arrays [...]."""
        return cls({name: tuple(value.shape) for name, value in arrays.items()})

    @property
    def size(self) -> int:
        """Numbers in all, d."""
        return sum(prod(shape) for shape in self.shapes.values())

    def place(self, name: str) -> slice:
        """Return where an array lies."""
        start = 0
        for other, shape in self.shapes.items():
            if other == name:
                return slice(start, start + prod(shape))
            start += prod(shape)
        raise KeyError(name)

    def joined(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Return arrays [C, ...] as vectors [C, d]."""
        return torch.cat([arrays[name].flatten(1) for name in self.shapes], dim=1)

    def cut(self, vectors: Tensor) -> dict[str, Tensor]:
        """Return vectors [C, d] as arrays [C, ...]."""
        parts = _split(vectors, [prod(shape) for shape in self.shapes.values()])
        return {
            name: part.reshape(len(vectors), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


@dataclass(frozen=True)
class Directions:
    """The matrix U, block by block.

    Attributes
    ----------
    blocks : tuple of (slice, Tensor of shape [d_l, r])
        Where each layer lies, and its orthonormal columns.
    """

    blocks: tuple[tuple[slice, Tensor], ...]

    @property
    def count(self) -> int:
        """Columns of all blocks, so coefficients of a task."""
        return sum(columns.shape[1] for _, columns in self.blocks)

    def move(self, coefficients: Tensor, dimension: int) -> Tensor:
        """Return U w of shape [C, d] for coefficients [C, L r]."""
        moved = torch.zeros((len(coefficients), dimension), dtype=coefficients.dtype)
        for (place, columns), mine in zip(self.blocks, self.split(coefficients), strict=True):
            moved[:, place] = (_for_each(columns, mine) @ mine.unsqueeze(2)).squeeze(2)
        return moved

    def project(self, vectors: Tensor) -> Tensor:
        """Return U^T v of shape [C, L r] for vectors [C, d]."""
        found = [
            (vectors[:, place].unsqueeze(1) @ _for_each(columns, vectors)).squeeze(1) for place, columns in self.blocks
        ]
        return torch.cat(found, dim=1) if found else vectors.new_zeros((len(vectors), 0))

    def split(self, coefficients: Tensor) -> list[Tensor]:
        """Return the coefficients of each layer, [C, r]."""
        return _split(coefficients, [columns.shape[1] for _, columns in self.blocks])


def orthonormal_columns(columns: Tensor) -> Tensor:
    """Return the orthonormal columns that are nearest to some [d, r]: their polar factor.

    Unlike Gram-Schmidt it treats all columns alike and moves little when they do, so coefficients that a task kept
    still mean the same. Columns that are linearly dependent give fewer directions, not NaN.
    """
    left, values, right = torch.linalg.svd(columns.double(), full_matrices=False)
    kept = values > _MIN_SINGULAR_SHARE * values.max() if values.numel() else values > 0
    found: Tensor = (left * kept) @ right
    return found.to(columns.dtype)


def fit(
    own: PersonalPart,
    gradients: Callable[[Tensor], Tensor],
    directions: Directions,
    *,
    dimension: int,
    steps: int,
    rate: float,
    pull: float,
    sparse_pull: float,
    allowed: Tensor | None = None,
) -> PersonalPart:
    """Fit w and b of some tasks by gradient steps, with U and theta_0 fixed.

    Columns of U and of the identity have length 1, so one step size does for both. In the first half of the steps
    every one chooses the k largest entries of b after the step (hard thresholding); the others refit what was chosen.

    Parameters
    ----------
    own : PersonalPart
        Where to begin: coefficients [C, L r], k places and values.
    gradients : callable
        From how far each task has moved from theta_0, [C, d], to the gradient of its mean loss there, [C, d].
    directions : Directions
        U.
    dimension : int
        d.
    steps : int
        Number of steps.
    rate : float
        Their size.
    pull : float
        Strength of the pull of w to zero, ``pull / 2 * ||w||^2``.
    sparse_pull : float
        The same for b.
    allowed : Tensor of bool, shape [d], or None
        Where b may stand; None for everywhere.
    """
    sparsity, weights, index, values = own.values.shape[1], own.coefficients, own.index, own.values
    for step in range(steps):
        sparse = PersonalPart(weights, index, values).sparse(dimension)
        gradient = gradients(directions.move(weights, dimension) + sparse)
        weights = weights - rate * (directions.project(gradient) + pull * weights)
        if not sparsity:
            continue
        moved = sparse - rate * (gradient + sparse_pull * sparse)
        if 2 * step < steps:
            size = moved.abs() if allowed is None else torch.where(allowed, moved.abs(), -1.0)
            index = size.topk(sparsity, dim=1).indices
        values = moved.gather(1, index)
    return PersonalPart(weights, index, values)


def _for_each(columns: Tensor, tasks: Tensor) -> Tensor:
    """Return the columns once per task, without a copy.

    One product per task: the rounding of one for all depends on how many there are, and where two places are equally
    good for a task, rounding decides.
    """
    return columns.expand(len(tasks), *columns.shape)


def _split(vectors: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Cut vectors [C, d] into parts of these sizes, which add up to d."""
    ends = list(accumulate(sizes))
    return [vectors[:, end - size : end] for size, end in zip(sizes, ends, strict=True)]
