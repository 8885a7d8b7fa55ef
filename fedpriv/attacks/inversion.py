"""Gradient inversion, many games at once: move inputs until their gradient points where the seen one points.

Games lie along the leading axis, as tasks do in a cohort, and do not touch each other: the objective is a sum over them
and the optimiser works on signs, so each game takes the path that it would take alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor

from fedpriv.cohort import Batch, Engine, InnerLoop, Marks, Params, Problem, broadcast, meta_gradient, task_gradients
from fedpriv.errors import InputError
from fedpriv.settings import Settings

__all__ = [
    "GradientOf",
    "Inversion",
    "alignment",
    "full_batch",
    "norm",
    "query_gradient",
    "refuse_unusable",
    "support_gradient",
    "total_variation",
    "without_denormals",
]

GradientOf = Callable[[Tensor], Params]
"""From guessed inputs [G, n, ...] to the gradients [G, ...] that they would have caused, differentiable."""


class Inversion(Settings):
    """Signed Adam on ``1 - cosine + total_variation * TV``, as in Geiping et al. (2020).

    Attributes
    ----------
    iterations : int
        Steps of the optimiser.
    learning_rate : float
        Size of the first steps, in units of the inputs; it falls to a tenth after 3/8, 5/8 and 7/8 of them.
    total_variation : float
        Weight of the smoothness of images.
    low, high : float
        Range of the inputs, which is public.

    References
    ----------
    Geiping, Bauermeister, Droege, Moeller: Inverting Gradients - How easy is it to break privacy in federated
    learning? NeurIPS 2020.
    """

    iterations: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=0.05, gt=0)
    total_variation: float = Field(default=0.1, ge=0)
    low: float = 0.0
    high: float = 1.0

    def run(self, gradient_of: GradientOf, seen: Params, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs [G, n, ...] that were found, and the cosine [G] of their gradients with the seen ones.

        Parameters
        ----------
        gradient_of : callable
            What guessed inputs would have caused.
        seen : Params, each [G, ...]
            What the server received; only its direction is used, so clipping hides nothing.
        start : Tensor, shape [G, n, ...]
            Where to begin: targets and noise.

        Raises
        ------
        InputError
            A seen gradient is not finite or is zero.
        """
        refuse_unusable(seen)
        length = norm(seen)
        seen = {name: value / length.view(-1, *[1] * (value.dim() - 1)) for name, value in seen.items()}
        found = start.detach().clone()
        first, second = torch.zeros_like(found), torch.zeros_like(found)
        for step in range(1, self.iterations + 1):
            guess = found.detach().requires_grad_()
            with torch.enable_grad():
                made = gradient_of(guess)
                distance = 1 - _inner(made, seen) / norm(made).clamp_min(1e-12)
                if self.total_variation and guess.dim() >= 4:
                    distance = distance + self.total_variation * total_variation(guess)
                (slope,) = torch.autograd.grad(distance.sum(), [guess])
            slope = torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0).sign_()
            first.mul_(0.9).add_(slope, alpha=0.1)
            second.mul_(0.999).addcmul_(slope, slope, value=0.001)
            scale = math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            rate = self.learning_rate * 0.1 ** sum(step > self.iterations * part for part in (3 / 8, 5 / 8, 7 / 8))
            found = found.addcdiv(first, second.sqrt().add_(1e-8), value=-rate * scale).clamp_(self.low, self.high)
        with torch.no_grad():
            reached = alignment(gradient_of(found), seen)
        return found, reached.detach()


def query_gradient(engine: Engine, problem: Problem, billboard: Params, labels: Tensor) -> GradientOf:
    """Guess a query set, with the billboard in place of the adapted parameters (equation 9 of the paper).

    Parameters
    ----------
    billboard : Params, each [...]
        What the server published.
    labels : Tensor, int64 [G, n]
        Of the guessed inputs.
    """
    marks = Marks(torch.ones(labels.shape, dtype=problem.dtype), full=True)
    params = {name: value.detach().requires_grad_() for name, value in broadcast(billboard, len(labels)).items()}

    def gradient_of(inputs: Tensor) -> Params:
        return task_gradients(engine, problem, params, Batch(inputs, labels, marks), create_graph=True)[0]

    return gradient_of


def support_gradient(
    engine: Engine, problem: Problem, billboard: Params, labels: Tensor, query: Batch, inner: InnerLoop
) -> GradientOf:
    """Guess a support set by doing what the task does, for a server that knows the query set (equation 10)."""
    marks = Marks(torch.ones(labels.shape, dtype=problem.dtype), full=True)
    params = broadcast(billboard, len(labels))

    def gradient_of(inputs: Tensor) -> Params:
        support = Batch(inputs, labels, marks)
        return meta_gradient(engine, problem, params, support, query, inner, create_graph=True).gradient

    return gradient_of


def full_batch(inputs: Tensor, labels: Tensor) -> Batch:
    """Return examples [G, n, ...] without padding as a batch."""
    return Batch(inputs, labels, Marks(torch.ones(labels.shape, dtype=inputs.dtype), full=True))


def alignment(left: Params, right: Params) -> Tensor:
    """Return the cosine of the angle between two trees of gradients, per game, [G]."""
    return _inner(left, right) / (norm(left) * norm(right)).clamp_min(1e-12)


def total_variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of images [G, n, ..., H, W], per game, [G]."""
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1).mean(dim=1)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).mean(dim=1)
    return across + down


def refuse_unusable(seen: Params) -> None:
    """Refuse gradients that are not finite, or all zero: they say nothing about anybody's data."""
    finite = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in seen.values()]).all(dim=0)
    if not bool(finite.all()):
        count, first = int((~finite).sum()), int(torch.nonzero(~finite)[0])
        raise InputError(
            f"{count} of {len(finite)} recorded gradients hold NaN or infinite values (the first is number {first}); "
            "leave them out: the server counted them as zero."
        )
    silent = norm(seen) == 0
    if bool(silent.any()):
        raise InputError(
            f"{int(silent.sum())} of {len(silent)} recorded gradients are all zero (the first is number "
            f"{int(torch.nonzero(silent)[0])}); leave them out, they point nowhere."
        )


@contextmanager
def without_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero: on CPUs they cost an attack up to twelve times its time."""
    before = torch.tensor(1e-310, dtype=torch.float64).mul(1.0).item() == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def norm(tree: Params) -> Tensor:
    """Return the l2 norm of a tree of gradients, per game, [G]."""
    return _inner(tree, tree).sqrt()


def _inner(left: Params, right: Params) -> Tensor:
    return torch.stack([torch.linalg.vecdot(left[name].flatten(1), right[name].flatten(1)) for name in right]).sum(dim=0)
