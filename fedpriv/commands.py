"""What the commands do; :mod:`fedpriv.cli` only reads the words."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.config import Config, apply, completed, parse_assignments, read_toml
from fedpriv.errors import InputError
from fedpriv.progress import Progress
from fedpriv.summary import RunResult

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment
    from fedpriv.privacy.guarantee import Guarantee

__all__ = ["run_scenario"]


def run_scenario(
    name: str,
    *,
    preset: str | None,
    assignments: list[str],
    data_dir: Path | None,
    out: Path | None,
    seed: int | None,
    reproduce: int | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Resolve the configuration, run the experiment, print and draw what came out."""
    from fedpriv.report import write_report
    from fedpriv.runs import free_folder
    from fedpriv.scenarios import scenario

    if seed is not None and reproduce is not None:
        raise InputError("give either --seed or --reproduce: the second fixes everything that the first does.")
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the run to go on with.")
    chosen = scenario(name)
    config = _stored(out) if resume and out is not None else chosen.preset(preset)
    config = apply(config, parse_assignments(assignments))
    number = reproduce if reproduce is not None else seed
    if number is not None:
        if number < 0:
            raise InputError(f"a seed must be 0 or more, got {number}.")
        config = apply(config, {"run.seed": number})
    fixed = config["run"].pop("reproduce", None)
    reproduce = fixed if reproduce is None else reproduce
    label = preset or next(iter(chosen.presets))
    folder = out or free_folder(Path("runs"), f"{name}-{label}")
    experiment = chosen.build(config, data_dir)
    about = {"scenario": name} if resume and preset is None else {"scenario": name, "preset": label}
    resolved = completed(config, experiment.describe())
    if experiment.grid == "flower":
        result = _under_flower(experiment, resolved, folder, data_dir, reproduce, about, resume=resume)
    else:
        with Progress(quiet=as_json) as progress:
            result = experiment.run(
                folder,
                reproduce=reproduce,
                resume=resume,
                progress=progress,
                about=about,
                config=resolved,
                measure=chosen.measure,
            )
    page = write_report([folder])
    leaked = _leaked(config, folder)
    if as_json:
        sys.stdout.write(json.dumps({**_headline(result, folder), **leaked}, indent=2) + "\n")
        return
    _print_result(result, folder, page)
    if leaked:
        from fedpriv.exposure import as_text

        sys.stdout.write(as_text(leaked) + "\n")


def _leaked(config: Config, folder: Path) -> dict[str, Any]:
    """Return what attacks inside the rounds came to, if there were any."""
    if not config.get("attack"):
        return {}
    from fedpriv.exposure import results_of

    return results_of(folder)


def _under_flower(
    experiment: Experiment,
    config: Config,
    folder: Path,
    data_dir: Path | None,
    reproduce: int | None,
    about: dict[str, Any],
    *,
    resume: bool,
) -> RunResult:
    """Hand the run to Flower's own engine: the server there writes the run folder."""
    import tempfile

    import tomli_w

    from fedpriv.runtime.stock import run_under_flower

    if resume:
        raise InputError("nodes of Flower's engine keep their states to themselves; --resume works with run.grid=ray.")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; choose another --out.")
    with tempfile.TemporaryDirectory(prefix="fedpriv-config-") as scratch:
        path = Path(scratch) / "config.toml"
        path.write_bytes(tomli_w.dumps(config).encode())
        nodes = experiment.shards or os.cpu_count() or 1
        run_under_flower(path, folder, nodes=nodes, data_dir=data_dir, reproduce=reproduce, about=about)
    return RunResult.from_summary(json.loads((folder / "summary.json").read_text()), folder)


def _stored(folder: Path) -> Config:
    if not (folder / "config.toml").exists():
        raise InputError(f"{folder} holds no run to resume; leave out --resume to start one.")
    return read_toml(folder / "config.toml")


