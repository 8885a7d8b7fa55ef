"""Data of one's own: every reader gives the same tasks for the same people, and nothing of one reaches another."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import IterableDataset, TensorDataset

from fedpriv import InputError, Tasks
from fedpriv.cohort import PARTS, usable
from fedpriv.cohort.readers.people import as_seen

NAMES = ("007", "bob", "null", "Änne", "王")
FEATURES = ["a", "b", "c d"]
COLUMNS = {"task": "who", "target": "y", "features": FEATURES, "classes": 3}
Maker = Callable[[Path, pd.DataFrame], Tasks]


def people() -> pd.DataFrame:
    """Five people of 3 to 11 rows in a mixed order; numbers of every size that text must give back to the bit."""
    rng = np.random.default_rng(5)
    owner = rng.permutation(np.repeat(NAMES, [3, 5, 7, 9, 11]))
    values = rng.normal(size=(len(owner), 3)) * 10.0 ** rng.integers(-20, 20, size=(len(owner), 3))
    return pd.DataFrame(
        {"who": owner, **dict(zip(FEATURES, values.T, strict=True)), "y": rng.integers(0, 3, len(owner))}
    )


def by_person(frame: pd.DataFrame) -> dict[str, tuple[Any, Any]]:
    return {
        str(name): (rows[FEATURES].to_numpy(), rows["y"].to_numpy()) for name, rows in frame.groupby("who", sort=False)
    }


def same(one: Tasks, other: Tasks) -> None:
    """All that a run sees is equal to the bit."""
    assert one.fingerprint == other.fingerprint
    assert (one.names, one.num_classes, one.declared) == (other.names, other.num_classes, other.declared)
    for part in PARTS:
        first, second = one.part(part), other.part(part)
        for name in ("inputs", "targets", "offsets"):
            here, there = getattr(first, name), getattr(second, name)
            assert here.dtype == there.dtype
            np.testing.assert_array_equal(here, there)


class _Stream(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, x: Any, y: Any) -> None:
        self.pairs = list(zip(x, y, strict=True))

    def __iter__(self) -> Any:
        return iter(self.pairs)


def _text(name: str, encoding: str = "utf-8", **how: Any) -> Maker:
    def made(folder: Path, frame: pd.DataFrame) -> Tasks:
        content = frame.to_csv(index=False, **how).encode(encoding)
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        return Tasks.from_table(folder / name, declared="protected", **COLUMNS)

    return made


def _parquet(folder: Path, frame: pd.DataFrame) -> Tasks:
    frame.to_parquet(folder / "a.parquet")
    return Tasks.from_table(folder / "a.parquet", declared="protected", **COLUMNS)


def _saved(folder: Path, frame: pd.DataFrame) -> Tasks:
    from datasets import Dataset

    Dataset.from_pandas(frame).save_to_disk(folder / "saved", num_shards=2)
    return Tasks.from_saved_dataset(folder / "saved", declared="protected", **COLUMNS)


def _leaf(folder: Path, frame: pd.DataFrame) -> Tasks:
    found = by_person(frame)
    data = {name: {"x": x.tolist(), "y": y.tolist()} for name, (x, y) in found.items()}
    sizes = [len(y) for _, y in found.values()]
    (folder / "a.json").write_text(json.dumps({"users": [*found], "num_samples": sizes, "user_data": data}))
    return Tasks.from_leaf(folder / "a.json", classes=3, declared="protected")


MAKERS: dict[str, Maker] = {
    "pandas": lambda _, frame: Tasks.from_frame(frame, declared="protected", **COLUMNS),
    "pandas, objects": lambda _, frame: Tasks.from_frame(frame.astype(object), declared="protected", **COLUMNS),
    "pandas, categories": lambda _, frame: Tasks.from_frame(
        frame.astype({"who": "category", "y": "Int64"}), declared="protected", **COLUMNS
    ),
    "pyarrow": lambda _, frame: Tasks.from_frame(pa.Table.from_pandas(frame), declared="protected", **COLUMNS),
    "another order of people": lambda _, frame: Tasks.from_frame(
        frame.sort_values("who", kind="stable", ascending=False), declared="protected", **COLUMNS
    ),
    "csv": _text("a.csv"),
    "csv, quoted": _text("a.csv", quoting=1),
    "csv, mark of UTF-8": _text("a.csv", "utf-8-sig"),
    "csv, UTF-16": _text("a.csv", "utf-16"),
    "csv, semicolons and decimal commas": _text("a.csv", sep=";", decimal=","),
    "csv, lines of Windows": _text("a.csv", lineterminator="\r\n"),
    "tsv, gzip": _text("a.tsv.gz", sep="\t"),
    "parquet": _parquet,
    "saved data set": _saved,
    "LEAF": _leaf,
    "arrays": lambda _, frame: Tasks.from_arrays(by_person(frame), classes=3, declared="protected"),
    "data sets": lambda _, frame: Tasks.from_datasets(
        {name: TensorDataset(torch.tensor(x), torch.tensor(y)) for name, (x, y) in by_person(frame).items()},
        classes=3,
        declared="protected",
    ),
    "streams": lambda _, frame: Tasks.from_datasets(
        {name: _Stream(x, y) for name, (x, y) in by_person(frame).items()}, classes=3, declared="protected"
    ),
}


@pytest.mark.parametrize("reader", MAKERS)
def test_every_reader_gives_the_same_tasks_for_the_same_people(reader: str, tmp_path: Path) -> None:
    frame = people()
    found = MAKERS[reader](tmp_path, frame)
    same(found, Tasks.from_arrays(by_person(frame), classes=3, declared="protected"))
    assert found.names == NAMES
    assert found.names[0] == "007"
    for name, (x, y) in by_person(frame).items():  # each example once, with its own label
        rows = [found.part(part).rows(found.names.index(name)) for part in PARTS]
        mine = np.concatenate([found.part(part).inputs[one] for part, one in zip(PARTS, rows, strict=True)])
        labels = np.concatenate([found.part(part).targets[one] for part, one in zip(PARTS, rows, strict=True)])
        here, there = np.lexsort(mine.T), np.lexsort(x.T)
        np.testing.assert_array_equal(mine[here], x[there])
        np.testing.assert_array_equal(labels[here], y[there])


def test_images_in_folders_are_the_arrays_of_their_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    found = {}
    for name in ("bob", "Änne"):
        x, y = rng.integers(0, 256, size=(6, 4, 5), dtype=np.uint8), np.repeat([0, 1, 2], 2)
        for number, (pixels, label) in enumerate(zip(x, y, strict=True)):
            place = tmp_path / "faces" / name / ("no", "maybe", "yes")[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")
        found[name] = (x[:, None].astype(np.float32) / np.float32(255), y)
    (tmp_path / "faces" / ".DS_Store").write_bytes(b"x")
    order = ["no", "maybe", "yes"]
    tasks = Tasks.from_images(tmp_path / "faces", classes=order, declared="protected", split=(0.5, 0, 0.5))
    # The folders of classes are read in the order of their names: maybe, no, yes.
    sorted_rows = [2, 3, 0, 1, 4, 5]
    arrays = {name: (x[sorted_rows], y[sorted_rows]) for name, (x, y) in found.items()}
    same(tasks, Tasks.from_arrays(arrays, classes=3, declared="protected", split=(0.5, 0, 0.5)))
    smaller = Tasks.from_images(tmp_path / "faces", declared="benchmark", size=(2, 2), colour="rgb")
    assert smaller.input_shape == (3, 2, 2)
    assert smaller.num_classes == 3


def test_a_saved_data_set_keeps_its_splits_images_and_names_of_classes(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageColumn

    kinds = Features({"who": Value("string"), "picture": ImageColumn(), "y": ClassLabel(names=["cat", "dog", "eel"])})

    def rows(count: int) -> Any:
        pictures = [Image.fromarray(np.full((3, 4), 10 * place, dtype=np.uint8)) for place in range(2 * count)]
        who = ["ann", "bob"] * count
        return Dataset.from_dict({"who": who, "picture": pictures, "y": [0, 1] * count}, features=kinds)

    DatasetDict({"train": rows(4), "test": rows(2)}).save_to_disk(tmp_path / "pets")
    tasks = Tasks.from_saved_dataset(
        tmp_path / "pets", task="who", target="y", features="picture", declared="benchmark"
    )
    assert (tasks.num_classes, tasks.input_shape) == (3, (1, 3, 4))
    assert [part.sizes.tolist() for part in (tasks.train, tasks.validation, tasks.test)] == [[4, 4], [0, 0], [2, 2]]
    np.testing.assert_allclose(tasks.train.inputs[:, 0, 0, 0] * 255, [0, 20, 40, 60, 10, 30, 50, 70])
    pooled = Tasks.from_saved_dataset(
        tmp_path / "pets",
        task="who",
        target="y",
        features="picture",
        classes=3,
        split=(0.5, 0, 0.5),
        declared="protected",
    )
    assert pooled.train.sizes.tolist() == [3, 3]
    # A file states its classes, but somebody may have looked them up: of protected data they are given.
    values = Tasks.from_saved_dataset(
        tmp_path / "pets", task="who", target="y", features="picture", declared="protected"
    )
    assert values.num_classes is None


def test_leaf_keeps_the_division_that_its_folders_have(tmp_path: Path) -> None:
    def write(part: str, sizes: dict[str, int]) -> None:
        (tmp_path / part).mkdir()
        data = {name: {"x": [[float(n), 1.0]] * size, "y": [n] * size} for n, (name, size) in enumerate(sizes.items())}
        found = {"users": [*sizes], "num_samples": [*sizes.values()], "user_data": data}
        (tmp_path / part / "all.json").write_text(json.dumps(found))

    write("train", {"ann": 4, "bob": 2})
    write("test", {"ann": 1, "bob": 3})
    tasks = Tasks.from_leaf(tmp_path, classes="infer", declared="benchmark")
    assert (tasks.train.sizes.tolist(), tasks.test.sizes.tolist()) == ([4, 2], [1, 3])
    assert tasks.num_classes == 2


# --- there and back ---


names_of_people = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1, max_size=6
)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def frames(draw: Any) -> pd.DataFrame:
    import unicodedata

    names = draw(
        st.lists(
            names_of_people.map(lambda text: unicodedata.normalize("NFC", text)).filter(
                lambda text: text == text.strip()
            ),
            min_size=1,
            max_size=4,
            unique_by=as_seen,
        )
    )
    rows = []
    for name in names:
        for part, least in (("train", 2), ("validation", 0), ("test", 1)):
            for _ in range(draw(st.integers(least, 3))):
                rows.append((name, part, draw(numbers), draw(numbers), draw(numbers)))
    return pd.DataFrame(draw(st.permutations(rows)), columns=["who", "part", "a b", "=c", "score"])


@settings(deadline=None, max_examples=60)
@given(frames())
def test_a_frame_comes_back_from_its_tasks(frame: pd.DataFrame) -> None:
    asked: dict[str, Any] = {"task": "who", "target": "score", "features": ["a b", "=c"], "split": "part"}
    tasks = Tasks.from_frame(frame, declared="protected", **asked)
    back = tasks.to_frame(task="who", target="score", part="part")
    place = {"train": 0, "validation": 1, "test": 2}
    order = sorted(range(len(frame)), key=lambda row: (frame["who"][row], place[frame["part"][row]], row))
    pd.testing.assert_frame_equal(back, frame.iloc[order].reset_index(drop=True), check_dtype=False, check_exact=True)
    same(tasks, Tasks.from_frame(back, declared="protected", **asked))


def test_columns_of_one_name_are_refused_on_the_way_back() -> None:
    frame = people().rename(columns={"a": "task"})
    tasks = Tasks.from_frame(frame, task="who", target="y", features=["task"], declared="protected")
    with pytest.raises(InputError, match="would be called 'task'; give task"):
        tasks.to_frame()
    assert list(tasks.to_frame(task="who").columns) == ["who", "part", "task", "target"]


# --- preprocessing ---


def table(**columns: list[Any]) -> pd.DataFrame:
    """Two people with four rows each."""
    return pd.DataFrame({"who": ["ann"] * 4 + ["bob"] * 4, "y": [0.0] * 8, **columns})


def read(frame: pd.DataFrame, features: Any, declared: Any = "protected", **more: Any) -> Any:
    """The inputs of all rows in their order, and the names of their columns."""
    made = frame.assign(part=["train", "train", "validation", "test"] * (len(frame) // 4))
    asked: dict[str, Any] = {"task": "who", "target": "y", "split": "part", **more}
    tasks = Tasks.from_frame(made, features=features, declared=declared, **asked)
    found = tasks.to_frame(target="the target", task="the task", part="the part")
    return found[list(tasks.train.columns or ())].to_numpy(), tasks.train.columns


@pytest.mark.parametrize(
    ("values", "how", "right"),
    [
        ([0, 30, 60, 120, 150, -5, "x", ""], (0, 120), [0, 0.25, 0.5, 1, 1, 0, np.nan, np.nan]),
        ([1.5, "2.5 ", " -1e3", "+4", "1e999", "inf", "1_0", "0x1"], "number", [1.5, 2.5, -1000, 4, *[np.nan] * 4]),
        (["NA", "", None, "n/a", "7", "x", "NaN", "12"], {"range": (0, 10), "missing": 5},
         [0.5, 0.5, 0.5, 0.5, 0.7, np.nan, 0.5, 1]),
        (["yes", "No", "1", "0", "T", "f", "", "maybe"], "boolean", [1, 0, 1, 0, 1, 0, np.nan, np.nan]),
        (["2000-01-01", "2000-01-06", "2000-01-11", "1999-01-01", "2000-01-03T12:00", "2000-01-06T00:00Z", "31.1.2000",
          ""],
         ("2000-01-01", "2000-01-11"), [0, 0.5, 1, 0, 0.25, 0.5, np.nan, np.nan]),
    ],
)  # fmt: skip
def test_a_column_is_read_as_the_user_says(values: list[Any], how: Any, right: list[float]) -> None:
    found, columns = read(table(v=pd.Series(values, dtype=object)), {"v": how})
    assert columns == ("v",)
    np.testing.assert_allclose(found[:, 0], right, rtol=1e-15)


@pytest.mark.parametrize("values", [[np.inf, 1.0, -np.inf, 2.0] * 2, ["1e999", "1", "-1e999", "2"] * 2])
def test_a_number_that_is_infinite_is_none_wherever_it_stands(values: list[Any]) -> None:
    """In a range it would be the nearer end, and its task would count."""
    found, _ = read(table(v=values), {"v": (0, 4)})
    assert np.isnan(found[:, 0]).tolist() == [True, False] * 4


def test_categories_are_columns_and_what_is_none_of_them_is_zero_in_all() -> None:
    found, columns = read(table(v=["f", " m", "x", "", "F", "m", None, "f"]), {"v": ["f", "m"]})
    assert columns == ("v=f", "v=m")
    assert found.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0], [0, 0], [0, 1], [0, 0], [1, 0]]


def test_dates_of_any_type_are_the_same_numbers() -> None:
    days = pd.to_datetime(["2020-01-01", "2020-02-01", "2020-03-01", "2020-12-31"] * 2)
    how = {"v": ("2020-01-01", "2020-12-31")}
    frames = [table(v=days), table(v=days.strftime("%Y-%m-%d")), table(v=days.date), table(v=days.tz_localize("UTC"))]
    found = [read(one, how)[0] for one in frames]
    assert found[0][:4, 0].tolist() == [0, 31 / 365, 60 / 365, 1]
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])


def test_a_pattern_names_a_thousand_columns(tmp_path: Path) -> None:
    wide = pd.concat([table(age=[1] * 8), pd.DataFrame(np.arange(8000).reshape(8, 1000)).add_prefix("pixel")], axis=1)
    wide.to_csv(tmp_path / "wide.csv", index=False)
    asked: dict[str, Any] = {"task": "who", "target": "y", "declared": "protected"}
    tasks = Tasks.from_table(tmp_path / "wide.csv", features={"pixel*": (0, 8000), "age": "number"}, **asked)
    assert tasks.input_shape == (1001,)
    assert tasks.train.columns is not None
    assert tasks.train.columns[::500] == ("pixel0", "pixel500", "age")
    assert sorted(tasks.to_frame()["pixel7"]) == [(1000 * row + 7) / 8000 for row in range(8)]
    with pytest.raises(InputError, match=r"no column 'pixl\*' .* it has 1,003 columns"):
        Tasks.from_table(tmp_path / "wide.csv", features={"pixl*": (0, 8000)}, **asked)


def test_each_task_is_scaled_by_its_own_training_rows() -> None:
    values = [1.0, 3.0, 5.0, 7.0, 10.0, 10.0, 12.0, 9.0]
    found, _ = read(table(v=values), {"v": "standardize-within-task"})
    assert found[:, 0].tolist() == [-1, 1, 3, 5, 0, 0, 2, -1]  # bob's training rows do not deviate
    found, _ = read(table(v=values), {"v": "standardize"}, "benchmark")
    own = np.array([1.0, 3.0, 10.0, 10.0])
    np.testing.assert_allclose(found[:, 0], (np.array(values) - own.mean()) / own.std())


@pytest.mark.parametrize("cells", [[7e307, 1, 2, 3], [1e200, 1, 2, 3], [1, 2, 3, 1e200]])
def test_a_number_too_large_to_be_standardized_is_no_zero(cells: list[float], recwarn: Any, tmp_path: Path) -> None:
    table(v=[*cells, 1, 2, 3, 4], part=["train", "train", "validation", "test"] * 2).to_csv(
        tmp_path / "a.csv", index=False
    )
    marks: list[Any] = []
    asked: dict[str, Any] = {
        "task": "who",
        "target": "y",
        "features": {"v": "standardize-within-task"},
        "split": "part",
    }
    tasks = Tasks.from_table(
        tmp_path / "a.csv", declared="protected", **asked, found=lambda *one: marks.append(one[1].tolist())
    )
    assert usable(tasks, torch.float32).scores.tolist() == [False, True]
    assert marks[0][4:] == [0] * 4
    assert any(marks[0][:4])
    line = 2 + int(np.flatnonzero(marks[0])[0])
    for how in ("standardize-within-task", "standardize"):
        with pytest.raises(InputError, match=f"in line {line}, column 'v', which is too large to be standardized"):
            Tasks.from_table(tmp_path / "a.csv", declared="benchmark", **asked | {"features": {"v": how}})
    assert [str(one.message) for one in recwarn] == []


@pytest.mark.parametrize("how", ["number", (0, 1), {"range": (0, 1), "missing": 0.5}, ["1", "2"], "boolean",
                                 ("2000-01-01", "2020-01-01"), "standardize-within-task"])  # fmt: skip
@pytest.mark.parametrize("values", [[0, 1, 0.5, 2], ["x", "", "1e9", None], ["secret", "2001-01-01", "yes", "1"]])
def test_nothing_of_one_person_reaches_another(how: Any, values: list[Any], caplog: Any) -> None:
    """Whatever ann's values are, and how many: what is read of bob is the same to the bit, and nothing is said."""
    own = pd.DataFrame({"who": ["bob"] * 9, "v": [str(place % 3) for place in range(9)], "y": ["1", "0", "1"] * 3})
    asked: dict[str, Any] = {
        "task": "who",
        "target": "y",
        "classes": 2,
        "features": {"v": how},
        "declared": "protected",
    }

    def bob(ann: pd.DataFrame) -> list[Any]:
        tasks = Tasks.from_frame(pd.concat([ann, own, ann.head(1)], ignore_index=True), **asked)
        place = tasks.names.index("bob")
        parts = [tasks.part(part) for part in PARTS]
        return [array[part.rows(place)].tobytes() for part in parts for array in (part.inputs, part.targets)]

    with caplog.at_level(logging.DEBUG):
        plain = bob(pd.DataFrame({"who": ["ann"] * 4, "v": ["0", "1", "0", "1"], "y": ["0", "1", "0", "1"]}))
        strange = bob(pd.DataFrame({"who": ["ann"] * 4, "v": values, "y": ["2", "", "x", None]}))
        more = bob(pd.DataFrame({"who": ["ann"] * 40, "v": values * 10, "y": [str(place) for place in range(40)]}))
    assert plain == strange == more
    assert caplog.text == ""


