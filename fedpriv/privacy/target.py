"""The privacy that a user asks for, and which delta is acceptable."""

from __future__ import annotations

from pydantic import Field

from fedpriv.errors import InputError
from fedpriv.privacy.terms import Relation
from fedpriv.settings import Settings

__all__ = ["Target", "check_delta", "default_delta"]


class Target(Settings):
    """The epsilon and delta that all releases together may cost.

    Attributes
    ----------
    epsilon : float
        Positive and finite.
    delta : float or None
        In (0, 1); None stands for :func:`default_delta` of the population.
    relation : Relation
        Neighbouring relation under which both hold. With limits of participation, add/remove is stated as zero-out.
    """

    epsilon: float = Field(gt=0.0)
    delta: float | None = Field(default=None, gt=0.0, lt=1.0)
    relation: Relation = Relation.ADD_REMOVE

    def delta_for(self, num_tasks: int) -> float:
        """Return the delta of a population of this size, after checking it (see :func:`check_delta`)."""
        delta = default_delta(num_tasks) if self.delta is None else self.delta
        check_delta(delta, num_tasks)
        return delta


def default_delta(num_tasks: int) -> float:
    """Return 1 / (100 num_tasks).

    Where public groups have an epsilon each, ``num_tasks`` is the number of all tasks, and not that of a group: a
    smaller number would give a larger delta, which is a weaker promise. So is what :func:`check_delta` compares with.

    Raises
    ------
    InputError
        If ``num_tasks`` is below 1.
    """
    if num_tasks < 1:
        raise InputError(f"privacy: 'num_tasks' must be at least 1, got {num_tasks}.")
    return 1.0 / (100.0 * num_tasks)


def check_delta(delta: float, num_tasks: int) -> list[str]:
    """Refuse a delta that protects nobody, and warn of a large one.

    A mechanism that publishes all data of one task drawn at random satisfies (0, 1/m)-DP for m tasks.

    Returns
    -------
    list of str
        A sentence if delta is above 1/(10 m), otherwise empty.

    Raises
    ------
    InputError
        If delta is not positive, or is 1/m or more.
    """
    advice = default_delta(num_tasks)
    if not 0.0 < delta < 1.0:
        raise InputError(f"privacy: 'delta' must be between 0 and 1, both excluded, got {delta!r}.")
    if delta >= 1.0 / num_tasks:
        raise InputError(
            f"privacy: 'delta' must be below 1/m = {1.0 / num_tasks:.3g} for m = {num_tasks} tasks, got "
            f"{delta:.3g}: publishing one random task's data would satisfy it; use {advice:.3g}."
        )
    if delta > 0.1 / num_tasks:
        return [
            f"delta = {delta:.3g} is above 1/(10 m) = {0.1 / num_tasks:.3g} for m = {num_tasks} tasks; "
            f"{advice:.3g} would be a safer choice."
        ]
    return []
