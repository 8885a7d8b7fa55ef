"""How many tasks to work on at a time, found by trying.

Few tasks stay inside the processor's cache; many share the cost of a call. Which wins depends on the machine, so the
first tiles of a node try several sizes. A task's result does not depend on the tile it is in, not by a bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

__all__ = ["Tiles"]

_MEGABYTES = (1.0, 2.0, 0.5, 4.0)
_TRIALS = 5
"""How often each size is tried, in turn, after one trial that pays for what is set up once; the median counts."""


class Tiles:
    """Cuts cohorts into tiles of a size that it learns, per number of bytes of a task's weights.

    Attributes
    ----------
    megabytes : dict
        By bytes of a task's weights, the size that won.
    """

    def __init__(self) -> None:
        self.megabytes: dict[int, float] = {}
        self._times: dict[int, dict[float, list[float]]] = {}

    def cut(self, count: int, bytes_per_task: int, work: int) -> Iterator[slice]:
        """Yield tiles of ``count`` tasks, each to be worked on before the next one is asked for.

        Parameters
        ----------
        count : int
            Number of tasks.
        bytes_per_task : int
            Of its weights.
        work : int
            What one task does, in any unit: trials are compared by time per work.
        """
        first = 0
        while first < count:
            megabytes = self.megabytes.get(bytes_per_task) or self._next(bytes_per_task)
            size = max(1, int(megabytes * 2**20 / max(bytes_per_task, 1)))
            last = min(first + size, count)
            started = time.perf_counter()
            yield slice(first, last)
            if bytes_per_task not in self.megabytes and last - first == size:
                passed = (time.perf_counter() - started) / (size * max(work, 1))
                self._times[bytes_per_task][megabytes].append(passed)
            first = last

    def _next(self, bytes_per_task: int) -> float:
        times = self._times.setdefault(bytes_per_task, {size: [] for size in _MEGABYTES})
        for trial in range(_TRIALS + 1):
            for size, found in times.items():
                if len(found) <= trial:
                    return size
        self.megabytes[bytes_per_task] = min(times, key=lambda size: median(times[size][1:]))
        return self.megabytes[bytes_per_task]
