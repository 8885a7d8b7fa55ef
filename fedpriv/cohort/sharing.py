"""Which parameters of a model are shared, and which stay with each task (``client.share``).

What stays is personal state under the prefix ``kept``. It begins at the model's public initial values, a task trains it
with the rest, and nothing of it is in a billboard, an update, or a clipping norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from fedpriv.cohort.algorithm import ClientAlgorithm
from fedpriv.cohort.cohort import Cohort
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.trees import KEPT, Params, State, broadcast, nest
from fedpriv.errors import InputError
from fedpriv.names import kebab, nearest

__all__ = ["Sharing"]


@dataclass(frozen=True)
class Sharing:
    """The public start of a model, in two parts.

    Attributes
    ----------
    billboard : Params
        Initial values of what is shared: names and shapes of billboards and updates.
    kept : Params
        Initial values of what stays with each task; empty where the whole model is shared.
    """

    billboard: Params = field(repr=False)
    kept: Params = field(repr=False)

    @classmethod
    def of(cls, algorithm: ClientAlgorithm, problem: Problem) -> Sharing:
        """Divide a model as the client's ``share`` says.

        Raises
        ------
        InputError
            The client cannot keep parts of a model, or a pattern matches nothing, or all of them match everything.
        """
        initial = problem.initial()
        if not algorithm.patterns:
            return cls(initial, {})
        if not algorithm.keeps_parts:
            raise InputError(
                f"the client {kebab(type(algorithm).__name__)!r} shares its whole model or nothing; leave out "
                "client.share, or use 'global-model', 'fed-prox' or 'mean-regularized', which keep the rest with the "
                "task."
            )
        shared: set[str] = set()
        for pattern in algorithm.patterns:
            found = {name for name in initial if fnmatchcase(name, pattern)}
            if not found:
                raise InputError(_nothing(pattern, problem, initial))
            shared |= found
        if len(shared) == len(initial):
            raise InputError(
                f"client.share = {list(algorithm.patterns)} matches all {len(initial)} parameters of the model, so "
                "nothing would stay with the task; leave it out."
            )
        parts = ({name: value for name, value in initial.items() if (name in shared) is part} for part in (True, False))
        return cls(*parts)

    def first_state(self, algorithm: ClientAlgorithm, billboard: Params, cohort: Cohort) -> State:
        """Return the personal state [C, ...] of tasks that take part for the first time.

        It is made of the billboard, the tasks' own data, and the public initial values of what stays with them.
        """
        # Copies: who writes into a state must not change where the next task begins.
        own = {name: value.clone() for name, value in broadcast(self.kept, len(cohort)).items()}
        return {**algorithm.initial_state(billboard, cohort), **nest(KEPT, own)}

    def misfit(self, billboard: Mapping[str, Any]) -> str | None:
        """Return a sentence if a billboard holds other arrays than are shared, where some stay with the task."""
        if not self.kept or billboard.keys() == self.billboard.keys():
            return None
        held = sorted(billboard.keys() & self.kept.keys())
        what = f"{held[0]!r}, which stays with each task" if held else "other arrays than are shared"
        return f"a billboard holds {what}; give server and nodes one client.share, {sorted(self.billboard)} here."


def _nothing(pattern: str, problem: Problem, learned: Params) -> str:
    """Say why a pattern matches nothing that tasks learn."""
    frozen = next((name for name, _ in problem.model.named_parameters() if fnmatchcase(name, pattern)), None)
    if frozen is not None:
        return (
            f"client.share: {pattern!r} matches frozen parameters only, such as {frozen!r}, which are public "
            "constants; leave it out, or unfreeze them."
        )
    close = nearest(pattern, learned)
    hint = f"did you mean {close!r}? " if close else ""
    return f"client.share: {pattern!r} matches no parameter of the model: {hint}known are {', '.join(sorted(learned))}."
