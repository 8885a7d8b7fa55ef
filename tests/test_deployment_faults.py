"""Real processes under attack: a policy, nodes that lie, strangers, foreign code. Others go on, and it is said why."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from deployed import Deployment, deployment, fedpriv, until
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node

from fedpriv.deploy.certificates import make_node_key
from fedpriv.deploy.journal import NodeAccount
from fedpriv.deploy.processes import environment, tool
from fedpriv.protocol import ALL
from fedpriv.runs.checkpoint import CheckpointStore

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(1800)]

PLAN = """
[data]
[model]
name = "linear"
[client]
name = "theirs:Theirs"
learning_rate = 0.2
epochs = 1
[code]
path = ["code"]
[strategy]
name = "billboard"
rounds = 2
clipping_norm = 0.5
noise_multiplier = 5.0
sampling_rate = 1.0
delta = 1e-3
[run]
declared = "protected"
population = "patients"
report = false
baseline = false
"""
CLIENT = """
from fedpriv.clients import MeanRegularized

class Theirs(MeanRegularized):
    pass
"""
LIAR = (
    CLIENT
    + """
import os
from pathlib import Path
import numpy as np
from fedpriv.arrays import arrays_from, record_of
from fedpriv.protocol import Reply

honest = Reply.to_content

def lie(self):
    content = honest(self)
    names = [name for name in content if name.startswith("update/")]
    lies = Path(__file__).with_name("lies")
    how, _, rest = lies.read_text().partition(" ")
    if names:
        lies.write_text(rest)
    for name in names:
        sent = arrays_from(content[name])
        if how == "nan":
            sent = {key: np.full_like(value, np.nan) for key, value in sent.items()}
        elif how == "huge":
            sent = {key: np.full_like(value, 1e30) for key, value in sent.items()}
        elif how == "shape":
            sent = {key: np.zeros(3) for key in sent}
        elif how == "nothing":
            sent = {}
        content[name] = record_of(sent)
    return content

Reply.to_content = lie
"""
)
NODES = ("good", "strict", "liar")
PEOPLE = 10


def write_table(path: Path, name: str) -> None:
    chance = random.Random(name)
    lines = ["person,dose,age,better"]
    for number in range(PEOPLE):
        helps = chance.gauss(5.0, 1.5)
        for _ in range(8):
            dose, age = chance.uniform(0, 10), chance.randint(18, 80)
            lines.append(f"{name}{number},{dose:.2f},{age},{'yes' if dose > helps else 'no'}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server and three nodes: one that everything is fine with, one with a strict policy, and one that lies."""
    root = tmp_path_factory.mktemp("faults")
    (root / "code").mkdir()
    (root / "code" / "theirs.py").write_text(CLIENT)
    (root / "plan.toml").write_text(PLAN.replace('["code"]', f'["{root / "code"}"]'))
    with deployment(root) as made:
        made.make(root / "plan.toml", {})
        for name in NODES:
            write_table(root / f"{name}.csv", name)
            data = {
                "file": str(root / f"{name}.csv"),
                "task": "person",
                "target": "better",
                "classes": ["no", "yes"],
                "features": {"dose": [0, 10], "age": [0, 120]},
            }
            policy = {"max_epsilon": 1.0, "delta": 1e-5} if name == "strict" else {}
            allow = {"code": ["code"], "clients": ["theirs:Theirs"]}
            folder = made.add(name, data, declared="protected", policy=policy, allow=allow)
            (folder / "code").mkdir()
            (folder / "code" / "theirs.py").write_text(LIAR if name == "liar" else CLIENT)
            (folder / "code" / "lies").write_text("")
        made.start_server()
        for name in NODES:
            made.start_node(name)
        made.wait_online(*NODES)
        yield made


def granted(lab: Deployment, name: str) -> set[int]:
    """Return how often each of a node's tasks granted something, by the node's own account."""
    account = NodeAccount(lab.nodes[name] / "node.journal" / "account.json")
    return {sum(account.counts(task).values()) for task in account.names}


def status(lab: Deployment) -> dict[str, Any]:
    found = json.loads(fedpriv("deploy", "status", lab.server, "--json", cwd=lab.root))
    return {row["node"]: row for row in found["nodes"]} | {"all": found}


