"""An experiment: tasks, a model, a client algorithm and a strategy, run on a grid and accounted for."""

from __future__ import annotations

import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from flwr.serverapp import Grid
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import nn

from fedpriv.cohort import (
    PARTS,
    ClientAlgorithm,
    LocalSGD,
    Problem,
    Tasks,
    engine_named,
    notes_on,
    probe,
    strange_tasks,
)
from fedpriv.cohort.fast.threads import one_blas_thread
from fedpriv.cohort.problem import Loss, own_copy
from fedpriv.effort import Choice, choose_grid, seconds_of_training
from fedpriv.errors import BudgetExceeded, InputError
from fedpriv.forecast import Forecast, compared, forecast_sharing
from fedpriv.ledger import check_finished, how_to_find
from fedpriv.machine import usable_cores
from fedpriv.models import build_model
from fedpriv.names import kebab
from fedpriv.newcomers import Newcomers, score_newcomers
from fedpriv.privacy.entropy import Entropy, ReproducibleEntropy, RoundSecret, SystemEntropy
from fedpriv.privacy.filters import FilterName
from fedpriv.privacy.journal import Boundary, Journal
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.privacy.policy import NodePolicy
from fedpriv.privacy.target import Target, check_delta
from fedpriv.privacy.terms import Relation
from fedpriv.progress import Progress, phase, progress_shown
from fedpriv.protocol import ALL, record_from_billboards
from fedpriv.runs.checkpoint import BoundaryStore
from fedpriv.runs.folder import RunFolder, read_finished
from fedpriv.runtime.grid import InProcessGrid, LocalGrid
from fedpriv.runtime.node import NodeSpec
from fedpriv.runtime.pool import ShardPool
from fedpriv.runtime.server import Served, serve
from fedpriv.settings import Settings
from fedpriv.strategies.base import TaskStrategy
from fedpriv.summary import RunResult, summarize

__all__ = ["Experiment", "ModelSettings"]

Rounds = Callable[[int, int], None]
_TYPES = {"float32": torch.float32, "float64": torch.float64}
_LOG = logging.getLogger("fedpriv")


class ModelSettings(Settings):
    """A model by name, with its settings.

    Attributes
    ----------
    name : str
        One of :data:`fedpriv.models.MODELS`.
    settings : dict
        Settings of that model.
    """

    name: str = "mlp"
    settings: dict[str, Any] = Field(default_factory=dict)


