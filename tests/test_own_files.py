"""Data files of one's own: damaged ones are one sentence with row and column, and runs from the command line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fedpriv import InputError, Tasks
from fedpriv.cohort import usable
from fedpriv.config import apply, build_experiment, read_own, read_toml
from fedpriv.data import check_own_file, own_inputs, own_tasks
from fedpriv.data.own_file import OwnFile

GOOD = "who,v,y\n" + "ann,1,0\nann,2,1\nann,3,0\nbob,1,1\nbob,2,0\nbob,3,1\n"
ASKED: dict[str, Any] = {"task": "who", "target": "y", "features": {"v": (0, 4)}, "classes": 2}


def refused(words: str, **asked: Any) -> str:
    """One sentence or two, and for protected data without a value."""
    with pytest.raises(InputError, match=words) as caught:
        own_tasks({**ASKED, **asked}, "protected")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    return str(caught.value)


TEXTS: dict[str, tuple[bytes | str, str, dict[str, Any]]] = {
    "nothing": ("", "no headings: its first line is empty", {}),
    "headings alone": ("who,v,y\n", "headings and no rows", {}),
    "a short line": (GOOD.replace("bob,2,0", "bob,2"), "has 2 cells in line 6 where its first line names 3", {}),
    "a long line": (GOOD.replace("bob,2,0", "bob,2,0,secret"), "has 4 cells in line 6", {}),
    "cut off": (GOOD[:-4], "has 2 cells in line 7", {}),
    "an open quote": (GOOD.replace("bob,1", '"bob,1'), "quotation mark .* begins in line 5", {}),
    "a quote inside": (GOOD.replace("bob,2", '"bob"secret,2'), "quotation mark .* begins in line 6", {}),
    "a column twice": (GOOD.replace("who,v,y", "who,v,v"), "the same heading in columns 2 and 3", {}),
    "a value twice in place of headings": (
        GOOD.replace("who,v,y\n", "ann,secret,secret\n"),
        "the same heading in columns 2 and 3",
        {},
    ),
    "no such task": (GOOD, r"no column 'whom' \(the task\): did you mean 'who'\?", {"task": "whom"}),
    "no such target": (GOOD, r"no column 'z' \(a target\)", {"target": "z"}),
    "no such feature": (GOOD, "no column 'w' .named in features", {"features": ["w"]}),
    "the task as a feature": (GOOD, "'who' is the task, the target or the part", {"features": ["v", "who"]}),
    "no headings": (GOOD.replace("who,v,y\n", "secret1,1,0\n"), r"no column 'who' \(the task\): it has 3 columns", {}),
    "Latin-1": (
        GOOD.replace("bob", "böb").encode("latin-1"),
        r"not UTF-8 in line 5 \(byte 33\).*encoding='latin-1'",
        {},
    ),
    "a workbook": (b"PK\x03\x04secret", "a workbook or an archive", {}),
    "a NUL": (GOOD.replace("bob,2", "bob,\0").encode(), "holds a NUL character in line 6", {}),
    "no name": (GOOD.replace("bob,2", ",2"), "without a name of its person, line 6", {}),
    "one row": (GOOD + "eve,1,1\n", r"task 'eve' of 'a.csv' has 1 row \(line 8\)", {}),
    "a case": (GOOD + "Bob,1,1\n" * 3, r"'Bob' \(line 8\) and 'bob' \(line 5\)", {}),
    "a part": (
        GOOD.replace("\n", ",train\n").replace("y,train", "y,part").replace("2,0,train", "2,0,secret"),
        "names no part in line 6, column 'part'; write train, validation or test there",
        {"split": "part"},
    ),
    "a wrong separator": (GOOD, "no column 'who'", {"separator": ";"}),
    "a long separator": (GOOD, "separator must be one character", {"separator": "::"}),
    "an unknown encoding": (GOOD, "encoding 'utf-99' is unknown", {"encoding": "utf-99"}),
    "decimal comma": (GOOD, "between cells, so it cannot stand before decimals", {"decimal": ","}),
    "shares": (GOOD, "split must be the shares", {"split": [0.5, 0.5]}),
    "a falling range": (GOOD, "the range of 'v' must rise", {"features": {"v": [4, 0]}}),
    "a range too wide": (GOOD, "is wider than the largest float64", {"features": {"v": [-1e308, 1e308]}}),
    "a stand-in outside": (
        GOOD,
        "'missing' of 'v' must lie in its range, 0 to 4, got 9",
        {"features": {"v": {"range": [0, 4], "missing": 9}}},
    ),
    "no way to read": (GOOD, "'v' must be two numbers or dates", {"features": {"v": [1, 2, 3]}}),
    "twice the same": (GOOD, "the column 'v' more than once", {"features": {"v": [0, 4], " v ": "number"}}),
    "a class twice": (GOOD, "classes must be their number, or different texts", {"classes": ["0", "0"]}),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_damaged_table_is_a_sentence_with_its_line(what: str, tmp_path: Path) -> None:
    content, words, asked = TEXTS[what]
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(words, file=str(path), **asked)


def test_what_the_sentences_advise_helps(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(GOOD.replace("bob", "böb").encode("latin-1"))
    assert own_tasks({**ASKED, "file": str(path), "encoding": "latin-1"}, "protected").names == ("ann", "böb")
    path.write_bytes(GOOD.replace(",", "|").encode("utf-8-sig"))
    assert own_tasks({**ASKED, "file": str(path)}, "protected").names == ("ann", "bob")
    path.write_text(GOOD.replace(",", ":"))
    assert own_tasks({**ASKED, "file": str(path), "separator": ":"}, "protected").names == ("ann", "bob")
    path.write_text("\n" + GOOD)
    refused("its first line is empty", file=str(path))
    path.write_text(GOOD.replace("ann,2", "\n\nann,2").replace("bob,1", '"b\nb",1').replace("bob", '"b\nb"'))
    assert own_tasks({**ASKED, "file": str(path)}, "protected").names == ("ann", "b\nb")
    path.write_text(path.read_text().removesuffix(",1\n"))
    refused("has 2 cells in line 11", file=str(path))  # the line where the record begins, whatever its cells hold


@pytest.mark.parametrize("ending", ["parquet", "csv.gz", "json"])
def test_a_file_that_was_cut_off_is_a_sentence(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "json":
        data = {"ann": {"x": [[1.0], [2.0], [3.0]], "y": [0, 1, 0]}}
        path.write_text(json.dumps({"users": ["ann"], "num_samples": [3], "user_data": data}))
    elif ending == "parquet":
        pd.read_csv(__import__("io").StringIO(GOOD)).to_parquet(path)
    else:
        path.write_bytes(__import__("gzip").compress(GOOD.encode()))
    asked = {"classes": 2} if ending == "json" else ASKED
    assert len(own_tasks({**asked, "file": str(path)}, "protected"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"damaged|not whole|no whole JSON in line 1, column") as caught:
        own_tasks({**asked, "file": str(path)}, "protected")
    assert "\n" not in str(caught.value)


LEAF: dict[str, tuple[Any, str]] = {
    "another form": ([1, 2], "no 'users' and 'user_data'"),
    "a user without data": ({"users": ["ann", "eve"], "user_data": {"ann": {}}}, "not so 'eve'"),
    "a user who is not named": ({"users": [], "user_data": {"ann": {}}}, "must name each user"),
    "a count": ({"users": ["ann"], "num_samples": [4], "user_data": {"ann": {"x": [[1], [2], [3]], "y": [0, 1, 0]}}},
                "holds 3 inputs and 3 targets of the user 'ann' and says 4"),
    "a label too few": ({"users": ["ann"], "user_data": {"ann": {"x": [[1], [2], [3]], "y": [0, 1]}}}, "inputs and 2"),
    "no lists": ({"users": ["ann"], "user_data": {"ann": {"x": "secret", "y": [0]}}}, "lists 'x' and 'y' for the user"),
    "empty lists": ({"users": ["ann"], "user_data": {"ann": {"x": [[], [], []], "y": [0, 1, 0]}}},
                    "holds empty lists in 'x', example 0 of 'ann'"),
    "no Unicode": ({"users": ["\ud800"], "user_data": {"\ud800": {"x": [[1], [2], [3]], "y": [0, 1, 0]}}},
                   r"the name '.ud800', example 0 of '.ud800' .* which is no valid Unicode"),
    "shapes": ({"users": ["ann"], "user_data": {"ann": {"x": [[1], [2, 3], [3]], "y": [0, 1, 0]}}},
               r"another shape than \[1\] in 'x', example 1 of 'ann'"),
}  # fmt: skip


@pytest.mark.parametrize("what", LEAF)
def test_a_damaged_leaf_file_is_a_sentence_with_its_user(what: str, tmp_path: Path) -> None:
    content, words = LEAF[what]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=words) as caught:
        Tasks.from_leaf(tmp_path / "a.json", classes=2, declared="protected")
    assert "secret" not in str(caught.value)


def test_values_of_a_leaf_file(tmp_path: Path) -> None:
    data = {name: {"x": [[1.0], [2.0], [3.0]], "y": [0, 1, 0]} for name in ("ann", "bob")}
    data["bob"] = {"x": [[1.0], ["secret"], [None]], "y": [0, True, 7]}
    (tmp_path / "a.json").write_text(json.dumps({"users": [*data], "user_data": data}))
    tasks = Tasks.from_leaf(tmp_path / "a.json", classes=2, declared="protected", split=(0.5, 0, 0.5))
    found = tasks.to_frame()
    assert np.isnan(found["x0"]).tolist() == [False, False, False, False, True, True]
    assert sorted(found["target"][3:]) == [-1, 0, 1]
    with pytest.raises(InputError, match=r"no finite number|'x', example 1 of 'bob'"):
        Tasks.from_leaf(tmp_path / "a.json", classes=2, declared="benchmark")


def test_a_number_of_thousands_of_digits_is_a_value_like_others(tmp_path: Path) -> None:
    """Python refuses to read such a number, and to write one."""
    path = tmp_path / "a.json"
    user = '{"x": [[1.0], [2.0], [3.0]], "y": [0, 1, 0]}'
    whole = '{"users": ["ann", "bob"], "user_data": {"ann": ANN, "bob": BOB}}'.replace("ANN", user)
    for classes in (2, None):
        for bad in (user.replace("2.0", "9" * 5000), user.replace("1, 0]", "9" * 5000 + ", 0]")):
            path.write_text(whole.replace("BOB", bad))
            tasks = Tasks.from_leaf(path, classes=classes, declared="protected")
            assert usable(tasks, torch.float32).scores.tolist() == [True, False]
            with pytest.raises(InputError, match=r"example 1 of 'bob'"):
                Tasks.from_leaf(path, classes=classes, declared="benchmark")
    with pytest.raises(InputError, match=r"'y', example 1 of 'bob'"):
        Tasks.from_leaf(path, classes="infer", declared="benchmark")
    frame = pd.DataFrame({"who": ["ann"] * 3 + ["bob"] * 3, "y": [0, 1] * 3})
    frame["v"] = pd.Series([1] * 5 + [10**5000], dtype=object)  # older versions of pandas refuse to find the type
    asked: dict[str, Any] = {"task": "who", "target": "y", "declared": "protected"}
    found = Tasks.from_frame(frame, features=["v"], **asked)
    assert usable(found, torch.float32).scores.tolist() == [True, False]
    with pytest.raises(InputError, match="'v' must be two numbers or dates"):
        Tasks.from_frame(frame, features={"v": (0, 10**5000)}, **asked)
    (tmp_path / "a.csv").write_text(GOOD.replace("bob,3,1", "bob,3," + "9" * 5000))
    inferred = Tasks.from_table(
        tmp_path / "a.csv", task="who", target="y", features=["v"], classes="infer", declared="benchmark"
    )
    assert inferred.num_classes == 3


def test_a_key_of_json_that_stands_twice_is_named(tmp_path: Path) -> None:
    user = '{"x": [[1.0], [2.0], [3.0]], "y": [0, 1, 0]}'
    path = tmp_path / "a.json"
    for text, key in (
        ('{"users": ["ann"], "user_data": {"ann": ANN, "ann": ANN}}', "ann"),
        ('{"users": ["ann"], "user_data": {"ann": {"x": [], "x": [[1.0]], "y": [0]}}}', "x"),
        ('{"users": ["eve"], "users": ["ann"], "user_data": {"ann": ANN}}', "users"),
    ):
        path.write_text(text.replace("ANN", user))
        with pytest.raises(InputError, match=rf"'a.json' has the key '{key}' twice"):
            Tasks.from_leaf(path, classes=2, declared="protected")


def test_each_kind_of_data_tells_its_owner_where_values_cannot_be_used(tmp_path: Path) -> None:
    from datasets import Dataset
    from PIL import Image

    def places(**asked: Any) -> list[str]:
        check_own_file(asked, "protected", tmp_path / "places.csv")
        return (tmp_path / "places.csv").read_text().splitlines()[1:]

    data = {name: {"x": [[1.0], [2.0], [3.0]], "y": [0, 1, 0]} for name in ("ann", "bob")}
    data["bob"] = {"x": [[1.0], ["secret"], [3.0]], "y": [0, 1, 7]}
    (tmp_path / "a.json").write_text(json.dumps({"users": [*data], "user_data": data}))
    where = "of 'bob' (counted from 0)"
    asked: dict[str, Any] = {"file": str(tmp_path / "a.json")}
    assert places(**asked, classes=2) == [f"example 1 {where},x,unreadable", f"example 2 {where},y,no category"]
    for number in range(4):
        image = tmp_path / "faces/ann" / ("no", "odd")[number % 2] / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(image)
    assert places(file=str(tmp_path / "faces"), classes=["no", "yes"]) == [
        f"ann/odd/{number}.png,class,no category" for number in (1, 3)
    ]
    Dataset.from_dict({"who": ["ann"] * 3, "v": ["1", "x", "3"], "y": [0, 1, 2]}).save_to_disk(tmp_path / "saved")
    saved = {**ASKED, "file": str(tmp_path / "saved"), "features": ["v"]}
    row = "(counted from 0)"
    assert places(**saved) == [f"row 1 {row},v,unreadable", f"row 2 {row},y,no category"]


def test_folders_of_images_that_are_not_laid_so(tmp_path: Path) -> None:
    from PIL import Image

    def draw(place: str, size: tuple[int, int] = (4, 4), mode: str = "L") -> None:
        path = tmp_path / "faces" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size).save(path)

    def says(words: str, **more: Any) -> str:
        with pytest.raises(InputError, match=words) as caught:
            Tasks.from_images(tmp_path / "faces", **{"classes": ["no", "sick"], "declared": "protected", **more})
        assert "sick" not in str(caught.value)
        return str(caught.value)

    says("cannot be read: No such file")
    for number in range(3):
        draw(f"ann/no/{number}.png")
    assert len(Tasks.from_images(tmp_path / "faces", classes=["no", "sick"], declared="protected")) == 1
    draw("bob/sick/0.png", (5, 4))
    says(r"task 'bob' of 'faces' has 1 row \(bob/\*/0.png\)")
    draw("bob/sick/1.png", (5, 4))
    draw("bob/no/2.png", mode="RGB")
    says(r"bob/\*/2.png, of shape \(3, 4, 4\)")
    says(r"bob/\*/0.png, of shape \(1, 4, 5\)", colour="grey")
    assert Tasks.from_images(
        tmp_path / "faces", classes=["no", "sick"], declared="protected", colour="grey", size=(4, 4)
    ).input_shape == (1, 4, 4)
    unknown = Tasks.from_images(tmp_path / "faces", classes=["no"], declared="protected", colour="grey", size=(4, 4))
    assert sorted(unknown.to_frame()["target"]) == [-1, -1, 0, 0, 0, 0], "a class is a value: it refuses nothing"
    with pytest.raises(InputError, match=r"the class 'sick' of 'bob'"):
        Tasks.from_images(tmp_path / "faces", classes=["no"], declared="benchmark", colour="grey", size=(4, 4))
    says("classes of protected data would be looked up", classes=None)
    (tmp_path / "faces/bob/sick/1.png").write_bytes(b"damaged")
    says(r"bob/\*/1.png, that cannot be read", colour="grey", size=(4, 4))
    (tmp_path / "faces/bob/sick/1.png").rename(tmp_path / "faces/bob/sick/1.txt")
    says(r"bob/\*/1.txt, which is no image by its name")
    (tmp_path / "faces/bob/sick/1.txt").rename(tmp_path / "faces/bob/1.png")
    says("'bob' holds a file where a folder belongs")


def test_types_of_columns_are_structure(tmp_path: Path) -> None:
    days, spans = pd.to_datetime(["2020"] * 3), pa.array([1, 2, 3], pa.duration("s"))
    lists, truth = [[1.0, 2.0], [1.0, 2.0], [1.0]], [True, False, True]
    times = pa.table({"who": ["ann"] * 3, "v": spans, "d": days, "w": lists, "y": [0.0, 1.0, 2.0], "ok": truth})
    asked: dict[str, Any] = {"task": "who", "target": "y", "declared": "protected"}
    for column, words in {
        "v": "values of type duration",
        "d": "holds dates .* write two dates",
        "ok": "holds booleans .* write 'boolean'",
        "w": r"lists of different lengths in the column 'w', 2 and 1 in row 2",
    }.items():
        with pytest.raises(InputError, match=words):
            Tasks.from_frame(times, features=[column], **asked)
    for empty in ([[]] * 3, [None] * 3):
        bare = times.set_column(3, "w", pa.array(empty, pa.list_(pa.float64())))
        with pytest.raises(InputError, match="holds empty lists in the column 'w'"):
            Tasks.from_frame(bare, features=["w"], **asked)
    gaps = Tasks.from_frame(times.set_column(3, "w", pa.array([None, [3.0, 4.0], None])), features=["w"], **asked)
    assert np.isnan(np.concatenate([gaps.train.inputs, gaps.test.inputs])).all(axis=1).sum() == 2
    whole = times.set_column(3, "w", pa.array([[1.0, 2.0], [3.0, 4.0], [None, 6.0]]))
    found = Tasks.from_frame(whole, features={"w": (0, 10)}, **asked)
    assert found.train.columns == ("w[0]", "w[1]")
    assert np.isnan(np.concatenate([found.train.inputs, found.test.inputs])).sum() == 1
    with pytest.raises(InputError, match=r"must be a pandas.DataFrame or a pyarrow.Table, got list"):
        Tasks.from_frame([1, 2], features=["v"], **asked)
    pq.write_table(times, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"separator, decimal and encoding are of text files"):
        Tasks.from_table(tmp_path / "a.parquet", features=["y"], separator=",", **asked)


def test_decimal_commas_are_read_where_semicolons_stand_between_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(GOOD.replace(",", ";").replace(";2;", ";2,5;").replace(";3;", ";3.5;"))
    own = {**ASKED, "file": str(path), "features": ["v"]}
    either = own_tasks(own, "protected").to_frame()["v"]
    assert sorted(either.dropna()) == [1, 1, 2.5, 2.5], "each person's first mark is theirs, and 3.5 has another"
    strict = own_tasks({**own, "decimal": ","}, "protected").to_frame()["v"]
    assert sorted(strict.dropna()) == [1, 1, 2.5, 2.5], (
        "1.500 may be a thousand and a half: with decimal=',' it is no number"
    )
    path.write_text(GOOD.replace("1,", '"1,5",'))
    with pytest.raises(InputError, match=r"holds '1,5' in line 2, column 'v', which is no number; give decimal=','"):
        own_tasks({**own, "classes": 2}, "benchmark")
    path.write_text(GOOD.replace(",", "\t").replace("1\t", "1,5\t"))
    assert sorted(own_tasks({**own, "decimal": ","}, "benchmark").to_frame()["v"])[:2] == [1.5, 1.5]


# --- keys of [data] ---


def test_keys_that_do_not_go_with_a_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(GOOD)
    good = {**ASKED, "file": str(path)}
    for changes, words in (
        ({"file": str(tmp_path / "b.csv")}, "there is no '.*b.csv'"),
        ({"colour": "grey"}, "data.colour does not go with 'a.csv', which is read as a table"),
        ({"task": None}, "data.task must name the column of 'a.csv' that says whose"),
        ({"target": None}, "data.target must name the column"),
        ({"tasks": 3}, "unknown setting 'tasks'"),
    ):
        refused(words, **{**good, **changes})
    with pytest.raises(InputError, match=r"run.declared must say what the data of data.file are"):
        own_tasks(good, None)
    path.rename(tmp_path / "a.xls")
    refused("'a.xls' has no known ending", **{**good, "file": str(tmp_path / "a.xls")})


def test_new_rows_are_read_by_the_same_rules(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "new.csv").write_text("v,other\n2,x\n9,y\n,z\n")
    own = {**ASKED, "file": str(tmp_path / "a.csv")}
    np.testing.assert_array_equal(own_inputs(own, tmp_path / "new.csv"), [[0.5], [1.0], [np.nan]])
    with pytest.raises(InputError, match="is scaled by the rows that the model was trained on"):
        own_inputs({**own, "features": {"v": "standardize-within-task"}}, tmp_path / "new.csv")
    with pytest.raises(InputError, match="'categories' of 'other'"):  # of a benchmark: new rows may hold others
        own_inputs({**own, "features": {"other": "categories"}}, tmp_path / "new.csv")
    with pytest.raises(InputError, match=r"data.features do not say how columns are read"):
        own_inputs({**own, "features": None}, tmp_path / "new.csv")


def test_a_relative_path_begins_at_the_toml_file_or_where_the_command_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study/a.csv").write_text(GOOD)
    (tmp_path / "study/my.toml").write_text(
        '[data]\nfile = "a.csv"\ntask = "who"\ntarget = "y"\nclasses = 2\n[data.features]\n'
        'v = [0, 4]\nd = [2000-01-01, 2010-01-01]\n[run]\ndeclared = "benchmark"\n'
    )
    monkeypatch.chdir(tmp_path)
    config = read_toml(Path("study/my.toml"))
    assert config["data"]["file"] == str(tmp_path / "study/a.csv")
    assert config["data"]["features"]["d"] == ["2000-01-01", "2010-01-01"], "a run folder holds it as JSON can"
    monkeypatch.chdir(tmp_path / "study")
    preset = {**{name: {} for name in ("model", "client", "strategy", "run")},
              "data": {"name": "digits", "partition": "dirichlet", "tasks": 10, "alpha": 0.3, "seed": 4}}  # fmt: skip
    changed = apply(preset, {"data.task": "who", "data.file": "a.csv"})
    assert changed["data"] == {"file": str(tmp_path / "study/a.csv"), "task": "who", "seed": 4}
    assert apply(changed, {"data.name": "digits"})["data"] == {"name": "digits"}
    typed = apply(changed, {"run.ledger": "people.sqlite"})["run"]["ledger"]
    assert typed == str(tmp_path / "study/people.sqlite"), "a run that goes on elsewhere has the same ledger"
    both = {
        **changed,
        "data": {**changed["data"], "name": "digits"},
        "strategy": {"rounds": 2, "clipping_norm": 1.0, "epsilon": 1.0},
    }
    with pytest.raises(InputError, match="give only one of the two"):
        build_experiment(both)


def test_a_check_tells_structure_and_no_value(fedpriv: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD.replace("bob,2,0", "bob,secret,4711").replace("bob,3", "bob,77"))
    code, out, err = fedpriv("data", "check", "a.csv")
    assert (code, err) == (0, "")
    assert "columns: 3: who, v, y" in out
    assert "encoding utf-8, cells separated by a comma" in out
    words = ["--set=data.task=who", "--set=data.target=y", "--set=data.features={v=[0,4]}", "--set=data.classes=2"]
    code, out, err = fedpriv("data", "check", "a.csv", *words, "--private", "places.csv")
    assert (code, err) == (0, "")
    assert "declared: protected" in out
    assert "people: 2" in out
    assert "secret" not in out
    assert "4711" not in out
    assert (tmp_path / "places.csv").read_text() == (
        "place,column,what\nline 6,v,unreadable\nline 7,v,clipped\nline 6,y,no category\n"
    )
    assert (tmp_path / "places.csv").stat().st_mode & 0o777 == 0o600
    code, out, err = fedpriv("data", "check", "a.csv", *words, "--set=run.declared=benchmark")
    assert code == 2
    assert "holds 'secret' in line 6, column 'v'" in err
    code, _, err = fedpriv("data", "check", *words)
    assert code == 2
    assert "name the file" in err
    found = check_own_file({**ASKED, "file": str(tmp_path / "a.csv")}, None)
    assert found["train, validation, test"] == "4, 0, 2"


def test_a_first_line_that_may_be_somebodys_row_is_not_shown(fedpriv: Any, tmp_path: Path) -> None:
    (tmp_path / "headless.csv").write_text("zaphod,56,m\nbob,3,f\n")
    code, out, err = fedpriv("data", "check", "headless.csv")
    assert (code, err) == (0, "")
    assert "columns: 3: not shown, because the first line holds numbers" in out
    assert "zaphod" not in out
    (tmp_path / "headless.csv").write_text("who,age,sex\nzaphod,56,m\nbob,3,f\n")
    assert "columns: 3: who, age, sex" in fedpriv("data", "check", "headless.csv")[1]


def test_classes_may_be_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    found = OwnFile(file="a.csv", classes=[1, 2, 3])
    assert found.classes == ["1", "2", "3"]
    asked = {**ASKED, "file": str(tmp_path / "a.csv")}
    plain, other = (own_tasks({**asked, "classes": one}, "protected").to_frame()["target"] for one in (2, [1, 0]))
    assert (plain + other).tolist() == [1] * 6, "a label is looked up among the classes: it is no position"
    with pytest.raises(InputError, match="classes"):
        OwnFile(file="a.csv", classes=[True, False])


def test_a_damaged_file_of_arrow_is_a_sentence_and_never_ends_the_process(tmp_path: Path) -> None:
    """Arrow believes the offsets of a file: one that points beyond its buffer has to be found before it is used."""
    with pa.OSFile(str(tmp_path / "a"), "wb") as sink:
        column = pa.array(["ann"] * 4 + ["bob"] * 4)
        with pa.ipc.new_stream(sink, pa.schema([("who", pa.string()), ("y", pa.int64())])) as stream:
            stream.write_table(pa.table({"who": column, "y": [0, 1] * 4}))
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    (folder / "dataset_info.json").write_text("{}")
    whole = (tmp_path / "a").read_bytes()
    offsets = np.arange(0, 25, 3, dtype="<i4").tobytes()
    assert whole.count(offsets) == 1
    (folder / "a.arrow").write_bytes(whole)
    asked: dict[str, Any] = {"task": "who", "target": "y", "features": ["y2"], "declared": "protected"}
    with pytest.raises(InputError, match="no column 'y2'"):
        Tasks.from_saved_dataset(folder, **asked)
    strange = np.array([0, 3, 6, 900_000_000, 12, 15, 18, 21, 24], dtype="<i4").tobytes()
    (folder / "a.arrow").write_bytes(whole.replace(offsets, strange))
    with pytest.raises(InputError, match="is damaged or no saved data set"):
        Tasks.from_saved_dataset(folder, **asked)


def test_a_toml_file_is_checked_if_it_names_a_data_file(fedpriv: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    mine = tmp_path / "my.toml"
    mine.write_text('[data]\nname = "digits"\n')
    code, _, err = fedpriv("data", "check", "my.toml")
    assert (code, "names no data.file; give the data file itself" in err) == (2, True)
    assert fedpriv("data", "check", "a.csv")[0] == 0
    mine.write_text(
        '[data]\nfile = "a.csv"\ntask = "who"\ntarget = "y"\nfeatures = ["v"]\n[run]\ndeclared = "benchmark"\n'
    )
    code, out, err = fedpriv("data", "check", "my.toml", "--json")
    assert code == 0, err
    assert (json.loads(out)["people"], json.loads(out)["declared"]) == (2, "benchmark")


# --- from a file to a private run ---


def school(path: Path) -> None:
    """60 schools of 8 pupils, one of whom has an age that nobody can read."""
    rng = np.random.default_rng(2)
    lines = ["school;age;sex;score"]
    for number in range(60):
        for _ in range(8):
            age, sex = rng.integers(5, 20), rng.choice(["f", "m"])
            score = "yes" if age + 4 * (sex == "f") + rng.normal() > 14 else "no"
            lines.append(f"{number:03d};{age},5;{sex};{score}")
    lines[100] = lines[100].replace(",5", "q7zx")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


def test_a_private_run_from_a_csv_by_the_command_line(fedpriv: Any, tmp_path: Path) -> None:
    school(tmp_path / "pupils.csv")
    words = [
        "--set=data.file=pupils.csv", "--set=data.task=school", "--set=data.target=score",
        '--set=data.features={age=[5,20],sex=["f","m"]}', '--set=data.classes=["no","yes"]',
        "--set=run.declared=protected", "--set=run.population=schools", "--set=run.ledger=schools.sqlite",
        "--set=run.budget_epsilon=3", "--set=run.grid=in-process", "--set=strategy.rounds=2", "--set=client.epochs=1",
        "--set=client.final_epochs=1", "--set=strategy.epsilon=2.5",
    ]  # fmt: skip
    code, out, err = fedpriv("run", "pmtl", *words, "--out", "first")
    assert code == 0, err
    assert "60 tasks" in out
    assert "q7zx" not in out + err
    stored = tomllib.loads((tmp_path / "first/config.toml").read_text())["data"]
    assert stored["file"] == str(tmp_path / "pupils.csv")
    assert stored["features"] == {"age": [5, 20], "sex": ["f", "m"]}
    for file in (tmp_path / "first").rglob("*"):
        if file.is_file():
            assert b"q7zx" not in file.read_bytes(), file
    code, out, err = fedpriv("run", "pmtl", "--out", "first", "--resume")
    assert (code, "the run is finished" in out) == (0, True), err
    assert fedpriv("report", "first")[0] == 0
    code, _, err = fedpriv("attack", "first")
    assert code == 2
    assert "protected" in err
    code, out, err = fedpriv("run", "pmtl", *words, "--out", "second")
    assert code == 3, "the second run continues the schools' ledger"
    # The run folder's configuration is a preset of its own, wherever it is read from.
    config = read_toml(tmp_path / "first/config.toml")
    again = build_experiment(config).data
    assert again.names == tuple(f"{number:03d}" for number in range(60))
    assert again.declared == "protected"


PEOPLE = """
[data]
file = "pupils.csv"
task = "school"
target = "score"
features = {age = [5, 20], sex = ["f", "m"]}
classes = ["no", "yes"]
[client]
epochs = 1
final_epochs = 1
[strategy]
rounds = 2
clipping_norm = 1.0
epsilon = 2.5
delta = 1e-5
[run]
declared = "protected"
population = "schools"
ledger = "schools.sqlite"
budget_epsilon = 3
budget_delta = 1e-5
grid = "in-process"
report = false
"""


def test_a_file_of_ones_own_has_one_ledger_wherever_the_command_is_typed(
    fedpriv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "elsewhere").mkdir()
    school(tmp_path / "study/pupils.csv")
    (tmp_path / "study/my.toml").write_text(PEOPLE)
    ledger = tmp_path / "study/schools.sqlite"
    code, _, err = fedpriv("run", "study/my.toml", "--out", "first")
    assert (code, ledger.exists()) == (0, True), err
    kept = tmp_path / "first/config.toml"
    assert tomllib.loads(kept.read_text())["run"]["ledger"] == str(ledger)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert fedpriv("run", "../study/my.toml", "--out", "second")[0] == 3, "the same people's budget is spent"
    assert not list(Path().rglob("schools.sqlite"))
    monkeypatch.chdir(tmp_path / "study")
    words = ["run", "my.toml", "--out", "../first", "--resume"]
    assert fedpriv(*words, "--set=run.ledger=schools.sqlite")[0] == 0
    assert fedpriv(*words, "--set=run.ledger=other.sqlite")[0] == 2
    # An earlier version kept the path as it was given.
    kept.write_text(kept.read_text().replace(str(ledger), "schools.sqlite"))
    assert fedpriv(*words)[0] == 0
    assert fedpriv(*words, "--set=run.ledger=schools.sqlite")[0] == 0
    assert read_own(kept)["run"]["ledger"] == "schools.sqlite", "as seen from where the run was begun"
    assert fedpriv("run", str(kept), "--out", "../third")[0] == 3
