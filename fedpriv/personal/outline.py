"""What all personal models of a run have in common, and what a file of them says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedpriv.cohort import Params, Problem
from fedpriv.roster import Roster

__all__ = ["NOT_PROTECTED", "Block", "Ids", "Outline", "Source"]

Ids = NDArray[np.int64]
Block = tuple[Ids, Params, NDArray[np.bool_]]
"""Ids [C], their models [C, ...], and who of them has one: where that is False, the billboard stands."""

NOT_PROTECTED = (
    "Personal models are made from the data of their tasks: no release covers them, and no guarantee protects a task "
    "against somebody who reads its own. Keep them where the data are, and do not publish them."
)


class Source(Protocol):
    """Where personal models come from: nodes, or a file."""

    def blocks(self, ids: Ids) -> Iterator[Block]:
        """Yield the models of these tasks, some at a time, in any order."""


@dataclass(frozen=True)
class Outline:
    """What all personal models of a run have in common.

    Attributes
    ----------
    roster : Roster
        Who the tasks are, and the kind of their examples.
    problem : Problem
        Model and loss; its constants are those of the run.
    model : dict
        What is needed to build the model once more: ``name`` and ``settings``, ``seed`` and ``dtype``, and ``code``,
        which says where code of users' own lies. Only the class's name and ``dtype`` where a module was given.
    client : str
        Name of the client algorithm.
    digests : dict
        SHA-256 of the last billboard of each group, which tells of which run the models are.
    columns : tuple of str, or None
        What the columns of the inputs are called, where the data came as tables.
    reading : dict or None
        The ``[data]`` of a configuration with a file of one's own, which says how new rows are read, too.
    """

    roster: Roster
    problem: Problem = field(repr=False)
    model: dict[str, Any]
    client: str
    digests: dict[str, str]
    columns: tuple[str, ...] | None = None
    reading: dict[str, Any] | None = None

    @cached_property
    def places(self) -> dict[str, int]:
        """The id of each task by its name."""
        return {name: number for number, name in enumerate(self.roster.names)}
