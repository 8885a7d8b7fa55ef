"""The figures of the page on Tables I and II: accuracy by ways and shots, and by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedpriv.attacks import Outcome, Rate
from fedpriv.scenarios.maml_attack.cells import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_cells", "draw_epochs"]

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
            axes.set_xticks(places, [f"{one.ways} ways\n{one.shots} shot{'s' * (one.shots > 1)}" for one in here])
            _dress(axes)
    figure.supylabel("accuracy of the membership attack (95% interval)", fontsize=9.5)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
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
    path.parent.mkdir(parents=True, exist_ok=True)
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
    from fedpriv.report.figures import GRID, INK

    axes.axhline(0.5, color=INK, lw=1, ls=":", label="guessing")
    axes.set_ylim(0.4, 1.02)
    axes.tick_params(labelsize=7.5)
    axes.grid(axis="y", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
