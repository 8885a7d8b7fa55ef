"""What fedpriv uses of Ray beyond its public interface."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fedpriv.runtime.pool import ShardPool


def children() -> str:
    """Return the command lines of this process's children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # on its way out
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return "\n".join(found)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_ray_starts_in_the_background_lives_on_and_has_no_idle_services() -> None:
    """Ray's processes die with the thread that started them; the ones that nobody asks are not there at all."""
    with ShardPool() as pool:
        pool.warm(1)
        pool.connect(1)
        time.sleep(1.0)  # as long as the thread would have taken to end
        (shard,) = pool._idle
        assert pool.ray.get(shard.process.remote()) > 0
        running = children()
        assert "raylet" in running
        assert "gcs_server" in running
        for unasked in ("monitor.py", "log_monitor.py", "dashboard.py"):
            assert unasked not in running, unasked
        from ray._private.node import Node

        assert Node.start_monitor.__module__ == "ray._private.node", "Ray is as it was once it has started"
