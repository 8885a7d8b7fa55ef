"""The runs of a sweep: checked before any starts; finished ones are read, half-done ones go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.config import Config, completed
from fedpriv.errors import FedprivError, InputError
from fedpriv.names import dotted
from fedpriv.runs.finished import read_record
from fedpriv.runs.ledger_check import check_finished
from fedpriv.runs.record import RunRecord
from fedpriv.sweep.budget import Spending

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment
    from fedpriv.runtime.pool import ShardPool

__all__ = ["Build", "Job", "Measure", "Prepare", "RunNeeds", "check_jobs", "measures_of", "run_job"]

Build = Callable[[Config, Path | None], Any]
"""From a configuration, and the folder of the data sets, to an experiment."""
Measure = Callable[[Any, Any], dict[str, Any]]
"""From an experiment and its result to what the scenario compares its runs with."""


@dataclass(frozen=True)
class Job:
    """One run of several."""

    folder: Path
    config: Config  # its configuration, with the seed
    seed: int
    values: dict[str, Any]  # its values by key of the grid
    reproduce: int | None = None  # fixes noise and coins, too
    about: dict[str, Any] = field(default_factory=dict)  # names for the report

    @property
    def started(self) -> bool:
        """Whether the folder holds a run; its configuration is the first file that a run writes."""
        return (self.folder / "config.toml").exists()

    @property
    def finished(self) -> bool:
        """Whether the run is finished; its summary is the last file that a run writes."""
        return (self.folder / "summary.json").exists()

    def record(self) -> RunRecord:
        """Read the record of the finished run, and ask its ledger."""
        record = read_record(self.folder)
        check_finished(self.folder, record)
        return record


@dataclass(frozen=True)
class RunNeeds:
    """What a run that is left needs, as far as it decides where it runs."""

    shards: int  # on Ray; 0 on another grid
    address: str | None  # of a Ray cluster that runs already
    bytes: int  # of its data, and of a model for each of its tasks
    free: bool  # whether one process may do all of it: nobody asked for Ray, and it shares no ledger with other runs

    @classmethod
    def of(cls, job: Job, experiment: Experiment) -> RunNeeds:
        """Look at a job that was built."""
        tasks = experiment.data
        data = sum(part.inputs.nbytes + part.targets.nbytes for part in (tasks.train, tasks.validation, tasks.test))
        models = len(tasks) * experiment.problem().num_parameters * experiment.problem().dtype.itemsize
        run = job.config["run"]
        free = run.get("grid", "auto") in ("auto", "in-process") and "address" not in run and experiment.ledger is None
        return cls(
            experiment.num_shards if experiment.grid in ("auto", "ray") else 0,
            experiment.address,
            data + models,
            free,
        )


Prepare = Callable[[Sequence[RunNeeds]], None]


def measures_of(record: RunRecord) -> dict[str, float]:
    """Return the numbers that a scenario added to a run's record, by dotted name: ``{"rmse.amht": 0.1}``."""
    return {name: float(value) for name, value in dotted(record.measures).items()}


def check_jobs(jobs: Sequence[Job], build: Build, data_dir: Path | None = None, prepare: Prepare | None = None) -> None:
    """Build every run once and refuse, before any of them starts, what is wrong with one of them.

    ``prepare`` is told what the runs that are left need once all are built: processes start while noise is calibrated.

    Raises
    ------
    InputError
        A key, a value or a combination is wrong.
    BudgetExceeded
        A protected population cannot pay for all that is left to run.
    """
    from fedpriv.data import keep_data

    with keep_data():
        needs = [RunNeeds.of(job, build(job.config, data_dir)) for job in jobs if not job.finished]
        if prepare and needs:
            prepare(needs)
        checked: list[dict[str, Any]] = []
        with Spending() as spending:
            for job in jobs:
                if job.values in checked and not spending.needed:
                    continue
                experiment = build(job.config, data_dir)
                if job.values not in checked:  # what a seed changes was checked by building
                    experiment.check(reproduced=job.reproduce is not None)
                    checked.append(job.values)
                spending.add(job.folder, experiment, finished=job.finished)
            spending.check()


def run_job(
    job: Job,
    build: Build,
    data_dir: Path | None = None,
    pool: ShardPool | None = None,
    progress: Callable[[int, int], None] | None = None,
    measure: Measure | None = None,
) -> RunRecord:
    """Run one job, or what is missing of it; return its record.

    Without a ``pool`` of shards Ray starts and stops for it. What ``measure`` returns is kept in the summary.

    Raises
    ------
    FedprivError
        The run stopped.
    """
    try:
        experiment: Experiment = build(job.config, data_dir)
        # A page and figures for each of many runs would take longer than the runs; `fedpriv report` writes them.
        result = experiment.model_copy(update={"report": False}).run(
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
    return RunRecord.model_validate(result.summary)
