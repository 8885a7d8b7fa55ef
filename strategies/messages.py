"""Whether the messages of a round are those of its draw, and the scores that come back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure
from fedpriv.protocol import Reply, Request, records_by_group
from fedpriv.strategies.session import Session

__all__ = ["as_drawn", "mean_scores", "scores_of"]

Ids = NDArray[np.int64]


def as_drawn(session: Session, number: int, arrays: ArrayRecord, messages: Iterable[Message]) -> list[Message]:
    """Return the messages of a round, if they ask who was drawn, and send what was published.

    Raises
    ------
    ComponentFailure
        They ask other tasks, or carry other arrays; nothing was sent.
    """
    session.refuse_not_drawn(number)
    found, per_node = list(messages), session.by_node(session.sampled)
    records = records_by_group(arrays, session.groups)
    for message in found:
        drawn = per_node.get(message.metadata.dst_node_id, {})
        asked = Request.tasks_of(message.content)
        same = all(message.content[f"billboard/{group}"] == records.get(group) for group in asked)
        if not same or asked.keys() != drawn.keys() or any(not np.array_equal(asked[one], drawn[one]) for one in drawn):
            raise ComponentFailure(
                f"round {number}: a message asks other tasks than were drawn, or carries other arrays than were "
                "published; nothing was sent. Let configure_train return the messages of "
                "super().configure_train(...), or some of them."
            )
    return found


def scores_of(session: Session, replies: Iterable[Message], tasks: Mapping[str, Ids]) -> dict[str, NDArray[np.float64]]:
    """Put per-task diagnostics of the replies in the order of task ids; NaN where nothing came, which is counted.

    A run is not stopped for them: no release depends on scores.
    """
    scores: dict[str, NDArray[np.float64]] = {}
    lost: dict[str, int] = {}
    waiting = session.asked(tasks)
    away = sum(map(len, tasks.values())) - waiting.total()
    for reply in replies:
        node, kind = reply.metadata.src_node_id, reply.metadata.message_type
        if node not in waiting:
            continue
        count = waiting.pop(node)
        lost.setdefault(kind, away)
        if reply.has_error():
            lost[kind] += count
            session.note = session.note or f"node {node}: {reply.error.reason}"
            continue
        answer = Reply.from_content(reply.content)
        if "scoring_failed" in answer.diagnostics:
            session.take_note(answer)
        ids = np.asarray(answer.diagnostics["ids"], dtype=np.int64)
        for name, values in answer.diagnostics.items():
            if name in ("ids", "scoring_failed"):
                continue
            empty = np.full(session.registry.num_tasks, np.nan)
            scores.setdefault(name, empty)[ids] = cast(Sequence[float], values)
    session.missing.update(lost)
    return scores


def mean_scores(scores: Mapping[str, NDArray[np.float64]]) -> MetricRecord | None:
    """Return the mean of each score over the tasks that have it, named as a diagnostic; None without scores.

    A metric that only one of several tasks has is left out: its mean would be that task's own.
    """
    finite = {
        name: found
        for name, values in scores.items()
        if len(found := values[np.isfinite(values)]) != 1 or len(values) == 1 or name.endswith((".loss", ".accuracy"))
    }
    if not finite:
        return None
    return MetricRecord({f"diagnostic.{name}": float(values.mean()) for name, values in finite.items() if len(values)})