def run(lab: Deployment, out: str, *words: str) -> str:
    return fedpriv("deploy", "run", lab.server, "--out", out, *words, cwd=lab.root)


def billboard(lab: Deployment, out: str) -> np.ndarray[Any, Any]:
    arrays = CheckpointStore(lab.root / out / "checkpoints").load(2).billboards[ALL]
    return np.concatenate([value.ravel() for value in arrays.values()])


def test_a_policy_holds_over_runs_populations_ledgers_and_restarts(lab: Deployment) -> None:
    """At noise 5 one answer is epsilon 0.77 at delta 1e-5, two are more than 1."""
    run(lab, "first")
    assert (granted(lab, "strict"), granted(lab, "good")) == ({1}, {2})
    trouble = status(lab)["strict"]["trouble"]
    assert "spends at most epsilon 1 ('max_epsilon')" in trouble
    assert status(lab)["good"]["trouble"] == ""
    lab.running["strict"].stop()
    lab.start_node("strict")
    lab.wait_online("strict")
    run(lab, "second")
    other = ("run.population=another", f"run.ledger={lab.root / 'another.sqlite'}")
    run(lab, "third", *(word for one in other for word in ("--set", one)))
    assert (granted(lab, "strict"), granted(lab, "good")) == ({1}, {6})
    said = json.loads(fedpriv("deploy", "status", lab.nodes["strict"] / "node.toml", "--json", cwd=lab.root))
    assert {one["granted"] for one in said["tasks"]} == {1}
    assert all(0.7 < one["epsilon"] <= 1.0 for one in said["tasks"])
    assert {one["population"] for one in said["runs"]} == {"patients", "another"}
    (spent,) = status(lab)["all"]["spent"]
    assert (spent["population"], status(lab)["all"]["run"]["finished"]) == ("patients", True)
    assert spent["spent"]["add/remove"] > 0


def test_a_node_that_lies_moves_a_billboard_by_no_more_than_its_people_could(lab: Deployment) -> None:
    found = {}
    for lies in ("nan shape", "nothing nan", "nan huge", "nan honest"):
        (lab.nodes["liar"] / "code" / "lies").write_text(lies)
        out = f"lie-{lies.replace(' ', '-')}"
        run(lab, out, "--set", "strategy.noise_multiplier=1e-4")  # much less than what is looked for
        found[lies] = billboard(lab, out)
        assert np.isfinite(found[lies]).all()
        told = json.loads((lab.root / out / "private" / "tasks.json").read_text())["counted_as_zero"]
        assert told.get("rejected", 0) == 2 - ("huge" in lies) - ("honest" in lies)
    zero, noise = found["nan shape"], 1e-4
    np.testing.assert_allclose(found["nothing nan"], zero, atol=noise, err_msg="what cannot be used counts as zero")
    most = PEOPLE * 0.5 / (len(NODES) * PEOPLE)  # each person's clipping norm, over everybody
    assert np.linalg.norm(found["nan huge"] - zero) == pytest.approx(most, abs=noise)
    assert 0.01 < np.linalg.norm(found["nan honest"] - zero) < most + noise


def ask(lab: Deployment, port: int, path: str, body: bytes, headers: dict[str, str]) -> int:
    """Send a request as whoever has the authority's certificate can."""
    context = ssl.create_default_context(cafile=str(lab.server / "pki" / "ca.crt"))
    kind = {"content-type": "application/protobuf", "accept": "application/protobuf"}
    with httpx.Client(verify=context) as client:
        answer = client.post(f"https://127.0.0.1:{port}{path}", content=body, headers={**kind, **headers})
    return int(answer.status_code)


