"""A relay that counts bytes between nodes and their server, TLS and all."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["Relay"]

_PART = 2**16


class Relay:
    """Passes connections on to a port of this machine, and counts what goes up (from nodes) and down."""

    def __init__(self, port: int) -> None:
        self._inner = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self.up = self.down = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                node, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._inner), timeout=10)
                except OSError:
                    node.close()
                    continue
                server.settimeout(None)
                threading.Thread(target=self._join, args=(node, server), daemon=True).start()

    def _join(self, node: socket.socket, server: socket.socket) -> None:
        with node, server:
            back = threading.Thread(target=self._pass, args=(server, node, False), daemon=True)
            back.start()
            self._pass(node, server, True)
            back.join()

    def _pass(self, one: socket.socket, other: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while part := one.recv(_PART):
                with self._lock:
                    self.up, self.down = self.up + up * len(part), self.down + (not up) * len(part)
                other.sendall(part)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
