"""The Ray grid: one actor per shard, which keeps its tasks' data and personal states between rounds."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from flwr.app import Error, Message

from fedpriv.errors import ComponentFailure, FedprivError
from fedpriv.runtime.grid import LocalGrid, is_training
from fedpriv.runtime.lines import Line, open_lines, ready
from fedpriv.runtime.node import NodeSpec
from fedpriv.runtime.pool import START_SECONDS, ShardPool
from fedpriv.runtime.wire import pack, shared_records, unpack

__all__ = ["RayGrid"]

_MAX_REBUILDS = 3
"""How often a shard may die in one round before the run gives up."""

_CRASHED_CODE = 8
"""Flower's code of an app that ended instead of answering."""

_LARGE_FOR_RAY, _LARGE_FOR_LINES = 100_000, 8_000_000
"""Bytes from which it takes less time to put a record into Ray's memory once than to send it with every message: of the
record where messages go through Ray, of all its copies where they go over lines."""


_POLL_SECONDS = 0.01
"""Seconds that lines are waited for before Ray is asked again, where both carry answers."""


class _LineFailure(Exception):
    """A shard that lives does not answer its line any more."""


class RayGrid(LocalGrid):
    """Sticky shards as Ray actors; a shard that dies is rebuilt to the last checkpoint.

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
        self._lines: dict[int, Line] = {}
        self._doubtful: set[int] = set()
        try:
            self.actors = self._pool.take(self.specs)
        except BaseException:
            self.close()
            raise
        self._lines = open_lines(self._ray, self.actors)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # the shards may be in the middle of something: nobody else shall get them
            self._pool.stop(self.actors.values())
            self.actors = {}
        self.close()

    def deliver(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        """Send one message to each actor at once; rebuild and ask again those that die meanwhile."""
        deadline = None if timeout is None else time.monotonic() + timeout
        firsts: dict[int, Message] = {}
        for message in messages:
            firsts.setdefault(message.metadata.dst_node_id, message)
        replies = self._deliver(list(firsts.values()), deadline)
        more = [message for message in messages if firsts[message.metadata.dst_node_id] is not message]
        if more:  # a shard answers one message after the other
            replies += self.deliver(more, None if deadline is None else max(0.0, deadline - time.monotonic()))
        return replies

    def _deliver(self, messages: Sequence[Message], deadline: float | None) -> list[Message]:
        """Send messages to different actors."""
        self._rebuild_doubtful()
        open_ = {message.metadata.dst_node_id for message in messages}
        try:
            replies = self._answers(messages, open_, deadline)
        except BaseException:  # what is still answered must not be taken for an answer to what comes next
            for node in open_:
                self._hang_up(node)
            self._doubtful |= open_
            raise
        # In the order in which they were asked: who was faster must not show in the last bits of a sum.
        return [replies[node] for node in (message.metadata.dst_node_id for message in messages) if node in replies]

    def _answers(self, messages: Sequence[Message], open_: set[int], deadline: float | None) -> dict[int, Message]:
        """Return by node what came in time; ``open_`` loses the nodes of which is known what they trained on."""
        parcel = self._parcel(messages)
        waiting = {self._send(message, parcel): message for message in messages}
        deaths: Counter[int] = Counter()
        replies: dict[int, Message] = {}
        while waiting:
            done = self._done(waiting, deadline)
            if not done:
                for message in waiting.values():  # late nodes count as missing, as in Flower
                    self._give_up(message)
                break
            for call in done:
                message = waiting.pop(call)
                node = message.metadata.dst_node_id
                try:
                    replies[node] = unpack(self._result(call, node))
                except (self._ray.exceptions.RayActorError, _LineFailure) as error:
                    deaths[node] += 1
                    if deaths[node] > _MAX_REBUILDS:
                        if len(self.specs[node - 1].tasks) == 1:  # its data may be why; it decides over nobody else
                            reason = f"its shard died {deaths[node]} times in one round"
                            replies[node] = Message(Error(code=_CRASHED_CODE, reason=reason), reply_to=message)
                            self._doubtful.add(node)
                            open_.remove(node)
                            continue
                        raise ComponentFailure(
                            f"shard {node} died {deaths[node]} times in one round ({error}); "
                            "give it more memory or use more shards, then go on with --resume."
                        ) from error
                    self._rebuild(node)
                    waiting[self._send(message, parcel)] = message
                    continue
                self._remember(message)
                open_.remove(node)
        return replies

    def _give_up(self, message: Message) -> None:
        """Wait no longer for an answer; the shard trains on the message all the same."""
        node = message.metadata.dst_node_id
        line = self._lines.get(node)
        cut = line is not None and line.sending
        self._remember(message)
        self._hang_up(node)
        if cut:  # it got half of the message and forgets it
            self.actors[node].handle.remote(pack(message), [])

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
        for line in self._lines.values():
            line.close()
        self._lines = {}
        self._pool.give_back(list(self.actors.values()))
        self.actors = {}
        if self._owned:
            self._pool.close()

    def _parcel(self, messages: Sequence[Message]) -> dict[int, tuple[str, Any]]:
        """Put what several messages share and is large into Ray's memory: by identity, its name and where it is."""
        every = all(message.metadata.dst_node_id in self._lines for message in messages)
        shared = shared_records(messages, _LARGE_FOR_LINES // len(messages) if every else _LARGE_FOR_RAY)
        return {
            key: (f"record-{number}", self._ray.put(pack(record)))
            for number, (key, record) in enumerate(shared.items())
        }

    def _send(self, message: Message, parcel: dict[int, tuple[str, Any]]) -> Any:
        """Send a message by the shard's line if there is one and nothing is large, else through Ray; return which."""
        node = message.metadata.dst_node_id
        if not parcel and node in self._lines:
            self._lines[node].send(pack(message))  # if the shard is gone, the wait for its answer will find out
            return self._lines[node]
        names = {key: name for key, (name, _) in parcel.items()}
        references = [reference for _, reference in parcel.values()]
        return self.actors[node].handle.remote(pack(message, names), list(names.values()), *references)

    def _done(self, calls: Iterable[Any], deadline: float | None) -> list[Any]:
        """Wait for answers, and return whose came; none if the time is over."""

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        lines = [call for call in calls if isinstance(call, Line)]
        references = [call for call in calls if not isinstance(call, Line)]
        if not references:
            return list(ready(lines, left()))
        while True:
            # All together: to wait for one after the other costs more than a small shard's work.
            timeout = 0 if lines else left()
            done = list(self._ray.wait(references, num_returns=len(references), timeout=timeout)[0])
            done += ready(lines, 0.0 if done else _POLL_SECONDS)  # what is half sent goes on meanwhile
            if done or left() == 0.0:
                return done

    def _result(self, call: Any, node: int) -> bytes | bytearray:
        """Return what a shard answered, or raise Ray's error or ours for one that is gone."""
        if not isinstance(call, Line):
            reply: bytes = self._ray.get(call)
            return reply
        try:
            return call.receive()
        except EOFError as error:
            call.close()  # the shard may not have noticed
            actor = self.actors[node]
            why = self._ray.get(actor.failure.remote())  # if it died, Ray raises why
            self._pool.stop([actor])  # it lives, but will not answer
            raise _LineFailure(why or "its line broke") from error

    def _hang_up(self, node: int) -> None:
        """Close the line to a shard; what went over it comes before all that Ray brings from now on."""
        line = self._lines.pop(node, None)
        if line is not None:
            line.close()
            self.actors[node].hang_up.remote()

    def _rebuild_doubtful(self) -> None:
        """Bring shards whose last round was broken off back to what they were before it."""
        while self._doubtful:
            node = min(self._doubtful)
            self._pool.stop([self.actors[node]])
            self._rebuild(node)
            self._doubtful.remove(node)

    def _call_all(self, method: str, *arguments: Any) -> None:
        """Call a method on every shard, rebuilding those that die."""
        self._rebuild_doubtful()
        for _ in range(_MAX_REBUILDS):
            failed = []
            calls = {node: getattr(actor, method).remote(*arguments) for node, actor in self.actors.items()}
            for node, call in calls.items():
                try:
                    self._ray.get(call)
                except self._ray.exceptions.RayActorError:
                    failed.append(node)
                except self._ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, FedprivError):  # a full disk, say: its sentence without Ray's trace
                        raise error.cause from None
                    raise
            if not failed:
                return
            for node in failed:
                self._rebuild(node)
        raise ComponentFailure(f"shards {failed} keep dying in {method}; give them memory, then go on with --resume.")

    def _rebuild(self, node: int) -> None:
        """Start a dead shard again: last snapshot, then the rounds since, whose billboards are known."""
        logging.getLogger("fedpriv").warning("shard %d died; rebuilding it to the last checkpoint", node)
        self._hang_up(node)
        actor, hosting = self._pool.start(self.specs[node - 1], node)
        self.actors[node] = actor
        try:
            self._ray.get(hosting, timeout=START_SECONDS)
            if self._snapshot is not None:
                self._ray.get(actor.restore.remote(*self._snapshot))
            for message in self._since[node]:
                self._ray.get(actor.handle.remote(pack(message), []))
            self._lines |= open_lines(self._ray, {node: actor})
        except self._ray.exceptions.GetTimeoutError:
            raise ComponentFailure(
                f"shard {node} was lost and Ray has no free core to build it again; use fewer shards than cores, then "
                "go on with --resume."
            ) from None
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FedprivError):  # other code than the run began with, say
                raise error.cause from None
            raise
        except self._ray.exceptions.RayActorError as error:
            raise ComponentFailure(
                f"shard {node} died again while it was rebuilt ({error}); give it memory, then go on with --resume."
            ) from error
