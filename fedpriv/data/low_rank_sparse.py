"""Synthetic linear tasks whose models are low-rank plus sparse (the design of AMHT-LRS, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedpriv.randomness import generator
from fedpriv.settings import Settings

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Tasks

__all__ = ["LowRankSparseDesign", "LowRankSparseTruth"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LowRankSparseTruth:
    """What the tasks were made from: theta_i = U w_i + b_i.

    Attributes
    ----------
    factors : ndarray, shape [d, r]
        U, orthonormal.
    coefficients : ndarray, shape [t, r]
        w.
    sparse : ndarray, shape [t, d]
        b, with k entries that are not 0 in every row.
    """

    factors: Array
    coefficients: Array
    sparse: Array

    @property
    def theta(self) -> Array:
        """The tasks' models, shape [t, d]."""
        return self.coefficients @ self.factors.T + self.sparse


class LowRankSparseDesign(Settings):
    """A population of linear-regression tasks; the defaults are those of the paper's synthetic experiment.

    An example is ``x ~ N(0, I)``, ``y = <x, U w + b> + noise * N(0, 1)``. U is uniform among orthonormal bases, w and
    the entries of b are standard normal. Targets of the test part carry no noise, so a score there is the excess risk.

    Attributes
    ----------
    tasks, dimension, samples : int
        t, d and m: training examples of each task.
    rank, sparsity : int
        r and k.
    overlap : int or None
        zeta: how many tasks may use a coordinate. None draws each task's coordinates by itself, and task i is then the
        same whatever the number of tasks.
    noise : float
        sigma.
    validation, tests : int
        Further examples of each task.
    seed : int
        Everything depends on it and on nothing else.

    References
    ----------
    Pal and others: Private and Efficient Meta-Learning with Low Rank and Sparse Decomposition, section 3. The number of
    tasks is not stated there; t k = d zeta gives 75.
    """

    tasks: int = Field(default=75, ge=1)
    dimension: int = Field(default=150, ge=1)
    samples: int = Field(default=100, ge=2)
    rank: int = Field(default=1, ge=1)
    sparsity: int = Field(default=10, ge=0)
    overlap: int | None = Field(default=None, ge=1)
    noise: float = Field(default=0.0, ge=0)
    validation: int = Field(default=20, ge=0)
    tests: int = Field(default=100, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> LowRankSparseDesign:
        for name in ("rank", "sparsity"):
            if getattr(self, name) > self.dimension:
                raise ValueError(f"{name!r} must be at most the dimension {self.dimension}, got {getattr(self, name)}.")
        if self.overlap is not None and self.tasks * self.sparsity > self.dimension * self.overlap:
            raise ValueError(
                f"'overlap' must be at least tasks * sparsity / dimension = "
                f"{self.tasks * self.sparsity / self.dimension:g}, got {self.overlap}: there are not enough places."
            )
        return self

    def truth(self) -> LowRankSparseTruth:
        """Return the models that the tasks are made from."""
        basis = generator(self.seed, "data/lrs/factors").standard_normal((self.dimension, self.rank))
        factors, triangle = np.linalg.qr(basis)
        supports = self._supports()
        coefficients, sparse = np.empty((self.tasks, self.rank)), np.zeros((self.tasks, self.dimension))
        for task in range(self.tasks):
            rng = generator(self.seed, "data/lrs/model", task)
            coefficients[task] = rng.standard_normal(self.rank)
            sparse[task, supports[task]] = rng.standard_normal(self.sparsity)
        return LowRankSparseTruth(factors * np.sign(np.diagonal(triangle)), coefficients, sparse)

    def make(self) -> Tasks:
        """Generate the tasks.

        Returns
        -------
        Tasks
            Inputs float64 [N, d], targets float64 [N], ``num_classes`` None.
        """
        from fedpriv.cohort.tasks import Ragged, Tasks

        cuts = np.cumsum([0, self.samples, self.validation, self.tests]).tolist()
        inputs = np.empty((self.tasks, cuts[-1], self.dimension))
        targets = np.empty((self.tasks, cuts[-1]))
        for task, theta in enumerate(self.truth().theta):
            rng = generator(self.seed, "data/lrs/examples", task)
            inputs[task] = rng.standard_normal(inputs.shape[1:])
            targets[task] = inputs[task] @ theta
            targets[task, : cuts[2]] += self.noise * rng.standard_normal(cuts[2])
        label = "low-rank-sparse(" + ",".join(f"{key}={value}" for key, value in self.model_dump().items()) + ")"
        train, validation, test = (
            Ragged.from_block(inputs[:, start:stop], targets[:, start:stop]) for start, stop in pairwise(cuts)
        )
        names = tuple(f"{label}/{task:07d}" for task in range(self.tasks))
        return Tasks(label, names, train, validation, test, num_classes=None, declared="benchmark")

    def _supports(self) -> NDArray[np.int64]:
        """Draw which coordinates each task's sparse part uses, shape [t, k]."""
        if self.overlap is None:
            rngs = (generator(self.seed, "data/lrs/support", task) for task in range(self.tasks))
            return np.array([rng.choice(self.dimension, self.sparsity, replace=False) for rng in rngs], dtype=np.int64)
        rng = generator(self.seed, "data/lrs/supports")
        left = rng.permuted(np.repeat(np.arange(self.dimension), self.overlap))  # places, dealt like cards
        dealt, spare = left[: self.tasks * self.sparsity].reshape(self.tasks, self.sparsity), left
        dealt, spare = dealt.copy(), spare[self.tasks * self.sparsity :].copy()
        for task in range(self.tasks):
            for place in range(self.sparsity):
                _mend(dealt, spare, task, place, rng)
        return dealt


def _mend(dealt: NDArray[np.int64], spare: NDArray[np.int64], task: int, place: int, rng: np.random.Generator) -> None:
    """Swap one coordinate that a task was dealt twice with one of another task (or of nobody) that fits both."""
    mine, held = dealt[task], dealt[task, place]
    if (mine == held).sum() == 1:
        return
    for other in rng.permutation(dealt.size + spare.size).tolist():
        row, column = divmod(other, max(dealt.shape[1], 1)) if other < dealt.size else (-1, other - dealt.size)
        offer = spare[column] if row < 0 else dealt[row, column]
        if offer in mine or (row >= 0 and held in dealt[row]):
            continue
        dealt[task, place] = offer
        if row < 0:
            spare[column] = held
        else:
            dealt[row, column] = held
        return
