"""Flower's own processes of a deployment: how they are started, watched and stopped."""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from fedpriv.errors import ComponentFailure

__all__ = ["Process", "answers", "environment", "free_port", "last_line", "own_address", "tool"]

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_WRONG = re.compile(r"error|exit code|certificate|refused|denied|exception|not found", re.IGNORECASE)
_STOP_SECONDS = 15.0
_FIRST_PORT, _PORTS = 10_000, 20_000
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def tool(name: str) -> str:
    """Return the path of a program installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def environment(home: Path) -> dict[str, str]:
    """Return what Flower's processes find in their environment: no telemetry, no look for updates, own files."""
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


class Process:
    """A child that ends when its parent does, whatever ends that.

    Parameters
    ----------
    words : list of str
        The command.
    log : Path or None
        What it says is appended there; None is where this process says things.
    env : mapping
        Its environment.
    keep : tuple of int
        Files of this process that stay open in it, by number.
    """

    def __init__(self, words: list[str], log: Path | None, env: Mapping[str, str], keep: tuple[int, ...] = ()) -> None:
        self.name, self.log = Path(words[0]).name if log is None else log.stem, log
        with nullcontext() if log is None else log.open("ab") as output:
            self._said_before = 0 if output is None else output.tell()
            # The kernel ends it with the *thread* that starts it, so start it from one that stays.
            self._child = subprocess.Popen(  # noqa: S603 (our own words only)
                words,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=keep,
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    def ended(self) -> int | None:
        """Return its exit code, or None while it runs."""
        return self._child.poll()

    def said(self) -> str:
        """Return what it said in its log since it was started."""
        if self.log is None:
            return ""
        with self.log.open("rb") as file:
            file.seek(self._said_before)
            return file.read().decode(errors="replace")

    def wait_until_open(self, port: int, seconds: float = 90.0, listen: str = "127.0.0.1") -> None:
        """Wait until it listens on a port of this machine, on an address that it was told.

        Raises
        ------
        ComponentFailure
            It ended, or takes too long; says its last line.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.ended() is None:
            if answers(listen, port):
                return
            time.sleep(0.1)
        raise ComponentFailure(f"{self.name} did not start on port {port}: {last_line(self.log)}")

    def stop(self) -> None:
        """End it: kindly first."""
        if self.ended() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _die_with_parent() -> None:
    with suppress(OSError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)


def answers(listen: str, port: int) -> bool:
    """Tell whether something on this machine that listens on this address takes connections on a port."""
    try:
        socket.create_connection((own_address(listen), port), timeout=2.0).close()
    except OSError:
        return False
    return True


def own_address(listen: str) -> str:
    """Return an address under which this machine reaches what listens on one; some stand for all addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(listen, listen)  # noqa: S104


def free_port() -> int:
    """Return a port of this machine that nobody listens on, and that no outgoing connection is given.

    A port of those that the system gives to outgoing connections may be taken when its process is started again.
    """
    for _ in range(1000):
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ComponentFailure(f"no port from {_FIRST_PORT} to {_FIRST_PORT + _PORTS} is free on this machine.")


def last_line(log: Path | None) -> str:
    """Return the last line in which a process said what was wrong, or its last line."""
    text = "" if log is None or not log.exists() else log.read_text(encoding="utf-8", errors="replace")
    said = [line.strip() for line in _COLOURS.sub("", text).splitlines() if line.strip()]
    wrong = [line for line in said if _WRONG.search(line)]
    return (wrong or said or ["it said nothing"])[-1]
