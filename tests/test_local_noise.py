"""Noise that tasks add to their own rows: the same for the same answer, never shared by two different ones."""

from __future__ import annotations

import math
import os
import signal
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import experiment, noisy, toy_problem, toy_tasks
from numpy.typing import NDArray

from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.cohort import ClientAlgorithm, Cohort, Key, Learner, Params, State, broadcast, zeros_like
from fedpriv.errors import InputError
from fedpriv.experiment.execution import _Run
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.policy import NodePolicy
from fedpriv.protocol import ALL, Reply, Request
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.runtime.pool import ShardPool
from fedpriv.runtime.ray_grid import RayGrid, _LineFailure
from fedpriv.runtime.wire import unpack
from fedpriv.strategies import Billboard

STD = 4.0
TASKS = toy_tasks(3)
PROBLEM = toy_problem(TASKS)
START = {name: value.numpy() for name, value in PROBLEM.initial().items()}
SIZE = sum(value.size for value in START.values())


class Silence(ClientAlgorithm):
    """Sends zeros, or local noise: what leaves the node is noise alone."""

    own: bool = False

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        update = zeros_like(broadcast(billboard, len(cohort)))
        if self.own:
            for name, value in update.items():
                value.add_(learner.normal(name, cohort, key, value.shape[1:]))
        return state, update


def node(algorithm: ClientAlgorithm | None = None, **more: Any) -> Node:
    return Node(NodeSpec(TASKS, algorithm or Silence(), PROBLEM, noise_seed=7, **more))


def asked(of: Node, *, round: int = 1, shift: float = 0.0, task: int = 0, at: str = "node") -> NDArray[np.float64]:
    """Return the row of a task, flat."""
    billboard = {name: value + shift for name, value in START.items()}
    said = Declaration(1e6, STD / 1e6, noise_at=at)
    request = Request(round, {ALL: billboard}, {ALL: np.array([task])}, "rows", said)
    answer = Reply.from_content(of.train(request.to_content()))
    return np.concatenate([value.ravel() for value in answer.updates[ALL].values()])


def independent(one: NDArray[np.float64], two: NDArray[np.float64], std: float = STD) -> bool:
    """Whether a difference has the spread of two independent draws; wrong once in 1e9 times for either answer."""
    spread = float(np.sqrt(np.square(one - two).mean())) / (std * math.sqrt(2.0))
    return abs(spread - 1.0) < 6.5 / math.sqrt(2.0 * len(one))


def test_the_same_answer_has_the_same_noise_when_a_round_is_run_again() -> None:
    assert np.array_equal(asked(node()), asked(node()))
    first, again = node(), node()
    for number in (1, 2):
        asked(first, round=number)
        asked(again, round=number)  # a replay
    assert np.array_equal(asked(first, round=3), asked(again, round=3))
    other = Node(NodeSpec(TASKS, Silence(), PROBLEM))  # a node of its own has a secret of its own
    assert independent(asked(node()), asked(other))


def test_no_two_questions_share_noise() -> None:
    """Else the difference of two answers would be without any, whatever the ledger says."""
    mine = node()
    first = asked(mine)
    assert independent(first, np.zeros(SIZE), STD / math.sqrt(2.0))
    assert independent(first, asked(mine)), "the same question again, after the task's state may have changed"
    assert independent(first, asked(node(), shift=1e-7)), "another billboard in the same round"
    assert independent(first, asked(node(), round=2))
    assert independent(first, asked(node(), task=1))


def test_noise_of_the_algorithm_is_bound_in_the_same_way() -> None:
    def own() -> Node:
        return node(Silence(own=True))

    mine = own()
    first = asked(mine, at="server")
    assert np.array_equal(first, asked(own(), at="server"))
    assert independent(first, asked(mine, at="server"), 1.0)
    assert independent(first, asked(own(), shift=1e-7, at="server"), 1.0)


def test_a_refusal_does_not_show_the_noise_of_an_answer() -> None:
    """Asked twice where once is allowed: zeros with the answer's noise would give the answer away."""
    for algorithm in (GlobalModel(epochs=3), MeanRegularized(epochs=3)):
        mine = node(algorithm, policy=NodePolicy(max_participations=1))
        answer, refusal = asked(mine), asked(mine)
        assert independent(answer, refusal)


