"""Regenerates the page and figure of docs/ on who takes part, from their protocol; finished runs are not repeated."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from fedpriv.config import build_experiment
from fedpriv.errors import InputError
from fedpriv.evidence import (
    UNSEEN,
    Configs,
    Evidence,
    Protocol,
    claimed,
    collect,
    difference_table,
    differences,
    fill_page,
    page_root,
    read_study,
    table_rows,
    tune,
)
from fedpriv.scenarios import scenario
from fedpriv.statistics import Interval, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["main"]

_HERE = Path(__file__).parent
_ALONE, _CEILING = ("poisson", "local_only"), "no-noise"
"""Where the references stand: training alone with the work of the first arm, and the arm without noise."""


def _read() -> tuple[Protocol, Configs]:
    return read_study(_HERE / "streams-protocol.toml", {**UNSEEN, "run.baseline": False})


def _tune(root: Path) -> None:
    """Run what the protocol tries, and write every cell beside it."""
    protocol, configs = _read()
    tried = tune(protocol, configs, build=build_experiment, out=root / "runs/tuning/pmtl-streams")
    with (_HERE / "streams-tuning.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["arm", "data", "rounds", "server_learning_rate", "accuracy", "chosen"])
        for one in tried:
            rows.writerow([one.arm, one.point, *one.values.values(), f"{one.accuracy:.6f}", int(one.best)])


def _alone(evidence: Evidence, point: str) -> Interval:
    arm, model = _ALONE
    return interval(evidence.column(arm, point, model))


def _table(protocol: Protocol, configs: Configs, evidence: Evidence, point: str) -> list[str]:
    rows = [
        "| who takes part, noise | epsilon 2 under | replace-one epsilon | noise | rounds | server step | billboard "
        "| personal |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for name, arm in protocol.arms.items():
        said, strategy = evidence.guarantees[name, point], configs[name, point]["strategy"]
        private = float(said["epsilon"]) < float("inf")
        promise = [said["relation"], f"{said['epsilon_replace_one']:.2f}"] if private else ["no guarantee", ""]
        billboard, personal = (interval(evidence.column(name, point, model)) for model in ("billboard", "personal"))
        chosen = [f"{said['noise_multiplier']:.2f}", str(strategy["rounds"]), f"{strategy['server_learning_rate']:g}"]
        rows += table_rows([[arm.label, *promise, *chosen, str(billboard), str(personal)]])
    alone = _alone(evidence, point)
    rows.append(f"| alone (nothing shared) | nothing is released | | | | | | {alone} |")
    worse = [name for name in protocol.arms if interval(evidence.column(name, point)).mean < alone.mean]
    if worse:
        names = "; ".join(_side(protocol, name) for name in worse)
        rows += ["", f"Worse than training alone, by its mean, so share nothing there: {names}."]
    return rows


def _side(protocol: Protocol, side: str) -> str:
    name, _, model = side.partition(".")
    if model:
        return "alone"
    relation = ", replace-one" if name.endswith("-replace") else ""
    return f"{protocol.arms[name].label}{relation}"


def _names(protocol: Protocol, first: str, second: str) -> str:
    return f"{_side(protocol, first)} minus {_side(protocol, second)}"


def _page(protocol: Protocol, configs: Configs, evidence: Evidence) -> str:
    found = differences(evidence, protocol.pairs, protocol.points)

    def points(first: str, second: str) -> str:
        shown = {one.point: one.interval for one in found if (one.first, one.second) == (first, second)}
        parts = [f"{100 * one.mean:.1f} \u00b1 {100 * (one.half or 0.0):.1f} on {at}" for at, one in shown.items()]
        return " and ".join(parts)

    return fill_page(
        _HERE / "evidence-streams.md.j2",
        protocol,
        evidence,
        [
            f"{_names(protocol, one.first, one.second)} on {one.point}"
            for one in claimed(protocol, found)
            if not one.above
        ],
        points=points,
        claims=[f"{_names(protocol, *pair)} > 0" for pair in protocol.claims],
        tables={point: _table(protocol, configs, evidence, point) for point in protocol.points},
        differences=difference_table(
            protocol,
            found,
            ("difference", "data", "mean and 95% interval"),
            lambda one: (_names(protocol, one.first, one.second), one.point, str(one.interval)),
        ),
    )


def _figure(protocol: Protocol, evidence: Evidence, path: Path) -> None:
    from matplotlib.figure import Figure

    from fedpriv.report.figures import dress, save_svg

    arms = [name for name in protocol.arms if name != _CEILING]
    relations = [evidence.guarantees[name, next(iter(protocol.points))]["relation"] for name in arms]
    # A gap where the relation changes: the arms on either side of it are not compared with each other.
    gaps = [sum(one != other for one, other in pairwise(relations[: row + 1])) for row in range(len(arms))]
    rows = {name: row + 0.6 * gap for row, (name, gap) in enumerate(zip(arms, gaps, strict=True))}
    figure = Figure(figsize=(8.4, 4.1), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(protocol.points), sharey=True, gridspec_kw={"wspace": 0.06})
    for axes, (point, where) in zip(panels, protocol.points.items(), strict=True):
        _panel(axes, evidence, point, rows)
        tasks = scenario("pmtl").preset(where.preset)["data"]["tasks"]
        axes.set_title(f"{point}, {tasks:,} tasks, {len(protocol.seeds[point])} seeds", fontsize=10)
        axes.tick_params(labelsize=8.5)
        dress(axes, "x", ("top", "right", "left"))
    labels = [f"{protocol.arms[name].label}\nepsilon 2, {one}" for name, one in zip(arms, relations, strict=True)]
    panels[0].set_yticks(list(rows.values()), labels, fontsize=9)
    panels[0].set_ylim(max(rows.values()) + 0.5, -0.7)
    figure.supxlabel(
        "test accuracy of the personal models, mean over tasks (diagnostic, not released)\n"
        "mark and bar: mean and 95% interval over fresh seeds",
        fontsize=9,
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    save_svg(figure, path)


def _panel(axes: Axes, evidence: Evidence, point: str, rows: Mapping[str, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    from fedpriv.report.figures import COLOURS, INK

    references = [
        (_alone(evidence, point), "alone (nothing shared)", COLOURS["local_only"], "--"),
        (interval(evidence.column(_CEILING, point)), "no noise (not private)", INK, ":"),
    ]
    for one, label, colour, dashes in references:
        axes.axvspan(one.low, one.high, color=colour, alpha=0.12, lw=0)
        axes.axvline(one.mean, color=colour, ls=dashes, lw=1.6, label=label)
    for name, row in rows.items():
        one = interval(evidence.column(name, point))
        replace = evidence.guarantees[name, point]["relation"] == "replace-one"
        colour, mark = (COLOURS["billboard"], "s") if replace else (COLOURS["personal"], "o")
        axes.errorbar([one.mean], [row], xerr=[one.half or 0.0], color=colour, marker=mark, ms=6, lw=1.8, capsize=3.5)
        axes.annotate(
            f"{one.mean:.3f}",
            (one.mean, row),
            (0, 7),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6},
        )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)


def main(arguments: list[str], root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-streams.md and its figure.

    With the argument ``tune``, run instead what the protocol tries before the report runs.

    Raises
    ------
    InputError
        Another argument, or not the root of a checkout.
    """
    root = page_root(root)
    if arguments == ["tune"]:
        _tune(root)
    elif arguments:
        raise InputError(f"the only argument is 'tune', got {' '.join(arguments)!r}; leave it out for the report runs.")
    else:
        protocol, configs = _read()
        runs = root / "runs/evidence/pmtl-streams"
        evidence = collect(configs, protocol.seeds, build=build_experiment, out=runs)
        (root / "docs/evidence-streams.md").write_text(_page(protocol, configs, evidence), encoding="utf-8")
        _figure(protocol, evidence, root / "docs/images/pmtl-streams.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
