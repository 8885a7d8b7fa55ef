"""The results of a sweep: one row per run, one line per cell; as JSON, CSV and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedpriv.errors import InputError
from fedpriv.names import dotted, unknown
from fedpriv.report.tables import filled
from fedpriv.report.words import MODELS
from fedpriv.runs import RunRecord, plain
from fedpriv.runs.atomic import write_bytes
from fedpriv.statistics import Interval, interval
from fedpriv.sweep.jobs import Job, measures_of
from fedpriv.sweep.plan import Plan
from fedpriv.sweep.words import as_text

__all__ = ["CellResult", "Results", "collect"]

_FORMAT = 1
_TRAINING = ("rounds", "finish", "baseline")


@dataclass(frozen=True)
class CellResult:
    """One cell over its seeds."""

    values: dict[str, Any]  # value by key
    # The largest of its runs: equal for all of them unless coins or data decide. None for reproductions, whose rows say
    # what it would have been.
    epsilon: float | str | None
    measures: dict[str, dict[str, Interval | None]]  # by "accuracy" or "loss" and model; None where it does not exist
    own: dict[str, Interval | None]  # the scenario's measures by name (``rmse.amht``); None where a run lacks it
    tasks_per_second: float  # mean over runs


@dataclass(frozen=True)
class Results:
    """A finished sweep."""

    plan: Plan  # what was asked
    rows: list[dict[str, Any]]  # one per run
    cells: list[CellResult]  # in the order of the grid
    protected: bool  # whether the runs spent one budget together
    seconds: dict[str, float]  # ``training`` of all runs together, by their summaries, and ``total`` of this call
    at_once: int = 1  # runs at a time; tasks per second of a run are then those of one process beside others
    shown: tuple[str, ...] = ()  # the scenario's measures that table and figure show instead of the three models

    def showing(self, names: Sequence[str]) -> Results:
        """Return the same, with these of the scenario's measures in table and figure.

        Raises
        ------
        InputError
            One of them is not measured.
        """
        known = dict.fromkeys(name for cell in self.cells for name in cell.own)
        for name in names:
            if name not in known:
                raise InputError(
                    unknown("measure", name, known) + " Finished runs are kept; show others with --resume."
                )
        return replace(self, shown=tuple(names))

    @property
    def columns(self) -> dict[str, str]:
        """What table and figure show, with its label."""
        return {name: name for name in self.shown} or MODELS

    def value(self, cell: CellResult, column: str) -> Interval | None:
        """Return what a cell has to show in a column."""
        return cell.own.get(column) if self.shown else cell.measures[self.measure][column]

    @property
    def measure(self) -> str:
        """What figure and table show: accuracy, or the loss where there is none, or what was asked for."""
        if self.shown:
            return ", ".join(self.shown)
        some = any(value is not None for cell in self.cells for value in cell.measures["accuracy"].values())
        return "accuracy" if some else "loss"

    @property
    def delta(self) -> float:
        """The largest delta of all runs."""
        return max(float(row["delta"]) for row in self.rows)

    @property
    def caption(self) -> str:
        """What must stand beside every number."""
        seeds = len(self.plan.seeds)
        spread = f"mean and 95% t interval over {seeds} seeds" if seeds > 1 else "one seed, so without an interval"
        account = (
            "All runs spend one budget: the ledger adds them up, and no single epsilon shown here covers the sweep."
            if self.protected
            else "Public benchmark data: each run is accounted alone."
        )
        banner = " Reproduction: noise and coins came from the seeds, so there is no guarantee." * self.plan.reproduce
        return (
            f"{self.measure if self.shown else f'Test {self.measure}, mean over tasks'}; {spread}. "
            f"Diagnostics, not released; choosing among cells by them is charged to nobody. {account}{banner}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "format": _FORMAT,
            "scenario": self.plan.scenario,
            "preset": self.plan.preset,
            "reproduce": self.plan.reproduce,
            "grid": self.plan.grid,
            "seeds": self.plan.seeds,
            "released": False,
            "note": self.caption,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "cells": [
                {
                    "values": cell.values,
                    "epsilon": cell.epsilon,
                    "tasks_per_second": round(cell.tasks_per_second, 1),
                    **{
                        measure: {name: value and vars(value) for name, value in models.items()}
                        for measure, models in cell.measures.items()
                    },
                    "measures": {name: value and vars(value) for name, value in cell.own.items()},
                }
                for cell in self.cells
            ],
            "runs": self.rows,
        }

    def write(self, out: Path) -> None:
        """Write ``sweep.json`` and ``sweep.csv``."""
        write_bytes(out / "sweep.json", (json.dumps(plain(self.to_json()), indent=2) + "\n").encode(), public=True)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        flat = [_flat(row) for row in self.rows]
        heading = dict.fromkeys(name for row in flat for name in row)
        table.writerow(heading)
        table.writerows(["" if row.get(name) is None else row[name] for name in heading] for row in flat)
        write_bytes(out / "sweep.csv", text.getvalue().encode(), public=True)

    def write_page(self, out: Path) -> None:
        """Write ``sweep.md``: table, figure, and what the numbers are."""
        heading, *lines = self.table()
        rows = [heading, ["---"] * len(heading), *lines]
        table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
        title = f"# Sweep of {self.plan.scenario} ({self.plan.preset})"
        text = f"{title}\n\n{self.caption}\n\n{table}\n\n![{self.measure}](figures/sweep.svg)\n"
        write_bytes(out / "sweep.md", text.encode(), public=True)

    def table(self) -> list[list[str]]:
        """Return the table of cells as text, its heading first."""
        heading = [*self.plan.grid, "spent epsilon", *self.columns.values(), "tasks/s"]
        lines = [
            [
                *(as_text(value) for value in cell.values.values()),
                "none" if cell.epsilon is None else f"{float(cell.epsilon):.3g}",
                *(str(self.value(cell, name) or "-") for name in self.columns),
                f"{cell.tasks_per_second:,.0f}",
            ]
            for cell in self.cells
        ]
        columns, rows = filled(heading, [tuple(line) for line in lines])
        return [list(columns), *map(list, rows)]


def collect(
    plan: Plan, out: Path, done: Sequence[tuple[Job, RunRecord]], total_seconds: float, at_once: int = 1
) -> Results:
    """Put together the summaries of all runs."""
    rows = []
    for job, record in done:
        # The row shows epsilon beside the personal models, so it is theirs.
        guarantee, found = record.personal_guarantee or record.guarantee, record.diagnostics
        rows.append(
            {
                "values": job.values,
                "seed": job.seed,
                "epsilon": None if plan.reproduce else guarantee.epsilon,
                "epsilon_if_secret": guarantee.epsilon,
                "delta": guarantee.delta,
                "accuracy": dict(found.accuracy),
                "loss": dict(found.loss),
                "measures": {**dotted(found.metrics), **measures_of(record)},
                "tasks_per_second": record.tasks_per_second,
                "run": str(job.folder.relative_to(out)),
            }
        )
    cells = [_cell(cell.values, [row for row in rows if row["values"] == cell.values]) for cell in plan.cells()]
    training = sum(record.seconds.get(name) or 0.0 for _, record in done for name in _TRAINING)
    protected = any(record.protected for _, record in done)
    return Results(plan, rows, cells, protected, {"training": training, "total": total_seconds}, at_once)


def _cell(values: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> CellResult:
    measures: dict[str, dict[str, Interval | None]] = {}
    for measure in ("accuracy", "loss"):
        measures[measure] = {}
        for name in MODELS:
            column = [row[measure][name] for row in rows]
            usable = all(isinstance(value, int | float) for value in column)
            measures[measure][name] = interval(column) if usable else None
    names = dict.fromkeys(name for row in rows for name in row["measures"])
    complete = {name: [row["measures"][name] for row in rows if name in row["measures"]] for name in names}
    own = {name: interval(column) if len(column) == len(rows) else None for name, column in complete.items()}
    spent = [row["epsilon"] for row in rows]
    return CellResult(
        values,
        None if None in spent else max(spent, key=float),
        measures,
        own,
        sum(float(row["tasks_per_second"]) for row in rows) / len(rows),
    )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: as_text(value) for key, value in row["values"].items()},
        "seed": row["seed"],
        "epsilon": row["epsilon"],
        "epsilon_if_secret": row["epsilon_if_secret"],
        "delta": row["delta"],
        **{f"{name}_{measure}": row[measure][name] for measure in ("accuracy", "loss") for name in MODELS},
        "tasks_per_second": row["tasks_per_second"],
        "run": row["run"],
        **row["measures"],
    }
