"""The summary that marks a run as finished, and whether it is still the one that the run wrote."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

from fedpriv.errors import InputError
from fedpriv.runs.atomic import write_bytes
from fedpriv.runs.record import RunRecord, plain

__all__ = [
    "adds_local_noise", "check_summary", "read_record", "read_tasks", "refuse_other_tasks", "what_to_do",
    "write_summary",
]  # fmt: skip


_LOCAL_NOISE = ("noise_at", "noise_support", "noise_query", "noise_adaptation", "noise_validation")
"""Settings with which tasks add local noise: another engine would round another row under the same noise."""


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json``, a :class:`RunRecord`, and before it its digest into ``checkpoints/``.

    It holds scores: private.
    """
    content = (json.dumps(RunRecord.model_validate(plain(summary)).to_json(), indent=2) + "\n").encode()
    write_bytes(_digest_path(folder), hashlib.sha256(content).hexdigest().encode())
    write_bytes(folder / "summary.json", content)


def check_summary(folder: Path) -> None:
    """Refuse a summary that was changed after the run: its guarantee would be read as the run's.

    A run of an earlier version kept no digest, and is believed.

    Raises
    ------
    InputError
        The file is not the one that the run wrote.
    """
    kept = _digest_path(folder)
    path = folder / "summary.json"
    if kept.exists() and kept.read_text(encoding="utf-8") != hashlib.sha256(path.read_bytes()).hexdigest():
        raise InputError(
            f"{path} is not the file that the run wrote, so its guarantee may be untrue; {what_to_do(folder)}."
        )


def read_record(folder: Path) -> RunRecord:
    """Read ``summary.json`` of a finished run.

    Raises
    ------
    InputError
        It is damaged, or not the file that the run wrote.
    """
    path = folder / "summary.json"
    try:
        record = RunRecord.parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(f"{path} is damaged; {what_to_do(folder)}.") from None
    check_summary(folder)
    return record


def refuse_other_tasks(folder: Path, record: RunRecord, fingerprint: str) -> None:
    """Refuse tasks that are not those of a finished run: what it keeps of each is found by its place among them.

    Parameters
    ----------
    folder : Path
        The run folder.
    record : RunRecord
        Its record. The summary of a version before personal states were kept may hold no fingerprint, and is believed.
    fingerprint : str
        Of the names of the tasks at hand, in order.

    Raises
    ------
    InputError
        A task was renamed, added, removed or moved.
    """
    if record.ledger.fingerprint not in (None, fingerprint):
        raise InputError(
            f"the data do not hold the tasks that {folder} was run on, under the same names and in the same order, so "
            "one task would get another's model; put the data file back as it was."
        )


def read_tasks(folder: Path) -> dict[str, Any]:
    """Return what a run of protected data keeps of single tasks in ``private/``; empty if it cannot be seen.

    Raises
    ------
    InputError
        The file is damaged.
    """
    path = folder / "private" / "tasks.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, PermissionError):
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("scores"), dict):
        raise InputError(f"{path} is damaged; restore it from a copy, or delete it: its scores are lost then.")
    return found


def adds_local_noise(config: dict[str, Any]) -> bool:
    """Tell from a configuration by section whether tasks add local noise."""
    settings = {**config.get("client", {}), **config.get("strategy", {})}
    return any(settings.get(name) not in (None, 0, "server") for name in _LOCAL_NOISE)


def what_to_do(folder: Path) -> str:
    """Return what helps where a summary is not, or may not be, what the run wrote."""
    # The rows of last rounds may have to be made again, and the secret of their noise is deleted.
    try:
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "restore it from a copy"
    if adds_local_noise(config):
        return "restore it from a copy: these tasks added local noise, which cannot be made again"
    return "delete it and go on with --resume (in Python: resume=True)"


def _digest_path(folder: Path) -> Path:
    return folder / "checkpoints" / "summary.sha256"