FITTED = {
    "what columns hold": ({"features": None}, "features must say", {"features": {"v": "number"}}),
    "categories": (
        {"features": {"v": "categories"}}, "'categories' of 'v' would be fitted", {"features": {"v": ["1", "2"]}},
    ),
    "mean and deviation": (
        {"features": {"v": "standardize"}}, "'standardize' of 'v' would be fitted",
        {"features": {"v": "standardize-within-task"}},
    ),
    "classes": ({"classes": "infer"}, "classes='infer' would look", {"classes": 2}),
}  # fmt: skip


@pytest.mark.parametrize("what", FITTED)
def test_what_would_be_fitted_to_peoples_values_is_refused_by_name(what: str) -> None:
    wrong, words, instead = FITTED[what]
    frame = table(v=[1, 2] * 4).assign(y=[0, 1] * 4)
    asked: dict[str, Any] = {"task": "who", "target": "y", "features": {"v": "number"}}
    with pytest.raises(InputError, match=words):
        Tasks.from_frame(frame, declared="protected", **asked | wrong)
    Tasks.from_frame(frame, declared="protected", **asked | instead)
    Tasks.from_frame(frame, declared="benchmark", **asked | wrong)


def test_a_benchmark_says_what_it_looked_up_and_changed(caplog: Any) -> None:
    frame = table(age=[1, 2, 3, 400] * 2, sex=["f", "m", "f", "x"] * 2, ok=["True", "False"] * 4).assign(
        y=["b", "a"] * 4
    )
    with caplog.at_level(logging.INFO):
        tasks = Tasks.from_frame(frame, task="who", target="y", classes="infer", declared="benchmark")
        assert "looked up 2 classes in the labels: a, b." in caplog.text
        assert "age (number), sex (categories), ok (boolean)" in caplog.text
        caplog.clear()
        Tasks.from_frame(frame, task="who", target="y", classes=["a", "b"], declared="benchmark",
                         features={"age": (0, 100), "sex": ["f", "m"]})  # fmt: skip
    assert tasks.train.columns == ("age", "sex=f", "sex=m", "sex=x", "ok")
    assert "2 values of 'age' lie outside of the range" in caplog.text
    assert "2 values of 'sex' are none of the categories" in caplog.text


