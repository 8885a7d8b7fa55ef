"""The three figures of a run: what was learned and spent over the rounds, who learned how much, who gains.

Every function returns a :class:`matplotlib.figure.Figure` drawn without pyplot (no global state), or None if
the run recorded nothing to draw. Colours are Okabe and Ito's, told apart by colour-blind readers; colour is
never the only carrier of a meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedpriv.errors import ComponentFailure
from fedpriv.files import private_directory
from fedpriv.report.reader import Run
from fedpriv.report.words import MODELS, delta_text, gains, mean_interval, relation_text
from fedpriv.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "FIGURES",
    "GRID",
    "INK",
    "MARKERS",
    "accuracies",
    "canvas",
    "draw_intervals",
    "dress",
    "loss_and_epsilon",
    "per_task",
    "save_svg",
    "whole_numbers",
    "write_figures",
]

INK, GRID = "#222222", "#d9d9d9"
COLOURS = {"personal": "#0072B2", "billboard": "#D55E00", "local_only": "#009E73"}
MARKERS = {"personal": "o", "billboard": "s", "local_only": "^"}
GAIN, LOSS, EQUAL = "#0072B2", "#D55E00", "#6b6b6b"
NOT_RELEASED = "diagnostic, not released"
DENSE_POINTS = 1500


def loss_and_epsilon(run: Run) -> Figure | None:
    """Draw the loss (left axis) and epsilon (right axis) against the rounds."""
    curves = {model: run.curve("loss", model) for model in MODELS}
    curves = {model: curve for model, curve in curves.items() if curve[0]}
    spent = run.epsilon_curve()
    if not curves and not spent[0]:
        return None
    figure, axes = canvas(3.9)
    for model, (rounds, values) in curves.items():
        axes.plot(
            rounds,
            values,
            color=COLOURS[model],
            lw=2,
            ms=4.5,
            label=f"loss, {MODELS[model]}",
            marker=MARKERS[model],
            markevery=max(1, len(rounds) // 12),
            clip_on=False,
        )
    values = [value for _, curve in curves.values() for value in curve]
    if values and min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")
    axes.set_xlabel("round")
    whole_numbers(axes)
    axes.set_ylabel(f"loss, mean over tasks\n({NOT_RELEASED})")
    if not curves:
        axes.set_yticks([])
        axes.set_ylabel("no loss was recorded")
    if spent[0]:
        _epsilon_axis(run, axes, *spent)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def accuracies(run: Run) -> Figure | None:
    """Draw the accuracy (the loss, for regression) of every task, with mean and 95% interval over tasks."""
    means = getattr(run.summary.diagnostics, run.measure)
    tasks = {model: [v for v in run.per_task(model) if v is not None] for model in MODELS}
    shown = [model for model in MODELS if tasks[model] or _is_finite(means.get(model))]
    if not shown:
        return None
    figure, axes = canvas(1.35 + 0.75 * len(shown))
    percent = run.measure == "accuracy"
    scale = 100.0 if percent else 1.0
    for row, model in enumerate(reversed(shown)):
        values = [scale * value for value in tasks[model]]
        heights = [row - 0.17 - 0.24 * ((index * 0.6180339887) % 1.0) for index in range(len(values))]
        axes.scatter(
            values,
            heights,
            s=11,
            color=COLOURS[model],
            alpha=_alpha(len(values)),
            linewidths=0,
            rasterized=len(values) > DENSE_POINTS,
            zorder=2,
        )
        interval = mean_interval(values)
        centre = interval.mean if interval else scale * means[model]
        if interval and interval.half is not None:
            axes.plot([interval.low, interval.high], [row, row], color=INK, lw=2.2, solid_capstyle="butt", zorder=3)
        axes.plot([centre], [row], marker=MARKERS[model], ms=8, color=COLOURS[model], mec=INK, zorder=4)
        axes.annotate(
            _measure_text(centre, percent),
            (centre, row),
            (0, 8),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10,
            fontweight="bold",
            color=INK,
        )
    axes.set_yticks(range(len(shown)), [MODELS[model] for model in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.08)
    what = "test accuracy in %" if percent else "test loss"
    more = "; bar: 95% interval; dots: tasks" if any(tasks.values()) else ""
    axes.set_xlabel(f"{what} ({NOT_RELEASED})\nlarge mark: mean over tasks{more}")
    return figure


def per_task(run: Run) -> Figure | None:
    """Draw, task by task and sorted, what the personal model gains over training alone."""
    gained = gains(run)
    if not gained:
        return None
    figure, axes = canvas(3.7)
    percent = run.measure == "accuracy"
    ordered = sorted((100.0 * value if percent else value) for value in gained)
    groups = [
        ("loses", LOSS, "v", [(at, v) for at, v in enumerate(ordered, 1) if v < 0]),
        ("equal", EQUAL, "o", [(at, v) for at, v in enumerate(ordered, 1) if v == 0]),
        ("gains", GAIN, "^", [(at, v) for at, v in enumerate(ordered, 1) if v > 0]),
    ]
    size = min(30.0, max(5.0, 2400.0 / len(ordered)))
    for word, colour, marker, points in groups:
        if points:
            at, values = zip(*points, strict=True)
            if len(ordered) <= DENSE_POINTS:
                axes.vlines(at, 0, values, color=colour, lw=0.8, alpha=0.5)
            axes.scatter(
                at,
                values,
                s=size,
                color=colour,
                marker=marker,
                linewidths=0,
                rasterized=len(ordered) > DENSE_POINTS,
                label=f"{word}: {len(points)}",
                zorder=3,
            )
    axes.axhline(0, color=INK, lw=1)
    axes.set_xlabel(f"tasks, sorted by gain ({NOT_RELEASED})")
    whole_numbers(axes)
    axes.set_ylabel(
        "personal minus local only\n(accuracy, percentage points)"
        if percent
        else "local only minus personal\n(loss; above 0 the task gains)"
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9.5, markerscale=max(1.0, 5 / size**0.5))
    return figure


FIGURES: dict[str, Callable[[Run], Any]] = {
    "loss_and_epsilon": loss_and_epsilon,
    "accuracies": accuracies,
    "per_task": per_task,
}


OF_TASKS: dict[str, Callable[[Run], Any]] = {"accuracies": accuracies, "per_task": per_task}
"""What shows single tasks: of protected data it is drawn in ``private/figures/``."""


def write_figures(run: Run) -> dict[str, Path]:
    """Write every figure of a run to its ``figures/`` as SVG and PNG.

    Of protected data, what shows single tasks goes to ``private/figures/``.

    Returns
    -------
    dict of str to Path
        The SVG file of every figure that has something to show; a PNG of the same name is beside it.
    """
    if run.summary.protected:
        inner = run.in_private()
        if any(inner.per_task(model) for model in MODELS):
            private_directory(run.path / "private")
            _write(inner, run.path / "private" / "figures", OF_TASKS)
    return _write(run, run.path / "figures", FIGURES)


def _write(run: Run, folder: Path, figures: Mapping[str, Callable[[Run], Any]]) -> dict[str, Path]:
    written: dict[str, Path] = {}
    try:
        private_directory(folder)  # scores of single tasks are drawn, too
        for name, draw in figures.items():
            figure = draw(run)
            file = folder / f"{name}.svg"
            if figure is None:
                for stale in (file, file.with_suffix(".png")):
                    stale.unlink(missing_ok=True)
                continue
            save_svg(figure, file)
            figure.set_layout_engine("none")  # keeps the positions just found, for half the time
            figure.savefig(file.with_suffix(".png"), dpi=160)
            for path in (file, file.with_suffix(".png")):
                path.chmod(0o600)
            written[name] = file
    except OSError as error:
        raise ComponentFailure(
            f"the figures cannot be written to {folder} ({error.strerror}): make the run folder writable."
        ) from None
    return written


def save_svg(figure: Figure, file: Path) -> None:
    """Write a figure atomically, without a date and with the same names inside whenever it is drawn.

    Its folder is made if it is missing.
    """
    import matplotlib

    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.tmp")
    with matplotlib.rc_context({"svg.hashsalt": "fedpriv"}):
        figure.savefig(aside, format="svg", metadata={"Date": None})
    aside.replace(file)


def canvas(height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of this height in inches, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    padded = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.07)
    figure = Figure(figsize=(6.2, height), layout=padded, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor="white")
    dress(axes)
    return figure, axes


def dress(axes: Axes, grid: Literal["both", "x", "y"] = "both", hidden: Sequence[str] = ("top", "right")) -> None:
    """Hide these sides of the frame, and draw a light grid behind the data."""
    axes.spines[list(hidden)].set_visible(False)
    axes.grid(axis=grid, color=GRID, lw=0.7)
    axes.set_axisbelow(True)


def draw_intervals(axes: Axes, places: Sequence[float], found: Sequence[Interval], **style: Any) -> None:
    """Draw means at these places with their intervals as bars; ``style`` is that of ``errorbar``."""
    axes.errorbar(places, [one.mean for one in found], [one.half or 0.0 for one in found], **{"capsize": 2.5, **style})


def _epsilon_axis(run: Run, axes: Axes, rounds: Sequence[int], values: Sequence[float]) -> None:
    right = axes.twinx()
    right.spines["top"].set_visible(False)
    right.plot(
        rounds,
        values,
        color=INK,
        lw=1.8,
        ls=(0, (4, 2)),
        label="epsilon spent (right axis)",
        marker="D",
        ms=4,
        markevery=max(1, len(rounds) // 6),
        clip_on=False,
    )
    right.set_ylim(0, 1.1 * max(*values, 1e-12))
    said = f"{relation_text(run.epsilon_relation)}, delta = {delta_text(run.summary.guarantee.delta)}"
    banner = "\nreproduction, no guarantee" if run.reproduction else ""
    right.set_ylabel(f"epsilon\n({said}){banner}".replace("$", r"\$"))


def whole_numbers(axes: Axes) -> None:
    """Write whole numbers only on the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def _alpha(count: int) -> float:
    return max(0.03, min(0.6, 6.0 / math.sqrt(max(count, 1))))


def _measure_text(value: float, percent: bool) -> str:
    return f"{value:.1f}%" if percent else f"{value:.3g}"


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
