"""Journals of many runs pile up on a node: those of the last few are kept, and the others are remembered by name.

A run whose journal is gone must not be answered again: the node no longer knows what it answered, so it could answer
one round twice.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from fedpriv.deploy.journal import last_of
from fedpriv.files import writing
from fedpriv.runs.atomic import damage_said, write_bytes

__all__ = ["KEPT_RUNS", "OldRuns"]

_LOG = logging.getLogger("fedpriv")
KEPT_RUNS = 8
"""So many runs keep their journals, and with them the personal models."""


class OldRuns:
    """Which journals a node deleted.

    Parameters
    ----------
    folder : Path
        Where its journals lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "deleted.json"

    def deleted(self, journal: Path) -> bool:
        """Tell whether a journal was deleted, or is about to be.

        Raises
        ------
        ComponentFailure
            The list is damaged.
        """
        return journal.name in self._names()

    def make_room(self) -> None:
        """Delete the journals of all but the newest :data:`KEPT_RUNS` runs; what is deleted is written down first.

        Raises
        ------
        ComponentFailure
            The disk refuses it.
        """
        found = [path for path in self._folder.glob("run-*.npz") if not path.name.endswith(".before.npz")]
        found.sort(key=lambda path: path.stat().st_mtime_ns)
        old = found[:-KEPT_RUNS]
        if not old:
            return
        names = self._names()
        write_bytes(self._path, json.dumps([*names, *(path.name for path in old if path.name not in names)]).encode())
        for path in old:
            with writing(path):
                path.unlink(missing_ok=True)
                path.with_suffix(".before.npz").unlink(missing_ok=True)
                last_of(path).unlink(missing_ok=True)
        _LOG.warning("%d journals of old runs were deleted; those of the last %d runs are kept", len(old), KEPT_RUNS)

    def _names(self) -> list[str]:
        if not self._path.exists():
            return []
        with damage_said(str(self._path)):
            return [str(name) for name in json.loads(self._path.read_text(encoding="utf-8"))]
