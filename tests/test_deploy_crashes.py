"""A node that may die between any two writes: it never answers a round in two ways, and never counts too little."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from test_deploy_node import ask, host, request, sums

from fedpriv import files
from fedpriv.deploy.host import NodeHost
from fedpriv.deploy.journal import NodeAccount, RunJournal
from fedpriv.deploy.old_runs import KEPT_RUNS
from fedpriv.errors import ComponentFailure
from fedpriv.protocol import RunName
from fedpriv.runs.atomic import read_members
from fedpriv.strategies.exchange import REFUSED_CODE

RUN = RunName("clinic", "one")


class Killed(BaseException):
    """The process ends here; nothing of it runs any more, and nothing leaves."""


@contextmanager
def dying(at: int | None) -> Iterator[None]:
    """Let the process die before its n-th step at which a file is made durable, put in place, linked or removed."""
    left = at

    def step(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*words: Any, **more: Any) -> Any:
            nonlocal left
            if left is not None:
                if left == 0:
                    raise Killed
                left -= 1
            return real(*words, **more)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", step(files.os.fsync))
        patch.setattr(files.os, "link", step(files.os.link))
        patch.setattr(Path, "replace", step(Path.replace))
        patch.setattr(Path, "unlink", step(Path.unlink))
        yield


def asked(node: NodeHost, number: int, shift: float, at: int | None) -> Message | None:
    """Ask a node that dies on the way, perhaps; what it said reaches the server only if it lives."""
    try:
        with dying(at):
            return ask(node, request(number, shift=shift))
    except Killed:
        return None


def answered(folder: Path) -> int:
    """Return the last round that a node's journal says it answered."""
    path = RunJournal(folder / "node.journal", RUN).path
    return int(read_members(path)[0]["rounds"]["train"]) if path.exists() else 0


STEP = st.tuples(
    st.one_of(st.none(), st.integers(0, 11)),  # at which write it dies
    st.booleans(),  # whether it dies once more, after the answer left
    st.sampled_from(["same", "next", "other"]),  # what is asked after that
)


@settings(max_examples=30, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=6))
def test_a_node_that_dies_anywhere_answers_once_counts_enough_and_keeps_its_states(
    steps: list[tuple[int | None, bool, str]],
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, straight_folder = Path(place) / "a", Path(place) / "b"
        folder.mkdir()
        straight_folder.mkdir()
        node, straight = host(folder), host(straight_folder)
        left: dict[int, dict[str, Any]] = {}
        wanted: dict[int, dict[str, Any]] = {}
        number, shift = 1, 0.0
        for at, dies, then in [*steps, (None, False, "next")]:
            known = answered(folder)
            reply = asked(node, number, shift, at)
            if reply is None or dies:
                node = host(folder)
            now = answered(folder)
            assert now in (known, number), "a journal is the one before or the one after"
            if now == number and number not in wanted:
                # The node has done this round: so does one that nothing happens to.
                wanted[number] = sums(ask(straight, request(number, shift=shift)))
            if reply is not None and not reply.has_error():
                assert now == number, "the journal is written before the reply leaves"
                for name, value in sums(reply).items():
                    np.testing.assert_array_equal(value, left.setdefault(number, sums(reply))[name])
                    np.testing.assert_array_equal(value, wanted[number][name], err_msg="its states are another node's")
            elif reply is not None:
                assert (reply.error.code, now) == (REFUSED_CODE, number), reply.error.reason
            account = NodeAccount(folder / "node.journal" / "account.json")
            counts = {sum(account.counts(name).values()) for name in account.names} or {0}
            assert min(counts) >= len(wanted), "an answer is counted before it can leave"
            if then == "next":
                number, shift = number + 1, shift + 0.25
            elif then == "other":
                shift += 0.125


def test_all_places_to_die_were_tried(tmp_path: Path) -> None:
    """The drawn numbers reach from the first write to past the last one, so no place is left out."""
    node = host(tmp_path)
    assert asked(node, 1, 0.0, None) is not None
    places = 0
    while asked(host(tmp_path), 2 + places, 0.0, places) is None:
        places += 1
    assert 5 <= places <= 11


def test_journals_of_the_last_runs_are_kept_and_a_run_without_one_is_refused(tmp_path: Path) -> None:
    node = host(tmp_path)
    runs = [RunName("clinic", f"run{number}") for number in range(KEPT_RUNS + 1)]
    for of in runs:
        assert not ask(node, request(1, of=of)).has_error()
        assert not ask(node, request(2, of=of)).has_error()
    there = [RunJournal(tmp_path / "node.journal", of).exists() for of in runs]
    assert there == [False] + [True] * KEPT_RUNS
    assert len(list((tmp_path / "node.journal").glob("run-*"))) == 2 * KEPT_RUNS
    for one in (node, host(tmp_path)):
        reply = ask(one, request(2, of=runs[0]))
        assert reply.error.code == REFUSED_CODE
        assert f"the last {KEPT_RUNS} runs" in reply.error.reason
        assert not ask(one, request(2, of=runs[1])).has_error(), "those of the others answer as before"
    assert not ask(host(tmp_path), request(1, of=RunName("clinic", "new"))).has_error(), "as the message says"
    (tmp_path / "node.journal" / "deleted.json").write_text("{")
    with pytest.raises(ComponentFailure, match=r"deleted\.json"):
        node._old.deleted(RunJournal(tmp_path / "node.journal", runs[0]).path)


def test_a_journal_is_listed_as_deleted_before_it_is(tmp_path: Path) -> None:
    """A node that dies on the way has too many journals, and answers no run whose states are gone."""
    node = host(tmp_path)
    runs = [RunName("clinic", f"run{number}") for number in range(KEPT_RUNS)]
    for of in runs:
        assert not ask(node, request(1, of=of)).has_error()
    for at in range(40):
        try:
            with dying(at):
                ask(host(tmp_path), request(1, of=RunName("clinic", f"last{at}")))
        except Killed:
            gone = [of for of in runs if not RunJournal(tmp_path / "node.journal", of).exists()]
            for of in gone:
                assert ask(host(tmp_path), request(2, of=of)).error.code == REFUSED_CODE
            if gone:
                return
    raise AssertionError("it was never killed after a journal was deleted")
