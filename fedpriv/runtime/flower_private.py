"""Everything of Flower that fedpriv uses and that is not public API, in one place.

Tested with flwr 1.41 and 1.42; ``tests/test_flower_private.py`` fails loudly when Flower moves any of it.
"""

from __future__ import annotations

import random
from importlib.metadata import version
from typing import Any

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore import heartbeat
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.retry import retry_invoker
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedpriv.errors import ComponentFailure

__all__ = [
    "TESTED",
    "NodeInfo",
    "Run",
    "check_version",
    "draw_apart",
    "local_run",
    "new_context",
    "set_identity",
    "stamp",
]

TESTED = ("1.41", "1.43")
"""First version known to work, and first version that is not."""


def check_version() -> None:
    """Refuse a Flower whose private names were never tested.

    Raises
    ------
    ComponentFailure
        The installed version lies outside the tested range.
    """
    found = version("flwr")
    numbers = tuple(int(part) for part in found.split(".")[:2])
    low, high = (tuple(int(part) for part in bound.split(".")) for bound in TESTED)
    if not low <= numbers < high:
        raise ComponentFailure(f"flwr must be >= {TESTED[0]} and < {TESTED[1]}, got {found}; install a tested version.")


def draw_apart() -> None:
    """Let Flower's threads draw their pauses from a generator of their own.

    A heartbeat in the middle of a dry run moves Python's global one, and the client would be refused for it.
    """
    own = random.Random()  # noqa: S311 (pauses)
    for module in (heartbeat, inflatable_utils, retry_invoker):
        vars(module)["random"] = own


def set_identity(run_id: int = 1, node_id: int = 1) -> None:
    """Tell Flower who we are: without it a ``Message`` cannot be built outside Flower's own runners."""
    TaskIdentity.task_id = run_id
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id


def local_run() -> Run:
    """Return the description of a run that no SuperLink knows."""
    return Run.create_empty(1)


def new_context(node_id: int, **node_config: Any) -> Context:
    """Return an empty context for a node."""
    return Context(
        run_id=1,
        node_id=node_id,
        node_config=UserConfig(node_config),
        state=RecordDict(),
        run_config=UserConfig(),
    )


def stamp(message: Message, message_id: str) -> None:
    """Give a message the id that a SuperLink would give it."""
    message.metadata.__dict__["_message_id"] = message_id
