"""Who the tasks are, apart from their data: servers without data, nodes that come and go, runs that are told apart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from helpers import experiment, noisy, toy_tasks
from test_absence import Weather, equal, personal

from fedpriv import ComponentFailure, Experiment, InputError
from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.privacy import Ledger
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.guarantee import REACHED
from fedpriv.privacy.policy import NodePolicy
from fedpriv.protocol import ALL, PROTOCOL, Reply, Request, RunName, TaskRange
from fedpriv.roster import Roster
from fedpriv.runtime.apps import client_app
from fedpriv.runtime.grid import InProcessGrid

SALT = b"s" * 32


def on_nodes(run: Experiment, cuts: Iterable[int] = (0, 2, 4, 7), salt: bytes | None = None) -> InProcessGrid:
    """Return nodes that were made from their own tasks and the roster alone."""
    everybody = toy_tasks(7)
    own = [replace(everybody.shard(first, last), first=0) for first, last in pairwise(cuts)]
    return InProcessGrid([run.node(tasks, salt=salt, noise_seed=7) for tasks in own])


class Remote(Grid):
    """Nodes that the server did not start, as with Flower's own grid: it knows those that are there, now.

    Some come back, or come for the first time, with a round; until then they cannot be reached.
    """

    def __init__(self, nodes: InProcessGrid, comes: dict[int, int] | None = None) -> None:
        self.nodes, self.comes, self.round = nodes, comes or {}, 0
        self.sent: list[Message] = []

    def set_run(self, run: Any) -> None:
        self.nodes.set_run(run)

    @property
    def run(self) -> Any:
        return self.nodes.run

    def create_message(self, *words: Any, **more: Any) -> Message:
        return self.nodes.create_message(*words, **more)

    def get_node_ids(self) -> Iterable[int]:
        self.round += 1
        return [node for node in self.nodes.get_node_ids() if self.comes.get(node, 0) < self.round]

    def get_nodes(self) -> Iterable[Any]:
        return self.nodes.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.nodes.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.nodes.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        self.sent += sent
        return self.nodes.send_and_receive(sent, timeout=timeout)


def served(run: Experiment, roster: Roster, **changes: Any) -> Experiment:
    """Return the server's side of an experiment: the same without any data."""
    return run.model_copy(update={"tasks": roster, **changes})


def test_a_roster_holds_no_data_and_is_read_back(tmp_path: Path) -> None:
    tasks = replace(toy_tasks(7), groups=(0, 0, 1, 1, 0, 1, 0), names=("Zo\u00eb", *"abcdef"))
    roster = tasks.roster
    roster.write(tmp_path / "roster.json")
    found = Roster.read(tmp_path / "roster.json")
    assert found == roster
    assert (found.fingerprint, found.outputs, len(found), found.groups) == (tasks.fingerprint, 3, 7, tasks.groups)
    assert roster.names is tasks.names, "a million names are there once"
    kept = json.loads(roster.to_json())
    assert set(kept) == {*Roster.model_fields, "fingerprint"}
    assert len(roster.to_json()) < 500, "no example, no label, no size of a task"
    assert (tmp_path / "roster.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-9], "not JSON"),
        (lambda text: "[]", "holds a list"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format 2"),
        (lambda text: text.replace("task-3", "task-8"), "not those of its fingerprint"),
        (lambda text: text.replace("task-3", "task-2"), "unique"),
        (lambda text: text.replace("task-3", "a\\u0000b"), "NUL"),
        (lambda text: text.replace("task-3", "\\ud800"), "UTF-8"),
        (lambda text: text.replace('"float32"', '"object"'), "type of numbers"),
        (lambda text: text.replace('"num_classes": 3', '"num_classes": 0'), "num_classes"),
        (lambda text: text.replace('"groups": null', '"groups": [1]'), "one public label per task"),
        (lambda text: text.replace('"dataset"', '"examples"'), "examples"),
    ],
)
def test_a_damaged_roster_is_a_sentence(change: Any, words: str) -> None:
    text = toy_tasks(7).roster.to_json()
    assert change(text) != text
    with pytest.raises(InputError, match=words):
        Roster.from_json(change(text))


