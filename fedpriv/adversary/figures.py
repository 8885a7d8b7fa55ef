"""Pictures of attacks: targets and what inversion made of them, as in figure 4 of the paper, and ROC curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.adversary.games import RULES, GameResults
from fedpriv.adversary.outcome import roc
from fedpriv.errors import ComponentFailure
from fedpriv.report.figures import COLOURS, INK, canvas, save_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_roc", "draw_triples", "write_pictures"]

_SIDES = {
    "members": "member",
    "paper": "non-member\n(any class)",
    "controlled": "non-member\n(same class)",
    "from noise": "no target",
}
_COLUMNS = ("start", "result", "truth")


def draw_triples(played: dict[str, GameResults], title: str) -> Figure:
    """Draw start, result and truth side by side: a member stays, a non-member turns into what is really there."""
    rows = [(name, side, one.shown[side]) for name, one in played.items() for side in _SIDES]
    count, _, height, width = max((shown.shape for _, _, shown in rows), key=lambda shape: shape[0])
    down, across, apart = height + max(2, height // 6), width + 1, max(3, width // 4)
    # One picture for all: hundreds of axes would take minutes to draw.
    mosaic = np.full((down * len(rows), (3 * across + apart) * count), np.nan)
    for line, (_, _, shown) in enumerate(rows):
        for column, triple in enumerate(shown):
            for offset, image in enumerate(triple):
                left = column * (3 * across + apart) + offset * across
                mosaic[line * down : line * down + height, left : left + width] = image
    figure, axes = canvas(0.7 + 6.6 * mosaic.shape[0] / mosaic.shape[1])
    figure.set_size_inches(8.2, figure.get_figheight())
    axes.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_yticks([line * down + height / 2 for line in range(len(rows))])
    axes.set_yticklabels([f"{name} set,\n{_SIDES[side]}" for name, side, _ in rows], fontsize=6.5)
    places = [
        column * (3 * across + apart) + offset * across + width / 2 for column in range(count) for offset in range(3)
    ]
    axes.set_xticks(places, list(_COLUMNS) * count, fontsize=6)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=8.5, loc="left")
    return figure


def draw_roc(played: dict[str, GameResults], bound: float | None, title: str) -> Figure:
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


def write_pictures(run: Path, number: int, played: dict[str, GameResults], bound: float | None) -> list[Path]:
    """Write both pictures of one round to the run's private folder, as SVG and PNG.

    Reconstructions are as private as the images; they do not go to ``figures/``.
    """
    folder, written = run / "private", []
    drawn = {
        f"reconstructions-{number:06d}": draw_triples(played, f"{run.name}, round {number}: gradient inversion"),
        f"roc-{number:06d}": draw_roc(played, bound, f"{run.name}, round {number}"),
    }
    try:
        for name, figure in drawn.items():
            files = [folder / f"{name}.svg", folder / f"{name}.png"]
            save_svg(figure, files[0])
            figure.savefig(files[1], dpi=160)
            for file in files:
                file.chmod(0o600)
            written.append(files[1])
    except OSError as error:
        raise ComponentFailure(f"the pictures cannot be written to {folder} ({error.strerror}).") from None
    return written
