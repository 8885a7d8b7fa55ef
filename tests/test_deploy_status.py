"""What a deployment says of itself, and what it refuses before any work: nobody is there, or somebody is at work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from helpers import toy_tasks
from test_deploy_members import asks
from test_deploy_node import RUN, ask, host, request

from fedpriv import Experiment
from fedpriv.clients import GlobalModel
from fedpriv.config import build_experiment
from fedpriv.deploy import grid as deployed_grid
from fedpriv.deploy import status
from fedpriv.deploy.certificates import key_pem, make_node_key, read_key
from fedpriv.deploy.grid import DeployedGrid
from fedpriv.deploy.layout import ServerFolder, ServerSettings, make_server_folder
from fedpriv.deploy.members import Members
from fedpriv.deploy.news import RunNews
from fedpriv.deploy.packing import unpack
from fedpriv.deploy.processes import free_port
from fedpriv.deploy.server import between_runs, deployed_experiment, run_deployed
from fedpriv.deploy.status import node_status
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy import Release, guarantee_for
from fedpriv.privacy.guarantee import UNWATCHED, WATCHED
from fedpriv.privacy.sampling import FIXED_SIZE, UNAMPLIFIED
from fedpriv.runtime.flower_private import NodeInfo, set_identity, stamp
from fedpriv.runtime.grid import InProcessGrid, RemoteGrid
from fedpriv.strategies import Billboard
from fedpriv.strategies.exchange import REFUSED_CODE

PLAN: dict[str, dict[str, Any]] = {
    "data": {},
    "model": {"name": "linear"},
    "client": {"name": "global-model", "learning_rate": 0.1, "epochs": 1},
    "strategy": {
        "name": "billboard",
        "rounds": 4,
        "sampling": "fixed-size",
        "sampling_rate": 0.1,
        "noise_multiplier": 2.0,
        "clipping_norm": 1.0,
    },
    "run": {"population": "people", "report": False},
}


@pytest.fixture
def lab(tmp_path: Path) -> ServerFolder:
    """A deployment that nothing serves, with two members."""
    key = make_node_key(tmp_path / "a.key")
    names = tuple(f"p{number}" for number in range(200))
    members = Members().approved(asks("a", key, names[:120]), "lab")
    members = members.approved(asks("b", make_node_key(tmp_path / "b.key"), names[120:]), "lab")
    settings = ServerSettings(hosts=("localhost",), port=free_port(), inner_port=free_port())
    return make_server_folder(tmp_path / "lab", settings, PLAN, members)


def test_a_node_says_what_its_tasks_granted_and_what_that_costs(tmp_path: Path, fedpriv: Any) -> None:
    host(tmp_path)
    code, said, _ = fedpriv("deploy", "status", "node.toml")
    assert code == 0
    assert "no task has granted anything" in said
    node = host(tmp_path, policy="max_epsilon = 3.0\ndelta = 1e-5")
    for number in (1, 2):
        assert not ask(node, request(number, noise_multiplier=5.0)).has_error()
    assert ask(node, request(2, shift=0.5, noise_multiplier=5.0)).error.code == REFUSED_CODE
    ask(node, request(3, noise_multiplier=5.0))  # the journal is written with an answer
    found = node_status(tmp_path / "node.toml")
    assert found["runs"] == [{"population": RUN.population, "run": RUN.run, "rounds": 3, "refused": 1}]
    release = Release(sampling_name="full", rate=1.0, noise_multiplier=5.0, clipping_norm=1.0)
    expected = guarantee_for({release: 3}, delta=1e-5, num_tasks=4).epsilon
    assert [task["granted"] for task in found["tasks"]] == [3] * 4
    assert [task["epsilon"] for task in found["tasks"]] == pytest.approx([expected] * 4)
    _, words, _ = fedpriv("deploy", "status", "node.toml")
    assert f"the most is 3 releases, epsilon {expected:.4g}" in words.replace("\n", " ")
    assert "max_epsilon is 3" in words
    assert "1 other questions for rounds it had answered refused" in words


class Nodes(Grid):
    """Flower's grid, whose nodes answer what they are told to."""

    def __init__(self, nodes: dict[int, bytes], answers: Callable[[int, int], Any]) -> None:
        self.nodes, self.answers, self.sent = nodes, answers, dict[str, Message]()
        self.since = dict.fromkeys(nodes, "noon")

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *words: Any, **more: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def get_nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node_id=one, public_key=key, status="online", last_activated_at=self.since[one])
            for one, key in self.nodes.items()
        ]

    def push_messages(self, messages: Any) -> list[str]:
        ids = []
        for message in messages:
            ids.append(f"m{len(self.sent)}")
            stamp(message, ids[-1])
            self.sent[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Any) -> list[Message]:
        found = []
        for one in message_ids:
            node = self.sent[one].metadata.dst_node_id
            asked = [key for key, message in self.sent.items() if message.metadata.dst_node_id == node]
            answer = self.answers(node, asked.index(one))
            if answer is not None:
                found.append(Message(answer, reply_to=self.sent[one]))
        return found

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        raise NotImplementedError


