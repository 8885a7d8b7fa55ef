"""Read a run folder into one frozen value, or say in a sentence which file is wrong and what to do."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedpriv.errors import InputError
from fedpriv.runs.finished import check_summary, read_tasks
from fedpriv.runs.ledger_check import check_finished, ledger_of
from fedpriv.runs.record import MetricLine, RunRecord
from fedpriv.settings import sentences

__all__ = ["Run", "read_run"]

M = TypeVar("M", bound=BaseModel)
AGAIN = "restore the file from a copy, or run the experiment again"


@dataclass(frozen=True)
class Run:
    """A finished run, as its folder tells it.

    Attributes
    ----------
    path : Path
        The folder.
    summary : RunRecord
        The validated ``summary.json``.
    metrics : tuple of MetricLine
        The lines of ``metrics.jsonl``, in their order.
    configuration : str
        The text of ``config.toml``.
    settings : mapping
        The same configuration, parsed.
    unasked : str or None
        Why its ledger was not asked whether it still says the same; None if it was, and does.
    tasks : mapping
        Of protected data: what ``private/`` holds of single tasks, for what is drawn there and nowhere else.
    """

    path: Path
    summary: RunRecord
    metrics: tuple[MetricLine, ...]
    configuration: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    unasked: str | None = None
    tasks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name or str(self.path)

    @property
    def reproduction(self) -> bool:
        """Whether noise and coins were fixed: such a run carries no guarantee."""
        return self.summary.guarantee.reproduction or self.summary.reproduce is not None

    @property
    def benchmark(self) -> bool:
        """Whether the data were declared a benchmark, so that every run has a ledger of its own."""
        return self.summary.ledger.declared == "benchmark"

    @property
    def attacked(self) -> bool:
        """Whether its folder holds a private page on what a malicious server learned from it."""
        try:
            return (self.path / "private" / "report.html").exists()
        except PermissionError:  # a run of somebody else
            return False

    @property
    def measure(self) -> str:
        """``accuracy`` for classification, ``loss`` for runs that have no accuracy."""
        known = any(value is not None for value in self.summary.diagnostics.accuracy.values())
        return "accuracy" if known else "loss"

    def per_task(self, model: str) -> list[float | None]:
        """Return the measure of one kind of model for every task; None where a task has no value.

        Nothing of protected data, but by :meth:`in_private`.
        """
        if self.summary.protected:
            values = self.tasks.get("scores", {}).get(f"{model}.{self.measure}", [])
        else:
            values = self.summary.diagnostics.per_task.get(model, [])
        return [value if value is not None and math.isfinite(value) else None for value in values]

    def in_private(self) -> Run:
        """Return this run with what it keeps of single protected tasks, for the folder ``private/`` alone."""
        kept = self.summary.diagnostics.per_task  # where an earlier version kept it
        earlier = {"scores": {f"{model}.{self.measure}": values for model, values in kept.items()}}
        return replace(self, tasks=read_tasks(self.path) or earlier)

    def curve(self, quantity: str, model: str) -> tuple[list[int], list[float]]:
        """Return rounds and finite values of a diagnostic; of a round logged twice the last line counts."""
        points = {line.round: getattr(line, quantity).get(model) for line in self.metrics if line.kind == "evaluation"}
        return _finite_points(points)

    def epsilon_curve(self) -> tuple[list[int], list[float]]:
        """Return rounds and finite epsilons: the privacy lines, or the releases' if there are none."""
        for kind in ("privacy", "release"):
            curve = _finite_points({line.round: line.epsilon for line in self.metrics if line.kind == kind})
            if curve[0]:
                return curve
        return [], []

    @property
    def epsilon_relation(self) -> str:
        """Neighbouring relation of the epsilon curve."""
        stated = (line.relation for line in self.metrics if line.kind == "privacy" and line.relation)
        return next(stated, self.summary.guarantee.relation)


def read_run(path: str | Path) -> Run:
    """Read a finished run's folder.

    Raises
    ------
    InputError
        If the folder is none of a run, the run is unfinished, or a file is missing or damaged.
    ComponentFailure
        If its ledger is damaged, or not the one that the run was charged to.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the run folder that `fedpriv run --out RUN` wrote.")
    resume = f"finish it with `fedpriv run SCENARIO --out {folder} --resume` (in Python: resume=True), then report it"
    if not (folder / "summary.json").exists():
        if not any((folder / name).exists() for name in ("config.toml", "metrics.jsonl", "checkpoints")):
            raise InputError(
                f"{folder} is not a run folder (it holds no summary.json and no config.toml): give "
                "the folder that `fedpriv run --out RUN` wrote."
            )
        raise InputError(f"the run in {folder} is unfinished (it has no summary.json): {resume}.")
    content = _json(_text(folder / "summary.json"), folder / "summary.json")
    summary = _validated(RunRecord, content, folder / "summary.json")
    check_summary(folder)
    if not summary.finished:
        raise InputError(f"the run in {folder} is unfinished (its summary.json says so): {resume}.")
    metrics = _metrics(folder / "metrics.jsonl")
    configuration = _text(folder / "config.toml")
    try:
        settings = tomllib.loads(configuration)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{folder / 'config.toml'} is not valid TOML ({error}): {AGAIN}.") from None
    return Run(folder.resolve(), summary, metrics, configuration, settings, _ask(folder, summary))


def _ask(folder: Path, record: RunRecord) -> str | None:
    """Ask the ledger of a run, and return why it was not asked: a report may be made where the ledger is not."""
    if not (folder / "checkpoints").is_dir():
        return "its folder is not whole (it has no checkpoints)"
    if record.protected and not (ledger := ledger_of(folder, record)).exists():
        return f"{ledger} is not there"
    check_finished(folder, record)
    return None


def _finite_points(points: Mapping[int, float | None]) -> tuple[list[int], list[float]]:
    kept = {at: value for at, value in sorted(points.items()) if value is not None and math.isfinite(value)}
    return list(kept), list(kept.values())


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{file} is missing: {AGAIN}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is damaged (it is not UTF-8 text): {AGAIN}.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check its permissions.") from None


def _json(text: str, where: str | Path) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: None if name == "NaN" else float(name))
    except (json.JSONDecodeError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise InputError(f"{where} is not valid JSON ({reason}): {AGAIN}.") from None


def _validated(model: type[M], value: Any, where: str | Path) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        said = sentences(model, error).rstrip(".")
        raise InputError(f"{where} does not hold what a run writes: {said}; {AGAIN}.") from None


def _metrics(file: Path) -> tuple[MetricLine, ...]:
    lines = enumerate(_text(file).splitlines(), start=1)
    read = []
    for number, line in lines:
        if line.strip():
            where = f"line {number} of {file}"
            read.append(_validated(MetricLine, _json(line, where), where))
    return tuple(read)
