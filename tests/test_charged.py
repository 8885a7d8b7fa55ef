"""What is charged is what was drawn, and what is sent is what was charged, whatever a strategy of one's own does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from flwr.app import ArrayRecord, MessageType
from helpers import experiment, noisy, toy_tasks

from fedpriv import ComponentFailure, NoGuarantee
from fedpriv.arrays import arrays_from, record_of
from fedpriv.clients import MeanRegularized
from fedpriv.privacy import Ledger
from fedpriv.privacy.participation import Participation
from fedpriv.privacy.sampling import PoissonSampling
from fedpriv.strategies import Billboard

COMMON: dict[str, Any] = {"clipping_norm": 1.0, "rounds": 3, "noise_multiplier": 1.0, "sampling_rate": 0.5}


def charged(folder: Path) -> list[Any]:
    ledger = Ledger(folder / "ledger.sqlite")
    return ledger.entries(ledger.populations()[0])


def refused(folder: Path, strategy: Billboard, kind: type[Exception], text: str, entries: int = 0) -> None:
    with pytest.raises(kind, match=text):
        experiment(toy_tasks(8), strategy=strategy, client=MeanRegularized(learning_rate=0.1)).run(
            folder / "run", reproduce=1
        )
    assert entries == (len(charged(folder / "run")) if (folder / "run/ledger.sqlite").exists() else 0)


class Chooses(Billboard):
    """Asks the first two tasks in each round, as a strategy of Flower's would."""

    how: str = "fewer"

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Iterable[Any]:
        first = {group: ids[:2] for group, ids in self.session.groups.items()}
        if self.how == "alone":
            self.session.sampled = first
            return self.messages(MessageType.TRAIN, server_round, arrays, first)
        super().configure_train(server_round, arrays, config, grid)
        if self.how == "writes":
            for ids in self.session.sampled.values():
                ids[:] = np.arange(len(ids))
        elif self.how == "after":
            self.session.sampled = first
        elif self.how == "groups":
            self.session.groups = first
            return super().configure_train(server_round, arrays, config, grid)
        elif self.how == "messages":
            return self.messages(MessageType.TRAIN, server_round, arrays, self.session.groups)
        elif self.how == "arrays":
            other = record_of({name: value + 1 for name, value in arrays_from(arrays).items()})
            return self.messages(MessageType.TRAIN, server_round, other, self.session.sampled)
        return []


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("alone", "round 1 asks other tasks than those that the plan drew"),
        ("writes", "round 1 asks other tasks than those that the plan drew"),
        ("after", "round 1 asks other tasks than those that the plan drew"),
        ("groups", "round 1: the groups of tasks are not those"),
        ("messages", "a message asks other tasks than were drawn"),
        ("arrays", "carries other arrays than were published"),
    ],
)
def test_participants_whom_the_plan_did_not_draw_are_refused(tmp_path: Path, how: str, text: str) -> None:
    refused(tmp_path, Chooses(**COMMON, how=how), ComponentFailure, text)


def test_fewer_messages_than_drawn_are_as_good() -> None:
    """Tasks that are not asked count as zero; a strategy may leave out a node."""
    found = [experiment(toy_tasks(8), strategy=one).run(reproduce=1) for one in (noisy(**COMMON), Chooses(**COMMON))]
    assert found[0].guarantee == found[1].guarantee


def test_a_sum_of_others_than_were_drawn_is_not_released() -> None:
    """Also where no loop looks at the messages."""

    class Late(Billboard):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            self.session.sampled = {group: ids[:2] for group, ids in self.session.groups.items()}
            return super().aggregate_train(server_round, replies)

    with pytest.raises(ComponentFailure, match="round 1 asks other tasks"):
        experiment(toy_tasks(8), strategy=Late(**COMMON)).run(reproduce=1)


@dataclass(frozen=True)
class Clustered(Participation):
    def choose(self, number: int, ids: Any, *rest: Any) -> Any:
        return ids[:2]


@dataclass(frozen=True)
class TwoRates(Participation):
    def sampling_of(self, num_tasks: int, *, counted: bool) -> Any:
        return PoissonSampling(0.1 if counted else 0.9)


class Swaps(Billboard):
    """Puts another way to choose into what was resolved."""

    def resolve(self, num_tasks: int) -> Any:
        found = super().resolve(num_tasks)
        return replace(found, plan=replace(found.plan, participation=Clustered(sampling_rate=0.5)))


class Plans(Billboard):
    """Has a plan of its own."""

    part: ClassVar[Participation]

    @property
    def plan(self) -> Any:
        return replace(super().plan, participation=self.part)


def test_a_scheme_is_looked_up_wherever_it_was_put_in(tmp_path: Path) -> None:
    refused(tmp_path, Swaps(**COMMON), NoGuarantee, "with 'clustered' sampling: accounted are")
    by_hand = Participation(sampling_rate=0.5)
    object.__setattr__(by_hand, "choose", lambda number, ids, *rest: ids[:2])
    for part, text in (
        (by_hand, "with 'participation' sampling"),
        (TwoRates(), r"charged as 'poisson' \(rates 0.9 and 0.1\)"),
    ):
        Plans.part = part
        refused(tmp_path, Plans(**COMMON), NoGuarantee, text)


class Leaks(Billboard):
    """Returns, or publishes, other arrays than were charged."""

    how: str = "returns"

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        before = self.session.checkpoint
        record, metrics = super().aggregate_train(server_round, replies)
        assert record is not None
        other = {name: value * 2 for name, value in arrays_from(record).items()}
        if self.how == "returns":
            return record_of(other), metrics
        if self.how == "nothing":
            return None, metrics
        if self.how == "checkpoint":
            self.session.checkpoint = replace(self.session.checkpoint, billboards={"all": other})
        elif self.how == "writes":
            for value in self.session.checkpoint.billboards["all"].values():
                value *= 2
        else:
            self.session.checkpoint = before
            return None, metrics
        return record_of(other), metrics


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("returns", "returned other arrays than round 1 published and was charged for"),
        ("checkpoint", "round 1 ended with billboards that no release was charged for"),
        ("writes", "round 1 ended with billboards that no release was charged for"),
        ("stays", "round 1 ended with billboards that no release was charged for"),
    ],
)
def test_nothing_goes_to_nodes_but_what_was_charged(tmp_path: Path, how: str, text: str) -> None:
    refused(tmp_path, Leaks(**COMMON, how=how), ComponentFailure, text, entries=1)


def test_what_a_strategy_returns_is_not_needed() -> None:
    """The billboards of the last checkpoint go on, also where a strategy returns nothing, as Flower permits."""
    found = [
        experiment(toy_tasks(8), strategy=one).run(reproduce=1)
        for one in (noisy(**COMMON), Leaks(**COMMON, how="nothing"))
    ]
    for name, value in found[0].billboards["all"].items():
        np.testing.assert_array_equal(value, found[1].billboards["all"][name])
