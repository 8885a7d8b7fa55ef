"""The figure of a sweep: the three models against the first key of the grid, a panel for each value of the others."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.report.figures import COLOURS, MARKERS, draw_intervals, dress, save_svg
from fedpriv.sweep.results import CellResult, Results
from fedpriv.sweep.words import as_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "write_figure"]

_STYLES = (
    *zip(COLOURS.values(), MARKERS.values(), ("-", "--", ":"), strict=True),
    ("#CC79A7", "D", "-"),
    ("#E69F00", "v", "--"),
    ("#56B4E9", "P", ":"),
    ("#222222", "X", "-."),
)
_MAX_COLUMNS = 3
_SHIFT_OF_AXIS = 0.012
"""Shift of the models against each other, as a share of the axis: bars shall not cover one another."""


def draw(results: Results) -> Figure:
    """Return the figure, drawn without pyplot (no global state)."""
    from matplotlib.figure import Figure

    first, *others = results.plan.grid
    panels: dict[str, list[CellResult]] = {}
    for cell in results.cells:
        title = "\n".join(f"{key} = {as_text(cell.values[key])}" for key in others)
        panels.setdefault(title, []).append(cell)
    columns = min(_MAX_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = 6.4 if columns == 1 else 1.2 + 3.3 * columns
    figure = Figure(figsize=(width, 1.5 + 2.7 * rows), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = [one for row in grid for one in row]
    for one, (title, cells) in zip(axes, panels.items(), strict=False):
        _panel(one, first, cells, results)
        one.set_title(_plain(title), fontsize=9)
    for empty in axes[len(panels) :]:
        empty.set_visible(False)
        # Its neighbour above is the lowest of its column now, so it carries the numbers.
        axes[axes.index(empty) - columns].tick_params(labelbottom=True)
    what = "" if results.shown else f"test {results.measure} "
    figure.supylabel(f"{what}(diagnostic, not released)", fontsize=10)
    figure.supxlabel(_plain(f"{first}\n\n" + textwrap.fill(results.caption, int(15 * width))), fontsize=8.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def write_figure(results: Results, out: Path) -> Path:
    """Write ``figures/sweep.svg``."""
    file = out / "figures" / "sweep.svg"
    save_svg(draw(results), file)
    return file


def _panel(axes: Axes, key: str, cells: Sequence[CellResult], results: Results) -> None:
    places, logarithmic = _places([cell.values[key] for cell in cells])
    order = sorted(range(len(cells)), key=lambda at: places[at])  # lines go from left to right
    cells, places = [cells[at] for at in order], [places[at] for at in order]
    values = [cell.values[key] for cell in cells]
    span = max(places) - min(places) or 1.0
    middle = (len(results.columns) - 1) / 2
    for shift, (name, label) in enumerate(results.columns.items()):
        colour, marker, dashes = _STYLES[shift % len(_STYLES)]
        points = [
            (place + (shift - middle) * _SHIFT_OF_AXIS * span, found)
            for place, cell in zip(places, cells, strict=True)
            if (found := results.value(cell, name)) is not None
        ]
        if points:
            shown = [_back(place, logarithmic) for place, _ in points]
            look = {"color": colour, "marker": marker, "ls": dashes, "ms": 4.5, "lw": 1.6}
            draw_intervals(axes, shown, [found for _, found in points], label=label, **look)
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
    labels = [_plain(textwrap.shorten(as_text(value), 18, placeholder="...")) for value in values]
    turned = max(map(len, labels)) * len(labels) > 34
    axes.set_xticks([_back(place, logarithmic) for place in places], labels, rotation=30 if turned else 0)
    axes.tick_params(labelsize=8.5)
    dress(axes)


def _places(values: Sequence[Any]) -> tuple[list[float], bool]:
    """Return where values stand on an even axis, and whether that axis shows logarithms.

    Numbers stand where they belong, on a logarithmic axis if they are positive and span a factor of 8 or more;
    anything else is a category.
    """
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return [float(place) for place in range(len(values))], False
    if min(values) > 0 and len(values) > 2 and max(values) >= 8 * min(values):
        return [math.log10(value) for value in values], True
    return [float(value) for value in values], False


def _back(place: float, logarithmic: bool) -> float:
    return float(10.0**place) if logarithmic else place


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollars as mathematics."""
    return text.replace("$", r"\$")
