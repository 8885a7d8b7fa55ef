"""The command line. Exit codes: 0 done; 2 wrong input; 3 the privacy budget would be exceeded; 4 a component failed."""

from __future__ import annotations

import atexit
import gc
import io
import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from threading import current_thread, main_thread
from typing import Annotated, Any

import typer

from fedpriv.errors import FedprivError, InputError, Interrupted

__all__ = ["app", "main"]

app = typer.Typer(
    help="Personalised federated learning under a formal privacy guarantee.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets: what there is, and whether the files are right.", no_args_is_help=True)
ledger_app = typer.Typer(help="The privacy account of a population.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(ledger_app, name="ledger")


def _path(text: str | Path) -> Path:
    """Return a path that was named: an empty one, as of a shell's variable that is not set, would be this folder."""
    if not str(text):
        raise typer.BadParameter("it is empty; name a path ('.' is this folder).")
    return Path(text)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        _print(f"fedpriv {version('fedpriv')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


ScenarioName = Annotated[str, typer.Argument(help="Name of a scenario; see `fedpriv list`.")]
PresetName = Annotated[str | None, typer.Option(help="Preset of the scenario; the first one unless given.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        parser=_path,
        metavar="PATH",
        help="Folder of the data sets.",
        envvar="FEDPRIV_DATA",
        show_default=False,
    ),
]


class Kind(StrEnum):
    """What `fedpriv list` can show."""

    SCENARIOS = "scenarios"
    PRESETS = "presets"
    DATASETS = "datasets"


class SamplingKind(StrEnum):
    """How `fedpriv account` may choose tasks."""

    POISSON = "poisson"
    FIXED_SIZE = "fixed-size"
    COUNTED = "fixed-size-counted"
    FULL = "full"


class RelationKind(StrEnum):
    """Neighbouring relations, as words of the command line."""

    ADD_REMOVE = "add-remove"
    REPLACE_ONE = "replace-one"


class ObserverKind(StrEnum):
    """Who looks."""

    PUBLIC = "public"
    COALITION = "coalition"
    SERVER = "server"
    EXPERIMENTER = "experimenter"


class NoisePlace(StrEnum):
    """Where noise is added."""

    SERVER = "server"
    NODE = "node"


@app.command(
    epilog="Example: fedpriv run pmtl --set strategy.epsilon=4 --out runs/first",
    help="Run a scenario: train, score, account, write the run folder.",
)
def run(
    scenario: ScenarioName,
    preset: PresetName = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. client.strength=0.5.")] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=_path, metavar="PATH", help="Run folder; runs/SCENARIO-PRESET[-N] unless given."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes what may be public; noise and coins stay random.")] = None,
    reproduce: Annotated[int | None, typer.Option(help="Fixes noise and coins, too: no guarantee.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: JsonFlag = False,
) -> None:
    from fedpriv.commands import run_scenario

    run_scenario(
        scenario,
        preset=preset,
        assignments=assignments or [],
        data_dir=data_dir,
        out=out,
        seed=seed,
        reproduce=reproduce,
        resume=resume,
        as_json=as_json,
    )


@app.command(
    epilog="Example: fedpriv sweep pmtl --grid strategy.epsilon=1,2,4 --grid client.strength=1,[0.1,1] --seeds 8",
    help="Run a grid of settings with several seeds: one table and one figure. Every run is checked before any starts.",
)
def sweep(
    scenario: ScenarioName,
    preset: PresetName = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value, for all runs.")] = None,
    grid: Annotated[list[str] | None, typer.Option("--grid", help="key=v1,v2; all combinations are run.")] = None,
    seeds: Annotated[str | None, typer.Option(help="8 for 0 to 7; or 3,5,9; or 2001-2008.")] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=_path, metavar="PATH", help="Folder; runs/sweeps/SCENARIO-PRESET[-N] unless given."),
    ] = None,
    reproduce: Annotated[
        bool, typer.Option("--reproduce", help="Seeds fix noise and coins, too: no guarantee.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --out; finished runs stay.")
    ] = False,
    show: Annotated[
        str | None, typer.Option(help="The scenario's measures in table and figure: rmse.amht,rmse.ridge.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time, each in one process; as many as cores if runs are small.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    from fedpriv.sweep.command import run_sweep

    run_sweep(
        scenario,
        preset=preset,
        assignments=assignments or [],
        grid=grid or [],
        seeds=seeds,
        data_dir=data_dir,
        out=out,
        reproduce=reproduce,
        resume=resume,
        as_json=as_json,
        show=show,
        at_once=jobs,
    )


@app.command(
    "list",
    epilog="Example: fedpriv list presets",
    help="Show the scenarios, their presets, or the data sets.",
)
def list_(
    what: Annotated[Kind, typer.Argument(help="What to list.")] = Kind.SCENARIOS, as_json: JsonFlag = False
) -> None:
    from fedpriv.scenarios import scenarios

    if what is Kind.DATASETS:
        data_list(as_json)
        return
    rows: list[dict[str, Any]] = []
    for item in scenarios().values():
        if what is Kind.SCENARIOS:
            rows.append({"scenario": item.name, "description": item.description, "presets": list(item.presets)})
        else:
            rows += [
                {
                    "scenario": item.name,
                    "preset": name,
                    "about": item.about(name),
                }
                for name in item.presets
            ]
    _table(rows, as_json)


@app.command(
    epilog="Example: fedpriv account --noise-multiplier 1 --sampling-rate 0.01 --rounds 1000 --delta 1e-5",
    help="Solve for epsilon, the noise multiplier, rounds, the sampling rate or the number of tasks: leave one out.",
)
def account(
    epsilon: Annotated[float | None, typer.Option(help="What all rounds together may cost.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Noise, in clipping norms.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Number of releases.")] = None,
    sampling_rate: Annotated[float | None, typer.Option(help="How likely a task takes part in a round.")] = None,
    cohort: Annotated[int | None, typer.Option(help="Participants of a round, instead of a rate.")] = None,
    population: Annotated[int | None, typer.Option(help="Number of tasks.")] = None,
    delta: Annotated[float | None, typer.Option(help="1/(100 population) unless given.")] = None,
    sampling: Annotated[
        SamplingKind, typer.Option(help="How tasks are chosen; 'counted': every round counts in full.")
    ] = SamplingKind.POISSON,
    relation: Annotated[
        RelationKind | None, typer.Option(help="Under which epsilon holds; add-remove where it can.")
    ] = None,
    observer: Annotated[
        ObserverKind, typer.Option(help="Who looks: at billboards, at personal models, at rows of updates.")
    ] = ObserverKind.PUBLIC,
    noise_at: Annotated[NoisePlace, typer.Option(help="Where the noise is added.")] = NoisePlace.SERVER,
    tasks_per_person: Annotated[int, typer.Option(help="Say, too, what a person with so many tasks spends.")] = 1,
    figure: Annotated[
        Path | None, typer.Option(parser=_path, metavar="PATH", help="Draw epsilon over the rounds (.svg or .png).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    from fedpriv.account.command import account as answer

    answer(
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        rounds=rounds,
        sampling_rate=sampling_rate,
        cohort=cohort,
        population=population,
        delta=delta,
        sampling=sampling.value,
        relation=None if relation is None else relation.value,
        observer=observer.value,
        noise_at=noise_at.value,
        tasks_per_person=tasks_per_person,
        figure=figure,
        json_output=as_json,
    )


@data_app.command("list", epilog="Example: fedpriv data list", help="Sources, licences and files of the data sets.")
def data_list(as_json: JsonFlag = False) -> None:
    from dataclasses import asdict

    from fedpriv.data import sources

    found = [asdict(source) for source in sources()]
    if as_json:
        _print(json.dumps(found, indent=2))
        return
    _table(
        [{"data set": s["name"], "title": s["title"], "source": s["source"], "licence": s["licence"]} for s in found],
        as_json,
    )


@data_app.command(
    "check",
    epilog="Example: fedpriv data check --data-dir ~/data",
    help="Are the files here, with the right checksums?",
)
def data_check(data_dir: DataDir = None, as_json: JsonFlag = False) -> None:
    from dataclasses import asdict

    from fedpriv.data import check

    results = check(data_dir)
    _table([asdict(result) for result in results], as_json)
    if any(result.status == "corrupt" for result in results):
        raise InputError("some files are not what they should be; fetch them again.")


PopulationName = Annotated[str, typer.Argument(help="A run folder, or the name of a population.")]
LedgerFile = Annotated[
    Path | None, typer.Option(parser=_path, metavar="PATH", help="The ledger file, for a population by name.")
]
MoreRuns = Annotated[
    list[Path] | None,
    typer.Option("--run", parser=_path, metavar="PATH", help="Folders of further runs on the population, as evidence."),
]


@ledger_app.command(
    "show",
    epilog="Example: fedpriv ledger show my-study --ledger my-study.sqlite --run runs/first --run runs/second",
    help="What a population has spent, what is left, and what single tasks have spent.",
)
def ledger_show(
    population: PopulationName,
    ledger: LedgerFile = None,
    runs: MoreRuns = None,
    task: Annotated[int | None, typer.Option(help="Id of a task to show; --json holds all of them.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="At which epsilons are stated; the run's, or the population's, unless given.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    from fedpriv.ledger import show_ledger

    show_ledger(population, ledger, runs or [], task, delta=delta, as_json=as_json)


@ledger_app.command(
    "check",
    epilog="Example: fedpriv ledger check runs/first",
    help="Is the ledger whole, does it hold all that runs have published, and is it within its budget?",
)
def ledger_check(
    population: PopulationName, ledger: LedgerFile = None, runs: MoreRuns = None, as_json: JsonFlag = False
) -> None:
    from fedpriv.ledger import check_ledger

    check_ledger(population, ledger, runs or [], as_json=as_json)


@app.command(
    epilog="Example: fedpriv report runs/first runs/second --out comparison.html",
    help="One self-contained HTML page for one run or several.",
)
def report(
    runs: Annotated[list[Path], typer.Argument(parser=_path, metavar="RUNS...", help="Run folders.")],
    out: Annotated[
        Path | None, typer.Option(parser=_path, metavar="PATH", help="The page; RUN/report.html for one run.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    from fedpriv.report import write_report

    page = write_report(runs, out)
    _print(json.dumps({"report": str(page)}) if as_json else f"wrote {page}")


@app.command(
    epilog="Example: fedpriv attack runs/maml-attack-digits --set attack.games=20",
    help="What a malicious server learns from the rows of a recorded run: membership, reconstructions, pictures.",
)
def attack(
    run: Annotated[Path, typer.Argument(parser=_path, metavar="RUN", help="A run folder whose rows were recorded.")],
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. attack.games=50.")] = None,
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    from fedpriv.adversary.command import attack_run

    attack_run(run, assignments=assignments or [], data_dir=data_dir, json_output=as_json)


@app.command(
    epilog="Example: fedpriv models runs/lrs-ratings-insteval --out models.safetensors",
    help="Write a finished run's personal models (low-rank plus sparse) to one compact file to serve from.",
)
def models(
    run: Annotated[Path, typer.Argument(parser=_path, metavar="RUN", help="The folder of a finished run.")],
    out: Annotated[
        Path, typer.Option(parser=_path, metavar="PATH", help="The file, in the safetensors format.")
    ] = Path("models.safetensors"),
    dtype: Annotated[str, typer.Option(help="Of a task's numbers: float32 or float64.")] = "float32",
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    from fedpriv.personal import export_models

    export_models(run, out, dtype=dtype, data_dir=data_dir, as_json=as_json)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _table(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print(json.dumps(rows, indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(rows[0] if rows else ["nothing"]))
    for row in rows:
        table.add_row(*(", ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for v in row.values()))
    Console().print(table)


class _OnStderr(logging.Handler):
    """Write what runs say of themselves to the stderr of the moment, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        sys.stderr.write(f"{record.getMessage()}\n")


@contextmanager
def _said_on_stderr() -> Iterator[None]:
    """Show what runs say of themselves: the grid they chose, and warnings."""
    logger = logging.getLogger("fedpriv")
    if logger.handlers:  # who calls the command from Python may have handlers already
        yield
        return
    handler, level = _OnStderr(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Stops:
    """Handles SIGTERM as Ctrl-C, so that what was started is stopped in order; remembers which of the two it was."""

    code = 130

    def __call__(self, number: int, _: object) -> None:
        self.code = 128 + number
        raise KeyboardInterrupt

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle it, and put the handler of before back: who calls the command from Python may have one."""
        if current_thread() is not main_thread():  # Python handles signals in that one only
            yield
            return
        before = signal.signal(signal.SIGTERM, self)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)  # None: not set by Python


def main() -> None:
    """Run the command line; an error of fedpriv becomes one sentence on stderr and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows fewer signs shows "?" for the others
            stream.reconfigure(errors="replace")
    # Modules stay until the end: to look for garbage among them takes more than a second of a run that takes five.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    stops = _Stops()
    with _said_on_stderr(), stops.handling():
        _run_the_app(stops)


def _run_the_app(stops: _Stops) -> None:
    try:
        code = app(standalone_mode=False)
        if code == 130:  # typer turns an interrupt into this number
            raise KeyboardInterrupt
        if isinstance(code, int) and code:
            sys.exit(code)
    except Interrupted as how:
        sys.stderr.write(f"fedpriv: {how}\n")
        sys.exit(stops.code)
    except FedprivError as error:
        sys.stderr.write(f"fedpriv: {error}\n")
        sys.exit(error.exit_code)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("fedpriv: stopped.\n")
        sys.exit(stops.code)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's own usage errors
        if usage is None:
            raise
        sys.stderr.write(f"fedpriv: {usage()}\n")
        sys.exit(2)
