"""Noisy steps of an adaptation: plain noise on the gradient, or DP-SGD over the examples of a support set."""

from __future__ import annotations

import torch
from torch import Tensor

from fedpriv.cohort.cohort import Batch, Cohort, Marks
from fedpriv.cohort.descent import per_task
from fedpriv.cohort.inner_loop import Order
from fedpriv.cohort.learner import Learner
from fedpriv.cohort.meta import task_gradients
from fedpriv.cohort.randomness import Key
from fedpriv.cohort.trees import Params, zeros_like

__all__ = ["clipped_gradients", "private_gradients"]


def private_gradients(
    learner: Learner,
    params: Params,
    support: Batch,
    cohort: Cohort,
    key: Key,
    step: int,
    noise: float,
    clip: float | None,
    order: Order,
) -> Params:
    """Return every task's noisy support gradient [C, ...] for one step of its adaptation.

    Parameters
    ----------
    learner : Learner
        Problem, engine, and the source of the noise.
    params : Params, each [C, ...]
        Where to differentiate; in second order the result can be differentiated by them.
    support : Batch
        Support sets [C, s, ...].
    cohort, key : Cohort, Key
        Whose noise it is.
    step : int
        Number of the step: each has noise of its own.
    noise : float
        Standard deviation: on the mean gradient, or with ``clip`` on the sum of the clipped gradients, in clips.
    clip : float or None
        Largest norm of one example's gradient.
    order : {"second", "first"}
        Whether a graph is kept.
    """
    if clip is None:
        total, _ = task_gradients(learner.engine, learner.problem, params, support, create_graph=order == "second")
        scale = noise
    else:
        places = support.mask.shape[1]  # public: it follows from settings, not from who has fewer examples
        total = {name: value / places for name, value in clipped_gradients(learner, params, support, clip).items()}
        scale = noise * clip / places
    if not noise:
        return total
    return {name: learner.noisy(value, scale, f"maml step {step} {name}", cohort, key) for name, value in total.items()}


def clipped_gradients(learner: Learner, params: Params, batch: Batch, clip: float) -> Params:
    """Return the sum over examples of their gradients, each clipped to norm ``clip`` over all parameters, [C, ...].

    An example whose gradient is not finite counts as zero, as padding does.
    """
    total = zeros_like(params)
    for place in range(batch.mask.shape[1]):
        only = slice(place, place + 1)
        one = Batch(batch.inputs[:, only], batch.targets[:, only], Marks(batch.mask[:, only]))
        gradients, _ = task_gradients(learner.engine, learner.problem, params, one)
        norms = _norms(gradients)
        # A little less than the clip, for the rounding of float32 products.
        factor = torch.where(norms.isfinite(), (clip * (1 - 1e-6) / norms.clamp(min=1e-300)).clamp(max=1.0), 0.0)
        for name, value in gradients.items():
            scaled = torch.where(per_task(norms.isfinite(), value), value, 0.0)
            total[name] += scaled * per_task(factor.to(value.dtype), value)
    return total


def _norms(tree: Params) -> Tensor:
    """Return one norm per task over all arrays, float64 [C]."""
    squares = [value.double().reshape(len(value), -1).square().sum(dim=1) for value in tree.values()]
    return torch.stack(squares).sum(dim=0).sqrt()
