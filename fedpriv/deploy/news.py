"""What the server heard from each node in the last run, for ``fedpriv deploy status``; it decides over nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedpriv.deploy.layout import ServerFolder
from fedpriv.errors import ComponentFailure
from fedpriv.runs.atomic import damage_said, write_bytes

__all__ = ["Heard", "RunNews"]

Heard = Mapping[str, tuple[str, str]]
"""By node: whether it "answered", was "absent", "refused" or "failed", and the reason that it gave."""

_LONGEST = 500


class RunNews:
    """The last run: where it lies, and by node the last answer and the last trouble.

    Parameters
    ----------
    folder : ServerFolder
        Of the deployment.
    """

    def __init__(self, folder: ServerFolder) -> None:
        self._path = folder.path / "state" / "news.json"
        self._found: dict[str, Any] = {}

    def begins(self, out: Path) -> None:
        """Begin with a run; what was heard before is forgotten."""
        self._found = {"run": str(out.resolve()), "began": _now(), "nodes": {}}
        self._write()

    def heard(self, said: Heard, stage: str) -> None:
        """Keep what came of an exchange; a full disk ends no run here."""
        nodes: dict[str, Any] = self._found.setdefault("nodes", {})
        for name, (kind, reason) in said.items():
            node = nodes.setdefault(name, {})
            node["last"] = {"what": kind, "stage": stage, "at": _now()}
            # What an answer notes of training is a policy or a failure; elsewhere, that scores stay on the node.
            if reason and (kind != "answered" or stage.startswith("train")):
                node["trouble"] = {"what": kind, "stage": stage, "reason": reason[:_LONGEST]}
        self._write()

    def read(self) -> dict[str, Any]:
        """Return what was kept; nothing where there was no run.

        Raises
        ------
        ComponentFailure
            The file is damaged.
        """
        if not self._path.exists():
            return {}
        with damage_said(str(self._path)):
            found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            _ = found["run"], found["nodes"]
            return found

    def _write(self) -> None:
        with suppress(ComponentFailure):
            write_bytes(self._path, json.dumps(self._found).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
