"""The cheap attack: how well a candidate explains the seen gradient, beside others of its class, as it stands."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["standardised"]


def standardised(score: Tensor, references: Tensor) -> Tensor:
    """Return scores [G] in standard deviations above those [G, R] of references of the same class.

    With fewer than two references the score stays as it is.
    """
    if references.shape[1] < 2:
        return score
    spread = references.std(dim=1).clamp_min(torch.finfo(score.dtype).eps)
    return (score - references.mean(dim=1)) / spread
