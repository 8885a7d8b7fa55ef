"""Where the data sets come from: licence, files, checksums, facts. The package holds no data."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

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


@cache
def _sources() -> tuple[SourceInfo, ...]:
    text = files("fedpriv.data").joinpath("catalog.toml").read_text(encoding="utf-8")
    return tuple(_entry(**entry) for entry in tomllib.loads(text)["data"])


def _entry(files: list[dict[str, Any]], facts: list[str], **about: Any) -> SourceInfo:
    found = [SourceFile(**{**file, "shape": tuple(file["shape"])}) for file in files]
    return SourceInfo(**about, files=tuple(found), facts=tuple(facts))


def sources() -> list[SourceInfo]:
    """Return what is known of every data set, in the order of ``fedpriv data list``."""
    return list(_sources())


def source(name: str) -> SourceInfo:
    """Return what is known of one data set; an unknown name is an ``InputError``."""
    for info in _sources():
        if info.name == name:
            return info
    raise InputError(unknown("data set", name, [info.name for info in _sources()]))


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
