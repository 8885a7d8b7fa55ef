"""`fedpriv ledger show` and `check`: figures against counts of our own, and damage of every kind, made by hand."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpriv import Experiment
from fedpriv.cli.ledger_words import spent_words
from fedpriv.clients import GlobalModel
from fedpriv.privacy import Ledger, Release, Target, epsilon, gaussian_epsilon
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.individual import Participants, individual_epsilons, individual_spending
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.privacy.terms import Relation
from fedpriv.strategies import Billboard
from tests.helpers import toy_tasks
from tests.ledgers import forge

TASKS = 12
NOISE = 8.0


def run(out: Path, monkeypatch: Any, *, declared: str = "benchmark", **strategy: Any) -> Counter[int]:
    """Make a real run of six rounds; return how often each task was asked, counted here."""
    asked: Counter[int] = Counter()
    publish = Journal.publish

    def spy(self: Journal, checkpoint: Checkpoint, releases: Any) -> None:
        for ids in checkpoint.sampled.values():
            asked.update(ids.tolist())
        publish(self, checkpoint, releases)

    tasks = replace(toy_tasks(TASKS), declared=declared)
    place: dict[str, Any] = {}
    if declared == "protected":
        budget = Target(epsilon=9.0, delta=1e-3)
        place = {"population": "people", "ledger": out.parent / "people.sqlite", "budget": budget}
    settings: dict[str, Any] = {"sampling_rate": 0.5, "noise_multiplier": NOISE, **strategy}
    experiment = Experiment(
        tasks=tasks,
        model="linear",
        client=GlobalModel(learning_rate=0.1, epochs=1),
        strategy=Billboard(clipping_norm=1.0, rounds=6, **settings),
        grid="in-process",
        baseline=False,
        checkpoint_every=4,
        **place,
    )
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "publish", spy)
        experiment.run(out)
    return asked


def answer(fedpriv: Any, *words: str) -> Any:
    code, out, err = fedpriv("ledger", *words, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize(
    "strategy",
    [
        {},
        {"groups": tuple(number % 2 for number in range(TASKS))},
        {"sampling_rate": 0.25, "noise": "banded", "min_separation": 3},
        {"sampling_rate": 1.0},
    ],
    ids=["poisson", "groups", "banded", "full"],
)
def test_single_tasks_have_spent_their_participations(
    tmp_path: Path, monkeypatch: Any, fedpriv: Any, strategy: dict[str, Any]
) -> None:
    """Rounds before the snapshot are known by the nodes' counts, later ones by their checkpoints."""
    asked = run(tmp_path / "r", monkeypatch, **strategy)
    found = answer(fedpriv, "show", "r")
    mine = found["individual"]
    delta = found["delta"]
    expected = [gaussian_epsilon(math.sqrt(asked[task]) / NOISE, delta) for task in range(TASKS)]
    np.testing.assert_allclose(mine["per_task"], expected, rtol=1e-9)
    assert (mine["min"], mine["max"]) == (min(mine["per_task"]), max(mine["per_task"]))
    assert sorted(expected)[(TASKS - 1) // 2] == pytest.approx(mine["median"])
    assert (mine["released"], mine["amplified"], mine["observer"]) == (False, False, "experimenter")
    assert (mine["rounds"], mine["rounds_with_participants_assumed"]) == (6, 0)
    code, text, _ = fedpriv("ledger", "show", "r", "--task", "3")
    assert code == 0
    assert f"task 3: epsilon {expected[3]:.4g}" in text
    assert "known for 6 of 6 rounds" in text
    assert "no guarantee" in text
    assert ("participations" in text and "paid for 6 rounds" in text) == ("noise" in strategy)
    code, _, err = fedpriv("ledger", "show", "r", "--task", str(TASKS))
    assert (code, err) == (2, f"fedpriv: --task must be an id from 0 to {TASKS - 1}, got {TASKS}.\n")


def test_two_runs_on_one_population(tmp_path: Path, monkeypatch: Any, fedpriv: Any) -> None:
    first = run(tmp_path / "a", monkeypatch, declared="protected")
    second = run(tmp_path / "b", monkeypatch, declared="protected")
    before = (tmp_path / "people.sqlite").read_bytes()
    whole = answer(fedpriv, "show", "a", "--run", "b", "--delta", "1e-3")
    assert [one["releases"] for one in whole["runs"].values()] == [6, 6]
    each = [gaussian_epsilon(math.sqrt(first[task] + second[task]) / NOISE, 1e-3) for task in range(TASKS)]
    np.testing.assert_allclose(whole["individual"]["per_task"], each, rtol=1e-9)
    # whose folder is not given, every round of it counts for everybody
    half = answer(fedpriv, "show", "people", "--ledger", "people.sqlite", "--run", "b")
    assert half["individual"]["rounds_with_participants_assumed"] == 6
    each = [gaussian_epsilon(math.sqrt(6 + second[task]) / NOISE, 1e-3) for task in range(TASKS)]
    np.testing.assert_allclose(half["individual"]["per_task"], each, rtol=1e-9)
    left = whole["left"]
    ledger = Ledger(tmp_path / "people.sqlite")
    limit = ledger.left("people")
    assert limit is not None
    assert left["share"] == pytest.approx(limit.allowance / left["filter_allowance"])
    assert left["decides"] == "the filter"
    assert left["epsilon_if_runs_were_fixed_beforehand"] == whole["spent"]["add/remove"] < left["filter_epsilon"] < 9
    one = ledger.entries("people")[0].release
    assert limit.admits(limit.cost({one: left["more_like_the_last"]}))
    assert not limit.admits(limit.cost({one: left["more_like_the_last"] + 1}))
    code, text, _ = fedpriv("ledger", "show", "a")
    assert code == 0
    assert "the filter decides" in text
    # Each epsilon has its observer, its unit, its relation and its delta.
    assert (
        "What holds for each task with all its data, against a coalition of all other tasks, and so the public" in text
    )
    meant = "what nobody can tell: add/remove, whether a task is there; replace-one, whether a task has its own data or"
    assert text.count(meant) == 1
    assert re.search(r"  spent: epsilon [\d.]+ \(add/remove\) and [\d.]+ \(replace-one\) by ", text)
    assert re.search(r"budget: epsilon 9 at delta 0\.001 \(add/remove\)", text)
    assert re.search(r"spent of it, as the filter counts: epsilon [\d.]+ at that delta", text)
    assert "each run alone, against the same, at the same delta:" in text
    assert re.search(r"single tasks, at delta [\d.e-]+ \(for the experimenter", text)
    spent = json.loads((tmp_path / "a/summary.json").read_text())["ledger"]["spent"]
    said = spent_words("people", spent)
    assert f"at delta {spent['delta']:.3g}: epsilon {spent['add/remove']:.4g} (add/remove) and" in said
    assert "against all other tasks, and so the public, too" in said
    assert meant in said
    assert answer(fedpriv, "check", "a", "--run", "b")["problems"] == []
    assert (tmp_path / "people.sqlite").read_bytes() == before


def test_what_is_not_known_counts_for_everybody() -> None:
    """By hand: five rounds, one known, three counted, one neither; and the worst group where groups are unknown."""
    release = Release(noise_multiplier=2.0, sampling_name="poisson", rate=0.1, clipping_norm=1.0)
    louder = release.model_copy(update={"noise_multiplier": 1.0})
    full = Release(noise_multiplier=4.0, sampling_name="full", rate=1.0, clipping_norm=1.0)
    known = Participants(asked={4: {"": np.array([0])}}, counts=np.array([3, 1, 0]), counted=3, last=4)
    plain = {number: {"": release} for number in range(1, 6)}
    found = individual_spending([(plain, known)], 3)
    assert found.squares.tolist() == [0.25 * 5, 0.25 * 2, 0.25 * 1]
    assert (found.rounds, found.assumed) == (5, 1)
    groups = {1: {"a": release, "b": louder, "": full}}
    found = individual_spending([(groups, Participants())], 3)
    assert found.squares.tolist() == [1.0 + 1 / 16] * 3
    banded = BandedMechanism(horizon=9, participations=3, separation=3, bands=3)
    banded = full.model_copy(update={"mechanism": "banded", "sampling_name": "min-separation", "banded": banded})
    rounds = {number: {"": banded} for number in range(1, 6)}
    limited = Participants(limited=np.array([2, 1, 0]), last=4)
    assert individual_spending([(rounds, limited)], 3).squares.tolist() == [3 / 16, 2 / 16, 1 / 16]
    assert individual_spending([(rounds, Participants())], 3).squares.tolist() == [3 / 16] * 3
    epsilons = individual_epsilons(found, 1e-5, Relation.REPLACE_ONE)
    assert epsilons[0] == gaussian_epsilon(2 * math.sqrt(17 / 16), 1e-5)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "an entry in the middle is gone": (
        lambda path: forge(path, "DELETE FROM entries WHERE round = 3"),
        "6 releases were charged in this file and 5 are there",
    ),
    "the last entry is gone": (
        lambda path: forge(path, "DELETE FROM entries WHERE round = 6"),
        "some were deleted, so what was spent is under-counted",
    ),
    "the last entry and the counter are gone": (
        lambda path: forge(path, "DELETE FROM entries WHERE round = 6", "UPDATE sqlite_sequence SET seq = 5"),
        "has published 6 rounds and the ledger does not hold round 6",
    ),
    "another draw": (
        lambda path: forge(path, f"UPDATE entries SET digest = '{'0' * 64}' WHERE round = 6"),
        "was charged for another draw than",
    ),
    "no digest": (lambda path: forge(path, "UPDATE entries SET digest = 'x' WHERE round = 2"), "is 'x', which is none"),
    "a negative round": (lambda path: forge(path, "UPDATE entries SET round = -2 WHERE round = 2"), "count from 0"),
    "an unreadable release": (lambda path: forge(path, "UPDATE releases SET release = '{}'"), "cannot be read"),
    "no such release": (lambda path: forge(path, "DELETE FROM releases"), "that is not there"),
    "no trigger": (lambda path: plainly(path, "DROP TRIGGER entries_stay"), "the trigger 'entries_stay' is missing"),
    "a hollow trigger": (
        lambda path: plainly(
            path, "DROP TRIGGER entries_stay", "CREATE TRIGGER entries_stay AFTER UPDATE ON entries BEGIN SELECT 1; END"
        ),
        "the trigger 'entries_stay' is not fedpriv's",
    ),
    "no table": (lambda path: plainly(path, "DROP TABLE releases"), "the table 'releases' is missing"),
    "cut in the middle": (
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
        "damaged",
    ),
}