def test_the_server_keeps_what_each_node_said_last_and_its_last_trouble(lab: ServerFolder, tmp_path: Path) -> None:
    set_identity()
    lines = {name: make_node_key(tmp_path / f"{name}.secret") for name in ("fine", "spent", "no", "gone", "late")}
    members = {key_pem(read_key(line)): asks(name, line, ("x",)) for name, line in lines.items()}
    answers = {
        1: RecordDict({"note": ConfigRecord({})}),
        2: RecordDict({"note": ConfigRecord({"text": "this node spends at most epsilon 1"})}),
        3: Error(code=REFUSED_CODE, reason="the owner does not allow it"),
        4: Error(code=5, reason="nobody there"),
    }
    news = RunNews(lab)
    news.begins(tmp_path / "run")
    nodes = dict(enumerate(members, start=1))
    whom = {key: Members().approved(one, "lab").nodes[0] for key, one in members.items()}
    grid = DeployedGrid(Nodes(nodes, lambda node, _: answers.get(node)), whom, heard=news.heard)
    assert isinstance(grid, RemoteGrid)
    grid.get_nodes()

    def question(kind: str, number: int) -> list[Message]:
        return [Message(RecordDict(), node, kind, group_id=str(number)) for node in nodes]

    grid.send_and_receive(question("train", 7), timeout=0.0)
    found = RunNews(lab).read()["nodes"]
    assert {name: found[name]["last"]["what"] for name in lines} == {
        "fine": "answered",
        "spent": "answered",
        "no": "refused",
        "gone": "absent",
        "late": "failed",
    }
    assert "trouble" not in found["fine"]
    assert found["spent"]["trouble"]["reason"] == "this node spends at most epsilon 1"
    assert found["no"]["trouble"] == {"what": "refused", "stage": "train 7", "reason": "the owner does not allow it"}
    answers[3] = RecordDict()
    grid.send_and_receive(question("train", 8), timeout=0.0)
    found = RunNews(lab).read()["nodes"]
    assert found["no"]["last"]["what"] == "answered"
    assert found["no"]["trouble"]["stage"] == "train 7", "its last trouble stays to be read"
    (lab.path / "state" / "news.json").write_text("{")
    with pytest.raises(ComponentFailure, match=r"news\.json is damaged"):
        RunNews(lab).read()


def test_a_message_that_the_server_lost_is_sent_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SuperLink that is killed while a node takes its message has handed it out, and the node never went away."""
    set_identity()
    monkeypatch.setattr(deployed_grid, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(deployed_grid, "_PATIENCE_SECONDS", 1e-9)
    line = make_node_key(tmp_path / "a.key")
    key = key_pem(read_key(line))
    nodes = Nodes({1: key}, lambda _, number: RecordDict() if number else None)
    grid = DeployedGrid(nodes, {key: Members().approved(asks("a", line, ("x",)), "lab").nodes[0]})
    grid.get_nodes()
    (reply,) = grid.send_and_receive([Message(RecordDict(), 1, "train", group_id="4")], timeout=60.0)
    assert not reply.has_error()
    assert reply.metadata.reply_to_message_id == "m1"


@pytest.mark.parametrize("first", [None, Error(code=5, reason="nobody there")])
def test_a_node_that_comes_back_is_asked_again_for_what_it_may_have_lost(
    first: Error | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower knows that a message is lost only if it is asked for while the node is away."""
    set_identity()
    monkeypatch.setattr(deployed_grid, "_LOOK_SECONDS", 0.0)
    line = make_node_key(tmp_path / "a.key")
    key = key_pem(read_key(line))
    rounds = 0

    def answers(_: int, number: int) -> Any:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            nodes.since[1] = "one"  # it was killed, and is back
        if number == 0:
            return first if rounds > 3 else None
        return RecordDict() if rounds > 6 else None

    nodes = Nodes({1: key}, answers)
    grid = DeployedGrid(nodes, {key: Members().approved(asks("a", line, ("x",)), "lab").nodes[0]})
    grid.get_nodes()
    question = Message(RecordDict({"x": ConfigRecord({"a": 1})}), 1, "train", group_id="4")
    (reply,) = grid.send_and_receive([question], timeout=60.0)
    assert not reply.has_error()
    assert len(nodes.sent) == 2, "once for the start, not at every look"
    assert reply.metadata.reply_to_message_id == question.metadata.message_id == "m1"
    assert unpack(nodes.sent["m0"].content)["x"] == unpack(nodes.sent["m1"].content)["x"], "the same question"


