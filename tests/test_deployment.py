"""Real processes: a server behind TLS and nodes that hold their own files, run as the pages say, also when they die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from absent import SomeAreAbsent, Witness, absent_nodes, rounds_said
from deployed import Deployment, Running, deployment, fedpriv, flower_of, until, worker_of
from namespaces import namespaces, plugged
from writers import write_writers

from fedpriv import Experiment
from fedpriv.config import apply, build_experiment
from fedpriv.deploy.models import personal_of_journal
from fedpriv.protocol import ALL
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.scenarios import scenarios
from fedpriv.summary import RunResult

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(1800)]

SEED = 5
SHORT: dict[str, Any] = {
    "client.epochs": 1,
    "client.final_epochs": 1,
    "strategy.rounds": 5,
    "strategy.evaluate_every": 0,
    "run.seed": SEED,
    "run.report": False,
    "run.baseline": False,
}
HOSTED = {"one": 7, "two": 8, "three": 11, "four": 14}
"""How many writers each node has."""
KILLED_ROUNDS = 10


def last(folder: Path, number: int) -> Any:
    return CheckpointStore(folder / "checkpoints").load(number)


def same_run(mine: Path, theirs: Path, rounds: int, without: frozenset[int] = frozenset()) -> None:
    """Fail unless billboards, participants and every task's score are those of a simulation.

    Of the tasks ``without``, whose nodes were away for the last fit or for the scores, there is none.
    """
    one, two = last(mine, rounds), last(theirs, rounds)
    np.testing.assert_array_equal(two.sampled[ALL], one.sampled[ALL])
    for name, value in one.billboards[ALL].items():
        np.testing.assert_array_equal(two.billboards[ALL][name], value)
    scores = [json.loads((run / "summary.json").read_text())["diagnostics"]["per_task"] for run in (mine, theirs)]
    kept = [[one["personal"][task] for task in range(len(one["personal"])) if task not in without] for one in scores]
    assert kept[1] == pytest.approx(kept[0])


def in_the_end(seen: Witness, run: Path) -> tuple[list[str], frozenset[int]]:
    """Return which nodes did the last fit, and the tasks that have no score, or one without it.

    Who was killed late may have missed both; then there is nothing to compare.
    """
    done = [name for name in HOSTED if seen.finished(name)]
    places = np.cumsum([0, *HOSTED.values()]).tolist()
    here = {name: range(*ends) for name, ends in zip(HOSTED, pairwise(places), strict=True)}
    scored = json.loads((run / "summary.json").read_text())["diagnostics"]["per_task"]["personal"]
    away = {task for task, score in enumerate(scored) if score is None or np.isnan(score)}
    return done, frozenset(away | {task for name in HOSTED if name not in done for task in here[name]})


def same_models(lab: Deployment, whole: RunResult, nodes: Iterable[str] = HOSTED) -> None:
    """Fail unless each task's own model, made on its node from what that kept, is the simulation's to the bit."""
    wanted = whole.personal
    seen = set()
    for node in nodes:
        found = personal_of_journal(lab.nodes[node] / "node.toml")
        for name in found:
            mine, theirs = wanted[name].state_dict(), found[name].state_dict()
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
            seen.add(name)
    assert len(seen) == sum(HOSTED[node] for node in nodes), "everybody has one"


def simulated(experiment: Experiment, **changes: Any) -> Experiment:
    return experiment.model_copy(update={"grid": "in-process", "shards": 1, **changes})


def test_a_deployed_run_is_the_simulation_to_the_bit(tmp_path: Path) -> None:
    config = apply(scenarios()["pmtl"].preset(), {**SHORT, "data.tasks": 8, "strategy.rounds": 3})
    simulated(build_experiment(config)).run(tmp_path / "whole", reproduce=SEED)
    with deployment(tmp_path) as lab:
        lab.make("pmtl", {**SHORT, "strategy.rounds": 3})
        for number, name in enumerate(("one", "two")):
            data = {**config["data"], "seed": SEED}
            lab.add(name, data, part=[4 * number, 4 * number + 4], policy={"diagnostics": True})
        assert "start `fedpriv deploy serve" in fedpriv(
            "deploy", "run", lab.server, "--out", "run", cwd=tmp_path, code=4
        )
        lab.start_server()
        assert "none of the 2 nodes is online" in fedpriv(
            "deploy", "run", lab.server, "--out", "run", cwd=tmp_path, code=4
        )
        assert not (tmp_path / "run").exists(), "refused before any work"
        for name in lab.nodes:
            lab.start_node(name)
        lab.wait_online("one", "two")
        said = fedpriv("deploy", "run", lab.server, "--out", "run", "--reproduce", str(SEED), cwd=tmp_path)
        assert "personal" in said
    same_run(tmp_path / "whole", tmp_path / "run", 3)
    assert json.loads((tmp_path / "run/summary.json").read_text())["unreachable"]["tasks"] == 0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server and four nodes, each in a network of its own, with FEMNIST writers in files of their own."""
    if not (Path(os.environ.get("FEDPRIV_DATA", "/nowhere")) / "femnist-206").exists():
        pytest.skip("FEMNIST is not here; set FEDPRIV_DATA")
    root = tmp_path_factory.mktemp("lab")
    files = write_writers(root, tuple(HOSTED.values()))
    with namespaces(tuple(HOSTED)) as (host, places), deployment(root, host=host, places=places) as made:
        made.make("pmtl", SHORT)
        for name, file in zip(HOSTED, files, strict=False):
            made.add(name, {"file": str(file), "classes": 62, "seed": SEED}, policy={"diagnostics": True})
        made.start_server()
        for name in made.nodes:
            made.start_node(name)
        made.wait_online(*HOSTED)
        yield made


