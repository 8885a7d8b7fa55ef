"""The grid that reaches nodes on real machines through a SuperLink: own polling, one deadline, members only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedpriv.deploy.host import FAILED_CODE, PLACE
from fedpriv.deploy.members import Member
from fedpriv.deploy.news import Heard
from fedpriv.deploy.packing import pack, unpack
from fedpriv.protocol import TaskRange
from fedpriv.runtime.flower_private import NodeInfo, Run, stamp
from fedpriv.runtime.flower_tasks import link_errors
from fedpriv.runtime.grid import RemoteGrid
from fedpriv.strategies.exchange import REFUSED_CODE, UNREACHABLE

__all__ = ["DeployedGrid"]

_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.1, 2.0
_PATIENCE_SECONDS = 60.0
"""After how long a message without an answer is sent again; then twice as long, and so on."""
_LOOK_SECONDS = 5.0
"""How often to look whether a node that is waited for was started anew."""


class DeployedGrid(RemoteGrid):
    """Flower's grid, for the members of a deployment.

    Parameters
    ----------
    grid : Grid
        Flower's, of the run.
    members : mapping from public key to Member
        Who takes part; nodes with other keys do not exist for a run.
    kind : str
        Which kind of data the population has (:func:`fedpriv.deploy.members.kind_of_data`), which nodes compare.
    heard : callable
        Gets what came of each exchange, and in which stage (:data:`fedpriv.deploy.news.Heard`).
    """

    def __init__(
        self,
        grid: Grid,
        members: Mapping[bytes, Member],
        kind: str = "",
        heard: Callable[[Heard, str], None] = lambda _said, _stage: None,
    ) -> None:
        self._grid, self._members, self._kind, self._heard = grid, dict(members), kind, heard
        self._known: dict[int, Member] = {}

    def set_run(self, run: Run) -> None:  # noqa: D102
        self._grid.set_run(run)

    @property
    def run(self) -> Run:  # noqa: D102
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message, as Flower's grids do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the members that are online."""
        with link_errors():
            nodes = list(self._grid.get_nodes())
        found = [node for node in nodes if node.status == "online" and node.public_key in self._members]
        self._known.update({node.node_id: self._members[node.public_key] for node in found})
        return found

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the members that are online."""
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; each says which id of the population its node's first task has."""
        return self._push([self._placed(message) for message in messages])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:  # noqa: D102
        with link_errors():
            found = list(self._grid.pull_messages(list(message_ids)))
        return [_opened(reply) for reply in found]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the replies, until the deadline at most.

        A message may be lost: with a node that was started anew, which Flower notices only if the node is asked for
        while it is away, or with the SuperLink, which takes a message for delivered when it is killed on the way. So it
        is sent again when its node came back, and after a minute, two, four, ...: a node answers the same question as
        before, once.
        A node that says it hosts other tasks than it was approved for is refused.
        """
        wanted = list(messages)
        online = self._online_since()
        waiting = self._sent(wanted)
        came: list[tuple[Message, Message]] = []
        begun = looked = time.monotonic()
        end = None if timeout is None else begun + timeout
        patience, due = _PATIENCE_SECONDS, begun + _PATIENCE_SECONDS
        pause = _FIRST_POLL_SECONDS
        while waiting:
            found = list(self.pull_messages(waiting))
            for reply in found:
                asked = waiting.pop(reply.metadata.reply_to_message_id, None)
                others = [one for one, message in waiting.items() if message is asked]
                if asked is None or (others and reply.has_error()):
                    continue  # it was sent again, and the answer to that counts
                for one in others:
                    del waiting[one]
                stamp(asked, reply.metadata.reply_to_message_id)  # whoever asked finds the answer by it
                came.append((asked, reply))
            now = time.monotonic()
            if not waiting or (end is not None and now >= end):
                break
            if now >= looked + _LOOK_SECONDS:
                looked, before, online = now, online, self._online_since()
                back = {node for node, since in online.items() if since != before.get(node)}
                if over := now >= due:
                    patience *= 2.0
                    due = now + patience
                late = {id(one): one for one in waiting.values() if over or one.metadata.dst_node_id in back}
                waiting |= self._sent(list(late.values()))
            time.sleep(pause if end is None else max(0.0, min(pause, end - now)))
            pause = _FIRST_POLL_SECONDS if found else min(pause * 1.5, _LAST_POLL_SECONDS)
        checked = [(asked, self._checked(reply, asked)) for asked, reply in came]
        self._tell(wanted, {id(asked): reply for asked, reply in checked})
        return [reply for _, reply in checked]

    def _sent(self, messages: list[Message]) -> dict[str, Message]:
        """Send messages; return them by the ids that their answers will name."""
        if not messages:
            return {}
        sent = [self._placed(message) for message in messages]
        ids = self._push(sent)
        for mine, theirs in zip(messages, sent, strict=True):
            stamp(mine, theirs.metadata.message_id)
        return {one: mine for one, mine in zip(ids, messages, strict=True) if one}

    def _push(self, messages: list[Message]) -> list[str]:
        with link_errors():
            return list(self._grid.push_messages(messages))

    def _online_since(self) -> dict[int, str]:
        """Return since when each node is online, or was."""
        with link_errors():
            return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def _tell(self, asked: Iterable[Message], came: Mapping[int, Message]) -> None:
        """Say what came of an exchange; answers are known by the identity of their questions."""
        said: dict[str, tuple[str, str]] = {}
        stage = ""
        for message in asked:
            stage = f"{message.metadata.message_type} {message.metadata.group_id}".strip()
            if member := self._known.get(message.metadata.dst_node_id):
                said[member.name] = _what(came.get(id(message)))
        self._heard(said, stage)

    def _placed(self, message: Message) -> Message:
        member = self._known.get(message.metadata.dst_node_id)
        if member is None:
            return message
        records: dict[str, Any] = dict(message.content.items())
        records[PLACE] = ConfigRecord({"first": member.first, "kind": self._kind})
        of, content = message.metadata, pack(RecordDict(records))
        return Message(content, of.dst_node_id, of.message_type, ttl=of.ttl, group_id=of.group_id)

    def _checked(self, reply: Message, asked: Message) -> Message:
        if reply.has_error() or asked.metadata.message_type != "query.tasks":
            return reply
        member = self._known.get(asked.metadata.dst_node_id)
        if member is None:
            return reply
        try:
            hosts = TaskRange.from_content(reply.content)
            fits = (hosts.first, hosts.count, hosts.fingerprint) == (member.first, member.count, member.fingerprint)
        except (KeyError, TypeError, ValueError):
            fits = False
        if fits:
            return reply
        reason = (
            f"node {member.name!r} hosts other tasks than it was approved for; have its new request approved, or put "
            "its data back"
        )
        return Message(Error(code=REFUSED_CODE, reason=reason), reply_to=asked)


def _opened(reply: Message) -> Message:
    """Return a reply with its content as a node made it; one that is damaged becomes an error of that node."""
    if reply.has_error():
        return reply
    try:
        reply.content = unpack(reply.content)
    except ValueError as error:
        of = reply.metadata
        asked = Message(RecordDict(), of.src_node_id, of.message_type, group_id=of.group_id)
        stamp(asked, of.reply_to_message_id)
        return Message(Error(code=FAILED_CODE, reason=str(error)), reply_to=asked)
    return reply


def _what(reply: Message | None) -> tuple[str, str]:
    """Return what a reply is, and the reason that it gives."""
    if reply is None:
        return "failed", "it did not answer in time"
    if reply.has_error():
        kind = {REFUSED_CODE: "refused"}.get(
            reply.error.code, "absent" if reply.error.code in UNREACHABLE else "failed"
        )
        return kind, str(reply.error.reason or "no reason given")
    note = reply.content.get("note")  # such as a policy that some tasks have used up
    return "answered", str(note.get("text", "")) if isinstance(note, ConfigRecord) else ""
