"""A deployment as processes: a server and nodes, each typed as its page says; used by the tests of deployments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from fedpriv.deploy.processes import free_port, tool

WAIT_SECONDS = 600.0


def fedpriv(*words: str | Path, cwd: Path, prefix: tuple[str, ...] = (), code: int | None = 0) -> str:
    """Type a command and return what it said; ``code`` None takes any exit code."""
    done = subprocess.run(
        [*prefix, tool("fedpriv"), *map(str, words)],
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    said = done.stdout + done.stderr
    assert code is None or done.returncode == code, f"{words} ended with {done.returncode}:\n{said[-3000:]}"
    return said


def until(what: str, holds: Callable[[], Any], *, alive: Callable[[], None] = lambda: None) -> Any:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        alive()
        if found := holds():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {WAIT_SECONDS:g} s until {what}")


@dataclass
class Running:
    """A command that runs until it is stopped."""

    words: list[str]
    log: Path
    cwd: Path
    prefix: tuple[str, ...] = ()
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> Running:
        """Start it, in a session of its own so that all of it can be killed."""
        with self.log.open("ab") as output:
            self.child = subprocess.Popen(
                [*self.prefix, *self.words],
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def alive(self) -> None:
        """Fail if it has ended, with what it said last."""
        assert self.child is not None
        assert self.child.poll() is None, f"{self.words} ended: {self.said()[-3000:]}"

    def said(self) -> str:
        """Return everything it said."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill it and all of its children."""
        assert self.child is not None
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)
        self.child.wait()

    def stop(self) -> int:
        """End it kindly, and return its exit code."""
        assert self.child is not None
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.kill()
        return int(self.child.returncode)


@dataclass
class Deployment:
    """A server's folder, its nodes' folders, and what runs of them."""

    root: Path
    nodes: dict[str, Path] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    inner: int = field(default_factory=free_port)
    host: str = "127.0.0.1"
    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Words before a node's commands: where it runs, such as a network namespace."""

    @property
    def server(self) -> Path:
        return self.root / "lab"

    def make(self, scenario: str | Path, assignments: dict[str, Any], *, roster: Path | None = None) -> None:
        """Type ``deploy init``."""
        more = [word for key, value in assignments.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        given = [] if roster is None else ["--roster", str(roster)]
        listen = "0.0.0.0" if self.host != "127.0.0.1" else "127.0.0.1"
        fedpriv(
            *("deploy", "init", self.server, str(scenario), "--host", self.host, "--port", str(self.port)),
            *("--inner-port", str(self.inner), "--listen", listen, *given, *more),
            cwd=self.root,
        )

    def add(self, name: str, data: dict[str, Any], *, declared: str = "benchmark", **sections: Any) -> Path:
        """Write a node's file, and type ``deploy request`` and ``deploy approve``."""
        folder = self.root / name
        folder.mkdir()
        (folder / "ca.crt").write_bytes((self.server / "pki" / "ca.crt").read_bytes())
        top = {key: value for key, value in sections.items() if not isinstance(value, dict)}
        tables = {key: value for key, value in sections.items() if isinstance(value, dict)}
        content = {"name": name, "declared": declared, **top, "server": {"address": f"{self.host}:{self.port}"}}
        (folder / "node.toml").write_text(tomli_w.dumps({**content, "data": data, **tables}))
        fedpriv("deploy", "request", "node.toml", cwd=folder)
        fedpriv("deploy", "approve", self.server, folder / f"{name}.request.json", cwd=self.root)
        self.nodes[name] = folder
        return folder

    def start_server(self) -> Running:
        """Type ``deploy serve``, and wait until it says that it serves."""
        log = self.root / "serve.log"
        log.unlink(missing_ok=True)
        served = Running([tool("fedpriv"), "deploy", "serve", str(self.server)], log, self.root).start()
        self.running["server"] = served
        until("the server serves", lambda: "serving " in served.said(), alive=served.alive)
        return served

    def start_node(self, name: str) -> Running:
        """Type ``deploy node``."""
        folder = self.nodes[name]
        words = [tool("fedpriv"), "deploy", "node", "node.toml"]
        started = Running(words, folder / "node.log", folder, self.places.get(name, ())).start()
        self.running[name] = started
        return started

    def wait_online(self, *names: str) -> None:
        """Wait until nodes are online, as ``deploy status`` says it."""

        def there() -> bool:
            found = json.loads(fedpriv("deploy", "status", self.server, "--json", cwd=self.root))
            return {row["node"] for row in found["nodes"] if row["state"] == "online"} >= set(names)

        def alive() -> None:
            for name in names:
                self.running[name].alive()

        until(f"{names} are online", there, alive=alive)

    def start_run(self, out: Path, *words: str) -> Running:
        """Type ``deploy run`` without waiting for it."""
        command = [tool("fedpriv"), "deploy", "run", str(self.server), "--out", str(out), *words]
        started = Running(command, self.root / f"{out.name}.log", self.root).start()
        self.running[out.name] = started
        return started

    def stop(self) -> None:
        """Stop everything that still runs."""
        for one in reversed(list(self.running.values())):
            one.stop()


@contextmanager
def deployment(root: Path, **settings: Any) -> Iterator[Deployment]:
    """Yield a deployment, and stop what was started."""
    made = Deployment(root, **settings)
    try:
        yield made
    finally:
        made.stop()


def worker_of(node: Running) -> int:
    """Return the process that computes."""
    return _child_of(node, "fedpriv.deploy.worker_process")


def flower_of(node: Running) -> int:
    """Return Flower's process of a node."""
    return _child_of(node, "flower-supernode")


def _child_of(node: Running, word: str) -> int:
    def found() -> int | None:
        for process in _descendants(_pid(node)):
            with suppress(OSError):
                if word in Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8", errors="replace"):
                    return process
        return None

    return int(until(f"{word} runs", found, alive=node.alive))


def _pid(node: Running) -> int:
    assert node.child is not None
    return node.child.pid


def _descendants(process: int) -> list[int]:
    """Return a process's children and theirs, but not itself."""
    found: list[int] = []
    with suppress(OSError):
        for path in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (path / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found