# --- values that cannot be used ---


BAD = {
    "no number": ("v", "4711secret"), "missing": ("v", ""), "infinite": ("v", "inf"), "no date": ("d", "4711secret"),
    "no truth": ("b", "4711secret"), "no class": ("y", "4711secret"), "no label": ("y", ""),
}  # fmt: skip


@pytest.mark.parametrize("declared", ["protected", "benchmark"])
@pytest.mark.parametrize("what", BAD)
def test_a_value_that_cannot_be_used(what: str, declared: Any, tmp_path: Path, caplog: Any) -> None:
    """Protected: the task counts as zero, alone, and nothing is said. A benchmark: line, column and value."""
    column, value = BAD[what]
    columns = {"who": ["ann"] * 5 + ["bob"] * 5, "v": ["1"] * 10, "d": ["2000-01-01"] * 10, "b": ["yes"] * 10}
    frame = pd.DataFrame({**columns, "y": ["no", "yes"] * 5})
    asked: dict[str, Any] = {
        "task": "who", "target": "y", "classes": ["no", "yes"], "declared": declared,
        "features": {"v": (0, 4), "d": ("1990-01-01", "2010-01-01"), "b": "boolean"},
    }  # fmt: skip
    frame.to_csv(tmp_path / "good.csv", index=False)
    good = Tasks.from_table(tmp_path / "good.csv", **asked)
    frame.loc[6, column] = value
    frame.to_csv(tmp_path / "bad.csv", index=False)
    if declared == "benchmark":
        with pytest.raises(InputError, match=rf"'bad.csv' (has no|holds) .* line 8, column '{column}'") as caught:
            Tasks.from_table(tmp_path / "bad.csv", **asked)
        assert value in str(caught.value)
        return
    with caplog.at_level(logging.DEBUG):
        bad = Tasks.from_table(tmp_path / "bad.csv", **asked)
        bad.check()
    assert caplog.text == ""
    assert "secret" not in repr(bad)
    found = usable(bad, torch.float32)
    assert (found.scores.tolist(), bad.fingerprint) == ([True, False], good.fingerprint)
    for part in PARTS:
        mine = bad.part(part).rows(0)
        np.testing.assert_array_equal(bad.part(part).inputs[mine], good.part(part).inputs[mine])


