"""One self-contained HTML page about one or several runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedpriv.errors import InputError
from fedpriv.report.figures import FIGURES, write_figures
from fedpriv.report.reader import Run, read_run
from fedpriv.report.tables import comparison, facts, guarantee_rows, headline, key_numbers, outputs, published, spread
from fedpriv.report.template import fill, inlined, write_page
from fedpriv.report.words import figure_words, not_protected

__all__ = ["render", "write_report"]


def write_report(run_folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of one or several runs, and the figures into each run's folder.

    Parameters
    ----------
    run_folders : sequence of paths
        Finished runs, in the order in which they are shown.
    out : path, optional
        The HTML file. Default: ``report.html`` in the run's folder; for several runs, beside the first
        run's folder.

    Returns
    -------
    Path
        The file written.

    Examples
    --------
    >>> write_report(["runs/first"])  # doctest: +SKIP
    PosixPath('/home/me/runs/first/report.html')
    """
    if isinstance(run_folders, str | Path):
        run_folders = [run_folders]
    if not run_folders:
        raise InputError("a report needs at least one run folder: give those that `fedpriv run --out RUN` wrote.")
    runs = [read_run(folder) for folder in run_folders]
    if out is None:
        target = (runs[0].path if len(runs) == 1 else runs[0].path.parent) / "report.html"
    else:
        target = Path(out)
    if target.is_dir():
        raise InputError(f"{target} is a folder: give the name of the HTML file to write, as {target / 'report.html'}.")
    page = render(runs, [write_figures(run) for run in runs])
    write_page(target, page)
    return target


def render(runs: Sequence[Run], figures: Sequence[dict[str, Path]]) -> str:
    """Return the page; ``figures`` holds, per run, the SVG files by name."""
    names = _names(runs)
    views = [
        _view(f"run-{at}", name, run, drawn)
        for at, (name, run, drawn) in enumerate(zip(names, runs, figures, strict=True), start=1)
    ]
    title = f"fedpriv report: {names[0]}" if len(runs) == 1 else f"fedpriv report: {len(runs)} runs"
    table = comparison(runs, names) if len(runs) > 1 else None
    return fill("report.html.j2", title=title, runs=views, comparison=table)


def _names(runs: Sequence[Run]) -> list[str]:
    """Name runs by their folder; by folder and parent where two folders have the same name."""
    short = [run.name for run in runs]
    return [
        f"{run.path.parent.name}/{name}" if short.count(name) > 1 else name
        for run, name in zip(runs, short, strict=True)
    ]


def _view(anchor: str, name: str, run: Run, drawn: dict[str, Path]) -> dict[str, Any]:
    guarantee, summary = run.summary.guarantee, run.summary
    bounded = guarantee.epsilon is not None and math.isfinite(guarantee.epsilon)
    return {
        "anchor": anchor,
        "name": name,
        "what": summary.what,
        "reproduction": run.reproduction,
        "bounded": bounded,
        "benchmark": run.benchmark,
        "key": key_numbers(run),
        "headline": headline(run),
        "spread": spread(run),
        "published": published(run),
        "sentence": " ".join(one.sentence for one in (guarantee, summary.other_guarantee) if one is not None),
        "guarantee": guarantee_rows(run),
        "not_protected": not_protected(run),
        "assumptions": guarantee.assumptions + _more_assumptions(run),
        "warnings": [
            *guarantee.warnings,
            *filter(None, (summary.sharing.forecast, summary.sharing.measured)),
            *_unasked(run),
        ],
        "figures": [_figure(figure, drawn.get(figure), run) for figure in FIGURES],
        "attacked": run.attacked,
        "outputs": outputs(run),
        "facts": facts(run),
        "configuration": run.configuration.strip(),
    }


def _unasked(run: Run) -> list[str]:
    if run.unasked is None:
        return []
    return [f"What this page says was not compared with the ledger of the run: {run.unasked}."]


def _more_assumptions(run: Run) -> list[str]:
    other = run.summary.other_guarantee
    return [] if other is None else [one for one in other.assumptions if one not in run.summary.guarantee.assumptions]


def _figure(name: str, file: Path | None, run: Run) -> dict[str, str | None]:
    heading, words = figure_words(name, run)
    missing = "no figure, the run recorded nothing to draw."
    if run.summary.protected and name == "per_task":
        missing = "what single tasks of protected data reach is in private/ of the run's folder, for its owner alone."
    return {"heading": heading, "words": words, "missing": missing, "image": None if file is None else inlined(file)}
