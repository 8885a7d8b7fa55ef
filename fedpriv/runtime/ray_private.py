"""What of Ray fedpriv uses that is not public API, in one place.

Tested with ray 2.60; ``tests/test_ray_private.py`` fails loudly when Ray moves any of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["lean_start"]

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
