"""Public groups of people, named by a column of their own table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers import crash_at

from fedpriv import InputError, Tasks

GROUPS = {"ann": 2, "bob": 1, "cem": 2, "dora": 1, "eve": 2, "finn": 1}
ASKED: dict[str, Any] = {"task": "person", "target": "slept", "classes": ["no", "yes"], "groups": "clinic"}
TOML = """
[data]
file = "people.csv"
task = "person"
target = "slept"
features = {age = [0, 100]}
groups = "clinic"
classes = ["no", "yes"]
[model]
name = "linear"
[client]
name = "global-model"
[strategy]
rounds = 3
clipping_norm = 0.5
epsilon = {1 = 2.0, 2 = 8.0}
delta = 1e-3
[run]
declared = "benchmark"
grid = "in-process"
report = false
baseline = false
"""


def frame(**changes: Any) -> pd.DataFrame:
    rows = [
        {"person": name, "age": 20 + 3 * k + number, "clinic": group, "slept": "yes" if (k + number) % 2 else "no"}
        for number, (name, group) in enumerate(reversed(GROUPS.items()))
        for k in range(6)
    ]
    return pd.DataFrame(rows).assign(**changes)


def test_every_reader_gives_each_person_the_group_of_the_column(tmp_path: Path) -> None:
    """In the order of the names, whatever the order of the rows; a group is no feature."""
    frame().to_csv(tmp_path / "a.csv", index=False)
    frame().to_parquet(tmp_path / "a.parquet")
    for tasks in (
        Tasks.from_frame(frame(), **ASKED, declared="benchmark"),
        Tasks.from_table(tmp_path / "a.csv", **ASKED, declared="benchmark"),
        Tasks.from_table(tmp_path / "a.parquet", **ASKED, features={"age": (0, 100)}, declared="protected"),
    ):
        assert tasks.names == tuple(sorted(GROUPS))
        assert tasks.groups == tuple(GROUPS[name] for name in tasks.names)
        assert tasks.train.columns == ("age",)
        assert tasks.roster.groups == tasks.groups
    assert (
        Tasks.from_frame(frame().drop(columns="clinic"), **{**ASKED, "groups": None}, declared="benchmark").groups
        is None
    )


def wrong(how: str) -> pd.DataFrame:
    column: list[Any] = frame()["clinic"].astype(object).tolist()
    column[8] = {"two": 1, "none": None, "word": "north"}[how]
    return frame(clinic=pd.array(column, dtype="Int64") if how == "none" else column)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            wrong("two"),
            r"has 'eve' in group 2 \(row \d+ .*\) and in group 1 \(row 8 .*\); write one group in all rows of a p",
        ),
        (wrong("none"), r"no whole number for the group in row 8 .*column 'clinic'; write the number of the person's"),
        (wrong("word"), r"no whole number for the group in row 8 .*column 'clinic'; write the number of the person's"),
        (frame(clinic=1.5), "holds .* in the column 'clinic', and groups are whole numbers; give them as 1, 2"),
        (frame().drop(columns="clinic"), "'clinic'"),
    ],
    ids=["two groups", "none", "a word", "fractions", "no column"],
)
@pytest.mark.parametrize("declared", ["protected", "benchmark"])
def test_what_is_no_group_is_a_sentence(given: pd.DataFrame, said: str, declared: Any) -> None:
    """Who says that a column is public may be told where it is not right."""
    with pytest.raises(InputError, match=said):
        Tasks.from_frame(given, **ASKED, features={"age": (0, 100)}, declared=declared)
    with pytest.raises(InputError, match="must be different columns; name each"):
        Tasks.from_frame(frame(), **{**ASKED, "groups": "slept"}, declared=declared, features={"age": (0, 100)})


def test_groups_of_a_file_have_epsilons_of_their_own_and_stay_in_a_run(
    fedpriv: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    frame().to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "my.toml").write_text(TOML)
    words = ["run", "my.toml", "--out", "run"]
    with crash_at(monkeypatch, "after charge", 2):
        fedpriv(*words)
    swapped = frame(clinic=3 - frame()["clinic"])
    swapped.to_csv(tmp_path / "people.csv", index=False)
    code, _, err = fedpriv(*words, "--resume")
    assert (code, "the tasks' public groups are not those that run was started with" in err) == (2, True), err
    frame().to_csv(tmp_path / "people.csv", index=False)
    code, _, err = fedpriv(*words, "--resume")
    assert code == 0, err
    found = json.loads((tmp_path / "run/summary.json").read_text())["group_guarantees"]
    assert {group: round(one["epsilon"], 1) for group, one in found.items()} == {"group-1": 2.0, "group-2": 8.0}
    code, _, err = fedpriv("run", "pmtl", "--set=data.groups=3", "--set=data.file=people.csv", "--out", "no")
    assert (code, "groups" in err) == (2, False), "how many groups a data set is cut into is no column"
