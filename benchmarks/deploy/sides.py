"""The two sides: a deployment of ours, and the same app as Flower runs it. Both over TLS, with a key for each node."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.deploy import app
from benchmarks.deploy.relay import Relay
from fedpriv.config import apply, build_experiment
from fedpriv.deploy.certificates import make_authority, make_node_key, make_server_certificate
from fedpriv.deploy.processes import environment, free_port, tool
from fedpriv.scenarios import scenarios

__all__ = ["Ours", "Side", "Stock"]

PER_NODE = 2
"""Tasks of each node."""
_WAIT_SECONDS = 300.0
_LINK = "deployment"
_BUNDLE = """\
[project]
name = "beside"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "fedpriv"
[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"
[tool.flwr.app.config]
folder = {folder}
"""


def settings(nodes: int, rounds: int) -> dict[str, Any]:
    """Return the configuration of a run: softmax on digits, all tasks in each round."""
    changes = {
        "data.tasks": PER_NODE * nodes,
        "client.epochs": 1,
        "client.final_epochs": 1,
        "strategy.rounds": rounds,
        "strategy.sampling_rate": 1.0,
        "strategy.evaluate_every": 0,
        "run.report": False,
        "run.baseline": False,
    }
    return dict(apply(scenarios()["pmtl"].preset(), changes))


class Side:
    """Starts a server and nodes, and one run on them."""

    name: str

    def __init__(self, root: Path, nodes: int, rounds: int) -> None:
        self.root, self.nodes, self.rounds = root, nodes, rounds
        self.config = settings(nodes, rounds)
        self._children: list[subprocess.Popen[bytes]] = []
        self.port = free_port()
        self.relay = Relay(self.port)

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.root / "run"

    def begin(self) -> None:
        """Start everything, and a run once all nodes are online."""
        raise NotImplementedError

    @property
    def roots(self) -> list[int]:
        """Processes that were started; all others descend from them."""
        return [child.pid for child in self._children]

    def end(self) -> None:
        """Kill all of it."""
        for child in reversed(self._children):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        self.relay.__exit__(None, None, None)

    def _start(self, *words: str, env: Mapping[str, str] | None = None) -> None:
        with (self.root / "log").open("ab") as log:
            child = subprocess.Popen(
                words, cwd=self.root, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._children.append(child)

    def _type(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(words, cwd=self.root, env=env, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise RuntimeError(f"{words} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout


def wait_until(what: str, holds: Callable[[], bool], *children: subprocess.Popen[bytes]) -> None:
    """Wait until something holds, as long as all children live."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not holds():
        for child in children:
            if child.poll() is not None:
                raise RuntimeError(f"{child.args!r} ended with {child.returncode} while waiting until {what}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_WAIT_SECONDS:g} s until {what}")
        time.sleep(0.2)


class Ours(Side):
    """``fedpriv deploy``: long-lived workers behind a front."""

    name = "ours"

    def begin(self) -> None:
        self.relay.__enter__()
        fedpriv, lab = tool("fedpriv"), str(self.root / "lab")
        plan = {key: value for key, value in self.config.items() if key != "data"}
        (self.root / "plan.toml").write_bytes(tomli_w.dumps({"data": {}, **plan}).encode())
        self._type(
            *(fedpriv, "deploy", "init", lab, "plan.toml", "--host", "127.0.0.1", "--listen", "127.0.0.1"),
            *("--port", str(self.port), "--inner-port", str(free_port())),
        )
        for number in range(self.nodes):
            name = f"n{number:02d}"
            owner = {
                "name": name,
                "declared": "benchmark",
                "part": [PER_NODE * number, PER_NODE * (number + 1)],
                "server": {"address": f"127.0.0.1:{self.relay.port}", "authority": f"{lab}/pki/ca.crt"},
                "data": self.config["data"],
                "policy": {"diagnostics": True},
            }
            (self.root / f"{name}.toml").write_bytes(tomli_w.dumps(owner).encode())
            self._type(fedpriv, "deploy", "request", f"{name}.toml")
            self._type(fedpriv, "deploy", "approve", lab, f"{name}.request.json")
        self._start(fedpriv, "deploy", "serve", lab)
        wait_until(
            "it serves",
            lambda: "serving" in (self.root / "log").read_text(encoding="utf-8", errors="replace"),
            *self._children,
        )
        for number in range(self.nodes):
            self._start(fedpriv, "deploy", "node", f"n{number:02d}.toml")

        def online() -> bool:
            found = json.loads(self._type(fedpriv, "deploy", "status", lab, "--json"))
            return all(node["state"] == "online" for node in found["nodes"])

        wait_until("all nodes are online", online, *self._children)
        self._start(fedpriv, "deploy", "run", lab, "--out", str(self.run))


class Stock(Side):
    """Flower's own way: SuperNodes that start a process for each message."""

    name = "stock"

    def begin(self) -> None:
        self.relay.__enter__()
        pki, folder = self.root / "pki", self.root / "app"
        pki.mkdir()
        authority = (pki / "ca.crt", pki / "ca.key")
        make_authority(*authority)
        make_server_certificate(pki / "s.crt", pki / "s.key", authority=authority, hosts=["127.0.0.1"])
        folder.mkdir()
        shutil.copy(app.__file__, folder / "app.py")
        (folder / "pyproject.toml").write_text(_BUNDLE.format(folder=json.dumps(str(self.root))), encoding="utf-8")
        build_experiment(self.config).roster.write(self.root / "roster.json")
        (self.root / "data.json").write_text(json.dumps([self.config["data"], PER_NODE]), encoding="utf-8")
        whole = {**self.config, "data": {"name": "there is none here"}}
        (self.root / "config.toml").write_bytes(tomli_w.dumps(whole).encode())
        home = self.root / "flower"
        home.mkdir()
        link = {"address": f"127.0.0.1:{self.port}", "root-certificates": str(authority[0])}
        (home / "config.toml").write_text(
            tomli_w.dumps({"superlink": {"default": _LINK, _LINK: link}}), encoding="utf-8"
        )
        env = environment(home)
        self._start(
            *(tool("flower-superlink"), "--ssl-certfile", str(pki / "s.crt"), "--ssl-keyfile", str(pki / "s.key")),
            *("--ssl-ca-certfile", str(authority[0]), "--host", "127.0.0.1", "--port", str(self.port)),
            *("--database", str(self.root / "state.db"), "--enable-supernode-auth"),
            "--disable-runtime-dependency-installation",
            env=env,
        )
        wait_until("the SuperLink answers", lambda: self._answers(env), *self._children)
        for number in range(self.nodes):
            key = pki / f"n{number}.key"
            make_node_key(key)
            self._type(tool("flwr"), "supernode", "register", f"{key}.pub", _LINK, env=env)
            self._start(
                *(tool("flower-supernode"), "--root-certificates", str(authority[0])),
                *("--superlink", f"127.0.0.1:{self.relay.port}", "--auth-supernode-private-key", str(key)),
                *("--host", "127.0.0.1", "--port", str(free_port()), "--node-config", f"number={number}"),
                env={**env, "FLWR_HOME": str(self.root / f"flower{number}")},
            )

        def online() -> bool:
            return self._type(tool("flwr"), "supernode", "list", _LINK, env=env).count("online") >= self.nodes

        wait_until("all nodes are online", online, *self._children)
        self._type(tool("flwr"), "run", str(folder), _LINK, env=env)

    def _answers(self, env: Mapping[str, str]) -> bool:
        with suppress(RuntimeError):
            self._type(tool("flwr"), "supernode", "list", _LINK, env=env)
            return True
        return False
