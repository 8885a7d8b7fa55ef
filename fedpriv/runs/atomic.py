"""Files written atomically: beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure
from fedpriv.files import replacing, writing

__all__ = ["damage_said", "pack", "read_members", "unpack", "write_bytes", "write_members"]


def write_bytes(path: Path, content: bytes, *, public: bool = False) -> None:
    """Write a file durably and atomically: after a crash it is the old one or the new one.

    Only a ``public`` file may be read by others, if the umask lets them: scores of single tasks are for their owner.

    Raises
    ------
    ComponentFailure
        The disk is full, or the file cannot be written.
    """
    with writing(path), replacing(path, private=not public) as file:
        file.write(content)


def write_members(path: Path, members: Iterable[tuple[str, NDArray[Any]]], header: Mapping[str, Any]) -> None:
    """Write arrays of any name and a JSON header as one private ``.npz`` file, durably and atomically.

    One array at a time, so that they may be larger than the memory. Raises as :func:`write_bytes` does.
    """
    with writing(path), replacing(path, private=True) as file:
        _write_npz(file, members, header)


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
    """Turn what reading does with a file (``what``) that does not hold what was written into a ComponentFailure."""
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
        raise ComponentFailure(f"the checkpoint {path} cannot be read ({error}); restore it from a copy.") from error
