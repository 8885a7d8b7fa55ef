"""Personal models from nodes of this process, with the states that the tasks had when the run ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.cohort import State, Tasks
from fedpriv.cohort.fast.threads import one_blas_thread, one_torch_thread
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.personal.outline import Block, Ids, Source
from fedpriv.protocol import Request
from fedpriv.roster import Roster
from fedpriv.runs.checkpoint import Block as StateBlock
from fedpriv.runs.checkpoint import read_states
from fedpriv.runtime.node import Node, NodeSpec

__all__ = ["LiveModels", "newcomers", "refitted", "restored"]

Billboards = Mapping[str, dict[str, NDArray[Any]]]
_TASKS_AT_A_TIME = 4096


@dataclass(frozen=True)
class LiveModels:
    """Models of tasks whose data are at hand.

    Attributes
    ----------
    make : callable
        Returns the nodes that host the tasks, with their last states; called when a model is first asked for.
    billboards : mapping
        The last billboard of each group.
    members : mapping
        The ids of each group's tasks.
    """

    make: Callable[[], Sequence[Node]]
    billboards: Billboards
    members: Mapping[str, Ids]

    @cached_property
    def nodes(self) -> Sequence[Node]:
        """The nodes."""
        with one_torch_thread():
            return self.make()

    def blocks(self, ids: Ids) -> Iterator[Block]:
        """Yield the models of these tasks, some at a time."""
        for node, billboard, mine in self._asked(ids):
            yield from _with_one_thread(node.models(mine, billboard))

    def states(self, ids: Ids) -> Iterator[tuple[Ids, State]]:
        """Yield what these tasks keep for themselves, some at a time."""
        for node, billboard, mine in self._asked(ids):
            for start in range(0, len(mine), _TASKS_AT_A_TIME):
                some = mine[start : start + _TASKS_AT_A_TIME]
                yield some, node.kept(some, billboard)

    def _asked(self, ids: Ids) -> Iterator[tuple[Node, dict[str, NDArray[Any]], Ids]]:
        for node in self.nodes:
            hosted = node.tasks.ids
            mine = ids[(ids >= hosted.start) & (ids < hosted.stop)]
            for group, billboard in self.billboards.items():
                wanted = np.intersect1d(mine, self.members[group])
                if len(wanted):
                    yield node, billboard, wanted


def restored(specs: Iterable[NodeSpec], directory: Path, number: int) -> list[Node]:
    """Return nodes with the states of a snapshot, whichever nodes wrote it.

    Raises
    ------
    ComponentFailure
        A file is damaged, or the states of some tasks are not there.
    """
    nodes = [Node(spec) for spec in specs]
    for node in nodes:
        found = np.zeros(len(node.tasks), dtype=bool)
        node.store.restore(_watched(read_states(directory, number, node.spec.tasks.first), found))
        if not found.all():
            raise ComponentFailure(
                f"{directory} lost the states of {int((~found).sum())} tasks; restore it from a copy, or run again."
            )
    return nodes


def newcomers(source: Source, people: Tasks, roster: Roster) -> LiveModels:
    """Return models of people who took no part, fitted to the last billboard as people held out are.

    Raises
    ------
    InputError
        They do not fit, there is not one billboard for all, or the models come from a file.
    """
    if not isinstance(source, LiveModels):
        raise InputError("models out of a folder cannot be fitted to others; open the run: fedpriv.open_run(folder).")
    if len(source.billboards) != 1:
        raise InputError(
            f"there is a billboard for each of {len(source.billboards)} groups, and none for people of no group; use a "
            "run without groups."
        )
    people.check()
    for name in ("input_shape", "target_shape", "num_classes"):
        mine, theirs = getattr(people, name), getattr(roster, name)
        if mine != theirs:
            raise InputError(f"these people have {name} {mine!r} and the run's tasks {theirs!r}; give both the same.")
    everybody = {group: np.arange(len(people), dtype=np.int64) for group in source.billboards}

    def nodes() -> list[Node]:
        # With the seed of those who are held out: they are no part of the run, and scored as these are.
        spec = replace(source.nodes[0].spec, tasks=replace(people, first=0), seed=0, policy=None)
        return refitted([spec], source.billboards, everybody)

    return LiveModels(nodes, source.billboards, everybody)


def _watched(blocks: Iterator[StateBlock], found: NDArray[np.bool_]) -> Iterator[StateBlock]:
    """Mark whose states came."""
    for name, positions, rows in blocks:
        if name == "present":
            found[positions[(positions >= 0) & (positions < len(found))]] = True
        yield name, positions, rows


def refitted(specs: Iterable[NodeSpec], billboards: Billboards, members: Mapping[str, Ids]) -> list[Node]:
    """Return nodes whose tasks have done the last fit, to the last billboard: as somebody who comes after the run."""
    nodes = [Node(spec) for spec in specs]
    for node in nodes:
        hosted = node.tasks.ids
        mine = {group: ids[(ids >= hosted.start) & (ids < hosted.stop)] for group, ids in members.items()}
        node.finish(Request(0, dict(billboards), mine).to_content())
    return nodes


def _with_one_thread(blocks: Iterator[Block]) -> Iterator[Block]:
    """Compute as in a run, and leave the process's threads as they are in between."""
    while True:
        with one_blas_thread(), one_torch_thread():
            found = next(blocks, None)
        if found is None:
            return
        yield found