class _Broken(TensorDataset):
    """Three examples, of which one cannot be read, and a length that says four."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> Any:
        if place == 1 and self.tensors[0].sum() > 3:
            raise ValueError("4711secret")
        return super().__getitem__(place)


@pytest.mark.parametrize("declared", ["protected", "benchmark"])
@pytest.mark.parametrize(
    ("value", "words"), [(2.0, "example 1 .*of the 4 .* ValueError"), (1.0, "example 3 .*of the 4 .* IndexError")]
)
def test_an_error_of_a_data_set_is_a_sentence_without_its_values(value: float, words: str, declared: Any) -> None:
    broken = _Broken(torch.full((3, 1), value), torch.zeros(3))
    with pytest.raises(InputError, match=f"the data set of 'ann' gives no {words}") as caught:
        Tasks.from_datasets({"ann": broken}, declared=declared)
    assert "secret" not in str(caught.value)
    assert (caught.value.__suppress_context__, caught.value.__cause__ is None) == (True, declared == "protected")

    def stream() -> Any:
        yield 1.0, 0
        raise KeyError("4711secret")

    with pytest.raises(InputError, match=r"gives no example 1 .counted from 0., but an error of type KeyError"):
        Tasks.from_datasets({"ann": stream()}, declared=declared)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1.0, np.nan, 3.0], [0, 1, 0], "inputs hold no finite number in example 1 of 'bob'"),
        ([1.0, 2.0, 3.0], [0, 1, 2], "the label 2 of example 2 of 'bob' .* is none of the 2 classes"),
        ([1.0, 2.0, 3.0], [-1, 1, 0], "the label -1 of example 0 of 'bob' .* is none of the 2 classes"),
    ],
)
def test_values_of_arrays_that_cannot_be_used(x: list[float], y: list[int], words: str) -> None:
    good = np.ones((3, 1)), np.array([0, 1, 0])
    given = {"bob": (np.array(x)[:, None], np.array(y)), "ann": good}
    with pytest.raises(InputError, match=words):
        Tasks.from_arrays(given, classes=2, declared="benchmark")
    tasks = Tasks.from_arrays(given, classes=2, declared="protected")
    assert usable(tasks, torch.float32).scores.tolist() == [True, False]


def test_the_split_is_drawn_evenly_for_each_person_by_seed_and_name_alone() -> None:
    """A pinned split would notice another generator; each row of a person is as likely as the others in each part."""
    names = [f"p{number}" for number in range(2000)]
    frame = pd.DataFrame({"who": np.repeat(names, 10), "v": np.tile(np.arange(10), 2000), "y": 0.0})
    asked: dict[str, Any] = {"task": "who", "target": "y", "features": ["v"], "declared": "protected"}
    tasks = Tasks.from_frame(frame, **asked)
    assert [part.sizes[0] for part in (tasks.train, tasks.validation, tasks.test)] == [6, 2, 2]
    for part, share in ((tasks.train, 0.6), (tasks.validation, 0.2), (tasks.test, 0.2)):
        often = np.bincount(part.inputs[:, 0].astype(int), minlength=10) / 2000
        np.testing.assert_allclose(often, share, atol=5 * np.sqrt(share * (1 - share) / 2000))
    first = tasks.train.inputs[:6, 0].tolist()
    assert first == [0, 2, 5, 6, 7, 9]
    alone = Tasks.from_frame(frame[:10], **asked)
    assert alone.train.inputs[:, 0].tolist() == first
    other = Tasks.from_frame(frame, seed=1, **asked)
    rows = [one.train.inputs[:, 0].reshape(2000, 6) for one in (tasks, other)]
    assert (rows[0] == rows[1]).all(axis=1).sum() < 40, "one of 210 choices, by chance"


def test_found_gets_each_place_for_its_owner_alone(tmp_path: Path) -> None:
    frame = table(v=["1", "", "x", "9", "1", "1", "1", "1"], c=["f", "f", "?", "f", "f", "f", "f", "f"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    found: list[Any] = []
    Tasks.from_table(
        tmp_path / "a.csv", task="who", target="y", features={"v": (0, 4), "c": ["f", "m"]}, declared="protected",
        found=lambda column, marks, where: found.append((column, marks.tolist(), where.place(2))),
    )  # fmt: skip
    assert found == [("v", [0, 1, 2, 3, 0, 0, 0, 0], "line 4"), ("c", [0, 0, 4, 0, 0, 0, 0, 0], "line 4")]


STRANGE = [
    "-2020-01-01", "-1-01-01", "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "2020-02-30", "1e400", "-1e-400",
    "+-1", "1e", ".", "+", "0x10", "1_000", "1,5", "١٢", "²", "9" * 400, "nan", "-inf", "\ud7ff", "\u2028", "\x00",
    "True", "yes\n",
]  # fmt: skip
"""Texts at which a parser may stumble, four for a reading."""


def reads_whatever_ann_wrote(cells: list[str]) -> None:
    """Read four texts of ann in every column: nothing is refused, and bob's examples are the same to the bit."""
    good = {"v": "1", "d": "2000-01-01", "b": "yes", "c": "f", "s": "3", "t": "2", "y": "no"}
    frame = pd.DataFrame({"who": ["ann"] * 4 + ["bob"] * 4, **{name: [one] * 8 for name, one in good.items()}})
    asked: dict[str, Any] = {
        "task": "who", "target": "y", "classes": ["no", "yes"], "declared": "protected",
        "features": {"v": (0, 4), "d": ("1990-01-01", "2010-01-01"), "b": "boolean", "c": ["f", "m"],
                     "s": "standardize-within-task", "t": "number"},
    }  # fmt: skip
    plain = Tasks.from_frame(frame, **asked)
    found = Tasks.from_frame(frame.assign(**{name: [*cells, *[one] * 4] for name, one in good.items()}), **asked)
    found.check()
    assert usable(found, torch.float32).scores[1]
    for part in PARTS:
        mine = found.part(part).rows(1)
        np.testing.assert_array_equal(found.part(part).inputs[mine], plain.part(part).inputs[mine])
        np.testing.assert_array_equal(found.part(part).targets[mine], plain.part(part).targets[mine])


