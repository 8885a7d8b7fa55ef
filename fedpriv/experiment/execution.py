"""How an experiment is carried out: folder and ledger, nodes, rounds, results."""

from __future__ import annotations

import json
import logging
import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.serverapp import Grid

from fedpriv.cohort import engine_named, notes_on
from fedpriv.cohort.fast.threads import one_blas_thread
from fedpriv.errors import BudgetExceeded, ComponentFailure, InputError
from fedpriv.experiment.people import people_of
from fedpriv.experiment.personal import personal_after, personal_of_finished
from fedpriv.experiment.preparation import PreparedRun, prepare
from fedpriv.forecast import Forecast, compared, forecast_sharing
from fedpriv.held_out import score_held_out
from fedpriv.personal import Personal
from fedpriv.privacy.entropy import Entropy, ReproducibleEntropy, RoundSecret, SystemEntropy
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.progress import Progress, phase
from fedpriv.protocol import ALL, Billboards, record_from_billboards
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runs.folder import RunFolder, read_finished
from fedpriv.runs.ledger_check import check_finished, how_to_find
from fedpriv.runs.people import keep_people
from fedpriv.runs.record import RunRecord, plain
from fedpriv.runs.resume import ResumePoint, where_to_resume
from fedpriv.runtime.grid import InProcessGrid, LocalGrid, RemoteGrid
from fedpriv.runtime.node import NodeSpec
from fedpriv.runtime.pool import ShardPool
from fedpriv.runtime.server import serve
from fedpriv.summary import Diagnostics, RunResult, summarize

if TYPE_CHECKING:
    from fedpriv.experiment.specification import Experiment

__all__ = ["Options", "Rounds", "execute", "read_back"]

Rounds = Callable[[int, int], None]
_LOG = logging.getLogger("fedpriv")


@dataclass(frozen=True)
class Options:
    """What :meth:`fedpriv.Experiment.run` was given."""

    out: Path | str | None
    reproduce: int | None
    resume: bool
    progress: Rounds | None
    about: dict[str, Any]
    config: dict[str, Any] | None
    on: Grid | None
    pool: ShardPool | None
    measure: Callable[[Any, RunResult], dict[str, Any]] | None


def execute(experiment: Experiment, options: Options) -> RunResult:
    """Do what :meth:`fedpriv.Experiment.run` does; the seed is that of a reproduction already."""
    if options.out == "":
        raise InputError("out is empty; name a folder for the run ('.' is this one), or None to keep nothing.")
    if options.on is not None and options.resume and not isinstance(options.on, RemoteGrid):
        raise InputError("nodes that were started elsewhere keep their own states; resume works with run.grid=ray.")
    if options.on is None:
        _ = experiment.data  # which refuses a roster alone
    stored = options.config or experiment.describe()
    stored = {**stored, "run": {**stored["run"], "reproduce": options.reproduce}}
    out = None if options.out is None else Path(options.out)
    if options.resume and out is not None and (done := read_finished(out, stored, options.about)) is not None:
        return read_back(experiment, out, done, options.config)
    prepared = prepare(experiment, reproduced=options.reproduce is not None, started=options.pool is not None)
    if options.on is None and experiment.grid == "auto":
        _LOG.info("%s", prepared.choice)
    shared = sum(value.numel() for value in prepared.sharing.billboard.values())
    forecast = forecast_sharing(prepared.resolved, shared)
    if forecast is not None and forecast.sentence is not None:
        _LOG.warning("warning: %s", forecast.sentence)
    with ExitStack() as stack:
        folder = None
        if out is not None:
            folder = RunFolder(out, stored, resume=options.resume)
            stack.callback(folder.close)
            if options.on is None:  # other nodes have the data, and cannot go on
                keep_people(out, people_of(experiment, stored["data"]))
        run = _Run(experiment.model_copy(update={"grid": prepared.choice.grid}), options, prepared, folder, stack)
        result = run.carry_out()
        _tell_whether_sharing_paid(experiment, result, forecast, folder)
        if options.measure is not None:
            result.summary["measures"] = options.measure(experiment, result)
            result.summary["not_released"] = [*result.summary["not_released"], "measures"]
        if folder is not None:
            if result.tasks:
                folder.write_private("tasks.json", json.dumps(plain(result.tasks), indent=2) + "\n")
            folder.write_summary(result.summary)
            if experiment.report:
                from fedpriv.report import write_report

                with phase("figures and report"):
                    write_report([folder.path])
        return result


