"""Draws error against epsilon and tasks, and where recovery is exact: docs/lrs-synthetic.md and its figures.

``python -m fedpriv.scenarios.lrs_synthetic.figures`` runs what is missing below ``runs/``. Nothing is claimed here, so
there is no protocol: the settings are those of the presets, fewer rounds where a run would take long.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedpriv.cohort import Cohort
from fedpriv.config import Config, apply, build_experiment, read_toml
from fedpriv.evidence import Evidence, collect, fill_template, page_root
from fedpriv.experiment import Experiment
from fedpriv.lrs import baselines
from fedpriv.scenarios.lrs_synthetic.compare import own_errors
from fedpriv.statistics import interval
from fedpriv.summary import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["main"]

_HERE = Path(__file__).parent
_COMMON = {"run.checkpoint_every": 1000, "strategy.evaluate_every": 0}
_TASKS, _EPSILONS = (250, 500, 1000, 2000), (1.0, 2.0, 4.0)
_ROUNDS = 40
_PRIVATE_SEEDS = (7001, 7002)
_FEW, _SAMPLES = (5, 10, 20, 40), (15, 20, 25, 30, 40, 60)
_PHASE_SEEDS = (7101, 7102)


def _preset(name: str, changes: dict[str, Any]) -> Config:
    return apply(read_toml(_HERE / f"{name}.toml"), {**_COMMON, **changes})


def _private() -> dict[tuple[str, str], Config]:
    less = {"strategy.rounds": _ROUNDS, "client.steps": 2, "data.tests": 20, "data.validation": 1}
    arms = {f"epsilon-{epsilon:g}": {"strategy.epsilon": epsilon} for epsilon in _EPSILONS}
    arms["no-noise"] = {"strategy.noise_multiplier": 0.0}
    return {
        (arm, f"tasks-{tasks}"): _preset("private", {**less, "data.tasks": tasks, **changes})
        for tasks in _TASKS
        for arm, changes in arms.items()
    }


def _phase() -> dict[tuple[str, str], Config]:
    small = {"data.dimension": 50, "data.sparsity": 5, "client.sparsity": 5}
    found = {
        (f"tasks-{tasks}", f"samples-{samples}"): _preset(
            "exact", {**small, "data.tasks": tasks, "data.samples": samples}
        )
        for tasks in _FEW
        for samples in _SAMPLES
    }
    for config in found.values():
        del config["data"]["overlap"]
    return found


def _measure(experiment: Experiment, result: RunResult) -> dict[str, Any]:
    """Return the errors of the run's own models; without noise, also those of sparse models alone."""
    found: dict[str, float] = dict(own_errors(experiment, result))
    if len(experiment.tasks) >= _TASKS[0] and getattr(experiment.strategy, "noise_multiplier", None) == 0:
        everybody = Cohort(experiment.data, np.arange(len(experiment.tasks)), torch.float64)
        train, test = everybody.part("train").cleared(), everybody.part("test").cleared()
        alone = baselines.sparse_only(train.inputs, train.targets, int(getattr(experiment.client, "sparsity", 0)), 5)
        found["sparse"] = float(np.median(baselines.rmse(alone, test.inputs, test.targets, test.sizes)))
    return {"rmse": found}


