"""A finished run is read back only if its ledger still says the same: before any number is printed, by every reader."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import experiment, noisy, toy_tasks
from ledgers import alter, forge, make_older
from test_group_epsilons import experiment as grouped
from test_ledger_chain import columns

from fedpriv import Experiment
from fedpriv.clients import LocalOnly
from fedpriv.config import apply, build_experiment, parse_assignments
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy import Ledger
from fedpriv.report import read_run, write_report
from fedpriv.runs.finished import read_record
from fedpriv.runs.ledger_check import check_finished
from fedpriv.runs.record import RunRecord, plain
from fedpriv.scenarios import scenario
from fedpriv.strategies import Silent
from fedpriv.sweep.jobs import Job, run_job

SETTINGS = [
    *(
        "run.grid=in-process",
        "strategy.rounds=3",
        "strategy.noise_multiplier=3.0",
        "data.tasks=20",
        "model.name=linear",
    ),
    *("model.name=linear", "client.epochs=1", "client.final_epochs=1", "run.baseline=false", "strategy.delta=1e-3"),
]


def job(folder: Path) -> Job:
    config = apply(scenario("pmtl").preset(), parse_assignments(SETTINGS))
    return Job(folder, config, 0, {}, None, {"scenario": "pmtl", "preset": "digits"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Path:
    """A finished run of three rounds, what its ledger was after two of them, and another such run."""
    place: Path = tmp_path_factory.mktemp("made")

    def keep(done: int, _: int | None) -> None:
        if done == 2:
            (place / "old").mkdir(exist_ok=True)
            for name in ("ledger.sqlite", "ledger.sqlite.head"):
                shutil.copy(place / "new" / name, place / "old" / name)

    run_job(job(place / "new"), build_experiment, progress=keep)
    (place / "new").rename(place / "run")  # a folder may be moved
    run_job(job(place / "other"), build_experiment)
    return place


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """The finished run, to be damaged."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def put(run: Path, of: str, *names: str) -> None:
    for name in names:
        shutil.copy(run.parent / of / name, run / name)


BOTH = ("ledger.sqlite", "ledger.sqlite.head")
NOISE = "UPDATE releases SET release = replace(release, '3.0', '30.0')"
GONE = ("DELETE FROM entries WHERE id = 3", "UPDATE sqlite_sequence SET seq = 2")
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "put back": (
        lambda run: put(run, "old", *BOTH),
        r"ledger\.head has seen 4, so an older copy was put back; restore",
    ),
    "put back alone": (lambda run: put(run, "old", BOTH[0]), "has seen 4, so an older copy was put back"),
    "another one": (lambda run: put(run, "other", *BOTH), "another ledger was put in place; restore the newer"),
    "cut": (lambda run: cut(run / BOTH[0]), "so it was cut"),
    "empty": (lambda run: (run / BOTH[0]).write_bytes(b""), "its history is lost"),
    "gone": (lambda run: (run / BOTH[0]).unlink(), "is gone, which holds what the run in .* has released; restore it"),
    "changed": (lambda run: alter(run / BOTH[0], NOISE), "was changed after it was written"),
    "made anew, with less noise": (lambda run: forge(run / BOTH[0], NOISE), "holds another release for round 1"),
    "made anew, without a round": (lambda run: forge(run / BOTH[0], *GONE), "does not hold round 3"),
    "a head of nothing": (lambda run: (run / "checkpoints/ledger.head").write_bytes(b""), r"ledger\.head, .* damaged"),
    "half a head": (lambda run: cut(run / BOTH[1]), r"sqlite\.head, .* damaged"),
}


def more(run: Path) -> None:
    """Charge a round that the summary knows nothing of."""
    ledger = Ledger(run / BOTH[0])
    (entry, *_) = ledger.entries(ledger.populations()[0])
    ledger.charge(entry.population, entry.run, 4, entry.group, entry.release)


