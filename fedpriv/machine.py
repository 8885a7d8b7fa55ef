"""What of the machine this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(system: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy: those that it may run on, and no more than its quota pays for.

    At least 1; a part of a core counts as a core. A container with two of 128 cores often sees all of them: its quota
    is in the files of its control group, in ``proc`` and ``sys`` below ``system``.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [share for share in _shares(system) if share > 0]
    return max(1, min([cores, *map(math.ceil, shares)]))


def _shares(system: Path) -> Iterator[float]:
    """Yield the quotas of the process's control group and of all groups around it, in cores."""
    with suppress(OSError, ValueError):
        for line in (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                yield from _limits(system / "sys/fs/cgroup", path, "cpu.max")
            elif "cpu" in controllers.split(","):
                for name in (controllers, "cpu"):
                    yield from _limits(system / "sys/fs/cgroup" / name, path, "cpu.cfs_quota_us")


def _limits(root: Path, path: str, name: str) -> Iterator[float]:
    """Yield what limits a group or one around it; in a container the path may lead to where the container is not."""
    inner = Path(path.strip("/"))
    for group in (root / inner, *(root / outer for outer in inner.parents)):
        with suppress(OSError, ValueError):
            quota, *period = (group / name).read_text(encoding="utf-8").split()
            if not period:  # version 1 has a file for each of both
                period = [(group / "cpu.cfs_period_us").read_text(encoding="utf-8")]
            if quota != "max":
                yield float(quota) / float(period[0])
