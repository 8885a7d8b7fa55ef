"""Regenerates the page and figure of docs/ on ratings from their protocol; finished runs are not repeated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedpriv.config import build_experiment
from fedpriv.evidence import (
    UNSEEN,
    Configs,
    Difference,
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
)
from fedpriv.scenarios.lrs_ratings.compare import KINDS, compare
from fedpriv.statistics import Interval, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COMMON", "main", "rating_differences", "side"]

_HERE = Path(__file__).parent
COMMON = {**UNSEEN, "run.baseline": False}
_BIAS = {"movielens": 0.938, "insteval": 1.202}
"""User and item bias on single ratings of a random 80/20 split, as the data's page has it."""
_TITLES = {"movielens": "MovieLens 100K, groups of people", "insteval": "InstEval, students"}
_SIZES = {"one": 1, "amht": 5, "many": 15}
_PRIVATE = {"epsilon1": 1.0, "epsilon2": 2.0, "epsilon4": 4.0}
_MISLEADING = ("full",)
"""Kinds whose errors would flatten every axis; the table has them."""


def _read() -> tuple[Protocol, Configs]:
    return read_study(_HERE / "protocol.toml", COMMON)


def _found(evidence: Evidence, point: str, kind: str, part: str = "rmse", arm: str = "amht") -> Interval:
    return interval(evidence.column(arm, point, f"{part}.{kind}"))


def _table(protocol: Protocol, evidence: Evidence, point: str) -> list[str]:
    rows = [
        "| model | own numbers per task | all test ratings | data-starved tasks | other tasks |",
        "| --- | ---: | --- | --- | --- |",
    ]
    parts = ("rmse", "starved", "rich")
    sizes = {protocol.arms[arm].label: (arm, size) for arm, size in _SIZES.items()}
    sizes |= {f"{protocol.arms[arm].label}, joint DP": (arm, _SIZES["amht"]) for arm in _PRIVATE}
    for label, (arm, size) in sizes.items():
        rows += table_rows([[label, f"{size}", *(str(_found(evidence, point, "amht", part, arm)) for part in parts)]])
    for kind, label in KINDS.items():
        if kind != "amht":
            own = "1, and 1 per item" if kind == "bias" else f"{_found(evidence, point, kind, 'own').mean:.0f}"
            rows += table_rows([[label, own, *(str(_found(evidence, point, kind, part)) for part in parts)]])
    starved, rich = (f"{_found(evidence, point, part, 'tasks').mean:.0f}" for part in ("starved", "rich"))
    said = evidence.guarantees["epsilon1", point]
    return [
        f"{starved} data-starved tasks, {rich} others; {len(protocol.seeds[point])} seeds.",
        "",
        *rows,
        "",
        f"Epsilon 1, for example: {said['sentence']}",
    ]


def side(protocol: Protocol, name: str) -> tuple[str, str]:
    """Return what a side of a difference is called, and over which tasks it is measured."""
    arm, _, rest = name.partition(".")
    part, _, kind = rest.partition(".")
    label = protocol.arms[arm].label if kind == "amht" else KINDS[kind]
    return label, "data-starved tasks" if part == "starved" else "all"


def rating_differences(protocol: Protocol, found: list[Difference]) -> list[str]:
    """Return the table of differences in errors."""

    def cells(one: Difference) -> tuple[str, ...]:
        (first, where), (second, _) = side(protocol, one.first), side(protocol, one.second)
        spread = f"{one.interval.mean:.4f} \u00b1 {one.interval.half or 0.0:.4f}"
        return f"{first} minus {second}", where, one.point, spread

    return difference_table(protocol, found, ("difference", "tasks", "data", "mean and 95% interval"), cells, "below")


def _sentence(evidence: Evidence, protocol: Protocol) -> str:
    parts = []
    for point in protocol.points:
        mine, single = (_found(evidence, point, kind).mean for kind in ("amht", "single"))
        private = _found(evidence, point, "amht", arm="epsilon1").mean
        rest = {kind: _found(evidence, point, kind).mean for kind in KINDS if kind != "amht"}
        best = min(rest, key=lambda kind: rest[kind])
        parts.append(
            f"{_TITLES[point]}: {mine:.3f} with 5 own numbers, and {private:.3f} at epsilon 1, against {single:.3f} "
            f"for a single model. The best simpler model there is {KINDS[best]}: {rest[best]:.3f}."
        )
    return " ".join(parts)


def _page(protocol: Protocol, evidence: Evidence) -> str:
    found = differences(evidence, protocol.pairs, protocol.points)
    failed = [
        f"{side(protocol, one.first)[0]} minus {side(protocol, one.second)[0]} on {one.point}"
        for one in claimed(protocol, found)
        if not one.below
    ]

    def gap(point: str, first: str, second: str) -> str:
        pairs = zip(*(evidence.column("amht", point, f"rmse.{kind}") for kind in (first, second)), strict=True)
        return f"{interval([a - b for a, b in pairs]).mean:.3f}"

    return fill_page(
        _HERE / "evidence-ratings.md.j2",
        protocol,
        evidence,
        failed,
        sentence=_sentence(evidence, protocol),
        gap=gap,
        tables={_TITLES[point]: _table(protocol, evidence, point) for point in protocol.points},
        differences=rating_differences(protocol, found),
    )


