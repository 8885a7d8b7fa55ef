"""Pictures of attacks: targets and what inversion made of them, as in figure 4 of the paper, and ROC curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedpriv.attacks import RULES, Played, roc
from fedpriv.errors import ComponentFailure
from fedpriv.report.figures import COLOURS, INK, canvas, save_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_pairs", "draw_roc", "write_pictures"]

_SIDES = {
    "members": "member",
    "paper": "non-member\n(any class)",
    "controlled": "non-member\n(same class)",
    "from noise": "no target",
}
_COLUMNS = ("start", "result", "truth")


def draw_pairs(played: dict[str, Played], title: str) -> Figure:
    """Draw targets, results and truth: a member stays, a non-member turns into what is really there."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = max(len(pairs) for one in played.values() for pairs in one.shown.values())
    rows = [(name, side) for name in played for side in _SIDES]
    size = (1.6 + 1.75 * count, 0.5 + 0.68 * len(rows))
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    left, top = 1.5 / size[0], 1 - 0.5 / size[1]
    grid = figure.add_gridspec(
        len(rows), 4 * count, left=left, right=0.99, top=top, bottom=0.02, wspace=0.04, hspace=0.2,
        width_ratios=[1, 1, 1, 0.25] * count,
    )  # fmt: skip
    for line, (name, side) in enumerate(rows):
        for column, triple in enumerate(played[name].shown[side]):
            for offset, image in enumerate(triple):
                axes = figure.add_subplot(grid[line, 4 * column + offset])
                axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                if line == 0:
                    axes.set_title(_COLUMNS[offset], fontsize=6.5, pad=2)
                if column == 0 and offset == 0:
                    axes.set_ylabel(f"{name} set,\n{_SIDES[side]}", rotation=0, ha="right", va="center", fontsize=7.5)
    figure.suptitle(title, fontsize=8.5, x=0.02, ha="left")
    return figure


def draw_roc(played: dict[str, Played], bound: float | None, title: str) -> Figure:
    """Draw the ROC curves of both sets under both rules, by inversion."""
    figure, axes = canvas(4.6)
    colours = dict(zip(played, (COLOURS["personal"], COLOURS["billboard"]), strict=False))
    for name, one in played.items():
        scores = one.scores["inversion"]
        for rule in RULES:
            judged = slice(one.outcomes["inversion"][rule].validation, None)
            false, true = roc(scores["members"][judged], scores[rule][judged])
            value = one.outcomes["inversion"][rule].auc.value
            line = "-" if rule == "paper" else (0, (4, 2))
            label = f"{name} set, {'any class' if rule == 'paper' else 'same class'}: AUC {value:.2f}"
            axes.step(false, true, where="post", color=colours[name], lw=1.8, ls=line, label=label)
    axes.plot([0, 1], [0, 1], color=INK, lw=1, ls=":", label="guessing")
    axes.set_xlabel("share of non-members called members")
    axes.set_ylabel("share of members found")
    says = "no bound holds against the server" if bound is None else f"noise of the nodes bounds the AUC by {bound:.2f}"
    axes.set_title(f"{title}\nobserver: the server; {says}", fontsize=8.5, loc="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def write_pictures(run: Path, number: int, played: dict[str, Played], bound: float | None) -> list[Path]:
    """Write both pictures of one round to the run's private folder, as SVG and PNG.

    Reconstructions are as private as the images; they do not go to ``figures/``.
    """
    folder, written = run / "private", []
    drawn = {
        f"reconstructions-{number:06d}": draw_pairs(played, f"{run.name}, round {number}: gradient inversion"),
        f"roc-{number:06d}": draw_roc(played, bound, f"{run.name}, round {number}"),
    }
    try:
        for name, figure in drawn.items():
            save_svg(figure, folder / f"{name}.svg")
            figure.savefig(folder / f"{name}.png", dpi=160)
            written.append(folder / f"{name}.png")
    except OSError as error:
        raise ComponentFailure(f"the pictures cannot be written to {folder} ({error.strerror}).") from None
    return written
