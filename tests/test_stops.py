"""A command that is stopped says what is true: that it can go on, and how, or only that it stopped."""

from __future__ import annotations

import logging
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_cli import QUICK

RUN = ["run", "pmtl", *QUICK, "--set=data.tasks=20", "--set=strategy.delta=1e-3", "--set=run.report=false"]
SWEEP = ["sweep", "pmtl", *RUN[2:-1], "--grid=client.strength=0.5,1", "--seeds=1", "--jobs=1"]


def stopping(number: signal.Signals = signal.SIGINT) -> Callable[..., Any]:
    def stop(*_: Any, **__: Any) -> None:
        signal.raise_signal(number)

    return stop


def stopped_at(fedpriv: Any, place: str, *words: str, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """Stop a command when it comes to a function; return the exit code and the last line on stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, stopping(number))
        code, _, err = fedpriv(*words)
    return code, err.splitlines()[-1]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("fedpriv.privacy.account.Account", ["account", "--noise-multiplier=1", "--rounds=3", "--population=100"]),
        ("fedpriv.cli.ledger._open", ["ledger", "show", "here"]),
        ("fedpriv.cli.ledger._open", ["ledger", "check", "here"]),
        ("fedpriv.report.write_report", ["report", "here"]),
        ("fedpriv.cli.attack.parse_assignments", ["attack", "here"]),
        ("fedpriv.opening.personal_of_run", ["models", "here"]),
        ("fedpriv.data.check", ["data", "check"]),
        ("fedpriv.cli.run.completed", RUN),
        ("fedpriv.experiment.execution.RunFolder.__init__", RUN),
        ("fedpriv.experiment.execution.RunFolder.started", [*RUN, "--out=here"]),
        ("fedpriv.sweep.jobs.check_jobs", SWEEP),
    ],
)
def test_what_cannot_go_on_only_says_that_it_stopped(fedpriv: Any, place: str, words: list[str]) -> None:
    assert stopped_at(fedpriv, place, *words) == (130, "fedpriv: stopped.")
    assert stopped_at(fedpriv, place, *words, number=signal.SIGTERM) == (143, "fedpriv: stopped.")
    if words[0] in ("run", "sweep"):  # the same command works, without --resume
        assert fedpriv(*words)[0] == 0


@pytest.mark.parametrize("out", [[], ["--out=here"]])
@pytest.mark.parametrize(
    ("place", "words"), [("fedpriv.experiment.execution.serve", RUN), ("fedpriv.sweep.runner.JobRunner.run", SWEEP)]
)
def test_what_can_go_on_does_by_the_words_it_says(
    fedpriv: Any, tmp_path: Path, place: str, words: list[str], out: list[str]
) -> None:
    code, said = stopped_at(fedpriv, place, *words, *out)
    before, _, more = said.removesuffix(".").partition("go on with ")
    assert (code, before) == (130, "fedpriv: stopped; ")
    there = len(list(tmp_path.iterdir()))
    code, printed, err = fedpriv(*words, *out, *shlex.split(more))
    assert code == 0, err
    assert "finished; nothing was trained" not in printed
    assert len(list(tmp_path.iterdir())) == there, "in the same folder"
    assert len(list(tmp_path.rglob("summary.json"))) == (2 if words is SWEEP else 1)


def test_a_folder_that_holds_another_run_is_not_gone_on_with(fedpriv: Any) -> None:
    assert stopped_at(fedpriv, "fedpriv.experiment.execution.serve", *RUN, "--out=here")[1].endswith(
        "go on with --resume."
    )
    other = [*RUN, "--set=client.strength=3.0", "--out=here"]
    assert stopped_at(fedpriv, "fedpriv.cli.run.completed", *other) == (130, "fedpriv: stopped.")


def test_who_calls_the_command_from_python_has_signals_and_logger_as_before(fedpriv: Any, monkeypatch: Any) -> None:
    logger = logging.getLogger("fedpriv")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", level := logging.WARNING)
    before = signal.signal(signal.SIGTERM, mine := stopping())
    try:
        for words, code in {("list",): 0, ("report", "nowhere"): 2, ("--version",): 0, ("lsit",): 2}.items():
            assert fedpriv(*words)[0] == code
            assert signal.getsignal(signal.SIGTERM) is mine
            assert (logger.handlers, logger.level) == ([], level)
    finally:
        signal.signal(signal.SIGTERM, before)
