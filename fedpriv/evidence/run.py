"""The runs of a protocol: what is missing is run, as a sweep does it; what is finished is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpriv.config import Config, apply, read_toml
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.evidence.protocol import Protocol, read_protocol
from fedpriv.names import unknown
from fedpriv.progress import Progress
from fedpriv.sweep import Build, Job, JobRunner, Measure, check_jobs, measures_of

__all__ = ["UNSEEN", "Configs", "Evidence", "collect", "configurations", "read_study"]

UNSEEN: Mapping[str, Any] = {"run.grid": "in-process", "run.checkpoint_every": 1000, "strategy.evaluate_every": 0}
"""What runs of which only the end is read have in common."""

Configs = Mapping[tuple[str, str], Config]
"""What is run, by (arm, point)."""


@dataclass(frozen=True)
class Evidence:
    """Scores of all runs, seed by seed.

    Attributes
    ----------
    columns : dict
        By (arm, point, model), the accuracy of each seed in the protocol's order; by (arm, point, ``rmse.amht``) what
        the scenario measures under that name.
    guarantees : dict
        By (arm, point), the guarantee of the personal models as JSON holds it; that of the largest epsilon.
    seconds : float
        Of all runs together, as each measured itself.
    versions : dict
        Versions of the libraries that the runs were made with.
    """

    columns: dict[tuple[str, str, str], list[float]]
    guarantees: dict[tuple[str, str], dict[str, Any]]
    seconds: float
    versions: dict[str, str]

    def column(self, arm: str, point: str, model: str = "personal") -> list[float]:
        """Return one number per seed.

        Raises
        ------
        InputError
            The runs of this arm hold no such number.
        """
        if (arm, point, model) not in self.columns:
            known = [name for one, at, name in self.columns if (one, at) == (arm, point)]
            raise InputError(f"the runs of {arm!r} at {point!r}: {unknown('model or measure', model, known)}")
        return self.columns[arm, point, model]


def configurations(
    protocol: Protocol, presets: Callable[[str], Config], common: Mapping[str, Any]
) -> dict[tuple[str, str], Config]:
    """Return what a protocol's arms are at its points, from the configurations that ``presets`` makes of their names.

    Changes by dotted key follow in this order: ``common`` to all runs, points, arms, what tuning chose for them.
    """
    return {
        (name, where): apply(
            presets(str(point.preset or protocol.preset)),
            {**common, **point.settings, **arm.settings, **arm.at.get(where, {})},
        )
        for where, point in protocol.points.items()
        for name, arm in protocol.arms.items()
    }


def read_study(
    path: Path, common: Mapping[str, Any], own: Sequence[str] = ()
) -> tuple[Protocol, dict[tuple[str, str], Config]]:
    """Read a protocol (:func:`fedpriv.evidence.read_protocol`), and make its configurations from presets beside it."""
    protocol = read_protocol(path, own)
    return protocol, configurations(protocol, lambda name: read_toml(path.with_name(f"{name}.toml")), common)


def collect(
    configs: Configs,
    seeds: Sequence[int] | Mapping[str, Sequence[int]],
    *,
    build: Build,
    out: Path,
    data_dir: Path | None = None,
    measure: Measure | None = None,
) -> Evidence:
    """Run every arm at every point with every seed; a killed call goes on where it stopped.

    Parameters
    ----------
    configs : mapping
        What is run, by (arm, point).
    seeds : sequence of int, or mapping
        Seeds of all points, or of each by its name.
    build : callable
        From a configuration to an experiment.
    out : Path
        Folder of the runs, ``ARM-POINT/seed-N`` each.
    data_dir : Path or None
        Where data sets lie.
    measure : callable or None
        What the scenario compares its runs with.

    Raises
    ------
    FedprivError
        A run is wrong, or stopped; finished runs are kept.
    """
    from fedpriv.data import keep_data

    at = seeds if isinstance(seeds, Mapping) else {point: seeds for _, point in configs}
    jobs = [
        Job(
            out / f"{arm}-{point}" / f"seed-{seed}",
            apply(config, {"run.seed": seed}),
            seed,
            {"arm": arm, "point": point},
        )
        for seed in dict.fromkeys(seed for several in at.values() for seed in several)
        for (arm, point), config in configs.items()
        if seed in at[point]
    ]
    columns: dict[tuple[str, str, str], list[float]] = {}
    guarantees: dict[tuple[str, str], dict[str, Any]] = {}
    seconds = 0.0
    versions: dict[str, str] = {}
    with (
        keep_data(),
        JobRunner(build, data_dir, measure) as runner,
        Progress(quiet=False, runs=len(jobs)) as progress,
    ):
        check_jobs(jobs, build, data_dir, runner.prepare)
        for job, record in runner.run(jobs, progress):
            arm, point = job.values["arm"], job.values["point"]
            found = record.versions
            if versions and found != versions:
                raise ComponentFailure(
                    f"{job.folder} was made with other versions ({_list(found)}) than the runs before it "
                    f"({_list(versions)}); delete the older ones and start again."
                )
            versions = found
            seconds += record.seconds["total"] or 0.0
            stated = (record.personal_guarantee or record.guarantee).to_json()
            before = guarantees.get((arm, point), stated)
            guarantees[arm, point] = max(before, stated, key=lambda one: float(one["epsilon"]))
            for model, value in record.diagnostics.accuracy.items():
                if value is not None:
                    columns.setdefault((arm, point, model), []).append(float(value))
            for name, number in measures_of(record).items():
                columns.setdefault((arm, point, name), []).append(number)
    return Evidence(columns, guarantees, seconds, versions)


def _list(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
