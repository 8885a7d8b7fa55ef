"""``fedpriv run``: resolve the configuration, run the experiment, print and draw what came out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv.cli.options import Assignments, DataDir, JsonFlag, PresetName, ScenarioName, path_option, say, say_json
from fedpriv.config import Config, apply, completed, parse_assignments, read_toml, started_anew
from fedpriv.errors import InputError, Interrupted
from fedpriv.machine import usable_cores
from fedpriv.names import dotted
from fedpriv.progress import Progress, phase

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment
    from fedpriv.privacy.guarantee import Guarantee
    from fedpriv.scenarios import Scenario
    from fedpriv.summary import RunResult

__all__ = ["measure_lines", "print_result", "run"]


def run(
    scenario: ScenarioName,
    preset: PresetName = None,
    assignments: Assignments = None,
    data_dir: DataDir = None,
    out: Annotated[Path | None, path_option("Run folder; runs/SCENARIO-PRESET[-N] unless given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes what may be public. Noise and coins stay random.")] = None,
    reproduce: Annotated[int | None, typer.Option(help="Fixes noise and coins, too, for tests: no guarantee.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a scenario (see `fedpriv list`), or a TOML file of yours: train, score, account, write the run folder."""
    from fedpriv.runs import begun, free_folder
    from fedpriv.scenarios import scenario as find

    if seed is not None and reproduce is not None:
        raise InputError("give either --seed or --reproduce: the second fixes everything that the first does.")
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the run to go on with.")
    chosen = find(scenario)
    stored = _stored(out) if resume and out is not None else None
    config = chosen.preset(preset) if stored is None else stored
    changes = parse_assignments(assignments or [])
    if stored is not None and chosen.is_file and not chosen.of_run:
        _say_other(chosen.preset(), stored, changes, out)
    config = apply(config, changes)
    number = reproduce if reproduce is not None else seed
    if number is not None:
        if number < 0:
            raise InputError(f"a seed must be 0 or more, got {number}.")
        config = apply(config, {"run.seed": number})
    if reproduce is not None:
        config["run"]["reproduce"] = reproduce
    if stored is None:
        config = started_anew(config)
    folder = out or free_folder(Path("runs"), chosen.folder_name(preset))
    about = {"scenario": chosen.name}
    if not resume or preset is not None:
        about["preset"] = chosen.label(preset)
    # Else the folder holds another run, which is refused below, or nodes that keep their states to themselves.
    mine = (resume or not begun(folder)) and config["run"].get("grid") != "flower"
    try:
        _run(chosen, config, folder, data_dir, about, resume=resume, as_json=as_json)
    except KeyboardInterrupt:
        if not mine or not begun(folder):
            raise
        where = "" if out is not None else f" --out {folder}"
        raise Interrupted(f"stopped; go on with --resume{where}.") from None


def _run(
    chosen: Scenario,
    config: Config,
    folder: Path,
    data_dir: Path | None,
    about: dict[str, Any],
    *,
    resume: bool,
    as_json: bool,
) -> None:
    from fedpriv.runs import read_finished

    if resume and (record := read_finished(folder, config, about)) is not None:
        from fedpriv.runs.ledger_check import check_finished

        check_finished(folder, record)
        _say_finished(record.to_json(), folder, as_json=as_json)
        return
    reproduce = config["run"].pop("reproduce", None)
    with Progress(quiet=as_json), phase("data"):
        experiment = chosen.build(config, data_dir)
    resolved = completed(config, experiment.describe())
    if experiment.grid == "flower":
        with Progress(quiet=as_json), phase("run under Flower"):
            result = _under_flower(experiment, resolved, folder, data_dir, reproduce, about, resume=resume)
    else:
        with Progress(quiet=as_json) as progress:
            # A report is drawn after the table was printed: it takes about as long as a short run.
            result = experiment.model_copy(update={"report": experiment.report and as_json}).run(
                folder,
                reproduce=reproduce,
                resume=resume,
                progress=progress,
                about=about,
                config=resolved,
                measure=chosen.measure,
            )
    leaked = _leaked(config, folder)
    if as_json:
        say_json({**_headline(result.summary, folder), **leaked})
        return
    print_result(result, folder, draw=experiment.report and experiment.grid != "flower")
    if leaked:
        from fedpriv.adversary import as_text

        say(as_text(leaked))


