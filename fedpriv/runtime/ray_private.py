"""What of Ray fedpriv uses that is not public API, in one place.

Tested with ray 2.60; ``tests/test_ray_private.py`` fails loudly when Ray moves any of it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

__all__ = ["asks_for_tokens", "fresh_token", "lean_start", "read_token"]

_TOKEN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""The environment that says whether Ray's ports ask for a token, and for which."""

_UNASKED = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods that start the autoscaler's monitor, the monitor of logs and the dashboard's server."""


def _start_nothing(node: Any, **_: Any) -> None:
    node._webui_url = None


@contextmanager
def lean_start() -> Iterator[None]:
    """Let Ray start without processes that a simulation on one machine never asks anything.

    ``ray.init`` has no switch for them. Without the autoscaler's monitor, the monitor of logs (which would forward what
    workers print) and the dashboard's server, a start takes about 2 s less on two cores, a stop 1 s less. A Ray
    without such methods starts as it always does.
    """
    from ray._private.node import Node

    kept = {name: vars(Node)[name] for name in _UNASKED if name in vars(Node)}
    for name in kept:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


@contextmanager
def fresh_token() -> Iterator[None]:
    """Let the Ray that starts meanwhile ask for a token that only it, its workers and this process know.

    Whoever reaches Ray's ports without one can read the shards' memory and run programs. A secret of 256 bits per start
    takes the place of Ray's own file, which stays for good and which others may be able to read. It travels in the
    environment, which belongs to the owner of a process, never on a command line or in a file; afterwards this
    process's environment is as it was, so that what it starts later is a stranger, too.
    """
    kept = {name: os.environ.pop(name, None) for name in _TOKEN}
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        read_token()
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def read_token() -> None:
    """Let Ray read again whether it asks for a token, and which: else it keeps what it read at its last start."""
    raylet: Any = import_module("ray._raylet")  # compiled
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def asks_for_tokens() -> bool:
    """Tell whether this process shows a token to its Ray; a Ray that asks for one would not have let it in without."""
    raylet: Any = import_module("ray._raylet")
    return bool(raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN)
