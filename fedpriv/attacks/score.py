"""The cheap attack: does the seen gradient point where the candidate's own gradient points? No optimisation."""

from __future__ import annotations

import torch
from torch import Tensor

from fedpriv.attacks.matching import alignment, full_batch
from fedpriv.cohort import Batch, Engine, InnerLoop, Params, Problem, broadcast, meta_gradient, task_gradients

__all__ = ["query_score", "standardised", "support_score"]


def query_score(
    engine: Engine, problem: Problem, billboard: Params, seen: Params, inputs: Tensor, labels: Tensor
) -> Tensor:
    """Return the cosine of seen gradients and those of single candidates at the billboard, [G].

    Parameters
    ----------
    seen : Params, each [G, ...]
        What the server received.
    inputs, labels : Tensor, [G, ...] and int64 [G]
        One candidate for each gradient.
    """
    batch = full_batch(inputs.unsqueeze(1), labels.unsqueeze(1))
    own, _ = task_gradients(engine, problem, broadcast(billboard, len(inputs)), batch)
    return alignment(own, seen)


def support_score(
    engine: Engine,
    problem: Problem,
    billboard: Params,
    seen: Params,
    inputs: Tensor,
    labels: Tensor,
    query: Batch,
    inner: InnerLoop,
) -> Tensor:
    """Return the cosine of seen gradients and those that guessed support sets would have caused, [G].

    Parameters
    ----------
    inputs, labels : Tensor, [G, n, ...] and int64 [G, n]
        The candidate in its slot, guesses in the others: alone it would move the task n times as far.
    query : Batch
        Query sets [G, q, ...], known as in the support attack by inversion.
    """
    own = meta_gradient(engine, problem, broadcast(billboard, len(inputs)), full_batch(inputs, labels), query, inner)
    return alignment(own.gradient, seen)


def standardised(score: Tensor, references: Tensor) -> Tensor:
    """Return scores [G] in standard deviations above those [G, R] of references of the same class.

    With fewer than two references the score stays as it is.
    """
    if references.shape[1] < 2:
        return score
    spread = references.std(dim=1).clamp_min(torch.finfo(score.dtype).eps)
    return (score - references.mean(dim=1)) / spread
