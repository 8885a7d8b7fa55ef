"""Lines to shards: whatever carries the messages, the same arrives, and a shard that is lost or late is noticed."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from helpers import experiment, noisy, personal, same, toy_tasks

from fedpriv import ComponentFailure, InputError
from fedpriv.experiment import ModelSettings
from fedpriv.protocol import ALL, Reply, Request
from fedpriv.runtime import ray_grid
from fedpriv.runtime.grid import InProcessGrid
from fedpriv.runtime.lines import Line, answer, connect, open_lines, ready
from fedpriv.runtime.pool import ShardPool
from fedpriv.runtime.ray_grid import RayGrid
from fedpriv.runtime.short_folder import short_folder
from fedpriv.strategies import exchange


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
            line.send(message)
            assert ready([line], 10) == [line]
            assert line.receive() == message[::-1]
        line.send(b"nobody waits for this answer")
        line.close()
        thread = shards[number].thread
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()


def ends() -> tuple[Line, socket.socket]:
    one, other = socket.socketpair()
    return Line(one), other


def test_nobody_waits_for_a_side_that_stops_in_the_middle_of_a_message() -> None:
    (stuck, deaf), (half, mute), (whole, peer) = ends(), ends(), ends()
    stuck.send(bytes(10_000_000))  # more than a socket holds, and nobody reads it
    assert stuck.sending
    mute.sendall((60_000).to_bytes(8) + bytes(30_000))
    peer.sendall((5).to_bytes(8) + b"whole")
    assert ready([stuck, half, whole], 5.0) == [whole]
    assert whole.receive() == b"whole"
    began = time.monotonic()
    assert ready([stuck, half, whole], 0.2) == []
    assert ready([stuck, half, whole], 0.0) == []
    assert time.monotonic() - began < 5
    mute.sendall(bytes(30_000))
    assert ready([stuck, half, whole], 5.0) == [half]
    assert half.receive() == bytes(60_000)
    for end in (deaf, mute, peer):
        end.close()
    broken = ready([stuck, half, whole], 5.0)
    for line in broken:
        with pytest.raises(EOFError):
            line.receive()
    assert broken
    for line in (stuck, half, whole):
        line.close()


def test_a_line_that_cannot_send_lets_the_other_side_go() -> None:
    line, peer = ends()

    class Full:
        """A socket whose kernel has no room left for more than a message's head."""

        def __init__(self, end: socket.socket) -> None:
            self.end = end

        def send(self, part: Any) -> int:
            if len(part) > 8:
                raise OSError(105, "no buffer space")
            return self.end.send(part)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.end, name)

    line._end = Full(line._end)  # type: ignore[assignment]
    line.send(bytes(100))
    peer.settimeout(10)
    assert peer.recv(100) == (100).to_bytes(8)
    assert peer.recv(1) == b""
    peer.close()
    assert ready([line], 10) == [line]
    line.close()


def test_a_line_takes_one_message_at_a_time() -> None:
    line, peer = ends()
    line.send(bytes(10_000_000))
    with pytest.raises(RuntimeError, match="one message at a time"):
        line.send(b"another")
    line.close()
    peer.close()


def test_who_hangs_up_is_heard_even_where_a_forked_process_holds_the_line() -> None:
    line, peer = ends()
    kept = os.dup(line.fileno())  # as a child process has it
    line.close()
    peer.settimeout(10)
    assert peer.recv(1) == b""
    os.close(kept)
    peer.close()


def test_without_a_place_for_a_socket_everything_is_left_to_ray(monkeypatch: Any, tmp_path: Any) -> None:
    deep = tmp_path / ("d" * 120)  # more than the name of a socket may hold
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.setattr("fedpriv.runtime.lines.short_folder", partial(short_folder, ["/proc/none"]))
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
        carried.append("line" if isinstance(found, Line) else "parcel" if parcel else "ray")
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

        grid._lines[1].send(b"no message")  # what answers the line fails, and the process lives
        equal(expected[3], updates(grid.send_and_receive(messages(4))))
        assert grid.processes()[1] != processes[1]
        assert set(grid._lines) == {1}, "a shard that was rebuilt has a line again"
        twice = grid.send_and_receive([*messages(5), *messages(6)])
        assert len(twice) == 4
        equal(expected[4], updates(twice[:2]))
        equal(expected[5], updates(twice[2:]))


