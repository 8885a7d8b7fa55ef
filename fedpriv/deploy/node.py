"""``fedpriv deploy node``: keeps Flower's SuperNode and our worker alive, each without the other."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedpriv.deploy.owner import OwnerFile, state_folder
from fedpriv.deploy.processes import Process, environment, free_port, last_line, tool
from fedpriv.deploy.reach import reach
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.files import kept_secret, private_directory

__all__ = ["serve_node"]

_LOG = logging.getLogger("fedpriv")
_WATCH_SECONDS = 0.5
_AGAIN_SECONDS = 5.0
_FREE_SECONDS = 120.0
"""For how long a server may refuse a node's own key after the node was connected: until it notices that it is gone."""
_LOADS = 5
"""So many workers in a row may end before they have loaded the data."""
_LET_IN, _REFUSED = "SuperNode ID:", "Exit Code: 305"


def serve_node(file: Path, data_dir: Path | None = None, stop: threading.Event | None = None) -> None:
    """Load the node's data, connect to its server, and answer until told to stop.

    A worker that dies is started again while the connection stays, and the other way round: what the one that died was
    asked, the server asks again or counts as zero, and the journal knows what was answered.

    Parameters
    ----------
    file : Path
        The owner's.
    data_dir : Path or None
        Where known data sets lie.
    stop : threading.Event or None
        Set to end it; SIGTERM and SIGINT do unless one is given.

    Raises
    ------
    InputError
        The owner's file, the key or the data are wrong.
    ComponentFailure
        The server does not let the node in, or the worker cannot start; says why.
    """
    owner = OwnerFile.read(file)
    folder = file.resolve().parent
    state = state_folder(file.resolve())
    private_directory(state)
    private_directory(state / "flower")
    key = folder / f"{owner.name}.key"
    if not key.is_file():
        raise InputError(f"this node has no key at {key}; make one with `fedpriv deploy request {file}`.")
    kept_secret(state / "worker.secret")
    if stop is None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_, ended=stop: ended.set())
    node = _Node(owner, file.resolve(), data_dir, state, stop)
    try:
        node.serve()
    finally:
        node.close()


@dataclass
class _Node:
    owner: OwnerFile
    file: Path
    data_dir: Path | None
    state: Path
    stop: threading.Event
    port: int = field(default_factory=free_port)
    worker: Process | None = None
    link: Process | None = None
    fruitless: int = 0
    """How many workers in a row ended before they had loaded the data."""
    let_in: bool = False
    """Whether the server has let the connection in."""
    refused: bool = False
    """Whether a wait for the server to let the node in has been said."""

    def serve(self) -> None:
        self._start_worker()
        pause = 0.0
        while not self.stop.wait(pause):
            pause = _WATCH_SECONDS
            if self.worker is None or self.worker.ended() is not None:
                _LOG.warning("node %s: its worker ended; another one takes over", self.owner.name)
                self._start_worker()
            elif self.link is None:
                self._start_link()
            elif (code := self.link.ended()) is not None:
                pause = self._link_ended(self.link, code)
                self.link = None
            elif self.let_in or _LET_IN in self.link.said():
                self._mark()

    def close(self) -> None:
        for process in (self.worker, self.link):
            if process is not None:
                process.stop()

    def _start_worker(self) -> None:
        """Start a worker and wait until it has loaded the node's data."""
        hear, tell = os.pipe()
        words = [sys.executable, "-m", "fedpriv.deploy.worker_process", str(self.file), str(self.port), str(tell)]
        if self.data_dir is not None:
            words.append(str(self.data_dir))
        try:
            self.worker = Process(words, None, os.environ, keep=(tell,))
        finally:
            os.close(tell)
        with os.fdopen(hear, "rb") as said:
            while not select.select([said], [], [], _WATCH_SECONDS)[0]:
                if self.stop.is_set():
                    return
            line = said.readline()
        if not line.endswith(b"\n"):  # killed while it loaded the data, and may be again
            self.worker.stop()  # it may still be ending, and nobody else waits for it
            self.fruitless += 1
            if self.fruitless == _LOADS:
                raise ComponentFailure(
                    f"node {self.owner.name}: its worker ended {_LOADS} times before it had loaded the data, and gave "
                    "no reason, as a process that finds no memory; see what `fedpriv deploy doctor` says of this node."
                )
            _LOG.warning("node %s: its worker ended before it had loaded the data; another one tries", self.owner.name)
            self.stop.wait(_AGAIN_SECONDS)
            return
        self.fruitless = 0
        found = json.loads(line)
        if "reason" in found:
            raise (InputError if found["input"] else ComponentFailure)(found["reason"])
        _LOG.info("node %s answers for %d tasks", self.owner.name, found["tasks"])

    def _start_link(self) -> None:
        self.let_in = False
        owner, folder = self.owner, self.file.parent
        words = [
            tool("flower-supernode"),
            *("--root-certificates", str(folder / owner.server.authority), "--superlink", owner.server.address),
            *("--auth-supernode-private-key", str(folder / f"{owner.name}.key")),
            *("--host", "127.0.0.1", "--port", str(self.port), "--isolation", "process"),
            *("--superexec-auth-secret-file", str(self.state / "worker.secret")),
        ]
        self.link = Process(words, self.state / "supernode.log", environment(self.state / "flower"))

    def _link_ended(self, link: Process, code: int) -> float:
        """Return after how many seconds to try again.

        Raises
        ------
        ComponentFailure
            Trying again is of no use.
        """
        if code < 0:  # killed
            _LOG.warning("node %s: the connection to %s was killed; it is made again", self.owner.name, self._server)
            return 0.0
        if _REFUSED in link.said() and self._was_connected():
            if not self.refused:
                self.refused = True
                _LOG.warning(
                    "node %s: %s takes this node for connected still; it notices within a minute, and is asked every "
                    "%g s until then",
                    *(self.owner.name, self._server, _AGAIN_SECONDS),
                )
            return _AGAIN_SECONDS
        why = reach(self.owner, self.file.parent).clock_trouble or last_line(link.log)
        raise ComponentFailure(f"the connection to {self._server} ended ({code}): {why}")

    @property
    def _server(self) -> str:
        return self.owner.server.address

    def _mark(self) -> None:
        """Keep that the node is connected, also for the next process, which may be refused because of it."""
        self.let_in, self.refused = True, False
        with suppress(OSError):  # a full disk ends no connection
            (self.state / "connected").touch(mode=0o600)

    def _was_connected(self) -> bool:
        with suppress(OSError):
            return abs(time.time() - (self.state / "connected").stat().st_mtime) < _FREE_SECONDS
        return False
