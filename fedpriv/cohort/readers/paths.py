"""Files and folders that may not be there, or not for this user."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal

from fedpriv.errors import InputError

__all__ = ["at", "inside"]


def at(path: Path) -> Literal["file", "folder"] | None:
    """Return what is at a path, None where nothing is.

    Raises
    ------
    InputError
        The operating system does not say it to this user.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    return "folder" if stat.S_ISDIR(mode) else "file"


def inside(folder: Path) -> list[Path]:
    """Return what lies in a folder, in the order of its names.

    Raises
    ------
    InputError
        It is not there, no folder, or not for this user to read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path.name[:200]!r} cannot be read: {error.strerror}; give a path that is there and that you may read."
    )
