"""The server's step as a value: from what was released, and from public values, to the next billboard."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.settings import Settings

__all__ = ["NoisySum", "ServerUpdate", "State"]

State = Mapping[str, NDArray[np.float64]]
"""What an update keeps of a group from round to round: arrays by name."""


@dataclass(frozen=True)
class NoisySum:
    """What one round released of one group, and the public values that belong to it. Arrays are read-only.

    Attributes
    ----------
    round, rounds : int
        Number of the round, from 1, and of the last one.
    billboard : mapping
        What was published before the round: arrays by name.
    total : mapping
        The sum of the clipped updates with its noise: float64 arrays with the names and shapes of the billboard's.
    expected : float
        Number of tasks that take part as expected, a public constant.
    learning_rate : float
        The strategy's ``server_learning_rate``.
    """

    round: int
    rounds: int
    billboard: Mapping[str, NDArray[Any]]
    total: Mapping[str, NDArray[np.float64]]
    expected: float
    learning_rate: float

    def mean(self) -> dict[str, NDArray[np.float64]]:
        """Return the noisy mean of the updates, float64: the direction in which tasks would move the billboard."""
        return {name: value / self.expected for name, value in self.total.items()}

    def moved(self, direction: State, scale: float | None = None) -> dict[str, NDArray[Any]]:
        """Return the billboard plus ``scale`` times a direction, in the billboard's types.

        Parameters
        ----------
        direction : mapping
            An array for each of the billboard.
        scale : float or None
            The learning rate unless given.

        Raises
        ------
        InputError
            The direction's names are not those of the billboard.
        """
        other = sorted(direction.keys() ^ self.billboard.keys())
        if other:
            raise InputError(
                f"moved() needs one array for each of the billboard's, and {other[0]!r} is in "
                f"{'the direction' if other[0] in direction else 'the billboard'} only."
            )
        step = self.learning_rate if scale is None else scale
        return {name: (value + step * direction[name]).astype(value.dtype) for name, value in self.billboard.items()}


class ServerUpdate(Settings):
    """How the server moves the billboard of a group: a pure function of released and public values.

    It costs no privacy: it gets the noisy sum, which the ledger is charged for, the billboard before, public constants
    and what it returned itself, and nothing else (post-processing: Dwork and Roth, Proposition 2.1). Every group has a
    state of its own.

    The state is public, as the billboard is: a function of released values. It is not sent to the nodes, since nobody
    there needs it, but it is written in one piece with the billboard and stands in the digest that is charged, so that
    a run that goes on takes the very steps that it would have taken.

    Fields are settings; in a configuration they stand beside ``server_update`` with ``server_`` before their name.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse what a resumed run would lose, and settings that nobody could give."""
        super().__pydantic_init_subclass__(**kwargs)
        if cls.__private_attributes__:
            raise InputError(
                f"{cls.__name__} keeps {sorted(cls.__private_attributes__)[0]!r} to itself, which a run that goes on "
                "would lose; keep arrays in the state that 'step' returns."
            )
        taken = sorted({"learning_rate", "update"} & cls.model_fields.keys())
        if taken:
            raise InputError(
                f"{cls.__name__}.{taken[0]} would be set by 'server_{taken[0]}', which is a setting of the strategy; "
                "use another name, and for the step size NoisySum.learning_rate."
            )

    def initial_state(self, billboard: Mapping[str, NDArray[Any]]) -> State:  # noqa: ARG002
        """Return the state before round 1; nothing unless overridden. Its names and shapes stay those of all rounds.

        Whatever the type of its numbers, the state is kept in float64.

        Raises
        ------
        InputError
            The billboard is not one that this update can move.
        """
        return {}

    @abstractmethod
    def step(self, released: NoisySum, state: State) -> tuple[dict[str, NDArray[Any]], State]:
        """Return the next billboard, and the state for the round after.

        Parameters
        ----------
        released : NoisySum
            What the round released.
        state : mapping
            What the round before returned, float64, read-only.

        Returns
        -------
        dict, mapping
            Arrays with the names, shapes and types of the billboard's; arrays with the names and shapes of
            :meth:`initial_state`. Numbers of the state are kept in float64, whatever their type: whole ones are exact
            up to 2^53.
        """
