"""Where a run goes on: the last published checkpoint, the last snapshot, and the rounds between them."""

from __future__ import annotations

from dataclasses import dataclass

from fedpriv.errors import InputError
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.runs.folder import RunFolder

__all__ = ["ResumePoint", "where_to_resume"]


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on."""

    checkpoint: Checkpoint | None = None
    snapshot: int | None = None
    replay: tuple[tuple[Checkpoint, Checkpoint], ...] = ()


def where_to_resume(folder: RunFolder | None, journal: Journal, *, publishes: bool) -> ResumePoint:
    """Find the last published checkpoint, the last snapshot, and the rounds between them."""
    if folder is None:
        return ResumePoint()
    store = folder.checkpoints
    for pending, promote, discard in (
        (store.pending(), store.promote, store.discard_pending),
        (store.pending_measured(), store.promote_measured, store.discard_pending_measured),
    ):
        if pending is not None and journal.charged(pending):
            promote(pending.round)  # charged but not published: read back, never drawn again
        elif pending is not None:
            discard()
    rounds, snapshots = store.rounds(), store.snapshots()
    if publishes and rounds:
        journal.refuse_missing(store.load(rounds[-1]), store.measured())
    if not rounds:
        folder.rewind_metrics(0)
        return ResumePoint()
    last = rounds[-1]
    folder.rewind_metrics(last)
    snapshot = max((number for number in snapshots if number <= last), default=None)
    first = snapshot or 0
    checkpoints = {number: store.load(number) for number in rounds if number >= first}
    missing = [number for number in range(first, last + 1) if number not in checkpoints]
    if missing:
        raise InputError(
            f"{folder.path} lost the checkpoint of round {missing[0]}; restore it from a copy, or start a new run."
        )
    replay = tuple((checkpoints[number - 1], checkpoints[number]) for number in range(first + 1, last + 1))
    return ResumePoint(checkpoints[last], snapshot, replay)