def test_strangers_and_replays_reach_neither_a_question_nor_a_run(lab: Deployment) -> None:
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.date import now
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

    known = json.loads((lab.server / "state" / "registered.json").read_text())
    line = (lab.nodes["good"] / "good.key.pub").read_text().strip()
    node = Node(node_id=int(next(number for key, number in known.items() if line.startswith(key))))
    body = PullMessagesRequest(node=node).SerializeToString()

    def signed(key_file: Path) -> dict[str, str]:
        key, stamp = load_ssh_private_key(key_file.read_bytes(), None), now().isoformat()
        return {
            FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public_key_to_bytes(key.public_key())).decode(),
            TIMESTAMP_HEADER: stamp,
            FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(key, stamp.encode())).decode(),
        }

    pull = "/v1/fleet/pull-messages"
    own = signed(lab.nodes["good"] / "good.key")
    assert ask(lab, lab.port, pull, body, own) == 200, "else the refusals below say nothing"
    assert ask(lab, lab.port, pull, body, own) == 401
    assert "its signature was used before" in (lab.server / "logs" / "front.log").read_text()
    make_node_key(lab.root / "stranger.key")
    for headers in ({}, signed(lab.root / "stranger.key"), {**signed(lab.nodes["strict"] / "strict.key")}):
        assert ask(lab, lab.port, pull, body, headers) == 401, "no key, an unknown one, another member's"
    for path in ("/v1/control/list-nodes", "/v1/runtime/acquire-task", "/v1/fleet/../control/list-nodes"):
        assert ask(lab, lab.port, path, b"", {}) == 404
    assert ask(lab, lab.port, pull, b"x" * (65 * 2**20), {}) == 413
    # Who is on the server's own machine reaches the SuperLink itself, and is handed no run.
    assert ask(lab, lab.inner, "/v1/runtime/acquire-task", b"", {}) in {400, 401, 403}
    before = granted(lab, "good")
    assert status(lab)["good"]["state"] == "online"
    assert granted(lab, "good") == before


FOREIGN_CLIENT = """
from pathlib import Path
Path({proof!r}).write_text("the bundle's code ran")
from flwr.clientapp import ClientApp
app = ClientApp()
"""
FOREIGN_SERVER = """
import json, time
from pathlib import Path
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    asked = [Message(RecordDict({{"config": ConfigRecord({{"a": 1}})}}), node, "train") for node in nodes]
    said = grid.send_and_receive(asked, timeout=120)
    Path({said!r}).write_text(json.dumps([one.error.reason if one.has_error() else "answered" for one in said]))
"""
BUNDLE = """
[project]
name = "foreign"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "foreign"
[tool.flwr.app.components]
serverapp = "foreign.server:app"
clientapp = "foreign.client:app"
"""


def test_a_server_that_ships_code_is_refused_and_its_code_never_runs(lab: Deployment) -> None:
    """Whoever holds the server may start other runs; nodes open no bundle, and answer questions of fedpriv only."""
    app = lab.root / "app"
    (app / "foreign").mkdir(parents=True)
    proof, said = lab.root / "proof", lab.root / "said.json"
    (app / "pyproject.toml").write_text(BUNDLE)
    (app / "foreign" / "__init__.py").write_text("")
    (app / "foreign" / "client.py").write_text(FOREIGN_CLIENT.format(proof=str(proof)))
    (app / "foreign" / "server.py").write_text(FOREIGN_SERVER.format(said=str(said)))
    env = environment(lab.server / "state" / "flower")
    before = {name: granted(lab, name) for name in NODES}
    superexec = [
        tool("flower-superexec"),
        *("--runtime-api-address", f"127.0.0.1:{lab.inner}", "--root-certificates", str(lab.server / "pki" / "ca.crt")),
        *("--superexec-auth-secret-file", str(lab.server / "pki" / "runs.secret")),
    ]
    with (
        (lab.root / "superexec.log").open("ab") as log,
        subprocess.Popen(superexec, env=env, stdout=log, stderr=log, start_new_session=True) as executor,
    ):
        try:
            started = [tool("flwr"), "run", str(app), "deployment"]
            subprocess.run(started, env=env, check=True, capture_output=True)
            until("the foreign server has its answers", said.exists, alive=lambda: None)
        finally:
            os.killpg(executor.pid, 9)
    reasons = json.loads(said.read_text())
    assert len(reasons) == len(NODES)
    assert all("is no question of fedpriv's server" in reason for reason in reasons), reasons
    assert not proof.exists()
    assert {name: granted(lab, name) for name in NODES} == before
    assert "is no question of fedpriv's server" in lab.running["good"].said(), "the node's owner can read it, too"


WRONG_CLOCK = """
import os, time
shift, right = float(os.environ["WRONG_BY"]), time.time
time.time = lambda: right() + shift
from datetime import timedelta
import flwr.supercore.date as date
now = date.now
date.now = lambda: now() + timedelta(seconds=shift)
"""


