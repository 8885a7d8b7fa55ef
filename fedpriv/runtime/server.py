"""The server's side of a run, on any grid: rounds, the final fit, the last scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedpriv.privacy.entropy import Entropy
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.privacy.metrics import MetricsRelease
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.progress import phase, show_part
from fedpriv.protocol import Billboards, Reply, record_from_billboards
from fedpriv.roster import Roster
from fedpriv.runtime.grid import RemoteGrid
from fedpriv.strategies.base import TaskStrategy
from fedpriv.strategies.session import Session

__all__ = ["ServerResult", "serve"]

Hook = Callable[[int, Billboards, dict[str, Any]], None]


@dataclass
class ServerResult:
    """What a run came to.

    Attributes
    ----------
    checkpoint : Checkpoint
        The last checkpoint.
    scores : dict
        Per-task diagnostics of the last evaluation, float64 [m] by name.
    trained : int
        Tasks trained, counted once per round.
    seconds : dict
        Where the time went.
    work, local_only_work : int
        Per-example gradient evaluations of the run, searches and final fits included, and of the local-only
        reference, where every task gets the epochs of the busiest one.
    fill : float or None
        Share of the padded mini-batches that were examples: below a half, padding costs more than the work.
    problems : dict
        How many updates did not count, by cause.
    note : str
        The first of them in words.
    unreachable : int
        Tasks that counted as zero in this process because their node could not be reached.
    warnings : list of str
        What else the experimenter has to know.
    missing : list of str
        Of how many tasks something is missing after training; may depend on data, as ``problems`` and ``note`` do.
    measured : list of MetricsRelease
        Metrics that were released, by round.
    """

    checkpoint: Checkpoint
    scores: dict[str, NDArray[np.float64]]
    trained: int
    seconds: dict[str, float] = field(default_factory=dict)
    work: int = 0
    local_only_work: int = 0
    fill: float | None = None
    problems: dict[str, int] = field(default_factory=dict)
    note: str = ""
    unreachable: int = 0
    warnings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    measured: list[MetricsRelease] = field(default_factory=list)


def serve(
    strategy: TaskStrategy,
    grid: Grid,
    initial: ArrayRecord,
    *,
    journal: Journal | None,
    entropy: Entropy,
    checkpoint: Checkpoint | None = None,
    resolved: ResolvedPlan | None = None,
    replay: Sequence[tuple[Checkpoint, Checkpoint]] = (),
    on_round: Hook | None = None,
    baseline: bool = True,
    population: Roster | None = None,
    timeout: float = 24 * 3600.0,
    attempts: int = 3,
    on_unreachable: Callable[[int, int], None] | None = None,
) -> ServerResult:
    """Run a strategy to its end.

    Parameters
    ----------
    strategy : TaskStrategy
        What the server publishes.
    grid : Grid
        Where the nodes are.
    initial : ArrayRecord
        The public start.
    journal : Journal or None
        How releases get out.
    entropy : Entropy
        Where coins and noise come from.
    checkpoint : Checkpoint or None
        Where to resume.
    resolved : ResolvedPlan or None
        The strategy's plan for this population; asked for unless given.
    replay : sequence of (Checkpoint, Checkpoint)
        Rounds whose personal states have to be trained again, as (before, after) pairs: the recorded billboard and
        participants are used, nothing is drawn and nothing released.
    on_round : callable or None
        Called after each round.
    baseline : bool
        Whether to train and score the local-only reference.
    population : Roster or None
        Whom the ledger was registered for: nodes host these tasks and no others. Those that are away count as zero.
    timeout : float
        Seconds to wait for the answers of an exchange.
    attempts : int
        How often a node with several tasks is asked, if it fails or is late, before the run stops.
    on_unreachable : callable or None
        Called with a round and how many of its tasks could not be reached, before anything of it is published.

    Raises
    ------
    BudgetExceeded, ComponentFailure
        As the strategy and the nodes raise them; what was published stays in the checkpoints.
    """
    session = strategy.bind(
        grid,
        initial,
        journal=journal,
        entropy=entropy,
        checkpoint=checkpoint,
        resolved=resolved,
        roster=population,
        timeout=timeout,
        attempts=attempts,
    )
    session.on_unreachable = on_unreachable

    def count_metrics(at: Checkpoint | None) -> None:
        """Let nodes count once more what they granted for metrics; what they answer is not used."""
        if at is not None and at.round in session.measured:
            session.ask(grid, strategy.measuring(at), f"when the metrics of round {at.round} were counted again")

    if not isinstance(grid, RemoteGrid):  # whose nodes count for themselves
        count_metrics(replay[0][0] if replay else checkpoint)  # a snapshot comes before the metrics of its round
    for number, (before, after) in enumerate(replay, start=1):
        published, declared = record_from_billboards(before.billboards), strategy.declared(before)
        messages = strategy.messages(MessageType.TRAIN, after.round, published, after.sampled, declared=declared)
        session.ask(grid, messages, f"when round {after.round} was trained again")
        count_metrics(after)
        show_part("replay", "rounds", number, len(replay))
    started = time.perf_counter()
    strategy.start(grid, initial, on_round=on_round)
    seconds = {"rounds": time.perf_counter() - started, "training": session.training_seconds}
    if session.listening_seconds:
        seconds["attack"] = session.listening_seconds

    started = time.perf_counter()
    last, everybody = record_from_billboards(session.checkpoint.billboards), session.groups
    finishing = strategy.messages(f"{MessageType.TRAIN}.finish", 0, last, everybody)
    with phase("final fit"):
        replies = _finished(session, session.ask(grid, finishing, "in the final fit"))
    session.problems["final_fit_failed"] += sum(_count(reply, "final_fit_failed") for reply in replies)
    epochs = max((_count(reply, "epochs") for reply in replies), default=0)
    work = sum(_count(reply, "work") for reply in replies)
    cells = sum(_count(reply, "cells") for reply in replies)
    fill = sum(_count(reply, "cells_with_example") for reply in replies) / cells if cells else None
    alone_work = epochs * sum(_count(reply, "examples") for reply in replies)
    strategy.measure(strategy.rounds, grid)
    scoring = strategy.messages(MessageType.EVALUATE, 0, last, everybody)
    with phase("scores"):
        scores = strategy.collect(session.ask(grid, scoring, "to evaluate", needed=False), everybody)
    seconds["finish"] = time.perf_counter() - started

    warnings = []
    if baseline and not epochs and isinstance(grid, RemoteGrid):
        warnings.append("there is no local-only reference: the nodes keep how much they worked to themselves.")
    elif baseline and not epochs:
        warnings.append(
            "there is no local-only reference: the client counted no gradient work, so one of equal work is untrained; "
            "add it to learner.work."
        )
    elif baseline:
        started = time.perf_counter()
        start = record_from_billboards(session.start)
        alone = strategy.messages(f"{MessageType.EVALUATE}.local_only", 0, start, everybody, epochs=epochs)
        with phase("local-only reference"):
            found = session.ask(grid, alone, "in the local-only reference", needed=False)
            scores.update(strategy.collect(found, everybody))
        seconds["baseline"] = time.perf_counter() - started
    return ServerResult(
        session.checkpoint,
        scores,
        session.trained,
        seconds,
        work,
        alone_work if baseline else 0,
        fill,
        {name: count for name, count in session.problems.items() if count},
        session.note or next((reply.note for reply in replies if reply.note), ""),
        session.problems["unreachable"],
        warnings,
        _missing(session),
        [session.measured[number] for number in sorted(session.measured)],
    )


def _count(reply: Reply, name: str) -> int:
    found = reply.diagnostics.get(name)
    return found if isinstance(found, int) else 0


def _finished(session: Session, replies: Iterable[Message]) -> list[Reply]:
    """Return what the final fit answered; nodes that could not be reached, or that failed with one task, have none."""
    answers = []
    hosted, kind = session.asked(session.groups), f"{MessageType.TRAIN}.finish"
    session.missing[kind] = session.registry.num_tasks - hosted.total()
    for reply in replies:
        node = reply.metadata.src_node_id
        if not reply.has_error():
            answers.append(Reply.from_content(reply.content))
        elif node in hosted:
            session.missing[kind] += hosted[node]
            session.note = session.note or f"node {node}: {reply.error.reason}"
    return answers


_WITHOUT = {
    f"{MessageType.TRAIN}.finish": "had no final fit",
    MessageType.EVALUATE: "gave no scores",
    f"{MessageType.EVALUATE}.local_only": "gave no scores of the local-only reference",
}


def _missing(session: Session) -> list[str]:
    """Say of how many tasks something is missing after training because their nodes did not give it."""
    return [
        f"{count} tasks {_WITHOUT[kind]}, since their nodes could not be reached or failed; the first: {session.note}"
        for kind, count in session.missing.items()
        if count
    ]
