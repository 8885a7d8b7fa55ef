"""The cosines of convolutional games with their slopes by the inputs, from a few passes instead of autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedpriv.adversary.chain import Chain
from fedpriv.adversary.jets import BOTH, FIRST, PLAIN, SECOND, Passes
from fedpriv.cohort import Batch, InnerLoop, Params, Problem
from fedpriv.cohort.descent import per_task
from fedpriv.errors import InputError

__all__ = ["QuickCosines"]

_CosineOf = Callable[[Tensor], Tensor]
_Found = tuple[Tensor, Tensor | None]
"""Cosines [G], and their slopes by the inputs if these were asked for."""


class QuickCosines:
    """A chain that begins with convolutions, and the seen gradients at unit length.

    The slopes are ready with the cosines, so the latter can be differentiated once.
    """

    def __init__(self, problem: Problem, billboard: Params, seen: Params) -> None:
        self.problem, self.billboard, self.seen = problem, billboard, seen
        self._made: tuple[torch.Size, _PackedChain] | None = None

    @classmethod
    def of(cls, problem: Problem, billboard: Params, seen: Params) -> QuickCosines | None:
        """Return None for models that are computed otherwise."""
        return cls(problem, billboard, seen) if Chain.covers(problem) else None

    def query(self, labels: Tensor) -> _CosineOf:
        """Return what compares guessed query sets [G, n, ...], with the billboard's parameters."""

        def work(images: Tensor, slope: bool) -> _Found:
            packed = self._packed(images.shape[2:])
            guess = packed.passes(self.problem, images, labels)
            guess.extend(PLAIN, packed.start)
            cosine, towards = packed.compare(guess.by_weights(PLAIN))
            if not slope:
                return cosine, None
            guess.extend(FIRST, towards)
            return cosine, guess.by_inputs(FIRST)

        return lambda inputs: _Cosine.apply(inputs, work)  # type: ignore[no-untyped-call]

    def support(self, labels: Tensor, query: Batch, inner: InnerLoop) -> _CosineOf:
        """Return what compares guessed support sets [G, n, ...], after one step of adaptation.

        With ``q`` the gradient of the query loss at the adapted weights, ``H`` and ``h`` the Hessians of support and
        query loss, what a task sends is ``q - rate * H q``. Let ``v`` be the slope of the cosine by it and
        ``u = v - rate * H v``: the slope by the support inputs is ``-rate`` times that of ``v H q`` and of ``h u``
        times the support gradient, ``q``, ``v`` and ``h u`` held fixed. In first order ``H`` is left out.
        """
        rate, through = inner.learning_rate, inner.order == "second"
        packed = self._packed(query.inputs.shape[2:])
        known = packed.chain.rows(query.inputs)

        def work(images: Tensor, slope: bool) -> _Found:
            guess = packed.passes(self.problem, images, labels)
            guess.extend(PLAIN, packed.start)
            asked = Passes(packed.chain, self.problem, known, query.targets)
            asked.extend(PLAIN, packed.start - rate * guess.by_weights(PLAIN))
            made = asked.by_weights(PLAIN)
            if through:
                guess.extend(FIRST, made)
                made = made - rate * guess.by_weights(FIRST)
            cosine, towards = packed.compare(made)
            if not slope:
                return cosine, None
            if through:
                guess.extend(SECOND, towards)
            moved = towards - rate * guess.by_weights(SECOND) if through else towards
            asked.extend(FIRST, moved)
            last = BOTH if through else FIRST
            guess.extend(last, asked.by_weights(FIRST))
            return cosine, guess.by_inputs(last) * -rate

        return lambda inputs: _Cosine.apply(inputs, work)  # type: ignore[no-untyped-call]

    def _packed(self, shape: torch.Size) -> _PackedChain:
        """Return all that does not change with the guess, for examples of this shape [c, H, W]."""
        if self._made is None or self._made[0] != shape:
            chain = Chain.of(self.problem, shape)
            start = chain.pack({name: value.detach().unsqueeze(0) for name, value in self.billboard.items()})
            sent = chain.pack({name: torch.ones_like(value[:1]) for name, value in self.seen.items()})
            self._made = (shape, _PackedChain(chain, start, chain.pack(self.seen), sent))
        return self._made[1]


@dataclass(frozen=True)
class _PackedChain:
    chain: Chain
    start: Tensor  # [1, P], where tasks begin
    goal: Tensor  # [G, P], of unit length
    sent: Tensor  # [1, P], 1 for what tasks send and 0 for what they do not

    def passes(self, problem: Problem, images: Tensor, labels: Tensor) -> Passes:
        """Return passes of guessed images."""
        if labels.shape[:2] != images.shape[:2]:
            raise InputError(
                f"guessed inputs need a label each, got {list(images.shape[:2])} inputs (games, examples) and labels "
                f"of shape {list(labels.shape)}; give both for the same games and examples."
            )
        return Passes(self.chain, problem, self.chain.rows(images), labels)

    def compare(self, made: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines [G] of what was made [G, P] with what was seen, and their slopes by what was made."""
        made = made * self.sent
        length = torch.linalg.vector_norm(made, dim=1, keepdim=True).clamp_min(1e-12)
        cosine = torch.linalg.vecdot(made, self.goal).unsqueeze(1) / length
        return cosine.squeeze(1), (self.goal - cosine * made / length) / length


class _Cosine(torch.autograd.Function):
    """Cosines that bring their slopes along."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, work: Callable[[Tensor, bool], _Found]) -> Tensor:
        cosine, ctx.slope = work(inputs.detach(), ctx.needs_input_grad[0])
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return per_task(gradients[0], ctx.slope) * ctx.slope, None
