"""Whether sharing will pay: a forecast from public numbers before a run, and what was measured after it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedpriv.privacy.accounting import epsilon
from fedpriv.privacy.gaussian import gaussian_epsilon, gaussian_mu
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.privacy.terms import Relation

__all__ = ["Forecast", "compared", "forecast_sharing"]

_HELPS, _HURTS = 0.5, 2.0
"""Below the first ratio sharing helped in all that was tried, above the second it hurt."""

_LEAST_MODEL, _LARGEST_EPSILON = 10, 20.0
"""A smaller model or a larger epsilon is no advice."""

_ALONE = "train alone (client 'local-only' with strategy 'silent'), which costs no privacy"


@dataclass(frozen=True)
class Forecast:
    """What the noise does to a billboard, before anybody works.

    Attributes
    ----------
    ratio : float
        z sqrt(p) / m: the length of the noise on the mean of m updates of p numbers, in clipping norms, if everything
        were one release. z is the noise multiplier that one release would need.
    epsilon, delta : float
        Of the run, which z follows from.
    relation : Relation
        Under which both hold.
    numbers, tasks : int
        p and m; with public groups, of the group with the largest ratio.
    rows : bool
        Whether every task's row has local noise: the mean then has sqrt(m) times as much.
    """

    ratio: float
    epsilon: float
    delta: float
    relation: Relation
    numbers: int
    tasks: int
    rows: bool = False

    @property
    def multiplier(self) -> float:
        """The noise multiplier z of one release with the epsilon and delta of the run."""
        return _multiplier(self.epsilon, self.delta, self.relation)

    @property
    def sentence(self) -> str | None:
        """Say that sharing is forecast to hurt, and from where on it would not; None if it is not."""
        if self.ratio <= _HURTS:
            return None
        tasks = math.ceil(self._tasks_for(self.multiplier * math.sqrt(self.numbers) / _HELPS))
        ways = [f"with at least {tasks:,} tasks"]
        numbers = math.floor((_HELPS * self._weight / self.multiplier) ** 2)
        if numbers >= _LEAST_MODEL:
            ways.insert(0, f"with at most {numbers:,} shared numbers")
        if self.enough_epsilon <= _LARGEST_EPSILON:
            ways.insert(0, f"from epsilon {self.enough_epsilon:.3g} on")
        return (
            f"personal models are forecast to be worse than training alone: z sqrt(p) / m is {self.ratio:.2g}, and "
            f"sharing hurts above {_HURTS:g} (z = {self.multiplier:.3g} for epsilon {self.epsilon:.3g}, p = "
            f"{self.numbers:,} shared numbers, m = {self.tasks:,} tasks). Either {_ALONE}; or change one of these: "
            f"sharing is forecast to help {', or '.join(ways)}."
        )

    @property
    def enough_epsilon(self) -> float:
        """The epsilon from which on sharing is forecast to help, with these tasks and this model."""
        z = _HELPS * self._weight / math.sqrt(self.numbers)
        # A target is met to two thousandths. Rounded up to the three digits that are shown.
        exact = gaussian_epsilon(self.relation.sensitivity / z, self.delta) / 0.998
        digits = 10.0 ** (math.floor(math.log10(exact)) - 2) if exact > 0 else 1.0
        return math.ceil(exact / digits) * digits

    @property
    def _weight(self) -> float:
        return math.sqrt(self.tasks) if self.rows else float(self.tasks)

    def _tasks_for(self, weight: float) -> float:
        return weight**2 if self.rows else weight

    def to_json(self) -> dict[str, float | int | str | None]:
        """Return what the summary keeps; all of it is public."""
        return {
            "ratio": round(self.ratio, 4),
            "noise_multiplier_of_one_release": round(self.multiplier, 4),
            "numbers": self.numbers,
            "tasks": self.tasks,
            "forecast": self.sentence,
        }


def forecast_sharing(resolved: ResolvedPlan, numbers: int) -> Forecast | None:
    """Forecast whether personal models get better by sharing; None if nothing is published, or without noise.

    Parameters
    ----------
    resolved : ResolvedPlan
        What will be published, with which noise.
    numbers : int
        Trainable numbers on the billboard.
    """
    planned, delta, relation = resolved.releases(), resolved.delta, resolved.relation
    if not planned:
        return None
    whole = epsilon(planned, delta, relation).value
    found = [
        _forecast(one, delta, relation, numbers, size, rows=resolved.plan.at_node)
        for one, size in resolved.targets(whole)
        if 0.0 < one < math.inf
    ]
    return max(found, key=lambda one: one.ratio) if found else None


def compared(personal: float | None, alone: float | None, measure: str) -> str | None:
    """Say that personal models were measured to be worse than training alone; None if they were not."""
    if personal is None or alone is None:
        return None
    worse = personal < alone if measure == "accuracy" else personal > alone
    if not worse:
        return None
    return (
        f"personal models are worse than training alone in this run (mean test {measure} {personal:.3f} against "
        f"{alone:.3f}; diagnostic, not released): {_ALONE}."
    )


def _forecast(epsilon: float, delta: float, relation: Relation, numbers: int, tasks: int, *, rows: bool) -> Forecast:
    weight = math.sqrt(tasks) if rows else tasks
    ratio = _multiplier(epsilon, delta, relation) * math.sqrt(numbers) / weight
    return Forecast(ratio, epsilon, delta, relation, numbers, tasks, rows)


def _multiplier(epsilon: float, delta: float, relation: Relation) -> float:
    return relation.sensitivity / gaussian_mu(epsilon, delta)
