"""Processes that carry out whole runs side by side, server and tasks of a run in one of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fedpriv.config import apply
from fedpriv.errors import ComponentFailure
from fedpriv.progress import Progress
from fedpriv.sweep.jobs import Build, Job, Measure, run_job

__all__ = ["Workers"]

_LOOK = 0.2
"""Seconds between two looks at the progress."""


class Workers:
    """Processes that start at once, import what runs need, and end with this one, however it ends.

    Parameters
    ----------
    count : int
        Number of processes.
    build, data_dir, measure
        As :func:`fedpriv.sweep.jobs.run_job` takes them; functions of modules, since they are sent by name.
    """

    def __init__(self, count: int, build: Build, data_dir: Path | None, measure: Measure | None) -> None:
        self.count = count
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        # Workers read from a line that nobody ever writes to: when its other end is closed, or dies, they die.
        self._theirs, self._ours = context.Pipe(duplex=False)
        self._rounds = context.Value("q", 0)
        self._executor = ProcessPoolExecutor(
            count, context, _begin, (self._theirs, self._rounds, build, data_dir, measure)
        )
        for _ in range(count):
            self._executor.submit(_do_nothing)

    def run(self, jobs: Sequence[Job], progress: Progress | None = None) -> Iterator[tuple[Job, dict[str, Any]]]:
        """Run what is missing; yield each job with the summary of its run, in order.

        Raises
        ------
        FedprivError
            A run stopped; those beside it are stopped, too, and what is finished stays finished.
        """
        if progress:
            progress.begin(f"{self.count} runs at a time")
        try:
            futures = [self._executor.submit(_run, job) for job in jobs]
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=_LOOK, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if progress:
                    progress.finished(len(futures) - len(waiting))
                    progress(self._rounds.value, None)
        except BrokenProcessPool:
            raise ComponentFailure(
                "a process with runs in it died, perhaps for want of memory. Finished runs are kept; go on with "
                "--resume, or with --resume --jobs 1."
            ) from None
        yield from ((job, future.result()) for job, future in zip(jobs, futures, strict=True))

    def close(self) -> None:
        """Stop the processes, at work or not; a run that was at work can go on, like one that was killed."""
        self._ours.close()
        self._executor.shutdown(cancel_futures=True)
        self._theirs.close()


_run_here: Callable[[Job], dict[str, Any]]
"""In a worker, how to run a job."""


def _begin(line: Connection, rounds: Any, build: Build, data_dir: Path | None, measure: Measure | None) -> None:
    """Get a worker ready."""
    global _run_here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the line
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()

    import fedpriv.experiment  # noqa: F401 (the slow imports, while nobody waits yet)
    from fedpriv.data import keep_data

    ExitStack().enter_context(keep_data())

    def count(*_: int) -> None:
        with rounds.get_lock():
            rounds.value += 1

    def run(job: Job) -> dict[str, Any]:
        return run_job(job, build, data_dir, None, count, measure)

    _run_here = run


def _end_with(line: Connection) -> None:
    try:
        line.recv()
    except (EOFError, OSError):
        os._exit(1)  # as a kill would: what a run has published and charged is on disk


def _do_nothing() -> None:
    """Make a worker start."""


def _run(job: Job) -> dict[str, Any]:
    shards = job.config["run"].get("shards", 1)
    return _run_here(replace(job, config=apply(job.config, {"run.grid": "in-process", "run.shards": shards})))
