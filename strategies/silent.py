"""No billboard: tasks train, nothing leaves them."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord

from fedpriv.privacy.journal import Checkpoint
from fedpriv.protocol import record_from_billboards
from fedpriv.strategies.base import TaskStrategy

__all__ = ["Silent"]


class Silent(TaskStrategy):
    """Ask tasks to train and release nothing: the reference at epsilon 0."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Ignore the replies; the billboard stays at its public start.

        Raises
        ------
        ComponentFailure
            A node that hosts several tasks failed.
        """
        session = self.session
        stage = f"in round {server_round}"
        for _, answer in session.answers(replies, session.sampled, session.problems, server_round, stage):
            session.take_note(answer)
        session.checkpoint = Checkpoint(server_round, session.checkpoint.billboards, session.sampled)
        if session.journal is not None:
            session.journal.publish(session.checkpoint, {})
        return record_from_billboards(session.checkpoint.billboards), None
