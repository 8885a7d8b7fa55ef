"""How well guessed inputs explain a seen gradient: the cosine of equations 9 and 10, of many games at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedpriv.adversary.first_layer import FirstLayer
from fedpriv.adversary.quick_cosines import QuickCosines
from fedpriv.cohort import Batch, Engine, InnerLoop, Marks, Params, Problem, broadcast, meta_gradient, task_gradients
from fedpriv.cohort.descent import per_task
from fedpriv.cohort.fast.products import ProductEngine
from fedpriv.errors import InputError
from fedpriv.names import unknown

__all__ = ["CosineOf", "alignment", "full_batch", "query_match", "refuse_unusable", "support_match"]

CosineOf = Callable[[Tensor], Tensor]
"""From guessed inputs [G, n, ...] to the cosines [G] of what they would cause and the seen; once differentiable."""


def query_match(engine: Engine, problem: Problem, billboard: Params, seen: Params, labels: Tensor) -> CosineOf:
    """Guess a query set, with the billboard in place of the adapted parameters (equation 9 of the paper).

    Parameters
    ----------
    billboard : Params, each [...]
        What the server published.
    seen : Params, each [G, ...]
        What it received; only directions are used, so clipping hides nothing.
    labels : Tensor, int64 [G, n]
        Of the guessed inputs.
    """
    seen = _unit(billboard, seen)
    first_layer, quick = _shortcuts(engine, problem, billboard, seen)
    if first_layer is not None:
        return lambda inputs: first_layer.query_cosine(inputs, labels)
    if quick is not None:
        return quick.query(labels)
    params = {name: value.detach().requires_grad_() for name, value in broadcast(billboard, len(labels)).items()}

    def cosine(inputs: Tensor) -> Tensor:
        made, _ = task_gradients(engine, problem, params, full_batch(inputs, labels), create_graph=True)
        return alignment(made, seen)

    return cosine


def support_match(
    engine: Engine, problem: Problem, billboard: Params, seen: Params, labels: Tensor, query: Batch, inner: InnerLoop
) -> CosineOf:
    """Guess a support set by doing what the task does, for a server that knows the query set (equation 10).

    Parameters
    ----------
    billboard, seen, labels
        As for :func:`query_match`.
    query : Batch
        Query sets [G, q, ...].
    inner : InnerLoop
        How tasks adapt.
    """
    seen = _unit(billboard, seen)
    if inner.steps == 1 and query.marks.padding is None:
        first_layer, quick = _shortcuts(engine, problem, billboard, seen)
        if first_layer is not None:
            return lambda inputs: first_layer.support_cosine(inputs, labels, query, inner)
        if quick is not None:
            return quick.support(labels, query, inner)
    params = broadcast(billboard, len(labels))

    def cosine(inputs: Tensor) -> Tensor:
        support = full_batch(inputs, labels)
        made = meta_gradient(engine, problem, params, support, query, inner, create_graph=True)
        return alignment(made.gradient, seen)

    return cosine


def full_batch(inputs: Tensor, labels: Tensor) -> Batch:
    """Return examples [G, n, ...] without padding as a batch."""
    return Batch(inputs, labels, Marks(torch.ones(labels.shape[:2], dtype=inputs.dtype), full=True))


def alignment(left: Params, right: Params) -> Tensor:
    """Return the cosine of the angle between two trees of gradients, per game, [G]; over the arrays of ``right``."""
    left = {name: left[name] for name in right}
    return _inner(left, right) / (_inner(left, left) * _inner(right, right)).sqrt().clamp_min(1e-12)


def refuse_unusable(seen: Params) -> None:
    """Refuse gradients that are not finite, or all zero: they say nothing about anybody's data.

    Raises
    ------
    InputError
        Says how many there are, and which is the first.
    """
    finite = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in seen.values()]).all(dim=0)
    if not bool(finite.all()):
        count, first = int((~finite).sum()), int(torch.nonzero(~finite)[0])
        raise InputError(
            f"{count} of {len(finite)} recorded gradients hold NaN or infinite values (the first is number {first}); "
            "leave them out: the server counted them as zero."
        )
    silent = torch.stack([(value.flatten(1) == 0).all(dim=1) for value in seen.values()]).all(dim=0)
    if bool(silent.any()):
        raise InputError(
            f"{int(silent.sum())} of {len(silent)} recorded gradients are all zero (the first is number "
            f"{int(torch.nonzero(silent)[0])}); leave them out, they point nowhere."
        )


def _unit(billboard: Params, seen: Params) -> Params:
    """Return the rows of seen gradients at length 1, all arrays together; refuse what cannot be compared."""
    for name in seen:
        if name not in billboard:
            raise InputError(unknown("array in the recorded gradients", name, billboard))
    refuse_unusable(seen)
    largest = torch.stack([value.abs().flatten(1).amax(dim=1) for value in seen.values()]).amax(dim=0)
    rows = {name: value / per_task(largest, value) for name, value in seen.items()}
    length = _inner(rows, rows).sqrt()
    return {name: value / per_task(length, value) for name, value in rows.items()}


def _shortcuts(
    engine: Engine, problem: Problem, billboard: Params, seen: Params
) -> tuple[FirstLayer | None, QuickCosines | None]:
    """Return the ways around whole gradients that a model allows; the second is for the engine that knows patches."""
    if type(problem) is not Problem:  # its loss may be another one
        return None, None
    first_layer = FirstLayer.of(problem, billboard, seen)
    if first_layer is not None or type(engine) is not ProductEngine:
        return first_layer, None
    return None, QuickCosines.of(problem, billboard, seen)


def _inner(left: Params, right: Params) -> Tensor:
    return torch.stack([torch.linalg.vecdot(left[name].flatten(1), right[name].flatten(1)) for name in right]).sum(
        dim=0
    )
