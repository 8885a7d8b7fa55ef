"""The specification of a run: everything that defines it, checked when it is made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from flwr.serverapp import Grid
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import nn

from fedpriv.cohort import ClientAlgorithm, LocalSGD, Metric, Population, Problem, Tasks
from fedpriv.cohort.problem import Loss, own_copy
from fedpriv.errors import InputError
from fedpriv.experiment.compatibility import misfits
from fedpriv.experiment.execution import Options, Rounds, execute
from fedpriv.experiment.metrics import described, fitted, named
from fedpriv.experiment.preparation import prepare
from fedpriv.held_out import HeldOutPeople
from fedpriv.machine import usable_cores
from fedpriv.models import MODELS, build_model
from fedpriv.names import kebab
from fedpriv.privacy.filters import FilterName
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.privacy.policy import NodePolicy
from fedpriv.privacy.target import Target
from fedpriv.progress import Progress, progress_shown
from fedpriv.roster import Roster, fingerprint_of
from fedpriv.runtime.node import NodeSpec
from fedpriv.runtime.pool import ShardPool
from fedpriv.settings import Settings
from fedpriv.strategies.base import TaskStrategy
from fedpriv.summary import RunResult

__all__ = ["Experiment", "ModelSettings"]

_TYPES = {"float32": torch.float32, "float64": torch.float64}
_LOG = logging.getLogger("fedpriv")


class ModelSettings(Settings):
    """A model by name, with its settings.

    Attributes
    ----------
    name : str
        One of :data:`fedpriv.models.MODELS`, or one of users' own: what an installed package offers, or
        ``module:Name`` of a class or function that gives a module.
    settings : dict
        Settings of that model, or keyword arguments.
    """

    name: str = "mlp"
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it is one of users' own."""
        return self.name not in MODELS