def _figure(protocol: Protocol, evidence: Evidence, path: Path) -> None:
    from matplotlib.figure import Figure

    from fedpriv.report.figures import dress, save_svg

    figure = Figure(figsize=(11.5, 7.4), layout="constrained", facecolor="white")
    panels = figure.subplots(len(protocol.points), 3)
    for row, point in zip(panels, protocol.points, strict=True):
        _sizes(row[0], evidence, point)
        _kinds(row[1], evidence, point)
        _epsilons(row[2], evidence, point)
        row[1].set_title(_TITLES[point], fontsize=11, pad=24)
        for axes in row:
            dress(axes)
            axes.tick_params(labelsize=8.5)
    figure.supylabel("root mean squared test error (diagnostic, not released)", fontsize=10)
    save_svg(figure, path)


def _sizes(axes: Axes, evidence: Evidence, point: str) -> None:
    """Error against own numbers per task (the paper's Figure 1)."""
    from fedpriv.report.figures import COLOURS, INK, draw_intervals

    styles: Mapping[str, tuple[str, str]] = {
        "prompt": ("#CC79A7", "D"),
        "prompt_shrunk": ("#CC79A7", "d"),
        "representation": ("#E69F00", "v"),
        "ridge": (COLOURS["billboard"], "s"),
        "tuned": (COLOURS["billboard"], "P"),
    }
    for kind, colour in (("amht", COLOURS["personal"]), ("sparse", COLOURS["local_only"])):
        found = [_found(evidence, point, kind, arm=arm) for arm in _SIZES]
        look = {"marker": "o", "ms": 5.5, "color": colour, "label": KINDS[kind]}
        draw_intervals(axes, list(_SIZES.values()), found, **look)
    for kind, (colour, mark) in styles.items():
        size = _found(evidence, point, kind, "own").mean
        look = {"marker": mark, "ms": 5.5, "lw": 1.4, "ls": "none", "color": colour, "label": KINDS[kind]}
        draw_intervals(axes, [size], [_found(evidence, point, kind)], **look)
    axes.axhline(_found(evidence, point, "single").mean, color=INK, lw=1.2, label="single model (0 own numbers)")
    axes.axhline(_found(evidence, point, "bias").mean, color=INK, ls=":", lw=1.4, label="task and item bias")
    axes.set_xscale("log")
    axes.set_xticks([1, 5, 15, 52], ["1", "5", "15", "52"])
    axes.minorticks_off()
    axes.set_xlabel("own numbers per task, of 52 weights", fontsize=9)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Put the legend below, beside the long labels of the panel in the middle."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=7.5, frameon=False)


def _kinds(axes: Axes, evidence: Evidence, point: str) -> None:
    """Data-starved and other tasks apart (the paper's Figure 1 b and c)."""
    from fedpriv.report.figures import COLOURS, draw_intervals

    kinds = [kind for kind in KINDS if kind not in (*_MISLEADING, "representation_wide")]
    for part, label, colour, mark, shift in (
        ("starved", "data-starved tasks", COLOURS["billboard"], "s", -0.12),
        ("rich", "other tasks", COLOURS["personal"], "o", 0.12),
    ):
        found = [_found(evidence, point, kind, part) for kind in kinds]
        places = [place + shift for place in range(len(kinds))]
        draw_intervals(axes, places, found, color=colour, marker=mark, ms=5.5, ls="none", label=label)
    axes.set_xticks(range(len(kinds)), [KINDS[kind].replace("full fine-tuning, ", "full, ") for kind in kinds])
    axes.tick_params(axis="x", rotation=40)
    for text in axes.get_xticklabels():
        text.set_horizontalalignment("right")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, frameon=False)


def _epsilons(axes: Axes, evidence: Evidence, point: str) -> None:
    """Private runs against epsilon."""
    from fedpriv.report.figures import COLOURS, INK, draw_intervals

    found = [_found(evidence, point, "amht", arm=arm) for arm in _PRIVATE]
    look = {"marker": "o", "ms": 5.5, "color": COLOURS["personal"], "label": "AMHT-LRS, private"}
    draw_intervals(axes, list(_PRIVATE.values()), found, **look)
    lines = [
        (_found(evidence, point, "amht").mean, "AMHT-LRS, no noise", COLOURS["personal"], "--"),
        (_found(evidence, point, "single").mean, "single model, no noise", INK, "-"),
        (_found(evidence, point, "ridge").mean, "full, ridge: nothing shared", COLOURS["billboard"], "-."),
        (_found(evidence, point, "bias").mean, "task and item bias, no noise", INK, ":"),
        (_BIAS[point], f"user and item bias, single ratings: {_BIAS[point]}", "#999999", ":"),
    ]
    for value, label, colour, dashes in lines:
        axes.axhline(value, color=colour, ls=dashes, lw=1.4, label=label)
    axes.set_xticks(list(_PRIVATE.values()))
    axes.set_xlabel("epsilon (joint DP, add/remove, delta 1e-5)", fontsize=9)
    _legend(axes)


def main(root: Path | None = None, data_dir: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-ratings.md and its figure."""
    root = page_root(root)
    protocol, configs = _read()
    runs = root / "runs/evidence/lrs-ratings"
    evidence = collect(configs, protocol.seeds, build=build_experiment, out=runs, data_dir=data_dir, measure=compare)
    (root / "docs/evidence-ratings.md").write_text(_page(protocol, evidence), encoding="utf-8")
    _figure(protocol, evidence, root / "docs/images/lrs-ratings.svg")


if __name__ == "__main__":
    main()
