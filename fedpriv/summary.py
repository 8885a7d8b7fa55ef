"""The results of a run: the guarantee, and diagnostics that stay with the experimenter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedpriv.cohort import ClientAlgorithm, Metric, Population
from fedpriv.errors import InputError
from fedpriv.names import kebab
from fedpriv.over_tasks import Measure, OverTasks
from fedpriv.privacy.guarantee import REACHED, Guarantee
from fedpriv.privacy.journal import Journal
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.privacy.statements import (
    charged_releases,
    guarantees_of_run,
    metrics_alone,
    of_people,
    privacy_curve,
    spent_by_all_runs,
)
from fedpriv.privacy.target import check_delta
from fedpriv.roster import Roster
from fedpriv.runtime.server import ServerResult
from fedpriv.strategies.base import TaskStrategy

if TYPE_CHECKING:
    from pandas import DataFrame

    from fedpriv.personal import Personal

__all__ = ["Diagnostics", "Measure", "RunResult", "summarize"]

_FORMAT = 1


def _no_models() -> Personal:
    raise InputError(
        "what this run was made from is not at hand, so there is no model to take out; open its folder with "
        "fedpriv.open_run(folder), and with the experiment where it was made in Python."
    )


@dataclass(frozen=True)
class Diagnostics:
    """Scores that no release covers: for the experimenter only.

    Attributes
    ----------
    accuracy, loss : Measure
        Mean over tasks of what every run has.
    metrics : dict
        The same by name, of further metrics: in regression the RMSE, and what ``metrics`` asks for.
    """

    accuracy: Measure
    loss: Measure
    released: bool = False
    metrics: Mapping[str, Measure] = field(default_factory=dict)

    @property
    def measures(self) -> dict[str, Measure]:
        """All of them by name, accuracy and loss first."""
        return {"accuracy": self.accuracy, "loss": self.loss, **self.metrics}


@dataclass(repr=False)
class RunResult:
    """What :meth:`fedpriv.Experiment.run` returns.

    Attributes
    ----------
    guarantee : Guarantee
        What was promised to whom; ``print`` it. That of the personal models, or with cohorts of fixed size that of the
        billboards.
    personal_guarantee : Guarantee
        What holds for the personal models; the same object unless cohorts had a fixed size.
    group_guarantees : dict
        What holds for the personal models of each public group, where groups were charged differently; the other two
        then hold for the group with the largest epsilon.
    diagnostics : Diagnostics
        Mean test scores; not released.
    tasks_per_second : float
        Tasks trained per second of training, start-up and evaluation left out.
    released_lines : list of dict
        What was published besides billboards, line by line as in ``metrics.jsonl``: metrics and adapted clipping norms.
    summary : dict
        Everything above and more, ready for JSON.
    billboards : dict
        Per group, the last published arrays.
    scores : dict
        Per-task diagnostics, float64 [m] by name.
    folder : Path or None
        The run folder.
    evaluations : list of dict
        Mean scores of rounds, not released, of a run without a folder; one with a folder has them there.
    population : Tasks, Roster or None
        Who the tasks are; None where a folder was read without what was run.
    tasks : dict
        Of protected data: what tells of single tasks, ready for JSON. It goes into ``private/`` of the folder alone.
    """

    guarantee: Guarantee
    personal_guarantee: Guarantee
    diagnostics: Diagnostics
    tasks_per_second: float
    summary: dict[str, Any]
    billboards: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    privacy_lines: list[dict[str, Any]] = field(default_factory=list)
    released_lines: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = None
    group_guarantees: dict[str, Guarantee] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    population: Population | None = field(default=None, compare=False)
    make_personal: Callable[[], Personal] = field(default=_no_models, compare=False)

    @cached_property
    def personal(self) -> Personal:
        """The tasks' own models by name, ``run.personal["ann"]``: made when they are first asked for, not released.

        Raises
        ------
        InputError
            Their states are not at hand; the sentence says why.
        """
        return self.make_personal()

    def predict(self, name: str, examples: Any, *, probabilities: bool = False) -> NDArray[Any]:
        """Return what one task's model predicts for examples [n, ...], as :meth:`fedpriv.personal.Personal.predict`."""
        return self.personal.predict(name, examples, probabilities=probabilities)

    def to_frame(self, per: Literal["task", "round"] = "task") -> DataFrame:
        """Return a pandas table of what was scored, for the experimenter: no release covers it.

        Parameters
        ----------
        per : {"task", "round"}
            A row per task: its name, group, numbers of examples, and the scores of the three models. Or a row per
            round: what was published of it, and means that were not released.
        """
        from fedpriv.frames import per_round, per_task

        if per not in ("task", "round"):
            raise InputError(f"'per' must be 'task' or 'round', got {per!r}.")
        return per_task(self) if per == "task" else per_round(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what makes personal models: it belongs to this process, or to files that go with it."""
        state = {**vars(self), "make_personal": _no_models, "population": None}
        state.pop("personal", None)
        return state

    def __repr__(self) -> str:
        """Return a few numbers; scores and arrays are for those who ask for them."""
        means = {name: value for name, value in vars(self.diagnostics.accuracy).items() if value is not None}
        measure = "accuracy" if means else "loss"
        shown = means or {name: value for name, value in vars(self.diagnostics.loss).items() if value is not None}
        scores = ", ".join(f"{name} {value:.4g}" for name, value in shown.items()) or "no scores"
        return (
            f"RunResult(mean test {measure}, not released: {scores}; epsilon {self.guarantee.epsilon:.4g} at delta "
            f"{self.guarantee.delta:.3g}{'' if self.folder is None else f'; {self.folder}'})"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the means of three models, and the guarantee in words."""
        from fedpriv.notebook import result_html

        return result_html(self)

    @classmethod
    def from_summary(cls, summary: dict[str, Any], folder: Path) -> RunResult:
        """Read back a finished run."""
        from fedpriv.runs.checkpoint import CheckpointStore

        store = CheckpointStore(folder / "checkpoints")
        rounds = store.rounds()
        found = summary["diagnostics"]
        guarantee = Guarantee.from_json(summary["guarantee"])
        personal = summary.get("personal_guarantee")  # a file of an earlier version has one guarantee only
        return cls(
            guarantee=guarantee,
            personal_guarantee=guarantee if personal is None else Guarantee.from_json(personal),
            diagnostics=Diagnostics(
                Measure(**found["accuracy"]),
                Measure(**found["loss"]),
                metrics={name: Measure(**means) for name, means in found.get("metrics", {}).items()},
            ),
            tasks_per_second=summary["tasks_per_second"],
            summary=summary,
            billboards=store.load(rounds[-1]).billboards if rounds else {},
            scores=_scores_in(found, folder),
            folder=folder,
            group_guarantees={
                group: Guarantee.from_json(one) for group, one in summary.get("group_guarantees", {}).items()
            },
        )


def summarize(
    *,
    about: Mapping[str, Any],
    served: ServerResult,
    journal: Journal,
    tasks: Roster,
    strategy: TaskStrategy,
    resolved: ResolvedPlan,
    reproduce: int | None,
    client: ClientAlgorithm,
    metrics: Mapping[str, Metric],
    said: Mapping[str, Any],
    remote: bool = False,
) -> RunResult:
    """Put together the results of a run; the guarantee is computed from what the ledger holds: all of its rounds.

    ``metrics`` are those asked for; ``said`` is what the summary says of the run besides: grid, engine and seed.
    ``remote`` says that nodes are real machines, on a network that somebody may watch.
    """
    resolved.refuse_others(journal.ledger.entries(journal.population, journal.run))
    if strategy.publishes:
        journal.refuse_missing(served.checkpoint, served.measured)
    delta = resolved.delta
    found = guarantees_of_run(
        journal.ledger,
        journal.population,
        journal.run,
        delta=delta,
        num_tasks=len(tasks),
        relation=resolved.relation,
        reproduction=reproduce is not None,
    )
    guarantee, personal, groups, counts = found.headline, found.personal, found.groups, found.history
    if served.unreachable:
        guarantee, personal = guarantee.with_unreachable(), personal.with_unreachable()
        groups = {group: one.with_unreachable() for group, one in groups.items()}
    if remote:
        guarantee, personal = guarantee.with_network(), personal.with_network()
        groups = {group: one.with_network() for group, one in groups.items()}
    over = OverTasks.of(served.scores, metrics, tasks)
    diagnostics = Diagnostics(over.mean("accuracy"), over.mean("loss"), metrics=over.further())
    local, plain = client.local_guarantees(
        tasks, rounds=strategy.rounds, delta=delta, reproduction=reproduce is not None
    )
    seconds = served.seconds
    speed = served.trained / seconds["training"] if seconds["training"] > 0 else 0.0
    summary = {
        "format": _FORMAT,
        **about,
        "finished": True,
        "client": kebab(type(client).__name__),
        "strategy": kebab(type(strategy).__name__),
        "rounds": strategy.rounds,
        "num_tasks": len(tasks),
        "dataset": tasks.dataset,
        "guarantee": guarantee.to_json(),
        "personal_guarantee": personal.to_json(),
        **({"group_guarantees": {group: one.to_json() for group, one in groups.items()}} if groups else {}),
        "people": of_people(found.personal_history, personal),
        "local_guarantees": [one.to_json() for one in local],
        "warnings": [
            *check_delta(delta, len(tasks)),
            *plain,
            *_unreachable(served, resolved),
            *_problems(served, protected=tasks.declared == "protected"),
            *served.warnings,
            *([] if tasks.declared == "protected" else served.missing),
            *over.warnings(),
        ],
        "not_released": ["diagnostics", "seconds", "fill_ratio", "tasks_per_second", "unreachable", "warnings"],
        "unreachable": {"released": False, "tasks": served.unreachable, "share": _share(served, resolved)},
        "diagnostics": {
            "released": False,
            "accuracy": vars(diagnostics.accuracy),
            "loss": vars(diagnostics.loss),
            **(
                {"metrics": {name: vars(one) for name, one in diagnostics.metrics.items()}}
                if diagnostics.metrics
                else {}
            ),
            **over.public(),
            "local_compute": {"personal": served.work, "local_only": served.local_only_work},
        },
        "tasks_per_second": round(speed, 1),
        "fill_ratio": None if served.fill is None else round(served.fill, 4),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        **said,
        "reproduce": reproduce,
        "versions": {name: version(name) for name in ("fedpriv", "flwr", "ray", "torch", "dp-accounting")},
        "ledger": {
            "path": str(journal.ledger.path),
            "population": journal.population,
            "run": journal.run,
            "fingerprint": tasks.fingerprint,
            "declared": tasks.declared,
            "spent": spent_by_all_runs(journal, delta),
        },
        "releases": charged_releases(journal),
        **_published(served, resolved, counts),
    }
    return RunResult(
        guarantee=guarantee,
        personal_guarantee=personal,
        diagnostics=diagnostics,
        tasks_per_second=summary["tasks_per_second"],
        summary=summary,
        billboards=served.checkpoint.billboards,
        scores=over.scores,
        tasks=over.private() | (_private_problems(served) if tasks.declared == "protected" else {}),
        privacy_lines=privacy_curve(counts, delta, guarantee.relation, [one.round for one in served.measured]),
        released_lines=_released_lines(served, summary["releases"]),
        group_guarantees=groups,
    )


def _share(served: ServerResult, resolved: ResolvedPlan) -> float:
    """Return which share of the answers that releases were to be made of could not be reached; the rest is public."""
    return served.unreachable / resolved.expected_answers


def _unreachable(served: ServerResult, resolved: ResolvedPlan) -> list[str]:
    """Say how much of a run rests on the assumption about nodes that could not be reached."""
    if not served.unreachable:
        return []
    share = _share(served, resolved)
    return [
        f"{served.unreachable} answers of tasks ({share:.2%} of those expected) counted as zero because their "
        f"nodes could not be reached; the guarantee assumes that {REACHED}."
    ]


_ASKED = ("refused", "unreachable")
"""Causes that depend on what was asked and on who could be reached, never on data."""


def _problems(served: ServerResult, *, protected: bool) -> list[str]:
    """Say how many updates did not count; of protected data only what does not depend on them."""
    shown = {name: count for name, count in served.problems.items() if not protected or name in _ASKED}
    if not shown:
        return []
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(shown.items()))
    reason = f"the first: {served.note or 'no reason given'}"
    if protected:
        reason = "the first reason is in private/tasks.json of the run folder"
    return [f"some updates counted as zero ({counts}); {reason}"]


