"""Lines to shards: whatever carries the messages, the same arrives, and a shard that is lost or late is noticed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from test_billboard import noisy
from test_resume import personal, same

from fedpriv.protocol import ALL, Reply, Request
from fedpriv.runtime import ray_grid
from fedpriv.runtime.grid import InProcessGrid
from fedpriv.runtime.lines import answer, connect, open_lines
from fedpriv.runtime.pool import ShardPool
from fedpriv.runtime.ray_grid import RayGrid


@pytest.fixture(scope="module")
def pool() -> Iterator[ShardPool]:
    with ShardPool() as shards:
        yield shards


class Dead(Exception):
    """Stands for Ray's word that an actor is gone."""


class FakeRay:
    """As much of Ray as :func:`open_lines` asks for; a call is a function that has not been called yet."""

    class exceptions:  # noqa: N801 (Ray's name)
        RayActorError = Dead

    @staticmethod
    def get(call: Any) -> Any:
        return call()


class FakeShard:
    """A shard whose process is this one: here, on another machine, or dead."""

    def __init__(self, place: str) -> None:
        self.thread: threading.Thread | None = None
        self.place = place
        self.connect = self

    def remote(self, address: str, number: int) -> Any:
        def call() -> bool:
            if self.place == "dead":
                raise Dead
            line = connect(address if self.place == "here" else f"{address}-elsewhere", number)
            if line is None:
                return False
            self.thread = threading.Thread(target=answer, args=(line, lambda message: message[::-1]))
            self.thread.start()
            return True

        return call


def test_lines_reach_who_is_here_and_end_when_they_are_hung_up() -> None:
    shards = {7: FakeShard("here"), 2: FakeShard("dead"), 3: FakeShard("elsewhere"), 1: FakeShard("here")}
    lines = open_lines(FakeRay, shards)
    assert set(lines) == {7, 1}
    for number, line in lines.items():
        for size in (0, 5, 3_000_000):
            message = os.urandom(size)
            line.send_bytes(message)
            assert line.recv_bytes() == message[::-1]
        line.send_bytes(b"nobody waits for this answer")
        line.close()
        thread = shards[number].thread
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()


def test_without_a_place_for_a_socket_everything_is_left_to_ray(monkeypatch: Any, tmp_path: Any) -> None:
    deep = tmp_path / ("d" * 120)  # more than the name of a socket may hold
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert open_lines(FakeRay, {1: FakeShard("here")}) == {}
    assert not any(deep.iterdir())


@pytest.mark.timeout(300)
def test_whatever_carries_the_messages_the_numbers_are_the_same(pool: ShardPool, monkeypatch: Any) -> None:
    """Lines to all shards, to one, to none; and large records, which go through Ray's memory."""
    short = personal(strategy=noisy(rounds=3))
    reference = short.run(reproduce=6)
    carried: list[str] = []
    original = RayGrid._send

    def send(self: RayGrid, message: Message, parcel: Any) -> Any:
        found = original(self, message, parcel)
        carried.append("line" if isinstance(found, Connection) else "parcel" if parcel else "ray")
        return found

    monkeypatch.setattr(RayGrid, "_send", send)
    for reached, large, expected in (
        ({1, 2}, 4_000_000, {"line"}),
        ({1}, 4_000_000, {"line", "ray"}),
        (set[int](), 4_000_000, {"ray"}),
        ({1, 2}, 1, {"line", "parcel"}),  # what holds no billboard goes by the line
    ):
        monkeypatch.setattr(
            ray_grid,
            "open_lines",
            lambda ray, shards, reached=reached: open_lines(ray, {k: v for k, v in shards.items() if k in reached}),
        )
        monkeypatch.setattr(ray_grid, "_LARGE_FOR_LINES", large)
        carried.clear()
        same(reference, short.model_copy(update={"grid": "ray"}).run(reproduce=6, pool=pool), 1e-9)
        assert set(carried) == expected


def messages(round: int, nodes: tuple[int, ...] = (1, 2)) -> list[Message]:
    billboard = {name: value.numpy() * (1 + round) for name, value in personal().problem().initial().items()}
    hosted = {1: np.arange(4), 2: np.arange(4, 7)}
    asked = (Request(round=round, billboards={ALL: billboard}, tasks={ALL: hosted[node]}) for node in nodes)
    return [
        Message(one.to_content(), node, "train", group_id=str(round)) for node, one in zip(nodes, asked, strict=True)
    ]


def updates(replies: list[Message]) -> dict[int, dict[str, Any]]:
    return {one.metadata.src_node_id: Reply.from_content(one.content).updates[ALL] for one in replies}


def equal(one: dict[int, dict[str, Any]], two: dict[int, dict[str, Any]]) -> None:
    assert one.keys() == two.keys()
    for node, arrays in one.items():
        for name, value in arrays.items():
            np.testing.assert_allclose(two[node][name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.timeout(300)
def test_a_late_shard_is_missing_and_a_lost_one_is_rebuilt(pool: ShardPool, tmp_path: Any) -> None:
    """Both with every round that they trained in: the next answers are those of nodes to which nothing happened."""
    experiment = personal()
    specs = experiment.specs(experiment.problem(), 2)
    undisturbed = InProcessGrid(specs)
    expected = [updates(undisturbed.send_and_receive(messages(number))) for number in range(1, 7)]
    with RayGrid(specs, pool=pool) as grid:
        grid.snapshot(tmp_path, 0)
        equal(expected[0], updates(grid.send_and_receive(messages(1))))

        processes = grid.processes()
        os.kill(processes[2], signal.SIGSTOP)
        late = updates(grid.send_and_receive(messages(2), timeout=3.0))
        equal({1: expected[1][1]}, late)
        os.kill(processes[2], signal.SIGCONT)
        assert set(grid._lines) == {1}, "an answer that is too late must not be taken for the next one"
        equal(expected[2], updates(grid.send_and_receive(messages(3))))

        grid._lines[1].send_bytes(b"no message")  # what answers the line fails, and the process lives
        equal(expected[3], updates(grid.send_and_receive(messages(4))))
        assert grid.processes()[1] != processes[1]
        assert set(grid._lines) == {1}, "a shard that was rebuilt has a line again"
        twice = grid.send_and_receive([*messages(5), *messages(6)])
        assert len(twice) == 4
        equal(expected[4], updates(twice[:2]))
        equal(expected[5], updates(twice[2:]))
