"""Regenerates the table and the figure of docs/ for PMTL from its protocol; finished runs are not repeated."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.config import apply, build_experiment, read_toml
from fedpriv.errors import InputError

__all__ = ["main"]

_HERE = Path(__file__).parent
_ARMS = {"pmtl": "PMTL with a final fit", "reference": "FedAvg with fine-tuning"}
Results = dict[tuple[str, float], NDArray[np.float64]]


def _run(arm: str, epsilon: float, seed: int, protocol: dict[str, Any], runs: Path) -> dict[str, Any]:
    """Return the summary of one run, from its folder if it finished before."""
    config = read_toml(_HERE / f"{protocol['preset']}.toml")
    changes: dict[str, Any] = {"run.seed": seed, "run.grid": "in-process", "strategy.epsilon": epsilon}
    changes["strategy.evaluate_every"] = 0
    if arm == "reference":
        changes["client.name"] = protocol["reference"]
    folder = runs / f"{arm}-{epsilon:g}-{seed}"
    experiment = build_experiment(apply(config, changes))
    return experiment.run(folder, resume=(folder / "config.toml").exists()).summary


def _collect(protocol: dict[str, Any], runs: Path) -> tuple[Results, dict[str, str]]:
    """Return accuracies [seeds, 3] (personal, billboard, local only) by arm and epsilon, and the versions used."""
    results: Results = {}
    versions: dict[str, str] = {}
    for epsilon in protocol["epsilons"]:
        for arm in _ARMS:
            rows = []
            for seed in protocol["report_seeds"]:
                summary = _run(arm, epsilon, seed, protocol, runs)
                versions = summary["versions"]
                accuracy = summary["diagnostics"]["accuracy"]
                rows.append([accuracy["personal"], accuracy["billboard"], accuracy["local_only"]])
                if sys.stderr.isatty():
                    sys.stderr.write(f"\repsilon {epsilon:g}, {arm}, seed {seed}   ")
            results[arm, epsilon] = np.array(rows)
    return results, versions


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return mean and half width of the 95% t-interval over seeds."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def _holm(results: Results, epsilons: list[float]) -> dict[float, float]:
    """Return Holm's adjusted p-values of the primary contrast."""
    from scipy.stats import ttest_1samp

    raw = {e: float(ttest_1samp(results["pmtl", e][:, 0] - results["pmtl", e][:, 2], 0.0).pvalue) for e in epsilons}
    adjusted, worst = {}, 0.0
    for position, epsilon in enumerate(sorted(raw, key=lambda e: raw[e])):
        worst = max(worst, min(1.0, raw[epsilon] * (len(raw) - position)))
        adjusted[epsilon] = worst
    return adjusted


def _table(protocol: dict[str, Any], results: Results, versions: dict[str, str]) -> str:
    epsilons = protocol["epsilons"]
    adjusted = _holm(results, epsilons)
    lines = [
        "# PMTL on digits: does sharing pay under privacy?",
        "",
        f"Made by `make evidence` from [the protocol](../scenarios/pmtl/protocol.toml). {protocol['question']}",
        f"Mean test accuracy over 100 tasks, mean and 95% interval over {len(protocol['report_seeds'])} fresh seeds;",
        "joint DP of the personal models against a coalition of all other tasks, add/remove, delta = 1e-5, PLD.",
        "Diagnostics, not released; public benchmark data, each run accounted alone.",
        "",
        "| epsilon | local only | billboard | personal | personal - local only | p (Holm) | FedAvg + fine-tuning |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    refuted = []
    for epsilon in epsilons:
        mine, other = results["pmtl", epsilon], results["reference", epsilon]
        cells = [
            _interval(column) for column in (mine[:, 2], mine[:, 1], mine[:, 0], mine[:, 0] - mine[:, 2], other[:, 0])
        ]
        shown = [f"{mean:.3f} ± {half:.3f}" for mean, half in cells]
        shown.insert(4, f"{adjusted[epsilon]:.2g}")
        lines.append(f"| {epsilon:g} | {' | '.join(shown)} |")
        if epsilon >= 2 and cells[3][0] - cells[3][1] <= 0:
            refuted.append(f"{epsilon:g}")
    verdict = f"It was refuted at epsilon {', '.join(refuted)}." if refuted else "It was not refuted."
    lines += [
        "",
        f"What would have refuted the claim: {protocol['refuted']}. {verdict}",
        "FedAvg with fine-tuning is shown without a claim; it was not tuned for itself.",
        "",
        f"Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}.",
        "",
        "![Accuracy against epsilon](images/pmtl-digits.svg)",
        "",
    ]
    return "\n".join(lines)


def _figure(protocol: dict[str, Any], results: Results, path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    epsilons = np.array(protocol["epsilons"])
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    curves = [
        ("pmtl", 0, "personal models (PMTL, final fit)", "#0072B2", "o"),
        ("reference", 0, "personal models (FedAvg, fine-tuned)", "#CC79A7", "s"),
        ("pmtl", 1, "PMTL billboard for everybody", "#D55E00", "^"),
        ("pmtl", 2, "local only (nothing shared)", "#009E73", "D"),
    ]
    for shift, (arm, column, label, colour, mark) in enumerate(curves):
        points = [_interval(results[arm, epsilon][:, column]) for epsilon in protocol["epsilons"]]
        axes.errorbar(
            epsilons * (0.97 + 0.02 * shift),
            [mean for mean, _ in points],
            [half for _, half in points],
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "fedpriv"}):
        figure.savefig(path, metadata={"Date": None})


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-pmtl.md and its figure."""
    root = root or Path.cwd()
    if not (root / "docs").is_dir():
        raise InputError(f"{root} has no docs folder; run this from the root of a checkout.")
    protocol = tomllib.loads((_HERE / "protocol.toml").read_text())
    results, versions = _collect(protocol, root / "runs/evidence/pmtl")
    (root / "docs/evidence-pmtl.md").write_text(_table(protocol, results, versions))
    _figure(protocol, results, root / "docs/images/pmtl-digits.svg")


if __name__ == "__main__":
    main()
