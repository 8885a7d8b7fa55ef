"""What ``fedpriv sweep`` does: plan, check, run what is missing, show what came out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedpriv.config import apply, parse_assignments
from fedpriv.errors import InputError, Interrupted
from fedpriv.files import writing
from fedpriv.progress import Progress, phase
from fedpriv.runs import free_folder, plain
from fedpriv.runs.atomic import write_bytes
from fedpriv.sweep.crew import Crew
from fedpriv.sweep.figure import write_figure
from fedpriv.sweep.jobs import check_jobs
from fedpriv.sweep.plan import Plan, holds_sweep, read_plan
from fedpriv.sweep.results import Results, collect
from fedpriv.sweep.words import parse_grid, parse_seeds

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["run_sweep", "table_of"]

_WIDEST = 44
"""Columns that the varied keys together may claim of 80; longer values are folded into several lines."""


def run_sweep(
    name: str,
    *,
    preset: str | None,
    assignments: list[str],
    grid: list[str],
    seeds: str | None,
    data_dir: Path | None,
    out: Path | None,
    reproduce: bool,
    resume: bool,
    as_json: bool,
    show: str | None = None,
    at_once: int | None = None,
) -> None:
    """Run every cell with every seed, then write and print one table and one figure."""
    from fedpriv.data import keep_data
    from fedpriv.scenarios import scenario

    began = time.perf_counter()
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the sweep to go on with.")
    chosen = scenario(name)
    if show and chosen.measure is None:
        raise InputError(f"{name!r} measures nothing of its own, so {show!r} cannot be shown; leave out --show.")
    stored = read_plan(out) if resume and out is not None else None
    if seeds is not None:
        numbers = parse_seeds(seeds)
    elif stored is not None:
        numbers = stored.seeds
    else:
        raise InputError("--seeds is required: 8 for 0 to 7, a list such as 3,5,9, or a range such as 2001-2008.")
    if stored is not None and not assignments and preset is None:
        config = stored.config
    else:
        config = apply(chosen.preset(preset or (stored.preset if stored else None)), parse_assignments(assignments))
    plan = Plan(
        scenario=name,
        preset=preset or (stored.preset if stored else next(iter(chosen.presets))),
        config=config,
        grid=parse_grid(grid) if grid or stored is None else stored.grid,
        seeds=numbers,
        reproduce=reproduce or (stored is not None and stored.reproduce),
    )
    folder = out or free_folder(Path("runs/sweeps"), f"{name}-{plan.preset}")
    if stored is not None:
        plan.must_match(stored, folder)
    elif holds_sweep(folder):
        raise InputError(f"{folder} is not empty, it holds a sweep; choose another --out, or go on with --resume.")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty or not a folder, and holds no sweep; choose another --out.")
    jobs = plan.jobs(folder)
    try:
        with (
            keep_data(),
            Progress(quiet=as_json, runs=len(jobs)) as progress,
            Crew(chosen.build, data_dir, chosen.measure, at_once) as crew,
        ):
            with phase("checks of all runs"):
                check_jobs(jobs, chosen.build, data_dir, crew.prepare)
            if stored is None:
                plan.store(folder)
            done = list(crew.run(jobs, progress))
    except KeyboardInterrupt:
        if not holds_sweep(folder):  # a folder that holds another sweep was refused above
            raise
        raise Interrupted(f"stopped; go on with --resume{'' if out is not None else f' --out {folder}'}.") from None
    results = collect(plan, folder, done, time.perf_counter() - began, crew.at_once)
    results.write(folder)
    results = results.showing(show.split(",") if show else ())
    with writing(folder / "figures"):
        write_figure(results, folder)
    _write_page(results, folder)
    if as_json:
        sys.stdout.write(json.dumps(plain({**results.to_json(), "sweep": str(folder)}), indent=2) + "\n")
    else:
        _print(results, folder)


def _write_page(results: Results, folder: Path) -> None:
    """Write ``sweep.md``: table, figure, and what the numbers are."""
    heading, *lines = results.table()
    rows = [heading, ["---"] * len(heading), *lines]
    table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    title = f"# Sweep of {results.plan.scenario} ({results.plan.preset})"
    text = f"{title}\n\n{results.caption}\n\n{table}\n\n![{results.measure}](figures/sweep.svg)\n"
    write_bytes(folder / "sweep.md", text.encode(), public=True)


def table_of(results: Results) -> Table:
    """Return the table as the terminal shows it: what varies is never cut, whatever else has to wrap."""
    from rich.markup import escape
    from rich.table import Table

    # Speed stands in the files; here it would not fit.
    heading, *lines = [row[:-1] if results.table()[0][-1] == "tasks/s" else row for row in results.table()]
    keys = len(results.plan.grid)
    title = "Measures of the scenario" if results.shown else f"Test {results.measure}, mean over tasks"
    table = Table(title=f"{title} (diagnostic, not released)")
    for number, column in enumerate(heading):
        # The section of a key is left out where the rest says it.
        rest = column.partition(".")[2]
        short = rest if number < keys and sum(key.endswith(f".{rest}") for key in heading) == 1 else column
        varied = number < keys
        longest = max(map(len, [short, *(line[number] for line in lines)]))
        table.add_column(
            escape(short),
            justify="left" if varied else "right",
            overflow="fold",
            min_width=min(longest, _WIDEST // keys) if varied else None,
        )
    for line in lines:
        table.add_row(*map(escape, line))
    return table


def _print(results: Results, folder: Path) -> None:
    from rich.console import Console

    console = Console()
    console.print(table_of(results))
    console.print(results.caption, highlight=False, soft_wrap=True, markup=False)
    seconds = results.seconds
    together = f", {results.at_once} at a time" if results.at_once > 1 else ""
    console.print(
        f"{len(results.rows)} runs with {seconds['training']:.1f} s of training{together}; this call took "
        f"{seconds['total']:.1f} s. "
        f"Sweep folder: {folder}; table: sweep.csv; figure: figures/sweep.svg",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
