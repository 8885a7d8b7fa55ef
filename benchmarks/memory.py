"""Memory that cannot be given back: what a process and all that descend from it hold beside pages of files (Linux)."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.outcome import descendants

__all__ = ["Watch", "unreclaimable"]


def unreclaimable() -> float:
    """Return GiB of anonymous memory of all processes, plus shared memory counted once."""
    anonymous, shared = 0, 0
    for number in descendants():
        try:
            lines = Path(f"/proc/{number}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue  # it ended meanwhile
        sizes = {
            key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if "Rss" in key
        }
        anonymous += sizes.get("RssAnon", 0)
        shared = max(shared, sizes.get("RssShmem", 0))  # every shard maps the same object store
    return (anonymous + shared) / 2**20


class Watch:
    """Looks every half second; ``peak`` is the largest value, in GiB."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            self.peak = max(self.peak, unreclaimable())
