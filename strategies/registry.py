"""Which node hosts which tasks, as the nodes say it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure
from fedpriv.protocol import TaskRange

__all__ = ["Registry"]

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Registry:
    """Which node hosts which tasks: contiguous ranges of ids.

    Attributes
    ----------
    nodes : ndarray of uint64, shape [n]
        Flower node ids, in the order of their tasks.
    starts : ndarray of int64, shape [n + 1]
        Node ``i`` hosts tasks ``starts[i]`` to ``starts[i + 1]``.
    fingerprints : list of str
        Of each node's task names, as it reports them.
    """

    nodes: list[int]
    starts: Ids
    fingerprints: list[str]

    @property
    def num_tasks(self) -> int:
        """Number of registered tasks, a public constant."""
        return int(self.starts[-1])

    def split(self, ids: Ids) -> Iterable[tuple[int, Ids]]:
        """Yield (node, its ids) for sorted task ids, skipping nodes without any."""
        cuts = np.searchsorted(ids, self.starts)
        for position, node in enumerate(self.nodes):
            mine = ids[cuts[position] : cuts[position + 1]]
            if len(mine):
                yield node, mine

    def hosted(self, node: int) -> int:
        """Return how many tasks a node hosts."""
        position = self.nodes.index(node)
        return int(self.starts[position + 1] - self.starts[position])

    @classmethod
    def query(cls, grid: Grid, timeout: float) -> Registry:
        """Ask every node which tasks it hosts.

        Raises
        ------
        ComponentFailure
            A node did not answer, or the ranges overlap or leave gaps.
        """
        ids = list(grid.get_node_ids())
        messages = [Message(RecordDict(), node, f"{MessageType.QUERY}.tasks") for node in ids]
        hosts: list[tuple[TaskRange, int]] = []
        for reply in grid.send_and_receive(messages, timeout=timeout):
            if reply.has_error():
                raise ComponentFailure(f"node {reply.metadata.src_node_id} cannot list its tasks: {reply.error.reason}")
            hosts.append((TaskRange.from_content(reply.content), reply.metadata.src_node_id))
        if len(hosts) != len(ids) or not hosts:
            raise ComponentFailure(
                f"{len(hosts)} of {len(ids)} nodes listed their tasks; start the others, then retry."
            )
        hosts.sort(key=lambda item: item[0].first)
        starts = [0]
        for tasks, node in hosts:
            if tasks.first != starts[-1]:
                raise ComponentFailure(
                    f"node {node} hosts tasks from {tasks.first} on where {starts[-1]} was expected: "
                    "nodes must host disjoint ranges without gaps; check their partition ids."
                )
            starts.append(tasks.first + tasks.count)
        fingerprints = [tasks.fingerprint for tasks, _ in hosts]
        return cls([node for _, node in hosts], np.array(starts, dtype=np.int64), fingerprints)
