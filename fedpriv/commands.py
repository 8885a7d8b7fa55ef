"""What the commands do; :mod:`fedpriv.cli` only reads the words."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.config import Config, apply, completed, parse_assignments, read_toml
from fedpriv.errors import BudgetExceeded, InputError
from fedpriv.progress import Progress
from fedpriv.summary import RunResult

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment
    from fedpriv.privacy.guarantee import Guarantee
    from fedpriv.privacy.ledger import Ledger

__all__ = ["check_ledger", "run_scenario", "show_ledger"]


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
    if as_json:
        sys.stdout.write(json.dumps(_headline(result, folder), indent=2) + "\n")
    else:
        _print_result(result, folder, page)


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
        "guarantee": summary["guarantee"],
        "personal_guarantee": summary["personal_guarantee"],
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
    console.print(str(result.guarantee), highlight=False, soft_wrap=True)
    if result.personal_guarantee != result.guarantee:
        console.print(str(result.personal_guarantee), highlight=False, soft_wrap=True)
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


def _shown(guarantee: Guarantee) -> str:
    if guarantee.reproduction:
        return "none: reproduction"
    return f"{guarantee.epsilon:.3g}" if math.isfinite(guarantee.epsilon) else "none: no guarantee"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if not isinstance(value, bool))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _ledger_of(population: str, ledger: Path | None) -> tuple[Ledger, str]:
    from fedpriv.privacy.ledger import Ledger

    folder = Path(population)
    if ledger is None and (folder / "summary.json").exists():
        found = json.loads((folder / "summary.json").read_text())["ledger"]
        own = folder / "ledger.sqlite"
        return Ledger(own if own.exists() else Path(found["path"])), str(found["population"])
    if ledger is None and (folder / "ledger.sqlite").exists():
        opened = Ledger(folder / "ledger.sqlite")
        return opened, opened.populations()[0]
    if ledger is None:
        raise InputError(f"{population!r} is not a run folder; give --ledger FILE for a population by name.")
    return Ledger(ledger), population


def show_ledger(population: str, ledger: Path | None, *, as_json: bool) -> None:
    """Print what a population has spent; asking changes nothing."""
    from fedpriv.runs import plain

    opened, name = _ledger_of(population, ledger)
    found = plain(opened.describe(name))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for key, value in found.items():
        sys.stdout.write(f"{key}: {json.dumps(value) if isinstance(value, dict | list) else value}\n")


def check_ledger(population: str, ledger: Path | None, *, as_json: bool) -> None:
    """Check that a ledger is whole and within its budget."""
    opened, name = _ledger_of(population, ledger)
    opened.verify()
    left = opened.describe(name)["left"]
    exceeded = left is not None and float(left["renyi_spent"]) > left["renyi_allowance"] * (1 + 1e-9)
    if as_json:
        sys.stdout.write(json.dumps({"population": name, "whole": True, "within_budget": not exceeded}) + "\n")
    else:
        sys.stdout.write(f"{name}: the ledger is whole{'' if exceeded else ' and within its budget'}.\n")
    if exceeded:
        raise BudgetExceeded(f"{name} has spent more than its budget; make no further releases.")
