"""Regenerates the page and figure of docs/ on personal networks from their protocol; finished runs are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fedpriv.cohort import Learner, Params, engine_named
from fedpriv.config import apply, build_experiment
from fedpriv.data import keep_data
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
from fedpriv.held_out import score_start
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.statistics import interval

__all__ = ["main"]

_HERE = Path(__file__).parent
_STUDIES = {"lrs-net": "protocol", "lrs-net-few": "few-protocol", "lrs-net-same": "same-protocol"}
"""The protocol of each page."""
_SHARED = "shared"
"""The arm whose last network the arms of fine-tuning start from, where the protocol does not say which."""


def _read(protocol: str) -> tuple[Protocol, Configs]:
    common = {**UNSEEN, "run.baseline": False}
    return read_study(_HERE / f"{protocol}.toml", common, ("fine_tuned", "numbers"))


def _side(protocol: Protocol, side: str) -> str:
    return protocol.arms[side].label


def _names(protocol: Protocol, one: Difference) -> str:
    return f"{_side(protocol, one.first)} minus {_side(protocol, one.second)}"


def _collect(protocol: Protocol, configs: Configs, out: Path) -> Evidence:
    """Run the arms that train; then fit the others to the last network of one of these, seed by seed."""
    fine_tuned = _starts(protocol)
    evidence = collect(
        {(arm, point): config for (arm, point), config in configs.items() if arm not in fine_tuned},
        protocol.seeds,
        build=build_experiment,
        out=out,
    )
    found = {(arm, point, "personal"): list[float]() for point in protocol.points for arm in fine_tuned}
    with keep_data():
        for point, seeds in protocol.seeds.items():
            for seed in seeds:
                networks = {
                    trained: _network(out / f"{trained}-{point}" / f"seed-{seed}")
                    for trained in set(fine_tuned.values())
                }
                for arm, trained in fine_tuned.items():
                    run = build_experiment(apply(configs[arm, point], {"run.seed": seed}))
                    learner = Learner(run.problem(), engine_named(run.engine))
                    scores = score_start(run.client, learner, networks[trained], run.data)
                    found[arm, point, "personal"].append(float(scores.mean()))
    return replace(evidence, columns=evidence.columns | found)


def _starts(protocol: Protocol) -> dict[str, str]:
    """Return which arms are fine-tuned, and from the network of which arm."""
    named: dict[str, str] | list[str] = protocol.own["fine_tuned"]
    return named if isinstance(named, dict) else dict.fromkeys(named, _SHARED)


def _network(run: Path) -> Params:
    """Return the shared network that a run published last."""
    store = CheckpointStore(run / "checkpoints")
    (published,) = store.load(max(store.rounds())).billboards.values()
    return {name: torch.from_numpy(value) for name, value in published.items() if name.startswith("net.")}


def _table(protocol: Protocol, evidence: Evidence, point: str) -> list[str]:
    rows = ["| model of a writer | numbers of its own | test accuracy |", "| --- | ---: | --- |"]
    numbers = protocol.own["numbers"]
    for side in protocol.arms:
        own = f"{numbers.get(side, 0):,}"
        rows += table_rows([[_side(protocol, side), own, str(interval(evidence.column(side, point)))]])
    alone = interval(evidence.column("lrs", point, "billboard"))
    rows += ["", f"The first arm's shared network without coefficients and sparse part: {alone}."]
    return rows


def _page(name: str, protocol: Protocol, evidence: Evidence) -> str:
    found = differences(evidence, protocol.pairs, protocol.points)
    claims = claimed(protocol, found)
    epsilons = {point: where.settings.get("strategy.epsilon") for point, where in protocol.points.items()}
    headings = {point: f"Epsilon {one:g}" if one else "Without noise" for point, one in epsilons.items()}
    return fill_page(
        _HERE / f"evidence-{name}.md.j2",
        protocol,
        evidence,
        [f"{_names(protocol, one)} ({one.point})" for one in claims if not one.above],
        tables={
            f"{heading}, {len(protocol.seeds[point])} fresh seeds": _table(protocol, evidence, point)
            for point, heading in headings.items()
        },
        differences=difference_table(
            protocol,
            found,
            ("difference", "where", "mean and 95% interval"),
            lambda one: (_names(protocol, one), one.point, str(one.interval)),
        ),
        weak=[_names(protocol, one) for one in claims if one.p >= protocol.level],
    )


def _figure(protocol: Protocol, evidence: Evidence, path: Path) -> None:
    from matplotlib.figure import Figure

    from fedpriv.report.figures import COLOURS, INK, dress, save_svg

    sides = list(protocol.arms)
    figure = Figure(figsize=(8.4, 1.1 + 0.42 * len(sides)), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(protocol.points), sharey=True, squeeze=False)[0]
    for axes, point in zip(panels, protocol.points, strict=True):
        epsilon = protocol.points[point].settings.get("strategy.epsilon")
        for row, side in enumerate(sides):
            one = interval(evidence.column(side, point))
            colour = COLOURS["personal"] if side == "lrs" else INK if row == 0 else COLOURS["local_only"]
            axes.errorbar(
                [one.mean], [row], xerr=[one.half or 0.0], color=colour, marker="o", ms=6, lw=1.8, capsize=3.5
            )
            axes.annotate(
                f"{one.mean:.3f}", (one.mean, row), (0, 6), textcoords="offset points", ha="center", fontsize=8
            )
        axes.set_title(f"epsilon {epsilon:g}" if epsilon else "without noise", fontsize=10)
        dress(axes, "x", ("top", "right", "left"))
        axes.tick_params(labelsize=8.5)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.1)
    numbers = protocol.own["numbers"]
    labels = [f"{_side(protocol, side)} ({numbers.get(side, 0):,})" for side in sides]
    panels[0].set_yticks(range(len(sides)), labels, fontsize=9)
    panels[0].set_ylim(len(sides) - 0.5, -0.8)
    figure.supxlabel(
        "test accuracy, mean over 206 writers (diagnostic, not released); in brackets a writer's own numbers\n"
        "mark and bar: mean and 95% interval over fresh seeds",
        fontsize=9,
    )
    save_svg(figure, path)


def main(root: Path | None = None) -> None:
    """Run what is missing, then write the pages docs/evidence-lrs-net*.md and their figures."""
    root = page_root(root)
    for name, place in _STUDIES.items():
        protocol, configs = _read(place)
        evidence = _collect(protocol, configs, root / "runs/evidence" / name)
        (root / f"docs/evidence-{name}.md").write_text(_page(name, protocol, evidence), encoding="utf-8")
        _figure(protocol, evidence, root / f"docs/images/{name}-femnist.svg")


if __name__ == "__main__":
    main()
