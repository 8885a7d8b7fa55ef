"""Where the data sets come from: licence, files, checksums, facts. The package holds no data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedpriv.errors import InputError
from fedpriv.names import unknown

__all__ = ["DATA_DIR_VARIABLE", "SourceFile", "SourceInfo", "data_directory", "locate", "source", "sources"]

DATA_DIR_VARIABLE = "FEDPRIV_DATA"


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set.

    Attributes
    ----------
    path : str
        Where it lies, relative to the data directory; "(scikit-learn)" for the embedded set.
    sha256 : str
        The checksum, in hexadecimal.
    covers : {"uncompressed", "file", "arrays"}
        What the checksum is taken of: the content after gzip is undone, the file as it lies on the disk,
        or the bytes of the arrays (images as uint8, then labels as uint8).
    shape : tuple of int
        Shape of the array in the file (of the images, where a file holds several arrays).
    """

    path: str
    sha256: str
    covers: Literal["uncompressed", "file", "arrays"]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a data set before it is read; all fields turn into JSON.

    Attributes
    ----------
    name, title : str
        The name users type, and the full one.
    source, licence : str
        Who made it, and under which terms it may be used.
    files : tuple of SourceFile
        The files it is read from.
    facts : tuple of str
        What to know before using it.
    embedded : bool
        Whether it needs no files of its own.
    declared : {"benchmark"}
        Public benchmark data: a run keeps a privacy ledger of its own.
    """

    name: str
    title: str
    source: str
    licence: str
    files: tuple[SourceFile, ...]
    facts: tuple[str, ...]
    embedded: bool = False
    declared: Literal["benchmark"] = "benchmark"


def _idx_files(folder: str, checksums: tuple[str, str, str, str]) -> tuple[SourceFile, ...]:
    parts = (("train", 60_000), ("t10k", 10_000))
    kinds: tuple[tuple[str, tuple[int, ...]], ...] = (("images-idx3", (28, 28)), ("labels-idx1", ()))
    named = [(f"{folder}/{part}-{kind}-ubyte.gz", (n, *shape)) for part, n in parts for kind, shape in kinds]
    return tuple(
        SourceFile(path, checksum, "uncompressed", shape)
        for (path, shape), checksum in zip(named, checksums, strict=True)
    )


_SOURCES: tuple[SourceInfo, ...] = (
    SourceInfo(
        name="digits",
        title="Optical recognition of handwritten digits, test part",
        source="Alpaydin and Kaynak, UCI Machine Learning Repository; comes with scikit-learn",
        licence="CC BY 4.0 (UCI); scikit-learn BSD-3-Clause",
        files=(
            SourceFile(
                "(scikit-learn)",
                "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826",
                "arrays",
                (1797, 8, 8),
            ),
        ),
        facts=("1,797 images 8x8 of 10 digits, 174 to 183 a class", "embedded: needs no download"),
        embedded=True,
    ),
    SourceInfo(
        name="femnist",
        title="FEMNIST, 206 writers",
        source="NIST Special Database 19 through LEAF; test split of the 206 writers of the PMTL experiments",
        licence="NIST SD19: public data of the US government; LEAF: BSD-2-Clause",
        files=(
            SourceFile(
                "femnist-206/femnist-206.npz",
                "6675c8eb161e9c46fd7d5a6720e4f394d8c537c117b07e7f7e7402e021f99a07",
                "file",
                (6237, 28, 28),
            ),
        ),
        facts=(
            "6,237 images 28x28 of 62 classes: 10 digits, then upper and lower case letters",
            "206 real writers, 5 to 69 images each, median 28: few tasks for a small user-level epsilon",
        ),
    ),
    SourceInfo(
        name="mnist",
        title="MNIST handwritten digits",
        source="LeCun, Cortes, Burges",
        licence="CC BY-SA 3.0",
        files=_idx_files(
            "mnist",
            (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        facts=("60,000 + 10,000 images 28x28 of 10 classes, read as one pool of 70,000",),
    ),
    SourceInfo(
        name="fashion",
        title="Fashion-MNIST",
        source="Zalando SE",
        licence="MIT",
        files=_idx_files(
            "fashion-mnist",
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
        facts=("60,000 + 10,000 images 28x28 of 10 kinds of clothing, read as one pool of 70,000",),
    ),
    SourceInfo(
        name="movielens",
        title="MovieLens 100K and 1M: people rate films",
        source="GroupLens, University of Minnesota: https://grouplens.org/datasets/movielens",
        licence="research use; may not be redistributed",
        files=(
            SourceFile(
                "movielens/recbole-1.2.1-py3-none-any.whl",
                "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                "file",
                (100_000, 943),
            ),
            SourceFile(
                "movielens/ml-1m.zip",
                "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
                "file",
                (1_000_209, 6040),
            ),
        ),
        facts=(
            "100K lies inside a wheel: pip download --no-deps recbole==1.2.1 -d $FEDPRIV_DATA/movielens",
            "1M (data.size=1m) is GroupLens' own ml-1m.zip; either file will do",
            "943 people in 168 groups of gender, age and occupation; tasks of its own, for regression",
            "test RMSE, random 80/20: global mean 1.126, user and item bias 0.938",
        ),
    ),
    SourceInfo(
        name="insteval",
        title="InstEval: students of ETH Zurich rate lecturers",
        source="R package lme4",
        licence="GPL >= 2",
        files=(
            SourceFile(
                "insteval/insteval.csv.gz",
                "78dbe99f11bc6b9108f2785823cf2ae86aad35314f2f8a0ae3041873782399c7",
                "uncompressed",
                (73_421, 7),
            ),
        ),
        facts=(
            "2,972 students, 1,128 lecturers, 73,421 ratings 1 to 5, median 22 a student; tasks of its own",
            "test RMSE: global mean 1.333, student and lecturer bias 1.202",
        ),
    ),
    SourceInfo(
        name="exam",
        title="London exams, 65 schools",
        source="Centre for Multilevel Modelling, through the R package mlmRev",
        licence="GPL >= 2",
        files=(
            SourceFile(
                "schools/exam.csv.gz",
                "dc599b3dcab6c7fe3693219fd9a742ed156ac20b0992690d71050b9369c50926",
                "uncompressed",
                (4_059, 10),
            ),
        ),
        facts=(
            "4,059 pupils of 65 schools: too few tasks for a small user-level epsilon; tasks of its own",
            "test RMSE, 25% of each school held out: pooled 0.790, shrunk to the pooled model 0.747 at best",
        ),
    ),
    SourceInfo(
        name="chem97",
        title="A-level chemistry 1997, 2,410 schools",
        source="Centre for Multilevel Modelling, through the R package mlmRev",
        licence="GPL >= 2",
        files=(
            SourceFile(
                "schools/chem97.csv.gz",
                "fbc28925618705cf4cac1c3591ef097dfc89017b313ead3b9250058f9ba62a41",
                "uncompressed",
                (31_022, 8),
            ),
        ),
        facts=("31,022 pupils of 2,410 schools, 518 with fewer than 4; tasks of its own, for regression",),
    ),
)


def sources() -> list[SourceInfo]:
    """Return what is known of every data set, in the order of ``fedpriv data list``."""
    return list(_SOURCES)


def source(name: str) -> SourceInfo:
    """Return what is known of one data set; an unknown name is an ``InputError``."""
    for info in _SOURCES:
        if info.name == name:
            return info
    raise InputError(unknown("data set", name, [info.name for info in _SOURCES]))


def data_directory(data_dir: Path | str | None) -> Path | None:
    """Return the data directory: the one given, else ``$FEDPRIV_DATA``, else None.

    Raises
    ------
    InputError
        The directory does not exist.
    """
    given = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE) or None
    if given is None:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        origin = f"${DATA_DIR_VARIABLE}" if data_dir is None else "the data directory given"
        raise InputError(
            f"{origin} is {str(folder)!r}, which is not a directory; point {DATA_DIR_VARIABLE} or "
            "--data-dir at the folder that holds mnist/, fashion-mnist/, insteval/ and the others; "
            "see `fedpriv data list`."
        )
    return folder


def locate(info: SourceInfo, file: SourceFile, folder: Path | None) -> Path:
    """Return where a file of a data set lies; a ``.gz`` file may also lie there uncompressed.

    Raises
    ------
    InputError
        There is no data directory, or the file is not in it.
    """
    advice = f"set {DATA_DIR_VARIABLE} (or --data-dir) to the folder that holds it; see `fedpriv data list`"
    if folder is None:
        raise InputError(f"data set {info.name!r} needs the file {file.path!r} and no data directory is set: {advice}.")
    for path in (folder / file.path, folder / file.path.removesuffix(".gz")):
        if path.is_file():
            return path
    raise InputError(f"data set {info.name!r} needs the file {str(folder / file.path)!r}, which is missing: {advice}.")
