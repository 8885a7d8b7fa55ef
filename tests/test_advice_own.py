"""Advice about data of one's own is true: what is refused, what is said, and that doing it helps."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from advice import GONE, Case, cases
from PIL import Image
from torch.utils.data import TensorDataset

from fedpriv import Tasks
from fedpriv.data import own_inputs, own_tasks

FRAME = pd.DataFrame(
    {
        "who": ["ann"] * 4 + ["bob"] * 4,
        "v": range(8),
        "c": ["f", "m"] * 4,
        "ok": [True, False] * 4,
        "y": [0, 1] * 4,
        "d": pd.to_datetime(["2020-01-01", "2020-06-01"] * 4),
        "part": ["train", "train", "validation", "test"] * 2,
    }
)
LINES = "who,v,y\n" + "".join(f"{who},{number},{number % 2}\n" for who in ("ann", "bob") for number in range(4))


def given(**columns: Any) -> pd.DataFrame:
    return FRAME.assign(**columns)


def framed(frame: Any = FRAME, **asked: Any) -> Tasks:
    tasks = Tasks.from_frame(frame, **asked)
    tasks.check()
    return tasks


def filed(content: str | bytes = LINES, name: str = "a.csv", **asked: Any) -> Tasks:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Tasks.from_table(Path(folder) / asked.pop("path", name), **asked)


def mapped(people: Any = GONE, **asked: Any) -> Tasks:
    return Tasks.from_arrays(people, **asked)


def streamed(people: Any = GONE, **asked: Any) -> Tasks:
    return Tasks.from_datasets(people, **asked)


def leaf(content: Any = GONE, name: str = "a.json", **asked: Any) -> Tasks:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return Tasks.from_leaf(Path(folder) / asked.pop("path", "a.json"), **asked)


def imaged(files: Any = GONE, **asked: Any) -> Tasks:
    with tempfile.TemporaryDirectory() as folder:
        for place, (size, mode) in files.items():
            path = Path(folder) / "faces" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if mode == "none":
                path.write_bytes(b"none")
            else:
                Image.new(mode, size).save(path)
        return Tasks.from_images(Path(folder) / asked.pop("path", "faces"), **asked)


def saved(frame: Any = FRAME, split: str = "train", path: str = "saved", **asked: Any) -> Tasks:
    from datasets import Dataset, DatasetDict

    with tempfile.TemporaryDirectory() as folder:
        DatasetDict({split: Dataset.from_pandas(frame), "test": Dataset.from_pandas(frame)}).save_to_disk(
            Path(folder) / "saved"
        )
        return Tasks.from_saved_dataset(Path(folder) / path, **asked)


def owned(content: str = LINES, declared: Any = "protected", name: str = "a.csv", **values: Any) -> Tasks:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.csv").write_text(content)
        return own_tasks({**values, "file": str(Path(folder) / name)}, declared)


def predicted(**values: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.csv").write_text(LINES)
        return own_inputs({**values, "file": "a.csv"}, Path(folder) / "a.csv")


ASKED: dict[str, Any] = {"task": "who", "target": "y", "features": ["v"], "classes": 2, "declared": "protected"}
PUBLIC = {**ASKED, "declared": "benchmark"}
LISTS = [[1.0, 2.0]] * 7

FRAMES = cases(
    framed,
    ASKED,
    (
        {"features": None},
        "read as, because what a column holds",
        {"features": {"v": (0, 120), "c": ["f", "m"], "y2": "number"}, "frame": given(y2=1)},
    ),
    ({"features": ["v", "v"]}, "features names {} more than once", {"features": ["v"]}),
    ({"features": 3}, "features must be a list of columns or say how", {"features": {"v": (0, 120), "c": ["f", "m"]}}),
    ({"features": {"v": "number", " v": "number"}}, "features names the column {} more than once", {"features": ["v"]}),
    ({"features": []}, "no column that is a feature; name at least one", {"features": ["v"]}),
    ({"features": ["v", "who"]}, "so it is no feature; leave it out there", {"features": ["v"]}),
    (
        {"features": {"v": {"mean": 3}}},
        "may say 'range' and 'missing', got",
        {"features": {"v": {"range": (0, 120), "missing": 40}}},
    ),
    ({"features": {"v": {"missing": "x"}}}, "'missing' of {} must be a number", {"features": {"v": {"missing": 3}}}),
    (
        {"features": {"c": {"range": ["f", "m"], "missing": 0}}},
        "goes with a range of numbers; leave it out",
        {"features": {"c": {"range": ["f", "m"]}}},
        {"features": {"c": ["f", "m"]}, "frame": given(c=[None, "f"] * 4)},
    ),
    (
        {"features": {"v": "standardize"}},
        "would be fitted to everybody's values",
        {"features": {"v": (0, 9)}},
        {"features": {"v": "standardize-within-task"}},
        {"declared": "benchmark"},
    ),
    ({"features": {"c": "categories"}}, "would be fitted to everybody's values", {"features": {"c": ["f", "m"]}}),
    (
        {"features": {"v": (-1e308, 1e308)}},
        "is wider than the largest float64, got {}; give a smaller one",
        {"features": {"v": (-1e307, 1e307)}},
    ),
    (
        {"features": {"v": {"range": (0, 9), "missing": 12}}},
        "must lie in its range, {} to {}, got {}; give a number in it, or widen the range",
        {"features": {"v": {"range": (0, 9), "missing": 9}}},
        {"features": {"v": {"range": (0, 12), "missing": 12}}},
    ),
    ({"features": {"v": (9, 0)}}, "must rise, got {}; give [low, high]", {"features": {"v": (0, 9)}}),
    ({"features": {"c": ["f", "f"]}}, "more than once; keep one of them", {"features": {"c": ["f"]}}),
    (
        {"features": {"v": (1, 2, 3)}},
        "numbers among them in quotation marks",
        {"features": {"v": ["1", "2", "3"]}},
        {"features": {"v": (1, 2)}},
        {"features": {"v": "number"}},
    ),
    (
        {"classes": ["no", "yes"]},
        "them as they stand there",
        {"classes": ["0", "1"]},
        {"classes": 2},
        {"frame": given(y=["no", "yes"] * 4)},
    ),
    (
        {"target": "ok", "classes": ["no", "yes"]},
        "them as they stand there",
        {"classes": ["false", "true"]},
        {"classes": ["False", "True"]},
        {"classes": 2},
    ),
    ({"features": {"v": ["f", "m"]}}, "them as they stand there", {"features": {"v": ["0", "1"]}}),
    ({"features": ["ok"]}, "which cannot be read as", {"features": {"ok": "boolean"}}),
    (
        {"features": ["d"]},
        "write two dates, ['1900-01-01', '2030-01-01'], for it",
        {"features": {"d": ("1900-01-01", "2030-01-01")}},
    ),
    ({"features": {"ok": (0, 1)}}, "write 'boolean' for it", {"features": {"ok": "boolean"}}),
    (
        {"features": {"v": ("1900-01-01", "2030-01-01")}},
        "write two numbers, [0, 120], for it",
        {"features": {"v": [0, 120]}},
    ),
    (
        {"features": ["v"], "frame": given(v=[b"x"] * 8).astype({"v": pd.ArrowDtype(pa.binary())})},
        "name the columns in features that hold numbers or text",
        {"frame": FRAME},
    ),
    (
        {"frame": given(v=pd.Series([*LISTS, [1.0]], dtype=pd.ArrowDtype(pa.list_(pa.float64()))))},
        "give all rows the same length",
        {"frame": given(v=pd.Series([*LISTS, [1.0, 3.0]], dtype=pd.ArrowDtype(pa.list_(pa.float64()))))},
    ),
    (
        {"frame": given(v=pd.Series([[]] * 8, dtype=pd.ArrowDtype(pa.list_(pa.float64()))))},
        "holds empty lists in the column {}; give numbers in them, or leave that column out",
        {"frame": given(v=pd.Series([[1.0]] * 8, dtype=pd.ArrowDtype(pa.list_(pa.float64()))))},
        {"features": ["y2"], "frame": given(y2=1)},
    ),
    (
        {"frame": given(v=[1e200] * 8), "features": {"v": "standardize-within-task"}, "declared": "benchmark"},
        "which is {}; mend it there, or give a range [low, high] in {}",
        {"frame": FRAME},
        {"features": {"v": (0, 1e200)}},
    ),
    (
        {"frame": given(v=pd.Series([["x"]] * 8, dtype=pd.ArrowDtype(pa.list_(pa.string()))))},
        "give lists of numbers",
        {"frame": given(v=pd.Series([[1]] * 8, dtype=pd.ArrowDtype(pa.list_(pa.int64()))))},
    ),
    (
        {"target": "d", "classes": 2},
        "which are no labels; give a column of text or whole numbers, or leave out classes",
        {"target": "c", "classes": ["f", "m"]},
        {"target": "v", "classes": None, "features": {"c": ["f", "m"]}},
    ),
    (
        {"frame": given(v2=FRAME["v"]).rename(columns={"v2": "v"})},
        "the same heading in columns {} and {}",
        {"frame": given(v2=FRAME["v"])},
        {"frame": FRAME},
    ),
    ({"frame": FRAME.head(0)}, "has headings and no rows; give at least one row", {"frame": FRAME}),
    (
        {"frame": FRAME.to_dict("list")},
        "a frame must be a pandas.DataFrame or a pyarrow.Table",
        {"frame": pd.DataFrame(FRAME.to_dict("list"))},
        {"frame": pa.Table.from_pandas(FRAME)},
    ),
    (
        {"split": (0.5, 0.5)},
        "or the name of a column that says the part, got",
        {"split": (0.6, 0.2, 0.2)},
        {"split": "part"},
    ),
    (
        {"split": "c"},
        "names no part in {}, column {}; write train, validation or test there",
        {"frame": given(c=FRAME["part"])},
    ),
    (
        {"split": "v", "features": {"c": ["f", "m"]}},
        "which says the part; write train, validation or test there",
        {"frame": given(v=FRAME["part"])},
    ),
    (
        {"split": "part", "frame": given(part="train")},
        "needs 2 and 1: change the column that says the part",
        {"frame": FRAME},
    ),
    ({"seed": -1}, "seed must be a whole number, 0 or more", {"seed": 0}),
    (
        {"frame": given(who=["ann"] * 7 + [" "])},
        "a row without a name of its person",
        {"frame": FRAME},
        {"frame": given(who=["ann"] * 7 + [" "]).head(7)},
    ),
    (
        {"frame": given(who=["ann"] * 4 + ["Ann"] * 4)},
        "write one spelling, or rename one of",
        {"frame": given(who="ann")},
        {"frame": given(who=["ann"] * 4 + ["Ann B."] * 4)},
    ),
    ({"frame": FRAME.head(6)}, "leave such people out beforehand", {"frame": FRAME.head(4)}),
    ({"target": "who"}, "must be different columns; name each", {"target": "y"}),
    (
        {"target": ["y", "v"], "features": ["ok2"], "frame": given(ok2=1)},
        "classes go with one target column",
        {"target": "y"},
        {"classes": None},
    ),
    (
        {"classes": "infer"},
        "would look classes up in people's labels",
        {"classes": 2},
        {"classes": ["0", "1"]},
        {"declared": "benchmark"},
    ),
    (
        {"classes": ["0", "0"]},
        "classes must be their number, or different texts in their order",
        {"classes": 2},
        {"classes": ["0", "1"]},
        {"classes": None},
    ),
    (
        {"target": 3},
        "target must name the column that is to be predicted",
        {"target": "y"},
        {"target": {"y": (0, 100)}, "classes": None},
    ),
    (
        {"target": {"c": ["f", "m"]}, "classes": None},
        "name labels in classes=['no', 'yes'] instead",
        {"target": "c", "classes": ["f", "m"]},
    ),
    (
        {"task": "d"},
        "names of people are text or whole numbers",
        {"frame": given(d=FRAME["d"].astype(str))},
        {"task": "who"},
    ),
    (
        {"declared": GONE},
        "declared='protected' for data of people (all runs spend",
        {"declared": "protected"},
        {"declared": "benchmark"},
    ),
)

BENCHMARKS = cases(
    framed,
    PUBLIC,
    (
        {"features": None},
        "say in features how they are read, of dates as a range",
        {"features": {"d": ("1900-01-01", "2030-01-01")}},
        {"features": ["v"]},
    ),
    (
        {
            "features": {"c": "categories"},
            "frame": pd.concat([given(c=[f"{k}{j}" for j in range(8)]) for k in range(20)]),
        },
        "too many to look up",
        {"features": {"c": ["11", "12"]}},
        {"features": ["v"]},
    ),
    (
        {"frame": given(y=[0, 5] * 4)},
        "holds {} {}, which is none of the classes",
        {"frame": FRAME},
        {"classes": 6},
    ),
    ({"frame": given(v=["1,5"] * 8)}, "which is no {}{}; mend it there", {"frame": FRAME}),
    (
        {"frame": given(v=[None, 1] * 4)},
        "fill it, leave that row out",
        {"frame": given(v=[0, 1] * 4)},
        {"features": {"v": {"range": (0, 1), "missing": 0}}},
    ),
)

FILES = cases(
    filed,
    ASKED,
    ({"path": "b.csv"}, "there is no file {}; give the path of a table", {"path": "a.csv"}),
    ({"name": "a.xls"}, "has no known ending; save the table as one of", {"name": "a.csv"}, {"name": "a.txt"}),
    ({"content": LINES.replace(",", ";"), "separator": "::"}, "separator must be one character", {"separator": ";"}),
    ({"content": "\n" + LINES}, "no headings: its first line is empty", {"content": LINES}),
    ({"decimal": "x"}, "decimal must be '.' or ','", {"decimal": GONE}, {"decimal": "."}),
    (
        {"decimal": ",", "content": LINES.replace(",", ";").replace("who;", "who,"), "separator": ","},
        "so it cannot stand before decimals",
        {"separator": ";", "content": LINES.replace(",", ";")},
    ),
    (
        {"name": "b.csv", "path": "b.csv", "encoding": "utf-99"},
        "the encoding {} is unknown",
        {"encoding": "latin-1"},
        {"encoding": "utf-8"},
    ),
    (
        {"content": LINES.replace("bob", "böb").encode("latin-1")},
        "; {}, or say what it is, such as",
        {"encoding": "latin-1"},
        {"encoding": "cp1252"},
        {"content": LINES.replace("bob", "böb")},
    ),
    (
        {"content": LINES, "name": "a.csv.gz", "path": "a.csv.gz"},
        "see whether the path and the file are right",
        {"content": gzip.compress(LINES.encode())},
    ),
    ({"content": b"PK\x03\x04"}, "save its sheet as CSV (UTF-8)", {"content": LINES}),
    ({"content": LINES.replace("3", "\0")}, "so it is no text table; save it", {"content": LINES}),
    (
        {"content": LINES.replace("bob,1", '"bob,1')},
        "close it, or double it inside of a quoted cell",
        {"content": LINES.replace("bob,1", '"bob",1')},
    ),
    ({"content": LINES.replace("bob,1", "bob,1,2")}, "mend that line, or give the separator", {"content": LINES}),
    (
        {"content": gzip.compress(LINES.encode())},
        "add .gz to its name",
        {"name": "a.csv.gz", "path": "a.csv.gz"},
    ),
    ({"content": b"\x89PNG\r\n\x1a\n"}, "give a table that is saved as CSV (UTF-8)", {"content": LINES}),
    (
        {"content": LINES.replace("bob", "böb"), "encoding": "ascii"},
        "leave encoding out if it is UTF-8",
        {"encoding": GONE},
    ),
    ({"encoding": "utf-16"}, "read as {}; leave encoding out if the file is UTF-8", {"encoding": GONE}),
    ({"encoding": 8}, "leave it out for UTF-8", {"encoding": GONE}, {"encoding": "utf-8"}),
    (
        {"content": LINES.encode("utf-8-sig"), "encoding": "latin-1"},
        "begins with the mark of {}, and encoding={} is given; leave it out",
        {"encoding": GONE},
        {"encoding": "utf-8"},
    ),
    (
        {"content": "sep=,\n" + LINES},
        "delete that line, the separator is found in the headings",
        {"content": LINES},
    ),
    ({"separator": ";"}, "and its first line holds a {}; give separator={}", {"separator": ","}),
    (
        {"content": LINES.replace(",", "\t"), "separator": ","},
        "and its first line holds a {}; give separator={}",
        {"separator": r"\t"},
    ),
    ({"path": "."}, "is a folder, and a table is one file; give the path", {"path": "a.csv"}),
)

COMMAS = cases(
    filed,
    {**PUBLIC, "name": "a.tsv"},
    (
        {"content": LINES.replace(",", "\t").replace("\t1\t", "\t1,5\t")},
        "; give decimal=',' if that is a decimal comma",
        {"decimal": ","},
    ),
    (
        {"name": "a.csv", "content": LINES.replace(",", ";").replace(";1;", ";1,5;").replace(";2;", ";2.5;")},
        "; write one mark in all rows",
        {"content": LINES.replace(",", ";").replace(";1;", ";1,5;").replace(";2;", ";2,5;")},
    ),
)

PARQUET = cases(
    filed,
    {**ASKED, "name": "a.parquet", "content": FRAME.to_parquet()},
    ({"separator": ","}, "are of text files; leave them out for Parquet", {"separator": GONE}),
)

PAIRS = {name: (np.ones((4, 2)), np.array([0, 1, 0, 1])) for name in ("ann", "bob")}
LABELS = {name: (x, np.array(["no", "yes"] * 2)) for name, (x, _) in PAIRS.items()}
ARRAYS = cases(
    mapped,
    {"people": PAIRS, "classes": 2, "declared": "protected"},
    ({"people": [1]}, "give a mapping with (inputs, targets) for each person's name", {"people": PAIRS}),
    ({"people": {}}, "so there are no tasks; give one array per task", {"people": PAIRS}),
    ({"split": "part"}, "split of {} must be three shares", {"split": (0.6, 0.2, 0.2)}),
    ({"people": {"ann": np.ones(3)}}, "must be a pair (inputs, targets)", {"people": PAIRS}),
    (
        {"people": {"ann": (np.ones((4, 2)), np.eye(4, dtype=int)[:, :2])}},
        "give .argmax(axis=1) of one-hot rows, .reshape(-1) of labels in one column, or leave out classes",
        {"people": {"ann": (np.ones((4, 2)), np.eye(4, dtype=int)[:, :2].argmax(axis=1))}},
        {"people": {"ann": (np.ones((4, 2)), np.ones((4, 1)).reshape(-1))}},
        {"classes": GONE},
    ),
    (
        {"people": LABELS, "classes": "infer", "declared": "benchmark"},
        "give the classes' names, in order",
        {"classes": ["no", "yes"]},
    ),
    (
        {"people": LABELS, "classes": ["no"], "declared": "benchmark"},
        "is none of the names of classes; mend it, or add it to classes",
        {"classes": ["no", "yes"]},
    ),
)


class _Short(TensorDataset):
    def __len__(self) -> int:
        return 9


SETS = {name: TensorDataset(torch.tensor(x), torch.tensor(y)) for name, (x, y) in PAIRS.items()}
DATASETS = cases(
    streamed,
    {"people": SETS, "classes": 2, "declared": "protected"},
    ({"people": [1]}, "give a mapping with a data set for each person's name", {"people": SETS}),
    (
        {"people": {"ann": TensorDataset(torch.ones(4, 2))}},
        "wrap it in one that gives both as numbers",
        {"people": SETS},
    ),
    ({"people": {"ann": 3}}, "is no data set, got {}; give one", {"people": SETS}),
    (
        {"people": {"ann": _Short(torch.ones(3, 2), torch.tensor([0, 1, 0]))}},
        "(counted from 0){}, but an error of type {}; mend the data set",
        {"people": SETS},
    ),
    (
        {
            "people": {"ann": (TensorDataset(torch.full((3, 2), torch.nan), torch.tensor([0, 1, 0])))},
            "declared": "benchmark",
        },
        "hold no finite number in {}; mend it, or leave that example out",
        {"people": SETS},
    ),
    (
        {"people": {"ann": (TensorDataset(torch.ones(3, 2), torch.tensor([0, 1, 2])))}, "declared": "benchmark"},
        "is none of the {} classes, which are numbered from 0 on; mend it, or give a larger number",
        {"people": SETS},
        {"classes": 3},
    ),
    (
        {"people": {"ann": [(np.ones(2), 0), (np.ones(3), 1), (np.ones(2), 0)]}},
        "have different shapes, {} and {}; give all one shape",
        {"people": {"ann": [(np.ones(2), 0)] * 3}},
    ),
)

USER = {"x": [[1.0], [2.0], [3.0]], "y": [0, 1, 0]}
GOOD = {"users": ["ann"], "num_samples": [3], "user_data": {"ann": USER}}
LEAVES = cases(
    leaf,
    {"content": GOOD, "classes": 2, "declared": "benchmark"},
    ({"path": "b.json"}, "give the path of a JSON file", {"path": "a.json"}),
    ({"content": {"users": [], "user_data": {}}}, "so there are no people; give at least", {"content": GOOD}),
    ({"split": "part"}, "split of {} must be three shares", {"split": (0.6, 0.2, 0.2)}),
    ({"content": "{"}, "is no whole JSON{}; write the file again", {"content": GOOD}),
    ({"content": [1]}, "so it is not of LEAF's form", {"content": GOOD}),
    ({"content": {**GOOD, "num_samples": []}}, "must have as many 'num_samples' as 'users'", {"content": GOOD}),
    ({"content": {**GOOD, "users": ["eve"]}}, "must name each user of 'user_data' once in 'users'", {"content": GOOD}),
    ({"content": {**GOOD, "user_data": {"ann": {}}}}, "must hold lists 'x' and 'y' for the user", {"content": GOOD}),
    (
        {"content": {**GOOD, "user_data": {"ann": {**USER, "y": [0, 1, 9]}}}},
        "holds {} in '{}', {}, which is {}; mend it",
        {"content": GOOD},
    ),
    (
        {"content": {**GOOD, "user_data": {"ann": {"x": [[], [], []], "y": [0, 1, 0]}}}},
        "holds empty lists in '{}', {}; give numbers in each",
        {"content": GOOD},
    ),
    (
        {"content": json.dumps(GOOD).replace('{"ann"', '{"ann": {}, "ann"')},
        "twice in one place, so one would replace the other; keep one",
        {"content": GOOD},
    ),
    (
        {"content": json.dumps(GOOD).replace("ann", "\\ud800")},
        "which is no valid Unicode (half of a pair of surrogates); write the name again",
        {"content": GOOD},
    ),
    ({"path": ".", "name": "a.txt"}, "holds no .json file; give a file", {"path": ".", "name": "a.json"}),
)

FACES = {f"ann/{kind}/{number}.png": ((4, 4), "L") for kind in ("no", "yes") for number in range(2)}
IMAGES = cases(
    imaged,
    {"files": FACES, "classes": ["no", "yes"], "declared": "protected"},
    ({"split": "part"}, "split of {} must be three shares", {"split": (0.6, 0.2, 0.2)}),
    ({"colour": "blue"}, "colour must be 'grey' or 'rgb'", {"colour": GONE}, {"colour": "rgb"}),
    ({"size": (28,)}, "size must be [height, width] in whole pixels", {"size": (28, 28)}),
    (
        {"classes": None},
        "would be looked up in the folders of people's labels",
        {"classes": ["no", "yes"]},
        {"declared": "benchmark"},
    ),
    ({"classes": [1, 2]}, "classes must name the folders of classes in order", {"classes": ["no", "yes"]}),
    (
        {"classes": ["no"], "declared": "benchmark"},
        "add it to classes, or rename the folder",
        {"classes": ["no", "yes"]},
        {"files": {name.replace("yes/", "no/y"): one for name, one in FACES.items()}},
    ),
    (
        {"files": {**FACES, "ann/no/9.png": ((5, 4), "RGB")}},
        "give size=[height, width], or colour='grey' or 'rgb'",
        {"size": (4, 4), "colour": "grey"},
    ),
    (
        {"files": {**FACES, "ann/no/9.png": ((4, 4), "RGBA")}},
        "that is neither grey nor RGB; give colour",
        {"colour": "grey"},
    ),
    (
        {"files": {**FACES, "ann/no/9.png": ((4, 4), "none")}},
        "so it is damaged or no image; replace it",
        {"files": FACES},
    ),
    ({"path": "nowhere"}, "give a folder person/class/image", {"path": "faces"}),
    ({"files": {**FACES, "ann/9.png": ((4, 4), "L")}}, "lay them so, or remove it", {"files": FACES}),
    (
        {"files": {**FACES, "ann/no/9.txt": ((4, 4), "none")}},
        "which is no image by its name ({}); move it away",
        {"files": FACES},
    ),
)

SAVED = cases(
    saved,
    {**ASKED, "frame": FRAME.drop(columns="d")},
    ({"path": "."}, "give the folder that it made", {"path": "saved"}),
    (
        {"split": "unsupervised"},
        "give the folder of one split, or save it under one of these names",
        {"path": "saved/test"},
        {"split": "validation", "path": "saved/test"},
        {"split": "train"},
    ),
)

KEYS = cases(
    owned,
    {key: value for key, value in ASKED.items() if key != "declared"},
    ({"name": "b.csv"}, "data.file: there is no {}; give the path", {"name": "a.csv"}),
    (
        {"declared": None},
        "run.declared must say what the data of data.file are",
        {"declared": "protected"},
        {"declared": "benchmark"},
    ),
    ({"colour": "grey"}, "does not go with {}, which is read as {}; leave it out", {"colour": GONE}),
    ({"task": GONE}, "must name the column of {} that says", {"task": "who"}),
    ({"name": "."}, "is a folder of tables; give the path of one of them", {"name": "a.csv"}),
)

NEW = cases(
    predicted,
    {"features": {"v": (0, 4)}},
    ({"features": GONE}, "data.features do not say how columns are read", {"features": ["v"]}),
    (
        {"features": {"v": "standardize-within-task"}},
        "which new rows do not bring; give a range",
        {"features": {"v": (0, 4)}},
    ),
)


@pytest.mark.parametrize(
    "case",
    [
        *FRAMES,
        *BENCHMARKS,
        *FILES,
        *COMMAS,
        *PARQUET,
        *ARRAYS,
        *DATASETS,
        *LEAVES,
        *IMAGES,
        *SAVED,
        *KEYS,
        *NEW,
    ],
)
def test_own_data_that_follow_the_advice_are_read(case: Case) -> None:
    case.refused()
    case.followed()


def test_a_saved_data_set_that_lost_a_file_is_saved_again(tmp_path: Path) -> None:
    from datasets import Dataset

    from fedpriv import InputError

    def read() -> Tasks:
        return Tasks.from_saved_dataset(tmp_path / "pets", task="who", target="y", features=["v"], declared="protected")

    def save(rows: Any) -> None:
        shutil.rmtree(tmp_path / "pets", ignore_errors=True)
        rows.save_to_disk(tmp_path / "pets")

    whole = Dataset.from_pandas(FRAME)
    for damage, words in (
        (
            lambda: next((tmp_path / "pets").glob("*.arrow")).unlink(),
            "a file of it is missing",
        ),
        (lambda: next((tmp_path / "pets").glob("*.arrow")).write_bytes(b"x"), "write the file again"),
        (lambda: (tmp_path / "pets/dataset_info.json").unlink(), "no readable dataset_info.json"),
        (lambda: (tmp_path / "pets/state.json").write_text("{}"), "names no files in its state.json"),
    ):
        save(whole)
        assert len(read()) == 2
        damage()
        with pytest.raises(InputError, match=words):
            read()
    save(whole)
    state = tmp_path / "pets/state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"_indices_data_files": [{"filename": "x.arrow"}]}))
    with pytest.raises(InputError, match=r"save flatten_indices\(\) of it"):
        read()
    save(whole.select([3, 2, 1, 0, 4, 5, 6, 7]).flatten_indices())
    assert len(read()) == 2
