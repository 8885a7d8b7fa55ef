"""One exchange with the nodes: who answered, who counts as zero, and who is asked again.

One task's data must never decide over the updates of others. So what a node's silence means depends on what it can
tell about a task, by the same rule on every grid:

- A node that cannot be reached counts as zero. That is right where reaching it does not depend on one task's data, an
  assumption that is printed with the share of such tasks.
- A node that refuses what it is asked counts as zero: that depends on what was asked, never on data.
- A node with one task that failed or was late: that task counts as zero.
- A node with several tasks that was reached and failed or was late is asked again, with the same coins, and then the
  run stops. A node that did the work answers from memory, and what the others answered is kept: no task answers twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import DEFAULT_TTL, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedpriv.errors import ComponentFailure

__all__ = ["LATE_CODE", "REFUSED_CODE", "UNREACHABLE", "exchange", "lifetime"]

UNREACHABLE = frozenset({5})
"""Flower's code of the error that a SuperLink makes for a node that it cannot reach.

Not those for what is gone (3 and 4): a message that the SuperLink does not know any more, or an answer that a node gave
and that expired or did not arrive whole. Such nodes may have been reached.
"""

LATE_CODE = 100
"""Our code for a node that did not answer in time; Flower uses small numbers."""

REFUSED_CODE = 101
"""Our code for a node whose owner does not allow what is asked: a reason that no value of its data decides over."""

_HOUR_SECONDS = 3600.0


def lifetime(timeout: float) -> float:
    """Return for how many seconds a message lives: longer than its answer is waited for.

    A message that a SuperLink drops comes back as that of a node that cannot be reached, and a late node is none.
    """
    return max(float(DEFAULT_TTL), timeout + _HOUR_SECONDS)


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    hosted: Callable[[int], int],
    *,
    stage: str,
    timeout: float,
    attempts: int,
    needed: bool = True,
) -> list[Message]:
    """Send at most one message to each node and return what came.

    Parameters
    ----------
    grid : Grid
        What carries the messages.
    messages : iterable of Message
        Requests, as :meth:`fedpriv.protocol.Request.to_content` writes them.
    hosted : callable
        How many tasks a node hosts.
    stage : str
        What for, for messages of errors, such as "in round 3".
    timeout : float
        Seconds to wait for all answers, in each attempt.
    attempts : int
        How often a node with several tasks is asked at most.
    needed : bool
        False for diagnostics: what fails for good is an error among the replies then.

    Returns
    -------
    list of Message
        One reply for each message, in their order: the node's answer, or the error of a node that counts as zero. Its
        sender is the node that was asked, whoever made the error. Replies that nobody asked for come last.

    Raises
    ------
    ComponentFailure
        A node with several tasks failed or was late in all attempts.
    """
    sent = {message.metadata.dst_node_id: message for message in messages}
    order, found, strays = list(sent), dict[int, Message](), list[Message]()
    reached: set[int] = set()
    for attempt in range(1, attempts + 1):
        if not sent:
            break
        came = _by_node(grid.send_and_receive(list(sent.values()), timeout=timeout), sent, strays)
        again: dict[int, Message] = {}
        for node, message in sent.items():
            reply = came.get(node) or _error(LATE_CODE, f"it did not answer within {timeout:g} s", message)
            answered = not reply.has_error()
            # Once it was reached, its being away may be due to the data that it failed on.
            away = not answered and reply.error.code in UNREACHABLE and node not in reached
            refused = not answered and reply.error.code == REFUSED_CODE
            if answered or away or refused or hosted(node) == 1:
                found[node] = reply
                continue
            reached.add(node)
            if attempt < attempts:
                again[node] = _again(message, attempt + 1)
            elif needed:
                raise ComponentFailure(
                    f"node {node}, which hosts {hosted(node)} tasks, failed {stage} in {attempts} of {attempts} "
                    f"attempts: {reply.error.reason}. If it counted as zero, the data of one task would decide over "
                    "all of its tasks; mend it, or give it more time (run.timeout), then go on with --resume."
                )
            else:
                found[node] = reply
        sent = again
    return [*(found[node] for node in order), *strays]


def _by_node(replies: Iterable[Message], sent: Mapping[int, Message], strays: list[Message]) -> dict[int, Message]:
    """Return by node the first reply of each that was asked; all others become strays.

    An error that a SuperLink makes for a node comes from the SuperLink's own id and says only what it replies to.
    """
    asked = {message.metadata.message_id: node for node, message in sent.items() if message.metadata.message_id}
    came: dict[int, Message] = {}
    for reply in replies:
        sender = reply.metadata.src_node_id
        node = asked.get(reply.metadata.reply_to_message_id, sender)
        if node not in sent or node in came or (sender != node and not reply.has_error()):
            strays.append(reply)
        elif reply.has_error():
            came[node] = _error(reply.error.code, reply.error.reason or "no reason given", sent[node])
        else:
            came[node] = reply
    return came


def _error(code: int, reason: str, message: Message) -> Message:
    return Message(Error(code=code, reason=reason.rstrip(".")), reply_to=message)


def _again(message: Message, attempt: int) -> Message:
    """Return the same request as one more attempt; its arrays are shared."""
    records = dict(message.content.items())
    request = records["request"]
    if isinstance(request, ConfigRecord):
        records["request"] = ConfigRecord({**request, "attempt": attempt})
    of = message.metadata
    return Message(RecordDict(records), of.dst_node_id, of.message_type, ttl=of.ttl, group_id=of.group_id)
