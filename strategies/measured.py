"""Metrics that a run publishes: mean scores of all tasks, with noise, inside the privacy that was asked for."""

from __future__ import annotations

import math
from collections import Counter
from typing import Annotated, Any, Literal

import numpy as np
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from pydantic import BeforeValidator, Field, model_validator

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy.gaussian import gaussian_mu
from fedpriv.privacy.journal import Boundary
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.metrics import metrics_norm, metrics_release, noisy_means
from fedpriv.protocol import METRICS, record_from_billboards
from fedpriv.strategies.clipped import ClippedStrategy

__all__ = ["MeasuredStrategy"]

Metric = Literal["personal.accuracy", "personal.loss", "billboard.accuracy", "billboard.loss"]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class MeasuredStrategy(ClippedStrategy):
    """Base of strategies that may publish mean scores.

    Attributes
    ----------
    metrics : tuple of str
        Which means over all tasks are released: ``personal.accuracy``, ``personal.loss``, ``billboard.accuracy``,
        ``billboard.loss``. None unless given: scores are diagnostics then, which stay with the experimenter.
    metrics_every : int
        Rounds between two releases; 0 releases them at the end only, after the final fit. The end always counts.
    metrics_epsilon : float or None
        What all releases of metrics cost together, at the delta of the run. A ``target`` covers it: the updates get the
        more noise. Beside a given ``noise_multiplier`` it comes on top. Required unless the noise multiplier is 0.
    metrics_largest_loss : float
        Losses above this count as this; a public bound, from 1e-6 to 1e6.
    """

    metrics: Annotated[tuple[Metric, ...], BeforeValidator(_several)] = ()
    metrics_every: int = Field(default=0, ge=0)
    metrics_epsilon: float | None = Field(default=None, gt=0)
    metrics_largest_loss: float = Field(default=5.0, ge=1e-6, le=1e6)

    @model_validator(mode="after")
    def _metrics_are_asked_for(self) -> MeasuredStrategy:
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError(f"'metrics' names a measure twice: {', '.join(self.metrics)}; name each once.")
        for name in ("metrics_every", "metrics_epsilon", "metrics_largest_loss"):
            if not self.metrics and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name!r} needs 'metrics', such as ['personal.accuracy']; give them, or leave it out."
                )
        if self.metrics_every > self.rounds:
            raise ValueError(
                f"'metrics_every' must be at most rounds={self.rounds}, got {self.metrics_every}; 0 is the end only."
            )
        return self

    @property
    def metric_rounds(self) -> list[int]:
        """The rounds after which metrics are released, ascending; the last one's come after the final fit."""
        step = self.metrics_every or self.rounds
        return [*range(step, self.rounds, step), self.rounds] if self.metrics else []

    @property
    def measures_state(self) -> bool:
        """Whether metrics depend on what tasks learned in the rounds before."""
        return any(name.startswith("personal.") for name in self.metrics)

    def check_nodes(self, *, classes: bool, largest_norm: float | None) -> None:
        """Refuse accuracies of tasks that predict values."""
        super().check_nodes(classes=classes, largest_norm=largest_norm)
        if not classes and any(name.endswith("accuracy") for name in self.metrics):
            raise InputError("tasks that predict values have no accuracy; release the metric 'personal.loss' instead.")

    def metrics_noise(self, num_tasks: int) -> float:
        """Return the noise multiplier of the metrics: all their releases together cost ``metrics_epsilon``."""
        if self.metrics_epsilon is None:
            return 0.0
        mu = gaussian_mu(self.metrics_epsilon, self.report_delta(num_tasks))
        return self.relation.sensitivity * math.sqrt(len(self.metric_rounds)) / mu * (1.0 + 1e-10)

    def metric_releases(self, num_tasks: int, rounds: int | None = None) -> Counter[Release]:
        """Return the releases of metrics that are due in the last so many rounds; all of them by default."""
        first = 0 if rounds is None else self.rounds - rounds
        due = sum(number > first for number in self.metric_rounds)
        return Counter({metrics_release(len(self.metrics), self.metrics_noise(num_tasks)): due} if due else {})

    def measuring(self, boundary: Boundary) -> list[Message]:
        """Return the messages that ask all tasks for what they contribute to the metrics after a round."""
        declared = {
            "clipping_norm": metrics_norm(len(self.metrics)),
            "noise_multiplier": self.metrics_noise(self.session.registry.num_tasks),
            "fixed_size": False,
            "stream": (),
            "metrics": self.metrics,
            "largest_loss": self.metrics_largest_loss,
        }
        kind = f"{MessageType.TRAIN}.metrics"
        arrays = record_from_billboards(boundary.billboards)
        return self.messages(kind, boundary.round, arrays, self.session.groups, declared=declared)

    def measure(self, number: int, grid: Grid) -> None:
        """Release the metrics that are due after a round, unless they were.

        Raises
        ------
        BudgetExceeded
            The population cannot pay for them; no task was asked.
        ComponentFailure
            A node that hosts several tasks failed, or there is no ledger.
        """
        session = self.session
        if number not in self.metric_rounds or number in session.measured:
            return
        if session.journal is None:
            raise ComponentFailure("there is no ledger to charge metrics to; call bind(..., journal=...) first.")
        noise_multiplier = self.metrics_noise(session.registry.num_tasks)
        release = metrics_release(len(self.metrics), noise_multiplier)
        session.journal.check(Counter({release: 1}))
        stage = f"to measure after round {number}"
        replies = session.ask(grid, self.measuring(session.boundary), stage)
        sums = []
        for node, answer in session.answers(replies, session.groups, session.problems, number, stage):
            session.take_note(answer)
            part = answer.updates.get(METRICS, {}).get(METRICS)
            if part is None or part.shape != (len(self.metrics),) or part.dtype.kind != "f":
                session.problems["rejected"] += 1
                continue
            sums.append((part.astype(np.float64), session.registry.hosted(node)))
        found = noisy_means(
            sums,
            self.metrics,
            self.metrics_largest_loss,
            session.registry.num_tasks,
            noise_multiplier,
            session.entropy,
            number,
        )
        session.journal.publish_measured(found, release)
        session.measured[number] = found
