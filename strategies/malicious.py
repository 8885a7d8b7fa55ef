"""The malicious meta-learner: any strategy, with an observer of what the server sees before its noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedpriv.errors import InputError
from fedpriv.settings import Settings
from fedpriv.strategies.base import TaskStrategy

if TYPE_CHECKING:
    from fedpriv.adversary.observer import Sighting

__all__ = ["Listener", "MaliciousMetaLearner"]

Listener = Callable[["Sighting", Path | None], None]
"""Told of a sighting, with the run's folder if there is one; what it does changes nothing in the run."""

S = TypeVar("S", bound=TaskStrategy)


@dataclass(frozen=True)
class _FunctionObserver:
    """An observer that hands on what it sees."""

    rounds: frozenset[int]
    listener: Listener

    def see(self, sighting: Sighting) -> None:
        """Tell the listener."""
        self.listener(sighting, sighting.folder)


class MaliciousMetaLearner(Settings):
    """Adds an observer to any strategy; make one with :meth:`around`.

    References
    ----------
    Rafiei, Maheri, Rabiee: Privacy Challenges in Meta-Learning, section IV.
    """

    def __init__(self, **values: Any) -> None:  # noqa: ARG002
        raise InputError(
            "a malicious meta-learner wraps another strategy: use MaliciousMetaLearner.around(strategy, ...), or "
            "the keys of [attack] beside any strategy."
        )

    @classmethod
    def around(cls, strategy: S, *, rounds: Iterable[int], listener: Listener) -> S:
        """Return the strategy with a listener, an observer that is a function.

        Parameters
        ----------
        strategy : TaskStrategy
            Any strategy; it is not changed.
        rounds : iterable of int
            When to listen, from 1.
        listener : callable
            Gets each :class:`fedpriv.adversary.observer.Sighting` and the run's folder, or None without one.

        Raises
        ------
        InputError
            A round is not one of the run's.
        """
        return strategy.observed_by(_FunctionObserver(frozenset(rounds), listener))
