"""The error of every kind of model on the same test examples. Diagnostics of a simulation: nothing here is released."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedpriv.cohort import Batch, Cohort
from fedpriv.data import kept
from fedpriv.data.item_factors import Ratings, fit_levels
from fedpriv.experiment import Experiment
from fedpriv.lrs import baselines
from fedpriv.lrs.store import footprint
from fedpriv.summary import RunResult

__all__ = ["KINDS", "STARVED", "compare"]

STARVED = {"movielens": 100, "insteval": 22, "exam": 40, "chem97": 8}
"""A task with fewer examples (train, validation and test together) is data-starved: below the paper's bound for
MovieLens, and below about the median for the others."""

KINDS = {
    "amht": "AMHT-LRS",
    "single": "single model",
    "prompt": "prompt (offset)",
    "prompt_shrunk": "prompt, shrunk",
    "representation": "representation, rank 1",
    "representation_wide": "representation, rank 5",
    "full": "full fine-tuning, least norm",
    "ridge": "full fine-tuning, ridge",
    "tuned": "full fine-tuning, ridge to the single model",
    "sparse": "sparse only",
    "bias": "task and item bias",
}
_RIDGES = (1.0, 2.0, 4.0)
_PROMPTS = (1.0, 3.0, 10.0, 30.0)
_WIDE_RANK = 5


def compare(experiment: Experiment, result: RunResult) -> dict[str, Any]:
    """Compare a run's personal models with models that were fitted to the same training examples in one place.

    What simpler models have to choose (how much is shrunk) the validation examples of all tasks decide; the run's own
    settings were fixed before.

    Returns
    -------
    dict
        ``rmse``, ``starved`` and ``rich``: by kind of model (:data:`KINDS`) the root of the mean squared error over
        test examples; empty where there are no such tasks. ``own``: a task's own numbers by kind. ``store``: what the
        models take in their file, and to be asked.
    """
    tasks, client = experiment.data, experiment.client
    everybody = Cohort(tasks, np.arange(len(tasks)), torch.float64)
    train, validation, test = (everybody.part(name).cleared() for name in ("train", "validation", "test"))
    sizes = sum(tasks.part(name).sizes for name in ("train", "validation", "test"))
    name = tasks.dataset.partition("/")[0].partition("-")[0].partition(",")[0]
    starved = np.asarray(sizes) < STARVED.get(name, int(np.median(np.asarray(sizes))))
    sparsity = int(getattr(client, "sparsity", 0))
    same = (tasks.fingerprint, *(float(part.inputs.sum()) for part in (train, validation, test)))
    squares: dict[str, NDArray[np.float64]] = dict(
        kept(("simpler models", *same), lambda: _simpler(train, validation, test))
    )
    squares["sparse"] = kept(("sparse models", *same, sparsity), lambda: _sparse(train, validation, test, sparsity))
    # The loss is half the squared error. Nodes with a policy may keep their scores to themselves.
    losses = result.scores.get("personal.loss", np.empty(0))
    if len(losses):
        squares["amht"] = 2 * losses * tasks.test.sizes
    if tasks.dataset.startswith(("movielens", "insteval")):
        squares["bias"] = _biases(everybody)
    counts = tasks.test.sizes

    def errors(chosen: NDArray[np.bool_]) -> dict[str, float]:
        some = int(counts[chosen].sum())
        return {kind: float(np.sqrt(one[chosen].sum() / some)) for kind, one in squares.items()} if some else {}

    dimension = train.inputs.shape[2]
    rank = next(iter(result.billboards.values()))["factors"].shape[1]
    weights = 0 if getattr(client, "coefficients", "free") == "one" else rank
    own = {"amht": weights + sparsity, "single": 0, "prompt": 1, "prompt_shrunk": 1, "representation": 1}
    own |= {
        "representation_wide": _WIDE_RANK,
        "sparse": sparsity,
        **dict.fromkeys(("full", "ridge", "tuned"), dimension),
    }
    return {
        "rmse": errors(np.ones(len(tasks), dtype=bool)),
        "starved": errors(starved),
        "rich": errors(~starved),
        "own": own,
        "store": footprint(len(tasks), dimension, rank, sparsity),
        "tasks": {"starved": int(starved.sum()), "rich": int((~starved).sum())},
        "released": False,
    }


def _squared(theta: torch.Tensor, on: Batch, offset: torch.Tensor | None = None) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.square(baselines.rmse(theta, on.inputs, on.targets, on.sizes, offset))
    total: NDArray[np.float64] = np.nan_to_num(found) * on.sizes.numpy()
    return total


def _sparse(train: Batch, validation: Batch, test: Batch, sparsity: int) -> NDArray[np.float64]:
    """Return each task's sum of squared test errors with a sparse model alone; 5 changes of the support."""
    fits = [baselines.sparse_only(train.inputs, train.targets, sparsity, 5, ridge) for ridge in _RIDGES]
    return _squared(baselines.best(fits, (validation.inputs, validation.targets)), test)


def _simpler(train: Batch, validation: Batch, test: Batch) -> Mapping[str, NDArray[np.float64]]:
    """Return each task's sum of squared test errors by kind of simpler model."""
    inputs, targets, counts = train.inputs, train.targets, train.sizes
    held = validation.inputs, validation.targets
    dimension = inputs.shape[2]

    single = baselines.single(inputs, targets)
    prompts = [baselines.offsets(inputs, targets, counts, ridge) for ridge in (0.0, *_PROMPTS)]
    chosen = min(prompts[1:], key=lambda one: float(_squared(one[0], validation, one[1]).sum()))
    rng = np.random.default_rng(0)
    fits = {
        "single": single,
        "full": baselines.full(inputs, targets),
        "ridge": baselines.shrunk(inputs, targets, held),
        "tuned": baselines.shrunk(inputs, targets, held, towards=single),
    }
    for kind, rank in (("representation", 1), ("representation_wide", min(_WIDE_RANK, dimension))):
        start = np.linalg.qr(rng.standard_normal((dimension, rank)))[0]
        fits[kind] = baselines.representation(inputs, targets, counts, start, iterations=10)
    found = {kind: _squared(theta, test) for kind, theta in fits.items()}
    return found | {
        kind: _squared(theta, test, offset)
        for kind, (theta, offset) in (("prompt", prompts[0]), ("prompt_shrunk", chosen))
    }


def _biases(everybody: Cohort) -> NDArray[np.float64]:
    """Return each task's squared test errors with a level per task and one per item, fitted on all training examples.

    Items are told apart by their features: equal ones were rated by nobody public, and share a level.
    """
    parts = [everybody.tasks.part(name) for name in ("train", "test")]
    rows = np.concatenate([part.inputs for part in parts])
    _, item = np.unique(rows.round(9), axis=0, return_inverse=True)
    tasks = [np.repeat(np.arange(len(part)), part.sizes) for part in parts]
    seen, count = len(parts[0].targets), len(everybody)
    here, there = item.reshape(-1)[:seen], item.reshape(-1)[seen:]
    mean, own, level = fit_levels(Ratings(tasks[0], here, parts[0].targets), count, int(item.max()) + 1, 10)
    errors = parts[1].targets - mean - own[tasks[1]] - level[there]
    found: NDArray[np.float64] = np.bincount(tasks[1], errors**2, count).astype(np.float64)
    return found
