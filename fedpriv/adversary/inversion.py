"""Gradient inversion, many games at once: move inputs until their gradient points where the seen one points.

Games lie along the leading axis, as tasks do in a cohort, and do not touch each other: the objective is a sum over them
and the optimiser works on signs, so each game takes the path that it would take alone.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from fedpriv.adversary.matching import CosineOf
from fedpriv.settings import Settings

__all__ = ["Inversion", "total_variation", "variation_slope"]


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

    def run(self, cosine_of: CosineOf, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs [G, n, ...] that were found, and the cosine [G] that they reach.

        Parameters
        ----------
        cosine_of : callable
            How well guessed inputs explain what was seen; see :mod:`fedpriv.adversary.matching`.
        start : Tensor, shape [G, n, ...]
            Where to begin: targets and noise.
        """
        found = start.detach().clone()
        first, second = torch.zeros_like(found), torch.zeros_like(found)
        for step in range(1, self.iterations + 1):
            guess = found.detach().requires_grad_()
            with torch.enable_grad():
                cosine = cosine_of(guess)
                slope = torch.zeros_like(guess)
                if cosine.requires_grad:  # it may not depend on the guess
                    slope = -torch.autograd.grad(cosine.sum(), [guess], materialize_grads=True)[0]
            if self.total_variation and found.dim() >= 4:
                slope.add_(variation_slope(found), alpha=self.total_variation)
            slope = torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0).sign_()
            first.mul_(0.9).add_(slope, alpha=0.1)
            second.mul_(0.999).addcmul_(slope, slope, value=0.001)
            scale = math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            rate = self.learning_rate * 0.1 ** sum(step > self.iterations * part for part in (3 / 8, 5 / 8, 7 / 8))
            found = found.addcdiv(first, second.sqrt().add_(1e-8), value=-rate * scale).clamp_(self.low, self.high)
        return found, cosine_of(found).detach()


def total_variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of images [G, n, ..., H, W], per game, [G]."""
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1).mean(dim=1)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).mean(dim=1)
    return across + down


def variation_slope(images: Tensor) -> Tensor:
    """Return the slope of :func:`total_variation` by the images [G, n, ..., H, W]; 0 for neighbours that are equal."""
    height, width = images.shape[-2:]
    flat = images.flatten(-2)
    made = torch.zeros_like(flat)
    each = math.prod(images.shape[1:-2])
    for across in (True, False):
        step, pairs = (1, height * (width - 1)) if across else (width, (height - 1) * width)
        signs = (flat[..., step:] - flat[..., :-step]).sign_()
        if across:  # the end of a line and the start of the next are no neighbours
            signs[..., width - 1 :: width] = 0.0
        weight = 1.0 / max(each * pairs, 1)
        made[..., step:].add_(signs, alpha=weight)
        made[..., :-step].sub_(signs, alpha=weight)
    return made.view(images.shape)
