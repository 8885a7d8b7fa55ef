"""Files: written atomically, private where they hold scores of single tasks; a full disk is said in a sentence."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedpriv.errors import ComponentFailure

__all__ = ["alone", "kept_secret", "private_directory", "replacing", "sync_directory", "write_private_line", "writing"]


def kept_secret(path: Path) -> bytes:
    """Return 32 random bytes that a private file keeps; made when they are first asked for.

    Raises
    ------
    ComponentFailure
        The file is damaged, or cannot be written.
    """
    if not path.exists():
        with writing(path), tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent) as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileExistsError):  # somebody else was faster, and then theirs is the secret
                os.link(file.name, path)
            sync_directory(path.parent)
    found = path.read_bytes()
    if len(found) != 32 or not any(found):
        raise ComponentFailure(f"{path}, which holds a secret, is damaged; restore it from a copy.")
    return found


def private_directory(path: Path) -> None:
    """Make a folder that only its owner may look into; one that is there already becomes one."""
    with writing(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077 and path.stat().st_uid == os.geteuid():
            path.chmod(0o700)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a disk that refuses to take a file into a sentence.

    Raises
    ------
    ComponentFailure
        The disk is full, or the file cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            cause = "the disk is full, or the user's share of it; make room"
        else:
            cause = f"{error.strerror or error}; remove the cause"
        raise ComponentFailure(
            f"{path} cannot be written: {cause}, then go on with --resume. What was there before stays."
        ) from None


@contextmanager
def replacing(path: Path, *, private: bool) -> Iterator[BinaryIO]:
    """Write a file aside, flush it, and put it in place: after a crash it is the old one or the new one.

    A ``private`` one is for its owner alone, as everything is that tells of single tasks.

    Raises
    ------
    OSError
        The file cannot be written (:func:`writing` says it); an older one stays as it was.
    """
    aside, mode = path.with_name(f".{path.name}.{os.getpid()}.tmp"), 0o600 if private else 0o666
    try:
        aside.unlink(missing_ok=True)  # what a process of the same number left may have another mode
        with open(aside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
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


@contextmanager
def alone(path: Path, told: str, seconds: float = 0.0) -> Iterator[None]:
    """Let no other process pass here while the block runs, by a lock on a private file.

    Parameters
    ----------
    path : Path
        The file; made when missing. Its folder is there.
    told : str
        What whoever comes second is told.
    seconds : float
        For how long to wait for the first one to end.

    Raises
    ------
    ComponentFailure
        Another process has the lock.
    """
    with writing(path):
        file = open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
    with file:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= end:
                    raise ComponentFailure(told) from None
            time.sleep(0.1)
        yield


def write_private_line(path: Path, content: bytes) -> None:
    """Write a small private file that always has the same length: whole and flushed the first time, then in place.

    In place it is not flushed: after a power failure an older line may be there, never a part of one, nor nothing.

    Raises
    ------
    ComponentFailure
        It cannot be written.
    """
    with writing(path):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            with replacing(path, private=True) as file:
                file.write(content)
            return
        try:
            os.pwrite(handle, content, 0)
        finally:
            os.close(handle)
