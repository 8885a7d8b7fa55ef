"""Synthetic linear-regression tasks, strongly convex with known optima: to test convergence against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedpriv.data.dataset import Partition
from fedpriv.data.randomness import generator
from fedpriv.data.split import Fractions, split_sizes
from fedpriv.settings import Settings

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Tasks

__all__ = ["RegressionTasks", "regression_optima", "regression_tasks"]


class RegressionTasks(Settings):
    """Settings of the generator: see :func:`regression_tasks`."""

    tasks: int = Field(ge=1)
    dimension: int = Field(ge=1)
    examples: int = Field(default=40, ge=4)
    heterogeneity: float = Field(default=0.5, ge=0)
    noise: float = Field(default=0.1, ge=0)
    seed: int = Field(default=0, ge=0)


def regression_tasks(
    *,
    tasks: int,
    dimension: int,
    examples: int = 40,
    heterogeneity: float = 0.5,
    noise: float = 0.1,
    seed: int = 0,
    fractions: Fractions = (0.6, 0.2, 0.2),
) -> Tasks:
    """Generate linear-regression tasks whose optima lie around a common one.

    With ``theta`` of :func:`regression_optima`, an example of task k is ``x ~ N(0, I)`` and
    ``y = <x, theta_k> + noise * N(0, 1)``. The mean squared loss of a task is strongly convex once it has
    ``dimension`` training examples or more.

    Parameters
    ----------
    tasks, dimension, examples : int
        How many tasks, coordinates, and examples per task (at least 4, split by ``fractions``).
    heterogeneity : float
        tau: standard deviation, per coordinate, of a task's optimum around the common one.
    noise : float
        Standard deviation of the targets around their mean.
    seed : int
        Everything depends on it and on nothing else; task k is the same whatever the number of tasks.
    fractions : tuple of 3 floats
        Shares of train, validation and test.

    Returns
    -------
    Tasks
        Inputs float64 [N, dimension], targets float64 [N], ``num_classes`` None.

    Raises
    ------
    InputError
        A value out of bounds.
    """
    from fedpriv.cohort.tasks import Ragged, Tasks

    made = RegressionTasks(
        tasks=tasks,
        dimension=dimension,
        examples=examples,
        heterogeneity=heterogeneity,
        noise=noise,
        seed=seed,
    )
    shares = Partition(fractions=fractions).fractions
    optima = regression_optima(
        tasks=made.tasks, dimension=made.dimension, heterogeneity=made.heterogeneity, seed=made.seed
    )
    inputs = np.empty((made.tasks, made.examples, made.dimension))
    targets = np.empty((made.tasks, made.examples))
    for task, optimum in enumerate(optima):
        rng = generator(made.seed, "data/regression/examples", task)
        inputs[task] = rng.standard_normal((made.examples, made.dimension))
        targets[task] = inputs[task] @ optimum + made.noise * rng.standard_normal(made.examples)
    train, validation, _ = split_sizes(made.examples, shares)
    cuts = [train, train + validation]
    parts = list(map(Ragged.from_block, np.split(inputs, cuts, axis=1), np.split(targets, cuts, axis=1)))
    label = (
        f"regression(dimension={made.dimension},examples={made.examples},heterogeneity={made.heterogeneity:g},"
        f"noise={made.noise:g},seed={made.seed})"
    )
    return Tasks(
        dataset=label,
        names=tuple(f"{label}/{task:05d}" for task in range(made.tasks)),
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        num_classes=None,
        declared="benchmark",
    )


def regression_optima(*, tasks: int, dimension: int, heterogeneity: float = 0.5, seed: int = 0) -> NDArray[np.float64]:
    """Return the optima that :func:`regression_tasks` uses for the same arguments.

    ``theta ~ N(0, I / dimension)`` is common (norm about 1), and ``theta_k = theta + tau * N(0, I)``.

    Returns
    -------
    ndarray of float64, shape [tasks, dimension]
    """
    made = RegressionTasks(tasks=tasks, dimension=dimension, heterogeneity=heterogeneity, seed=seed)
    common = generator(made.seed, "data/regression/common").standard_normal(made.dimension) / math.sqrt(made.dimension)
    own = [
        generator(made.seed, "data/regression/optimum", task).standard_normal(made.dimension)
        for task in range(made.tasks)
    ]
    return common + made.heterogeneity * np.stack(own)
