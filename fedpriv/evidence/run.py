"""The runs of a protocol: what is missing is run, as a sweep does it; what is finished is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpriv.config import Config, apply
from fedpriv.errors import ComponentFailure
from fedpriv.evidence.protocol import Protocol
from fedpriv.progress import Progress
from fedpriv.sweep import Build, Job, check_jobs, run_jobs

__all__ = ["Evidence", "collect"]


@dataclass(frozen=True)
class Evidence:
    """Scores of all runs, seed by seed.

    Attributes
    ----------
    columns : dict
        By (arm, point, model), the accuracy of each seed in the protocol's order.
    versions : dict
        Versions of the libraries that the runs were made with.
    """

    columns: dict[tuple[str, str, str], list[float]]
    versions: dict[str, str]

    def column(self, arm: str, point: str, model: str = "personal") -> list[float]:
        """Return one accuracy per seed."""
        return self.columns[arm, point, model]


def collect(
    protocol: Protocol,
    *,
    config: Config,
    arms: Mapping[str, Mapping[str, Any]],
    points: Mapping[str, Mapping[str, Any]],
    build: Build,
    out: Path,
    data_dir: Path | None = None,
) -> Evidence:
    """Run every arm at every point with every report seed; a killed call goes on where it stopped.

    Parameters
    ----------
    protocol : Protocol
        Whose report seeds are run.
    config : dict
        What all runs share.
    arms, points : mapping of str to dict
        Settings by the name of what is compared, and of where it is compared; a point's come first.
    build : callable
        From a configuration to an experiment.
    out : Path
        Folder of the runs, ``ARM-POINT/seed-N`` each.
    data_dir : Path or None
        Where data sets lie.

    Raises
    ------
    FedprivError
        A run is wrong, or stopped; finished runs are kept.
    """
    from fedpriv.data import keep_data
    from fedpriv.runtime.pool import ShardPool

    where: list[tuple[str, str]] = []
    jobs = []
    for seed in protocol.report_seeds:
        for point, at in points.items():
            for arm, changes in arms.items():
                changed = apply(config, {**at, **changes, "run.seed": seed})
                values = {"arm": arm, "point": point}
                jobs.append(Job(out / f"{arm}-{point}" / f"seed-{seed}", changed, seed, values))
                where.append((arm, point))
    columns: dict[tuple[str, str, str], list[float]] = {}
    versions: dict[str, str] = {}
    with keep_data(), ShardPool() as pool, Progress(quiet=False, runs=len(jobs)) as progress:
        check_jobs(jobs, build, data_dir, pool)
        runs = run_jobs(jobs, build, data_dir, pool, progress)
        for (arm, point), (job, summary) in zip(where, runs, strict=True):
            found = summary["versions"]
            if versions and found != versions:
                raise ComponentFailure(
                    f"{job.folder} was made with other versions ({_list(found)}) than the runs before it "
                    f"({_list(versions)}); delete the older ones and start again."
                )
            versions = found
            for model, value in summary["diagnostics"]["accuracy"].items():
                if value is not None:
                    columns.setdefault((arm, point, model), []).append(float(value))
    return Evidence(columns, versions)


def _list(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
