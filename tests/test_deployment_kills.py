"""Fifty kills at random moments, of each side: the run goes on or resumes by one command, and loses what it says."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from absent import SomeAreAbsent, Witness
from deployed import Deployment, fedpriv, flower_of, until, worker_of
from test_deployment import HOSTED, SEED, in_the_end, lab, same_models, same_run, simulated, whole

from fedpriv.deploy.journal import NodeAccount
from fedpriv.runs.checkpoint import CheckpointStore

__all__ = ["lab"]
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3 * 3600)]

KILLS = int(os.environ.get("FEDPRIV_SOAK_KILLS", "50"))
ROUNDS = 12
SIDES = ("node", "worker", "connection", "run", "server")
_TRIES = 5


def kill_one(side: str, lab: Deployment, seen: Witness, name: str) -> None:
    """Kill one process, or one machine, and start again what nobody else would."""
    if side == "node":
        lab.running[name].kill()
        seen.killed(name)
        lab.start_node(name)
    elif side == "worker":
        os.kill(worker_of(lab.running[name]), signal.SIGKILL)
        seen.killed(name)
    elif side == "connection":
        os.kill(flower_of(lab.running[name]), signal.SIGKILL)
    elif side == "server":
        lab.running["server"].kill()
        lab.start_server()
    else:
        lab.running["run"].kill()


def published(folder: Path) -> int:
    """Return how many rounds a run has published."""
    place = folder / "checkpoints"
    return max(CheckpointStore(place).rounds(), default=0) if place.exists() else 0


def test_fifty_kills_lose_what_the_run_says_and_nothing_else(lab: Deployment) -> None:
    chance, kills = random.Random(SEED), Counter[str]()
    changes = {"strategy.rounds": ROUNDS, "strategy.sampling_rate": 1.0}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    granted = dict.fromkeys(HOSTED, 0)
    number = 0
    while kills.total() < KILLS:
        number += 1
        folder: Path = lab.root / f"soak{number}"
        lab.wait_online(*HOSTED)
        seen = Witness(lab, HOSTED)
        tries = reached = 0

        def start(*more: str, out: Path = folder) -> None:
            lab.running["run"] = lab.start_run(out, "--reproduce", str(SEED), *words, *more)

        start()
        while True:
            child = lab.running["run"].child
            assert child is not None
            if child.poll() == 0:
                break
            if child.poll() is not None:
                tries += child.poll() != -signal.SIGKILL
                assert tries < _TRIES, lab.running["run"].said()[-3000:]
                lab.wait_online(*HOSTED)
                start(*(["--resume"] if (folder / "config.toml").exists() else []))
            elif kills.total() < KILLS:
                if chance.random() < 0.6:  # so that kills fall into all rounds; the others hit what is being mended
                    until("a round later", lambda: child.poll() is not None or published(folder) > reached)  # noqa: B023
                time.sleep(chance.uniform(0.0, 8.0))  # any phase: what is tested does not depend on which
                side, name = chance.choice(SIDES), chance.choice(tuple(HOSTED))
                if child.poll() is None:
                    reached = published(folder)
                    kill_one(side, lab, seen, name)
                    kills[side] += 1
                    sys.stdout.write(f"kill {kills.total()}: {side} {name} after {reached} published rounds\n")
                    sys.stdout.flush()
            else:
                until("the run ends", lambda ends=child: ends.poll() is not None)
        seen.tell(folder)
        experiment = whole(lab, changes)
        client = SomeAreAbsent(**experiment.client.model_dump())
        same = simulated(experiment, client=client).run(lab.root / f"soak{number}-whole", reproduce=SEED)
        done, away = in_the_end(seen, folder)
        same_run(lab.root / f"soak{number}-whole", folder, ROUNDS, away)
        same_models(lab, same, done)
        # Each published billboard is charged, once; the ledger and the run folder hold the same rounds.
        fedpriv("ledger", "check", folder, cwd=lab.root)
        charged = [one["round"] for one in json.loads((folder / "summary.json").read_text())["releases"]]
        assert charged == list(range(1, ROUNDS + 1))
        for name in HOSTED:
            granted[name] += len(seen.trained(name))
            account = NodeAccount(lab.nodes[name] / "node.journal" / "account.json")
            least = min(sum(account.counts(task).values()) for task in account.names)
            assert least >= granted[name], "an answer that a node gave is not in its account"
    sys.stdout.write(f"{dict(kills)} in {number} runs\n")
