"""The figures of the attacks' pages: accuracy by ways and shots, by round, and against learning under noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedpriv.adversary import Outcome, Rate
from fedpriv.scenarios.maml_attack.cells import Cell, Level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_cells", "draw_epochs", "draw_noise"]

_SETS, _DATA = ("query", "support"), {"mnist": "MNIST", "fashion": "Fashion-MNIST"}


def draw_cells(cells: Sequence[Cell], path: Path) -> None:
    """Draw ours in both games beside the paper, a panel per set and data."""
    from matplotlib.figure import Figure

    from fedpriv.report.figures import COLOURS, INK, save_svg

    figure = Figure(figsize=(8.6, 6.2), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, which in enumerate(_SETS):
        for column, (data, title) in enumerate(_DATA.items()):
            axes = panels[row, column]
            here = sorted(
                (one for one in cells if (one.which, one.data) == (which, data)), key=lambda one: (one.shots, one.ways)
            )
            places = [at + 0.7 * (at // 3) for at in range(len(here))]  # a gap where the shots change
            kinds = [("paper", COLOURS["personal"], "o", -0.15), ("controlled", COLOURS["billboard"], "s", 0.15)]
            for rule, colour, mark, shift in kinds:
                label = "ours, the paper's game" if rule == "paper" else "ours, non-members of the same class"
                rates = [one.found[rule].accuracy for one in here]
                _bars(axes, [at + shift for at in places], rates, colour, mark, label)
            axes.plot(
                places, [one.paper_accuracy for one in here], ls="", marker="_", ms=17, mew=2.2, color=INK,
                label="the paper (50 games a side)",
            )  # fmt: skip
            axes.set_title(f"{which} set, {title}", fontsize=10)
            axes.set_xticks(places, [f"{one.ways}-{one.shots}" for one in here])
            _dress(axes)
    figure.supxlabel("ways-shots", fontsize=9.5)
    figure.supylabel("accuracy of the membership attack (95% interval)", fontsize=9.5)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    save_svg(figure, path)


def draw_epochs(epochs: Mapping[tuple[str, str, int], Outcome], path: Path) -> None:
    """Draw the accuracy in the first, the middle and the last round, a panel per data set."""
    from matplotlib.figure import Figure

    from fedpriv.report.figures import COLOURS, save_svg

    figure = Figure(figsize=(7.4, 3.6), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (data, title) in zip(panels, _DATA.items(), strict=True):
        rounds = sorted({number for _, name, number in epochs if name == data})
        looks = [("query", COLOURS["personal"], "o", -0.6), ("support", COLOURS["billboard"], "s", 0.6)]
        for which, colour, mark, shift in looks:
            rates = [epochs[which, data, number].accuracy for number in rounds]
            _bars(axes, [number + shift for number in rounds], rates, colour, mark, f"{which} set", line="-")
        axes.set_title(f"{title}, 5-way 1-shot", fontsize=10)
        axes.set_xticks(rounds)
        axes.set_xlabel("round of training that is attacked")
        _dress(axes)
    panels[0].set_ylabel("accuracy of the attack,\nthe paper's game (95% interval)", fontsize=9.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_svg(figure, path)


def draw_noise(panels: Mapping[str, Sequence[Level]], area: tuple[float, float], path: Path) -> None:
    """Draw the AUC of both attacks against held-out accuracy, two panels a row; the confident area is shaded.

    ``panels``, an even number, hold by title the levels of one place, no noise first; ``area`` is the largest AUC and
    the largest loss of held-out accuracy of the confident area.
    """
    from matplotlib.figure import Figure

    from fedpriv.report.figures import COLOURS, INK, dress, save_svg

    rows = len(panels) // 2
    figure = Figure(figsize=(8.4, 0.6 + 2.9 * rows), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    looks = {"query": (COLOURS["personal"], "o"), "support": (COLOURS["billboard"], "s")}
    shown = [one for levels in panels.values() for one in levels]
    most, least = (pick(one.accuracy for one in shown) for pick in (max, min))
    for axes, (title, here) in zip(grid.flat, panels.items(), strict=True):
        enough = here[0].accuracy - area[1]
        axes.fill_between([enough, 1.0], 0.3, area[0], color=COLOURS["local_only"], alpha=0.18, lw=0)
        axes.annotate("confident area", (enough, 0.32), (3, 2), textcoords="offset points", fontsize=8)
        for which, (colour, mark) in looks.items():
            rates = [one.games[which]["paper"]["auc"] for one in here]
            values = [rate["value"] for rate in rates]
            lengths = [[r["value"] - r["low"] for r in rates], [r["high"] - r["value"] for r in rates]]
            axes.errorbar(
                [one.accuracy for one in here], values, yerr=lengths, color=colour, marker=mark, ms=5, lw=1.3,
                capsize=2.5, label=f"{which} set",
            )  # fmt: skip
            for one, value in zip(here, values, strict=True):
                if value > 0.9 and one.accuracy > enough:
                    continue  # in the crowd of levels that change nothing; the table has them all
                offset = (6, 5) if which == "query" else (6, -11)
                axes.annotate(
                    f"{one.level:g}",
                    (one.accuracy, value),
                    offset,
                    textcoords="offset points",
                    fontsize=8,
                    color=colour,
                )
        axes.axhline(0.5, color=INK, lw=1, ls=":", label="guessing")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(0.3, 1.04)
        axes.set_xlim(least - 0.05, min(1.0, most + 0.1))
        dress(axes)
        axes.tick_params(labelsize=8)
    figure.supxlabel(
        "held-out accuracy after the last round (numbers: standard deviation of the noise, where it changes something)",
        fontsize=9.5,
    )
    figure.supylabel("AUC of the attack, the paper's game (95% interval)", fontsize=9.5)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    save_svg(figure, path)


def _bars(
    axes: Axes, places: Sequence[float], rates: Sequence[Rate], colour: str, mark: str, label: str, line: str = ""
) -> None:
    values = [one.value for one in rates]
    lengths = [[one.value - one.low for one in rates], [one.high - one.value for one in rates]]
    axes.errorbar(
        places, values, yerr=lengths, color=colour, marker=mark, ms=5, ls=line, lw=1.4, capsize=2.5, label=label
    )


def _dress(axes: Axes) -> None:
    from fedpriv.report.figures import INK, dress

    axes.axhline(0.5, color=INK, lw=1, ls=":", label="guessing")
    axes.set_ylim(0.4, 1.02)
    axes.tick_params(labelsize=7.5)
    dress(axes, "y")
