"""What a run starts with: all that needs no private data, done before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedpriv.cohort import Problem, Sharing, engine_named, probe
from fedpriv.effort import GridChoice, choose_grid, seconds_of_training
from fedpriv.errors import InputError
from fedpriv.experiment.metrics import fitted
from fedpriv.machine import usable_cores
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.privacy.target import check_delta
from fedpriv.progress import phase
from fedpriv.roster import Roster
from fedpriv.strategies.base import TaskStrategy

if TYPE_CHECKING:
    from fedpriv.experiment.specification import Experiment

__all__ = ["PreparedRun", "prepare"]


@dataclass(frozen=True)
class PreparedRun:
    """What a run starts with."""

    strategy: TaskStrategy  # with the population's public groups
    resolved: ResolvedPlan  # noise, releases, guarantees
    problem: Problem  # model and loss, which worked on made-up examples
    sharing: Sharing  # what of the model is shared
    choice: GridChoice  # which grid, and why


def prepare(experiment: Experiment, *, reproduced: bool, started: bool = False) -> PreparedRun:
    """Fit the strategy to the population, calibrate, do a dry run on made-up tasks, and choose the grid.

    ``reproduced`` says whether noise and coins shall come from a number, ``started`` whether Ray runs already.

    Raises
    ------
    InputError
        Something does not fit.
    """
    if reproduced and experiment.declared == "protected":
        raise InputError(
            "noise that comes from a number protects nobody, and these data are declared protected; leave out "
            "reproduce, or declare the data a benchmark if they are public."
        )
    check_delta(experiment.delta, len(experiment.tasks))
    strategy = experiment.grouped()
    with phase("calibration of the noise"):
        resolved = strategy.resolve(len(experiment.tasks))
    problem = experiment.problem()
    sharing = Sharing.of(experiment.client, problem)
    strategy.check_arrays(list(sharing.billboard))
    experiment.client.check(problem, experiment.tasks)
    fitted(experiment.metrics, problem, experiment.tasks)
    work = probe(experiment.client, problem, engine_named(experiment.engine), experiment.tasks)
    started = started or experiment.address is not None
    choice = _choose_grid(experiment, problem, *work, started=started)
    return PreparedRun(strategy, resolved, problem, sharing, choice)


def _choose_grid(
    experiment: Experiment, problem: Problem, training: float, finishing: float, *, started: bool
) -> GridChoice:
    """Choose by so many gradient evaluations for each example, in a participation and in the final fit."""
    if experiment.grid != "auto" or isinstance(experiment.tasks, Roster):
        return GridChoice(experiment.grid, "run.grid says so")
    if started:
        return GridChoice("ray", "it runs already")
    participations = experiment.strategy.rounds * experiment.strategy.sampling_rate
    evaluations = len(experiment.data.train.inputs) * (participations * training + finishing)
    dtype = problem.dtype if experiment.tasks.input_dtype.startswith("float") else torch.int64
    like = torch.zeros(1, *experiment.tasks.input_shape, dtype=dtype)
    total = evaluations * (2 if experiment.baseline else 1)
    return choose_grid(seconds_of_training(problem, like, total, experiment.engine), usable_cores())
