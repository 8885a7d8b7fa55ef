"""Regenerates the table and the figure of docs/ for PMTL from its protocol; finished runs are not repeated."""

from __future__ import annotations

from pathlib import Path

from fedpriv.config import apply, build_experiment, read_toml
from fedpriv.evidence import Evidence, Protocol, collect, differences, fill_page, page_root, read_protocol, table_rows
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


def _page(protocol: Protocol, evidence: Evidence) -> str:
    epsilons = protocol.own["epsilons"]
    gains = differences(evidence, [("pmtl", "pmtl.local_only")], map(_name, epsilons))
    models = [("pmtl", "local_only"), ("pmtl", "billboard"), ("pmtl", "personal"), ("reference", "personal")]
    rows = []
    for gain in gains:
        *mine, other = (str(interval(evidence.column(arm, gain.point, model))) for arm, model in models)
        rows.append([gain.point, *mine, str(gain.interval), f"{gain.p:.2g}", other])
    refuted = [f"epsilon {gain.point}" for gain in gains if float(gain.point) >= 2 and not gain.above]
    return fill_page(_HERE / "evidence-pmtl.md.j2", protocol, evidence, refuted, rows=table_rows(rows))


def _figure(protocol: Protocol, evidence: Evidence, path: Path) -> None:
    from matplotlib.figure import Figure

    from fedpriv.report.figures import COLOURS, draw_intervals, save_svg

    epsilons = protocol.own["epsilons"]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    curves = [
        ("pmtl", "personal", "personal models (PMTL, final fit)", COLOURS["personal"], "o"),
        ("reference", "personal", "personal models (FedAvg, fine-tuned)", "#CC79A7", "s"),
        ("pmtl", "billboard", "PMTL billboard for everybody", COLOURS["billboard"], "^"),
        ("pmtl", "local_only", "local only (nothing shared)", COLOURS["local_only"], "D"),
    ]
    for shift, (arm, model, label, colour, mark) in enumerate(curves):
        points = [interval(evidence.column(arm, _name(epsilon), model)) for epsilon in epsilons]
        places = [epsilon * (0.97 + 0.02 * shift) for epsilon in epsilons]
        draw_intervals(axes, places, points, label=label, color=colour, marker=mark, capsize=3)
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
    (root / "docs/evidence-pmtl.md").write_text(_page(protocol, evidence), encoding="utf-8")
    _figure(protocol, evidence, root / "docs/images/pmtl-digits.svg")


if __name__ == "__main__":
    main()
