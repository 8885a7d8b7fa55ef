"""The ledger: durable, idempotent, never under-charged, and unchanged by asking."""

from __future__ import annotations

import json
import math
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fedpriv.errors import BudgetExceeded, ComponentFailure, InputError
from fedpriv.privacy import Ledger, Relation, Release, Target, epsilon
from fedpriv.privacy.chain import HeadFile, append_links, head_of

STRONG = Release(noise_multiplier=20.0, sampling_name="full", rate=1.0, clipping_norm=1.0)
WEAK = Release(noise_multiplier=5.0, sampling_name="full", rate=1.0, clipping_norm=1.0)
BUDGET = Target(epsilon=2.0, delta=1e-5)


def register(ledger: Ledger, name: str = "people", **changes: object) -> None:
    values = {"fingerprint": f"tasks of {name}", "num_tasks": 100, "declared": "protected", "budget": BUDGET, **changes}
    ledger.register(name, **values)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "ledger.sqlite")
    register(made)
    return made


def test_charging_twice_counts_once(ledger: Ledger) -> None:
    assert ledger.charge("people", "r", 1, "", STRONG, "d1")
    assert not ledger.charge("people", "r", 1, "", STRONG, "d1")
    assert ledger.counts("people") == Counter({STRONG: 1})
    for release, digest in ((WEAK, "d1"), (STRONG, "d2")):
        with pytest.raises(InputError, match="never drawn again"):
            ledger.charge("people", "r", 1, "", release, digest)
    assert len(ledger.entries("people")) == 1
    assert ledger.charge("people", "r", 2, "", STRONG)
    assert ledger.charge("people", "s", 1, "", STRONG)
    assert ledger.charge("people", "r", 1, "a", STRONG)
    found = ledger.entries("people", "r")
    assert [(one.round, one.group, one.digest) for one in found] == [(1, "", "d1"), (2, "", ""), (1, "a", "")]
    assert ledger.runs("people") == ["r", "s"]
    assert ledger.charged("people", "r", 2)
    assert not ledger.charged("people", "r", 2, "a")
    assert not ledger.charged("people", "r", 3)


