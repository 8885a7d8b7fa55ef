"""Scores over tasks: means for the experimenter, and what tells of single tasks, which of protected data is private."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.cohort import Metric
from fedpriv.roster import Roster
from fedpriv.statistics import spread_over_tasks

__all__ = ["Measure", "OverTasks"]

_MODELS = ("personal", "billboard", "local_only")
_BETTER: dict[str, bool | None] = {"accuracy": True, "loss": False}


@dataclass(frozen=True)
class Measure:
    """One measure of the three models, averaged over tasks; None where it does not exist."""

    personal: float | None = None
    billboard: float | None = None
    local_only: float | None = None


@dataclass(frozen=True)
class OverTasks:
    """The last scores of all tasks.

    Attributes
    ----------
    scores : dict
        Float64 [m] by model and measure, such as ``personal.loss``; NaN where a task has none.
    better : dict
        Whether higher is better, by measure; None if nobody says.
    roster : Roster
        Who the tasks are.
    """

    scores: dict[str, NDArray[np.float64]]
    better: Mapping[str, bool | None]
    roster: Roster

    @classmethod
    def of(cls, scores: Mapping[str, NDArray[np.float64]], metrics: Mapping[str, Metric], roster: Roster) -> OverTasks:
        """Take what nodes answered; in regression the RMSE follows from the loss."""
        found, better = dict(scores), {name: one.higher_is_better for name, one in metrics.items()}
        if roster.num_classes is None and "rmse" not in metrics:
            better = {"rmse": False, **better}
            for model in _MODELS:
                if f"{model}.loss" in scores:  # half the squared error, summed over outputs
                    found[f"{model}.rmse"] = np.sqrt(2.0 * scores[f"{model}.loss"] / prod(roster.target_shape))
        return cls(found, {**_BETTER, **better}, roster)

    def mean(self, measure: str) -> Measure:
        """Return the mean over the tasks that have the measure."""
        return Measure(**{model: self._mean(model, measure) for model in _MODELS})

    def further(self) -> dict[str, Measure]:
        """Return the means of all but accuracy and loss."""
        return {name: self.mean(name) for name in self.better if name not in _BETTER}

    def public(self) -> dict[str, Any]:
        """Return what the summary says of single tasks, and of their spread: of protected data only where it is."""
        if self._protected:
            return {"per_task": {}, "tasks_in": "private/tasks.json"}
        found: dict[str, Any] = {"per_task": self._per_task("accuracy"), "spread": self.spread()}
        own = {name: self._per_task(name) for name in self.better if name not in (*_BETTER, "rmse")}
        return {**found, "per_task_metrics": own} if own else found

    def private(self) -> dict[str, Any]:
        """Return all that tells of single tasks of protected data; empty for a benchmark."""
        if not self._protected:
            return {}
        return {
            "released": False,
            "tasks": list(self.roster.names),
            "scores": {name: values.tolist() for name, values in self.scores.items() if self._known(name)},
            "spread": self.spread(),
            "undefined": self.undefined(),
        }

    def spread(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Return worst decile and standard deviation, by measure and model."""
        found = {}
        for measure, better in self.better.items():
            models = {
                model: spread_over_tasks(values.tolist(), higher_is_better=better)
                for model in _MODELS
                if len(values := self._finite(model, measure))
            }
            if models:
                found[measure] = models
        return found

    def undefined(self) -> dict[str, dict[str, int]]:
        """Return how many tasks have a loss and not the metric, by metric and model; metrics asked for only."""
        found: dict[str, dict[str, int]] = {}
        for measure in self.better.keys() - _BETTER.keys():
            for model in _MODELS:
                loss, values = self.scores.get(f"{model}.loss"), self.scores.get(f"{model}.{measure}")
                if loss is None or values is None:
                    continue
                if count := int((np.isfinite(loss) & ~np.isfinite(values)).sum()):
                    found.setdefault(measure, {})[model] = count
        return found

    def warnings(self) -> Iterator[str]:
        """Yield what the experimenter has to know of metrics that tasks of a benchmark do not have."""
        if self._protected:
            return
        for measure, counts in sorted(self.undefined().items()):
            models = ", ".join(f"{count} ({model.replace('_', ' ')})" for model, count in counts.items())
            yield (
                f"the metric {measure!r} is not defined for some of the {len(self.roster)} tasks, or fails on them: "
                f"{models}; its means leave them out."
            )

    @property
    def _protected(self) -> bool:
        return self.roster.declared == "protected"

    def _known(self, name: str) -> bool:
        return self.roster.num_classes is not None or not name.endswith(".accuracy")

    def _finite(self, model: str, measure: str) -> NDArray[np.float64]:
        values = self.scores.get(f"{model}.{measure}", np.empty(0))
        return values[np.isfinite(values)] if self._known(f"{model}.{measure}") else np.empty(0)

    def _mean(self, model: str, measure: str) -> float | None:
        values = self._finite(model, measure)
        # Of protected data the mean of a single one among several would be that task's own.
        few = 2 if self._protected and len(self.roster) > 1 else 1
        return float(values.mean()) if len(values) >= few else None

    def _per_task(self, measure: str) -> dict[str, list[float]]:
        return {
            model: [round(value, 6) for value in self.scores[f"{model}.{measure}"].tolist()]
            for model in _MODELS
            if f"{model}.{measure}" in self.scores and self._known(f"{model}.{measure}")
        }