@pytest.mark.timeout(300)
def test_a_stopped_shard_is_late_whatever_the_size_of_a_message(pool: ShardPool) -> None:
    """And has trained on it all the same, as a shard has that is rebuilt after it."""
    wide = personal_of(toy_tasks(4, features=500), hidden=400)
    billboard = {name: value.numpy() for name, value in wide.problem().initial().items()}
    assert sum(value.nbytes for value in billboard.values()) > 700_000
    specs = wide.specs(wide.problem(), 2)
    undisturbed = InProcessGrid(specs)
    expected = [updates(undisturbed.send_and_receive(asked(number, billboard))) for number in range(1, 5)]
    with RayGrid(specs, pool=pool) as grid:
        equal(expected[0], updates(grid.send_and_receive(asked(1, billboard))))
        stopped = grid.processes()[2]
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        equal({1: expected[1][1]}, updates(grid.send_and_receive(asked(2, billboard), timeout=3.0)))
        assert time.monotonic() - began < 30
        os.kill(stopped, signal.SIGCONT)
        equal(expected[2], updates(grid.send_and_receive(asked(3, billboard))))
        os.kill(stopped, signal.SIGKILL)
        equal(expected[3], updates(grid.send_and_receive(asked(4, billboard))))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", ["sent", "waiting", "answered"])
def test_a_round_that_was_interrupted_did_not_happen(pool: ShardPool, monkeypatch: Any, where: str) -> None:
    """Its answers are not taken for those of the next round, and shards are what they were before it."""
    small = personal_of(toy_tasks(4))
    billboard = {name: value.numpy() for name, value in small.problem().initial().items()}
    specs = small.specs(small.problem(), 2)
    undisturbed = InProcessGrid(specs)
    expected = [updates(undisturbed.send_and_receive(asked(number, billboard))) for number in (1, 3)]
    with RayGrid(specs, pool=pool) as grid:
        equal(expected[0], updates(grid.send_and_receive(asked(1, billboard))))

        def interrupt(*_: Any) -> Any:
            raise KeyboardInterrupt

        def send(line: Line, message: bytes) -> None:
            original(line, message)
            raise KeyboardInterrupt

        original = Line.send
        with monkeypatch.context() as patch:
            if where == "sent":
                patch.setattr(Line, "send", send)
            else:
                patch.setattr(ray_grid, "ready" if where == "waiting" else "unpack", interrupt)
            with pytest.raises(KeyboardInterrupt):
                grid.send_and_receive(asked(2, billboard))
        sent = asked(3, billboard)
        replies = grid.send_and_receive(sent)
        assert [one.metadata.reply_to_message_id for one in replies] == [one.metadata.message_id for one in sent]
        equal(expected[1], updates(replies))


@pytest.mark.timeout(300)
def test_a_half_sent_message_goes_on_while_another_shard_is_waited_for_over_ray(pool: ShardPool) -> None:
    wide = personal_of(toy_tasks(4, features=500), hidden=400)
    billboard = {name: value.numpy() for name, value in wide.problem().initial().items()}
    with RayGrid(wide.specs(wide.problem(), 2), pool=pool) as grid:
        grid._hang_up(1)
        processes = grid.processes()
        for process in processes.values():
            os.kill(process, signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (processes[2], signal.SIGCONT)).start()
        replies = grid.send_and_receive(asked(1, billboard), timeout=8.0)
        os.kill(processes[1], signal.SIGCONT)
        assert [one.metadata.src_node_id for one in replies] == [2]


@pytest.mark.timeout(300)
def test_what_ended_a_shard_is_said(pool: ShardPool, monkeypatch: Any) -> None:
    monkeypatch.setattr(ray_grid, "_MAX_REBUILDS", 0)
    small = experiment(toy_tasks(4))
    billboard = {name: value.numpy() for name, value in small.problem().initial().items()}
    with RayGrid(small.specs(small.problem(), 2), pool=pool) as grid:
        grid._lines[1].send(b"no message")
        with pytest.raises(ComponentFailure, match=r"shard 1 died 1 times in one round \(UnpicklingError: "):
            grid.send_and_receive(asked(1, billboard))
        pool.stop(grid.actors.values())
        grid.actors = {}


@pytest.mark.timeout(300)
def test_a_shard_of_one_task_that_keeps_dying_counts_as_zero_alone(pool: ShardPool, monkeypatch: Any) -> None:
    """As a failed node with one task does on every grid; the others are not stopped, and the shard is built again."""
    monkeypatch.setattr(ray_grid, "_MAX_REBUILDS", 0)
    small = experiment(toy_tasks(2))
    billboard = {name: value.numpy() for name, value in small.problem().initial().items()}
    with RayGrid(small.specs(small.problem(), 2), pool=pool) as grid:
        grid._lines[1].send(b"no message")
        replies = list(grid.send_and_receive(asked(1, billboard, 1)))
        assert [one.has_error() for one in replies] == [True, False]
        assert replies[0].error.reason == "its shard died 1 times in one round"
        assert not any(one.has_error() for one in grid.send_and_receive(asked(2, billboard, 1)))


