"""Model randomness keyed by seed, purpose, round and task.

Counter-based streams make results independent of how tasks are sharded, chunked or ordered. Only what may be public
is drawn here (initialisation, mini-batches); privacy noise and sampling coins live in :mod:`fedpriv.privacy.entropy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

__all__ = ["Key", "Purpose"]

_WORD = 2**64


class Purpose(IntEnum):
    """What a stream is for; two purposes never share numbers."""

    TRAIN = 1
    FINISH = 2
    LOCAL_ONLY = 3
    MODEL = 4
    EPISODE = 5


@dataclass(frozen=True)
class Key:
    """The key of a random stream: a seed, a purpose and a round; the task completes it.

    Attributes
    ----------
    seed : int
        The run's public seed.
    round : int
        The training round, 0 outside training.
    purpose : Purpose
        What the numbers are for.
    """

    seed: int
    round: int = 0
    purpose: Purpose = Purpose.TRAIN

    def generator(self, task: int) -> np.random.Generator:
        """Return the generator of one task; equal keys give equal numbers on every machine."""
        return next(self.generators([task]))

    def generators(self, tasks: Iterable[int]) -> Iterator[np.random.Generator]:
        """Yield the generator of each task: one object, set to the next task's stream when the next one is asked for.

        Making a generator takes ten times as long as moving one.
        """
        counter = np.array([0, 0, self.round, 0], dtype=np.uint64)
        bits = np.random.Philox(key=np.array([self.seed % _WORD, int(self.purpose)], dtype=np.uint64), counter=counter)
        generator, start = np.random.Generator(bits), bits.state
        for task in tasks:
            start["state"]["counter"][3] = task
            bits.state = start
            yield generator