def _draw_private(axes: Axes, evidence: Evidence) -> None:
    from fedpriv.report.figures import COLOURS, INK

    colours = ("#CC79A7", "#E69F00", COLOURS["personal"])
    for epsilon, colour, marker in zip(_EPSILONS, colours, "Dvo", strict=True):
        found = [interval(evidence.column(f"epsilon-{epsilon:g}", f"tasks-{t}", "rmse.median")) for t in _TASKS]
        axes.plot(
            _TASKS, [one.mean for one in found], color=colour, marker=marker, lw=1.8, label=f"epsilon {epsilon:g}"
        )
        for seed in range(len(_PRIVATE_SEEDS)):
            points = [evidence.column(f"epsilon-{epsilon:g}", f"tasks-{t}", "rmse.median")[seed] for t in _TASKS]
            axes.plot(_TASKS, points, ".", color=colour, ms=4, alpha=0.6)
    for name, label, dashes in (
        ("median", "no noise (not private)", "--"),
        ("sparse", "sparse only, nothing shared", ":"),
    ):
        found = [interval(evidence.column("no-noise", f"tasks-{t}", f"rmse.{name}")) for t in _TASKS]
        axes.plot(_TASKS, [one.mean for one in found], color=INK, ls=dashes, lw=1.6, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(_TASKS, [f"{t:,}" for t in _TASKS])
    axes.minorticks_off()
    axes.set_yticks([0.05, 0.1, 0.2, 0.5, 1.0], ["0.05", "0.1", "0.2", "0.5", "1"])
    axes.set_xlabel("tasks")
    axes.set_ylabel("median task's error\n(diagnostic, not released)")
    axes.set_title(f"d 50, r 1, k 5, m 40, noise 0.1; {_ROUNDS} rounds, delta 1e-5", fontsize=9.5)
    axes.legend(fontsize=8, frameon=False)


def _draw_phase(axes: Axes, evidence: Evidence) -> None:
    shares = np.array(
        [
            [1 - np.mean(evidence.column(f"tasks-{t}", f"samples-{m}", "rmse.failed")) / t for m in _SAMPLES]
            for t in _FEW
        ]
    )
    axes.imshow(shares, origin="lower", cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        axes.text(
            column,
            row,
            f"{100 * share:.0f}%",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if share > 0.6 else "black",
        )
    axes.set_xticks(range(len(_SAMPLES)), [str(m) for m in _SAMPLES])
    axes.set_yticks(range(len(_FEW)), [str(t) for t in _FEW])
    axes.set_xlabel("training examples of each task")
    axes.set_ylabel("tasks")
    axes.set_title("share of tasks recovered, no noise (d 50, r 1, k 5)", fontsize=9.5)


def _page(private: Evidence, phase: Evidence) -> str:
    return fill_template(
        _HERE / "lrs-synthetic.md.j2",
        rounds=_ROUNDS,
        private_seeds=len(_PRIVATE_SEEDS),
        phase_seeds=len(_PHASE_SEEDS),
        replaced=_replaced(private),
        far={tasks: _ratio(private, 1.0, tasks) for tasks in _TASKS},
        hours=(private.seconds + phase.seconds) / 3600,
    )


def _replaced(private: Evidence) -> str:
    """Return the epsilons under replace-one in words, that of every epsilon drawn."""
    said = [private.guarantees[f"epsilon-{one:g}", f"tasks-{_TASKS[0]}"]["epsilon_replace_one"] for one in _EPSILONS]
    return " and ".join([", ".join(f"{one:.3f}" for one in said[:-1]), f"{said[-1]:.3f}"])


def _ratio(private: Evidence, epsilon: float, tasks: int) -> str:
    noisy, clean = (
        interval(private.column(arm, f"tasks-{tasks}", "rmse.median")).mean
        for arm in (f"epsilon-{epsilon:g}", "no-noise")
    )
    return f"{noisy / clean:.1f}"


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/lrs-synthetic.md and its two figures."""
    from matplotlib.figure import Figure

    from fedpriv.report.figures import save_svg

    root = page_root(root)
    found = []
    for name, configs, seeds, draw, image in (
        ("private", _private(), _PRIVATE_SEEDS, _draw_private, "lrs-private"),
        ("phase", _phase(), _PHASE_SEEDS, _draw_phase, "lrs-synthetic"),
    ):
        out = root / f"runs/evidence/lrs-{name}"
        evidence = collect(configs, seeds, build=build_experiment, out=out, measure=_measure)
        figure = Figure(figsize=(6.0, 4.2), layout="constrained", facecolor="white")
        draw(figure.subplots(), evidence)
        save_svg(figure, root / f"docs/images/{image}.svg")
        found.append(evidence)
    (root / "docs/lrs-synthetic.md").write_text(_page(*found), encoding="utf-8")


if __name__ == "__main__":
    main()
