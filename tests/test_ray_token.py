"""Ray's ports are open to whoever shows the token of this very start, and to nobody else."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from helpers import toy_problem, toy_tasks
from test_ray_private import children

from fedpriv.clients import GlobalModel
from fedpriv.privacy.declaration import Declaration
from fedpriv.protocol import ALL, Request
from fedpriv.runtime import ray_private
from fedpriv.runtime.node import NodeSpec
from fedpriv.runtime.pool import ShardPool
from fedpriv.runtime.ray_grid import RayGrid

STRANGER = """
import sys
from fedpriv.runtime.pool import ShardPool
pool = ShardPool()
pool.connect(1, sys.argv[1])
pool.ray.get(pool.ray.remote(num_cpus=0)(lambda: None).remote())
print("joined, and ran code there")
"""


def visit(address: str, home: Path, **shown: str) -> subprocess.Popen[str]:
    """Let another process join the cluster, which finds no token of its own on this machine."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    mine |= {"HOME": str(home), "RAY_NUM_REDIS_GET_RETRIES": "1", **shown}
    words = [sys.executable, "-c", STRANGER, address]
    return subprocess.Popen(words, env=mine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_stranger_without_the_token_cannot_join_while_shards_work(tmp_path: Path, monkeypatch: Any) -> None:
    tokens: list[str] = []
    draw = ray_private.secrets.token_hex

    def token_hex(size: int) -> str:
        tokens.append(draw(size))
        return tokens[-1]

    monkeypatch.setattr(ray_private.secrets, "token_hex", token_hex)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whatever the user's shell says, or an earlier Ray left there
    (tmp_path / "home/.ray").mkdir(parents=True)
    (tmp_path / "home/.ray/auth_token").write_text("0" * 64)
    tasks = toy_tasks(4)
    problem = toy_problem(tasks)
    start = {ALL: {name: value.numpy() for name, value in problem.initial().items()}}
    content = Request(1, start, {ALL: np.arange(4)}, declared=Declaration(1.0)).to_content
    with ShardPool() as pool, RayGrid([NodeSpec(tasks, GlobalModel(), problem)], pool=pool) as grid:
        assert len(tokens) == 1
        assert len(tokens[0]) == 64, "256 bits"
        address = pool.ray.get_runtime_context().gcs_address
        kept = tmp_path / "token"
        kept.write_text(tokens[0])
        strangers = [
            visit(address, tmp_path),
            visit(address, tmp_path / "home", RAY_AUTH_MODE="token"),  # Ray's own file, with another token
            visit(address, tmp_path, RAY_AUTH_MODE="disabled"),
        ]
        friend = visit(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(kept))
        while any(one.poll() is None for one in [*strangers, friend]):
            (reply,) = grid.send_and_receive([Message(content(), 1, "evaluate")])
            assert not reply.has_error()
        for one in strangers:
            out, err = one.communicate()
            assert "joined" not in out
            assert "InvalidAuthToken" in err
            assert f"the Ray cluster at {address} cannot be joined" in err
            assert "give its token by RAY_AUTH_MODE=token with RAY_AUTH_TOKEN_PATH" in err
        out, err = friend.communicate()
        assert out == "joined, and ran code there\n", err
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
        assert tokens[0] not in os.environ.values(), "what this process starts later is a stranger, too"
        assert "gcs_server" in children()
        assert tokens[0] not in children(), "everybody can read command lines"
        place = Path(pool.ray._private.worker._global_node.get_session_dir_path())
        closed = [folder for folder in place.parents if folder.stat().st_mode & 0o077 == 0]
        assert any(folder.stat().st_uid == os.getuid() for folder in closed), "Ray lets everybody into its own folders"
        logs = [path.read_bytes() for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
        assert logs
        assert not any(tokens[0].encode() in one for one in logs)
    with ray_private.fresh_token():
        assert tokens[1] != tokens[0], "each start has a token of its own"
    ray_private.read_token()
    assert not ray_private.asks_for_tokens(), "afterwards Ray reads what the user's environment says"


def test_a_cluster_that_asks_for_no_token_is_joined_with_a_warning(monkeypatch: Any, caplog: Any) -> None:
    """Ray's own advice about tokens reaches the user as well."""

    class Open:
        """A cluster that is there already and lets everybody in."""

        @staticmethod
        def is_initialized() -> bool:
            return True

        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 1.0}

        @staticmethod
        def shutdown() -> None:
            raise AssertionError("it is not ours to stop")

    monkeypatch.setitem(sys.modules, "ray", Open)
    for asked, said in ((False, 1), (True, 0)):
        caplog.clear()
        monkeypatch.setattr(ray_private, "asks_for_tokens", lambda asked=asked: asked)
        with caplog.at_level(logging.WARNING, "fedpriv"), ShardPool() as pool:
            pool.connect(1)
        assert sum("asks nobody for a token" in line for line in caplog.messages) == said
    assert logging.getLogger("ray._private.authentication").isEnabledFor(logging.WARNING)
