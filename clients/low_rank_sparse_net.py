"""Personal networks that are low-rank plus sparse: the neural form of AMHT-LRS."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from fedpriv.cohort import (
    Cohort,
    Key,
    Learner,
    LocalSGD,
    Params,
    Population,
    Problem,
    Purpose,
    State,
    broadcast,
    split_examples,
)
from fedpriv.errors import InputError
from fedpriv.lrs.network import Directions, Layout, fit, orthonormal_columns
from fedpriv.lrs.sparse import PersonalPart
from fedpriv.models.factored import Factored, factored_layers
from fedpriv.names import unknown

__all__ = ["LowRankSparseNet"]

_NET, _BANK = "net.", "bank."


class LowRankSparseNet(LocalSGD):
    """A task's network is the shared one, moved along shared directions and at k places of its own.

    The billboard (model :class:`fedpriv.models.networks.LowRankNet`) holds a network and, for each layer, a bank of r
    directions. For itself a task keeps one coefficient per direction, and k places anywhere in the network with their
    values; these numbers never leave it. In each round it takes ``personal_steps`` on them with the billboard fixed,
    then trains the network that it has now by SGD, and sends how far that moved: as it is for the shared network, and
    times its coefficients for the bank (those of a layer scaled to length 1, so a task's news of both are equally
    long). Only directions of the bank matter, and tasks make them orthonormal for themselves, so the server only adds.

    A task that comes later fits its numbers to the last billboard in the same way: no privacy is spent on it.

    Attributes
    ----------
    sparsity : int
        k; 0 for none.
    where : tuple of str
        Arrays among which the k places are chosen, such as ``("3.bias",)``; everywhere if empty.
    personal_steps : int
        Steps on coefficients and sparse part in each round, each on all of a task's examples. In the first half of the
        steps the places may change. 0 trains the shared network alone, and tasks fit their own part at the end only.
    final_steps : int
        The same after the last round, from zero: what was fitted to earlier networks is left behind, and tasks that
        took part are treated as those that never did. 0 keeps what training left.
    warm_up : int
        First rounds in which the shared network is trained alone. What all tasks need is in the network then, and does
        not take up directions of the bank.
    personal_rate : float
        Size of these steps.
    pull, sparse_pull : float
        Strength with which coefficients, and values of the sparse part, are pulled to zero, relative to the loss
        averaged over examples. The k places with the largest gradients fit by chance, too, so they need more of it.
    bank_rate : float
        Length of a task's news of the bank, relative to its news of the network.
    fit_share : float
        Share of a task's examples to which it fits its coefficients, from zero, in a round after the warm-up; the
        network that it has then learns from the others. So directions are learned that help with examples that the fit
        has not seen, as with those to come. The sparse part rests meanwhile: places that were picked on part of the
        examples blur what directions learn. 1 uses all examples for all. The fit after the last round does so anyway.
    network_rate : float
        What tasks send of the shared network after the warm-up, relative to how far it moved. 0 leaves the network as
        the warm-up made it, for directions that are learned for a network that exists. Noise would still move it, so
        it is refused then.

    References
    ----------
    Pal and others: Private and Efficient Meta-Learning with Low Rank and Sparse Decomposition, whose appendix extends
    the linear method (:class:`fedpriv.clients.LowRankSparse`) to networks; the steps are our own.
    """

    sparsity: int = Field(default=50, ge=0)
    where: tuple[str, ...] = ()
    personal_steps: int = Field(default=1, ge=0)
    final_steps: int = Field(default=10, ge=0)
    warm_up: int = Field(default=0, ge=0)
    personal_rate: float = Field(default=0.3, gt=0)
    pull: float = Field(default=0.1, ge=0)
    sparse_pull: float = Field(default=3.0, ge=0)
    bank_rate: float = Field(default=1.0, gt=0)
    fit_share: float = Field(default=1.0, gt=0, le=1)
    network_rate: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _some_steps(self) -> LowRankSparseNet:
        if not self.personal_steps and not self.final_steps:
            raise ValueError(
                "'personal_steps' and 'final_steps' are both 0, so nothing would be personal; use client.name = "
                "'global-model' for that."
            )
        if self.fit_share < 1 and not self.personal_steps:
            raise ValueError(
                f"'fit_share' divides examples in rounds in which tasks fit their own part, got {self.fit_share:g} "
                "with 'personal_steps' 0; set 'personal_steps' to at least 1."
            )
        if self.fit_share < 1 and self.sparsity and not self.final_steps:
            raise ValueError(
                f"with 'fit_share' {self.fit_share:g} the sparse part is fitted after the last round only; set "
                "'final_steps' to at least 1, or 'sparsity' to 0."
            )
        return self

    @property
    def leaves_still(self) -> str | None:
        """What keeps the shared network as the warm-up made it."""
        return None if self.network_rate else "client.network_rate = 0"

    def check(self, problem: Problem, tasks: Population) -> None:  # noqa: ARG002
        """Refuse a model without a bank, and more places than there are."""
        model = problem.model
        if not isinstance(model, Factored):
            raise InputError(
                f"'low-rank-sparse-net' needs a network with a bank of directions, got {type(model).__name__}; set "
                "model.name = 'low-rank-net', or wrap your own: fedpriv.models.factored.Factored(network, rank)."
            )
        layout = Layout.of({name: value for name, value in model.net.named_parameters() if value.requires_grad})
        for name in self.where:
            if name not in layout.shapes:
                raise InputError(unknown("array in client.where", name, layout.shapes))
        allowed = _allowed(layout, self.where)
        places = layout.size if allowed is None else int(allowed.sum())
        if self.sparsity > places:
            raise InputError(
                f"'sparsity' must be at most the {places} numbers that may be changed, got {self.sparsity}; use fewer"
                + (", or more arrays in 'where'." if self.where else ", or a larger network.")
            )
        if not self.network_rate and not model.rank:
            raise InputError(
                "'network_rate' and 'rank' are both 0, so nothing would be learned after the warm-up; set "
                "'network_rate' above 0, or 'rank' to at least 1."
            )
        if not self.sparsity and not model.rank:
            raise InputError(
                "'rank' and 'sparsity' are both 0, so nothing would be personal; use client.name = 'global-model' for "
                "that."
            )

    def initial_state(self, billboard: Params, cohort: Cohort) -> State:
        """Start from the shared network: all coefficients and values 0."""
        shared = _SharedNetwork.read(billboard)
        some = next(iter(billboard.values()))
        return PersonalPart.zeros(len(cohort), shared.directions.count, self.sparsity, some.dtype).to_state()

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        """Fit the own part with the billboard fixed, train the network with the own part fixed, send how it moved."""
        shared = _SharedNetwork.read(billboard)
        steps = self.personal_steps if key.round > self.warm_up else 0
        own, rest = PersonalPart.from_state(state), None
        if steps and self.fit_share < 1:
            fitted, rest = split_examples(cohort, replace(key, purpose=Purpose.EPISODE), self.fit_share)
            own = PersonalPart.from_state(self.initial_state(billboard, cohort))  # what was kept has seen all examples
            few = replace(own, index=own.index[:, :0], values=own.values[:, :0])
            own = replace(own, coefficients=self._fit(learner, shared, few, cohort, steps, fitted).coefficients)
        else:
            own = self._fit(learner, shared, own, cohort, steps)
        start = shared.networks(own)
        network = _network(learner)
        moved = self.fit(network, start, cohort, key, examples=rest)
        learner.cells = network.cells
        drift = {name: value.sub_(start[name]) for name, value in moved.items()}
        share = self.network_rate if key.round > self.warm_up else 1.0
        sent = {f"{_NET}{name}": value if share == 1 else value * share for name, value in drift.items()}
        weights = shared.directions.split(own.coefficients)
        for names, mine in zip(shared.banked, weights, strict=True):
            length = mine.norm(dim=1, keepdim=True)
            unit = torch.where(length > 0, self.bank_rate * mine / length, 0.0)
            for name in names:
                sent[f"{_BANK}{name}"] = torch.einsum("cr,c...->cr...", unit, drift[name])
        return own.to_state(), {name: sent[name] for name in billboard}

    def finish(self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key) -> State:  # noqa: ARG002
        """Fit the own part to the last billboard, from zero, whether a task took part before or not."""
        if not self.final_steps:
            return state
        fresh = PersonalPart.from_state(self.initial_state(billboard, cohort))
        return self._fit(learner, _SharedNetwork.read(billboard), fresh, cohort, self.final_steps).to_state()

    def personal(self, billboard: Params, state: State, cohort: Cohort) -> Params:
        """Return each task's network, with an empty bank."""
        rest = {name: torch.zeros_like(value) for name, value in broadcast(billboard, len(cohort)).items()}
        networks = _SharedNetwork.read(billboard).networks(PersonalPart.from_state(state))
        return rest | {f"{_NET}{name}": value for name, value in networks.items()}

    def _fit(
        self,
        learner: Learner,
        shared: _SharedNetwork,
        own: PersonalPart,
        cohort: Cohort,
        steps: int,
        examples: NDArray[np.int64] | None = None,
    ) -> PersonalPart:
        """Take some steps on the own part, on the examples of these numbers [C, n], or on all."""
        if not steps:
            return own
        problem = _network(learner).problem
        batch = cohort.part("train") if examples is None else next(cohort.batches(examples[:, None]))

        def gradients(moved: Tensor) -> Tensor:
            here = shared.layout.cut(shared.base + moved)
            return shared.layout.joined(learner.engine.gradients(problem, here, batch))

        learner.count(cohort, steps * batch.sizes.numpy().astype(np.int64))
        learner.cells += steps * batch.mask.numel()
        return fit(
            own,
            gradients,
            shared.directions,
            dimension=shared.layout.size,
            steps=steps,
            rate=self.personal_rate,
            pull=self.pull,
            sparse_pull=self.sparse_pull,
            allowed=_allowed(shared.layout, self.where),
        )