@pytest.mark.timeout(300)
def test_answers_come_in_the_order_of_the_questions(pool: ShardPool, monkeypatch: Any) -> None:
    """From three shards on, the last bits of a sum tell in which order its terms came."""
    run = personal(strategy=noisy(rounds=3), shards=4, grid="ray")
    found = []
    for order in (1, -1):

        def all_at_once(lines: Any, timeout: Any, order: int = order) -> Any:
            lines = list(lines)
            while waiting := [line for line in lines if not line.settled]:
                ready(waiting, timeout)
            return lines[::order]

        monkeypatch.setattr(ray_grid, "ready", all_at_once)
        found.append(run.run(reproduce=6, pool=pool).billboards[ALL])
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value)


def personal_of(tasks: Any, hidden: int = 7) -> Any:
    """Tasks whose answers tell in which rounds they took part."""
    return personal().model_copy(
        update={"tasks": tasks, "model": ModelSettings(name="mlp", settings={"hidden": hidden})}
    )


def asked(round: int, billboard: dict[str, Any], each: int = 2) -> list[Message]:
    hosted = {1: np.arange(each), 2: np.arange(each, 2 * each)}
    return [
        Message(
            Request(round=round, billboards={ALL: billboard}, tasks={ALL: ids}).to_content(),
            node,
            "train",
            group_id=str(round),
        )
        for node, ids in hosted.items()
    ]


@pytest.mark.timeout(300)
def test_a_shard_that_misses_the_deadline_is_asked_again_and_does_nothing_twice(
    pool: ShardPool, monkeypatch: Any
) -> None:
    """Its tasks' states are those of a run in which nothing happened, the noise that they add themselves as well."""
    settings = {
        "strategy": noisy(rounds=3, sampling_rate=1.0, noise_at="node", reply="rows"),
        "timeout": 2.0,
        "attempts": 100,
    }
    reference = personal(**settings).run(reproduce=6)
    deliver, again = RayGrid.deliver, exchange._again
    stopped: list[int] = []

    def delivered(self: RayGrid, messages: Any, timeout: Any) -> Any:
        of = messages[0].metadata
        if (of.message_type, of.group_id) in (("train", "2"), ("train.finish", "0")) and len(messages) == 2:
            stopped.append(self.processes()[2])
            os.kill(stopped[-1], signal.SIGSTOP)
        return deliver(self, messages, timeout)

    def asked_again(message: Message, attempt: int) -> Message:
        if message.metadata.dst_node_id == 2:
            os.kill(stopped[-1], signal.SIGCONT)
        return again(message, attempt)

    monkeypatch.setattr(RayGrid, "deliver", delivered)
    monkeypatch.setattr(exchange, "_again", asked_again)
    found = personal(grid="ray", **settings).run(reproduce=6, pool=pool)
    assert len(stopped) >= 2
    same(reference, found, 1e-9)


@pytest.mark.timeout(300)
def test_a_second_run_in_this_process_is_told_at_once(pool: ShardPool) -> None:
    """And one that asks a Ray with fewer cores for more shards, which would wait for cores that never come."""
    run = personal(grid="ray")
    with RayGrid(run.specs(run.problem(), 2), pool=pool) as grid:
        told: list[str] = []

        def second(**more: Any) -> None:
            with pytest.raises(InputError) as caught:
                run.run(**more)
            told.append(str(caught.value))

        for more in ({}, {"pool": pool}):
            thread = threading.Thread(target=second, kwargs=more)
            thread.start()
            thread.join()
        assert "has this process's Ray" in told[0]
        assert "this ShardPool is at work in another run" in told[1]
        assert len(grid.processes()) == 2, "the first run goes on"
    with RayGrid(run.specs(run.problem(), 2), pool=pool):
        pass  # given back, it may be used again


@pytest.mark.timeout(300)
def test_a_ray_with_too_few_cores_is_told_at_once(pool: ShardPool, monkeypatch: Any) -> None:
    pool.connect(2)
    pool.give_back([])
    cores = pool._room  # earlier tests may have wanted more
    monkeypatch.setattr(ShardPool, "_owner", None)  # as if somebody else had started it
    told = rf"has {cores} cores, and {cores + 1} shards need one each; set run\.shards={cores}"
    with pytest.raises(InputError, match=told):
        personal(grid="ray", shards=cores + 1).run(reproduce=6)
    with ShardPool() as theirs:
        theirs.connect(cores)  # as many shards as it says
    monkeypatch.undo()
    pool.connect(cores + 1)  # its start is fedpriv's, which gives it as many as it needs
    pool.give_back([])
    assert pool._room == cores + 1