def test_no_text_at_which_a_parser_may_stumble_refuses_a_start() -> None:
    for place in range(0, len(STRANGE), 4):
        reads_whatever_ann_wrote(STRANGE[place : place + 4])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=8), min_size=4, max_size=4))
def test_no_text_whatever_refuses_a_start_or_reaches_another_person(cells: list[str]) -> None:
    reads_whatever_ann_wrote(cells)


def test_booleans_are_labels_from_a_frame_and_from_a_file(tmp_path: Path) -> None:
    frame = table(v=[1.0] * 8).assign(y=[True, False, False, True] * 2)
    frame.to_csv(tmp_path / "a.csv", index=False)
    asked: dict[str, Any] = {"task": "who", "target": "y", "features": ["v"], "declared": "protected"}
    for classes in (2, ["False", "True"]):
        here = Tasks.from_frame(frame, classes=classes, **asked)
        assert sorted(here.to_frame()["target"]) == [0] * 4 + [1] * 4
        same(here, Tasks.from_table(tmp_path / "a.csv", classes=classes, **asked))
    first = frame.assign(part=["train", "train", "validation", "test"] * 2)
    kept = Tasks.from_frame(first, classes=2, split="part", **asked).to_frame()
    assert kept["target"].tolist() == [1, 0, 0, 1] * 2


