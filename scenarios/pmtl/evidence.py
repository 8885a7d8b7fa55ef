"""Regenerates the table and the figure of docs/ for PMTL from its protocol; finished runs are not repeated."""

from __future__ import annotations

from pathlib import Path

from fedpriv.config import apply, build_experiment, read_toml
from fedpriv.evidence import Evidence, Protocol, collect, differences, ending, page_root, read_protocol
from fedpriv.statistics import interval

__all__ = ["main"]

_HERE = Path(__file__).parent


def _name(epsilon: float) -> str:
    return f"{epsilon:g}"


def _collect(protocol: Protocol, runs: Path) -> Evidence:
    common = {"run.grid": "in-process", "strategy.evaluate_every": 0}
    config = apply(read_toml(_HERE / f"{protocol.preset}.toml"), common)
    arms = {"pmtl": {}, "reference": {"client.name": protocol.own["reference"]}}
    configs = {
        (arm, _name(epsilon)): apply(config, {"strategy.epsilon": epsilon, **changes})
        for epsilon in protocol.own["epsilons"]
        for arm, changes in arms.items()
    }
    return collect(configs, protocol.report_seeds, build=build_experiment, out=runs)


def _table(protocol: Protocol, evidence: Evidence) -> str:
    epsilons = protocol.own["epsilons"]
    gains = differences(evidence, [("pmtl", "pmtl.local_only")], map(_name, epsilons))
    lines = [
        "# PMTL on digits: does sharing pay under privacy?",
        "",
        f"Made by `make evidence` from [the protocol](../scenarios/pmtl/protocol.toml). {protocol.question}",
        f"Mean test accuracy over 100 tasks, mean and 95% interval over {len(protocol.report_seeds)} fresh seeds;",
        "joint DP of the personal models against a coalition of all other tasks, add/remove, delta = 1e-5, PLD.",
        "Diagnostics, not released; public benchmark data, each run accounted alone.",
        "",
        "| epsilon | local only | billboard | personal | personal - local only | p (Holm) | FedAvg + fine-tuning |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    refuted = []
    for epsilon, gain in zip(epsilons, gains, strict=True):
        models = [("pmtl", "local_only"), ("pmtl", "billboard"), ("pmtl", "personal"), ("reference", "personal")]
        *mine, other = (interval(evidence.column(arm, _name(epsilon), model)) for arm, model in models)
        shown = [*map(str, mine), str(gain.interval), f"{gain.p:.2g}", str(other)]
        lines.append(f"| {epsilon:g} | {' | '.join(shown)} |")
        if epsilon >= 2 and not gain.above:
            refuted.append(f"epsilon {gain.point}")
    lines += [
        "",
        "FedAvg with fine-tuning is shown without a claim; it was not tuned for itself.",
        *ending(protocol, evidence, refuted),
        "",
        "![Accuracy against epsilon](images/pmtl-digits.svg)",
        "",
    ]
    return "\n".join(lines)


def _figure(protocol: Protocol, evidence: Evidence, path: Path) -> None:
    import numpy as np
    from matplotlib.figure import Figure

    from fedpriv.report.figures import COLOURS, save_svg

    epsilons = np.array(protocol.own["epsilons"])
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    curves = [
        ("pmtl", "personal", "personal models (PMTL, final fit)", COLOURS["personal"], "o"),
        ("reference", "personal", "personal models (FedAvg, fine-tuned)", "#CC79A7", "s"),
        ("pmtl", "billboard", "PMTL billboard for everybody", COLOURS["billboard"], "^"),
        ("pmtl", "local_only", "local only (nothing shared)", COLOURS["local_only"], "D"),
    ]
    for shift, (arm, model, label, colour, mark) in enumerate(curves):
        points = [interval(evidence.column(arm, _name(epsilon), model)) for epsilon in protocol.own["epsilons"]]
        axes.errorbar(
            epsilons * (0.97 + 0.02 * shift),
            [point.mean for point in points],
            [point.half or 0.0 for point in points],
            label=label,
            color=colour,
            marker=mark,
            capsize=3,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axes.set_xlabel("epsilon (joint DP, add/remove, delta = 1e-5)")
    axes.set_ylabel("test accuracy, mean over 100 tasks\n(diagnostic, not released)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_svg(figure, path)


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-pmtl.md and its figure."""
    root = page_root(root)
    protocol = read_protocol(_HERE / "protocol.toml", own=("epsilons", "reference"))
    evidence = _collect(protocol, root / "runs/evidence/pmtl")
    (root / "docs/evidence-pmtl.md").write_text(_table(protocol, evidence), encoding="utf-8")
    _figure(protocol, evidence, root / "docs/images/pmtl-digits.svg")


if __name__ == "__main__":
    main()