def test_code_that_no_owner_allows_is_refused_by_every_node(lab: Deployment) -> None:
    (lab.root / "code" / "theirs.py").write_text(CLIENT + "\n\nclass Other(Theirs):\n    pass\n")
    before = granted(lab, "good")
    fedpriv(
        *("deploy", "run", lab.server, "--out", "foreign", "--set", "client.name=theirs:Other"), cwd=lab.root, code=None
    )
    (lab.root / "code" / "theirs.py").write_text(CLIENT)
    for name in NODES:
        assert "does not allow the client 'theirs:Other'" in status(lab)[name]["trouble"]
        assert "does not allow the client 'theirs:Other'" in lab.running[name].said()
    assert granted(lab, "good") == before


def test_data_of_another_kind_are_refused_and_others_go_on(lab: Deployment) -> None:
    file = lab.nodes["strict"] / "node.toml"
    text = file.read_text()
    fewer = re.sub(r"^age = \[[^]]*\]\n", "", text, flags=re.MULTILINE)
    assert fewer != text
    lab.running["strict"].stop()
    file.write_text(fewer)
    lab.start_node("strict")
    lab.wait_online("strict")
    run(lab, "kind")
    assert "another kind than the population's" in status(lab)["strict"]["trouble"]
    assert status(lab)["good"]["last"].startswith("answered")
    file.write_text(text)
    lab.running["strict"].stop()
    lab.start_node("strict")
    lab.wait_online("strict")


@contextmanager
def small_disk(place: Path, kibibytes: int) -> Iterator[None]:
    """Put what is in a folder on a disk of its own for a while, or skip the test where that cannot be done."""
    place.mkdir(exist_ok=True)
    aside = place.with_name(f"{place.name}.aside")
    shutil.copytree(place, aside)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k,mode=0700", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        shutil.rmtree(aside)
        pytest.skip("needs the right to mount a disk")
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True)
        yield
        shutil.copytree(place, aside, dirs_exist_ok=True)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
        shutil.copytree(aside, place, dirs_exist_ok=True)
        shutil.rmtree(aside)


def fill(place: Path) -> Path:
    """Write until the disk is full; return the file that fills it."""
    filler = place / "filler"
    with filler.open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), b"x" * 1024)
    return filler


def test_a_full_disk_stops_a_node_and_then_the_run_and_it_resumes_when_there_is_room(lab: Deployment) -> None:
    """Nothing leaves that is not written down; the round is not published without the node, whose data might be why."""
    before = granted(lab, "good")
    lab.running["good"].stop()
    with small_disk(lab.nodes["good"] / "node.journal", 4096):
        filler = fill(lab.nodes["good"] / "node.journal")
        lab.start_node("good")
        lab.wait_online("good")
        said = fedpriv("deploy", "run", lab.server, "--out", "full", cwd=lab.root, code=4)
        assert "disk" in said or "space" in said
        assert "--resume" in said
        assert granted(lab, "good") == before, "it gave nothing"
        filler.unlink()
        fedpriv("deploy", "run", lab.server, "--out", "full", "--resume", cwd=lab.root)
        assert granted(lab, "good") == {count + 2 for count in before}
        lab.running["good"].stop()
    lab.start_node("good")
    lab.wait_online("good")
    assert granted(lab, "good") == {count + 2 for count in before}


@pytest.mark.parametrize(("shift", "word"), [("60", "ahead of"), ("-1200", "behind")])
def test_a_node_whose_clock_is_wrong_ends_with_that_reason(lab: Deployment, shift: str, word: str) -> None:
    """The clocks of Flower and of ours are wrong in the node's processes; the machine's is everybody's."""
    lab.running["strict"].stop()
    until("the server has noticed", lambda: status(lab)["strict"]["state"] != "online")
    (lab.nodes["strict"] / "node.journal" / "connected").unlink()
    clock = lab.root / "clock"
    clock.mkdir(exist_ok=True)
    (clock / "sitecustomize.py").write_text(WRONG_CLOCK)
    wrong = ("env", f"WRONG_BY={shift}", f"PYTHONPATH={clock}")
    said = fedpriv("deploy", "node", "node.toml", cwd=lab.nodes["strict"], prefix=wrong, code=4)
    assert f"s {word} the server's" in said
    assert "set the clocks" in said
    lab.start_node("strict")
    lab.wait_online("strict")