def plainly(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_check_finds_every_damage(tmp_path: Path, monkeypatch: Any, fedpriv: Any) -> None:
    run(tmp_path / "r", monkeypatch)
    good = tmp_path / "r/ledger.sqlite"
    assert answer(fedpriv, "check", "r") == {
        "population": "toy", "ledger": "r/ledger.sqlite", "whole": True, "within_budget": True, "folders": ["r"],
        "problems": [], "notes": [],
    }  # fmt: skip
    content = good.read_bytes()
    for name, (damage, words) in DAMAGE.items():
        good.write_bytes(content)
        damage(good)
        code, _, err = fedpriv("ledger", "check", "r")
        assert code == 4, (name, err)
        assert words in err, name
        assert err.count("\n") == 1, name
    good.write_bytes(content)
    code, out, _ = fedpriv("ledger", "check", "r")
    assert (code, out) == (0, "toy: the ledger is whole and within its budget.\n")


def test_check_notes_what_was_charged_and_not_published(tmp_path: Path, monkeypatch: Any, fedpriv: Any) -> None:
    run(tmp_path / "r", monkeypatch)
    ledger = Ledger(tmp_path / "r/ledger.sqlite")
    (name,) = ledger.runs("toy")
    release = ledger.entries("toy")[0].release
    for number in (8, 7):
        ledger.charge("toy", name, number, "", release)
    found = answer(fedpriv, "check", "r")
    assert found["whole"]
    assert found["notes"] == [
        f"run {name!r} (group '') was charged for round 7 after round 8",
        "round 7 was charged and never published: the budget is over-charged by 2",
    ]


def test_an_older_copy_of_the_ledger_is_found_by_its_runs(tmp_path: Path, monkeypatch: Any, fedpriv: Any) -> None:
    run(tmp_path / "a", monkeypatch, declared="protected")
    for name in ("people.sqlite", "people.sqlite.head"):
        shutil.copy(tmp_path / name, tmp_path / f"copy of {name}")
    run(tmp_path / "b", monkeypatch, declared="protected")
    shutil.copy(tmp_path / "copy of people.sqlite", tmp_path / "people.sqlite")
    code, _, err = fedpriv("ledger", "check", "people", "--ledger", "people.sqlite")
    assert (code, "people.sqlite.head has seen 13, so an older copy was put back" in err) == (4, True)
    shutil.copy(tmp_path / "copy of people.sqlite.head", tmp_path / "people.sqlite.head")
    assert fedpriv("ledger", "check", "people", "--ledger", "people.sqlite")[0] == 0  # nothing shows in the file alone
    code, _, err = fedpriv("ledger", "check", "a", "--run", "b")
    assert code == 4
    assert "b has published 6 rounds and the ledger does not hold round 1 and 5 more" in err


def test_exit_codes(tmp_path: Path, monkeypatch: Any, fedpriv: Any) -> None:
    code, _, err = fedpriv("ledger", "check", "nothing-here")
    assert (code, "give --ledger FILE for a population by name" in err) == (2, True)
    run(tmp_path / "a", monkeypatch, declared="protected")
    assert fedpriv("ledger", "check", "people", "--ledger", "people.sqlite")[0] == 0
    code, _, err = fedpriv("ledger", "check", "peeple", "--ledger", "people.sqlite")
    assert (code, "did you mean 'people'" in err) == (2, True)
    code, _, err = fedpriv("ledger", "show", "people", "--ledger", "people.sqlite", "--run", str(tmp_path))
    assert (code, "is not a run folder with checkpoints; give the --out of a run" in err) == (2, True)
    assert fedpriv("ledger", "show", "people", "--ledger", "people.sqlite", "--run", "a")[0] == 0
    forge(
        tmp_path / "people.sqlite",
        "INSERT INTO entries (population, run, round, part, release, digest) WITH RECURSIVE n (x) AS (SELECT 1 UNION "
        "ALL SELECT x + 1 FROM n WHERE x < 5000) SELECT 'people', 'other', x, '', 1, '' FROM n",
    )
    code, _, err = fedpriv("ledger", "check", "a")
    assert (code, "more than its budget" in err) == (3, True)
    (tmp_path / "people.sqlite").write_bytes(b"")
    assert fedpriv("ledger", "show", "a")[0] == 4


def test_a_ledger_that_was_moved_is_named(tmp_path: Path, monkeypatch: Any, fedpriv: Any) -> None:
    run(tmp_path / "a", monkeypatch)
    (tmp_path / "a/summary.json").unlink()
    (tmp_path / "a/ledger.sqlite").rename(tmp_path / "moved.sqlite")
    code, _, err = fedpriv("ledger", "check", "a")
    assert (code, "or it was moved; give --ledger FILE and the population's name." in err) == (2, True)
    assert answer(fedpriv, "check", "toy", "--ledger", "moved.sqlite", "--run", "a")


# --- what run folders say of their own -------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: Any) -> Path:
    """A finished run on protected people, with metrics after rounds 3 and 6."""
    run(
        tmp_path / "r",
        monkeypatch,
        declared="protected",
        metrics=("personal.loss",),
        metrics_every=3,
        metrics_epsilon=1.0,
    )
    return tmp_path


def test_check_compares_published_metrics(measured: Path, fedpriv: Any) -> None:
    ledger = measured / "people.sqlite"
    good = ledger.read_bytes()
    assert answer(fedpriv, "check", "r")["notes"] == []
    metrics = "round = 3 AND part = ''"
    renumber = ("UPDATE entries SET id = id - 1 WHERE id > (SELECT max(seq) FROM gone)", "DROP TABLE gone")
    for damage, words in (
        (
            (f"UPDATE entries SET digest = '{'0' * 64}' WHERE {metrics}",),
            "charged for other metrics than r published after",
        ),
        (
            (
                f"CREATE TABLE gone AS SELECT id AS seq FROM entries WHERE {metrics}",
                f"DELETE FROM entries WHERE {metrics}",
                *renumber,
                "UPDATE sqlite_sequence SET seq = seq - 1",
            ),
            "r has published metrics after round 3 and the ledger does not hold them",
        ),
    ):
        ledger.write_bytes(good)
        forge(ledger, *damage)
        for file in (measured / "r/checkpoints").glob("round-*"):
            file.rename(file.with_suffix(".hidden"))  # metrics are looked at on their own
        code, _, err = fedpriv("ledger", "check", "r")
        assert (code, words in err) == (4, True), err
        for file in (measured / "r/checkpoints").glob("round-*.hidden"):
            file.rename(file.with_suffix(".npz"))


def test_check_finds_what_was_changed_behind_the_entries(measured: Path, fedpriv: Any) -> None:
    """Populations and releases may not be changed either; whoever puts the triggers back is found by the run folder."""
    ledger = measured / "people.sqlite"
    good = ledger.read_bytes()
    for table in ("populations", "releases"):
        for action in (f"DELETE FROM {table}", f"UPDATE {table} SET rowid = rowid"):
            with pytest.raises(sqlite3.IntegrityError, match=f"{table} are immutable"):
                plainly(ledger, action)
    for damage, words in (
        ("UPDATE releases SET release = replace(release, '8.0', '80.0')", "another release for round"),
        ("UPDATE populations SET fingerprint = 'f'", "their fingerprint is"),
        ("UPDATE populations SET num_tasks = 13", "their number is 12, the ledger's 13"),
        (
            "UPDATE populations SET budget = replace(budget, '9.0', '90.0')",
            "epsilon 9 at delta 0.001 (add/remove), and",
        ),
        ("UPDATE populations SET budget = NULL, filter = NULL, filter_order = NULL", "and the ledger says no budget"),
        ("UPDATE populations SET declared = 'nobody'", "unknown declaration 'nobody'"),
        ("UPDATE populations SET declared = 'benchmark'", "it is a benchmark, and has a budget"),
        ("UPDATE populations SET budget = 'x'", "row of population 'people' is damaged (Expecting value"),
        ("""UPDATE populations SET budget = '{"epsilon": -1}'""", "target: 'epsilon' must be greater than 0, got -1"),
        ("UPDATE populations SET filter_order = 0.5", "must be above 1 and at most 1e8, got 0.5"),
        ("UPDATE populations SET filter_order = 1e308", "at most 1e8, got 1e+308"),
        ("UPDATE populations SET filter = NULL", "unknown filter 'None'"),
    ):
        ledger.write_bytes(good)
        forge(ledger, damage)
        code, _, err = fedpriv("ledger", "check", "r")
        assert (code, words in err, err.count("\n")) == (4, True, 1), (damage, err)
        code, out, err = fedpriv("ledger", "show", "r")
        assert code in (0, 4), (damage, out, err)
        assert err.count("\n") == (code == 4)


def test_damaged_folders_are_said_in_a_sentence(measured: Path, fedpriv: Any) -> None:
    folder = measured / "r"
    for name, content in (
        ("summary.json", b"{"),
        ("summary.json", b"\xff"),
        ("summary.json", b"[]"),
        ("summary.json", b'{"ledger": {}}'),
        ("summary.json", (folder / "summary.json").read_bytes().replace(b'"round": 1,', b'"round": null,')),
        ("checkpoints/run-id", b""),
        ("checkpoints/run-id", b"\xff\xfe"),
        ("checkpoints/metrics-000003.json", b"{}"),
        ("checkpoints/metrics-000003.json", b'{"round": 3, "values": {"a": "b"}, "noise": {}}'),
    ):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        code, _, err = fedpriv("ledger", "check", "r")
        assert (code, "is damaged (" in err, err.count("\n")) == (4, True, 1), (name, err)
        (folder / name).write_bytes(good)
    forge(measured / "people.sqlite", "DELETE FROM releases WHERE id = 1")
    for command in ("show", "check"):
        code, _, err = fedpriv("ledger", command, "r")
        assert (code, "that is not there" in err or "is not there; restore" in err) == (4, True), err


def test_a_lost_checkpoint_is_no_unpublished_round(measured: Path, fedpriv: Any) -> None:
    """The summary knows that the last round was published, and the ledger is held against it."""
    (measured / "r/checkpoints/round-000006.npz").unlink()
    (note,) = answer(fedpriv, "check", "r")["notes"]
    assert note.startswith("the checkpoint of round 6, the last one of r, is gone")
    (measured / "r/checkpoints/metrics-000006.json").unlink()
    assert len(answer(fedpriv, "check", "r")["notes"]) == 1
    forge(measured / "people.sqlite", "DELETE FROM entries WHERE id > 6", "UPDATE sqlite_sequence SET seq = 6")
    code, _, err = fedpriv("ledger", "check", "r")
    assert (code, "has published 6 rounds and the ledger does not hold round" in err) == (4, True), err


def test_unpublished_metrics_are_noted(measured: Path, fedpriv: Any) -> None:
    folder = measured / "r"
    (folder / "summary.json").unlink()  # as if the run had been killed
    where = ("people", "--ledger", "people.sqlite", "--run", "r")
    last = folder / "checkpoints/metrics-000006.json"
    last.rename(folder / "checkpoints/metrics-pending.json")
    (note,) = answer(fedpriv, "check", *where)["notes"]
    assert note == "metrics after round 6 were charged and not published yet; --resume reads them back"
    (folder / "checkpoints/metrics-pending.json").unlink()
    (note,) = answer(fedpriv, "check", *where)["notes"]
    assert note == "metrics after round 6 were charged and never published: the budget is over-charged by 1"


def test_a_run_is_shown_at_its_own_delta(tmp_path: Path, monkeypatch: Any, fedpriv: Any) -> None:
    """The epsilon that it printed, whatever the population's delta; or at another one, which the line says."""
    run(tmp_path / "r", monkeypatch, declared="protected", delta=1e-5)
    printed = json.loads((tmp_path / "r/summary.json").read_text())["guarantee"]
    assert printed["delta"] == 1e-5
    (mine,) = answer(fedpriv, "show", "r")["runs"].values()
    assert mine["add/remove"] == printed["epsilon"]
    for words, delta, stated in (
        (["r"], 1e-5, "at delta 1e-05 (the run's):"),
        (["r", "--delta", "1e-7"], 1e-7, "at delta 1e-07 (as asked):"),
        (["people", "--ledger", "people.sqlite"], 1e-3, "at delta 0.001 (the population's):"),
    ):
        code, text, _ = fedpriv("ledger", "show", *words)
        assert (code, stated in text, "epsilon 9 at delta 0.001 (add/remove)" in text) == (0, True, True), text
        found = answer(fedpriv, "show", *words)
        release = Ledger(tmp_path / "people.sqlite").entries("people")[0].release
        assert found["spent"]["add/remove"] == epsilon({release: 6}, delta).value
        assert found["left"]["epsilon_if_runs_were_fixed_beforehand"] == epsilon({release: 6}, 1e-3).value
    (tmp_path / "r/summary.json").unlink()  # a run that is not finished says it in its configuration
    assert answer(fedpriv, "show", "r")["delta"] == 1e-5
    code, _, err = fedpriv("ledger", "show", "r", "--delta", "0.5")
    assert (code, "'delta' must be below 1/m" in err) == (2, True)
