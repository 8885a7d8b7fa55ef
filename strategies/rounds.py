"""The loop over rounds: ask, publish, call observers, score."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fedpriv.errors import ComponentFailure
from fedpriv.protocol import Billboards, record_from_billboards
from fedpriv.strategies.messages import as_drawn
from fedpriv.strategies.session import Session

if TYPE_CHECKING:
    from fedpriv.strategies.base import TaskStrategy

__all__ = ["RoundHook", "run_rounds"]

RoundHook = Callable[[int, Billboards, dict[str, Any]], None]
"""Called after each round with its number, the new billboards and the mean scores (or an empty dict)."""


def run_rounds(
    strategy: TaskStrategy,
    grid: Grid,
    initial_arrays: ArrayRecord,
    last: int,
    *,
    train_config: ConfigRecord,
    evaluate_config: ConfigRecord,
    evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None,
    on_round: RoundHook | None,
) -> Result:
    """Run the rounds after the session's last checkpoint; parameters are those of :meth:`TaskStrategy.start`."""
    session, result = strategy.session, Result()
    arrays = record_from_billboards(session.checkpoint.billboards) if session.checkpoint.round else initial_arrays
    result.arrays = arrays
    for number in range(session.checkpoint.round + 1, last + 1):
        strategy.measure(number - 1, grid)  # here, so that a run that goes on makes up for it
        began, heard = time.perf_counter(), session.listening_seconds
        session.registry = session.registry.completed(grid, session.timeout, session.run)
        messages = as_drawn(session, number, arrays, strategy.configure_train(number, arrays, train_config, grid))
        replies = session.ask(grid, messages, f"in round {number}")
        seen = session.sightings(number, arrays, replies, strategy.reply_kind)
        new, metrics = strategy.aggregate_train(number, replies)
        session.training_seconds += time.perf_counter() - began - (session.listening_seconds - heard)
        session.trained += sum(len(ids) for ids in session.sampled.values())
        session.tell(seen)  # after the release, which no observer can delay or prevent
        result.arrays = arrays = _published(session, number, arrays, new)
        if metrics is not None:
            result.train_metrics_clientapp[number] = metrics
        asked = list(strategy.configure_evaluate(number, arrays, evaluate_config, grid))
        answers = session.ask(grid, asked, f"to evaluate after round {number}", needed=False)
        scores = strategy.aggregate_evaluate(number, answers) if asked else None
        if scores is not None:
            result.evaluate_metrics_clientapp[number] = scores
        if evaluate_fn and (own := evaluate_fn(number, arrays)) is not None:
            result.evaluate_metrics_serverapp[number] = own
        if on_round:
            on_round(number, session.checkpoint.billboards, dict(scores or {}))
    return result


def _published(session: Session, number: int, before: ArrayRecord, returned: ArrayRecord | None) -> ArrayRecord:
    """Return what nodes get next: the billboards of the last checkpoint, if they are what the round was charged for.

    Raises
    ------
    ComponentFailure
        The billboards moved and the ledger was not charged for them, or the strategy returned others.
    """
    checkpoint = session.checkpoint
    arrays = record_from_billboards(checkpoint.billboards)
    free = (session.journal is not None and session.journal.charged_here(checkpoint)) or arrays == before
    if checkpoint.round != number or not free:
        raise ComponentFailure(
            f"round {number} ended with billboards that no release was charged for, and they go to every node; let "
            "aggregate_train call super().aggregate_train(...) and leave session.checkpoint alone: what moves a "
            "billboard is its 'server_update'."
        )
    if returned is not None and returned != arrays:
        raise ComponentFailure(
            f"aggregate_train returned other arrays than round {number} published and was charged for, and the last "
            "ones go to every node; return what super().aggregate_train(...) returns: what moves a billboard is its "
            "'server_update'."
        )
    return arrays