def _private_problems(served: ServerResult) -> dict[str, Any]:
    """Return the same of protected data, for the experimenter alone: whose value counts as zero depends on values."""
    return {"counted_as_zero": served.problems, "first_reason": served.note, "missing": served.missing}


def _scores_in(found: Mapping[str, Any], folder: Path) -> dict[str, NDArray[np.float64]]:
    """Return per-task scores of a finished run; of protected data they are in ``private/``, if one may look there."""
    from fedpriv.runs.finished import read_tasks

    kept = read_tasks(folder).get("scores", {})
    if not kept:
        kept = {f"{model}.accuracy": values for model, values in found.get("per_task", {}).items()}
        for name, models in found.get("per_task_metrics", {}).items():
            kept |= {f"{model}.{name}": values for model, values in models.items()}
    return {name: np.array(values, dtype=float) for name, values in kept.items()}


def _published(served: ServerResult, resolved: ResolvedPlan, counts: Counter[Release]) -> dict[str, Any]:
    """Return what was published besides billboards: metrics with the guarantee that they have alone, the last norm."""
    found: dict[str, Any] = {}
    if served.measured:
        found["metrics"] = {
            "released": True,
            "means": [{"round": one.round, "values": one.values, "noise": one.noise} for one in served.measured],
            "alone": metrics_alone(counts, resolved),
        }
    if served.checkpoint.clipping_norm is not None:
        found["clipping"] = {"released": True, "norm": served.checkpoint.clipping_norm}
    return found


def _released_lines(served: ServerResult, releases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was published besides billboards, for ``metrics.jsonl``: adapted clipping norms, and metrics."""
    norms: dict[int, float] = {}
    if served.checkpoint.clipping_norm is not None:
        norms = {one["round"]: one["clipping_norm"] for one in releases if one["measures"] is None}
    lines: list[dict[str, Any]] = [
        {"round": number, "kind": "clipping", "released": True, "clipping_norm": norm}
        for number, norm in sorted(norms.items())
    ]
    for one in served.measured:
        line: dict[str, Any] = {"round": one.round, "kind": "metrics", "released": True, "loss": {}, "accuracy": {}}
        for name, value in one.values.items():
            model, measure = name.split(".")
            line[measure][model] = value
        lines.append({**line, "noise": one.noise})
    return lines
