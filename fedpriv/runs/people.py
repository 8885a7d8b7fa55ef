"""Who the tasks were, and what they held, when a run began: its states are found by the tasks' places."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedpriv.errors import InputError
from fedpriv.runs.atomic import damage_said, write_bytes
from fedpriv.runs.folder import read_config

__all__ = ["keep_people", "refuse_other_people"]

_OTHER = {
    "names": "the data do not hold the tasks that {run} was started with, under the same names and in the same order, "
    "so one task would go on with another's state; restore {data}, or start a new run in another folder, also for a "
    "new version of the population.",
    "groups": "the tasks' public groups are not those that {run} was started with, so noise and billboards would be "
    "those of other tasks; restore {data}, or start a new run in another folder.",
    "values": "the tasks hold other examples than {run} was started with, under the same names, so it would be no run "
    "on either; restore {data}, or start a new run in another folder.",
}
"""What is said where one of these is another now."""


def keep_people(run: Path, now: Mapping[str, str]) -> None:
    """Keep digests of the tasks where only the owner reads them; refuse other ones than were kept.

    Parameters
    ----------
    run : Path
        The run folder. One that an earlier version began keeps nothing, and goes on.
    now : mapping of str to str
        Digests by what they are of: ``names``, ``groups`` and ``values``.

    Raises
    ------
    InputError
        The tasks are others, or hold other examples.
    """
    kept = refuse_other_people(run, now)
    if kept is None:
        write_bytes(_path(run), json.dumps(dict(now)).encode())


def refuse_other_people(run: Path, now: Mapping[str, str]) -> dict[str, str] | None:
    """Refuse other tasks, or other examples of them, than a run kept digests of; None if it kept none.

    Raises
    ------
    InputError
        As :func:`keep_people`.
    """
    path = _path(run)
    if not path.exists():
        return None
    with damage_said(str(path)):
        kept: dict[str, str] = dict(json.loads(path.read_text(encoding="utf-8")))
    for what, said in _OTHER.items():
        if now.get(what) != kept.get(what):
            data = read_config(run).get("data", {}).get("file", "the data")
            raise InputError(said.format(run=run, data=data))
    return kept


def _path(run: Path) -> Path:
    return run / "checkpoints" / "people.json"