class Fitful(Silence):
    """Sends ones, unless it fails or finds another row: what a time limit, memory or another state can do to a task."""

    what: str = "ones"

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        if self.what == "fails":
            raise MemoryError
        state, update = super().train(learner, billboard, state, cohort, key)
        for value in update.values():
            value.fill_(1.0 if self.what == "ones" else 1.0 + 1e-6)
        return state, update


def test_two_different_rows_for_one_question_share_no_noise() -> None:
    """A task was late in a round that broke off and is not when it runs again: the difference would be its update."""
    first = asked(node(Fitful()))
    assert np.array_equal(first, asked(node(Fitful())))
    for what in ("fails", "other"):
        assert independent(first, asked(node(Fitful(what=what)))), what


def test_a_request_cannot_clip_by_one_norm_and_be_noised_for_another() -> None:
    """A policy would judge the declared release, and the row would come with hardly any noise."""
    tricks: list[dict[str, Any]] = [
        {"clipping_norms": {"": 1.0}},
        {"target_quantile": 0.5},
        {"banded": BandedMechanism(horizon=1, participations=1, separation=1, bands=1)},
    ]
    for more in tricks:
        said = Declaration(1e-9, 12.0, noise_at="node", **more)
        request = Request(1, {ALL: START}, {ALL: np.array([0])}, "rows", said)
        with pytest.raises(InputError, match="one clipping norm for the whole update"):
            node(policy=NodePolicy(max_epsilon=1.0, relation="replace-one")).train(request.to_content())


def test_a_rebuilt_shard_sends_the_very_same_rows_without_a_run_folder(pool: ShardPool, monkeypatch: Any) -> None:
    """The rows went out and the shard was killed: what it sends when it is asked again is no news."""
    came: list[NDArray[np.float64]] = []
    original = RayGrid._result

    def result(self: RayGrid, call: Any, node: int) -> Any:
        payload = original(self, call, node)
        reply = unpack(payload)
        if node != 2 or reply.metadata.message_type != "train":
            return payload
        updates = Reply.from_content(reply.content).updates[ALL]
        came.append(np.concatenate([value.ravel() for value in updates.values()]))
        if len(came) == 3:  # in round 3, past the snapshot of round 2
            os.kill(self.processes()[node], signal.SIGKILL)
            self._hang_up(node)
            raise _LineFailure("killed after its rows were out")
        return payload

    monkeypatch.setattr(RayGrid, "_result", result)
    strategy = Billboard(
        clipping_norm=1.0, rounds=4, noise_multiplier=1.0, reply="rows", noise_at="node", sampling_rate=1.0
    )
    alone = experiment(toy_tasks(4), strategy=strategy, grid="ray", shards=2, checkpoint_every=2)
    alone.run(pool=pool)
    assert len(came) == 5, "three rounds, the third one again, and the fourth"
    assert np.array_equal(came[2], came[3]), "two copies with fresh noise would be out for one charge"
    rows = [row for number, row in enumerate(came) if number != 3]
    assert all(independent(one, two, 1.0) for one, two in combinations(rows, 2))


def test_all_nodes_of_a_run_have_one_secret_and_no_two_runs_the_same(monkeypatch: Any, tmp_path: Path) -> None:
    """Also for algorithms that do not say that they draw noise."""
    seen: list[set[int | None]] = []
    original = _Run._started

    def started(self: _Run, specs: list[NodeSpec]) -> Any:
        seen.append({one.noise_seed for one in specs})
        return original(self, specs)

    monkeypatch.setattr(_Run, "_started", started)
    at_node = {"strategy": noisy(noise_at="node")}
    for more, where in ((at_node, None), (at_node, tmp_path / "a"), ({}, None), ({}, tmp_path / "b")):
        for client in (GlobalModel(), Silence(own=True)):
            out = where and where / type(client).__name__
            experiment(toy_tasks(4), client=client, shards=3, **more).run(out)
    secrets = set.union(*seen)
    assert all(len(one) == 1 for one in seen)
    assert len(secrets) == len(seen) == 8
    assert min(one.bit_length() for one in secrets if one is not None) > 200, "256 bits, of each of which half are 0"
    assert None not in secrets
