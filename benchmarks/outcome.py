"""What a side measured, and the CPU time of all its processes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Outcome", "cpu_seconds", "descendants"]


def descendants(root: int | None = None) -> dict[int, int]:
    """Return the clock ticks of a process (this one) and of all that descend from it, by process id (Linux)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        number = int(entry.parent.name)
        parents[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    mine = {os.getpid() if root is None else root}
    while more := {number for number, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return {number: ticks[number] for number in mine}


def cpu_seconds(root: int | None = None) -> float:
    """CPU time so far of a process (this one) and all that descend from it: the driver, Ray and its actors (Linux)."""
    return sum(descendants(root).values()) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Outcome:
    """What one side measured."""

    # Of each measured round, from asking the tasks to the noisy step (fedpriv and Flower: to the charged release).
    seconds: list[float]
    tasks: int  # trained in each measured round
    cpu_seconds: float  # of all processes of the side, over the measured rounds: what a busy machine does not blur

    @property
    def tasks_per_second(self) -> float:
        return self.tasks * len(self.seconds) / sum(self.seconds)

    @property
    def tasks_per_cpu_second(self) -> float:
        # A clock tick is the least that the system counts.
        return self.tasks * len(self.seconds) / max(self.cpu_seconds, 0.01)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Outcome:
        return cls(**json.loads(path.read_text(encoding="utf-8")))
