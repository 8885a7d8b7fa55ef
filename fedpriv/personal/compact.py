"""The personal models of a finished low-rank-plus-sparse run, for one compact file (`fedpriv models`).

A task's last fit follows from the last billboard and its own data, so it is made here once more and stays where the
data are: nothing is released. In Python::

    from fedpriv.lrs.store import PersonalModels

    models = PersonalModels.open(Path("models.safetensors"))
    models.predict(tasks, inputs)     # tasks [n] by their place in the population, inputs [n, d]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.lrs.store import PersonalModels

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment

__all__ = ["personal_models"]

_TASKS_AT_A_TIME = 4096


def personal_models(experiment: Experiment, billboard: Mapping[str, NDArray[Any]]) -> PersonalModels:
    """Fit every task to a billboard once more, as the end of a run does.

    Parameters
    ----------
    experiment : Experiment
        With a client that fits low-rank-plus-sparse models anew each time.
    billboard : mapping of str to ndarray
        The last one of a run (``RunResult.billboards``).

    Raises
    ------
    InputError
        The client makes other models, or goes on from the rounds before, which are gone.
    """
    import torch

    from fedpriv.clients import LowRankSparse
    from fedpriv.cohort import Cohort, Key, Learner, Purpose, engine_named, usable

    client = experiment.client
    if not isinstance(client, LowRankSparse):
        raise InputError(
            f"only low-rank-plus-sparse models have a compact file, and this run's client is {type(client).__name__}; "
            "its models are in the run folder's checkpoints."
        )
    if client.updates_use_state:
        raise InputError(
            f"{type(client).__name__} goes on from the rounds before, which a finished run does not keep; use the "
            "client 'low-rank-sparse', which fits anew."
        )
    public = {name: torch.from_numpy(np.asarray(value)) for name, value in billboard.items()}
    learner = Learner(experiment.problem(), engine_named(experiment.engine))
    pieces = []
    tasks = usable(experiment.data, torch.float64).tasks
    for start in range(0, len(experiment.tasks), _TASKS_AT_A_TIME):
        some = np.arange(start, min(start + _TASKS_AT_A_TIME, len(experiment.tasks)))
        cohort = Cohort(tasks, some, torch.float64)
        key = Key(experiment.seed, 0, Purpose.FINISH)
        pieces.append(client.finish(learner, public, client.initial_state(public, cohort), cohort, key))
    own = {
        name: np.concatenate([piece[name].numpy() for piece in pieces]) for name in ("coefficients", "index", "values")
    }
    return PersonalModels(np.asarray(billboard["factors"]), **own)