class Experiment(Settings):
    """Everything that defines a run.

    Attributes
    ----------
    tasks : Tasks or Roster
        The population. A roster, which says who the tasks are and holds no data, is enough to check, calibrate and
        serve a run whose nodes have the data (``run(on=...)``).
    held_out : Tasks or None
        People who take no part: the last billboard is scored on them as on somebody who comes later.
    model : str, ModelSettings or nn.Module
        The network that is shared and personalised. By name it starts from values that follow from the seed.
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
    metrics : dict, or str or list of str
        What test parts are scored by beside loss and accuracy: diagnostics, never released (``strategy.metrics`` says
        what is published). Names of :data:`fedpriv.cohort.METRICS`, ``module:function``, or, by a name of yours, a
        function of (predictions, targets), one of scikit-learn's, or a torchmetrics object; see
        :mod:`fedpriv.cohort.metrics` for what these are given.
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
    new_version : bool or None
        Whether these tasks are the next version of the population: people came or left since its last run. It goes on
        with its one budget, and all that was charged before counts for everybody.
    budget : Target or None
        What the population may spend over all runs; fixed when it is first registered.
    budget_filter : {"renyi", "gdp"}
        What cuts the budget off: a Renyi filter pays for every kind of release, a GDP filter for a little more of them
        where sampling amplifies nothing. Fixed with the budget.
    """

    tasks: Population
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
    metrics: dict[str, Metric] = Field(default_factory=dict)
    checkpoint_every: int = Field(default=10, ge=1)
    timeout: float = Field(default=24 * 3600.0, gt=0)
    attempts: int = Field(default=3, ge=1)
    task_seconds: float | None = Field(default=None, gt=0)
    state_memory: float = Field(default=4.0, ge=0)
    report: bool = True
    population: str | None = None
    ledger: Path | None = None
    new_version: bool | None = None
    budget: Target | None = None
    budget_filter: FilterName = "renyi"

    @field_validator("tasks", mode="plain")
    @classmethod
    def _is_a_population(cls, tasks: Any) -> Population:
        if not isinstance(tasks, Tasks | Roster):
            raise ValueError(f"'tasks' must be a Roster or an instance of Tasks, got a {type(tasks).__name__}.")
        return tasks

    @field_validator("strategy")
    @classmethod
    def _knows_its_updates(cls, strategy: TaskStrategy, info: ValidationInfo) -> TaskStrategy:
        client, policy = info.data.get("client"), info.data.get("policy")  # missing if they were refused themselves
        # A node that stops after some participations sends what depends on the rounds before, too.
        limited = policy is not None and policy.counts
        return strategy.for_updates(use_state=client is None or client.uses_state or limited)

    @field_validator("metrics", mode="before")
    @classmethod
    def _has_metrics(cls, metrics: Any) -> dict[str, Metric]:
        return named(metrics)

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
        for sentence in misfits(self):
            raise InputError(sentence)
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
    def data(self) -> Tasks:
        """The tasks with their data.

        Raises
        ------
        InputError
            There is a roster alone.
        """
        if isinstance(self.tasks, Roster):
            raise InputError(
                "this experiment has a roster and no data, which are on the nodes; run it with on=..., a grid whose "
                "nodes have them, or give Tasks."
            )
        return self.tasks

    @property
    def roster(self) -> Roster:
        """Who the tasks are: all that planning, the ledger and the server need."""
        return self.tasks if isinstance(self.tasks, Roster) else self.tasks.roster

    @property
    def declared(self) -> str:
        """Whether the data are a public benchmark or protected."""
        return self.tasks.declared

    @property
    def delta(self) -> float:
        """The delta of the guarantee; 1/(100 m) unless the target says otherwise."""
        return self.strategy.plan.delta(len(self.tasks))

    @property
    def torch_dtype(self) -> torch.dtype:
        """Type of the parameters, and of all floats that the model is given."""
        return _TYPES[self.dtype]

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
        dtype = self.torch_dtype
        if isinstance(self.model, nn.Module):
            return Problem(own_copy(self.model, dtype), loss)
        chosen = self.chosen_model
        assert chosen is not None
        if not self.tasks.input_shape and not chosen.own:
            raise InputError(
                "each example is a single number, and a model by name takes vectors; give inputs.reshape(-1, 1)."
            )
        wanted = outputs or self.roster.outputs
        model = build_model(chosen.name, self.tasks.input_shape, wanted, chosen.settings, seed=self.seed, dtype=dtype)
        return Problem(own_copy(model, dtype) if chosen.own else model, loss)

    @property
    def chosen_model(self) -> ModelSettings | None:
        """The model by name; None where a module was given."""
        if isinstance(self.model, nn.Module):
            return None
        return ModelSettings(name=self.model) if isinstance(self.model, str) else self.model

    @property
    def own_model(self) -> bool:
        """Whether the model is of users' own, so that its outputs, frozen parameters and buffers are its own affair."""
        return self.chosen_model is None or self.chosen_model.own

    def describe(self) -> dict[str, Any]:
        """Return the resolved configuration by section, for ``config.toml`` and the report."""
        model: dict[str, Any]
        code: dict[str, Any] = {}
        if isinstance(self.model, nn.Module):
            here = self.problem()
            model = {"name": type(self.model).__name__, "parameters": here.num_parameters, "initial": here.digest}
            model |= {"frozen": here.num_constants} if here.num_constants else {}
        else:
            chosen = self.chosen_model
            assert chosen is not None
            model = {"name": chosen.name, **chosen.settings}
            code = {"code": {"initial": self.problem().digest}} if chosen.own else {}
        skip = {"tasks", "held_out", "model", "client", "strategy"}
        groups = self.tasks.groups
        return {
            "data": {
                "origin": self.tasks.dataset,
                "tasks": len(self.tasks),
                "declared": self.declared,
                "fingerprint": self.tasks.fingerprint,
                **({} if groups is None else {"groups": fingerprint_of(map(str, groups))}),
            },
            "model": model,
            "client": {"name": kebab(type(self.client).__name__), **self.client.model_dump(mode="json")},
            "strategy": {
                "name": kebab(type(self.strategy).__name__),
                **self.strategy.model_dump(mode="json"),
            },
            "run": {
                **self.model_dump(mode="json", exclude=skip | {"metrics"}),
                **({"metrics": described(self.metrics)} if self.metrics else {}),
            },
            **code,
        }

    def specs(self, problem: Problem, shards: int, noise_seed: int | None = None) -> list[NodeSpec]:
        """Cut the population into contiguous shards, one node each."""
        count = min(shards, len(self.tasks))
        cuts = np.linspace(0, len(self.tasks), count + 1).round().astype(int)
        parts = [self.data.shard(int(start), int(stop)) for start, stop in pairwise(cuts)]
        return [self._spec(part, problem, noise_seed, count) for part in parts]

    def node(self, tasks: Tasks, *, salt: bytes | None = None, noise_seed: int | None = None) -> NodeSpec:
        """Return what a node is built from that has these tasks and no others.

        Parameters
        ----------
        tasks : Tasks
            Its own, which follow each other in the roster.
        salt : bytes or None
            Of the population, where the roster knows hashes only.
        noise_seed : int or None
            What its tasks' local noise comes from; None makes a secret, which is right for a real node.

        Raises
        ------
        InputError
            A task is not in the roster, or its data are not of the kind that the roster says.
        """
        own = tasks.within(self.roster, salt)
        own.check()
        problem = self.problem()
        self.client.check(problem, own)
        return self._spec(own, problem, noise_seed, 1)

    def _spec(self, tasks: Tasks, problem: Problem, noise_seed: int | None, nodes: int) -> NodeSpec:
        return NodeSpec(
            tasks,
            self.client,
            problem,
            self.seed,
            self.engine,
            self.policy,
            self.local_baseline(),
            self.state_memory * 2**30 / nodes,
            noise_seed,
            self.task_limit,
            fitted(self.metrics, problem, tasks),
        )

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
        options = Options(out, reproduce, resume, progress, about or {}, config, on, pool, measure)
        own = self if reproduce is None else self.model_copy(update={"seed": reproduce})
        if progress is not None or progress_shown() is not None:
            return execute(own, options)
        with Progress(quiet=False) as shown:
            result = execute(own, replace(options, progress=shown))
        # The commands print these with their table; in Python nobody would see them unless asked for.
        early = result.summary.get("sharing", {}).get("forecast")
        for warning in result.summary.get("warnings", []):
            if warning != early:  # which was said before the run
                _LOG.warning("warning: %s", warning)
        return result

    def held_out_people(self) -> HeldOutPeople:
        """Return the people held out, with all that their scores need."""
        return HeldOutPeople(
            self.held_out,
            None if isinstance(self.tasks, Roster) else self.tasks,
            self.client,
            self.engine,
            self.seed,
            references=self.references,
            # One of users' own has as many outputs as it has.
            rebuild=None if self.own_model and self.data.kinds is not None else self.problem,
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
        prepared = prepare(self, reproduced=reproduced)
        return prepared.strategy, prepared.problem

    def resolve(self) -> ResolvedPlan:
        """Return the plan of this run for its tasks and their public groups: noise, releases, guarantees.

        Raises
        ------
        InputError
            The plan does not fit them, or no noise meets the target.
        """
        return self.grouped().resolve(len(self.tasks))

    def grouped(self) -> TaskStrategy:
        """Return the strategy with the groups of the tasks, unless it has some of its own."""
        groups = self.strategy.groups if self.strategy.groups is not None else self.tasks.groups
        return self.strategy.model_copy(update={"groups": groups})
