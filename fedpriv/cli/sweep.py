"""``fedpriv sweep``: plan, check, run what is missing, show what came out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedpriv.cli.options import Assignments, DataDir, JsonFlag, PresetName, ScenarioName, path_option, say_json
from fedpriv.config import apply, parse_assignments, started_anew
from fedpriv.errors import InputError, Interrupted
from fedpriv.progress import Progress, phase

if TYPE_CHECKING:
    from rich.table import Table

    from fedpriv.sweep.results import Results

__all__ = ["sweep", "table_of"]

_MAX_COLUMNS = 44
"""Columns that the varied keys together may claim of 80; longer values are folded into several lines."""


def sweep(
    scenario: ScenarioName,
    preset: PresetName = None,
    assignments: Assignments = None,
    grid: Annotated[
        list[str] | None, typer.Option("--grid", help="Setting to vary, key=v1,v2; may be repeated.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds: 8 for 0 to 7; or 3,5,9; or 2001-2008.")] = None,
    data_dir: DataDir = None,
    out: Annotated[Path | None, path_option("Folder; runs/sweeps/SCENARIO-PRESET[-N] unless given.")] = None,
    reproduce: Annotated[
        bool, typer.Option("--reproduce", help="Seeds fix noise and coins, too, for tests: no guarantee.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --out; finished runs stay.")
    ] = False,
    show: Annotated[
        str | None, typer.Option(help="Measures of the scenario to show, e.g. rmse.amht,rmse.ridge.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time, each in one process; one per core if runs are small.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a scenario with a grid of settings and several seeds: one table, one figure. All runs are checked first."""
    from fedpriv.data import keep_data
    from fedpriv.files import writing
    from fedpriv.runs import free_folder, plain
    from fedpriv.scenarios import scenario as find
    from fedpriv.sweep.figure import write_figure
    from fedpriv.sweep.jobs import check_jobs
    from fedpriv.sweep.plan import Plan, holds_sweep, read_plan
    from fedpriv.sweep.results import collect
    from fedpriv.sweep.runner import JobRunner
    from fedpriv.sweep.words import parse_grid, parse_seeds

    began = time.perf_counter()
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the sweep to go on with.")
    chosen = find(scenario)
    if show and chosen.measure is None:
        raise InputError(f"{scenario!r} measures nothing of its own, so {show!r} cannot be shown; leave out --show.")
    stored = read_plan(out) if resume and out is not None else None
    if seeds is not None:
        numbers = parse_seeds(seeds)
    elif stored is not None:
        numbers = stored.seeds
    else:
        raise InputError("--seeds is required: 8 for 0 to 7, a list such as 3,5,9, or a range such as 2001-2008.")
    cells = parse_grid(grid or []) if grid or stored is None else stored.grid
    if stored is not None and not assignments and preset is None:
        config = stored.config
    else:
        config = chosen.preset(preset or (stored.preset if stored else None))
        if chosen.of_run:  # whose one seed is not that of a sweep
            config["run"] = {key: value for key, value in config["run"].items() if key not in ("seed", "reproduce")}
        config = started_anew(apply(config, parse_assignments(assignments or [])), cells)
    plan = Plan(
        scenario=chosen.name,
        preset=stored.preset if stored and preset is None else chosen.label(preset),
        config=config,
        grid=cells,
        seeds=numbers,
        reproduce=reproduce or (stored is not None and stored.reproduce),
    )
    folder = out or free_folder(Path("runs/sweeps"), chosen.folder_name(preset))
    if stored is not None:
        plan.must_match(stored, folder)
    elif holds_sweep(folder):
        raise InputError(f"{folder} is not empty, it holds a sweep; choose another --out, or go on with --resume.")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty or not a folder, and holds no sweep; choose another --out.")
    planned = plan.jobs(folder)
    try:
        with (
            keep_data(),
            Progress(quiet=as_json, runs=len(planned)) as progress,
            JobRunner(chosen.build, data_dir, chosen.measure, jobs) as runner,
        ):
            with phase("checks of all runs"):
                check_jobs(planned, chosen.build, data_dir, runner.prepare)
            if stored is None:
                plan.store(folder)
            done = list(runner.run(planned, progress))
    except KeyboardInterrupt:
        if not holds_sweep(folder):  # a folder that holds another sweep was refused above
            raise
        raise Interrupted(f"stopped; go on with --resume{'' if out is not None else f' --out {folder}'}.") from None
    results = collect(plan, folder, done, time.perf_counter() - began, runner.at_once)
    results.write(folder)
    results = results.showing(show.split(",") if show else ())
    with writing(folder / "figures"):
        write_figure(results, folder)
    results.write_page(folder)
    if as_json:
        say_json(plain({**results.to_json(), "sweep": str(folder)}))
    else:
        _print(results, folder)


def table_of(results: Results) -> Table:
    """Return the table as the terminal shows it: what varies is never cut, whatever else has to wrap."""
    from rich.markup import escape
    from rich.table import Table

    # The files hold the speed; here it would not fit.
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
            min_width=min(longest, _MAX_COLUMNS // keys) if varied else None,
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
