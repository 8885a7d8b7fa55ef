"""A folder for sockets: their whole path has room for about a hundred bytes, and Ray reads plain letters only."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedpriv.errors import ComponentFailure

__all__ = ["short_folder"]

_MAX_CHARACTERS = 26
"""Characters for the folder around it: Ray adds 66 of its own to a name of 13 and "/r", and a socket's path has 107."""

_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108 (only to make a folder in that nobody else may enter)


@contextmanager
def short_folder(places: Sequence[str] = _PLACES) -> Iterator[Path]:
    """Yield a new folder with a short plain name that only its owner may enter, and remove it afterwards.

    Parameters
    ----------
    places : sequence of str
        Where it may lie, unless the system's temporary folder (``TMPDIR``) will do.

    Raises
    ------
    ComponentFailure
        No such place can be written to.
    """
    folder = _made([tempfile.gettempdir(), *places])
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made(places: Sequence[str]) -> Path:
    for place in places:
        if len(place) <= _MAX_CHARACTERS and place.isascii():
            try:
                return Path(tempfile.mkdtemp(prefix="fed-", dir=place))
            except OSError:
                continue
    raise ComponentFailure(
        f"sockets need a folder whose path has at most {_MAX_CHARACTERS} plain letters, and none of "
        f"{', '.join(places)} can be written to or is one; set TMPDIR to such a folder, or use "
        "--set run.grid=in-process."
    )
