"""A node on a real machine: it answers each round once, counts for all time, and computes what its owner allows."""

from __future__ import annotations

import json
import stat
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from helpers import toy_tasks

from fedpriv.deploy import journal
from fedpriv.deploy import node as deployed_node
from fedpriv.deploy.certificates import make_node_key
from fedpriv.deploy.configuration import CONFIG_KEY, told
from fedpriv.deploy.host import PLACE, NodeHost
from fedpriv.deploy.journal import NodeAccount, RunJournal
from fedpriv.deploy.members import kind_of_data
from fedpriv.deploy.owner import OwnerFile
from fedpriv.deploy.packing import unpack
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy.declaration import Declaration
from fedpriv.protocol import ALL, Reply, Request, RunName
from fedpriv.runtime.flower_private import new_context, set_identity, stamp
from fedpriv.strategies.exchange import REFUSED_CODE

CONFIG = {
    "model": {"name": "linear"},
    "client": {"name": "mean-regularized", "learning_rate": 0.1, "strength": 0.3},
    "run": {"seed": 3},
}
RUN = RunName("clinic", "one")
OWNER = """name = "a"
declared = "protected"
{top}
[server]
address = "127.0.0.1:1"
[data]
name = "digits"
[policy]
{policy}
[allow]
{allow}
"""


def owner(folder: Path, *, policy: str = "", allow: str = "") -> tuple[OwnerFile, Path]:
    file = folder / "node.toml"
    file.write_text(OWNER.format(top="", policy=policy, allow=allow))
    return OwnerFile.read(file), file


def host(folder: Path, **settings: str) -> NodeHost:
    found, file = owner(folder, **settings)
    tasks = toy_tasks(4)
    return NodeHost(found, file, replace(tasks, declared="protected"))


def message(kind: str, content: RecordDict, first: int = 0) -> Message:
    set_identity()
    content[PLACE] = ConfigRecord({"first": first})
    found = Message(content, 1, kind)
    stamp(found, "asked")
    return found


def request(number: int, *, of: RunName = RUN, shift: float = 0.0, **declared: Any) -> RecordDict:
    billboard = {"1.weight": np.full((3, 5), shift, dtype=np.float32), "1.bias": np.zeros(3, dtype=np.float32)}
    said = {"clipping_norm": 1.0, "noise_multiplier": 1.0} | declared
    reply = said.pop("reply", "sum")
    return Request(
        number, {ALL: billboard}, {ALL: np.arange(4)}, reply=reply, declared=Declaration(**said), of=of
    ).to_content()


def ask(node: NodeHost, content: RecordDict, kind: str = "train", config: Any = None, first: int = 0) -> Message:
    given = {CONFIG_KEY: json.dumps(CONFIG)} if config is None else config
    reply = node.answer(message(kind, content, first), new_context(1), given)
    if not reply.has_error():
        reply.content = unpack(reply.content)
    return reply


def sums(reply: Message) -> dict[str, Any]:
    assert not reply.has_error(), reply.error.reason
    return Reply.from_content(reply.content).updates[ALL]


def same(one: Message, two: Message) -> bool:
    left, right = sums(one), sums(two)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def test_a_round_is_answered_the_same_way_again_also_by_a_node_that_was_started_anew(tmp_path: Path) -> None:
    node = host(tmp_path)
    first = ask(node, request(1))
    assert any(np.abs(value).max() > 0 for value in sums(first).values())
    assert same(first, ask(node, request(1)))
    again = host(tmp_path)
    assert same(first, ask(again, request(1)))
    journal = RunJournal(tmp_path / "node.journal", RUN)
    assert journal.exists()
    account = NodeAccount(tmp_path / "node.journal" / "account.json")
    assert [sum(account.counts(name).values()) for name in account.names] == [1] * 4, (
        "answered three times, counted once"
    )
    # The state is that of one round: with another it would have trained twice.
    straight = host(_fresh(tmp_path))
    ask(straight, request(1))
    assert same(ask(again, request(2, shift=0.5)), ask(straight, request(2, shift=0.5)))


def _fresh(folder: Path) -> Path:
    found = folder / "other"
    found.mkdir()
    return found