def test_a_person_of_one_class_is_normal() -> None:
    frame = table(v=[1.0] * 8).assign(y=["no"] * 4 + ["no", "yes"] * 2)
    asked: dict[str, Any] = {"task": "who", "target": "y", "features": ["v"], "classes": ["no", "yes"]}
    for declared in ("protected", "benchmark"):
        tasks = Tasks.from_frame(frame, declared=declared, **asked)
        tasks.check()
        assert usable(tasks, torch.float32).scores.all()


# --- names ---


def test_a_name_is_one_task_in_whatever_composition_and_with_blanks_at_its_ends(caplog: Any) -> None:
    frame = table(v=[1.0] * 8).assign(who=["Zoë", "Zoe\u0308", " Zoë", "Zoë\u00a0", *["bob"] * 4])
    with caplog.at_level(logging.INFO):
        tasks = Tasks.from_frame(frame, task="who", target="y", features=["v"], declared="protected")
    assert tasks.names == ("Zoë", "bob")
    assert "1 names are spelled in several ways" in caplog.text
    plain = frame.assign(who=["Zoë"] * 4 + ["bob"] * 4)
    same(tasks, Tasks.from_frame(plain, task="who", target="y", features=["v"], declared="protected"))
    two = np.ones((2, 1)), np.zeros(2)
    arrays = {"Zoë": two, "Zoe\u0308": two, "bob": (np.ones((4, 1)), np.zeros(4))}
    assert Tasks.from_arrays(arrays, declared="protected").fingerprint == tasks.fingerprint


