"""Mean scores of the tasks as a release of its own.

Each task contributes n values, scaled to [0, 1] and centred: a vector whose entries lie within 1/2 of 0, so of norm
sqrt(n) / 2 at most, and 0 if it does not answer or its scores are not finite. Noise on the sum of these vectors is an
ordinary Gaussian release with full participation: one task moves the sum by at most that norm, and by twice that if
its data are replaced. The sum is divided by the number of tasks, a public constant. So a task that does not answer
pulls the mean towards the middle of the range, and a mean may come to lie a little outside of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.privacy.clipping import clipped_sum
from fedpriv.privacy.entropy import Entropy
from fedpriv.privacy.gaussian import gaussian_mu
from fedpriv.privacy.histories import EVERYBODY
from fedpriv.privacy.mechanisms import Release, gaussian_sum
from fedpriv.privacy.terms import Relation

if TYPE_CHECKING:
    from fedpriv.privacy.ledger import Entry

__all__ = ["Metrics", "MetricsRelease", "contributions", "metrics_norm", "metrics_release", "noisy_means"]


@dataclass(frozen=True)
class Metrics:
    """Which means over all tasks a run publishes, when, and at what cost; none unless named.

    Attributes
    ----------
    metrics : tuple of str
        ``personal.accuracy``, ``personal.loss``, ``billboard.accuracy``, ``billboard.loss``.
    metrics_every : int
        Rounds between two releases; 0 releases them at the end only, after the final fit. The end always counts.
    metrics_epsilon : float or None
        What all releases of metrics cost together, at the delta of the run.
    metrics_largest_loss : float
        Losses above this count as this; a public bound.

    Raises
    ------
    InputError
        The values do not go together.
    """

    metrics: tuple[str, ...] = ()
    metrics_every: int = 0
    metrics_epsilon: float | None = None
    metrics_largest_loss: float = 5.0

    def __post_init__(self) -> None:
        if len(set(self.metrics)) != len(self.metrics):
            raise InputError(f"'metrics' names a measure twice: {', '.join(self.metrics)}; name each once.")
        for name in ("metrics_every", "metrics_epsilon", "metrics_largest_loss"):
            if not self.metrics and getattr(self, name) != getattr(type(self), name):
                raise InputError(
                    f"{name!r} needs 'metrics', such as ['personal.accuracy']; give them, or leave it out."
                )

    @property
    def personal(self) -> bool:
        """Whether some depend on what tasks learned in the rounds before."""
        return any(name.startswith("personal.") for name in self.metrics)

    def due(self, rounds: int) -> list[int]:
        """Return the rounds after which they are released, ascending; the last one's come after the final fit."""
        step = self.metrics_every or rounds
        return [*range(step, rounds, step), rounds] if self.metrics else []

    def noise(self, rounds: int, delta: float, relation: Relation) -> float:
        """Return the noise multiplier with which all releases together cost ``metrics_epsilon``."""
        if self.metrics_epsilon is None:
            return 0.0
        mu = gaussian_mu(self.metrics_epsilon, delta)
        return relation.sensitivity * math.sqrt(len(self.due(rounds))) / mu * (1.0 + 1e-10)


@dataclass(frozen=True)
class MetricsRelease:
    """Means that were released after a round.

    Attributes
    ----------
    round : int
        The round after which they were taken.
    values : dict
        Name of a measure to its noisy mean over all tasks.
    noise : dict
        Name of a measure to the standard deviation of the noise on its mean.
    """

    round: int
    values: dict[str, float]
    noise: dict[str, float]

    def charged_by(self, entries: Iterable[Entry]) -> bool:
        """Tell whether one of a ledger's entries is for these very metrics."""
        digest = self.digest()
        return any(entry.digest == digest for entry in entries)

    def digest(self) -> str:
        """Return a SHA-256: the ledger knows by it which draw it was charged for."""
        return hashlib.sha256(f"metrics|{self.to_json()}".encode()).hexdigest()

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> MetricsRelease:
        """Read back what :meth:`to_json` wrote.

        Raises
        ------
        ValueError, KeyError, TypeError, AttributeError
            The text is something else.
        """
        found = json.loads(text)
        values, noise = ({str(k): float(v) for k, v in found[name].items()} for name in ("values", "noise"))
        return cls(operator.index(found["round"]), values, noise)


def metrics_norm(count: int) -> float:
    """Return the bound of one task's contribution to ``count`` measures."""
    return math.sqrt(count) / 2.0


def metrics_release(count: int, noise_multiplier: float) -> Release:
    """Return the release of the means of ``count`` measures over all tasks."""
    return Release(
        noise_multiplier=noise_multiplier,
        sampling_name="full",
        rate=1.0,
        clipping_norm=metrics_norm(count),
        measures="metrics",
    )


def contributions(
    scores: Mapping[str, NDArray[np.float64]], names: Sequence[str], largest_loss: float
) -> NDArray[np.float64]:
    """Return what k tasks contribute, float64 [k, n].

    Parameters
    ----------
    scores : mapping
        Measure to its values [k].
    names : sequence of str
        The n measures that are released. Those that end in "loss" are clipped to [0, largest_loss] and scaled to
        [0, 1], the others clipped to [0, 1].
    largest_loss : float
        A public bound.

    Raises
    ------
    InputError
        A measure does not exist.
    """
    for name in names:
        if name not in scores:
            raise InputError(f"there is no measure {name!r} for these tasks; there are {', '.join(sorted(scores))}.")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scaled = [np.asarray(scores[name], dtype=np.float64) / _range(name, largest_loss) for name in names]
    values = np.stack(scaled, axis=1)
    return np.where(np.isfinite(values).all(axis=1, keepdims=True), np.clip(values, 0.0, 1.0) - 0.5, 0.0)


def noisy_means(
    sums: Sequence[tuple[NDArray[np.float64], int]],
    names: Sequence[str],
    largest_loss: float,
    num_tasks: int,
    noise_multiplier: float,
    entropy: Entropy,
    round: int,
) -> MetricsRelease:
    """Add up what came, add noise, and divide by the number of tasks.

    Parameters
    ----------
    sums : sequence of (array [n], int)
        Sums of contributions and from how many tasks each is at most. One that is not finite counts as zero, and one
        that so many tasks cannot come to is clipped to what they can.
    names, largest_loss
        As :func:`contributions`.
    num_tasks : int
        A public constant.
    noise_multiplier : float
        Of the release.
    entropy : Entropy
        Asked once, for the purpose "noise" of this round and everybody.
    round : int
        After which the scores were taken.
    """
    norm, total = metrics_norm(len(names)), np.zeros(len(names))
    for part, tasks in sums:
        total += clipped_sum([part[None]], norm * tasks)[0]
    (noisy,) = gaussian_sum([total], norm, noise_multiplier, entropy, round, EVERYBODY)
    std = noise_multiplier * norm / num_tasks
    values = {name: float(noisy[i] / num_tasks + 0.5) * _range(name, largest_loss) for i, name in enumerate(names)}
    return MetricsRelease(round, values, {name: std * _range(name, largest_loss) for name in names})


def _range(name: str, largest_loss: float) -> float:
    return largest_loss if name.endswith("loss") else 1.0