def test_another_question_for_a_round_that_was_answered_is_refused(tmp_path: Path) -> None:
    node = host(tmp_path)
    ask(node, request(1))
    ask(node, request(2))
    for asked in (request(2, shift=0.1), request(1), request(2, clipping_norm=2.0)):
        reply = ask(node, asked)
        assert reply.error.code == REFUSED_CODE
        assert "has answered round 2 of this run" in reply.error.reason
    again = host(tmp_path)
    assert ask(again, request(1, shift=0.1)).error.code == REFUSED_CODE
    assert not ask(again, request(3)).has_error()
    assert not ask(again, request(1, of=RunName("clinic", "new"))).has_error(), "as the message advises"
    account = NodeAccount(tmp_path / "node.journal" / "account.json")
    assert {sum(account.counts(name).values()) for name in account.names} == {4}


def test_a_run_keeps_its_configuration_and_its_tasks(tmp_path: Path) -> None:
    ask(host(tmp_path), request(1))
    other = {CONFIG_KEY: json.dumps({**CONFIG, "client": {"name": "global-model", "learning_rate": 0.1}})}
    reply = ask(host(tmp_path), request(2), config=other)
    assert "has another configuration than when this node first answered it" in reply.error.reason
    assert not ask(host(tmp_path), request(1, of=RunName("clinic", "new")), config=other).has_error(), "a new run"
    fewer = host(tmp_path)
    fewer._tasks = replace(toy_tasks(3), declared="protected")
    reply = ask(fewer, request(2))
    assert "hosts other tasks than when it answered run 'one'" in reply.error.reason
    assert not ask(host(tmp_path), request(2)).has_error(), "its data are back"


def test_a_policy_of_epsilon_holds_over_runs_populations_and_restarts(tmp_path: Path) -> None:
    limit = "max_epsilon = 1.0\ndelta = 1e-5"  # one answer at noise 5 is 0.77, two are more than 1
    node = host(tmp_path, policy=limit)
    assert np.abs(sums(ask(node, request(1, noise_multiplier=5.0)))["1.weight"]).max() > 0
    others = (request(2, noise_multiplier=5.0), request(1, of=RunName("clinic", "two"), noise_multiplier=5.0))
    foreign = request(1, of=RunName("another", "three"), noise_multiplier=5.0)
    for asked, who in [(others[0], node), (others[1], node), (foreign, host(tmp_path, policy=limit))]:
        reply = ask(who, asked)
        assert all(not value.any() for value in sums(reply).values()), "a task that has spent its epsilon sends zeros"
        assert "'max_epsilon'" in Reply.from_content(reply.content).note
    looser = host(tmp_path, policy="max_epsilon = 2.0\ndelta = 1e-5")
    fresh = request(2, of=RunName("another", "three"), noise_multiplier=5.0)
    assert np.abs(sums(ask(looser, fresh))["1.weight"]).max() > 0


def test_the_account_is_written_before_the_reply_leaves_and_before_the_journal(
    tmp_path: Path, monkeypatch: Any
) -> None:
    node = host(tmp_path)

    def full(*_: Any) -> None:
        raise ComponentFailure("the disk is full")

    monkeypatch.setattr(RunJournal, "write", full)
    reply = ask(node, request(1))
    assert reply.has_error()
    assert "the disk is full" in reply.error.reason
    account = NodeAccount(tmp_path / "node.journal" / "account.json")
    assert {sum(account.counts(name).values()) for name in account.names} == {1}, "over-counted, never under-counted"
    monkeypatch.undo()
    monkeypatch.setattr(NodeAccount, "take", full)
    assert ask(node, request(2)).has_error()
    assert not RunJournal(tmp_path / "node.journal", RUN).exists(), "no journal without an account"


def test_an_answer_that_the_disk_refused_to_count_counts_for_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = host(tmp_path)
    ask(node, request(1))

    def full(*_: Any, **__: Any) -> None:
        raise ComponentFailure("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_bytes", full)
        for _ in range(3):
            assert "the disk is full" in ask(node, request(2)).error.reason
    assert not ask(node, request(2)).has_error()
    account = NodeAccount(tmp_path / "node.journal" / "account.json")
    assert {sum(account.counts(name).values()) for name in account.names} == {2}


def test_a_worker_that_never_loads_its_data_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host(tmp_path)
    make_node_key(tmp_path / "a.key")
    monkeypatch.setattr(deployed_node.sys, "executable", "/bin/false")
    monkeypatch.setattr(deployed_node, "_AGAIN_SECONDS", 0.0)
    with pytest.raises(ComponentFailure, match="ended 5 times before it had loaded the data"):
        deployed_node.serve_node(tmp_path / "node.toml", stop=threading.Event())


