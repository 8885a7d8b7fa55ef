"""Files that are whole or not there: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure

__all__ = ["damage_said", "pack", "read_members", "sync_directory", "unpack", "write_bytes", "write_members"]


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file durably and atomically: after a crash it is the old one or the new one."""
    with _replacing(path, mode) as file:
        file.write(content)


def write_members(path: Path, members: Iterable[tuple[str, NDArray[Any]]], header: Mapping[str, Any]) -> None:
    """Write arrays of any name and a JSON header as one ``.npz`` file, one array at a time, durably and atomically."""
    with _replacing(path) as file:
        _write_npz(file, members, header)


@contextmanager
def _replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames inside a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def pack(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> bytes:
    """Return arrays of any name and a JSON header as the bytes of one ``.npz`` file without pickles."""
    buffer = io.BytesIO()
    _write_npz(buffer, arrays.items(), header)
    return buffer.getvalue()


def unpack(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what :func:`pack` made.

    Raises
    ------
    ComponentFailure
        The file is missing or damaged.
    """
    header, members = read_members(path)
    return dict(members), header


def read_members(path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, NDArray[Any]]]]:
    """Return the header of an ``.npz`` file of ours, and its arrays, read one after the other.

    Names may occur more than once. The iterator raises like this function.

    Raises
    ------
    ComponentFailure
        The file is missing or damaged.
    """
    members = _members(path)
    header: dict[str, Any] = next(members)[1]
    return header, members


@contextmanager
def damage_said(what: str) -> Iterator[None]:
    """Turn what reading does with a file that does not hold what was written into a sentence: a ComponentFailure.

    Parameters
    ----------
    what : str
        Which file it is, in words.
    """
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ComponentFailure(f"{what} is damaged ({error}); restore it from a copy.") from None


def _write_npz(file: IO[bytes], members: Iterable[tuple[str, NDArray[Any]]], header: Mapping[str, Any]) -> None:
    """Write members in turn; names come last, because what comes is only known when it came."""
    names = []
    with ZipFile(file, "w") as archive:
        for number, (name, array) in enumerate(members):
            names.append(name)
            with archive.open(f"array{number}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.writestr("header.json", json.dumps({**header, "names": names}))


def _members(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with ZipFile(path) as archive:
            header = json.loads(archive.read("header.json"))
            yield "", header
            for number, name in enumerate(header["names"]):
                with archive.open(f"array{number}.npy") as member:
                    yield name, np.lib.format.read_array(member, allow_pickle=False)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ComponentFailure(f"the checkpoint {path} cannot be read ({error}); delete it to fall back.") from error
