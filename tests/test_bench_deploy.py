"""The parts of the benchmark of deployed rounds: CPU by kind of process, bytes through a relay, and the page."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

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


def side(name: str, nodes: int, cpu: dict[str, float]) -> dict[str, object]:
    return {
        "side": name,
        "nodes": nodes,
        "seconds": 4.0,
        "cpu": cpu,
        "cpu_seconds": sum(cpu.values()),
        "up": 2000.0,
        "down": 1000.0,
        "memory": {"SuperLink": 150.0},
    }


def test_the_page_says_the_ratio_of_each_turn_and_attributes_all_seconds() -> None:
    ours = {"our worker": 0.25, "our front": 0.25, "SuperLink": 0.5}
    turns = [
        {"ours": side("ours", 2, ours), "stock": side("stock", 2, {"superexec, ended": value, "SuperNode": 1.0})}
        for value in (4.0, 8.0)
    ]
    text = page({"turns": turns, "machine": "a machine", "date": "2026-01-01"})
    assert "| 2 | 2 | 1.00 | 7.0 | 7.0 (5.0 to 9.0) |" in text
    table = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    rows = [[float(cell) for cell in row[2:4]] for row in table if row[2].strip().replace(".", "").isdigit()]
    assert [sum(column) for column in zip(*rows, strict=True)] == pytest.approx([1.0, 7.0], abs=0.03)
