"""The Ray grid: one actor per shard, which keeps its tasks' data and personal states between rounds."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from flwr.app import Message

from fedpriv.errors import ComponentFailure
from fedpriv.runtime.grid import LocalGrid, is_training
from fedpriv.runtime.node import NodeSpec
from fedpriv.runtime.pool import PATIENCE, ShardPool
from fedpriv.runtime.wire import pack, shared_records, unpack

__all__ = ["RayGrid"]

_REBUILDS = 3
"""How often a shard may die in one round before the run gives up."""


class RayGrid(LocalGrid):
    """Sticky shards as Ray actors; a shard that dies is rebuilt to the last release boundary.

    Parameters
    ----------
    specs : sequence of NodeSpec
        One per shard.
    address : str or None
        A running Ray cluster; None starts one on this machine.
    pool : ShardPool or None
        Where shards come from and go back to; None keeps a pool for the life of the grid.

    Raises
    ------
    ComponentFailure
        Ray does not start, or a shard cannot be built.
    """

    replays = True

    def __init__(self, specs: Sequence[NodeSpec], address: str | None = None, pool: ShardPool | None = None) -> None:
        super().__init__(specs)
        self._pool = pool or ShardPool()
        self._owned = pool is None
        self._pool.connect(len(self.specs), address)
        self._ray = self._pool.ray
        # What a rebuilt shard needs: where the last snapshot is, and the training messages answered since then.
        self._since: dict[int, list[Message]] = {number: [] for number in self.get_node_ids()}
        self._snapshot: tuple[Path, int] | None = None
        self.actors: dict[int, Any] = {}
        try:
            self.actors = self._pool.take(self.specs)
        except ComponentFailure:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # the shards may be in the middle of something: nobody else shall get them
            self._pool.stop(self.actors.values())
            self.actors = {}
        self.close()

    def deliver(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        """Send one message to each actor at once; rebuild and ask again those that die meanwhile."""
        names: dict[int, str] = {}
        references: dict[str, Any] = {}
        for key, record in shared_records(messages).items():
            names[key] = f"record-{len(names)}"
            references[names[key]] = self._ray.put(pack(record))
        waiting = {self._send(message, names, references): message for message in messages}
        deadline = None if timeout is None else time.monotonic() + timeout
        deaths: dict[int, int] = {}
        replies: list[Message] = []
        while waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            # All together: to wait for one after the other costs more than a small shard's work.
            done, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=left)
            if not done:
                for message in waiting.values():  # late nodes count as missing, as in Flower, but they did train
                    self._remember(message)
                break
            for reference in done:
                message = waiting.pop(reference)
                node = message.metadata.dst_node_id
                try:
                    replies.append(unpack(self._ray.get(reference)))
                except self._ray.exceptions.RayActorError as error:
                    deaths[node] = deaths.get(node, 0) + 1
                    if deaths[node] > _REBUILDS:
                        raise ComponentFailure(
                            f"shard {node} died {deaths[node]} times in one round ({error}); "
                            "give it more memory or use more shards, then go on with --resume."
                        ) from error
                    self._rebuild(node)
                    waiting[self._send(message, names, references)] = message
                    continue
                self._remember(message)
        return replies

    def _remember(self, message: Message) -> None:
        if is_training(message):
            self._since[message.metadata.dst_node_id].append(message)

    def snapshot(self, directory: Path, number: int) -> None:
        """Let each shard write its states; replays start from here on."""
        self._call_all("snapshot", directory, number)
        self._snapshot = (directory, number)
        self._since = {node: [] for node in self.get_node_ids()}

    def restore(self, directory: Path, number: int) -> None:
        """Give the shards the personal states of a snapshot."""
        self._snapshot = (directory, number)
        self._since = {node: [] for node in self.get_node_ids()}
        self._ray.get([actor.restore.remote(directory, number) for actor in self.actors.values()])

    def processes(self) -> dict[int, int]:
        """Return the process id of each shard."""
        found = self._ray.get([actor.process.remote() for actor in self.actors.values()])
        return dict(zip(self.actors, found, strict=True))

    def close(self) -> None:
        """Give the shards back to their pool; stop them, and Ray, if the pool is the grid's own."""
        self._pool.give_back(list(self.actors.values()))
        self.actors = {}
        if self._owned:
            self._pool.close()

    def _send(self, message: Message, names: Mapping[int, str], references: Mapping[str, Any]) -> Any:
        actor = self.actors[message.metadata.dst_node_id]
        return actor.handle.remote(pack(message, names), list(references), *references.values())

    def _call_all(self, method: str, *arguments: Any) -> None:
        """Call a method on every shard, rebuilding those that die."""
        for _ in range(_REBUILDS):
            failed = []
            calls = {node: getattr(actor, method).remote(*arguments) for node, actor in self.actors.items()}
            for node, call in calls.items():
                try:
                    self._ray.get(call)
                except self._ray.exceptions.RayActorError:
                    failed.append(node)
            if not failed:
                return
            for node in failed:
                self._rebuild(node)
        raise ComponentFailure(f"shards {failed} keep dying in {method}; give them memory, then go on with --resume.")

    def _rebuild(self, node: int) -> None:
        """Start a dead shard again: last snapshot, then the rounds since, whose billboards are known."""
        logging.getLogger("fedpriv").warning("shard %d died; rebuilding it to the last release boundary", node)
        actor = self._pool.start(self.specs[node - 1], node)
        self.actors[node] = actor
        try:
            self._ray.get(actor.process.remote(), timeout=PATIENCE)
            if self._snapshot is not None:
                self._ray.get(actor.restore.remote(*self._snapshot))
            for message in self._since[node]:
                self._ray.get(actor.handle.remote(pack(message), []))
        except self._ray.exceptions.GetTimeoutError:
            raise ComponentFailure(
                f"shard {node} was lost and Ray has no free core to build it again; use fewer shards than cores, then "
                "go on with --resume."
            ) from None
        except self._ray.exceptions.RayActorError as error:
            raise ComponentFailure(
                f"shard {node} died again while it was rebuilt ({error}); give it memory, then go on with --resume."
            ) from error
