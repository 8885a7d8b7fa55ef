"""The personal models of a finished low-rank-plus-sparse run as one compact file, and what serving from it takes.

A task's last fit follows from the last billboard and its own data, so it is made here once more and stays where the
data are: nothing is released. In Python::

    from fedpriv.lrs.store import PersonalModels

    models = PersonalModels.open(Path("models.safetensors"))
    models.predict(tasks, inputs)     # tasks [n] by their place in the population, inputs [n, d]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.lrs.store import PAIRS, PersonalModels, served
from fedpriv.progress import Progress, phase

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment

__all__ = ["export_models", "personal_models"]

_PIECE = 4096


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
    tasks = usable(experiment.tasks, torch.float64).tasks
    for start in range(0, len(experiment.tasks), _PIECE):
        some = np.arange(start, min(start + _PIECE, len(experiment.tasks)))
        cohort = Cohort(tasks, some, torch.float64)
        key = Key(experiment.seed, 0, Purpose.FINISH)
        pieces.append(client.finish(learner, public, client.initial_state(public, cohort), cohort, key))
    own = {
        name: np.concatenate([piece[name].numpy() for piece in pieces]) for name in ("coefficients", "index", "values")
    }
    return PersonalModels(np.asarray(billboard["factors"]), **own)


def export_models(run: Path, out: Path, *, dtype: str, data_dir: Path | None, as_json: bool) -> None:
    """Write a finished run's personal models to a file and say what it takes to keep and to ask them.

    Raises
    ------
    InputError
        The folder holds no finished run of such models, groups have billboards of their own, or the file cannot be
        written.
    """
    from fedpriv.config import build_experiment
    from fedpriv.runs.checkpoint import BoundaryStore
    from fedpriv.runs.folder import made_in_python, read_config

    config = read_config(run)
    if made_in_python(config):
        raise InputError(
            f"{run} was made in Python, so its data are not at hand here; there, "
            "fedpriv.personal.personal_models(experiment, billboard).save(path) writes the same file."
        )
    if not (run / "summary.json").exists():
        raise InputError(f"{run} is not finished; go on with `fedpriv run ... --out {run} --resume` first.")
    experiment = build_experiment(config, data_dir)
    boundaries = BoundaryStore(run / "checkpoints")
    billboards = boundaries.load(boundaries.rounds()[-1]).billboards
    if len(billboards) != 1:
        raise InputError(f"{run} has a billboard for each of {len(billboards)} groups; export a run without groups.")
    (billboard,) = billboards.values()
    with Progress(quiet=as_json), phase("personal models"):
        personal_models(experiment, billboard).save(out, dtype=dtype)
    found = {"file": str(out), "tasks": len(experiment.tasks), "file_bytes": out.stat().st_size, "released": False}
    found |= served(PersonalModels.open(out))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    sys.stdout.write(
        f"{found['tasks']:,} models of {found['numbers_per_task']} own numbers each: {found['bytes_per_task']} bytes "
        f"per task, {found['file_bytes']:,} in all; {found['microseconds_per_pair']:.2f} microseconds for a (task, x) "
        f"pair, {PAIRS:,} at a time. {out} belongs to its tasks: do not publish it.\n"
    )