def _headline(result: RunResult, folder: Path) -> dict[str, Any]:
    summary = result.summary
    diagnostics = {key: value for key, value in summary["diagnostics"].items() if key != "per_task"}
    return {
        "scenario": summary.get("scenario"),
        "preset": summary.get("preset"),
        "diagnostics": diagnostics,
        **summary.get("measures", {}),
        **({"metrics": summary["metrics"]} if "metrics" in summary else {}),
        "guarantee": summary["guarantee"],
        "personal_guarantee": summary["personal_guarantee"],
        "group_guarantees": summary.get("group_guarantees", {}),
        "local_guarantees": summary.get("local_guarantees", []),
        "warnings": summary["warnings"],
        "tasks_per_second": summary["tasks_per_second"],
        "seconds": summary["seconds"],
        "rounds": summary["rounds"],
        "num_tasks": summary["num_tasks"],
        "run": str(folder),
    }


def _print_result(result: RunResult, folder: Path, page: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    accuracy, loss = result.diagnostics.accuracy, result.diagnostics.loss
    table = Table(title="Mean over tasks, on their test parts (diagnostic, not released)")
    for column in ("model", "accuracy", "loss", "epsilon (others see)"):
        table.add_column(column, justify="left" if column == "model" else "right")
    shown = {"personal": _shown(result.personal_guarantee), "billboard": _shown(result.guarantee), "local_only": "0"}
    for label, key in (("personal", "personal"), ("billboard", "billboard"), ("local only", "local_only")):
        table.add_row(
            label,
            _number(getattr(accuracy, key)),
            _number(getattr(loss, key)),
            shown[key],
        )
    console.print(table)
    for name, values in result.summary.get("measures", {}).items():
        console.print(f"{name} (diagnostic, not released): {_listed(values)}", highlight=False, soft_wrap=True)
    if "metrics" in result.summary:
        console.print(_published(result.summary["metrics"]["means"][-1]), highlight=False, soft_wrap=True)
    console.print(str(result.guarantee), highlight=False, soft_wrap=True)
    if result.personal_guarantee != result.guarantee:
        console.print(str(result.personal_guarantee), highlight=False, soft_wrap=True)
    for group, guarantee in result.group_guarantees.items():
        console.print(f"Tasks of {group}: {guarantee}", highlight=False, soft_wrap=True)
    for local in result.summary.get("local_guarantees", []):
        console.print(local["sentence"], highlight=False, soft_wrap=True)
    _print_newcomers(console, result.summary["diagnostics"].get("held_out"))
    for warning in result.summary["warnings"]:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    spent = result.summary["ledger"]["spent"]
    if spent is not None:
        name = result.summary["ledger"]["population"]
        console.print(f"All runs on {name!r} together: {json.dumps(spent)}.", highlight=False, soft_wrap=True)
    seconds, fill = result.summary["seconds"], result.summary["fill_ratio"]
    padding = "" if fill is None else f" (mini-batches {fill:.0%} full)"
    console.print(
        f"{result.tasks_per_second:,.0f} tasks/s in training{padding}, {seconds['total']:.1f} s in all. "
        f"Run folder: {folder}; report: {page}",
        highlight=False,
        soft_wrap=True,
    )


def _published(last: dict[str, Any]) -> str:
    """Say the last metrics that were released."""
    said = (
        f"{name.replace('.', ' ')} {value:.3f} ± {last['noise'][name]:.2g}" for name, value in last["values"].items()
    )
    return f"published: {', '.join(said)} (mean over all tasks, ± the standard deviation of its noise)"


def _print_newcomers(console: Any, found: dict[str, Any] | None) -> None:
    """Say what the billboard is worth to people who took no part."""
    if not found:
        return
    names = {
        "billboard": "the billboard",
        "scratch": "the public start",
        "pretrained": "a plain pre-trained network",
    }
    parts = []
    for name, text in names.items():
        if name in found:
            score = f"{_number(found[name]['accuracy'])} \u00b1 {_number(found[name]['half'])} from {text}"
            best = found[name].get("best")
            parts.append(score + (f" ({_number(best['accuracy'])} at the rate that is best for it)" if best else ""))
    console.print(
        f"Accuracy of {found['people']} people who took no part, after the same adaptation (diagnostic): "
        f"{', '.join(parts)}.",
        highlight=False,
        soft_wrap=True,
    )


def _shown(guarantee: Guarantee) -> str:
    if guarantee.reproduction:
        return "none: reproduction"
    return f"{guarantee.epsilon:.3g}" if math.isfinite(guarantee.epsilon) else "none: no guarantee"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if not isinstance(value, bool))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