def read_back(
    experiment: Experiment, folder: Path, record: RunRecord, config: dict[str, Any] | None = None
) -> RunResult:
    """Return what a finished run came to, if its ledger still says the same."""
    check_finished(folder, record)
    result = RunResult.from_summary(record.to_json(), folder)
    result.population = experiment.tasks
    result.make_personal = personal_of_finished(experiment, folder, record, config)
    return result


@dataclass
class _Run:
    experiment: Experiment
    options: Options
    prepared: PreparedRun
    folder: RunFolder | None
    stack: ExitStack
    """Closes what the run has opened."""
    saving_seconds: float = field(default=0.0, init=False)
    evaluations: list[dict[str, Any]] = field(default_factory=list, init=False)
    """Mean scores of rounds, which a run with a folder writes there."""

    def carry_out(self) -> RunResult:
        """Ask the nodes, publish, score; return the results."""
        experiment, folder = self.experiment, self.folder
        about = self.options.about if folder is None else folder.keep_about(self.options.about)
        entropy = self._entropy()
        began = time.perf_counter()
        strategy, resolved, problem = self.prepared.strategy, self.prepared.resolved, self.prepared.problem
        if folder is None:
            scratch = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="fedpriv-")))
        else:
            scratch = folder.path
        journal = self._journal(scratch)
        self.stack.callback(journal.ledger.close)
        begun = journal.ledger.entries(journal.population, journal.run)
        resolved = resolved.as_begun(begun)
        resolved.refuse_others(begun)
        resume = where_to_resume(folder, journal, publishes=strategy.publishes)
        if isinstance(self.options.on, RemoteGrid):
            resume = replace(resume, replay=())  # the nodes have their states
        names = {name: value.numpy() for name, value in self.prepared.sharing.billboard.items()}
        initial = record_from_billboards({ALL: names})
        checkpoint = resume.checkpoint or strategy.first_checkpoint(initial, len(experiment.tasks))
        if folder is not None and resume.checkpoint is None:
            folder.checkpoints.stage(checkpoint)
            folder.checkpoints.promote(0)
        _check_budget(journal, resolved, checkpoint)

        self.stack.enter_context(one_blas_thread())
        with phase("start of the nodes"):
            grid = self._grid(resume)
        if folder is not None:
            folder.started()
        if isinstance(self.options.progress, Progress):
            self.options.progress(checkpoint.round, strategy.rounds)  # the first round may take long
        ready = time.perf_counter()
        served = serve(
            strategy,
            grid,
            initial,
            journal=journal,
            entropy=entropy,
            checkpoint=checkpoint,
            resolved=resolved,
            replay=resume.replay,
            on_round=self._after(grid, scratch),
            baseline=experiment.baseline,
            population=experiment.roster,
            timeout=experiment.timeout,
            attempts=experiment.attempts,
            on_unreachable=None if folder is None else folder.log_unreachable,
        )
        make_personal = self._keep_states(grid, strategy.rounds, served.checkpoint.billboards)
        served.warnings[:0] = notes_on(
            problem, engine_named(experiment.engine), experiment.tasks, self.prepared.sharing
        )
        if folder is not None:  # with those of before a crash
            served.unreachable = folder.unreachable()
        served.seconds.update(start_up=ready - began, checkpoints=self.saving_seconds)
        served.seconds["total"] = time.perf_counter() - began
        with phase("accounting"):
            result = summarize(
                about=about,
                served=served,
                journal=journal,
                tasks=experiment.roster,
                strategy=strategy,
                resolved=resolved,
                reproduce=self.options.reproduce,
                client=experiment.client,
                metrics=experiment.metrics,
                said={"grid": experiment.grid, "engine": experiment.engine, "seed": experiment.seed},
                remote=isinstance(self.options.on, RemoteGrid),
            )
        result.population, result.make_personal = experiment.tasks, make_personal
        if experiment.held_out is not None and len(served.checkpoint.billboards) == 1:
            (last,) = served.checkpoint.billboards.values()
            scores = score_held_out(experiment.held_out_people(), problem, last, served.work)
            result.summary["diagnostics"]["held_out"] = scores
        self._log(_evaluation_line(strategy.rounds, _means(result.diagnostics)) | {"final": True})
        result.evaluations = self.evaluations
        if folder is not None:
            for line in [*result.released_lines, *result.privacy_lines]:
                folder.log(line)
            result.folder = folder.path
        return result

    def _log(self, line: dict[str, Any]) -> None:
        if self.folder is not None:
            self.folder.log(line)
        else:
            self.evaluations.append(line)

    def _keep_states(self, grid: Grid, rounds: int, billboards: Billboards) -> Callable[[], Personal]:
        """Keep what the tasks' models are made from."""
        own, store = grid if isinstance(grid, LocalGrid) else None, self.folder.checkpoints if self.folder else None
        began = time.perf_counter()
        with phase("states of the tasks"):
            made = personal_after(self.experiment, own, store, rounds, billboards, self.options.config)
        self.saving_seconds += time.perf_counter() - began
        return made

    def _entropy(self) -> Entropy:
        if self.options.reproduce is not None:
            return ReproducibleEntropy(self.options.reproduce)
        begun = max(self.folder.checkpoints.rounds(), default=0) if self.folder is not None else 0
        unfinished = self.folder is not None and begun < self.prepared.strategy.rounds
        kept = self.folder.coins() if self.folder is not None and unfinished else None
        return SystemEntropy(kept or RoundSecret.fresh())

    def _after(self, grid: Grid, scratch: Path) -> Callable[[int, Any, dict[str, Any]], None]:
        """Return what is done after each round: its scores are kept, and now and then the nodes' states."""
        folder, rounds, every = self.folder, self.prepared.strategy.rounds, self.experiment.checkpoint_every
        own, regression = grid if isinstance(grid, LocalGrid) else None, self.experiment.tasks.num_classes is None
        snapshots = folder.checkpoints if folder is not None else None
        if own and own.replays and snapshots is None:  # else the rounds to replay would pile up in memory
            snapshots = CheckpointStore(scratch)

        def after(number: int, _: Any, scores: dict[str, Any]) -> None:
            if self.options.progress:
                self.options.progress(number, rounds)
            if regression:
                scores = {name: value for name, value in scores.items() if not name.endswith(".accuracy")}
            if scores:
                self._log(_evaluation_line(number, scores))
            saved = time.perf_counter()
            sealed = own and snapshots and number % every == 0 and number < rounds
            if own and snapshots and sealed:
                own.snapshot(snapshots.directory, number)
                snapshots.seal(number)
            if folder is not None:
                folder.forget_coins(number, durably=bool(sealed))
            self.saving_seconds += time.perf_counter() - saved

        return after

    def _grid(self, resume: ResumePoint) -> Grid:
        """Return the nodes, with the personal states of the last snapshot."""
        if self.options.on is not None:
            own = self.options.on if isinstance(self.options.on, LocalGrid) else None
        else:
            problem, shards = self.prepared.problem, self.experiment.num_shards
            own = self.stack.enter_context(self._started(self.experiment.specs(problem, shards, self._noise_seed())))
        hosted = sum(len(spec.tasks) for spec in own.specs) if own is not None else len(self.experiment.tasks)
        if hosted != len(self.experiment.tasks):  # no node of these can be away
            raise ComponentFailure(
                f"the nodes host {hosted} tasks, the population has {len(self.experiment.tasks)}; give both the same."
            )
        if own is not None and self.folder is not None and resume.snapshot is not None:
            own.restore(self.folder.checkpoints.directory, resume.snapshot)
        grid: Grid | None = own or self.options.on
        assert grid is not None
        return grid

    def _started(self, specs: list[NodeSpec]) -> LocalGrid:
        if self.experiment.grid == "in-process":
            return InProcessGrid(specs)
        if self.experiment.grid == "flower":
            raise InputError("Flower's own engine is started by `fedpriv run --set run.grid=flower`; here use 'ray'.")
        from fedpriv.runtime.ray_grid import RayGrid

        return RayGrid(specs, self.experiment.address, self.options.pool)

    def _noise_seed(self) -> int:
        """Return what the nodes' local noise comes from: one secret for all nodes, drawn once per run.

        A shard that is rebuilt answers again what was asked before. With a secret of its own it would send a second
        copy of each row, with fresh noise, for one charge.
        """
        if self.options.reproduce is not None:
            return self.options.reproduce
        folder, drawn = self.folder, self.experiment.client.draws_noise or self.prepared.resolved.plan.at_node
        return int.from_bytes(folder.node_secret() if folder is not None and drawn else secrets.token_bytes(32), "big")

    def _journal(self, scratch: Path) -> Journal:
        experiment, folder = self.experiment, self.folder
        ledger = Ledger(scratch / "ledger.sqlite" if experiment.ledger is None else experiment.ledger)
        resuming = self.options.resume and folder is not None
        if resuming and folder is not None and any(folder.checkpoints.rounds()) and not ledger.path.exists():
            raise InputError(
                f"the ledger {ledger.path} is gone, which holds what this run has released; "
                f"{how_to_find(ledger.path, folder.path)} to go on."
            )
        if folder is not None:
            ledger.follow(folder.checkpoints.head_path)
        population = experiment.population or experiment.tasks.dataset
        ledger.register(
            population,
            fingerprint=experiment.tasks.fingerprint,
            num_tasks=len(experiment.tasks),
            declared=experiment.declared,
            budget=experiment.budget,
            budget_filter=experiment.budget_filter,
            planned=self.prepared.resolved.releases(),
            new_version=bool(experiment.new_version),
        )
        ledger.refuse_read_only()
        ledger.keep_heads()
        run = folder.run_id if folder is not None else scratch.name
        return Journal(ledger, population, run, folder.checkpoints if folder is not None else None)