def _leaked(config: Config, folder: Path) -> dict[str, Any]:
    """Return the results of attacks inside the rounds, if there were any."""
    if not config.get("attack"):
        return {}
    from fedpriv.adversary import results_of

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
    from fedpriv.summary import RunResult

    if resume:
        raise InputError("nodes of Flower's engine keep their states to themselves; --resume works with run.grid=ray.")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; choose another --out.")
    with tempfile.TemporaryDirectory(prefix="fedpriv-config-") as scratch:
        file = Path(scratch) / "config.toml"
        file.write_bytes(tomli_w.dumps(config).encode())
        nodes = experiment.shards or usable_cores()
        # What scores held-out people, or attacks, has to see data.
        needed = experiment.held_out is not None or config.get("attack")
        run_under_flower(
            file,
            folder,
            nodes=nodes,
            data_dir=data_dir,
            roster=None if needed else experiment.roster,
            reproduce=reproduce,
            about=about,
        )
    return RunResult.from_summary(json.loads((folder / "summary.json").read_text(encoding="utf-8")), folder)


def _stored(folder: Path) -> Config:
    from fedpriv.runs import made_in_python

    if not (folder / "config.toml").exists():
        raise InputError(f"{folder} holds no run to resume; leave out --resume to start one.")
    stored = read_toml(folder / "config.toml")
    if made_in_python(stored):
        raise InputError(
            f"{folder} was started in Python, so no command can load its data; go on there, with resume=True."
        )
    return stored


def _say_other(given: Config, stored: Config, changes: Mapping[str, Any], folder: Path | None) -> None:
    """Say on standard error which settings of a file are not those that the run goes on with."""
    kept = {section: stored.get(section, {}) for section in given if section != "code"}
    other = [
        f"{section}.{key}"
        for section, known in kept.items()
        for key, value in given[section].items()
        if f"{section}.{key}" not in changes and (section, key) != ("run", "ledger") and known.get(key) != value
    ]
    if other:
        sys.stderr.write(
            f"note: {folder} was started with other values than the file gives for {', '.join(other)}; the run goes on "
            "with those it was started with.\n"
        )


