"""The node's long-lived worker: imports everything once, takes a message, answers, waits for the next."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from fedpriv.deploy.host import NodeHost
from fedpriv.errors import ComponentFailure
from fedpriv.runtime.flower_tasks import ClientTask, TaskSource

__all__ = ["work"]

_LOG = logging.getLogger("fedpriv")
_POLL_SECONDS = 0.2
_PULL_SECONDS = 120.0
"""How long a message may take to arrive: one whose objects never come would block the node for good."""

T = TypeVar("T")


def work(host: NodeHost, source: TaskSource, stop: threading.Event) -> None:
    """Answer messages until ``stop`` is set; a message that fails does not end it."""
    while not stop.is_set():
        try:
            task = source.take()
        except Exception as error:  # the connection is not there yet, or is being made again
            _LOG.debug("no message can be taken: %s", type(error).__name__)
            task = None
        if task is None:
            stop.wait(_POLL_SECONDS)
            continue
        if not isinstance(task, ClientTask):
            raise ComponentFailure("a node was handed a server's task; give the worker its own node's address.")
        try:
            with task:
                message, context, config = _within(_PULL_SECONDS, task.pull)
                reply = host.answer(message, context, config)
                task.answer(reply, context)
            of, failed = message.metadata, reply.has_error()
            _LOG.info("%s %s%s", of.message_type, of.group_id, f": {reply.error.reason}" if failed else "")
        except Exception as error:
            _LOG.warning("a message was not answered: %s", type(error).__name__)


def _within(seconds: float, wanted: Callable[[], T]) -> T:
    """Return what a call gives, if it does so in time; else leave it alone and go on.

    Raises
    ------
    TimeoutError
        It did not.
    """
    done: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def call() -> None:
        try:
            done.put((True, wanted()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        fine, value = done.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if not fine:
        raise value
    found: T = value
    return found