def test_releases_are_compared_by_what_they_are(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that spelled them in another way charged the same release."""
    register(ledger)
    one = Release(noise_multiplier=2.0, sampling_name="poisson", rate=0.5, clipping_norm=1.0)
    with monkeypatch.context() as spelled:
        plain = Release.to_json
        spelled.setattr(Release, "to_json", lambda self: plain(self).replace(": ", ":"))
        assert ledger.charge("people", "run", 1, "all", one)
    assert not ledger.charge("people", "run", 1, "all", one)
    with pytest.raises(InputError, match="charged for another release"):
        ledger.charge("people", "run", 1, "all", one.model_copy(update={"noise_multiplier": 2.5}))
    assert ledger.counts("people") == {one: 1}


def test_groups_compose_in_parallel_and_runs_in_sequence(ledger: Ledger) -> None:
    register(ledger, "free", budget=None)
    for number in range(3):
        assert ledger.charge_many("free", "r", number, {"a": STRONG, "b": STRONG}) == 2
    assert ledger.charge_many("free", "r", 2, {"a": STRONG, "b": STRONG}) == 0
    assert ledger.counts("free") == Counter({STRONG: 3})
    ledger.charge_many("free", "r", 3, {"a": STRONG, "b": WEAK})
    assert ledger.counts("free", "r") == Counter({STRONG: 3, WEAK: 1})
    ledger.charge("free", "r", 4, "", STRONG)  # everybody, both groups
    assert ledger.counts("free", "r") == Counter({STRONG: 4, WEAK: 1})
    ledger.charge("free", "s", 0, "", WEAK)
    assert ledger.counts("free") == Counter({STRONG: 4, WEAK: 2})
    assert ledger.counts("free", "s") == Counter({WEAK: 1})
    assert ledger.spent("free", 1e-5).value == epsilon({STRONG: 4, WEAK: 2}, 1e-5).value
    replaced = ledger.spent("free", 1e-5, Relation.REPLACE_ONE, run="s").value
    assert replaced == epsilon([WEAK], 1e-5, Relation.REPLACE_ONE).value


def test_many_different_groups_are_bounded_from_above(ledger: Ledger) -> None:
    register(ledger, "free", budget=None)
    for run in range(7):  # 2^7 combinations of groups
        ledger.charge_many("free", str(run), 0, {"a": STRONG, "b": WEAK})
    worst = epsilon({WEAK: 7}, 1e-5).value
    bound = ledger.spent("free", 1e-5).value
    assert worst <= bound <= epsilon({WEAK: 7, STRONG: 7}, 1e-5).value


def test_budget_refuses_before_writing(ledger: Ledger) -> None:
    granted = 0
    while True:
        try:
            ledger.check("people", "r", {WEAK: 1})
        except BudgetExceeded as error:
            assert f"Nothing more was charged; {granted} rounds of this run, 'r', had been" in str(error)  # noqa: PT017
            break
        ledger.charge("people", "r", granted, "", WEAK)
        granted += 1
    before = ledger.path.read_bytes()
    with pytest.raises(BudgetExceeded):
        ledger.charge("people", "other run", 0, "", WEAK)
    with pytest.raises(BudgetExceeded):
        ledger.charge_many("people", "r", granted, {"a": WEAK, "b": WEAK})
    with pytest.raises(BudgetExceeded):
        ledger.check("people", "other run", {WEAK: 1})
    assert ledger.path.read_bytes() == before
    assert ledger.counts("people") == Counter({WEAK: granted})
    # the filter is valid and not wasteful
    assert ledger.spent("people", 1e-5).value <= 2.0
    assert epsilon({WEAK: granted + 2}, 1e-5).value > 1.85
    assert not ledger.charge("people", "r", 0, "", WEAK)  # read back after a crash: still no charge
    left = ledger.describe("people")["left"]
    assert 0 <= left["share"] < 1 / granted


def test_no_noise_never_fits_a_budget(ledger: Ledger) -> None:
    silent = Release(noise_multiplier=0.0, sampling_name="full", rate=1.0, clipping_norm=1.0)
    with pytest.raises(BudgetExceeded):
        ledger.check("people", "r", {silent: 1})
    register(ledger, "bench", declared="benchmark", budget=None)
    ledger.charge("bench", "r", 0, "", silent)
    text = json.dumps(ledger.describe("bench"), allow_nan=False)
    assert '"add/remove": "inf"' in text


def test_a_whole_run_is_checked_at_once(ledger: Ledger) -> None:
    ledger.check("people", "r", {STRONG: 50})
    with pytest.raises(BudgetExceeded):
        ledger.check("people", "r", {STRONG: 5000})
    assert ledger.entries("people") == []


def test_replace_one_budget_counts_double_sensitivity(ledger: Ledger) -> None:
    register(ledger, "strict", budget=Target(epsilon=2.0, delta=1e-5, relation=Relation.REPLACE_ONE))
    sampled = Release(noise_multiplier=4.0, sampling_name="poisson", rate=0.5, clipping_norm=1.0)
    granted = {"people": 0, "strict": 0}
    for name in granted:
        while True:
            try:
                ledger.check(name, "r", {sampled: granted[name] + 1})
            except BudgetExceeded:
                break
            granted[name] += 1
    assert 0 < granted["strict"] < granted["people"] / 2
    assert epsilon({sampled: granted["strict"]}, 1e-5, Relation.REPLACE_ONE).value <= 2.0


def test_another_population_is_refused(ledger: Ledger) -> None:
    register(ledger)
    for change in (
        {"fingerprint": "f2"},
        {"num_tasks": 101},
        {"declared": "benchmark", "budget": None},
        {"budget": None},
        {"budget": Target(epsilon=3.0, delta=1e-5)},
    ):
        before = ledger.path.read_bytes()
        with pytest.raises(InputError, match=r"another population|budget may not change"):
            register(ledger, **change)
        assert ledger.path.read_bytes() == before
    with pytest.raises(InputError, match="did you mean 'people'"):
        ledger.charge("peeple", "r", 0, "", STRONG)
    for change in (
        {"declared": "secret"},
        {"budget": Target(epsilon=1.0, delta=0.01)},
        {"num_tasks": 0, "budget": None},
        {"declared": "benchmark"},
    ):
        with pytest.raises(InputError):
            register(ledger, "new", **change)
    assert ledger.populations() == ["people"]


def test_asking_never_writes(ledger: Ledger) -> None:
    ledger.charge("people", "r", 0, "", STRONG)
    folder = ledger.path.parent
    ledger.path.chmod(0o444)
    before = (ledger.path.read_bytes(), ledger.path.stat().st_mtime_ns, sorted(folder.iterdir()))
    asked = Ledger(ledger.path)
    asked.counts("people")
    asked.entries("people")
    asked.spent("people", 1e-5)
    asked.check("people", "r", {STRONG: 1})
    asked.populations()
    json.dumps(asked.describe("people"), allow_nan=False)
    register(asked)
    assert (ledger.path.read_bytes(), ledger.path.stat().st_mtime_ns, sorted(folder.iterdir())) == before


def test_missing_files_are_not_created(tmp_path: Path) -> None:
    missing = Ledger(tmp_path / "none.sqlite")
    for ask in (
        missing.populations,
        lambda: missing.counts("p"),
        lambda: missing.charge("p", "r", 0, "", STRONG),
    ):
        with pytest.raises(InputError, match="no such file"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_foreign_files_are_refused_and_kept(tmp_path: Path, ledger: Ledger) -> None:
    for number in range(200):
        ledger.charge("people", f"run {number}", 0, "", Release(**{**STRONG.model_dump(), "noise_multiplier": 1e3}))
    good = ledger.path.read_bytes()
    foreign, newer = tmp_path / "foreign", tmp_path / "newer"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    newer.write_bytes(good)
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 6")
    connection.close()
    middle = len(good) // 2
    cases = {
        "text": (b"hello, this is no database at all" * 50, ComponentFailure, "damaged or not a ledger"),
        "empty": (b"", ComponentFailure, "empty"),
        "cut": (good[:middle], ComponentFailure, "damaged"),
        "scribbled": (good[:4096] + b"\xff" * (len(good) - 4096), ComponentFailure, "damaged"),
        "foreign": (foreign.read_bytes(), InputError, "not a fedpriv ledger"),
        "newer": (newer.read_bytes(), InputError, "newer"),
    }
    for name, (content, error, words) in cases.items():
        path = tmp_path / f"{name}.sqlite"
        path.write_bytes(content)
        for action in (
            lambda path=path: Ledger(path).counts("people"),
            lambda path=path: Ledger(path).charge("people", "r", 0, "", STRONG),
            lambda path=path: register(Ledger(path)),
        ):
            with pytest.raises(error, match=words):
                action()
        assert path.read_bytes() == content


def test_entries_cannot_be_changed(ledger: Ledger) -> None:
    ledger.charge("people", "r", 0, "", STRONG)
    connection = sqlite3.connect(ledger.path)
    for statement in (
        "DELETE FROM entries",
        "UPDATE entries SET round = 5",
        "REPLACE INTO entries SELECT * FROM entries",
        "REPLACE INTO populations SELECT * FROM populations",
        "REPLACE INTO releases SELECT * FROM releases",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):
            connection.execute(statement)
    connection.close()


def test_a_locked_ledger_says_so(ledger: Ledger) -> None:
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    waiting = Ledger(ledger.path, busy_seconds=0.05)
    for action in (lambda: waiting.charge("people", "r", 0, "", STRONG), lambda: waiting.counts("people")):
        with pytest.raises(ComponentFailure, match="another process"):
            action()
    other.execute("ROLLBACK")
    other.close()
    assert waiting.charge("people", "r", 0, "", STRONG)


def test_a_transaction_locks_before_it_reads(ledger: Ledger) -> None:
    """Otherwise two processes could both find the budget sufficient, and one of them fail half-way."""
    other, read = Ledger(ledger.path, busy_seconds=0.05), []
    with ledger._file.write():
        with pytest.raises(ComponentFailure, match="another process"), other._file.write() as connection:
            read.append(connection.execute("SELECT count(*) FROM entries").fetchone())
        assert read == [], "what it reads now may have changed before it writes"
        with pytest.raises(ComponentFailure, match="another process"):
            other.charge("people", "r", 0, "", STRONG)
    assert ledger.entries("people") == []


WRITER = """
import sys
from fedpriv.privacy import Ledger, Release
release = Release(noise_multiplier=1e3, sampling_name="full", rate=1.0, clipping_norm=1.0)
ledger = Ledger(sys.argv[1])
number = int(sys.argv[2])
while True:
    ledger.charge_many("people", "r", number, {"a": release, "b": release}, digest=str(number))
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("wait", [0.0, 0.003, 0.011, 0.027])
def test_nothing_published_is_lost_by_kill_nine(ledger: Ledger, wait: float) -> None:
    """A process charges, then "publishes" by printing; it is killed at some point of that loop."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(ledger.path), "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    published = [0, *(int(line) for line in process.stdout.read().split())]
    process.wait()
    process.stdout.close()
    charged = {(one.round, one.group) for one in Ledger(ledger.path).entries("people")}
    assert {(number, group) for number in published for group in "ab"} <= charged
    rounds = {number for number, _ in charged}
    assert len(charged) == 2 * len(rounds)  # both groups or none
    assert max(rounds) <= max(published) + 1  # over-charged by one round at most
    assert ledger.charge("people", "r", max(rounds) + 1, "", STRONG)


def test_an_interrupted_transaction_is_rolled_back_by_a_reader(ledger: Ledger) -> None:
    """A hot journal, as a crash in the middle of a commit leaves it."""
    ledger.charge("people", "r", 0, "", STRONG)
    code = """
import os, signal, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA cache_size=1"); c.execute("PRAGMA cache_spill=1")
c.execute("BEGIN IMMEDIATE")
c.execute("INSERT INTO releases (release) VALUES ('x')")
for n in range(3000):
    c.execute("INSERT INTO entries (population, run, round, part, release, digest) "
              "VALUES ('people', 'torn', ?, '', 1, ?)", (n, "y" * 200))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(ledger.path)], check=False)
    assert ledger.path.with_name("ledger.sqlite-journal").exists()
    assert Ledger(ledger.path).counts("people") == Counter({STRONG: 1})
    assert Ledger(ledger.path).runs("people") == ["r"]


