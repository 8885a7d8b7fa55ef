"""Values of one's own data: what one person wrote decides neither over a start nor how another's are read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import nn

from fedpriv import InputError, Tasks
from fedpriv.cohort import PARTS, Ragged, usable
from fedpriv.data import check_own_file

X = np.arange(8, dtype=np.float64).reshape(4, 2)
Y = np.array([0, 1, 0, 1])
TEXTS: dict[str, Any] = {"task": "who", "target": "y", "features": ["v"]}


def scores(tasks: Tasks) -> list[bool]:
    """Who counts, after all that refuses a start was asked."""
    tasks.check()
    found: list[bool] = usable(tasks, torch.float32).scores.tolist()
    return found


def same_rows(one: Tasks, other: Tasks, task: int) -> None:
    for part in PARTS:
        here, there = one.part(part), other.part(part)
        for name in ("inputs", "targets"):
            first, second = (getattr(each, name)[each.rows(task)] for each in (here, there))
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)


# --- labels of arrays ---

STRANGE: dict[str, Any] = {
    "pandas, a gap": pd.Series([0, None, 0, 1]),
    "pandas, objects": pd.Series([0, None, 0, 1], dtype=object),
    "pandas, nullable": pd.Series([0, None, 0, 1], dtype="Int64"),
    "pandas, categories": pd.Series([0, None, 0, 1], dtype="category"),
    "pandas, truth": pd.Series([False, None, False, True], dtype="boolean"),
    "pandas, truth as objects": pd.Series([False, None, False, True]),
    "floats": np.array([0, np.nan, 0, 1]),
    "half": np.array([0, 0.5, 0, 1]),
    "infinite": np.array([0, np.inf, 0, 1]),
    "too large": np.array([0, 1e300, 0, 1]),
    "beyond int64": [0, 2**63, 0, 1],
    "beyond float64": [0, 10**400, 0, 1],
    "complex": [0, 1j, 0, 1],
    "list": [0, None, 0, 1],
    "text": ["0", "x", "0", "1"],
    "text among numbers": [0, "x", 0, 1],
    "tensor": torch.tensor([0, torch.nan, 0, 1]),
}


@pytest.mark.parametrize("classes", [2, [0, 1], ["0", "1"]])
@pytest.mark.parametrize("how", STRANGE)
def test_a_label_that_cannot_be_used_refuses_no_start_and_changes_nobody_elses(how: str, classes: Any) -> None:
    good, strange = {"ann": (X, Y), "bob": (X, Y)}, {"ann": (X, Y), "bob": (X, STRANGE[how])}
    if "truth" in how and classes != 2:
        strange["bob"] = (X, pd.Series(["0", None, "0", "1"]))
    plain = Tasks.from_arrays(good, classes=classes, declared="protected")
    found = Tasks.from_arrays(strange, classes=classes, declared="protected")
    assert scores(found) == [True, False]
    assert sorted(found.to_frame()["target"][4:]) == [-1, 0, 0, 1]
    same_rows(found, plain, 0)
    with pytest.raises(InputError, match=r"the label .* of example 1 of 'bob' .* is none of the"):
        Tasks.from_arrays(strange, classes=classes, declared="benchmark")


@pytest.mark.parametrize("gap", [None, float("nan"), torch.tensor(float("nan")), 1.5, "x", 1j, 2**63])
def test_a_label_of_a_data_set_that_cannot_be_used(gap: Any) -> None:
    def sets(second: Any) -> dict[str, Any]:
        mine = [(torch.ones(2), one) for one in (0, second, 0, 1)]
        return {"ann": [(torch.ones(2), one) for one in Y.tolist()], "bob": mine}

    found = Tasks.from_datasets(sets(gap), classes=2, declared="protected")
    assert scores(found) == [True, False]
    same_rows(found, Tasks.from_datasets(sets(1), classes=2, declared="protected"), 0)
    with pytest.raises(InputError, match=r"the label .* of example 1 of 'bob' .* is none of the 2"):
        Tasks.from_datasets(sets(gap), classes=2, declared="benchmark")


def test_types_that_no_single_value_makes_are_refused() -> None:
    for labels, words in (
        (Y.astype(complex), "complex numbers"),
        (Y.astype("datetime64[s]"), "dates"),
        (pd.Series(pd.to_datetime(["2020"] * 4)), "dates"),
        (np.ma.masked_array(Y, Y > 0), "mask would be lost"),
        (Y.astype("S1"), "bytes"),
    ):
        with pytest.raises(InputError, match=f"the labels of 'ann' .*{words}"):
            Tasks.from_arrays({"ann": (X, labels)}, classes=2, declared="protected")
    for labels in (np.array([["no", "yes"]] * 4), [["no", "yes"]] * 4, np.array([["no"], ["yes"]] * 2)):
        with pytest.raises(InputError, match=r"the labels of 'bob' have the shape \(4, .\), and classes need one"):
            Tasks.from_arrays(
                {"ann": (X, ["no", "yes"] * 2), "bob": (X, labels)}, classes=["no", "yes"], declared="protected"
            )


@pytest.mark.parametrize(
    "inputs",
    [
        pd.DataFrame({"a": [0, None, 4, 6], "b": [1, 3, 5, 7]}),
        pd.DataFrame({"a": [0, "x", 4, 6], "b": [1, 3, 5, 7]}),
        pd.DataFrame({"a": pd.array([0, None, 4, 6], dtype="Int64"), "b": [1, 3, 5, 7]}),
    ],
)
def test_an_input_of_a_table_that_cannot_be_used(inputs: pd.DataFrame) -> None:
    good = pd.DataFrame({"a": [0, 2, 4, 6], "b": [1, 3, 5, 7]})
    found = Tasks.from_arrays({"ann": (good, Y), "bob": (inputs, Y)}, classes=2, declared="protected")
    plain = Tasks.from_arrays({"ann": (good, Y), "bob": (good, Y)}, classes=2, declared="protected")
    assert (scores(found), scores(plain)) == ([True, False], [True, True])
    assert found.train.columns == ("a", "b")
    same_rows(found, plain, 0)
    lists = Tasks.from_arrays({"ann": (X.tolist(), Y), "bob": ([[0, 1], [None, 3], [4, 5], [6, 7]], Y)},
                              classes=2, declared="protected")  # fmt: skip
    assert scores(lists) == [True, False]


@pytest.mark.parametrize("values", [[1, None, 3, 4], [1, "x", 3, 4], pd.Series([1, None, 3, 4]), [1, 2**53 + 1, 3, 4]])
def test_a_value_of_a_regression_that_cannot_be_used(values: Any) -> None:
    given = {"ann": (X, [1, 2, 3, 4]), "bob": (X, values)}
    assert scores(Tasks.from_arrays(given, declared="protected")) == [True, False]
    mixed = {"ann": (X, np.array([1, 2, 3, 4])), "bob": (X, np.array([1.5, 2, 3, 4]))}
    for declared in ("protected", "benchmark"):
        assert scores(Tasks.from_arrays(mixed, declared=declared)) == [True, True]  # type: ignore[arg-type]


def test_ids_of_arrays_stay_whole_whoever_they_belong_to() -> None:
    ids = Tasks.from_arrays({"ann": (X.astype(np.int32), Y), "bob": (torch.ones(4, 2).long(), Y)}, classes=2,
                            declared="protected")  # fmt: skip
    assert ids.train.inputs.dtype.kind == "i"


def test_labels_by_hand_of_protected_data() -> None:
    part = Ragged.from_lists([X, X], [pd.Series(Y), pd.Series([0, None, 0, 1])])
    tasks = Tasks("mine", ("ann", "bob"), part, None, part, 2, "protected")  # type: ignore[arg-type]
    assert scores(tasks) == [True, False]
    assert tasks.train.targets.tolist() == [0, 1, 0, 1, 0, -1, 0, 1]
    with pytest.raises(InputError, match="needs labels that are whole numbers"):
        Tasks("mine", ("ann", "bob"), part, None, part, 2, "benchmark")  # type: ignore[arg-type]


# --- columns of pandas: one value changes the type of the column ---


@pytest.mark.parametrize(
    ("good", "bad", "classes"),
    [
        ([0, 1, 0, 1], None, [0, 1]),
        ([0, 1, 0, 1], "x", ["0", "1"]),
        ([0.0, 1.0, 0.0, 1.0], "x", ["0", "1"]),
        ([False, True, False, True], None, ["False", "True"]),
        ([False, True, False, True], "x", ["false", "true"]),
        ([False, True, False, True], None, 2),
        ([0, 1, 0, 1], 0.5, ["0", "1"]),
    ],
)
def test_a_value_of_a_column_changes_nobody_elses(good: list[Any], bad: Any, classes: Any) -> None:
    names = classes if classes != 2 else ["false", "true"]
    asked: dict[str, Any] = {
        "task": "who", "target": "y", "classes": classes, "declared": "protected",
        "features": {"c": [str(one) for one in names], "b": "boolean"},
    }  # fmt: skip

    def read(last: Any) -> Tasks:
        column = [*good, *good[:3], last]
        return Tasks.from_frame(
            pd.DataFrame({"who": ["ann"] * 4 + ["bob"] * 4, "c": column, "b": column, "y": column}), **asked
        )

    plain, found = read(good[3]), read(bad)
    assert (scores(plain), scores(found)) == ([True, True], [True, False])
    same_rows(found, plain, 0)


def test_whole_numbers_are_classes_in_every_reader(tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": ["ann"] * 4, "v": [1.0, 2.0, 3.0, 4.0], "y": [5, 7, 5, 7]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    asked: dict[str, Any] = {**TEXTS, "declared": "protected"}
    for classes in ([5, 7], ["5", "7"], np.array([5, 7]).tolist(), (5, 7)):
        for tasks in (
            Tasks.from_frame(frame, classes=classes, **asked),
            Tasks.from_table(tmp_path / "a.csv", classes=classes, **asked),
            Tasks.from_arrays({"ann": (frame[["v"]], frame["y"])}, classes=classes, declared="protected"),
        ):
            assert (sorted(tasks.to_frame()["target"]), tasks.num_classes) == ([0, 0, 1, 1], 2)
    for wrong in ([5, 5], [True, False], [5, "7"], [5.0, 7.0]):
        with pytest.raises(InputError, match="classes must be their number, or different texts"):
            Tasks.from_frame(frame, classes=wrong, **asked)


# --- numbers ---


def semicolons(path: Path, ann: list[str], bob: list[str]) -> Path:
    rows = [f"{name};{v};0" for name, column in (("ann", ann), ("bob", bob)) for v in column]
    path.write_text("\n".join(["who;v;y", *rows]))
    return path


def test_one_persons_decimal_mark_changes_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    points, commas, both = ["1.5", "2", "3.25", "4"], ["1,5", "2", "3,25", "4"], ["1.5", "2", "3,25", "1.000"]
    for ann in (points, commas):
        plain = Tasks.from_table(semicolons(path, ann, ann), declared="protected", **TEXTS)
        assert sorted(plain.to_frame()["v"]) == [1.5, 1.5, 2, 2, 3.25, 3.25, 4, 4]
        for bob in (points, commas, both):
            found = Tasks.from_table(semicolons(path, ann, bob), declared="protected", **TEXTS)
            assert scores(found) == [True, bob is not both]
            same_rows(found, plain, 0)
    asked = {"file": str(path), **TEXTS}
    check_own_file(asked, "protected", tmp_path / "places.csv")
    assert (tmp_path / "places.csv").read_text().splitlines()[1:] == ["line 8,v,another decimal mark"]
    found = Tasks.from_table(semicolons(path, points, commas), declared="protected", decimal=".", **TEXTS)
    assert scores(found) == [True, False]
    with pytest.raises(InputError, match=r"holds '1,5' in line 6, column 'v', whose decimal mark is another"):
        Tasks.from_table(path, declared="benchmark", **TEXTS)


@pytest.mark.parametrize("value", [2**53, 2**53 + 1, -(2**60) - 1, 2**63])
def test_a_whole_number_that_a_float_rounds_is_no_value(value: int, tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": ["ann"] * 4 + ["bob"] * 4, "v": [1] * 4 + [1, value, 2**53 - 1, 3], "y": [0.0] * 8})
    frame.to_csv(tmp_path / "a.csv", index=False)
    kind = pa.uint64() if value >= 2**63 else pa.int64()
    arrow = pa.table({**frame.to_dict("list"), "v": pa.array([[one] for one in frame["v"].tolist()], pa.list_(kind))})
    for how in ("number", "standardize-within-task"):
        asked: dict[str, Any] = {**TEXTS, "features": {"v": how}}
        for read in (
            lambda declared, asked=asked: Tasks.from_frame(frame, declared=declared, **asked),
            lambda declared, asked=asked: Tasks.from_table(tmp_path / "a.csv", declared=declared, **asked),
            *([lambda declared, asked=asked: Tasks.from_frame(arrow, declared=declared, **asked)]
              if how == "number" else []),
        ):  # fmt: skip
            assert scores(read("protected")) == [True, False]
            with pytest.raises(InputError, match=r"(row 5|line 7).*, column 'v', which is (a whole number|too large)"):
                read("benchmark")
    check_own_file({"file": str(tmp_path / "a.csv"), **TEXTS}, "protected", tmp_path / "places.csv")
    assert (tmp_path / "places.csv").read_text().splitlines()[1:] == ["line 7,v,too large"]
    ranged = {**TEXTS, "features": {"v": (0, 2**60)}}
    assert scores(Tasks.from_frame(frame, declared="protected", **ranged)) == [True, True]


# --- people of too few rows ---


def test_all_people_of_too_few_rows_are_named_at_once() -> None:
    names = ["ann"] * 3 + [f"p{number:02}" for number in range(13)] + ["p00"]
    frame = pd.DataFrame({"who": names, "v": 1.0, "y": 0.0})
    for declared in ("protected", "benchmark"):
        with pytest.raises(InputError, match="13 tasks of the frame have too few rows") as caught:
            Tasks.from_frame(frame, declared=declared, **TEXTS)  # type: ignore[arg-type]
        said = str(caught.value)
        assert "'p00' has 2 rows (row 3 (counted from 0)); 'p01' has 1 row (row 4" in said
        assert ("'p09'" in said, "'p10'" in said, "and 3 more, and each person needs at least 3" in said) == (
            True,
            False,
            True,
        )
    parts = frame.assign(part="train")
    with pytest.raises(
        InputError, match=r"14 tasks .* 'ann' has 3 rows .*, 3 of them to train on and 0 to test; 'p00'"
    ):
        Tasks.from_frame(parts, declared="protected", split="part", **TEXTS)


# --- files ---


@contextmanager
def somebody_else() -> Iterator[Path]:
    """A folder in which files may be closed to this process, also where it is run by root."""
    mine = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        try:
            if mine == 0:
                os.chown(folder, 65534, -1)
                os.seteuid(65534)
            yield Path(folder)
        finally:
            os.seteuid(mine)
            for one in Path(folder).iterdir():
                one.chmod(0o700)


def test_what_may_not_be_read_is_a_sentence() -> None:
    with somebody_else() as folder:
        closed = folder / "closed"
        closed.mkdir()
        (closed / "state.json").write_text("{}")
        (folder / "a.csv").write_text("who,v,y\n")
        for path, mode in ((closed, 0), (closed / "state.json", 0), (folder / "a.csv", 0)):
            path.chmod(mode)
            for read in (
                lambda: Tasks.from_saved_dataset(closed, declared="protected", **TEXTS),
                lambda path=path: Tasks.from_leaf(path, declared="protected"),
                lambda path=path: check_own_file({"file": str(path)}, None),
                lambda path=path: Tasks.from_table(path, declared="protected", **TEXTS),
                lambda path=path: Tasks.from_images(closed, classes=["a"], declared="protected"),
            ):  # fmt: skip
                with pytest.raises(InputError) as caught:
                    read()
                assert "damaged" not in str(caught.value)
            if path == closed:
                with pytest.raises(InputError, match="'closed' cannot be read: Permission denied"):
                    check_own_file({"file": str(closed)}, None)
                path.chmod(0o755)
            elif path.parent == closed:
                with pytest.raises(InputError, match="'closed' cannot be read: Permission denied"):
                    Tasks.from_saved_dataset(closed, declared="protected", **TEXTS)
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        check_own_file({"file": "a" * 5000 + ".csv"}, None)


def test_a_frame_is_told_of_its_own_columns() -> None:
    frame = pd.DataFrame({"who": ["ann"] * 4, "v": 1.0, "y": 0.0})
    for given, words in (
        (frame, "which frame.columns lists"),
        (pa.Table.from_pandas(frame), "table.column_names lists"),
    ):
        with pytest.raises(InputError, match=f"it has 3 columns, .*{words}") as caught:
            Tasks.from_frame(given, task="whom2", target="y", features=["v"], declared="protected")
        assert "data check" not in str(caught.value)


def test_no_cell_of_a_table_without_headings_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("zaphod,m,often\ntrillian,f,never\nzaphod,m,never\n")
    assert "zaphod" not in str(check_own_file({"file": str(path)}, None)["columns"])
    path.write_text("who,sex,how\n" + path.read_text())
    assert check_own_file({"file": str(path)}, None)["columns"] == "3: who, sex, how"
    path.write_text("1e5,x\n2,y\n")
    assert "first line holds numbers" in check_own_file({"file": str(path)}, None)["columns"]


def test_a_network_that_takes_ids_gets_whole_numbers_of_arrays() -> None:
    """What the page of the class says to do instead of lists."""
    tasks = Tasks.from_arrays({"ann": (X.astype(int), Y)}, classes=2, declared="protected")
    assert nn.Embedding(9, 2)(torch.from_numpy(tasks.train.inputs)).shape == (2, 2, 2)
