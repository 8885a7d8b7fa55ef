"""Which node hosts which tasks, as the nodes say it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure
from fedpriv.protocol import RunName, TaskRange, refuse_other_version
from fedpriv.roster import Roster
from fedpriv.strategies.exchange import UNREACHABLE

__all__ = ["Registry"]

Ids = NDArray[np.int64]


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
        """Whether every task has a node."""
        return int(np.diff(self.ranges).sum()) == self.num_tasks

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
        hosts = _asked(grid, list(grid.get_node_ids()), timeout, run, roster, stateless=stateless)
        if not hosts:
            raise ComponentFailure("no node of this run can be reached; start some, then retry.")
        num_tasks = max(tasks.last for tasks, _ in hosts) if roster is None else len(roster)
        return cls._of(hosts, num_tasks, roster, stateless=stateless)

    def completed(self, grid: Grid, timeout: float, run: RunName) -> Registry:
        """Return the same with nodes that came since; where every task has a node, nobody is asked."""
        if self.complete:
            return self
        there = list(grid.get_node_ids())
        strangers = [node for node in there if node not in self._positions]
        new = _asked(grid, strangers, timeout, run, self.roster, stateless=self.stateless)
        if not new:
            return self
        ours = [TaskRange(int(first), int(last - first), "") for first, last in self.ranges]
        # A node may come back under another id: the one that left is not asked for its tasks any more.
        kept = [one for one in zip(ours, self.nodes, strict=True) if one[1] in there]
        return self._of(kept + new, self.num_tasks, self.roster, stateless=self.stateless)

    @classmethod
    def _of(
        cls, hosts: Sequence[tuple[TaskRange, int]], num_tasks: int, roster: Roster | None, *, stateless: bool
    ) -> Registry:
        hosts = sorted(hosts, key=lambda item: item[0].first)
        end = 0
        for tasks, node in hosts:
            if tasks.first < end or (roster is None and tasks.first != end):
                raise ComponentFailure(
                    f"node {node} hosts tasks from {tasks.first} on where {end} was expected: "
                    f"nodes must host disjoint ranges{' without gaps' if roster is None else ''}; check their "
                    "partition ids."
                )
            end = tasks.last
        ranges = np.array([(tasks.first, tasks.last) for tasks, _ in hosts], dtype=np.int64)
        return cls([node for _, node in hosts], ranges, num_tasks, roster, stateless)


def _asked(
    grid: Grid, nodes: Sequence[int], timeout: float, run: RunName, roster: Roster | None, *, stateless: bool
) -> list[tuple[TaskRange, int]]:
    """Ask nodes which tasks they host; those that cannot be reached are left out where there is a roster."""
    if not nodes:
        return []
    asked = {node: Message(run.to_content(), node, f"{MessageType.QUERY}.tasks") for node in nodes}
    hosts: list[tuple[TaskRange, int]] = []
    away = 0
    for reply in grid.send_and_receive(list(asked.values()), timeout=timeout):
        node = reply.metadata.src_node_id
        if not reply.has_error():
            hosts.append((_checked(TaskRange.from_content(reply.content), node, roster, stateless=stateless), node))
        elif roster is not None and reply.error.code in UNREACHABLE:
            away += 1
        else:
            raise ComponentFailure(f"node {node} cannot list its tasks: {reply.error.reason}")
    if len(hosts) + away != len(nodes):
        raise ComponentFailure(f"{len(hosts)} of {len(nodes)} nodes listed their tasks; start the others, then retry.")
    return hosts


def _checked(tasks: TaskRange, node: int, roster: Roster | None, *, stateless: bool) -> TaskRange:
    """Refuse a node that hosts other tasks than those whose budget is spent."""
    refuse_other_version(tasks.protocol, f"node {node}", "this server")
    if stateless and tasks.uses_state:
        raise ComponentFailure(
            f"node {node} sends what depends on rounds before, by its client or its policy's limits, and this "
            "run's cohorts of fixed size are accounted as if no update did; give the server the client and the policy "
            "of its nodes, or choose strategy.sampling = 'poisson'."
        )
    if roster is None:
        return tasks
    if tasks.protected and roster.declared != "protected":
        raise ComponentFailure(
            f"node {node} hosts protected data, and the roster of this run declares a benchmark, which spends no "
            "budget; declare the roster's data 'protected', and give run.population and run.ledger."
        )
    if not 0 <= tasks.first <= tasks.last <= len(roster):
        raise ComponentFailure(
            f"node {node} hosts tasks up to {tasks.last - 1}, and the population has {len(roster)}, from 0 on; give "
            "all nodes the roster of this run."
        )
    if roster.part(tasks.first, tasks.last) != tasks.fingerprint:
        raise ComponentFailure(
            f"node {node} hosts other tasks than {tasks.first} to {tasks.last - 1} of this population; "
            "give all nodes the same configuration and data."
        )
    return tasks
