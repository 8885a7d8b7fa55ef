"""Direct lines between the server and the shards on its machine.

A call through Ray passes a dozen threads: between processes that sleep, on two cores, it takes 3 to 4 ms where a socket
takes 0.3. Ray stays the owner of the shards. It starts and ends them, says that they died, and carries what is large
and what goes to other machines.

Nothing here waits for one side alone, so a shard that stops in the middle of a message holds up nobody.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from typing import Any

from fedpriv.errors import ComponentFailure
from fedpriv.runtime.short_folder import short_folder

__all__ = ["Line", "answer", "connect", "open_lines", "ready"]

_LENGTH_BYTES = 8
"""Bytes that say how long a message is."""
_MAX_POLL_MILLISECONDS = 2**31 - 1
"""Milliseconds that the kernel waits at most."""
_HELLO_SECONDS = 10.0
"""Seconds for a shard to say who calls; it did so before it told Ray that it is connected."""


class Line:
    """One end of a line, for one message at a time in each direction.

    Parameters
    ----------
    end : socket
        Connected; it belongs to the line from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._outgoing: list[memoryview] = []
        self._message: bytearray | None = None
        self._broken = False
        self._expect(_LENGTH_BYTES, body=False)

    def fileno(self) -> int:
        """Return the socket's number."""
        return self._end.fileno()

    @property
    def sending(self) -> bool:
        """Whether part of a message waits until the other side reads on."""
        return bool(self._outgoing)

    @property
    def settled(self) -> bool:
        """Whether :meth:`receive` has something to say at once."""
        return self._message is not None or self._broken

    def send(self, message: bytes) -> None:
        """Send what the other side takes now; :func:`ready` sends the rest.

        Raises
        ------
        RuntimeError
            The message before has not been sent whole.
        """
        if self._outgoing:
            raise RuntimeError("a line sends one message at a time, and the one before is not through.")
        self._outgoing = [memoryview(len(message).to_bytes(_LENGTH_BYTES)), memoryview(message)]
        self.move()

    def receive(self) -> bytearray:
        """Return the message that came whole.

        Raises
        ------
        EOFError
            The other side is gone.
        """
        message, self._message = self._message, None
        if message is None:
            raise EOFError("the other side of the line is gone")
        return message

    def move(self) -> None:
        """Send and receive as much as goes without waiting."""
        try:
            while self._outgoing:
                sent = self._end.send(self._outgoing[0])
                self._outgoing[0] = self._outgoing[0][sent:]
                if not self._outgoing[0]:
                    self._outgoing.pop(0)
        except BlockingIOError:
            pass
        except OSError:  # what came before may still be read; the other side, if it lives, shall not wait for the rest
            self._outgoing = []
            with suppress(OSError):
                self._end.shutdown(socket.SHUT_WR)
        try:
            while not self.settled:
                count = self._end.recv_into(memoryview(self._buffer)[self._have :])
                self._broken = count == 0
                self._take(count)
        except BlockingIOError:
            pass
        except OSError:
            self._broken = True

    def close(self) -> None:
        """Hang up, also for processes that were forked meanwhile and hold the socket, too."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()

    def _take(self, count: int) -> None:
        self._have += count
        if self._have < len(self._buffer):
            return
        if self._body:
            self._message = self._buffer
            self._expect(_LENGTH_BYTES, body=False)
        elif length := int.from_bytes(self._buffer):
            self._expect(length, body=True)
        else:
            self._message = bytearray()
            self._expect(_LENGTH_BYTES, body=False)

    def _expect(self, size: int, *, body: bool) -> None:
        self._buffer, self._have, self._body = bytearray(size), 0, body


def ready(lines: Iterable[Line], timeout: float | None) -> list[Line]:
    """Wait until a whole message came over some lines, or they broke; return these, none if the time is over."""
    open_ = {line.fileno(): line for line in lines}
    deadline = None if timeout is None else time.monotonic() + timeout
    over = False
    while True:
        settled = [line for line in open_.values() if line.settled]
        if settled or over:
            return settled
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        over = left == 0.0
        waiting = select.poll()
        for number, line in open_.items():
            waiting.register(number, select.POLLIN | (select.POLLOUT if line.sending else 0))
        for number, _ in waiting.poll(None if left is None else min(left * 1000, _MAX_POLL_MILLISECONDS)):
            open_[number].move()


def open_lines(ray: Any, shards: Mapping[int, Any]) -> dict[int, Line]:
    """Return an open line to every shard that can reach this process, by node number; the others are left to Ray."""
    lines: dict[int, Line] = {}
    try:
        # A folder that nobody else may enter is all the protection that the socket needs.
        with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
            address = f"{folder}/shards"
            listener.bind(address)
            listener.listen(len(shards))
            for call in [shard.connect.remote(address, number) for number, shard in shards.items()]:
                if _reached(ray, call):
                    line = Line(listener.accept()[0])
                    if ready([line], _HELLO_SECONDS):
                        lines[int.from_bytes(line.receive())] = line
    except (AttributeError, ComponentFailure, EOFError, OSError):  # no such sockets here, or no place for one
        pass
    return lines


def connect(address: str, number: int) -> Line | None:
    """Open the shard's end of a line and say who calls; None from another machine."""
    end = socket.socket(socket.AF_UNIX)
    try:
        end.connect(address)
    except OSError:
        end.close()
        return None
    line = Line(end)
    line.send(number.to_bytes(8))
    return line


def answer(line: Line, handle: Callable[[bytearray], bytes]) -> None:
    """Answer each message that comes over a line until the other side hangs up.

    An exception ends the line without an answer, which the server takes as the end of the shard.
    """
    with closing(line):
        while True:
            ready([line], None)
            try:
                message = line.receive()
            except EOFError:
                return
            line.send(handle(message))


def _reached(ray: Any, call: Any) -> bool:
    try:
        return bool(ray.get(call))
    except ray.exceptions.RayActorError:  # whoever needs it next will find out
        return False