DAMAGE["more"] = (more, r"says epsilon 0\.\d+ of the personal models where it is 0\.\d+ by ledger")


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_number_is_printed_of_a_run_whose_ledger_says_otherwise(run: Path, fedpriv: Any, damage: str) -> None:
    do, words = DAMAGE[damage]
    do(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for command in (
        ("run", "pmtl", "--out", "run", "--resume"),
        ("run", "pmtl", "--out", "run", "--resume", "--json"),
        ("report", "run"),
    ):
        code, out, err = fedpriv(*command)
        assert (code in (2, 4), out, err.count("\n")) == (True, "", 1), (command, out, err)
        assert re.search(words, err), err
    mine = job(run)
    for ask in (
        lambda: run_job(mine, build_experiment),
        mine.record,
        lambda: read_run(run),
    ):
        with pytest.raises((InputError, ComponentFailure), match=words):
            ask()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "reading changes nothing"


@pytest.mark.parametrize(("table", "column"), columns())
def test_no_value_of_the_ledger_may_be_another(run: Path, table: str, column: str) -> None:
    check_finished(run, read_record(run))
    other = f"CASE typeof({column}) WHEN 'text' THEN {column} || '0' WHEN 'null' THEN '2' ELSE {column} + 90 END"
    row = "SELECT max(rowid) FROM"
    alter(run / BOTH[0], f"UPDATE {table} SET {column} = {other} WHERE rowid = ({row} {table})")
    with pytest.raises(ComponentFailure, match="restore it from a backup"):
        check_finished(run, read_record(run))


def as_told(run: Path) -> None:
    """Do what the sentences about a summary advise."""
    (run / "summary.json").unlink()


def edit(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a summary of an earlier version, which kept no digest."""
    path = run / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    change(summary)
    path.write_text(json.dumps(summary), encoding="utf-8")
    (run / "checkpoints/summary.sha256").unlink(missing_ok=True)


@pytest.mark.parametrize("where", ["guarantee", "personal_guarantee"])
@pytest.mark.parametrize("name", ["epsilon", "epsilon_replace_one"])
def test_a_summary_that_understates_is_refused_and_made_again_as_told(run: Path, where: str, name: str) -> None:
    mine, true = job(run), read_record(run)
    edit(run, lambda summary: summary[where].update({name: 0.999 * summary[where][name]}))
    for ask in (mine.record, lambda: run_job(mine, build_experiment), lambda: read_run(run)):
        with pytest.raises(InputError, match=r"says epsilon .* where it is .*delete it and go on with --resume"):
            ask()
    as_told(run)
    again = run_job(mine, build_experiment)
    assert again.guarantee == mine.record().guarantee == true.guarantee
    edit(run, lambda summary: summary["guarantee"].update(delta=0.5))
    with pytest.raises(InputError, match="delta"):
        mine.record()


def written(found: Any) -> str:
    """Return the text of a JSON value, in which 1 is not 1.0."""
    return json.dumps(found, sort_keys=True)


def test_what_a_run_wrote_is_what_is_read_back_key_by_key(tmp_path: Path) -> None:
    """Also what only some runs write, an infinite epsilon, and keys of a later version."""
    for number, changes in enumerate(
        ({"noise_multiplier": 0.0}, {"metrics": ("personal.loss",), "metrics_epsilon": 1.0})
    ):
        folder = tmp_path / str(number)
        result = experiment(toy_tasks(8), strategy=noisy(rounds=2, **changes), report=False).run(folder)
        text = (folder / "summary.json").read_text(encoding="utf-8")
        assert written(json.loads(text)) == written(plain(result.summary)) == written(read_record(folder).to_json())
        later = {**json.loads(text), "of_a_later_version": [1, {"a": None}]}
        assert RunRecord.parse(json.dumps(later)).to_json() == later


def test_each_group_is_asked_for(tmp_path: Path) -> None:
    """Its epsilon may be understated while the headline, which is the other group's, is not."""
    grouped().run(tmp_path / "run")
    check_finished(tmp_path / "run", read_record(tmp_path / "run"))
    edit(tmp_path / "run", lambda summary: summary["group_guarantees"]["group-0"].update(epsilon=0.5))
    with pytest.raises(InputError, match=r"says epsilon 0\.5 "):
        grouped().run(tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_at": "node"},
        {"sampling": "fixed-size", "sampling_rate": 0.5},
        {"noise": "banded", "sampling_rate": 0.25, "min_separation": 2},
        {"noise_multiplier": 0.0},
        {"metrics": ("personal.loss",), "metrics_epsilon": 1.0},
    ],
    ids=str,
)
def test_whatever_was_released_a_whole_ledger_agrees(tmp_path: Path, changes: Any) -> None:
    mine = experiment(toy_tasks(8), strategy=noisy(rounds=4, **changes), report=False)
    first = mine.run(tmp_path / "run")
    assert mine.run(tmp_path / "run", resume=True).guarantee == first.guarantee
    assert read_run(tmp_path / "run").unasked is None


def silent() -> Experiment:
    return experiment(toy_tasks(), client=LocalOnly(), strategy=Silent(rounds=2), report=False)


def test_a_run_that_released_nothing_needs_no_ledger(tmp_path: Path) -> None:
    silent().run(tmp_path / "run")
    for path in (tmp_path / "run").glob("ledger.sqlite*"):
        path.unlink()
    assert silent().run(tmp_path / "run", resume=True).guarantee.epsilon == 0.0


@pytest.mark.parametrize("version", [3, 2, 1])
def test_a_folder_of_an_earlier_version_is_read(run: Path, version: int, fedpriv: Any) -> None:
    """Without digest, heads, chain, a second guarantee, or what its groups have."""
    make_older(run / BOTH[0], version)
    (run / "checkpoints/ledger.head").unlink()
    newer = ("personal_guarantee", "group_guarantees", "people")
    edit(run, lambda summary: [summary.pop(name, None) for name in newer])
    assert fedpriv("run", "pmtl", "--out", "run", "--resume")[0] == 0
    assert read_run(run).unasked is None
    assert job(run).record().rounds == 3


def test_other_runs_may_have_gone_on_and_a_report_says_what_it_could_not_ask(tmp_path: Path) -> None:
    ledger = tmp_path / "people.sqlite"
    tasks = replace(toy_tasks(8), declared="protected")
    people = {"population": "people", "ledger": ledger, "report": False}
    mine = experiment(tasks, strategy=noisy(rounds=2), **people)
    first = mine.run(tmp_path / "a")
    mine.run(tmp_path / "b")
    assert mine.run(tmp_path / "a", resume=True).guarantee == first.guarantee
    assert read_run(tmp_path / "a").unasked is None
    whole = ledger.read_bytes()
    cut(ledger)
    with pytest.raises(ComponentFailure, match="so it was cut"):
        write_report([tmp_path / "a"])
    ledger.unlink()  # as on another machine
    page = write_report([tmp_path / "a"]).read_text(encoding="utf-8")
    assert f"not compared with the ledger of the run: {ledger} is not there." in page
    with pytest.raises(InputError, match="restore it to read the run"):
        mine.run(tmp_path / "a", resume=True)
    ledger.write_bytes(whole)  # as told
    assert mine.run(tmp_path / "a", resume=True).guarantee == first.guarantee


def test_a_relative_path_is_seen_from_where_the_run_was_begun(tmp_path: Path, monkeypatch: Any) -> None:
    """Neither a finished run nor a half-done one has lost its ledger there; the advice helps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    tasks = replace(toy_tasks(8), declared="protected")
    people = {"population": "people", "ledger": Path("people.sqlite"), "report": False}
    mine = experiment(tasks, strategy=noisy(rounds=2), **people)

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine.run(tmp_path / "half", progress=stop)
    mine.run(tmp_path / "whole")
    for run in ("half", "whole"):
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="go to the folder in which the run was begun"):
            mine.run(tmp_path / run, resume=True)
        monkeypatch.chdir(tmp_path)
        assert mine.run(tmp_path / run, resume=True).summary["finished"]
