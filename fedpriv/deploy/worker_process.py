"""The worker as a process of its own, which ``fedpriv deploy node`` starts, watches and starts again.

It may be killed at any moment: what it answered is on the disk before the answer leaves, and nothing else counts.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from fedpriv.deploy.host import NodeHost
from fedpriv.deploy.owner import OwnerFile, state_folder
from fedpriv.deploy.worker import work
from fedpriv.errors import FedprivError, InputError
from fedpriv.files import alone, private_directory
from fedpriv.runtime.flower_tasks import TaskSource

__all__ = ["main"]

_ALONE_SECONDS = 20.0
"""How long to wait for a worker that is dying."""
_SECOND = "another process works with the journal in {}; stop that `fedpriv deploy node` first."
_PATIENCE_SECONDS = 5.0


def main(words: list[str]) -> None:
    """Load the data, say so in one line of JSON to whoever started this, and answer until it ends.

    Parameters
    ----------
    words : list of str
        The owner's file, the port of the node's connection on this machine, the number of the open file to say it in,
        and where known data sets lie.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this
    file, port, tell = Path(words[0]), int(words[1]), int(words[2])
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fedpriv").setLevel(logging.INFO)
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it says each attempt at a connection that is being made anew
    with ExitStack() as stack, open(tell, "wb") as said:
        try:
            state = state_folder(file)
            private_directory(state)
            stack.enter_context(alone(state / ".lock", _SECOND.format(state), _ALONE_SECONDS))
            owner = OwnerFile.read(file)
            host = NodeHost(owner, file, owner.tasks(Path(words[3]) if len(words) > 3 else None))
            source = TaskSource(
                f"127.0.0.1:{port}", None, state / "worker.secret", "client", patience_seconds=_PATIENCE_SECONDS
            )
        except FedprivError as error:
            said.write(json.dumps({"input": isinstance(error, InputError), "reason": str(error)}).encode() + b"\n")
            sys.exit(error.exit_code)
        said.write(json.dumps({"tasks": len(host.tasks)}).encode() + b"\n")
        said.close()
        work(host, source, threading.Event())


if __name__ == "__main__":
    main(sys.argv[1:])