def test_a_run_that_nobody_serves_ends_before_any_work(lab: ServerFolder, tmp_path: Path, fedpriv: Any) -> None:
    with pytest.raises(ComponentFailure, match="start `fedpriv deploy serve"):
        run_deployed(lab, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not lab.ledger.exists()
    code, _, said = fedpriv("deploy", "status", str(lab.path))
    assert code == ComponentFailure.exit_code
    assert "start `fedpriv deploy serve" in said
    with pytest.raises(InputError, match="no node is a member yet"):
        deployed_experiment(Members(), PLAN, lab.ledger)


def test_members_do_not_change_during_a_run(lab: ServerFolder, tmp_path: Path, fedpriv: Any) -> None:
    before = lab.members_path.read_bytes()
    request_ = asks("c", make_node_key(tmp_path / "c.key"), ("zoe",))
    request_.write(tmp_path / "c.request.json")
    approve = ["deploy", "approve", str(lab.path), str(tmp_path / "c.request.json")]
    with between_runs(lab):
        for words in (approve, ["deploy", "remove-node", str(lab.path), "a"]):
            code, _, said = fedpriv(*words)
            assert code == ComponentFailure.exit_code
            assert "is at work" in said
            assert lab.members_path.read_bytes() == before
        with pytest.raises(ComponentFailure, match="another `fedpriv deploy run` is at work"):
            run_deployed(lab, tmp_path / "second")
    assert fedpriv(*approve)[0] == 0
    assert json.loads(lab.members_path.read_text())["version"] == 3


def test_cohorts_of_fixed_size_are_never_amplified_on_real_machines(lab: ServerFolder) -> None:
    """The server does not know its nodes' policies, so what a task sends may depend on the rounds before."""
    roster = lab.members().roster
    simulated = build_experiment({**PLAN, "run": {**PLAN["run"], "ledger": str(lab.ledger)}}, roster=roster)
    deployed = deployed_experiment(lab.members(), {**PLAN, "run": dict(PLAN["run"])}, lab.ledger)

    def sampling(experiment: Experiment) -> str:
        return experiment.strategy.resolve(len(experiment.roster)).sampling.name

    assert isinstance(deployed.client, GlobalModel)
    assert isinstance(deployed.strategy, Billboard)
    assert (sampling(simulated), sampling(deployed)) == (FIXED_SIZE, UNAMPLIFIED)


def test_an_amplified_guarantee_does_not_hold_against_who_watches_the_network() -> None:
    poisson = Release(sampling_name="poisson", rate=0.1, noise_multiplier=1.0, clipping_norm=1.0)
    full = Release(sampling_name="full", rate=1.0, noise_multiplier=5.0, clipping_norm=1.0)
    drawn = guarantee_for({poisson: 10}, delta=1e-5, num_tasks=100)
    told = drawn.with_network()
    assert WATCHED in str(told)
    assert UNWATCHED in told.assumptions
    assert told.epsilon == drawn.epsilon
    assert "Not against" not in str(drawn)
    everybody = guarantee_for({full: 10}, delta=1e-5, num_tasks=100)
    assert everybody.with_network() == everybody, "nothing is owed to the draw"


@pytest.mark.parametrize(("rate", "said"), [(0.3, True), (1.0, False)])
def test_what_was_spent_is_said_with_whom_it_does_not_hold_against(
    lab: ServerFolder, rate: float, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedpriv: Any
) -> None:
    strategy = Billboard(rounds=2, sampling_rate=rate, noise_multiplier=4.0, clipping_norm=1.0, delta=1e-4)
    people = replace(toy_tasks(8), declared="protected")
    Experiment(
        tasks=people, model="linear", client=GlobalModel(learning_rate=0.1), strategy=strategy, ledger=lab.ledger,
        population="people", report=False, grid="in-process",
    ).run(tmp_path / "run")  # fmt: skip
    monkeypatch.setattr(status, "seen_nodes", lambda *_: {"a": "online", "b": "offline"})
    code, words, _ = fedpriv("deploy", "status", str(lab.path))
    assert code == 0
    assert "population 'people' has spent epsilon" in words
    assert (WATCHED in words.replace("\n", " ")) is said


class OverANetwork(InProcessGrid, RemoteGrid):
    """Nodes in this process that count as real machines."""


@pytest.mark.parametrize(("rate", "said"), [(0.3, True), (1.0, False)])
def test_a_run_on_real_machines_says_whom_its_draw_does_not_protect_against(
    rate: float, said: bool, tmp_path: Path
) -> None:
    strategy = Billboard(rounds=2, sampling_rate=rate, noise_multiplier=4.0, clipping_norm=1.0, delta=1e-4)
    experiment = Experiment(
        tasks=toy_tasks(8), model="linear", client=GlobalModel(learning_rate=0.1), strategy=strategy, baseline=False
    )
    far = experiment.run(tmp_path / "far", on=OverANetwork(experiment.specs(experiment.problem(), 2)))
    near = experiment.run(tmp_path / "near", on=InProcessGrid(experiment.specs(experiment.problem(), 2)))
    assert (WATCHED in str(far.guarantee)) is said
    assert WATCHED not in str(near.guarantee)
    assert far.guarantee.epsilon == near.guarantee.epsilon
