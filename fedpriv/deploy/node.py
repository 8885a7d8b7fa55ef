"""``fedpriv deploy node``: Flower's SuperNode and our worker, started together and kept together."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

from fedpriv.deploy.host import NodeHost
from fedpriv.deploy.owner import OwnerFile
from fedpriv.deploy.processes import Process, environment, free_port, last_line, tool
from fedpriv.deploy.worker import work
from fedpriv.errors import ComponentFailure
from fedpriv.files import kept_secret, private_directory
from fedpriv.runtime.flower_tasks import TaskSource

__all__ = ["serve_node"]

_LOG = logging.getLogger("fedpriv")


def serve_node(file: Path, data_dir: Path | None = None, stop: threading.Event | None = None) -> None:
    """Load the node's data, connect to its server, and answer until told to stop.

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
        The SuperNode ended; says its last line.
    """
    owner = OwnerFile.read(file)
    folder = file.resolve().parent
    state = folder / "journal"
    private_directory(state)
    secret = state / "worker.secret"
    kept_secret(secret)
    host = NodeHost(owner, file, owner.tasks(data_dir))
    if stop is None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_, ended=stop: ended.set())
    port = free_port()
    words = [
        tool("flower-supernode"),
        *("--root-certificates", str(folder / owner.server.authority), "--superlink", owner.server.address),
        *("--auth-supernode-private-key", str(folder / f"{owner.name}.key")),
        *("--host", "127.0.0.1", "--port", str(port), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(secret)),
    ]
    home = state / "flower"
    private_directory(home)
    with Process(words, state / "supernode.log", environment(home)) as node:
        node.wait_until_open(port)
        source = TaskSource(f"127.0.0.1:{port}", None, secret, "client")

        def watch() -> None:
            while not stop.wait(1.0):
                if node.ended() is not None:
                    stop.set()

        threading.Thread(target=watch, daemon=True).start()
        _LOG.info("node %s answers for %d tasks", owner.name, len(host.tasks))
        try:
            work(host, source, stop)
        finally:
            source.close()
        if (code := node.ended()) is not None:
            raise ComponentFailure(f"the connection to {owner.server.address} ended ({code}): {last_line(node.log)}")