def test_what_a_node_keeps_is_for_its_owner_alone_and_names_no_number(tmp_path: Path) -> None:
    ask(host(tmp_path), request(1))
    ask(host(tmp_path), request(2))
    found = sorted((tmp_path / "node.journal").iterdir())
    assert [path.suffix for path in found if path.name.startswith("run-")] == [".npz", ".npz"]
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_damaged_journal_stops_the_node_and_is_not_begun_anew(tmp_path: Path) -> None:
    ask(host(tmp_path), request(1))
    journal = RunJournal(tmp_path / "node.journal", RUN)
    journal.path.write_bytes(journal.path.read_bytes()[:-40])
    reply = ask(host(tmp_path), request(1))
    assert "cannot be read" in reply.error.reason
    assert "restore it from a copy" in reply.error.reason
    (tmp_path / "node.journal" / "account.json").write_text("{")
    with pytest.raises(ComponentFailure, match=r"account\.json is damaged"):
        host(tmp_path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": {"name": "evil:Net"}}, "does not allow the model 'evil:Net'"),
        ({"client": {"name": "evil:Client"}}, "does not allow the client 'evil:Client'"),
        ({"model": {"name": "linear", "file": "/etc/passwd"}}, "path of a file"),
        ({"model": {}}, "names no model"),
        ({"model": {"name": ["linear"]}}, "names no model"),
        ({"run": {"ledger": "/tmp/x"}}, "holds what no node is told"),
        ({"run": {"seed": "x"}}, "cannot do what the run asks"),
        ({"model": {"name": "linear", "wrong": 1}}, "cannot do what the run asks"),
        ({"data": {"file": "/etc/passwd"}}, "says nothing of its model"),
        ({"code": {"path": ["/tmp"]}}, "says nothing of its model"),
    ],
)
def test_a_configuration_that_names_foreign_code_or_paths_is_refused_and_nothing_is_imported(
    tmp_path: Path, changes: dict[str, Any], why: str, monkeypatch: Any
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    reply = ask(host(tmp_path), request(1), config={CONFIG_KEY: json.dumps({**CONFIG, **changes})})
    assert reply.error.code == REFUSED_CODE
    assert why in reply.error.reason
    assert "evil" not in sys.modules
    assert not (tmp_path / "node.journal" / "account.json").exists()


@pytest.mark.parametrize("config", [{}, {CONFIG_KEY: ""}, {CONFIG_KEY: "[1]"}, {CONFIG_KEY: 3}, {CONFIG_KEY: "{"}])
def test_a_run_that_was_not_started_by_us_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    reply = ask(host(tmp_path), request(1), config=config)
    assert reply.error.code == REFUSED_CODE
    assert "fedpriv deploy run" in reply.error.reason


@pytest.mark.parametrize("kind", ["train", "evaluate", "query.tasks", "train.finish"])
def test_a_message_of_somebody_else_is_refused(tmp_path: Path, kind: str) -> None:
    for content in (RecordDict(), RecordDict({"request": ConfigRecord({"round": "x"})})):
        reply = ask(host(tmp_path), content, kind)
        assert reply.has_error()
        assert "Traceback" not in reply.error.reason


def test_single_updates_leave_only_where_the_owner_says_so(tmp_path: Path) -> None:
    asked = request(1, reply="rows")
    reply = ask(host(tmp_path), asked)
    assert reply.error.code == REFUSED_CODE
    assert "allow.rows" in reply.error.reason
    assert sums(ask(host(tmp_path, allow="rows = true"), asked))["1.weight"].shape == (4, 3, 5)
    noisy = request(2, reply="rows", noise_at="node")
    assert sums(ask(host(tmp_path), noisy))["1.weight"].shape == (4, 3, 5), "noise of the node protects the row"


def test_data_of_another_kind_than_the_population_s_are_a_refusal(tmp_path: Path) -> None:
    node = host(tmp_path)
    mine = kind_of_data(node.tasks.roster)

    def asked(kind: str) -> Message:
        found = message("train", request(1))
        found.content[PLACE] = ConfigRecord({"first": 0, "kind": kind})
        return node.answer(found, new_context(1), {CONFIG_KEY: json.dumps(CONFIG)})

    reply = asked(mine.replace("input_shape [5]", "input_shape [6]"))
    assert reply.error.code == REFUSED_CODE
    assert "input_shape [5]" in reply.error.reason
    assert "input_shape [6]" in reply.error.reason
    assert not asked(mine).has_error(), "with the right data, as it advises"


def test_only_listed_models_and_populations_where_the_owner_lists_them(tmp_path: Path) -> None:
    reply = ask(host(tmp_path, allow='models = ["mlp"]'), request(1))
    assert "does not allow the model 'linear'" in reply.error.reason
    reply = ask(host(tmp_path, allow='populations = ["school"]'), request(1))
    assert "does not take part in runs of population 'clinic'" in reply.error.reason
    assert not ask(host(tmp_path, allow='populations = ["clinic"]'), request(1)).has_error()


def test_code_of_the_owner_is_found_where_the_owner_says(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ownnet_of_a_node.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, inputs, outputs):\n"
        "        super().__init__()\n        self.layer = nn.Linear(inputs, outputs)\n\n"
        "    def forward(self, x):\n        return self.layer(x)\n"
    )
    allow = 'models = ["ownnet_of_a_node:Net"]\ncode = ["mine"]'
    config = {CONFIG_KEY: json.dumps({**CONFIG, "model": {"name": "ownnet_of_a_node:Net", "inputs": 5, "outputs": 3}})}
    billboard = {"layer.weight": np.zeros((3, 5), dtype=np.float32), "layer.bias": np.zeros(3, dtype=np.float32)}
    content = Request(
        1, {ALL: billboard}, {ALL: np.arange(4)}, declared=Declaration(noise_multiplier=1.0), of=RUN
    ).to_content()
    assert sums(ask(host(tmp_path, allow=allow), content, config=config))["layer.weight"].any()