class Experiment(Settings):
    """Everything that defines a run.

    Attributes
    ----------
    tasks : Tasks
        The population.
    held_out : Tasks or None
        People who take no part: the last billboard is scored on them as on somebody who comes later.
    model : str, ModelSettings or nn.Module
        The network that is shared and personalised.
    client : ClientAlgorithm
        What tasks do.
    policy : NodePolicy or None
        What each node allows for its own tasks.
    strategy : TaskStrategy
        What the server publishes.
    loss : {"cross-entropy", "squared"} or None
        None chooses cross-entropy for classes and squared loss for values.
    seed : int
        Fixes what may be public: initial values and mini-batches. Noise and coins come from the operating system.
    dtype : {"float32", "float64"}
        Type of the parameters, and of all floats that the model is given.
    engine : {"auto", "vmap", "loop"}
        How the task axis is computed: hand-batched kernels where they cover the model, vmap elsewhere, and one task
        after the other where vmap fails (a warning says so); vmap; or one task after the other.
    grid : {"auto", "ray", "in-process", "flower"}
        What carries the messages; ``auto`` takes Ray where it is done sooner, by an estimate from public numbers, and
        this process elsewhere. ``flower`` is Flower's own engine, which `fedpriv run` starts. Results do not depend on
        it.
    shards : int or None
        Nodes of the simulation; one per core that this process may use unless given, and one in this process. Results
        do not depend on it.
    address : str or None
        A running Ray cluster to use. Whoever reaches its ports can read the tasks' data unless it asks for a token:
        start it, and this program, with ``RAY_AUTH_MODE=token`` and the same ``RAY_AUTH_TOKEN_PATH``.
    baseline : bool
        Whether to train the local-only reference, too.
    public_weights : bool
        Whether the frozen parameters and constant buffers of a model of one's own are public: for protected data they
        must not come from these people. They are no part of what is published, and everybody has them.
    references : bool
        Whether held-out people are also scored from the public start and from a plain pre-trained network, which trains
        as long as the run.
    checkpoint_every : int
        Rounds between snapshots of the personal states.
    timeout : float
        Seconds to wait for the nodes' answers in a round.
    attempts : int
        How often a node with several tasks is asked in a round, if it fails or is late, before the run stops. What
        counts as zero instead is said in :mod:`fedpriv.strategies.exchange`.
    task_seconds : float or None
        Seconds of computing after which a task counts as zero by itself, where time can depend on data: where tasks
        are computed one after the other, and with algorithms of your own. 600 unless given, or a tenth of ``timeout``
        if that is less.
    state_memory : float
        GiB of personal states that all shards together keep in memory; more live in files of the system's temporary
        folder (``TMPDIR``).
    report : bool
        Whether a run with a folder writes figures and ``report.html`` into it when it is finished.
    population : str or None
        Whose budget this run spends; needed for protected data.
    ledger : Path or None
        The ledger of that population; a benchmark run keeps its own in its folder.
    budget : Target or None
        What the population may spend over all runs; fixed when it is first registered.
    budget_filter : {"renyi", "gdp"}
        What cuts the budget off: a Renyi filter pays for every kind of release, a GDP filter for a little more of them
        where sampling amplifies nothing. Fixed with the budget.
    """

    tasks: Tasks
    held_out: Tasks | None = None
    model: str | ModelSettings | nn.Module = "mlp"
    client: ClientAlgorithm
    policy: NodePolicy | None = None
    strategy: TaskStrategy  # after client and policy, which decide whether updates depend on rounds before
    loss: Loss | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    dtype: Literal["float32", "float64"] = "float32"
    engine: Literal["auto", "vmap", "loop"] = "auto"
    grid: Literal["auto", "ray", "in-process", "flower"] = "auto"
    shards: int | None = Field(default=None, ge=1)
    address: str | None = None
    baseline: bool = True
    public_weights: bool = False
    references: bool = True
    checkpoint_every: int = Field(default=10, ge=1)
    timeout: float = Field(default=24 * 3600.0, gt=0)
    attempts: int = Field(default=3, ge=1)
    task_seconds: float | None = Field(default=None, gt=0)
    state_memory: float = Field(default=4.0, ge=0)
    report: bool = True
    population: str | None = None
    ledger: Path | None = None
    budget: Target | None = None
    budget_filter: FilterName = "renyi"

    @field_validator("strategy")
    @classmethod
    def _knows_its_updates(cls, strategy: TaskStrategy, info: ValidationInfo) -> TaskStrategy:
        client, policy = info.data.get("client"), info.data.get("policy")  # missing if they were refused themselves
        # A node that stops after some participations sends what depends on the rounds before, too.
        limited = policy is not None and policy.counts
        return strategy.for_updates(use_state=client is None or client.updates_use_state or limited)

    @field_validator("population")
    @classmethod
    def _has_a_name(cls, population: str | None) -> str | None:
        if population is not None and not population.strip():
            raise ValueError(
                f"run.population must not be empty, got {population!r}; name whose budget this run spends, or leave it "
                "out for a benchmark."
            )
        return population

    @field_validator("model", mode="before")
    @classmethod
    def _is_a_model(cls, model: Any) -> Any:
        if isinstance(model, str | ModelSettings | dict | nn.Module):
            return model
        if isinstance(model, type):
            raise ValueError(f"model is the class {model.__name__}; give a module made of it, {model.__name__}(...).")
        raise ValueError(f"model must be a name or an nn.Module, got {type(model).__name__}.")

    @field_validator("ledger")
    @classmethod
    def _is_a_file(cls, ledger: Path | None) -> Path | None:
        return ledger if ledger is None else Ledger(ledger).path

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        client, strategy = kebab(type(self.client).__name__), kebab(type(self.strategy).__name__)
        if self.strategy.publishes != self.client.sends_update:
            verb = "sends updates" if self.client.sends_update else "sends nothing"
            other = "billboard" if self.client.sends_update else "silent"
            raise ValueError(
                f"the client {client!r} {verb}, which the strategy {strategy!r} cannot use; use {other!r}."
            )
        largest = None if self.policy is None else self.policy.max_clipping_norm
        self.strategy.plan.check_nodes(classes=self.tasks.num_classes is not None, largest_norm=largest)
        if self.declared == "protected" and (self.population is None or self.ledger is None):
            raise ValueError(
                "protected data spend one budget over all runs: give run.population (a name) and run.ledger (a file)."
            )
        if self.declared == "protected" and not self.public_weights and _has_constants(self.model):
            raise ValueError(
                "the model has frozen parameters or buffers, which everybody gets as they are: set run.public_weights "
                "= true if they are public (trained on none of these people), or unfreeze them."
            )
        if self.budget is not None and self.strategy.plan.at_node and self.budget.relation is not Relation.REPLACE_ONE:
            raise ValueError(
                "a budget under add/remove cannot pay for noise on the nodes, where a missing row is seen missing; "
                "set run.budget_relation = 'replace-one', or strategy.noise_at = 'server'."
            )
        if (
            self.budget is not None
            and self.strategy.plan.participation.fixed_cohorts
            and self.budget.relation is not Relation.REPLACE_ONE
        ):
            raise ValueError(
                "a budget under add/remove cannot pay for cohorts of fixed size, where another task takes the place of "
                "one that is removed; set run.budget_relation = 'replace-one', or strategy.sampling = 'poisson'."
            )
        if self.budget is None and self.budget_filter != "renyi":
            raise ValueError(
                f"budget_filter={self.budget_filter!r} cuts off a budget, and there is none; give 'budget'."
            )
        if self.client.draws_noise and self.strategy.plan.metrics.metrics:
            raise ValueError(
                "tasks that add noise of their own hide from the server, and published metrics would send it their "
                "scores without any; leave out strategy.metrics, or the client's noise."
            )
        still = self.client.leaves_still
        if still is not None and getattr(self.strategy, "noise_multiplier", None) != 0.0:
            raise ValueError(
                f"{still} leaves part of the billboard as it is, and noise would move it all the same; set "
                "strategy.noise_multiplier = 0, or a rate above 0."
            )
        idle = [name for name in getattr(self.strategy, "metrics", ()) if name.startswith("billboard.")]
        if idle and not self.client.billboard_predicts:
            raise ValueError(
                f"strategy.metrics would publish {', '.join(idle)}, at a cost, of a model that nobody uses before "
                "it is adapted (client.from_zero, client.permute_labels); publish personal.* instead."
            )
        if self.task_limit >= self.timeout:
            raise ValueError(
                f"a task may take {self.task_limit:g} s ('task_seconds') where its node must answer within "
                f"{self.timeout:g} s ('timeout'); raise the second, or lower the first."
            )
        self.tasks.check()
        if self.held_out is not None:
            _check_newcomers(self.tasks, self.held_out)
        for part in PARTS if self.declared == "benchmark" else ():  # protected values decide nothing
            # What fits into float64 may be infinite in the type that is computed with.
            found = strange_tasks(self.tasks.part(part), self.tasks.num_classes, _TYPES[self.dtype])
            if found.any():
                raise InputError(
                    f"task {self.tasks.names[int(np.argmax(found))]!r} holds a number in its {part} part that is too "
                    f"large for {self.dtype}; scale its values, or set run.dtype = 'float64'."
                )
        return self

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield what a short description holds: no data, no weights, and settings only where they were chosen."""
        model = type(self.model).__name__ if isinstance(self.model, nn.Module) else self.model
        known = {"tasks": self.tasks, "model": model, "client": self.client, "strategy": self.strategy}
        yield from known.items()
        for name in type(self).model_fields:
            if name in self.model_fields_set and name not in known:
                yield name, getattr(self, name)

    @property
    def declared(self) -> str:
        """Whether the data are a public benchmark or protected."""
        return self.tasks.declared

    @property
    def delta(self) -> float:
        """The delta of the guarantee; 1/(100 m) unless the target says otherwise."""
        return self.strategy.plan.delta(len(self.tasks))

    @property
    def task_limit(self) -> float:
        """Seconds of computing for one task in one stage, where time can depend on data."""
        return min(600.0, self.timeout / 10) if self.task_seconds is None else self.task_seconds

    @property
    def num_shards(self) -> int:
        """Nodes: as many as asked for, or one per core, or one in this process; at most one per task."""
        return min(self.shards or (1 if self.grid == "in-process" else usable_cores()), len(self.tasks))

    def problem(self, outputs: int | None = None) -> Problem:
        """Return the model and loss.

        Parameters
        ----------
        outputs : int or None
            Outputs of a model by name; as many as there are classes or values unless given.

        Raises
        ------
        InputError
            The model has layers whose buffers would escape the guarantee, or its name is unknown.
        """
        loss: Loss = self.loss or ("squared" if self.tasks.num_classes is None else "cross-entropy")
        if loss == "cross-entropy" and self.tasks.num_classes is None:
            raise InputError(
                "loss='cross-entropy' is for classes, and these tasks have values; give Tasks num_classes."
            )
        dtype = _TYPES[self.dtype]
        if isinstance(self.model, nn.Module):
            return Problem(own_copy(self.model, dtype), loss)
        if not self.tasks.input_shape:
            raise InputError(
                "each example is a single number, and a model by name takes vectors; give inputs.reshape(-1, 1)."
            )
        chosen = ModelSettings(name=self.model) if isinstance(self.model, str) else self.model
        targets = self.tasks.train.targets
        wanted = outputs or self.tasks.num_classes or int(np.prod(targets.shape[1:], dtype=int))
        model = build_model(chosen.name, self.tasks.input_shape, wanted, chosen.settings, seed=self.seed, dtype=dtype)
        return Problem(model, loss)

    def describe(self) -> dict[str, Any]:
        """Return the resolved configuration by section, for ``config.toml`` and the report."""
        model: dict[str, Any]
        if isinstance(self.model, nn.Module):
            here = self.problem()
            model = {"name": type(self.model).__name__, "parameters": here.num_parameters, "initial": here.digest}
            model |= {"frozen": here.num_constants} if here.num_constants else {}
        else:
            chosen = ModelSettings(name=self.model) if isinstance(self.model, str) else self.model
            model = {"name": chosen.name, **chosen.settings}
        skip = {"tasks", "held_out", "model", "client", "strategy"}
        return {
            "data": {
                "origin": self.tasks.dataset,
                "tasks": len(self.tasks),
                "declared": self.declared,
                "fingerprint": self.tasks.fingerprint,
            },
            "model": model,
            "client": {"name": kebab(type(self.client).__name__), **self.client.model_dump(mode="json")},
            "strategy": {
                "name": kebab(type(self.strategy).__name__),
                **self.strategy.model_dump(mode="json"),
            },
            "run": self.model_dump(mode="json", exclude=skip),
        }

    def specs(self, problem: Problem, shards: int, noise_seed: int | None = None) -> list[NodeSpec]:
        """Cut the population into contiguous shards, one node each."""
        count = min(shards, len(self.tasks))
        cuts = np.linspace(0, len(self.tasks), count + 1).round().astype(int)
        return [
            NodeSpec(
                self.tasks.shard(int(start), int(stop)),
                self.client,
                problem,
                self.seed,
                self.engine,
                self.policy,
                self.local_baseline(),
                self.state_memory * 2**30 / count,
                noise_seed,
                self.task_limit,
            )
            for start, stop in pairwise(cuts)
        ]

    def local_baseline(self) -> LocalSGD:
        """Return the local-only reference with the client's own step size and batches."""
        from fedpriv.clients.local_only import LocalOnly

        if not isinstance(self.client, LocalSGD):
            return LocalOnly()
        return LocalOnly(
            learning_rate=self.client.learning_rate, batch_size=self.client.batch_size, momentum=self.client.momentum
        )

    def run(
        self,
        out: Path | str | None = None,
        *,
        reproduce: int | None = None,
        resume: bool = False,
        progress: Rounds | None = None,
        about: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        on: Grid | None = None,
        pool: ShardPool | None = None,
        measure: Callable[[Any, RunResult], dict[str, Any]] | None = None,
    ) -> RunResult:
        """Train, score, account, and write the run folder.

        Parameters
        ----------
        out : path or None
            The run folder; None keeps nothing on disk.
        reproduce : int or None
            Fix noise and coins, too, from this number, which also replaces ``seed``: for tests and evidence. The
            guarantee is then only what the mechanism would have had.
        resume : bool
            Go on with the run in ``out``; a finished one is read back, nothing is trained or charged.
        progress : callable or None
            Called with (rounds done, rounds in all).
        about : dict or None
            Names for the report, such as the scenario and its preset.
        config : dict or None
            What to store as ``config.toml`` instead of :meth:`describe`.
        on : Grid or None
            A grid that runs already (Flower's own engine, real nodes) instead of one started here. Its nodes keep
            their personal states themselves, so such a run cannot be resumed.
        pool : ShardPool or None
            Where a Ray grid gets its shards from; several runs with one pool start Ray and its processes once.
        measure : callable or None
            Called with this experiment and the result before the summary is written; what it returns is kept there as
            ``measures``, diagnostics that are not released.

        Returns
        -------
        RunResult

        Raises
        ------
        InputError
            Something does not fit; nothing was started.
        BudgetExceeded
            The population's budget cannot pay for the run; nothing was started.
        ComponentFailure
            A part of the system failed; the run can go on with ``resume``.
        """
        options = _Options(out, reproduce, resume, about or {}, config, on, pool, measure)
        own = self if reproduce is None else self.model_copy(update={"seed": reproduce})
        if progress is not None or progress_shown() is not None:
            return own._execute(options, progress)
        with Progress(quiet=False) as shown:
            result = own._execute(options, shown)
        # The commands print these with their table; in Python nobody would see them unless asked for.
        early = result.summary.get("sharing", {}).get("forecast")
        for warning in result.summary.get("warnings", []):
            if warning != early:  # which was said before the run
                _LOG.warning("warning: %s", warning)
        return result

    def _execute(self, options: _Options, progress: Rounds | None) -> RunResult:
        """Do what :meth:`run` does; the seed is that of a reproduction already."""
        out, reproduce, resume, on = options.out, options.reproduce, options.resume, options.on
        if out == "":
            raise InputError("out is empty; name a folder for the run ('.' is this one), or None to keep nothing.")
        if on is not None and resume:
            raise InputError("nodes that were started elsewhere keep their own states; resume works with run.grid=ray.")
        stored = options.config or self.describe()
        stored = {**stored, "run": {**stored["run"], "reproduce": reproduce}}
        if resume and out is not None and (done := read_finished(Path(out), stored, options.about)) is not None:
            check_finished(Path(out), done)
            return RunResult.from_summary(done, Path(out))
        checked = self._checked(reproduced=reproduce is not None, pool=options.pool)
        run = self.model_copy(update={"grid": checked.choice.grid})
        if on is None and self.grid == "auto":
            _LOG.info("%s", checked.choice)
        forecast = forecast_sharing(checked.resolved, checked.problem.num_parameters)
        if forecast is not None and forecast.sentence is not None:
            _LOG.warning("warning: %s", forecast.sentence)
        with ExitStack() as stack:
            folder, about = None, options.about
            if out is not None:
                folder = RunFolder(Path(out), stored, resume=resume)
                stack.callback(folder.close)
                about = folder.keep_about(options.about)
            entropy: Entropy
            if reproduce is not None:
                entropy = ReproducibleEntropy(reproduce)
            else:
                begun = max(folder.boundaries.rounds(), default=0) if folder is not None else 0
                kept = folder.coins() if folder is not None and begun < checked.strategy.rounds else None
                entropy = SystemEntropy(kept or RoundSecret.fresh())
            result = run._run(
                stack, folder, checked, entropy, reproduce, progress, about, on, options.pool, resuming=resume
            )
            self._tell_whether_sharing_paid(result, forecast, folder)
            if options.measure is not None:
                result.summary["measures"] = options.measure(self, result)
                result.summary["not_released"] = [*result.summary["not_released"], "measures"]
            if folder is not None:
                folder.write_summary(result.summary)
                if self.report:
                    from fedpriv.report import write_report

                    with phase("figures and report"):
                        write_report([folder.path])
            return result

    def newcomers(self) -> Newcomers:
        """Return the people held out, with all that their scores need."""
        own = isinstance(self.model, nn.Module)  # which has as many outputs as it has
        return Newcomers(
            self.held_out,
            self.tasks,
            self.client,
            self.engine,
            self.seed,
            references=self.references,
            rebuild=None if own and self.tasks.kinds is not None else self.problem,
        )

    def check(self, *, reproduced: bool = False) -> tuple[TaskStrategy, Problem]:
        """Do all of a run that needs no private data: fit the strategy to the population, calibrate, a dry run.

        Parameters
        ----------
        reproduced : bool
            Whether noise and coins shall come from a number.

        Returns
        -------
        TaskStrategy, Problem
            As a run uses them.

        Raises
        ------
        InputError
            Something does not fit; nothing was written.
        """
        checked = self._checked(reproduced=reproduced)
        return checked.strategy, checked.problem

    def resolve(self) -> ResolvedPlan:
        """Return the plan of this run for its tasks and their public groups: noise, releases, guarantees.

        Raises
        ------
        InputError
            The plan does not fit them, or no noise meets the target.
        """
        return self._grouped().resolve(len(self.tasks))

    def _grouped(self) -> TaskStrategy:
        """Return the strategy with the groups of the tasks, unless it has some of its own."""
        groups = self.strategy.groups if self.strategy.groups is not None else self.tasks.groups
        return self.strategy.model_copy(update={"groups": groups})

    def _checked(self, *, reproduced: bool, pool: ShardPool | None = None) -> _Checked:
        """Do what :meth:`check` does, and choose the grid."""
        if reproduced and self.declared == "protected":
            raise InputError(
                "noise that comes from a number protects nobody, and these data are declared protected; leave out "
                "reproduce, or declare the data a benchmark if they are public."
            )
        check_delta(self.delta, len(self.tasks))
        strategy = self._grouped()
        with phase("calibration of the noise"):
            resolved = strategy.resolve(len(self.tasks))
        problem = self.problem()
        strategy.check_arrays(list(problem.initial()))
        self.client.check(problem, self.tasks)
        work = probe(self.client, problem, engine_named(self.engine), self.tasks)
        return _Checked(strategy, resolved, problem, self._choose_grid(problem, *work, pool))

    def _choose_grid(self, problem: Problem, training: float, finishing: float, pool: ShardPool | None) -> Choice:
        """Choose by so many gradient evaluations for each example, in a participation and in the final fit."""
        if self.grid != "auto":
            return Choice(self.grid, "run.grid says so")
        if pool is not None or self.address is not None:
            return Choice("ray", "it runs already")
        participations = self.strategy.rounds * self.strategy.sampling_rate
        evaluations = len(self.tasks.train.inputs) * (participations * training + finishing)
        inputs = self.tasks.train.inputs
        like = torch.zeros(1, *self.tasks.input_shape, dtype=problem.dtype if inputs.dtype.kind == "f" else torch.int64)
        total = evaluations * (2 if self.baseline else 1)
        return choose_grid(seconds_of_training(problem, like, total, self.engine), usable_cores())

    def _run(
        self,
        stack: ExitStack,
        folder: RunFolder | None,
        checked: _Checked,
        entropy: Entropy,
        reproduce: int | None,
        progress: Rounds | None,
        about: dict[str, Any],
        on: Grid | None,
        pool: ShardPool | None,
        *,
        resuming: bool,
    ) -> RunResult:
        began = time.perf_counter()
        strategy, resolved, problem = checked.strategy, checked.resolved, checked.problem
        if folder is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedpriv-")))
        else:
            scratch = folder.path
        journal = self._journal(folder, scratch, resolved, resuming=resuming)
        stack.callback(journal.ledger.close)
        begun = journal.ledger.entries(journal.population, journal.run)
        resolved = resolved.as_begun(begun)
        resolved.refuse_others(begun)
        resume = _where_to_resume(folder, journal, publishes=self.strategy.publishes)
        names = {name: value.numpy() for name, value in problem.initial().items()}
        initial = record_from_billboards({ALL: names})
        boundary = resume.boundary or strategy.first_boundary(initial, len(self.tasks))
        if folder is not None and resume.boundary is None:
            folder.boundaries.stage(boundary)
            folder.boundaries.promote(0)
        _check_budget(journal, resolved, boundary)

        noise_seed = self._noise_seed(folder, reproduce)
        stack.enter_context(one_blas_thread())
        with phase("start of the nodes"):
            grid = on or stack.enter_context(self._grid(self.specs(problem, self.num_shards, noise_seed), pool))
            own = grid if isinstance(grid, LocalGrid) else None
            if own and folder is not None and resume.snapshot is not None:
                own.restore(folder.boundaries.directory, resume.snapshot)
        snapshots = folder.boundaries if folder is not None else None
        if own and own.replays and snapshots is None:  # else the rounds to replay would pile up in memory
            snapshots = BoundaryStore(scratch)
        if folder is not None:
            folder.started()
        if isinstance(progress, Progress):
            progress(boundary.round, strategy.rounds)  # the first round may take long
        ready = time.perf_counter()
        saving = {"seconds": 0.0}

        def after(number: int, _: Any, scores: dict[str, Any]) -> None:
            if progress:
                progress(number, strategy.rounds)
            if folder is not None and scores:
                folder.log(_evaluation_line(number, scores))
            saved = time.perf_counter()
            sealed = own and snapshots and number % self.checkpoint_every == 0 and number < strategy.rounds
            if own and snapshots and sealed:
                own.snapshot(snapshots.directory, number)
                snapshots.seal(number)
            if folder is not None:
                folder.forget_coins(number, durably=bool(sealed))
            saving["seconds"] += time.perf_counter() - saved

        served = serve(
            strategy,
            grid,
            initial,
            journal=journal,
            entropy=entropy,
            boundary=boundary,
            resolved=resolved,
            replay=resume.replay,
            on_round=after,
            baseline=self.baseline,
            population=self.tasks,
            timeout=self.timeout,
            attempts=self.attempts,
            on_unreachable=None if folder is None else folder.log_unreachable,
        )
        served.warnings[:0] = notes_on(problem, engine_named(self.engine), self.tasks)
        if folder is not None:  # with those of before a crash
            served.unreachable = folder.unreachable()
        served.seconds.update(start_up=ready - began, checkpoints=saving["seconds"])
        served.seconds["total"] = time.perf_counter() - began
        with phase("accounting"):
            result = summarize(
                about=about,
                served=served,
                journal=journal,
                tasks=self.tasks,
                strategy=strategy,
                resolved=resolved,
                reproduce=reproduce,
                client=self.client,
                said={"grid": self.grid, "engine": self.engine, "seed": self.seed},
            )
        if self.held_out is not None and len(served.boundary.billboards) == 1:
            (last,) = served.boundary.billboards.values()
            result.summary["diagnostics"]["held_out"] = score_newcomers(self.newcomers(), problem, last, served.work)
        if folder is not None:
            folder.log(_evaluation_line(strategy.rounds, _means(served)) | {"final": True})
            for line in [*result.released_lines, *result.privacy_lines]:
                folder.log(line)
            result.folder = folder.path
        return result

    def _tell_whether_sharing_paid(
        self, result: RunResult, forecast: Forecast | None, folder: RunFolder | None
    ) -> None:
        """Add to the summary what was forecast, and what was measured; of protected data to ``private/`` alone."""
        found: dict[str, Any] = {} if forecast is None else forecast.to_json()
        measure = "loss" if self.tasks.num_classes is None else "accuracy"
        means = getattr(result.diagnostics, measure)
        measured = compared(means.personal, means.local_only, measure) if self.client.sends_update else None
        if self.declared == "protected":
            if folder is not None and self.baseline:
                said = measured or "personal models are no worse than training alone in this run (diagnostic)."
                folder.write_private("sharing.txt", f"{said}\n")
                found["measured_in"] = "private/sharing.txt"
        else:
            found["measured"] = measured
        result.summary["sharing"] = found
        result.summary["warnings"] += [one for one in (found.get("forecast"), found.get("measured")) if one]

    def _noise_seed(self, folder: RunFolder | None, reproduce: int | None) -> int:
        """Return what the nodes' own noise comes from: one secret for all nodes, drawn once per run.

        A shard that is rebuilt answers again what was asked before. With a secret of its own it would send a second
        copy of each row, with fresh noise, for one charge.
        """
        if reproduce is not None:
            return reproduce
        drawn = self.client.draws_noise or self.strategy.plan.at_node
        return int.from_bytes(folder.node_secret() if folder is not None and drawn else secrets.token_bytes(32), "big")

    def _grid(self, specs: list[NodeSpec], pool: ShardPool | None) -> LocalGrid:
        if self.grid == "in-process":
            return InProcessGrid(specs)
        if self.grid == "flower":
            raise InputError("Flower's own engine is started by `fedpriv run --set run.grid=flower`; here use 'ray'.")
        from fedpriv.runtime.ray_grid import RayGrid

        return RayGrid(specs, self.address, pool)

    def _journal(self, folder: RunFolder | None, scratch: Path, resolved: ResolvedPlan, *, resuming: bool) -> Journal:
        """Open the ledger and register the population."""
        ledger = Ledger(scratch / "ledger.sqlite" if self.ledger is None else self.ledger)
        if resuming and folder is not None and any(folder.boundaries.rounds()) and not ledger.path.exists():
            raise InputError(
                f"the ledger {ledger.path} is gone, which holds what this run has released; "
                f"{how_to_find(ledger.path, folder.path)} to go on."
            )
        if folder is not None:
            ledger.follow(folder.boundaries.head_path)
        population = self.population or self.tasks.dataset
        ledger.register(
            population,
            fingerprint=self.tasks.fingerprint,
            num_tasks=len(self.tasks),
            declared=self.tasks.declared,
            budget=self.budget,
            budget_filter=self.budget_filter,
            planned=resolved.releases(),
        )
        ledger.refuse_read_only()
        ledger.keep_heads()
        run = folder.run_id if folder is not None else scratch.name
        return Journal(ledger, population, run, folder.boundaries if folder is not None else None)


