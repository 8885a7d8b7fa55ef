"""Personal linear models that are low-rank plus sparse: theta = U w + b (AMHT-LRS)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedpriv.cohort import Batch, ClientAlgorithm, Cohort, Key, Learner, Params, State, broadcast, zeros_like
from fedpriv.cohort.trees import concatenate
from fedpriv.errors import InputError
from fedpriv.lrs.sparse import PersonalPart, Thresholding, pursue, threshold
from fedpriv.lrs.statistics import clip_to, curvature, gradient, moments, normal_equations

__all__ = ["FrozenLowRankSparse", "LowRankSparse", "PublishedLowRankSparse"]

_PIECE_BYTES = 16 * 2**20
"""Examples that are worked on at once."""


class LowRankSparse(ClientAlgorithm):
    """A task fits coefficients w of the shared factors U and a k-sparse part b to its own data, and sends news of U.

    What is sent follows from the billboard, that is from the model :class:`fedpriv.models.low_rank.LowRank`: minus the
    gradient in U, and where there is a place for it the curvature, the normal equations (A, V) or, in round 1, moments.
    All are means over the task's examples. Everything is computed in float64.

    Attributes
    ----------
    sparsity : int
        k, numbers of a task's own beside w; 0 learns a representation alone.
    steps : int
        Changes of the support in each round. Every round begins with b = 0: a support that was found with poor factors
        is hard to leave again, and one stuck task keeps U from becoming exact. So what is sent follows from the
        billboard and the task's own data alone.
    final_steps : int
        The same for the last fit to the last billboard, after which nothing is sent. Tasks that never took part get
        their model here, so a new task costs no privacy.
    coefficients : {"free", "one"}
        Whether w is fitted or always 1: one shared model plus sparse parts (rank 1; use ``orthonormal=false`` in the
        strategy then).
    ridge : float
        Penalty ``ridge ||b||^2`` on the sparse part, in the units of the data, beside the sum of a task's squared
        errors: with few examples and noise, k entries that were picked among many do not fit what they were picked for.
    batches : int
        Into how many parts a task's examples are cut; each round uses the next one (the paper's fresh samples).
    matrix_norm, vector_norm, moment_norm : float or None
        Bounds of the Frobenius norms of A, V and the moments, in the units of the data. What is bounded is divided by
        its bound, and A and V by sqrt 2, so that ``clipping_norm=1`` in the strategy is just right. None leaves them to
        the strategy's clipping alone. With ``coefficients="one"`` those of A and V must be equal: U keeps its scale.

    References
    ----------
    Pal and others: Private and Efficient Meta-Learning with Low Rank and Sparse Decomposition, Algorithm 1, with hard
    thresholding pursuit and a joint refit of w and b in the place of Algorithm 2 (:class:`PublishedLowRankSparse`).
    """

    updates_use_state: ClassVar[bool] = False

    sparsity: int = Field(default=10, ge=0)
    steps: int = Field(default=5, ge=1)
    final_steps: int = Field(default=10, ge=1)
    coefficients: Literal["free", "one"] = "free"
    ridge: float = Field(default=0.0, ge=0)
    batches: int = Field(default=1, ge=1)
    matrix_norm: float | None = Field(default=None, gt=0)
    vector_norm: float | None = Field(default=None, gt=0)
    moment_norm: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_scale(self) -> LowRankSparse:
        # QR takes out the factor that A^-1 V gets from bounds that differ. Where w is always 1 there is no QR.
        if self.coefficients == "one" and self.matrix_norm != self.vector_norm:
            raise ValueError(
                "'matrix_norm' and 'vector_norm' must be equal with coefficients = 'one', because A and V are divided "
                f"by them and U keeps its scale there, got {self.matrix_norm} and {self.vector_norm}; give both the "
                "larger one, or neither."
            )
        return self

    def initial_state(self, billboard: Params, cohort: Cohort) -> State:
        """Start from w = 0 (or 1) and b = 0."""
        factors = _factors(billboard, cohort)
        if self.sparsity > len(factors):
            raise InputError(
                f"'sparsity' must be at most the number of features {len(factors)}, got {self.sparsity}; use fewer."
            )
        return self._start(len(cohort), factors.shape[1]).to_state()

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        """Fit w and b with U fixed; return minus the gradient in U, and what else the billboard has a place for."""
        factors = _factors(billboard, cohort)

        def work(part: Cohort, own: PersonalPart) -> Params:
            inputs, targets, counts = self._examples(part.part("train").cleared(), key.round)
            own = self._fit(inputs, targets, counts, factors, own, self.steps)
            sent = zeros_like(broadcast(billboard, len(part)))
            sent |= self._news(inputs, targets, counts, factors, own, billboard, key.round)
            return own.to_state() | {f"sent/{name}": value for name, value in sent.items()}

        _count(learner, cohort, (self.steps + 1) / self.batches)
        done = _by_pieces(work, cohort, state)
        update = {name: done.pop(f"sent/{name}") for name in billboard}
        return done, update

    def finish(self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key) -> State:  # noqa: ARG002
        """Fit w and b once more, to the last factors and all own examples."""
        factors = _factors(billboard, cohort)

        def work(part: Cohort, own: PersonalPart) -> Params:
            batch = part.part("train").cleared()
            inputs, targets = batch.inputs.flatten(2), _targets(batch)
            return self._fit(inputs, targets, batch.sizes, factors, own, self.final_steps).to_state()

        _count(learner, cohort, self.final_steps)
        return _by_pieces(work, cohort, state)

    def personal(self, billboard: Params, state: State, cohort: Cohort) -> Params:
        """Return each task's theta as the first column of factors whose other columns are zero."""
        factors = _factors(billboard, cohort)
        rest = broadcast(billboard, len(cohort))
        model = torch.zeros_like(rest["factors"])
        model[:, :, 0] = PersonalPart.from_state(state).theta(factors)
        return rest | {"factors": model}

    def _fit(
        self,
        inputs: Tensor,
        targets: Tensor,
        counts: Tensor,  # noqa: ARG002
        factors: Tensor,
        own: PersonalPart,  # noqa: ARG002
        steps: int,
    ) -> PersonalPart:
        """Fit w and b of some tasks that have ``counts`` examples and came to ``own`` last time: here from anew."""
        fresh = self._start(len(inputs), factors.shape[1])
        return pursue(inputs, targets, factors, fresh, steps, fixed=self.coefficients == "one", ridge=self.ridge)

    def _start(self, tasks: int, rank: int) -> PersonalPart:
        own = PersonalPart.zeros(tasks, rank, self.sparsity)
        if self.coefficients == "free":
            return own
        return PersonalPart(torch.ones_like(own.coefficients), own.index, own.values)

    def _examples(self, batch: Batch, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a round's inputs [C, n, d], targets [C, n] and how many of them are real, [C]."""
        inputs, targets, mask = batch.inputs.flatten(2), _targets(batch), batch.mask
        if self.batches == 1:
            return inputs, targets, batch.sizes
        mask = mask * (torch.arange(mask.shape[1]) % self.batches == (number - 1) % self.batches)
        return inputs * mask.unsqueeze(2), targets * mask, mask.sum(dim=1)

    def _news(
        self,
        inputs: Tensor,
        targets: Tensor,
        counts: Tensor,
        factors: Tensor,
        own: PersonalPart,
        billboard: Params,
        number: int,
    ) -> Params:
        """Return what a task says about U, for the places that the billboard has."""
        if "moments" in billboard and number == 1:
            return {"moments": clip_to(moments(inputs, targets, counts), self.moment_norm)}
        weights = own.coefficients
        if "matrix" in billboard:
            matrix, vector = normal_equations(inputs, targets, own.sparse(len(factors)), weights, counts)
            half = 0.5**0.5 if self.matrix_norm is not None and self.vector_norm is not None else 1.0
            return {
                "matrix": half * clip_to(matrix, self.matrix_norm),
                "vector": half * clip_to(vector, self.vector_norm),
            }
        sent = {"factors": -gradient(inputs, targets, own.theta(factors), weights, counts)}
        if "curvature" in billboard:
            fitted = own.columns(inputs, factors if self.coefficients == "free" else None)
            if self.ridge:  # an example more for each entry of b, in which U has no part
                width, sparsity = fitted.shape[2], self.sparsity
                rows = self.ridge**0.5 * torch.eye(width, dtype=fitted.dtype)[width - sparsity :]
                fitted = torch.cat([fitted, rows.expand(len(fitted), -1, -1)], dim=1)
                inputs = torch.cat([inputs, inputs.new_zeros((len(inputs), sparsity, inputs.shape[2]))], dim=1)
            sent["curvature"] = curvature(inputs, weights, fitted, counts)
        return sent


class PublishedLowRankSparse(LowRankSparse):
    """The same with Algorithm 2 as published: hard thresholding that goes on from the last b, then w alone.

    It diverges where m is not several times larger than pursuit needs; a task that diverges goes on with b = 0.

    Attributes
    ----------
    thresholding : Thresholding
        Constants of Algorithm 2; ``steps`` are its iterations.
    """

    updates_use_state: ClassVar[bool] = True

    thresholding: Thresholding = Thresholding()

    @model_validator(mode="after")
    def _without_ridge(self) -> PublishedLowRankSparse:
        if self.ridge:
            raise ValueError(
                f"'ridge' has no place in Algorithm 2, got {self.ridge:g}; leave it out or use 'low-rank-sparse'."
            )
        return self

    def _fit(
        self, inputs: Tensor, targets: Tensor, counts: Tensor, factors: Tensor, own: PersonalPart, steps: int
    ) -> PersonalPart:
        fixed = self.coefficients == "one"
        return threshold(inputs, targets, counts, factors, own, steps, self.thresholding, fixed=fixed)


class FrozenLowRankSparse(LowRankSparse):
    """Adapt to factors that stay as they are, and contribute nothing: compressed sensing beside a known subspace.

    With the strategy ``silent``. Tasks read the billboard and their own data only, so nothing is released.
    """

    sends_update: ClassVar[bool] = False


def _factors(billboard: Params, cohort: Cohort) -> Tensor:
    """Return U [d, r] of the billboard."""
    if "factors" not in billboard:
        raise InputError(
            f"'low-rank-sparse' needs the model 'low-rank', whose billboard holds 'factors', got {sorted(billboard)}; "
            "set model.name='low-rank'."
        )
    if billboard["factors"].dtype != torch.float64 or cohort.dtype != torch.float64:
        raise InputError("'low-rank-sparse' computes in float64; set run.dtype='float64'.")
    return billboard["factors"]


def _targets(batch: Batch) -> Tensor:
    return batch.targets.reshape(batch.targets.shape[:2])


def _by_pieces(work: Callable[[Cohort, PersonalPart], Params], cohort: Cohort, state: State) -> Params:
    """Work on as many tasks at a time as examples fit the cache; a cohort may hold many more."""
    return concatenate([work(part, PersonalPart.from_state(mine)) for part, mine in _pieces(cohort, state)])


def _pieces(cohort: Cohort, state: State) -> Iterator[tuple[Cohort, State]]:
    width = int(cohort.sizes("train").max(initial=1)) * max(int(cohort.tasks.train.inputs[:1].size), 1)
    size = max(1, _PIECE_BYTES // (8 * width))
    positions = torch.arange(len(cohort))
    for start in range(0, max(len(cohort), 1), size):
        some = positions[start : start + size]
        yield cohort.subset(some.numpy()), {name: value[some] for name, value in state.items()}


def _count(learner: Learner, cohort: Cohort, passes: float) -> None:
    """Count the work: a pass is one gradient per example."""
    learner.count(cohort, np.rint(passes * cohort.sizes("train")).astype(np.int64))
