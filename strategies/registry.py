"""Which node hosts which tasks, as the nodes say it, and which tasks form a public group."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.protocol import ALL, RunName, TaskRange, refuse_other_version
from fedpriv.roster import Roster
from fedpriv.strategies.exchange import REFUSED_CODE, UNREACHABLE

__all__ = ["Registry", "members"]

Ids = NDArray[np.int64]
_LOG = logging.getLogger("fedpriv")


def members(groups: Sequence[int] | None, num_tasks: int) -> dict[str, Ids]:
    """Return the sorted ids, int64, of each group's tasks from one public label per task; everybody without labels.

    Raises
    ------
    InputError
        There is not one label per task.
    """
    if groups is None:
        return {ALL: np.arange(num_tasks, dtype=np.int64)}
    if len(groups) != num_tasks:
        raise InputError(
            f"groups must hold one public label per task, got {len(groups)} for {num_tasks} tasks; "
            "leave it out for one billboard."
        )
    labels = np.asarray(groups)
    return {f"group-{label}": np.flatnonzero(labels == label) for label in np.unique(labels)}


@dataclass(frozen=True)
class Registry:
    """Which node hosts which tasks: contiguous ranges of ids, in their order.

    Attributes
    ----------
    nodes : list of int
        Flower node ids, in the order of their tasks.
    ranges : ndarray of int64, shape [n, 2]
        Node ``i`` hosts tasks ``ranges[i, 0]`` up to, not including, ``ranges[i, 1]``.
    num_tasks : int
        Number of tasks of the population, a public constant; with a roster some may be on nodes that are away.
    roster : Roster or None
        Who the tasks are; None where the nodes alone say it.
    stateless : bool
        Whether the accounting counts on updates that do not depend on rounds before.
    """

    nodes: list[int]
    ranges: Ids
    num_tasks: int
    roster: Roster | None = field(default=None, repr=False)
    stateless: bool = False

    @cached_property
    def complete(self) -> bool:
        """Whether every task has a node, and there is one."""
        return bool(self.nodes) and int(np.diff(self.ranges).sum()) == self.num_tasks

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {node: position for position, node in enumerate(self.nodes)}

    def split(self, ids: Ids) -> Iterable[tuple[int, Ids]]:
        """Yield (node, its ids) for sorted task ids, skipping nodes without any, and tasks without a node."""
        cuts = np.searchsorted(ids, self.ranges)
        for node, (first, last) in zip(self.nodes, cuts, strict=True):
            if first < last:
                yield node, ids[first:last]

    def hosted(self, node: int) -> int:
        """Return how many tasks a node hosts."""
        first, last = self.ranges[self._positions[node]]
        return int(last - first)

    @classmethod
    def query(
        cls, grid: Grid, timeout: float, run: RunName, roster: Roster | None = None, *, stateless: bool = False
    ) -> Registry:
        """Ask every node which tasks it hosts.

        Parameters
        ----------
        grid : Grid
            Where the nodes are.
        timeout : float
            Seconds to wait for all answers.
        run : RunName
            For whom.
        roster : Roster or None
            Who the tasks are: nodes that cannot be reached may come later. Without one the nodes must host all tasks,
            from 0 on, since nothing else says how many there are.
        stateless : bool
            Whether to refuse nodes whose updates may depend on rounds before.

        Raises
        ------
        ComponentFailure
            No node is there; one failed, or did not answer in time; the ranges overlap, leave gaps where there is no
            roster, or are of other tasks than the roster's; or a node speaks another version of the protocol, or uses
            what it kept of rounds before where ``stateless`` says that none does.
        """
        nobody = np.empty((0, 2), dtype=np.int64)
        found = cls([], nobody, 0 if roster is None else len(roster), roster, stateless).completed(grid, timeout, run)
        if not found.nodes:
            raise ComponentFailure("no node of this run can be reached; start some, then retry.")
        return found

    def completed(self, grid: Grid, timeout: float, run: RunName) -> Registry:
        """Return the same with nodes that came since; where every task has a node, nobody is asked."""
        if self.complete:
            return self
        there = list(grid.get_node_ids())
        new = self._asked(grid, [node for node in there if node not in self._positions], timeout, run)
        if not new:
            return self
        ours = [TaskRange(int(first), int(last - first), "") for first, last in self.ranges]
        # A node may come back under another id: the one that left is not asked for its tasks any more.
        kept = [one for one in zip(ours, self.nodes, strict=True) if one[1] in there]
        hosts = sorted(kept + new, key=lambda item: item[0].first)
        end = 0
        for tasks, node in hosts:
            if tasks.first < end or (self.roster is None and tasks.first != end):
                raise ComponentFailure(
                    f"node {node} hosts tasks from {tasks.first} on where {end} was expected: "
                    f"nodes must host disjoint ranges{' without gaps' if self.roster is None else ''}; check their "
                    "partition ids."
                )
            end = tasks.last
        ranges = np.array([(tasks.first, tasks.last) for tasks, _ in hosts], dtype=np.int64)
        num_tasks = end if self.roster is None else self.num_tasks
        return replace(self, nodes=[node for _, node in hosts], ranges=ranges, num_tasks=num_tasks)

    def _asked(self, grid: Grid, nodes: Sequence[int], timeout: float, run: RunName) -> list[tuple[TaskRange, int]]:
        """Ask nodes which tasks they host; those that cannot be reached are left out where there is a roster."""
        if not nodes:
            return []
        asked = [Message(run.to_content(), node, f"{MessageType.QUERY}.tasks") for node in nodes]
        hosts: list[tuple[TaskRange, int]] = []
        away = 0
        for reply in grid.send_and_receive(asked, timeout=timeout):
            node = reply.metadata.src_node_id
            if not reply.has_error():
                tasks = TaskRange.from_content(reply.content)
                self._check(tasks, node)
                hosts.append((tasks, node))
            elif self.roster is not None and reply.error.code in {*UNREACHABLE, REFUSED_CODE}:
                away += 1
                if reply.error.code == REFUSED_CODE:
                    _LOG.warning("node %d takes no part: %s", node, reply.error.reason)
            else:
                raise ComponentFailure(f"node {node} cannot list its tasks: {reply.error.reason}")
        if len(hosts) + away != len(nodes):
            raise ComponentFailure(
                f"{len(hosts)} of {len(nodes)} nodes listed their tasks; start the others, then retry."
            )
        return hosts

    def _check(self, tasks: TaskRange, node: int) -> None:
        """Refuse a node that hosts other tasks than those whose budget is spent."""
        refuse_other_version(tasks.protocol, f"node {node}", "this server")
        if self.stateless and tasks.uses_state:
            raise ComponentFailure(
                f"node {node} sends what depends on rounds before, by its client or its policy's limits, and this "
                "run's cohorts of fixed size are accounted as if no update did; give the server the client and the "
                "policy of its nodes, or choose strategy.sampling = 'poisson'."
            )
        roster = self.roster
        if roster is None:
            return
        if tasks.protected and roster.declared != "protected":
            raise ComponentFailure(
                f"node {node} hosts protected data, and the roster of this run declares a benchmark, which spends no "
                "budget; declare the roster's data 'protected', and give run.population and run.ledger."
            )
        if not 0 <= tasks.first <= tasks.last <= len(roster):
            raise ComponentFailure(
                f"node {node} hosts tasks up to {tasks.last - 1}, and the population has {len(roster)}, from 0 on; "
                "give all nodes the roster of this run."
            )
        if roster.part(tasks.first, tasks.last) != tasks.fingerprint:
            raise ComponentFailure(
                f"node {node} hosts other tasks than {tasks.first} to {tasks.last - 1} of this population; "
                "give all nodes the same configuration and data."
            )
