"""Synthetic linear-regression tasks, strongly convex with known optima: to test convergence against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedpriv.data.dataset import Partition
from fedpriv.randomness import generator
from fedpriv.settings import Settings
from fedpriv.split import Fractions, split_sizes

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Tasks

__all__ = ["RegressionTasks", "regression_optima", "regression_tasks"]


class RegressionTasks(Settings):
    """Linear-regression tasks whose optima lie around a common one.

    ``theta ~ N(0, I / dimension)`` is common (norm about 1), and ``theta_k = theta + tau * N(0, I)``. An example of
    task k is ``x ~ N(0, I)`` and ``y = <x, theta_k> + noise * N(0, 1)``. The mean squared loss of a task is strongly
    convex once it has ``dimension`` training examples or more.

    Attributes
    ----------
    tasks, dimension, examples : int
        How many tasks, coordinates, and examples per task.
    heterogeneity : float
        tau: standard deviation, per coordinate, of a task's optimum around the common one.
    noise : float
        Standard deviation of the targets around their mean.
    seed : int
        Everything depends on it and on nothing else; task k is the same whatever the number of tasks.
    """

    tasks: int = Field(ge=1)
    dimension: int = Field(ge=1)
    examples: int = Field(default=40, ge=4)
    heterogeneity: float = Field(default=0.5, ge=0)
    noise: float = Field(default=0.1, ge=0)
    seed: int = Field(default=0, ge=0)

    def optima(self) -> NDArray[np.float64]:
        """Return each task's optimum, float64 [tasks, dimension]."""
        draw = generator(self.seed, "data/regression/common")
        common = draw.standard_normal(self.dimension) / math.sqrt(self.dimension)
        own = [
            generator(self.seed, "data/regression/optimum", task).standard_normal(self.dimension)
            for task in range(self.tasks)
        ]
        return common + self.heterogeneity * np.stack(own)

    def make(self, fractions: Fractions = (0.6, 0.2, 0.2)) -> Tasks:
        """Generate the tasks: inputs float64 [N, dimension], targets float64 [N], ``num_classes`` None.

        Parameters
        ----------
        fractions : tuple of 3 floats
            Shares of train, validation and test.

        Raises
        ------
        InputError
            The shares do not sum to 1, or train or test gets none.
        """
        from fedpriv.cohort.tasks import Ragged, Tasks

        shares = Partition(fractions=fractions).fractions
        inputs = np.empty((self.tasks, self.examples, self.dimension))
        targets = np.empty((self.tasks, self.examples))
        for task, optimum in enumerate(self.optima()):
            rng = generator(self.seed, "data/regression/examples", task)
            inputs[task] = rng.standard_normal((self.examples, self.dimension))
            targets[task] = inputs[task] @ optimum + self.noise * rng.standard_normal(self.examples)
        train, validation, _ = split_sizes(self.examples, shares)
        cuts = [train, train + validation]
        parts = list(map(Ragged.from_block, np.split(inputs, cuts, axis=1), np.split(targets, cuts, axis=1)))
        label = (
            f"regression(dimension={self.dimension},examples={self.examples},heterogeneity={self.heterogeneity:g},"
            f"noise={self.noise:g},seed={self.seed})"
        )
        names = tuple(f"{label}/{task:05d}" for task in range(self.tasks))
        return Tasks(label, names, parts[0], parts[1], parts[2], num_classes=None, declared="benchmark")


def regression_tasks(*, fractions: Fractions = (0.6, 0.2, 0.2), **settings: Any) -> Tasks:
    """Generate tasks with the settings of :class:`RegressionTasks`, and split them by ``fractions``.

    Raises
    ------
    InputError
        A value out of bounds, or a setting that is unknown or missing.
    """
    return RegressionTasks(**settings).make(fractions)


def regression_optima(**settings: Any) -> NDArray[np.float64]:
    """Return the optima that :func:`regression_tasks` uses for the same settings, float64 [tasks, dimension]."""
    return RegressionTasks(**settings).optima()