def test_two_processes_charge_together(ledger: Ledger) -> None:
    code = WRITER.replace("while True", "for _ in range(20)").replace('"r"', "sys.argv[3]")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(ledger.path), "0", name], stdout=subprocess.DEVNULL, text=True
        )
        for name in ("x", "y")
    ]
    assert [one.wait() for one in running] == [0, 0]
    assert len(ledger.entries("people")) == 80
    with ledger._file.read() as connection:  # neither left an older head behind
        assert HeadFile(ledger.path.with_name("ledger.sqlite.head")).read() == head_of(connection)


def test_a_query_stays_cheap(ledger: Ledger) -> None:
    register(ledger, "bench", declared="benchmark", budget=None)
    ledger.charge("bench", "r", 0, "", STRONG)
    connection = sqlite3.connect(ledger.path)
    connection.executemany(
        "INSERT INTO entries (population, run, round, part, release, digest) VALUES ('bench', 'r', ?, '', 1, '')",
        [(number,) for number in range(1, 10_000)],
    )
    append_links(connection)
    connection.commit()
    connection.close()
    ledger.spent("bench", 1e-5)
    times = []
    for _ in range(20):
        start = time.process_time()
        assert ledger.counts("bench").total() == 10_000
        times.append(time.process_time() - start)
    assert min(times) < 0.02  # processor time; reading entry by entry takes some 50 ms


def test_describe(ledger: Ledger) -> None:
    ledger.charge_many("people", "r", 0, {"a": STRONG, "b": STRONG})
    found = ledger.describe("people")
    assert found["population"] == "people"
    assert found["tasks"] == 100
    assert found["declared"] == "protected"
    assert found["budget"] == {"epsilon": 2.0, "delta": 1e-5, "relation": "add/remove"}
    spent = epsilon([STRONG], 1e-5).value
    assert found["spent"]["add/remove"] == spent
    assert found["spent"]["replace-one"] == epsilon([STRONG], 1e-5, Relation.REPLACE_ONE).value
    assert found["runs"]["r"]["add/remove"] == spent
    assert found["runs"]["r"]["releases"] == 2
    assert 0.9 < found["left"]["share"] < 1
    register(ledger, "bench", declared="benchmark", budget=None)
    assert ledger.describe("bench")["spent"] is None
    assert "alone" in ledger.describe("bench")["note"]
    assert math.isclose(ledger.describe("bench")["delta"], 1e-4)