@dataclass(frozen=True)
class _Options:
    """What :meth:`Experiment.run` was given, but for its progress bar."""

    out: Path | str | None
    reproduce: int | None
    resume: bool
    about: dict[str, Any]
    config: dict[str, Any] | None
    on: Grid | None
    pool: ShardPool | None
    measure: Callable[[Any, RunResult], dict[str, Any]] | None


@dataclass(frozen=True)
class _Checked:
    """What a run starts with, before anything is written."""

    strategy: TaskStrategy
    resolved: ResolvedPlan
    problem: Problem
    choice: Choice


def _check_budget(journal: Journal, resolved: ResolvedPlan, boundary: Boundary) -> None:
    """Refuse the whole run before any client works, if its remaining rounds cannot be paid."""
    left = resolved.plan.rounds - boundary.round
    if resolved.plan.at_node and journal.ledger.charged(journal.population, journal.run, boundary.round + 1):
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


def _has_constants(model: str | ModelSettings | nn.Module) -> bool:
    if not isinstance(model, nn.Module):
        return False
    return any(True for _ in model.buffers()) or not all(value.requires_grad for value in model.parameters())


def _check_newcomers(tasks: Tasks, held_out: Tasks) -> None:
    """Refuse people held out who are not like the population, or belong to it."""
    if (held_out.input_shape, held_out.num_classes) != (tasks.input_shape, tasks.num_classes):
        raise InputError(
            f"held-out people need examples of shape {tasks.input_shape} with {tasks.num_classes} classes, got "
            f"{held_out.input_shape} with {held_out.num_classes}."
        )
    held_out.check()  # after what it is compared with, which explains more
    both = set(tasks.spellings) & set(held_out.spellings)
    if both:
        raise InputError(
            f"held-out people take no part, but {sorted(both)[0]!r} is in the population, too; leave it out."
        )
    kinds = [part.inputs.dtype for part in (tasks.train, held_out.train)]
    if (kinds[0].kind == "f") != (kinds[1].kind == "f"):
        raise InputError(f"held-out people need inputs of type {kinds[0]}, got {kinds[1]}; give both one type.")


