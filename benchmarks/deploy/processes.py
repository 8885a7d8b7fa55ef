"""CPU seconds and memory by kind of process, of everything that a side started (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KINDS", "Use", "kind_of", "uses"]

KINDS: tuple[tuple[str, str], ...] = (
    ("fedpriv.deploy.worker_process", "our worker"),
    ("fedpriv.deploy.front", "our front"),
    ("deploy node", "our supervisor"),
    ("deploy serve", "our supervisor"),
    ("deploy run", "server's part of the run"),
    ("flwr-serverapp", "server's part of the run"),
    ("flower-superlink", "SuperLink"),
    ("flower-supernode", "SuperNode"),
    ("flower-superexec", "superexec"),
    ("flwr-clientapp", "process per message"),
)
"""What a command line holds, and what such a process is called here; the first that fits."""


@dataclass(frozen=True)
class Use:
    """Of all processes of one kind: CPU seconds of their own and of children that ended, and resident MiB."""

    own: float = 0.0
    ended: float = 0.0
    mebibytes: float = 0.0
    count: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(
            self.own + other.own, self.ended + other.ended, self.mebibytes + other.mebibytes, self.count + other.count
        )


def kind_of(command: str) -> str:
    """Return the kind of a process by its command line."""
    return next((kind for word, kind in KINDS if word in command), "other")


def uses(roots: Iterable[int]) -> dict[str, Use]:
    """Return by kind what processes, and all that descend from them, used so far."""
    parents: dict[int, int] = {}
    found: dict[int, Use] = {}
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE") / 2**20
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        number = int(entry.parent.name)
        parents[number] = int(fields[1])
        times = [int(field) / tick for field in fields[11:15]]
        found[number] = Use(times[0] + times[1], times[2] + times[3], int(fields[21]) * page, 1)
    mine = set(roots)
    while more := {number for number, parent in parents.items() if parent in mine} - mine:
        mine |= more
    kinds: dict[str, Use] = {}
    for number in mine & found.keys():
        try:
            command = Path(f"/proc/{number}/cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")
        except OSError:
            continue
        kind = kind_of(command)
        kinds[kind] = kinds.get(kind, Use()) + found[number]
    return kinds
