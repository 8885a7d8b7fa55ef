"""Files that are whole or not there: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure

__all__ = ["pack", "sync_directory", "unpack", "write_bytes"]


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file durably and atomically: after a crash it is the old one or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(aside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
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
    names = list(arrays)
    text = json.dumps({**header, "names": names})
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        header=np.frombuffer(text.encode(), dtype=np.uint8),
        **{f"array{number}": arrays[name] for number, name in enumerate(names)},
    )
    return buffer.getvalue()


def unpack(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what :func:`pack` made.

    Raises
    ------
    ComponentFailure
        The file is missing or damaged.
    """
    try:
        # Read at once: numpy would leave a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            return {name: stored[f"array{number}"] for number, name in enumerate(header["names"])}, header
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ComponentFailure(f"the checkpoint {path} cannot be read ({error}); delete it to fall back.") from error
