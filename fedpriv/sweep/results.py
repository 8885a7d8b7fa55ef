"""What a sweep came to: one row per run, one line per cell; as JSON, CSV and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpriv.report.words import MODELS
from fedpriv.runs import plain
from fedpriv.runs.atomic import write_bytes
from fedpriv.statistics import Interval, interval
from fedpriv.sweep.jobs import Job
from fedpriv.sweep.plan import Plan
from fedpriv.sweep.words import as_text

__all__ = ["CellResult", "Results", "collect"]

_FORMAT = 1
_TRAINING = ("rounds", "finish", "baseline")


@dataclass(frozen=True)
class CellResult:
    """One cell over its seeds.

    Attributes
    ----------
    values : dict
        Value by key.
    epsilon : float, str or None
        The largest of its runs: equal for all of them unless coins or data decide. None for reproductions, whose rows
        say what it would have been.
    measures : dict
        By measure ("accuracy", "loss") and model; None where it does not exist.
    tasks_per_second : float
        Mean over runs.
    """

    values: dict[str, Any]
    epsilon: float | str | None
    measures: dict[str, dict[str, Interval | None]]
    tasks_per_second: float


@dataclass(frozen=True)
class Results:
    """A finished sweep.

    Attributes
    ----------
    plan : Plan
        What was asked.
    rows : list of dict
        One per run.
    cells : list of CellResult
        In the order of the grid.
    protected : bool
        Whether the runs spent one budget together.
    seconds : dict
        ``training`` of all runs together, as their summaries report it, and ``total`` of this call.
    """

    plan: Plan
    rows: list[dict[str, Any]]
    cells: list[CellResult]
    protected: bool
    seconds: dict[str, float]

    @property
    def measure(self) -> str:
        """What figure and table show: accuracy, or the loss where there is none."""
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
            f"Test {self.measure}, mean over tasks; {spread}. "
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
                }
                for cell in self.cells
            ],
            "runs": self.rows,
        }

    def write(self, out: Path) -> None:
        """Write ``sweep.json`` and ``sweep.csv``."""
        write_bytes(out / "sweep.json", (json.dumps(plain(self.to_json()), indent=2) + "\n").encode())
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_flat(self.rows[0]))
        table.writerows(["" if value is None else value for value in _flat(row).values()] for row in self.rows)
        write_bytes(out / "sweep.csv", text.getvalue().encode())

    def table(self) -> list[list[str]]:
        """Return the table of cells as text, its heading first."""
        heading = [*self.plan.grid, "spent epsilon", *(MODELS[name] for name in MODELS), "tasks/s"]
        lines = [
            [
                *(as_text(value) for value in cell.values.values()),
                "none" if cell.epsilon is None else f"{float(cell.epsilon):.3g}",
                *(str(cell.measures[self.measure][name] or "-") for name in MODELS),
                f"{cell.tasks_per_second:,.0f}",
            ]
            for cell in self.cells
        ]
        return [heading, *lines]


def collect(plan: Plan, out: Path, done: Sequence[tuple[Job, Mapping[str, Any]]], total_seconds: float) -> Results:
    """Put together the summaries of all runs."""
    rows = []
    for job, summary in done:
        # Of the personal models, with which epsilon stands in one row.
        guarantee, found = summary.get("personal_guarantee", summary["guarantee"]), summary["diagnostics"]
        rows.append(
            {
                "values": job.values,
                "seed": job.seed,
                "epsilon": None if plan.reproduce else guarantee["epsilon"],
                "epsilon_if_secret": guarantee["epsilon"],
                "delta": guarantee["delta"],
                "accuracy": dict(found["accuracy"]),
                "loss": dict(found["loss"]),
                "tasks_per_second": summary["tasks_per_second"],
                "run": str(job.folder.relative_to(out)),
            }
        )
    cells = [_cell(cell.values, [row for row in rows if row["values"] == cell.values]) for cell in plan.cells()]
    training = sum(float(summary["seconds"].get(name, 0.0)) for _, summary in done for name in _TRAINING)
    protected = any(summary["ledger"]["declared"] == "protected" for _, summary in done)
    return Results(plan, rows, cells, protected, {"training": training, "total": total_seconds})


def _cell(values: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> CellResult:
    measures: dict[str, dict[str, Interval | None]] = {}
    for measure in ("accuracy", "loss"):
        measures[measure] = {}
        for name in MODELS:
            column = [row[measure][name] for row in rows]
            usable = all(isinstance(value, int | float) for value in column)
            measures[measure][name] = interval(column) if usable else None
    spent = [row["epsilon"] for row in rows]
    return CellResult(
        values,
        None if None in spent else max(spent, key=float),
        measures,
        sum(float(row["tasks_per_second"]) for row in rows) / len(rows),
    )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with one column per value."""
    return {
        **{key: as_text(value) for key, value in row["values"].items()},
        "seed": row["seed"],
        "epsilon": row["epsilon"],
        "epsilon_if_secret": row["epsilon_if_secret"],
        "delta": row["delta"],
        **{f"{name}_{measure}": row[measure][name] for measure in ("accuracy", "loss") for name in MODELS},
        "tasks_per_second": row["tasks_per_second"],
        "run": row["run"],
    }
