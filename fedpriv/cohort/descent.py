"""How a task descends: step size, pull towards an anchor, momentum."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedpriv.cohort.trees import Params

__all__ = ["Descent", "per_task"]


@dataclass(frozen=True)
class Descent:
    """Settings of SGD for all tasks of a cohort: ``w <- w - learning_rate * v``.

    Here ``v <- momentum * v + gradient + strength * (w - anchor)``, as in ``torch.optim.SGD``, and ``v`` starts at 0.

    Attributes
    ----------
    learning_rate : float
        Step size.
    anchor : Params, each [...] or [C, ...]
        What to stay close to, for some parameters or for all; None for no pull.
    strength : float or Tensor of shape [C]
        Strength of the pull.
    momentum : float
        Share of the velocity that stays.
    """

    learning_rate: float
    anchor: Params | None = None
    strength: float | Tensor = 0.0
    momentum: float = 0.0

    def part(self, here: slice, like: Params) -> Descent:
        """Return the settings for some of the tasks; ``like`` [C, ...] tells which anchors are of one task."""
        anchor, strength = self.anchor, self.strength
        if anchor is not None:
            anchor = {
                name: value[here] if value.dim() == like[name].dim() and len(value) > 1 else value
                for name, value in anchor.items()
            }
        if isinstance(strength, Tensor) and strength.dim() and len(strength) > 1:
            strength = strength[here]
        return Descent(self.learning_rate, anchor, strength, self.momentum)


def per_task(values: Tensor, like: Tensor) -> Tensor:
    """Return one number per task [C] in a shape that multiplies [C, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))
