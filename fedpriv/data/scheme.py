"""What every partition scheme is: settings that give each task its examples and its name."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.names import kebab
from fedpriv.randomness import generator
from fedpriv.settings import Settings

__all__ = ["Assignment", "Pool", "Scheme", "shuffled"]


@dataclass(frozen=True)
class Pool:
    """What a scheme sees of a data set: labels [N], number of classes, natural ids [N] or None."""

    name: str
    labels: NDArray[np.int64]
    num_classes: int
    natural_ids: NDArray[Any] | None
    natural_unit: str


@dataclass(frozen=True)
class Assignment:
    """Positions in the pool and a stable name for every task."""

    indices: list[NDArray[np.int64]]
    names: list[str]


class Scheme(Settings):
    """Base of all schemes."""

    def assign(self, pool: Pool, tasks: int | None, seed: int) -> Assignment:
        """Give every task its examples.

        Parameters
        ----------
        pool : Pool
            The data set's labels and ids.
        tasks : int or None
            How many tasks, from 1 to the number of examples.
        seed : int
            The partition depends on the pool, the settings, ``tasks``, and this.

        Raises
        ------
        InputError
            The number of tasks is missing or does not fit, or the partition cannot be made.
        """
        if tasks is None:
            raise InputError(f"the scheme {self.name!r} needs the number of tasks; give it, for example tasks=100.")
        if tasks > len(pool.labels):
            raise InputError(
                f"tasks must be at most the number of examples of {pool.name!r} ({len(pool.labels)}), got {tasks}."
            )
        label = self.label(seed)
        return Assignment(
            self.draw(pool, tasks, seed), [f"{pool.name}/{label}/{number:05d}" for number in range(tasks)]
        )

    @abstractmethod
    def draw(self, pool: Pool, tasks: int, seed: int) -> list[NDArray[np.int64]]:
        """Return the positions of every task's examples."""

    @property
    def name(self) -> str:
        """The name users type."""
        return kebab(type(self).__name__)

    def label(self, seed: int) -> str:
        """Return the scheme with all settings off their defaults: ``dirichlet(alpha=0.3,seed=0)``."""
        changed = [
            f"{field}={value:g}" if isinstance(value, float) else f"{field}={value}"
            for field, value in self
            if value != type(self).model_fields[field].default
        ]
        return f"{self.name}({','.join([*changed, f'seed={seed}'])})"


def shuffled(pool: Pool, seed: int) -> NDArray[np.int64]:
    """Return all positions in random order, so that no partition depends on the order of a file."""
    return generator(seed, "data/order").permutation(len(pool.labels)).astype(np.int64)
