"""A limit on how long one task computes, for work whose time can depend on the task's data.

The work runs in a thread of its own, so that what never comes to an end is left behind: its result is thrown away, an
exception ends it at its next step in Python, and the tasks after it go on. What counts is the thread's own computing
time, so neither a busy machine nor a thread that was left behind makes other tasks late. A thread that sleeps instead
of computing is left behind after ten times as long.

A call that never returns and never lets go of Python's lock (a loop inside a C library) stops everything in its
process. Nothing in the process can end it; the server takes the node for late.
"""

from __future__ import annotations

import contextvars
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

__all__ = ["TaskTimeout", "TimeLimit"]

T = TypeVar("T")

_WALL_CLOCK_FACTOR = 10.0
"""How many times the limit a task may take by the clock on the wall: one that computes so little only waits."""
_MIN_POLL_SECONDS = 0.001
"""Seconds between two looks at a task's clock, at least."""


class TaskTimeout(Exception):
    """A task computed longer than it may."""


class _Work(threading.Thread):
    """A function in a thread of its own, and what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(name="fedpriv-task", daemon=True)
        self._function = function
        self._context = contextvars.copy_context()
        self._clock: int | None = None
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            if hasattr(time, "pthread_getcpuclockid"):
                self._clock = time.pthread_getcpuclockid(threading.get_ident())
            torch.set_num_threads(1)  # both belong to the thread
            torch.set_flush_denormal(True)
            self.value = self._context.run(self._function)
        except BaseException as error:  # also SystemExit: nobody but the work itself can have raised it in this thread
            self.error = error
        finally:
            self.done.set()

    def computed(self, otherwise: float) -> float:
        """Return the computing time of the thread in seconds; on a system that does not know it, what is given."""
        try:
            return otherwise if self._clock is None else time.clock_gettime(self._clock)
        except OSError:  # it has just ended
            return 0.0

    def leave(self) -> None:
        """End the work at its next step in Python, whoever waits for it."""
        threading.Thread(target=self._end, name="fedpriv-end", daemon=True).start()

    def _end(self) -> None:
        pause = 0.1
        while self.is_alive():  # a loop may swallow the exception, and one that sleeps does not get it
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident or 0), ctypes.py_object(SystemExit))
            self.join(pause)
            pause = min(2 * pause, 60.0)


class TimeLimit:
    """Runs pieces of work, each of which may take so long.

    Parameters
    ----------
    seconds : float
        Of computing, for each piece of work.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(self, function: Callable[[], T]) -> T:
        """Return what a function returns.

        Raises
        ------
        TaskTimeout
            It took longer than it may.
        Exception
            What the function raised; what ends a thread or a process (``SystemExit``) becomes a RuntimeError.
        """
        work, began, left = _Work(function), time.monotonic(), self.seconds
        work.start()
        try:
            while not work.done.wait(max(left, _MIN_POLL_SECONDS)):
                passed = time.monotonic() - began
                left = self.seconds - work.computed(passed)
                if left <= 0 or passed >= _WALL_CLOCK_FACTOR * self.seconds:
                    raise TaskTimeout(f"it computed for more than {self.seconds:g} s ('run.task_seconds')")
        except BaseException:  # also an interrupt of the thread that waits: nobody wants the result any more
            work.leave()
            raise
        if work.error is None:
            return cast(T, work.value)
        if isinstance(work.error, Exception):
            raise work.error
        raise RuntimeError(f"it raised {type(work.error).__name__}") from work.error
