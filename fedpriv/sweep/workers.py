"""Processes that carry out whole runs side by side, server and tasks of a run in one of them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fedpriv.config import apply
from fedpriv.errors import ComponentFailure
from fedpriv.progress import Progress
from fedpriv.runs.record import RunRecord
from fedpriv.sweep.jobs import Build, Job, Measure, run_job

__all__ = ["Workers"]

_POLL_SECONDS = 0.2
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
        # Workers read from a pipe that nobody ever writes to: when its other end is closed, or dies, they die.
        self._theirs, self._ours = context.Pipe(duplex=False)
        self._rounds = context.Value("q", 0)
        self._executor = ProcessPoolExecutor(
            count, context, _begin, (self._theirs, self._rounds, build, data_dir, measure)
        )
        with _quiet_start():
            for _ in range(count):
                self._executor.submit(_do_nothing)

    def run(self, jobs: Sequence[Job], progress: Progress | None = None) -> Iterator[tuple[Job, RunRecord]]:
        """Run what is missing; yield each job with the record of its run, in order.

        Raises
        ------
        FedprivError
            A run stopped; those beside it are stopped, too, and what is finished stays finished.
        """
        if progress:
            progress.begin(f"{self.count} runs at a time")
        try:
            with _quiet_start():  # a process may still be missing
                waiting: set[Future[None]] = {self._executor.submit(_run, job) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if progress:
                    progress.finished(len(jobs) - len(waiting))
                    # Without its lock, which a process that was killed may hold for ever.
                    progress(self._rounds.get_obj().value, None)
        except BrokenProcessPool:
            raise ComponentFailure(
                "a process with runs in it died, perhaps because memory ran out. Finished runs are kept; go on with "
                "--resume, or with --resume --jobs 1."
            ) from None
        yield from ((job, job.record()) for job in jobs)

    def close(self) -> None:
        """Stop the processes, at work or not; a run that was at work can go on, like one that was killed."""
        self._ours.close()
        self._executor.shutdown(cancel_futures=True)
        self._theirs.close()


_HELD = ExitStack()
"""In a worker, what lasts as long as it does."""

_run_here: Callable[[Job], RunRecord]
"""In a worker, how to run a job."""


def _begin(pipe: Connection, rounds: Any, build: Build, data_dir: Path | None, measure: Measure | None) -> None:
    global _run_here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()

    import fedpriv.experiment  # noqa: F401 (the slow imports, while nobody waits yet)
    from fedpriv.cohort.fast.threads import one_thread_for_good
    from fedpriv.data import keep_data

    # A run limits its rounds itself; what stands before and after them would take all cores in every process.
    one_thread_for_good()
    _HELD.enter_context(keep_data())

    def count(*_: int) -> None:
        with rounds.get_lock():
            rounds.value += 1

    def run(job: Job) -> RunRecord:
        return run_job(job, build, data_dir, None, count, measure)

    _run_here = run


def _end_with(pipe: Connection) -> None:
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)  # as a kill would: what a run has published and charged is on disk


def _do_nothing() -> None:
    """Make a worker start."""


def _run(job: Job) -> None:
    """Run a job; its summary is on disk, and a process that is killed cannot leave half of it in the pipe."""
    shards = job.config["run"].get("shards", 1)
    try:
        _run_here(replace(job, config=apply(job.config, {"run.grid": "in-process", "run.shards": shards})))
    except Exception as error:
        if _can_be_sent(error):
            raise
        raise ComponentFailure(
            f"run {job.folder}: {type(error).__name__}: {error}. Finished runs are kept; go on with --resume."
        ) from None


def _can_be_sent(error: Exception) -> bool:
    """Tell whether an exception can be sent; one that cannot be read again would look like a process that died."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (its own bytes)
    except Exception:
        return False
    return True


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Let processes that start meanwhile know nothing of Ctrl-C, nor of the script that started them.

    Ctrl-C would reach them while they import, before they can ignore it. And they would run the script again to have
    its definitions: one without ``if __name__ == "__main__"`` would start processes in its turn, and one that was
    typed or piped in is not there to be run. What is sent to them comes from modules.
    """
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main.update(dict.fromkeys(kept))
    try:
        yield
    finally:
        main.update(kept)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
