"""The Ray grid: one actor per shard, which keeps its tasks' data and personal states between rounds."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.app import Message

from fedpriv.errors import ComponentFailure
from fedpriv.runtime.grid import LocalGrid, Worker, is_training
from fedpriv.runtime.node import NodeSpec

__all__ = ["RayGrid"]

_PATIENCE = 180
"""Seconds for a shard to start; on a cluster without a free core it would wait for ever."""

_REBUILDS = 3
"""How often a shard may die in one round before the run gives up."""


class _Shard:
    """The actor: a worker with one torch thread, since a second one made plain loops slower."""

    def __init__(self, spec: NodeSpec, node_id: int) -> None:
        import torch

        from fedpriv.runtime.flower_private import set_identity

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        set_identity(node_id=node_id)
        self.worker = Worker(spec, node_id)

    def handle(self, message: Message) -> Message:
        return self.worker.handle(message)

    def snapshot(self, directory: Path, number: int) -> None:
        self.worker.snapshot(directory, number)

    def restore(self, directory: Path, number: int) -> None:
        self.worker.restore(directory, number)

    def ready(self) -> None:
        self.worker.node.warm_up()

    def process(self) -> int:
        return os.getpid()


class RayGrid(LocalGrid):
    """Sticky shards as Ray actors; a shard that dies is rebuilt to the last release boundary.

    Parameters
    ----------
    specs : sequence of NodeSpec
        One per shard.
    address : str or None
        A running Ray cluster; None starts one on this machine for the life of the grid.

    Raises
    ------
    ComponentFailure
        Ray does not start, or a shard cannot be built.
    """

    replays = True

    def __init__(self, specs: Sequence[NodeSpec], address: str | None = None) -> None:
        super().__init__(specs)
        import ray

        self._ray = ray
        self._owned = not ray.is_initialized()
        if self._owned:
            _start(ray, len(self.specs), address)
        # Spread over the nodes of a cluster, not packed onto the first.
        self._actor_class: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(_Shard)
        # What a rebuilt shard needs: where the last snapshot is, and the training messages answered since then.
        self._since: dict[int, list[Message]] = {number: [] for number in self.get_node_ids()}
        self._snapshot: tuple[Path, int] | None = None
        try:
            self.actors = {number: self._build(number) for number in self.get_node_ids()}
            ray.get([actor.ready.remote() for actor in self.actors.values()], timeout=_PATIENCE)
        except ray.exceptions.GetTimeoutError:
            self.close()
            raise ComponentFailure(
                f"{len(self.specs)} shards did not start within {_PATIENCE} s: Ray has no free core for each; "
                "use fewer shards."
            ) from None
        except Exception as error:
            self.close()
            raise ComponentFailure(
                f"a shard did not start on Ray: {error}; use fewer shards or --set run.grid=in-process."
            ) from error

    def deliver(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        """Send one message to each actor at once; rebuild and ask again those that die meanwhile."""
        waiting = {self._send(message): message for message in messages}
        deadline = None if timeout is None else time.monotonic() + timeout
        deaths: dict[int, int] = {}
        replies: list[Message] = []
        while waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = self._ray.wait(list(waiting), num_returns=1, timeout=left)
            if not done:
                for message in waiting.values():  # late nodes count as missing, as in Flower, but they did train
                    self._remember(message)
                break
            message = waiting.pop(done[0])
            node = message.metadata.dst_node_id
            try:
                replies.append(self._ray.get(done[0]))
            except self._ray.exceptions.RayActorError as error:
                deaths[node] = deaths.get(node, 0) + 1
                if deaths[node] > _REBUILDS:
                    raise ComponentFailure(
                        f"shard {node} died {deaths[node]} times in one round ({error}); "
                        "give it more memory or use more shards, then go on with --resume."
                    ) from error
                self._rebuild(node)
                waiting[self._send(message)] = message
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
        """Stop the actors, and Ray if this grid started it."""
        for actor in getattr(self, "actors", {}).values():
            self._ray.kill(actor)
        self.actors = {}
        if self._owned:
            self._ray.shutdown()

    def _send(self, message: Message) -> Any:
        return self.actors[message.metadata.dst_node_id].handle.remote(message)

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

    def _build(self, node: int) -> Any:
        return self._actor_class.remote(self.specs[node - 1], node)

    def _rebuild(self, node: int) -> None:
        """Start a dead shard again: last snapshot, then the rounds since, whose billboards are known."""
        logging.getLogger("fedpriv").warning("shard %d died; rebuilding it to the last release boundary", node)
        actor = self._build(node)
        self.actors[node] = actor
        try:
            self._ray.get(actor.process.remote(), timeout=_PATIENCE)
            if self._snapshot is not None:
                self._ray.get(actor.restore.remote(*self._snapshot))
            for message in self._since[node]:
                self._ray.get(actor.handle.remote(message))
        except self._ray.exceptions.GetTimeoutError:
            raise ComponentFailure(
                f"shard {node} was lost and Ray has no free core to build it again; use fewer shards than cores, then "
                "go on with --resume."
            ) from None
        except self._ray.exceptions.RayActorError as error:
            raise ComponentFailure(
                f"shard {node} died again while it was rebuilt ({error}); give it memory, then go on with --resume."
            ) from error


def _start(ray: Any, shards: int, address: str | None) -> None:
    """Start Ray quietly, or join a cluster."""
    # Its advice about tokens would land on stderr at every start; real errors still come as exceptions.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    where: dict[str, Any] = (
        {"address": address}
        if address
        else {
            "num_cpus": shards,
            "num_gpus": 0,
            "include_dashboard": False,
            "_metrics_export_port": 0,
        }
    )
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **where)
    except Exception as error:
        raise ComponentFailure(
            f"Ray did not start ({error}); check memory and /dev/shm, or use --set run.grid=in-process."
        ) from error