def whole(lab: Deployment, changes: dict[str, Any]) -> Experiment:
    """Return the experiment of somebody who has all files."""
    config = apply(scenarios()["pmtl"].preset(), {**SHORT, **changes})
    config["data"] = {"file": str(lab.root / "all.json"), "classes": 62, "seed": SEED}
    config["run"]["declared"] = "benchmark"
    return simulated(build_experiment(config))


def test_writers_on_four_machines_are_the_simulation_to_the_bit(lab: Deployment) -> None:
    fedpriv("deploy", "run", lab.server, "--out", "calm", "--reproduce", str(SEED), cwd=lab.root)
    calm = whole(lab, {}).run(lab.root / "calm-whole", reproduce=SEED)
    same_run(lab.root / "calm-whole", lab.root / "calm", 5)
    same_models(lab, calm)
    assert absent_nodes(lab.root / "calm", HOSTED) == {}
    opened = {name: (lab.nodes[name] / "node.log").read_text() for name in HOSTED}
    assert all(rounds_said(said) for said in opened.values()), "every node was asked"


def holds_a_question(node: Path) -> bool:
    """Tell whether Flower's part of a node has received more than it has sent since it was let in."""
    said = (node / "node.journal" / "supernode.log").read_text(errors="replace").rpartition("SuperNode ID:")[2]
    return said.count("Received successfully") > said.count("Sent successfully")


def test_with_kills_it_is_a_simulation_in_which_the_same_answers_are_lost(lab: Deployment) -> None:
    """Two nodes, two workers and the server's part of the run are killed with SIGKILL."""
    changes = {"strategy.rounds": KILLED_ROUNDS, "strategy.sampling_rate": 1.0}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    seen = Witness(lab, HOSTED)
    trained = seen.trained
    run = lab.start_run(lab.root / "killed", "--reproduce", str(SEED), *words)

    def kill(name: str, *, long: bool = False) -> None:
        """Kill a node with all that it is while it holds a question; start it again at once, or when it was missed."""
        os.kill(worker_of(lab.running[name]), signal.SIGSTOP)
        until(f"{name} holds a question", lambda: holds_a_question(lab.nodes[name]), alive=run.alive)
        lab.running[name].kill()
        seen.killed(name)
        if long:
            until(f"{name} is missed", lambda: name in set().union(*missed().values()), alive=run.alive)
        lab.start_node(name)

    def missed() -> dict[int, set[str]]:
        said = lab.root / "killed" / "metrics.jsonl"
        return absent_nodes(lab.root / "killed", HOSTED) if said.exists() else {}

    until("the first round", lambda: trained("one") and trained("two"), alive=run.alive)
    second = fedpriv("deploy", "run", lab.server, "--out", "second", cwd=lab.root, code=4)
    assert "another `fedpriv deploy run` is at work" in second
    kill("one")
    os.kill(worker_of(lab.running["two"]), signal.SIGKILL)
    reached = max(trained("one"))
    until("node one is back", lambda: max(trained("one")) > reached, alive=run.alive)
    assert "takes this node for connected still" in lab.running["one"].said(), "its own key was refused, and it waited"
    os.kill(worker_of(lab.running["three"]), signal.SIGKILL)
    kill("four", long=True)
    if plugged("three", up=False):  # its cable is cut until it is missed
        until("three is missed", lambda: "three" in set().union(*missed().values()), alive=run.alive)
        plugged("three", up=True)
    reached = max(trained("one"))
    until("a round later", lambda: max(trained("one")) > reached, alive=run.alive)
    run.kill()
    resumed = fedpriv(
        *("deploy", "run", lab.server, "--out", "killed", "--reproduce", str(SEED), "--resume", *words), cwd=lab.root
    )
    assert "answers of tasks" in resumed, "it says that some counted as zero"
    for name in ("two", "three"):
        assert "its worker ended; another one takes over" in lab.running[name].said()

    # Node one was back within seconds, and was asked again; Flower may have noticed all the same that it was away.
    assert seen.tell(lab.root / "killed") - {"one"} == {"four", *(["three"] if lab.places else [])}
    experiment = whole(lab, changes)
    client = SomeAreAbsent(**experiment.client.model_dump())
    same = simulated(experiment, client=client).run(lab.root / "killed-whole", reproduce=SEED)
    done, away = in_the_end(seen, lab.root / "killed")
    assert {"one", "two", "three"} <= set(done)
    same_run(lab.root / "killed-whole", lab.root / "killed", KILLED_ROUNDS, away)
    same_models(lab, same, done)
    calm = experiment.run(lab.root / "undisturbed", reproduce=SEED)
    assert any(
        (value != last(lab.root / "killed", KILLED_ROUNDS).billboards[ALL][name]).any()
        for name, value in calm.billboards[ALL].items()
    ), "the kills changed something"


def test_other_machines_reach_the_front_and_not_flower_s_own_server(lab: Deployment) -> None:
    if not lab.places:
        pytest.skip("needs network namespaces: on one machine everything is reached")
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 20).close()"

    def reached(port: int) -> bool:
        words = [*lab.places["one"], sys.executable, "-c", code, lab.host, str(port)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    assert reached(lab.port)
    assert not reached(lab.inner)


def test_a_connection_that_is_killed_is_made_again_while_its_worker_stays(lab: Deployment) -> None:
    node: Running = lab.running["two"]
    worker = worker_of(node)
    os.kill(flower_of(node), signal.SIGKILL)
    until("it is said", lambda: "was killed; it is made again" in node.said(), alive=node.alive)
    lab.wait_online("two")
    assert worker_of(node) == worker, "the worker has the data loaded still"
