"""Regenerates the page and figure of docs/ on personal networks from their protocol; finished runs are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fedpriv.cohort import Learner, Params, engine_named
from fedpriv.config import Config, apply, build_experiment, read_toml
from fedpriv.data import keep_data
from fedpriv.evidence import (
    Difference,
    Evidence,
    Protocol,
    Study,
    claimed,
    collect,
    configurations,
    difference_table,
    differences,
    ending,
    opening,
    page_root,
    read_protocol,
)
from fedpriv.held_out import score_start
from fedpriv.runs.checkpoint import BoundaryStore
from fedpriv.statistics import interval

__all__ = ["main"]

_HERE = Path(__file__).parent
_COMMON = {
    "run.grid": "in-process",
    "run.baseline": False,
    "run.checkpoint_every": 1000,
    "strategy.evaluate_every": 0,
}
_SHARED = "shared"
"""The arm whose last network the arms of fine-tuning start from, where the protocol does not say which."""


def _preset(name: str) -> Config:
    return read_toml(_HERE / f"{name}.toml")


def _side(protocol: Protocol, side: str) -> str:
    return protocol.arms[side].label


def _names(protocol: Protocol, one: Difference) -> str:
    return f"{_side(protocol, one.first)} minus {_side(protocol, one.second)}"


def _collect(protocol: Protocol, out: Path) -> Evidence:
    """Run the arms that train; then fit the others to the last network of one of these, seed by seed."""
    configs = configurations(protocol, _preset, _COMMON)
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
    store = BoundaryStore(run / "checkpoints")
    (published,) = store.load(max(store.rounds())).billboards.values()
    return {name: torch.from_numpy(value) for name, value in published.items() if name.startswith("net.")}


def _table(protocol: Protocol, evidence: Evidence, point: str) -> list[str]:
    rows = ["| model of a writer | numbers of its own | test accuracy |", "| --- | ---: | --- |"]
    numbers = protocol.own["numbers"]
    for side in protocol.arms:
        own = f"{numbers.get(side, 0):,}"
        rows.append(f"| {_side(protocol, side)} | {own} | {interval(evidence.column(side, point))} |")
    alone = interval(evidence.column("lrs", point, "billboard"))
    rows += ["", f"The first arm's shared network without coefficients and sparse part: {alone}."]
    return rows


def _differences(protocol: Protocol, found: list[Difference]) -> list[str]:
    return difference_table(
        protocol,
        found,
        ("difference", "where", "mean and 95% interval"),
        lambda one: (_names(protocol, one), one.point, str(one.interval)),
    )


def _page(study: Study, protocol: Protocol, evidence: Evidence) -> str:
    found = differences(evidence, protocol.pairs, protocol.points)
    claims = claimed(protocol, found)
    failed = [f"{_names(protocol, one)} ({one.point})" for one in claims if not one.above]
    lines = [
        *opening(protocol, study.title, f"lrs_net/{study.protocol}"),
        f"![Accuracy by kind of personal model](images/{study.name}-femnist.svg)",
        "",
        *_MEASURED.splitlines(),
        "",
        *study.explained.splitlines(),
    ]
    for point, where in protocol.points.items():
        seeds = len(protocol.seeds[point])
        epsilon = where.settings.get("strategy.epsilon")
        heading = f"Epsilon {epsilon:g}" if epsilon else "Without noise"
        lines += ["", f"## {heading}, {seeds} fresh seeds", "", *_table(protocol, evidence, point)]
    lines += ["", "## Differences, paired by seed", "", *_differences(protocol, found)]
    weak = [_names(protocol, one) for one in claims if one.p >= protocol.level]
    if weak:
        names = "; ".join(weak)
        lines += ["", f"Not significant at {protocol.level:g} after the correction for all differences: {names}."]
    lines += ["", *ending(protocol, evidence, failed), ""]
    return "\n".join(lines)


def _figure(protocol: Protocol, evidence: Evidence, path: Path) -> None:
    from matplotlib.figure import Figure

    from fedpriv.report.figures import COLOURS, GRID, INK, save_svg

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
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color=GRID, lw=0.7)
        axes.set_axisbelow(True)
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


_MEASURED = """\
What is measured: test accuracy of the writers' own networks after the last fit, mean over 206 writers; mean and 95%
interval over fresh seeds. Diagnostics, not released. There is no noise here, so there is no guarantee: 206 writers
with a dozen thousand numbers on the billboard are too few for a small epsilon at the level of a writer. What was tuned,
on other seeds, is said in the protocol. Seeds divide the same public images, so tuning has seen them in other roles,
alike for all rows."""

_STUDIES = (
    Study(
        "protocol.toml",
        "lrs-net",
        "Personal networks for writers: shared directions and a few numbers of one's own",
        """\
