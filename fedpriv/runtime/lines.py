"""Direct lines between the server and the shards on its machine.

A call through Ray passes a dozen threads: between processes that sleep, on two cores, it takes 3 to 4 ms where a socket
takes 0.3. Ray stays the owner of the shards. It starts and ends them, says that they died, and carries what is large
and what goes to other machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection, Listener
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["answer", "connect", "open_lines"]


def open_lines(ray: Any, shards: Mapping[int, Any]) -> dict[int, Connection]:
    """Return an open line to every shard that can reach this process, by node number; the others are left to Ray."""
    lines: dict[int, Connection] = {}
    try:
        # A folder that nobody else may enter is all the protection that the socket needs.
        with (
            TemporaryDirectory(prefix="fedpriv-") as folder,
            Listener(f"{folder}/shards", "AF_UNIX", backlog=len(shards)) as listener,
        ):
            for call in [shard.connect.remote(listener.address, number) for number, shard in shards.items()]:
                if _reached(ray, call):
                    line = listener.accept()
                    lines[int.from_bytes(line.recv_bytes())] = line
    except (EOFError, OSError, ValueError):  # no such sockets here, or the path is too long for one
        pass
    return lines


def connect(address: str, number: int) -> Connection | None:
    """Open the shard's end of a line and say who calls; None from another machine."""
    try:
        line: Connection = Client(address, "AF_UNIX")
    except OSError:
        return None
    line.send_bytes(number.to_bytes(8))
    return line


def answer(line: Connection, handle: Callable[[bytes], bytes]) -> None:
    """Answer each message that comes over a line until the other side hangs up.

    An exception ends the line without an answer, which the server takes as the end of the shard.
    """
    with line:
        while True:
            try:
                message = line.recv_bytes()
            except (EOFError, OSError):
                return
            reply = handle(message)
            try:
                line.send_bytes(reply)
            except OSError:  # came too late
                return


def _reached(ray: Any, call: Any) -> bool:
    try:
        return bool(ray.get(call))
    except ray.exceptions.RayActorError:  # whoever needs it next will find out
        return False