def _check_budget(journal: Journal, resolved: ResolvedPlan, checkpoint: Checkpoint) -> None:
    """Refuse the whole run before any client works, if its remaining rounds cannot be paid."""
    left = resolved.plan.rounds - checkpoint.round
    if resolved.plan.at_node and journal.ledger.charged(journal.population, journal.run, checkpoint.round + 1):
        left -= 1  # its rows were asked for, and paid, before a crash
    planned = resolved.releases(left)
    if left <= 0 or not planned:
        return
    try:
        journal.check(planned)
    except BudgetExceeded as error:
        enough = journal.enough_noise(*resolved.priced(left), resolved.measurements(left))
        advice = f" A noise multiplier of {enough:.5g} would fit." if enough is not None else ""
        raise BudgetExceeded(f"{error}{advice}") from None


def _tell_whether_sharing_paid(
    experiment: Experiment, result: RunResult, forecast: Forecast | None, folder: RunFolder | None
) -> None:
    """Add to the summary what was forecast, and what was measured; of protected data to ``private/`` alone."""
    found: dict[str, Any] = {} if forecast is None else forecast.to_json()
    measure = "loss" if experiment.tasks.num_classes is None else "accuracy"
    means = getattr(result.diagnostics, measure)
    measured = compared(means.personal, means.local_only, measure) if experiment.client.sends_update else None
    if experiment.declared == "protected":
        if folder is not None and experiment.baseline:
            said = measured or "personal models are no worse than training alone in this run (diagnostic)."
            folder.write_private("sharing.txt", f"{said}\n")
            found["measured_in"] = "private/sharing.txt"
    else:
        found["measured"] = measured
    result.summary["sharing"] = found
    result.summary["warnings"] += [one for one in (found.get("forecast"), found.get("measured")) if one]


def _means(found: Diagnostics) -> dict[str, Any]:
    return {
        f"diagnostic.{model}.{measure}": value
        for measure, one in found.measures.items()
        for model, value in vars(one).items()
        if value is not None
    }


def _evaluation_line(number: int, scores: dict[str, Any]) -> dict[str, Any]:
    """Return the line of ``metrics.jsonl`` for mean scores named ``diagnostic.<model>.<measure>``."""
    line: dict[str, Any] = {"round": number, "kind": "evaluation", "released": False, "loss": {}, "accuracy": {}}
    for name, value in scores.items():
        _, model, measure = name.split(".")
        place = line if measure in ("loss", "accuracy") else line.setdefault("metrics", {})
        place.setdefault(measure, {})[model] = value
    return line