- *Shared directions, sparse part anywhere*: the client `low-rank-sparse-net`. A writer has 3 coefficients for each of
  2 layers, and 56 places anywhere in the network with their values, 62 numbers in all (and where the places are).
- *Fine-tuned*: the shared network, and as many numbers changed afterwards: the 62 biases of the last layer, or the 62
  places with the largest gradients, anywhere or among the 110 biases. The same code with rank 0, fitted at the end
  only.
- *Fine-tuned: everything*: all 12,494 numbers, with few and small steps; a reference, 200 times as many numbers.

The shared network is trained for 75 rounds, the first arm for 70, of which the first 48 are a warm-up of the shared
network. So the first arm and those of fine-tuning do the same local work, and the shared network alone 4% less.""",
    ),
    Study(
        "few-protocol.toml",
        "lrs-net-few",
        "Personal networks for writers: 7 numbers of one's own",
        """\
- *Shared directions, one place anywhere*: the client `low-rank-sparse-net`. A writer has 3 coefficients for each of 2
  layers, and one place anywhere in the network with its value: 7 numbers (and where the place is).
- *Fine-tuned*: the shared network, and 7 numbers changed afterwards: those with the largest gradients anywhere, among
  all biases, or among those of one layer. The same code with rank 0, fitted at the end only.
- *62 of all biases* and *everything*: references, 9 and 1,800 times as many numbers.

The budget was lowered after [62 numbers](evidence-lrs-net.md) had come out level with the best of the rivals there.
A writer takes part in half the rounds, so the first arm's local work is 660 passes of a writer's images in expectation,
the shared network's 650, and that of fine-tuning 6 to 20 more. (The protocol counts rounds as if all took part.)""",
    ),
    Study(
        "same-protocol.toml",
        "lrs-net-same",
        "Personal networks for writers: 5 numbers of one's own, from one and the same network",
        """\
- *Shared directions, one place anywhere*: the client `low-rank-sparse-net`. A writer has 2 coefficients for each of 2
  layers, and one place anywhere in the network with its value: 5 numbers (and where the place is). A network is trained
  first (`client.warm_up`) and stays as it is then (`client.network_rate`). In a round a writer fits coefficients to
  half of its images and sends what the other half says about directions (`client.fit_share`).
- *Fine-tuned*: that very network, and 5 numbers changed afterwards: those with the largest gradients anywhere, among
  all biases, or among those of one layer. The same code with rank 0, fitted at the end only.
- *Trained as long as all of the last arm*: 680 rounds, where the other network had 600 and the directions 80.
- *62 of all biases* and *everything*: references, 12 and 2,500 times as many numbers.

Before this, networks that were trained apart were compared, with [62](evidence-lrs-net.md) and with
[7 numbers](evidence-lrs-net-few.md): directions were level with the best of the rivals, and last rounds of two networks
differed by more than what was looked for.""",
    ),
)


def main(root: Path | None = None) -> None:
    """Run what is missing, then write the pages docs/evidence-lrs-net*.md and their figures."""
    root = page_root(root)
    for study in _STUDIES:
        protocol = read_protocol(_HERE / study.protocol, own=("fine_tuned", "numbers"))
        evidence = _collect(protocol, root / "runs/evidence" / study.name)
        (root / f"docs/evidence-{study.name}.md").write_text(_page(study, protocol, evidence), encoding="utf-8")
        _figure(protocol, evidence, root / f"docs/images/{study.name}-femnist.svg")


if __name__ == "__main__":
    main()