@pytest.mark.parametrize(
    ("who", "words"),
    [
        (["Ann"] * 4 + ["ann"] * 4, r"'Ann' \(row 0 .*\) and 'ann' \(row 4 .*upper and lower case only"),
        (["a  b"] * 4 + ["a b"] * 4, "'a  b' .* and 'a b' .* differ in blanks or characters that are not seen only"),
        (["a\u00a0b"] * 4 + ["a b"] * 4, r"'a.xa0b' .* differ in blanks or characters that are not seen only"),
        (["ann\u200b"] * 4 + ["ann"] * 4, r"'ann' .* and 'ann.u200b' .* differ in blanks or characters"),
        (["a\x07nn"] * 4 + ["ann"] * 4, r"'a.x07nn' .* differ in blanks or characters that are not seen only"),
        (["ann"] * 4 + ["bob", " ", "bob", "bob"], r"without a name of its person, row 5 \(counted from 0\)"),
        (["ann"] * 4 + ["bob", None, "bob", "bob"], "without a name of its person, row 5"),
        ([1.0] * 4 + [2.5] * 4, "holds decimal numbers in the column 'who', and names of people are text or whole"),
        ([True] * 4 + [False] * 4, "holds booleans in the column 'who'"),
        (["ann"] * 7 + ["bob"], r"task 'bob' of the frame has 1 row \(row 7 .* needs at least 3"),
        (["ann"] * 6 + ["bob"] * 2, "task 'bob' of the frame has 2 rows"),
        (["ann"] * 7 + ["b\0b"], "NUL|has 1 row"),
    ],
)
def test_names_are_structure_and_may_refuse_a_start(who: list[Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Tasks.from_frame(table(v=[1] * 8).assign(who=who), task="who", target="y", features=["v"], declared="protected")


def test_a_name_is_valid_unicode_in_every_reader(tmp_path: Path) -> None:
    bad, pairs = "a\udcff", (np.ones((3, 1)), np.zeros(3))
    with pytest.raises(InputError, match="half of a surrogate pair"):
        Tasks.from_arrays({bad: pairs}, declared="protected")
    with pytest.raises(InputError, match="half of a surrogate pair"):
        Tasks.from_datasets({bad: _Stream(*pairs)}, declared="protected")
    frame = table(v=[1.0] * 8).assign(who=pd.Series([bad] * 4 + ["a\udcfe"] * 4, dtype=object))
    tasks = Tasks.from_frame(frame, task="who", target="y", features=["v"], declared="protected")
    assert tasks.names == ("a\\udcfe", "a\\udcff"), "two names stay two"
    image = tmp_path / "faces" / bad / "no" / "1.png"
    image.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(image)
    with pytest.raises(InputError, match=r"'a.udcff', a.*/\*/1.png, which is no valid Unicode"):
        Tasks.from_images(tmp_path / "faces", classes=["no", "yes"], declared="protected")


def test_names_that_look_like_numbers_stay_text_and_whole_numbers_become_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who,v,y\n" + "007,1,0\n" * 3 + "7,1,0\n" * 3 + f"{2**70},1,0\n" * 3)
    asked: dict[str, Any] = {"task": "who", "target": "y", "features": ["v"], "declared": "protected"}
    assert Tasks.from_table(tmp_path / "a.csv", **asked).names == ("007", str(2**70), "7")
    assert Tasks.from_frame(table(v=[1] * 8).assign(who=[3] * 4 + [12] * 4), **asked).names == ("12", "3")