def test_a_run_is_planned_and_served_with_a_roster_alone(tmp_path: Path) -> None:
    """Everything that a run says is that of a run whose server holds the data, to the bit."""
    whole = personal(baseline=True)
    alone = served(whole, Roster.from_json(toy_tasks(7).roster.to_json()))
    assert alone.resolve() == whole.resolve()
    strategy, problem = alone.check()
    assert (strategy, problem.digest) == (whole.grouped(), whole.problem().digest)
    with pytest.raises(InputError, match=r"run it with on=\.\.\."):
        alone.run(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    found, wanted = (
        one.run(tmp_path / name, reproduce=7, on=on_nodes(alone)) for one, name in ((alone, "alone"), (whole, "whole"))
    )
    equal(wanted, found)
    equal(whole.run(reproduce=7), found)
    varying = {"ledger", "seconds", "tasks_per_second"}
    assert {k: v for k, v in found.summary.items() if k not in varying} == {
        k: v for k, v in wanted.summary.items() if k not in varying
    }
    assert found.summary["ledger"]["fingerprint"] == toy_tasks(7).fingerprint


def test_the_number_of_outputs_comes_from_the_roster() -> None:
    """A node whose own labels show two of three classes builds the model of all."""
    run = served(personal(), toy_tasks(7).roster)
    tasks = toy_tasks(7).shard(1, 2)
    two = replace(tasks, train=replace(tasks.train, targets=tasks.train.targets % 2))
    assert run.node(two).problem.digest == run.problem().digest
    with pytest.raises(InputError, match="num_classes 2 and the roster of 'toy' has 3"):
        run.node(replace(two, num_classes=2))


def test_a_server_may_know_hashes_alone() -> None:
    run = personal()
    hashed = toy_tasks(7).roster.salted(SALT)
    assert "task-" not in hashed.to_json()
    assert hashed.fingerprint not in (toy_tasks(7).fingerprint, toy_tasks(7).roster.salted(b"t" * 32).fingerprint)
    alone = served(run, hashed)
    equal(run.run(reproduce=7), alone.run(reproduce=7, on=on_nodes(alone, salt=SALT)))
    with pytest.raises(InputError, match=r"'[0-9a-f]{64}' is not in the roster"):
        on_nodes(alone, salt=b"t" * 32)
    for one, salt in ((alone, None), (served(run, toy_tasks(7).roster), SALT)):
        with pytest.raises(InputError, match="looked up with the population's salt"):
            on_nodes(one, salt=salt)


def test_a_node_with_other_tasks_is_refused_by_name() -> None:
    run = served(personal(), toy_tasks(7).roster)
    own = toy_tasks(7).shard(2, 4)
    with pytest.raises(InputError, match="'somebody' is not in the roster"):
        run.node(replace(own, names=("task-2", "somebody")))
    with pytest.raises(InputError, match="do not follow each other"):
        run.node(replace(own, names=("task-3", "task-2")))
    right = [run.node(toy_tasks(7).shard(first, last), noise_seed=7) for first, last in ((0, 2), (2, 4), (4, 7))]
    other = replace(right[1], tasks=replace(right[1].tasks, names=("task-3", "task-2")))
    late = replace(right[2], tasks=replace(right[2].tasks, first=5))
    for specs, words in (
        ([right[0], other, right[2]], "node 2 hosts other tasks than 2 to 3"),
        ([right[0], right[1], late], "node 3 hosts tasks up to 7, and the population has 7"),
        ([right[0], right[1], right[1], right[2]], "hosts tasks from 2 on where 4 was expected"),
    ):
        with pytest.raises(ComponentFailure, match=words):
            run.run(reproduce=7, on=Remote(InProcessGrid(specs)))


class FirstSentInRoundThree(GlobalModel):
    """Tasks 2 and 3 fail in rounds 1 and 2, so they count as zero."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        if key.round < 3 and set(cohort.ids.tolist()) & {2, 3}:
            raise ValueError("away")
        return super().train(learner, billboard, state, cohort, key)


@pytest.mark.parametrize("unknown", [False, True], ids=["it cannot be reached", "the server does not know it"])
def test_a_node_may_be_away_at_the_start_and_come_later(unknown: bool) -> None:
    """Until then its tasks count as zero, as in a simulation, and it is said."""
    run = experiment(toy_tasks(7), client=GlobalModel(), strategy=noisy(sampling_rate=1.0), seed=7)
    zeros = run.model_copy(update={"client": FirstSentInRoundThree()}).run(reproduce=7)
    alone = served(run, toy_tasks(7).roster)
    nodes = on_nodes(alone)
    if unknown:
        grid: Any = Remote(nodes, comes={2: 3})  # asked once before round 1, and once in each round
    else:
        grid = Weather(nodes.specs, lambda *of: 5 if of[:2] == (2, "query.tasks") and of[3] < 4 else None)
    found = alone.run(reproduce=7, on=grid)
    equal(zeros, found)
    assert found.summary["unreachable"]["tasks"] == 4
    assert REACHED in str(found.guarantee)
    assert any("no node that can be reached hosts 2 of the tasks" in line for line in found.summary["warnings"])


def test_tasks_whose_node_never_comes_have_no_scores_and_somebody_must_be_there() -> None:
    alone = served(personal(baseline=True), toy_tasks(7).roster)
    found = alone.run(reproduce=7, on=Remote(on_nodes(alone), comes={2: 99}))
    assert np.isnan(found.scores["personal.accuracy"]).tolist() == [False, False, True, True, False, False, False]
    said = "\n".join(found.summary["warnings"])
    for words in ("2 tasks had no final fit", "2 tasks gave no scores,", "2 tasks gave no scores of the local-only"):
        assert words in said
    with pytest.raises(ComponentFailure, match="no node of this run can be reached"):
        alone.run(reproduce=7, on=Remote(on_nodes(alone), comes={1: 99, 2: 99, 3: 99}))


def test_a_node_that_comes_back_under_another_id_takes_its_place() -> None:
    class Returned(Remote):
        """Node 2 is node 4 from round 3 on."""

        def get_node_ids(self) -> Iterable[int]:
            self.round += 1
            return [1, 3] if self.round == 1 else [1, 2, 3] if self.round == 2 else [1, 3, 4]

    alone = served(personal(strategy=noisy(sampling_rate=1.0)), toy_tasks(7).roster)
    nodes = on_nodes(alone)
    again = InProcessGrid([*nodes.specs, nodes.specs[1]])
    grid = Returned(again)
    alone.run(reproduce=7, on=grid)
    asked = {int(one.metadata.group_id): 0 for one in grid.sent if one.metadata.message_type == "train"}
    assert sorted(asked) == [1, 2, 3, 4]


def test_every_message_says_protocol_population_and_run(tmp_path: Path) -> None:
    strategy = noisy(metrics=("personal.loss",), metrics_epsilon=0.5)
    alone = served(personal(baseline=True, strategy=strategy), toy_tasks(7).roster)
    grid = Remote(on_nodes(alone))
    found = alone.run(tmp_path / "run", reproduce=7, on=grid)
    said = [one.content.get("request", one.content.get("query")) for one in grid.sent]
    of = {"protocol": PROTOCOL, "population": "toy", "run": found.summary["ledger"]["run"]}
    kinds = {one.metadata.message_type for one in grid.sent}
    assert kinds >= {"query.tasks", "train", "train.metrics", "train.finish", "evaluate", "evaluate.local_only"}
    for one in said:
        assert isinstance(one, ConfigRecord)
        assert {name: one[name] for name in of} == of


@pytest.mark.parametrize("version", [None, 2])
def test_another_version_of_the_protocol_is_refused_by_name(version: int | None, monkeypatch: Any) -> None:
    alone = served(personal(), toy_tasks(7).roster)
    nodes = on_nodes(alone)
    spoken = 0 if version is None else version

    def of_version(record: ConfigRecord) -> RecordDict:
        kept = {name: value for name, value in record.items() if name != "protocol"}
        return RecordDict({"query": ConfigRecord(kept if version is None else {**kept, "protocol": version})})

    asked = of_version(ConfigRecord(RunName().to_settings()))
    request = Request(1, {}, {}).to_content()
    settings: Any = request["request"]
    request["request"] = of_version(settings)["query"]
    words = f"the server speaks version {spoken} of fedpriv's protocol and this node version {PROTOCOL};"
    for ask, content in ((nodes.workers[0].node.describe, asked), (nodes.workers[0].node.train, request)):
        with pytest.raises(ComponentFailure, match=words):
            ask(content)
    hosts = TaskRange(2, 2, "").to_content()
    settings = hosts["hosts"]
    hosts["hosts"] = of_version(settings)["query"]
    monkeypatch.setattr(nodes.workers[1].node, "describe", lambda _: hosts)
    with pytest.raises(ComponentFailure, match=f"node 2 speaks version {spoken} of fedpriv's protocol"):
        alone.run(reproduce=7, on=nodes)


def test_states_of_another_run_are_never_continued_and_the_policy_counts_on() -> None:
    run = personal(policy=NodePolicy(diagnostics=True))
    fresh, nodes = run.run(reproduce=7), on_nodes(run)
    counts = []
    for _ in range(2):
        equal(fresh, run.run(reproduce=7, on=nodes))
        (granted,) = nodes.workers[0].node.store.granted.values()
        counts.append(granted.copy())
    assert counts[0].sum() > 0
    np.testing.assert_array_equal(counts[1], 2 * counts[0])


@pytest.mark.parametrize("change", [{"client": MeanRegularized()}, {"policy": NodePolicy(max_participations=3)}])
def test_cohorts_of_fixed_size_are_amplified_only_over_nodes_that_say_their_updates_use_no_state(change: Any) -> None:
    strategy = noisy(rounds=2, sampling="fixed-size", sampling_rate=0.4)
    run = experiment(toy_tasks(7), client=GlobalModel(learning_rate=0.5), strategy=strategy)
    other = experiment(toy_tasks(7), strategy=strategy, **{"client": run.client, **change})
    server = served(run, toy_tasks(7).roster)
    server.run(on=Remote(on_nodes(run)))
    with pytest.raises(ComponentFailure, match="node 1 sends what depends on rounds before"):
        server.run(on=Remote(on_nodes(other)))
    told = other.model_copy(update={"tasks": server.tasks})  # whose strategy knows the client and the policy
    assert (
        told.run(on=Remote(on_nodes(other))).guarantee.epsilon > server.run(on=Remote(on_nodes(run))).guarantee.epsilon
    )
    poisson = noisy(rounds=2, sampling_rate=0.4)  # amplified whatever the updates depend on
    server.model_copy(update={"strategy": poisson}).run(on=Remote(on_nodes(other)))


def test_a_question_is_not_answered_twice_by_a_node_that_went_on_with_another_run() -> None:
    run = experiment(toy_tasks(7), strategy=noisy(noise_at="node"))
    node = on_nodes(run, (0, 7)).workers[0].node
    billboard = {name: value.numpy() for name, value in run.problem().initial().items()}
    said = Declaration(clipping_norm=1.0, noise_multiplier=1.0, noise_at="node")

    def asked(name: str, attempt: int) -> dict[str, Any]:
        of = RunName("people", name)
        request = Request(1, {ALL: billboard}, {ALL: np.arange(7)}, "rows", said, of=of, attempt=attempt)
        return Reply.from_content(node.train(request.to_content())).updates[ALL]

    first, again = asked("one", 1), asked("one", 2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    asked("two", 1)
    with pytest.raises(InputError, match="run 'one' repeats a question, and this node has gone on with another run"):
        asked("one", 2)


def test_what_fails_while_a_node_is_built_says_no_value() -> None:
    def build(_: Any) -> Any:
        raise ValueError("could not convert string to float: 'diagnosis'")

    message = Message(RunName().to_content(), 1, "query.tasks")
    with pytest.raises(ComponentFailure) as caught:
        client_app(build)(message, Context(0, 1, {}, RecordDict(), {}))
    assert str(caught.value) == "ValueError, while the node was built"


def test_nodes_with_protected_data_answer_no_server_that_spends_no_budget(tmp_path: Path) -> None:
    run, protected = experiment(toy_tasks(7)), replace(toy_tasks(7), declared="protected")
    spent = {"population": "people", "ledger": tmp_path / "people.sqlite"}
    own = experiment(protected, **spent)
    nodes = InProcessGrid([own.node(replace(protected.shard(0, 7), first=0), noise_seed=7)])
    with pytest.raises(
        ComponentFailure, match="node 1 hosts protected data, and the roster of this run declares a ben"
    ):
        served(run, toy_tasks(7).roster).run(on=Remote(nodes))
    served(own, protected.roster).run(on=Remote(nodes))
    assert Ledger(tmp_path / "people.sqlite").counts("people").total() == own.strategy.rounds
