"""A run made in Python is a normal run: figures and a report are there, every command works on it or says why not."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from helpers import experiment, noisy, toy_tasks

from fedpriv import InputError
from fedpriv.adversary import Watch, results_of, with_watch
from fedpriv.privacy.ledger import Ledger
from fedpriv.scenarios import scenario


def mine(**changes: Any) -> Any:
    return experiment(toy_tasks(), **{"strategy": noisy(), "report": True, **changes})


def test_its_folder_holds_figures_and_a_report(fedpriv: Any, tmp_path: Path) -> None:
    result = mine().run("first")
    assert {path.name for path in (tmp_path / "first" / "figures").glob("*.svg")} == {
        "accuracies.svg", "loss_and_epsilon.svg",
    }  # fmt: skip
    page = (tmp_path / "first" / "report.html").read_text(encoding="utf-8")
    assert "Scenario: of one&#39;s own, in Python" in page
    assert str(result.guarantee).partition(":")[0] in page
    (tmp_path / "first" / "report.html").unlink()
    code, text, _ = fedpriv("report", "first")
    assert (code, text) == (0, f"wrote {tmp_path / 'first' / 'report.html'}\n")
    assert (tmp_path / "first" / "report.html").read_text(encoding="utf-8") == page
    assert fedpriv("report", "first", "first", "--out", "both.html")[0] == 0
    code, text, _ = fedpriv("ledger", "check", "first")
    assert code == 0, text
    code, text, _ = fedpriv("ledger", "show", "first", "--json")
    assert code == 0
    (run,) = json.loads(text)["runs"].values()
    assert run["add/remove"] == pytest.approx(result.guarantee.epsilon)


def test_commands_that_need_its_data_say_what_to_do_in_python(fedpriv: Any, tmp_path: Path) -> None:
    run = experiment(toy_tasks(), report=False)
    first = run.run("first")
    for words, advice in {
        ("run", "pmtl", "--out", "first", "--resume"): "go on there, with resume=True",
        ("models", "first"): "fedpriv.open_run(folder, experiment).personal.save(out)",
        ("attack", "first"): "fedpriv.adversary.with_watch(experiment, Watch()).run(out=...)",
    }.items():
        code, text, error = fedpriv(*words)
        assert (code, text) == (2, "")
        assert "in Python, so no command can load its data" in error
        assert advice in error
    (tmp_path / "first" / "summary.json").unlink()  # as if it had been stopped before its end
    assert run.run("first", resume=True).guarantee == first.guarantee


def test_the_advice_on_attacks_works(tmp_path: Path) -> None:
    config = scenario("maml-attack").preset("digits") | {"attack": {}}
    config["strategy"]["rounds"], config["data"]["tasks"] = 1, 8
    watched = scenario("maml-attack").build(config, None)
    settings = Watch(games=3, validation=2, iterations=2, sets=("query",), global_game=False)
    with_watch(watched, settings).run(out=tmp_path / "run")
    assert results_of(tmp_path / "run")["query"]["inversion"]["paper"]["games"] == 3
    assert "private/report.html" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_name_that_older_versions_advised_still_works() -> None:
    with pytest.warns(DeprecationWarning, match=r"called fedpriv\.adversary now"):
        from fedpriv.exposure import with_watch as old
    assert old is with_watch


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("adversary", "Attacked", "AttackResult"),
        ("adversary", "Played", "GameResults"),
        ("adversary", "Seen", "ObservedRows"),
        ("adversary", "seen_rows", "observe_rows"),
        ("cohort", "Usable", "UsableTasks"),
        ("sweep", "Crew", "JobRunner"),
        ("lrs.sparse", "Own", "PersonalPart"),
        ("privacy.journal", "Boundary", "Checkpoint"),
    ],
)
def test_old_names_are_found_under_the_new_ones_with_a_warning(module: str, old: str, new: str) -> None:
    where = import_module(f"fedpriv.{module}")
    with pytest.warns(DeprecationWarning, match=rf"fedpriv\.{module}\.{old} is now called {new}; use that name\."):
        assert getattr(where, old) is getattr(where, new)
    with pytest.raises(AttributeError, match=f"'fedpriv.{module}' has no attribute 'Unknown'"):
        where.Unknown  # noqa: B018


def test_a_folder_that_is_taken_says_how_to_go_on_and_one_can(tmp_path: Path) -> None:
    mine(report=False).run(tmp_path / "first")
    with pytest.raises(InputError, match=r"choose another folder, or go on with --resume \(in Python: resume=True\)"):
        mine().run(tmp_path / "first")
    with pytest.raises(InputError, match=r"leave out --resume \(in Python: resume=True\) to start one"):
        mine().run(tmp_path / "second", resume=True)
    mine(report=False).run(tmp_path / "second")


def test_a_finished_run_is_read_back_and_nothing_is_charged(tmp_path: Path) -> None:
    first = mine(report=False).run(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    trained: list[int] = []
    again = mine(report=False).run(tmp_path / "run", resume=True, progress=lambda done, _: trained.append(done))
    assert not trained
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert again.guarantee == first.guarantee
    assert again.diagnostics == first.diagnostics
    assert len(Ledger(tmp_path / "run" / "ledger.sqlite").entries("toy")) == 4
    with pytest.raises(InputError, match=r"strategy\.rounds was 4"):
        mine(strategy=noisy(rounds=5)).run(tmp_path / "run", resume=True)


SHORT = ("--set=strategy.rounds=2", "--set=run.grid=in-process", "--set=data.tasks=20", "--set=run.baseline=false")


def test_resuming_a_finished_run_says_so_in_one_line(fedpriv: Any, tmp_path: Path) -> None:
    code, _, error = fedpriv("run", "pmtl", *SHORT, "--out", "run")
    assert code == 0, error
    said = "run: the run is finished; nothing was trained or charged. Report: run/report.html.\n"
    assert fedpriv("run", "pmtl", "--out", "run", "--resume") == (0, said, "")
    assert fedpriv("run", "pmtl", "--out", "run", "--resume", "--set=run.shards=1") == (0, said, "")
    code, _, error = fedpriv("run", "pmtl", "--out", "run", "--resume", "--set=strategy.rounds=3")
    assert code == 2
    assert "strategy.rounds was 2" in error
    code, _, error = fedpriv("run", "lrs-net", "--out", "run", "--resume")
    assert code == 2
    assert "started with scenario 'pmtl', got 'lrs-net'; resume with the first." in error
    code, _, error = fedpriv("run", "pmtl", "--preset", "fashion", "--out", "run", "--resume")
    assert code == 2
    assert "started with preset 'digits', got 'fashion'; resume with the first." in error
    assert fedpriv("run", "pmtl", "--preset", "digits", "--out", "run", "--resume") == (0, said, "")
    (tmp_path / "run" / "report.html").unlink()
    _, text, _ = fedpriv("run", "pmtl", "--out", "run", "--resume")
    assert text.endswith("Write its report with `fedpriv report run`.\n")


def test_a_damaged_summary_is_made_again_as_advised(tmp_path: Path) -> None:
    first = mine(report=False).run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"delete it and go on with --resume \(in Python: resume=True\)"):
        mine(report=False).run(tmp_path / "run", resume=True)
    (tmp_path / "run" / "summary.json").unlink()
    again = mine(report=False).run(tmp_path / "run", resume=True)
    assert again.guarantee == first.guarantee
    assert len(Ledger(tmp_path / "run" / "ledger.sqlite").entries("toy")) == 4