class _SharedNetwork:
    """What a billboard says: the shared network as a vector, and orthonormal directions."""

    def __init__(self, net: Params, bank: Params) -> None:
        self.layout = Layout.of(net)
        self.base = self.layout.joined(broadcast(net, 1))
        layers = factored_layers(net)
        self.banked = list(layers.values()) if bank else []
        blocks = []
        for names in self.banked:
            columns = torch.cat([bank[name].flatten(1) for name in names], dim=1).T
            place = slice(self.layout.place(names[0]).start, self.layout.place(names[-1]).stop)
            blocks.append((place, orthonormal_columns(columns)))
        self.directions = Directions(tuple(blocks))

    @classmethod
    def read(cls, billboard: Params) -> _SharedNetwork:
        parts = [
            {name.removeprefix(start): value for name, value in billboard.items() if name.startswith(start)}
            for start in (_NET, _BANK)
        ]
        return cls(*parts)

    def networks(self, own: PersonalPart) -> Params:
        """Return each task's network [C, ...]."""
        size = self.layout.size
        return self.layout.cut(self.base + self.directions.move(own.coefficients, size) + own.sparse(size))


def _network(learner: Learner) -> Learner:
    """Return the learner of the network without its bank; the work counts for the same tasks."""
    problem = learner.problem
    return replace(learner, problem=Problem(cast(Factored, problem.model).net, problem.loss))


def _allowed(layout: Layout, where: tuple[str, ...]) -> Tensor | None:
    """Return where a sparse part may stand, bool [d]; None for everywhere."""
    if not where:
        return None
    allowed = torch.zeros(layout.size, dtype=torch.bool)
    for name in where:
        allowed[layout.place(name)] = True
    return allowed
