"""The error of every kind of model on the same test examples. Diagnostics of a simulation: nothing here is released."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedpriv.cohort import Cohort
from fedpriv.experiment import Experiment
from fedpriv.lrs import baselines
from fedpriv.lrs.store import footprint
from fedpriv.summary import RunResult

__all__ = ["compare", "own_errors"]

FAILED_SHARE = 0.1
"""A task failed if its error is above this share of the root mean square of all tasks' test targets."""


def compare(experiment: Experiment, result: RunResult) -> dict[str, Any]:
    """Compare a run's personal models with models that were fitted to the same training examples in one place.

    Returns
    -------
    dict
        ``rmse``: per kind of model, the root of the squared error averaged over tasks. For the run itself (``amht``)
        also ``median`` of the tasks' errors, how many ``failed``, and the error ``without_failed`` unless all
        did. ``store``: what the models take in their file, and to be asked.
    """
    tasks, client = experiment.data, experiment.client
    everybody = Cohort(tasks, np.arange(len(tasks)), torch.float64)
    train, validation, test = (everybody.part(name).cleared() for name in ("train", "validation", "test"))
    counts = train.sizes
    billboard = next(iter(result.billboards.values()))
    rank, sparsity = billboard["factors"].shape[1], getattr(client, "sparsity", 0)
    start = np.linalg.qr(np.random.default_rng(experiment.seed).standard_normal((train.inputs.shape[2], rank)))[0]

    def score(theta: torch.Tensor, offset: torch.Tensor | None = None) -> float:
        return _together(baselines.rmse(theta, test.inputs, test.targets, test.sizes, offset))

    shared, level = baselines.offsets(train.inputs, train.targets, counts)
    return {
        "rmse": {
            **own_errors(experiment, result),
            "single": score(baselines.single(train.inputs, train.targets)),
            "offset": score(shared, level),
            "representation": score(baselines.representation(train.inputs, train.targets, counts, start)),
            "full": score(baselines.full(train.inputs, train.targets)),
            "ridge": score(baselines.ridge(train.inputs, train.targets, (validation.inputs, validation.targets))),
            "sparse": score(baselines.sparse_only(train.inputs, train.targets, sparsity)),
            "released": False,
        },
        "store": {**footprint(len(tasks), train.inputs.shape[2], rank, sparsity), "released": False},
    }


def own_errors(experiment: Experiment, result: RunResult) -> dict[str, float]:
    """Return the error of a run's own models: ``amht``, ``median``, ``failed`` and ``without_failed``."""
    # The loss is half the squared error. Nodes with a policy may keep their scores to themselves.
    own = np.sqrt(2 * result.scores.get("personal.loss", np.empty(0)))
    if not len(own):
        return {}
    failed = ~(own <= FAILED_SHARE * float(np.sqrt(np.square(experiment.data.test.targets).mean())))
    found = {"amht": _together(own), "failed": int(failed.sum()), "median": float(np.median(own))}
    return found if failed.all() else found | {"without_failed": _together(own[~failed])}


def _together(errors: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))