@dataclass(frozen=True)
class _Resume:
    """Where a run goes on."""

    boundary: Boundary | None = None
    snapshot: int | None = None
    replay: tuple[tuple[Boundary, Boundary], ...] = ()


def _where_to_resume(folder: RunFolder | None, journal: Journal, *, publishes: bool) -> _Resume:
    """Find the last published boundary, the last snapshot, and the rounds between them."""
    if folder is None:
        return _Resume()
    store = folder.boundaries
    pending = store.pending()
    if pending is not None:
        if journal.charged(pending):
            store.promote(pending.round)  # charged but not published: read back, never drawn again
        else:
            store.discard_pending()
    measured = store.pending_measured()
    if measured is not None:
        if journal.charged(measured):
            store.promote_measured(measured.round)
        else:
            store.discard_pending_measured()
    rounds, snapshots = store.rounds(), store.snapshots()
    if publishes and rounds:
        journal.refuse_missing(store.load(rounds[-1]), store.measured())
    if not rounds:
        folder.rewind_metrics(0)
        return _Resume()
    last = rounds[-1]
    folder.rewind_metrics(last)
    snapshot = max((number for number in snapshots if number <= last), default=None)
    first = snapshot or 0
    boundaries = {number: store.load(number) for number in rounds if number >= first}
    missing = [number for number in range(first, last + 1) if number not in boundaries]
    if missing:
        raise InputError(
            f"{folder.path} lost the checkpoint of round {missing[0]}; restore it from a copy, or start a new run."
        )
    replay = tuple((boundaries[number - 1], boundaries[number]) for number in range(first + 1, last + 1))
    return _Resume(boundaries[last], snapshot, replay)


def _means(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in served.scores.items():
        finite = values[np.isfinite(values)]
        if len(finite):
            found[f"diagnostic.{name}"] = float(finite.mean())
    return found


def _evaluation_line(number: int, scores: dict[str, Any]) -> dict[str, Any]:
    """Return the line of ``metrics.jsonl`` for mean scores named ``diagnostic.<model>.<measure>``."""
    line: dict[str, Any] = {
        "round": number,
        "kind": "evaluation",
        "released": False,
        "loss": {},
        "accuracy": {},
    }
    for name, value in scores.items():
        _, model, measure = name.split(".")
        line[measure][model] = value
    return line
