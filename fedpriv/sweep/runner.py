"""Who carries out the runs of a sweep: this process run by run on warm shards, or several processes with whole runs."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedpriv.errors import InputError
from fedpriv.machine import usable_cores
from fedpriv.progress import Progress
from fedpriv.runs.record import RunRecord
from fedpriv.sweep.jobs import Build, Job, Measure, RunNeeds, run_job
from fedpriv.sweep.workers import Workers

__all__ = ["JobRunner"]

_SMALL_BYTES = 2**29
"""Bytes of a run up to which several may be in memory at once without being asked for."""


class JobRunner:
    """Carries out runs: side by side, each whole in one process, where that may be; else one by one.

    One by one, a run spreads its tasks over shards, and the server's part of a round leaves them idle; with many short
    runs that is most of the time. Results do not depend on it. Runs whose grid was chosen, and runs that spend a common
    budget, stay one by one. A context manager: leaving it stops all processes.

    Parameters
    ----------
    build, data_dir, measure
        As :func:`fedpriv.sweep.jobs.run_job` takes them.
    at_once : int or None
        Runs at a time; None takes as many as there are cores if the runs are small.
    """

    def __init__(
        self, build: Build, data_dir: Path | None = None, measure: Measure | None = None, at_once: int | None = None
    ) -> None:
        from fedpriv.runtime.pool import ShardPool

        if at_once is not None and at_once < 1:
            raise InputError(f"--jobs must be at least 1, got {at_once}.")
        self._build, self._data_dir, self._measure, self._asked = build, data_dir, measure, at_once
        self._pool = ShardPool()
        self._workers: Workers | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._workers:
            self._workers.close()
        self._pool.close()

    @property
    def at_once(self) -> int:
        """Runs at a time."""
        return self._workers.count if self._workers else 1

    def prepare(self, needs: Sequence[RunNeeds]) -> None:
        """Choose, and let processes start for the runs that are left.

        Raises
        ------
        InputError
            More runs at a time were asked for than may be.
        """
        free = all(need.free for need in needs)
        sendable = _sendable(self._build, self._measure)
        if self._asked is None:
            small = max(need.bytes for need in needs) <= _SMALL_BYTES
            count = min(usable_cores(), len(needs)) if free and small and sendable else 1
        elif self._asked > 1 and not free:
            raise InputError(
                "--jobs runs whole runs side by side, each in one process and with a ledger of its own: leave out "
                "--jobs, or run.grid=ray and run.address (and, of benchmark data, run.ledger)."
            )
        elif self._asked > 1 and not sendable:
            raise InputError(
                f"at_once must be 1 for functions that other processes cannot import, got {self._asked} with "
                f"{_named(self._build, self._measure)}; move them from the script into a module."
            )
        else:
            count = min(self._asked, len(needs))
        if count > 1:
            self._workers = Workers(count, self._build, self._data_dir, self._measure)
        elif shards := max(need.shards for need in needs):
            self._pool.warm(shards, next((need.address for need in needs if need.shards), None))

    def run(self, jobs: Sequence[Job], progress: Progress | None = None) -> Iterator[tuple[Job, RunRecord]]:
        """Run what is missing; yield each job with the record of its run, in order.

        Raises
        ------
        FedprivError
            A run stopped; what is finished stays finished.
        """
        if self._workers:
            yield from self._workers.run(jobs, progress)
        else:
            yield from self._one_by_one(jobs, progress)

    def _one_by_one(self, jobs: Sequence[Job], progress: Progress | None) -> Iterator[tuple[Job, RunRecord]]:
        from fedpriv.data import keep_data

        with keep_data():
            for number, job in enumerate(jobs, start=1):
                if progress:
                    progress.begin(f"{job.folder.parent.name} {job.folder.name}")
                record = run_job(job, self._build, self._data_dir, self._pool, progress, self._measure)
                if progress:
                    progress.finished(number)
                yield job, record


def _sendable(*functions: Any) -> bool:
    """Tell whether other processes find these functions by their names: in modules, since they never see the script."""
    try:
        return b"__main__" not in pickle.dumps(functions)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


def _named(*functions: Any) -> str:
    return " and ".join(getattr(function, "__qualname__", repr(function)) for function in functions if function)