def test_tasks_keep_their_account_when_their_place_in_the_population_moves(tmp_path: Path) -> None:
    node = host(tmp_path, policy="max_participations = 1")
    ask(node, request(1))
    moved = Request(
        1,
        {ALL: {"1.weight": np.zeros((3, 5), np.float32), "1.bias": np.zeros(3, np.float32)}},
        {ALL: np.arange(10, 14)},
        declared=Declaration(noise_multiplier=1.0),
        of=RunName("clinic", "two"),
    ).to_content()
    reply = ask(node, moved, first=10)
    assert "'max_participations'" in Reply.from_content(reply.content).note
    assert all(not value.any() for value in sums(reply).values())


def test_scores_stay_on_the_node_unless_its_policy_says_otherwise(tmp_path: Path) -> None:
    reply = ask(host(tmp_path), request(0), "evaluate")
    assert Reply.from_content(reply.content).diagnostics["ids"] == []
    shown = ask(host(tmp_path, policy="diagnostics = true"), request(0), "evaluate")
    assert len(Reply.from_content(shown.content).diagnostics["ids"]) == 4


def test_the_server_tells_its_nodes_no_path_and_no_data() -> None:
    config: dict[str, dict[str, Any]] = {
        "data": {"file": "/home/me/people.csv"},
        "model": {"name": "mlp"},
        "client": {"name": "global-model"},
        "strategy": {"rounds": 3},
        "run": {"ledger": "/home/me/ledger.sqlite", "seed": 4, "population": "x"},
        "code": {"path": ["/home/me"]},
    }
    assert "/home/me" not in told(config)
    assert json.loads(told(config)) == {
        "model": {"name": "mlp"},
        "client": {"name": "global-model"},
        "run": {"seed": 4},
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name = 3", "'name'"),
        (OWNER.format(top="more = 1", policy="", allow=""), "more"),
        (OWNER.format(top="", policy="max_epsilonn = 1", allow=""), "max_epsilonn"),
        (OWNER.format(top="", policy="", allow="rows = 3"), "rows"),
        ("name = ", "not valid TOML"),
        ('name = "a b"\ndeclared = "protected"\n[server]\naddress = "x:1"\n[data]\nname="digits"', "'name'"),
        ('name = "a"\ndeclared = "protected"\n[server]\naddress = "https://x"\n[data]\nname="digits"', "'address'"),
    ],
)
def test_an_owner_s_file_that_is_wrong_is_a_sentence(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(InputError, match=why):
        OwnerFile.read(tmp_path / "node.toml")
    with pytest.raises(InputError, match="cannot be read"):
        OwnerFile.read(tmp_path / "none.toml")
