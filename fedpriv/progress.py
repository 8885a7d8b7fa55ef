"""What is at work, on stderr: bars on a terminal; elsewhere a line for each tenth of what takes longer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, Protocol

__all__ = ["Progress", "phase", "progress_shown", "show_part"]

_QUIET_SECONDS = 5.0
"""Seconds that work may take without a line."""

_MAX_SECONDS_BETWEEN_LINES = 60.0
"""Seconds between two lines at most, where tenths take longer or nothing is known of them."""


class _Display(Protocol):
    """Where work is shown."""

    def update(self, what: str, unit: str, done: int, total: int | None) -> None:
        """Show how far some work is; a total of None is not known."""

    def end(self, what: str) -> None:
        """Show some work no longer."""

    def close(self) -> None:
        """Show nothing any more."""


class Lines:
    """A line for each tenth of work that takes longer than five seconds, and one a minute where nothing else is said.

    Parameters
    ----------
    write : callable
        Takes a line.
    clock : callable
        Seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._work: dict[str, _Work] = {}
        self._lock = Lock()
        self._closed = Event()
        self._thread: Thread | None = None

    def update(self, what: str, unit: str, done: int, total: int | None) -> None:
        """Show how far some work is."""
        with self._lock:
            now = self._clock()
            work = self._work.setdefault(what, _Work(now))
            fresh = work.tenths(done, total)
            work.unit, work.done, work.total = unit, done, total
            if fresh and now - work.began >= _QUIET_SECONDS:
                self._say(what, work, now)
            if self._thread is None:
                self._thread = Thread(target=self._watch, daemon=True)
                self._thread.start()

    def end(self, what: str) -> None:
        """Show some work no longer; say how long it took if it was spoken of."""
        with self._lock:
            work = self._work.pop(what, None)
            if work is not None and work.said is not None and not work.finished:
                self._write(f"{what}: done after {self._clock() - work.began:.0f} s")

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Print a line for work that has printed none for too long."""
        with self._lock:
            now = self._clock()
            for what, work in self._work.items():
                silent = now - (work.began if work.said is None else work.said)
                if not work.finished and silent >= (
                    _QUIET_SECONDS if work.said is None else _MAX_SECONDS_BETWEEN_LINES
                ):
                    self._say(what, work, now)

    def _watch(self) -> None:
        while not self._closed.wait(1.0):
            self.look()

    def _say(self, what: str, work: _Work, now: float) -> None:
        work.said = now
        known = work.total is not None and work.total > 0
        far = f"{work.done} of {work.total} {work.unit}" if known else f"{work.done} {work.unit}" if work.done else ""
        after = f"after {now - work.began:.0f} s"
        self._write(f"{what}: {far}, {after}" if far else f"{what}: at work, {after}")


@dataclass
class _Work:
    began: float
    said: float | None = None
    unit: str = ""
    done: int = 0
    total: int | None = None

    @property
    def finished(self) -> bool:
        return self.total is not None and self.done >= self.total

    def tenths(self, done: int, total: int | None) -> bool:
        """Tell whether a tenth is complete that was not before."""
        return total is not None and total > 0 and done * 10 // total > self.done * 10 // total


class _Bars:
    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[far]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._numbers: dict[str, Any] = {}
        self._bars.start()

    def update(self, what: str, unit: str, done: int, total: int | None) -> None:
        """Show how far some work is."""
        if what not in self._numbers:
            self._numbers[what] = self._bars.add_task(what, total=None, far="")
        far = f"{done}/{total} {unit}" if total else f"{done} {unit}" if done else ""
        self._bars.update(self._numbers[what], completed=done, total=total, far=far, refresh=not done)

    def end(self, what: str) -> None:
        """Take a bar away."""
        number = self._numbers.pop(what, None)
        if number is not None:
            self._bars.remove_task(number)

    def close(self) -> None:
        """Leave the terminal as it is."""
        for what in list(self._numbers):
            if what not in (_TRAINING, _SWEEP):
                self.end(what)
        self._bars.stop()


_TRAINING, _SWEEP = "training", "sweep"


class Progress:
    """What is at work, shown on stderr: bars on a terminal, lines elsewhere.

    Parameters
    ----------
    quiet : bool
        Show nothing, whatever stderr is.
    runs : int or None
        Number of runs; None for one run, which needs no bar for runs.
    """

    def __init__(self, *, quiet: bool, runs: int | None = None) -> None:
        self._quiet, self._total = quiet, runs
        self._shown: _Display | None = None
        self._what, self._unit = _TRAINING, "rounds"
        self._token: Token[Progress | None] | None = None

    def __enter__(self) -> Progress:
        if not self._quiet:
            self._shown = _on_stderr()
        self._token = _SHOWN.set(self)
        if self._total is not None:
            self.finished(0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _SHOWN.reset(self._token)
        if self._shown is not None:
            self._shown.close()
            self._shown = None

    def __call__(self, done: int, total: int | None) -> None:
        """Show the rounds of the run at work; of all runs, in an unknown number, where several are."""
        self._update(self._what, self._unit, done, total)

    def begin(self, what: str) -> None:
        """Show which run is at work."""
        if self._shown is not None:
            self._shown.end(self._what)
        self._what = what
        self._update(what, self._unit, 0, None)

    def finished(self, runs: int) -> None:
        """Show how many runs are done."""
        if self._total is not None:
            self._update(_SWEEP, "runs", runs, self._total)

    def part(self, what: str, unit: str, done: int, total: int | None) -> None:
        """Show work inside a round or beside the rounds, as long as it lasts."""
        self._update(what, unit, done, total)
        if total is not None and done >= total:
            self.end(what)

    def end(self, what: str) -> None:
        """Show some work no longer."""
        if self._shown is not None:
            self._shown.end(what)

    def _update(self, what: str, unit: str, done: int, total: int | None) -> None:
        if self._shown is not None:
            self._shown.update(what, unit, done, total)


def _on_stderr() -> _Display:
    from rich.console import Console

    console = Console(stderr=True)
    return _Bars(console) if console.is_terminal else Lines(_write_line)


def _write_line(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads it any more
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


_SHOWN: ContextVar[Progress | None] = ContextVar("progress", default=None)


def progress_shown() -> Progress | None:
    """Return what shows the work of this thread, if anything does."""
    return _SHOWN.get()


def show_part(what: str, unit: str, done: int, total: int) -> None:
    """Show work inside a round where work is shown; elsewhere show nothing."""
    shown = _SHOWN.get()
    if shown is not None:
        shown.part(what, unit, done, total)


@contextmanager
def phase(what: str) -> Iterator[None]:
    """Show work of unknown length, as long as the block lasts, where work is shown."""
    shown = _SHOWN.get()
    if shown is None:
        yield
        return
    shown.part(what, "", 0, None)
    try:
        yield
    finally:
        shown.end(what)
