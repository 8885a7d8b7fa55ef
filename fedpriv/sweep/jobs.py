"""Several runs, one after the other, on shards that stay warm; finished runs are read, half-done ones go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.config import Config, completed
from fedpriv.errors import FedprivError, InputError
from fedpriv.progress import Progress

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment
    from fedpriv.runtime.pool import ShardPool

__all__ = ["Build", "Job", "Measure", "check_jobs", "measures_of", "run_jobs"]

Build = Callable[[Config, Path | None], Any]
Measure = Callable[[Any, Any], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """One run of several.

    Attributes
    ----------
    folder : Path
        Its run folder.
    config : dict
        Its configuration, with the seed.
    seed : int
        That seed.
    values : dict
        Where it stands in the grid.
    reproduce : int or None
        Fixes noise and coins, too.
    about : dict
        Names for the report.
    """

    folder: Path
    config: Config
    seed: int
    values: dict[str, Any]
    reproduce: int | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def started(self) -> bool:
        """Whether the folder holds a run; its configuration is the first file that a run writes."""
        return (self.folder / "config.toml").exists()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; its summary is the last file that a run writes."""
        return (self.folder / "summary.json").exists()


def measures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that a scenario added to a run's summary, by dotted name: ``{"rmse.amht": 0.1}``."""
    found: dict[str, float] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                collect(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)

    collect("", summary.get("measures", {}))
    return found


def check_jobs(jobs: Sequence[Job], build: Build, data_dir: Path | None = None, pool: ShardPool | None = None) -> None:
    """Build every run once and refuse, before any of them starts, what is wrong with one of them.

    Parameters
    ----------
    jobs : sequence of Job
        All runs.
    build : callable
        From a configuration to an experiment.
    data_dir : Path or None
        Where data sets lie.
    pool : ShardPool or None
        Shards that start in the background while noise is calibrated, if a run that is left needs them.

    Raises
    ------
    InputError
        A key, a value or a combination is wrong.
    BudgetExceeded
        A protected population cannot pay for all that is left to run.
    """
    from fedpriv.data import keep_data
    from fedpriv.sweep.budget import Spending

    shards, address = 0, None
    with keep_data():
        for job in jobs:
            experiment: Experiment = build(job.config, data_dir)
            if experiment.grid == "ray" and not job.finished:
                shards, address = max(shards, experiment.num_shards), experiment.address
        if pool and shards:
            pool.warm(shards, address)
        checked: list[dict[str, Any]] = []
        with Spending() as spending:
            for job in jobs:
                if job.values in checked and not spending.needed:
                    continue
                experiment = build(job.config, data_dir)
                if job.values not in checked:  # what a seed changes was checked by building
                    experiment.check(reproduced=job.reproduce is not None)
                    checked.append(job.values)
                spending.add(job, experiment)
            spending.check()


def run_jobs(
    jobs: Sequence[Job],
    build: Build,
    data_dir: Path | None = None,
    pool: ShardPool | None = None,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Run what is missing; yield each job with the summary of its run, in order.

    Parameters
    ----------
    jobs, build, data_dir
        As :func:`check_jobs` takes them.
    pool : ShardPool or None
        Where runs get their shards from; None starts and stops Ray for each.
    progress : Progress or None
        Told about runs and rounds.
    measure : callable or None
        What the scenario compares its runs with: kept in each summary as ``measures``.

    Raises
    ------
    FedprivError
        A run stopped; what is finished stays finished.
    """
    from fedpriv.data import keep_data

    with keep_data():
        for number, job in enumerate(jobs, start=1):
            if progress:
                progress.begin(f"{job.folder.parent.name} {job.folder.name}")
            try:
                experiment: Experiment = build(job.config, data_dir)
                result = experiment.run(
                    job.folder,
                    reproduce=job.reproduce,
                    resume=job.started,
                    progress=progress,
                    about=job.about,
                    config=completed(job.config, experiment.describe()),
                    pool=pool,
                    measure=measure,
                )
            except InputError as error:
                raise InputError(f"run {job.folder}: {error}") from error
            except FedprivError as error:
                raise type(error)(f"run {job.folder}: {error} Finished runs are kept; go on with --resume.") from error
            if progress:
                progress.finished(number)
            yield job, result.summary
