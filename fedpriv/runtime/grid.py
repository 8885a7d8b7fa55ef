"""Grids of our own: sticky nodes that keep data and personal states, one message per node and round."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedpriv.cohort.fast.threads import one_torch_thread
from fedpriv.errors import ComponentFailure, FedprivError
from fedpriv.runtime.apps import client_app
from fedpriv.runtime.flower_private import (
    NodeInfo,
    Run,
    check_version,
    local_run,
    new_context,
    set_identity,
    stamp,
)
from fedpriv.runtime.node import Node, NodeSpec

__all__ = ["InProcessGrid", "LocalGrid", "RemoteGrid", "Worker", "is_training"]

_FAILED_CODE = 1


class Worker:
    """One node behind the ClientApp, in whatever process it was put."""

    def __init__(self, spec: NodeSpec, node_id: int) -> None:
        self.node = Node(spec)
        self.context: Context = new_context(node_id)
        self.app = client_app(lambda _: self.node)

    def handle(self, message: Message) -> Message:
        """Run the ClientApp on a message; an exception becomes an error reply that names the cause."""
        try:
            return self.app(message, self.context)
        except Exception as error:
            text = str(error) if isinstance(error, FedprivError) else f"{type(error).__name__}: {error}"
            return Message(Error(code=_FAILED_CODE, reason=text), reply_to=message)

    def snapshot(self, directory: Path, number: int) -> None:
        """Write the personal states as they are after a round."""
        from fedpriv.runs.checkpoint import write_states

        write_states(directory, number, self.node.spec.tasks.first, self.node.store.blocks())

    def restore(self, directory: Path, number: int) -> None:
        """Take over the personal states of a snapshot, whichever nodes wrote it."""
        from fedpriv.runs.checkpoint import read_states

        self.node.store.restore(read_states(directory, number, self.node.spec.tasks.first))
        self.node.memory.forget()


class RemoteGrid(Grid):
    """Base of grids whose nodes keep their states, and what they answered, over the death of a server.

    A run on one goes on without training anything again: its nodes answer the interrupted round as they did before.
    """


class LocalGrid(Grid):
    """Base of grids whose nodes we start ourselves.

    Parameters
    ----------
    specs : sequence of NodeSpec
        One per node, in the order of their task ids.
    """

    def __init__(self, specs: Sequence[NodeSpec]) -> None:
        check_version()
        set_identity()
        self.specs = list(specs)
        self._run = local_run()
        self._replies: dict[str, Message] = {}
        self._count = 0

    replays = False
    """Whether the grid keeps training messages since the last snapshot, to rebuild nodes that die."""

    # --- what a grid of ours adds ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def deliver(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        """Hand messages to their nodes and wait for the replies, in any order."""

    @abstractmethod
    def snapshot(self, directory: Path, number: int) -> None:
        """Write all personal states as they are after a round."""

    @abstractmethod
    def restore(self, directory: Path, number: int) -> None:
        """Give the nodes the personal states of a snapshot of the whole population."""

    def close(self) -> None:
        """Stop the nodes."""

    # --- Flower's interface ------------------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:  # noqa: D102
        self._run = run

    @property
    def run(self) -> Run:  # noqa: D102
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message, as Flower's grids do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:  # noqa: D102
        return range(1, len(self.specs) + 1)

    def get_nodes(self) -> Iterable[NodeInfo]:  # noqa: D102
        return [NodeInfo(node_id=number) for number in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:  # noqa: D102
        replies = self.send_and_receive(messages)
        for reply in replies:
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:  # noqa: D102
        return [self._replies.pop(key) for key in list(message_ids) if key in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the replies of all nodes."""
        sent = list(messages)
        for message in sent:
            self._count += 1
            stamp(message, f"message-{self._count}")
            if not 1 <= message.metadata.dst_node_id <= len(self.specs):
                raise ComponentFailure(
                    f"there is no node {message.metadata.dst_node_id}; nodes are 1 to {len(self.specs)}."
                )
        return self.deliver(sent, timeout) if sent else []


class InProcessGrid(LocalGrid):
    """Nodes in this process, one after the other: for notebooks, tests and small runs."""

    def __init__(self, specs: Sequence[NodeSpec]) -> None:
        super().__init__(specs)
        self.workers = [Worker(spec, number) for number, spec in enumerate(self.specs, start=1)]
        self.workers[0].node.warm_up()

    def deliver(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:  # noqa: ARG002
        """Handle each message in turn."""
        with one_torch_thread():
            return [self.workers[message.metadata.dst_node_id - 1].handle(message) for message in messages]

    def snapshot(self, directory: Path, number: int) -> None:
        """Write all personal states as they are after a round."""
        for worker in self.workers:
            worker.snapshot(directory, number)

    def restore(self, directory: Path, number: int) -> None:
        """Give the nodes the personal states of a snapshot."""
        for worker in self.workers:
            worker.restore(directory, number)


def is_training(message: Message) -> bool:
    """Tell whether a message changes personal states in a way that a rebuilt node has to replay."""
    return message.metadata.message_type.split(".")[0] == MessageType.TRAIN