def _say_finished(summary: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    if as_json:  # what the run itself printed, for the same program
        say_json(_headline(summary, folder))
    said = f"{folder}: the run is finished; nothing was trained or charged. {_where_report(folder)}.\n"
    (sys.stderr if as_json else sys.stdout).write(said)


def _where_report(folder: Path) -> str:
    page = folder / "report.html"
    return f"Report: {page}" if page.exists() else f"Write its report with `fedpriv report {folder}`"


def _headline(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    diagnostics = {key: value for key, value in summary["diagnostics"].items() if not key.startswith("per_task")}
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
        "sharing": summary.get("sharing", {}),
        "tasks_per_second": summary["tasks_per_second"],
        "seconds": summary["seconds"],
        "rounds": summary["rounds"],
        "num_tasks": summary["num_tasks"],
        "run": str(folder),
    }


def print_result(result: RunResult, folder: Path, *, draw: bool) -> None:
    """Print the results of a run; then draw its figures and report, if they shall be drawn."""
    from rich.console import Console
    from rich.table import Table

    from fedpriv.cli.ledger_words import spent_words

    console = Console()
    tell = partial(console.print, highlight=False, soft_wrap=True)
    heading, *lines = model_rows(result)
    if lines:
        table = Table(title="Mean over tasks, on their test parts (diagnostic, not released)")
        for column in heading:
            table.add_column(column, justify="left" if column == "model" else "right")
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for text in spread_lines(result.summary):
        console.print(text, highlight=False, soft_wrap=True)
    for text in measure_lines(result.summary.get("measures", {})):
        tell(text)
    if "metrics" in result.summary:
        tell(_published(result.summary["metrics"]["means"][-1]))
    tell(str(result.guarantee))
    if result.personal_guarantee != result.guarantee:
        tell(str(result.personal_guarantee))
    for group, guarantee in result.group_guarantees.items():
        tell(f"Tasks of {group}: {guarantee}")
    for local in result.summary.get("local_guarantees", []):
        tell(local["sentence"])
    if held_out := result.summary["diagnostics"].get("held_out"):
        tell(_held_out(held_out))
    for warning in result.summary["warnings"]:
        tell(f"warning: {warning}")
    if (where := result.summary.get("sharing", {}).get("measured_in")) is not None:
        said = f"{folder / where} says, for you alone, whether the personal models are better than training alone."
        tell(said)
    spent = result.summary["ledger"]["spent"]
    if spent is not None:
        name = result.summary["ledger"]["population"]
        tell(spent_words(name, spent))
    if draw:
        from fedpriv.report import write_report

        with Progress(quiet=False), phase("figures and report"):
            write_report([folder])
    seconds, fill = result.summary["seconds"], result.summary["fill_ratio"]
    padding = "" if fill is None else f" (mini-batches {fill:.0%} full)"
    tell(
        f"{result.tasks_per_second:,.0f} tasks/s in training{padding}, {seconds['total']:.1f} s in all. "
        f"Run folder: {folder}. {_where_report(folder)}."
    )


def model_rows(result: RunResult) -> list[tuple[str, ...]]:
    """Return the table of the models, its heading first: only models that this run has, only what was measured."""
    measures = result.diagnostics.measures
    shown = {"personal": _shown(result.personal_guarantee), "billboard": _shown(result.guarantee), "local_only": "0"}
    models = [key for key in shown if any(getattr(one, key) is not None for one in measures.values())]
    columns = [name for name, one in measures.items() if any(getattr(one, key) is not None for key in models)]
    rows = [
        (key.replace("_", " "), *(_number(getattr(measures[name], key)) for name in columns), shown[key])
        for key in models
    ]
    return [("model", *columns, "epsilon (others see)"), *rows]


def spread_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return how far tasks differ, for the personal models; of protected data where it is."""
    found = summary["diagnostics"]
    if (where := found.get("tasks_in")) is not None:
        return [
            f"What single tasks reach, how far they differ, and how many updates counted as zero is in {where} of the "
            "run folder, for you alone."
        ]
    said = []
    for measure, models in found.get("spread", {}).items():
        one = models.get("personal", {})
        parts = [f"{words} {one[key]:.3g}" for key, words in _SPREAD.items() if one.get(key) is not None]
        said += [f"{measure} {', '.join(parts)}"] if parts else []
    return [f"personal models over tasks (diagnostic, not released): {'; '.join(said)}"] if said else []


_SPREAD = {"worst_decile": "worst decile", "deviation": "standard deviation"}


def measure_lines(measures: Mapping[str, Any]) -> list[str]:
    """Return what a scenario measured, a line for each group of numbers."""
    groups: dict[str, dict[str, float]] = {}
    for name, value in dotted(measures).items():
        group, dot, inner = name.partition(".")
        groups.setdefault(group if dot else "measures", {})[inner or name] = value
    return [
        f"{group} (diagnostic, not released): {', '.join(f'{name} {_counted(value)}' for name, value in one.items())}"
        for group, one in groups.items()
    ]


def _published(last: dict[str, Any]) -> str:
    said = (
        f"{name.replace('.', ' ')} {value:.3f} ± {last['noise'][name]:.2g}" for name, value in last["values"].items()
    )
    return f"published: {', '.join(said)} (mean over all tasks, ± the standard deviation of its noise)"


def _held_out(found: dict[str, Any]) -> str:
    """Say what the billboard is worth to people who took no part."""
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
    return (
        f"Accuracy of {found['people']} people who took no part, after the same adaptation (diagnostic): "
        f"{', '.join(parts)}."
    )


def _shown(guarantee: Guarantee) -> str:
    if guarantee.reproduction:
        return "none: reproduction"
    return f"{guarantee.epsilon:.3g}" if math.isfinite(guarantee.epsilon) else "none: no guarantee"


def _counted(value: float) -> str:
    """Write a count as a whole number, and so any number from 1,000 up; else three digits."""
    return f"{value:,.0f}" if isinstance(value, int) or 1000 <= abs(value) < 1e15 else f"{value:.3g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
