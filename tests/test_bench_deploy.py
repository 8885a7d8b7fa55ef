"""The parts of the benchmark of deployed rounds: CPU by kind of process, bytes through a relay, and the page."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.deploy.page import page
from benchmarks.deploy.processes import Use, kind_of, uses
from benchmarks.deploy.relay import Relay


def test_processes_are_known_by_their_commands() -> None:
    assert kind_of("/bin/python -m fedpriv.deploy.worker_process a.toml") == "our worker"
    assert kind_of("/bin/python /bin/flower-superlink --port 1") == "SuperLink"
    assert kind_of("/bin/python /bin/flwr-clientapp") == "process per message"
    assert kind_of("sleep 1") == "other"


def test_cpu_of_children_that_ended_is_counted_once() -> None:
    before = uses([os.getpid()])
    code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = uses([os.getpid()])

    def total(found: dict[str, Use]) -> Use:
        return sum(found.values(), Use())

    assert 0.25 <= total(after).ended - total(before).ended <= 3.0
    assert total(after).count >= 1
    assert total(after).mebibytes > 10


def test_a_relay_counts_what_goes_up_and_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Relay(server.getsockname()[1]) as relay:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100) == b"question"
                connection.sendall(b"the answer")

        thread = threading.Thread(target=answer)
        thread.start()
        with socket.create_connection(("127.0.0.1", relay.port), timeout=30) as node:
            node.sendall(b"question")
            found = b""
            while part := node.recv(100):
                found += part
        thread.join()
        assert found == b"the answer"
        assert (relay.up, relay.down) == (len(b"question"), len(b"the answer"))


KEPT = {"machine": "a machine", "versions": "versions", "date": "2026-01-01"}


def side(name: str, nodes: int, cpu: dict[str, float]) -> dict[str, object]:
    return {
        "side": name,
        "nodes": nodes,
        "rounds": 3,
        "start_seconds": 20.0,
        "seconds": 4.0,
        "cpu": cpu,
        "cpu_seconds": sum(cpu.values()),
        "up": 2000.0,
        "down": 1000.0,
        "memory": {"SuperLink": 150.0},
    }


def test_the_page_says_the_ratio_of_each_turn_and_attributes_all_seconds() -> None:
    # A process that was alive at the beginning, and ended: its seconds go over to its parent's.
    stock = {"SuperNode": 1.0, "other": -1.5, "process per message": 1.5}
    ours = {"our worker": 0.25, "our front": 0.25, "SuperLink": 0.5}
    turns = [
        {"ours": side("ours", 2, ours), "stock": side("stock", 2, {**stock, "superexec, ended": value})}
        for value in (4.0, 8.0)
    ]
    text = page(KEPT | {"turns": turns})
    assert "| 2 | 2 | 1.00 | 7.0 | 7.0 (5.0 to 9.0) |" in text
    seconds, memory = (text.split(title)[1].split("\n## ")[0] for title in ("## Where the CPU", "## Resident memory"))
    assert summed(seconds) == pytest.approx([1.0, 7.0], abs=0.03)
    assert summed(memory) == [150.0, 150.0]
    assert text.count("| 2 | Flower's way | 3 | 4.0 |") == len(turns)
    assert "7.0 (one turn)" not in text
    assert "5.0 (one turn)" in page(KEPT | {"turns": turns[:1]}), "one turn has no interval"


def summed(part: str) -> list[float]:
    table = [line.split("|")[2:-1] for line in part.splitlines() if line.startswith("| ")][2:]
    return [sum(map(float, column)) for column in zip(*table, strict=True)]


def test_the_page_in_docs_is_that_of_the_kept_turns() -> None:
    root = Path(__file__).resolve().parent.parent
    kept = json.loads((root / "benchmarks/deploy/results.json").read_text(encoding="utf-8"))
    assert (root / "docs/deploy-costs.md").read_text(encoding="utf-8") == page(kept)
    assert all(turn["stock"]["cpu_seconds"] >= 4 * turn["ours"]["cpu_seconds"] for turn in kept["turns"])
