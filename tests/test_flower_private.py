"""Flower's private names: fails loudly when Flower moves any of them."""

from __future__ import annotations

import ast
import inspect
import random
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore import heartbeat
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.retry import retry_invoker
from flwr.supercore.task_identity import TaskIdentity

from fedpriv import ComponentFailure
from fedpriv.runtime import flower_private

ROOT = Path(__file__).parent.parent
PUBLIC = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.simulation")
ALLOWED = {
    "fedpriv/runtime/flower_private.py": {
        "flwr.proto.node_pb2",
        "flwr.supercore",
        "flwr.supercore.inflatable",
        "flwr.supercore.retry",
        "flwr.supercore.run",
        "flwr.supercore.task_identity",
    },
    "fedpriv/runtime/flower_tasks.py": {
        "flwr.common.constant",
        "flwr.common.serde",
        "flwr.proto.recorddict_pb2",
        "flwr.proto.runtime_pb2",
        "flwr.supercore.constant",
        "flwr.supercore.heartbeat",
        "flwr.supercore.interceptors",
        "flwr.supercore.retry",
        "flwr.supercore.run",
        "flwr.supercore.runtime",
        "flwr.supercore.task_identity",
        "flwr.supernode.runtime.run_clientapp",
        "flwr.superlink.grid",
    },
}
"""Modules of ours by what they take of Flower; that it is there is seen where tests import them, in every version."""


def test_private_modules_are_imported_in_one_place_only() -> None:
    for folder in ("fedpriv", "strategies", "clients", "scenarios"):
        for path in (ROOT / folder).rglob("*.py"):
            found = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
                    found.add(node.module)
            private = {name for name in found if name not in PUBLIC}
            assert private <= ALLOWED.get(str(path.relative_to(ROOT)), set()), path


def test_pauses_of_flower_do_not_move_the_global_generator(monkeypatch: Any) -> None:
    """A dry run takes a generator that moved for a draw of the client's, and refuses it."""
    for module in (heartbeat, inflatable_utils, retry_invoker):
        monkeypatch.setattr(module, "random", random)  # and put back afterwards
        assert "random.uniform" in inspect.getsource(module)
    flower_private.draw_apart()
    before, beats = random.getstate(), []

    def beat() -> bool:
        beats.append(1)
        sender._stop_event.set()
        return True

    sender = heartbeat.HeartbeatSender(beat)
    sender._run()
    retry_invoker.full_jitter(1.0)
    assert (len(beats), random.getstate() == before) == (1, True)
    assert inflatable_utils.random is heartbeat.random


def test_identity_stamp_and_context() -> None:
    flower_private.set_identity(run_id=7, node_id=3)
    try:
        message = Message(RecordDict(), 5, "train")
        assert (message.metadata.run_id, message.metadata.src_node_id, TaskIdentity.task_id) == (7, 3, 7)
        flower_private.stamp(message, "number-1")
        assert message.metadata.message_id == "number-1"
        assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "number-1"
    finally:
        flower_private.set_identity()
    context = flower_private.new_context(4, **{"partition-id": 2})
    assert (context.node_id, context.node_config["partition-id"]) == (4, 2)
    assert flower_private.local_run().run_id == 1


def test_other_versions_are_refused(monkeypatch: Any) -> None:
    flower_private.check_version()
    for found in ("1.40.9", "1.43.0", "2.0"):
        monkeypatch.setattr(flower_private, "version", lambda _, found=found: found)
        with pytest.raises(ComponentFailure, match=found):
            flower_private.check_version()
