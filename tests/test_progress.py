"""What is shown of long work: lines without a terminal, bars on one, and every phase of a run."""

from __future__ import annotations

import json
import sys
from threading import Event
from typing import Any

import pytest
from helpers import experiment, noisy, toy_tasks

from fedpriv import progress as shown
from fedpriv.progress import Lines, Progress, phase, show_part


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines() -> Any:
    clock, said = Clock(), []
    found = Lines(said.append, clock)
    found._thread = object()  # type: ignore[assignment] (the test looks by itself)
    return found, clock, said


def test_a_line_for_each_tenth_of_what_takes_longer_than_five_seconds(lines: Any) -> None:
    found, clock, said = lines
    for number in range(201):
        clock.now = number * 0.1
        found.update("training", "rounds", number, 200)
    assert said[0] == "training: 60 of 200 rounds, after 6 s", "the first tenth that ends after five seconds"
    assert said[1:] == [f"training: {done} of 200 rounds, after {done / 10:.0f} s" for done in range(80, 201, 20)]


def test_nothing_is_said_of_short_work(lines: Any) -> None:
    found, clock, said = lines
    for number in range(11):
        clock.now = number * 0.4
        found.update("training", "rounds", number, 10)
        found.look()
    found.end("training")
    assert said == []


def test_nothing_is_silent_for_more_than_a_minute(lines: Any) -> None:
    """Neither work of which nothing is known, nor a round that takes minutes."""
    found, clock, said = lines
    found.update("final fit", "", 0, None)
    for second in range(0, 130):
        clock.now = float(second)
        found.look()
    found.end("final fit")
    assert said == [
        *(f"final fit: at work, after {seconds} s" for seconds in (5, 65, 125)),
        "final fit: done after 129 s",
    ]
    said.clear()
    found.update("training", "rounds", 3, 400)
    clock.now += 70
    found.look()
    assert said == ["training: 3 of 400 rounds, after 70 s"]


def test_somebody_looks_while_the_work_says_nothing(monkeypatch: Any) -> None:
    monkeypatch.setattr(shown, "_QUIET_SECONDS", 0.0)
    heard, said = Event(), []

    def write(line: str) -> None:
        said.append(line)
        heard.set()

    found = Lines(write)
    found.update("final fit", "", 0, None)
    assert heard.wait(60)
    found.close()
    assert said[0].startswith("final fit: at work")


def phases_of(monkeypatch: Any, run: Any) -> list[str]:
    seen: list[str] = []

    class Heard:
        def update(self, what: str, unit: str, done: int, total: int | None) -> None:
            if what not in seen:
                seen.append(what)

        def end(self, what: str) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(shown, "_on_stderr", Heard)
    run()
    return seen


def test_every_phase_of_a_run_is_shown_also_from_python(monkeypatch: Any) -> None:
    run = experiment(toy_tasks(8), baseline=True, strategy=noisy(rounds=2))
    assert phases_of(monkeypatch, run.run) == [
        "calibration of the noise",
        "start of the nodes",
        "training",
        "final fit",
        "scores",
        "local-only reference",
        "states of the tasks",
        "accounting",
    ]
    told: list[tuple[int, int]] = []
    assert phases_of(monkeypatch, lambda: run.run(progress=lambda *step: told.append(step))) == []
    assert told == [(1, 2), (2, 2)], "a function of one's own is told of rounds, and nothing is shown"


def test_held_out_people_and_their_references_are_shown_and_can_be_left_out(fedpriv: Any, monkeypatch: Any) -> None:
    words = ["run", "maml", "--set=strategy.rounds=2", "--set=run.baseline=false", "--seed=1"]
    seen = phases_of(monkeypatch, lambda: fedpriv(*words, "--out=one"))
    assert {"data", "scores of held-out people", "pre-trained reference", "figures and report"} <= set(seen)
    seen = phases_of(monkeypatch, lambda: fedpriv(*words, "--out=two", "--set=run.references=false"))
    assert "scores of held-out people" in seen
    assert "pre-trained reference" not in seen
    code, out, _ = fedpriv("run", "maml", "--resume", "--out=two", "--json")

    assert code == 0
    assert set(json.loads(out)["diagnostics"]["held_out"]) == {"people", "billboard"}


def test_a_terminal_gets_bars_and_a_pipe_gets_none(capsys: Any, monkeypatch: Any) -> None:
    with Progress(quiet=False), phase("work"):
        show_part("part", "pieces", 1, 2)
    assert "\x1b" not in capsys.readouterr().err, "no terminal, no bars"
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(quiet=False) as bars, phase("work"):
        show_part("part", "pieces", 1, 2)
        bars(1, 2)
    written = capsys.readouterr().err
    assert "work" in written
    assert "1/2 rounds" in written
    with Progress(quiet=True), phase("work"):
        pass
    assert capsys.readouterr().err == ""
