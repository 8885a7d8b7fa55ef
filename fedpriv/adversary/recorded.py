"""Sightings on the disk: what a server saw before its noise, as private as the data that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpriv.adversary.games import GameResults
from fedpriv.adversary.observer import Sighting
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.files import private_directory
from fedpriv.protocol import Billboards
from fedpriv.runs.atomic import pack, unpack, write_bytes

__all__ = ["Scores", "private_folder", "read_scores", "read_sighting", "record", "record_scores", "recorded_rounds"]

Scores = dict[str, dict[str, dict[str, NDArray[np.float64]]]]
"""By set, attack and side: one number per game, higher for what looks like a member."""

_FORMAT = 1
_NOTE = """\
PRIVATE. These files hold what tasks sent before the server added any noise: as good as their data. No guarantee of
this run covers them. They are here because [attack] asked to record; delete the folder when the attacks are done.
"""


def private_folder(run: Path) -> Path:
    """Return where a run keeps what only a malicious server would have; only its owner may look inside."""
    folder = run / "private"
    if not folder.exists():
        private_directory(folder)
        write_bytes(folder / "PRIVATE.txt", _NOTE.encode())
    return folder


def record(sighting: Sighting, run: Path, limit: int) -> int:
    """Write a sighting, as many rows of it as fit.

    Parameters
    ----------
    run : Path
        The run folder.
    limit : int
        Bytes that all sightings of the run may take together.

    Returns
    -------
    int
        Rows that were left out.
    """
    folder = private_folder(run)
    path = folder / f"seen-{sighting.round:06d}.npz"
    taken = sum(file.stat().st_size for file in folder.glob("seen-*.npz") if file != path)
    fixed = sum(value.nbytes for arrays in sighting.billboards.values() for value in arrays.values())
    each = max((sum(v.nbytes for v in one.values()) for one in sighting.billboards.values()), default=0)
    room = max(0, limit - taken - fixed) // max(1, each * max(1, len(sighting.updates)))
    arrays, left_out = {}, 0
    for group, named in sighting.billboards.items():
        arrays.update({f"billboard/{group}/{name}": value for name, value in named.items()})
    for group, updates in sighting.updates.items():
        count = max((len(value) for value in updates.values()), default=0)
        left_out += max(0, count - room)
        # Rows come in float64, as they were clipped; the billboard's type is what was computed in.
        types = {name: value.dtype for name, value in sighting.billboards[group].items()}
        arrays.update({f"update/{group}/{name}": value[:room].astype(types[name]) for name, value in updates.items()})
        ids = sighting.tasks[group]
        arrays[f"tasks/{group}"] = ids[:room] if sighting.kind == "rows" else ids
    header = {"format": _FORMAT, "round": sighting.round, "kind": sighting.kind, "released": False}
    write_bytes(path, pack(arrays, header))
    return left_out


def recorded_rounds(run: Path) -> list[int]:
    """Return the rounds of which a run folder holds a sighting."""
    return sorted(int(path.stem.removeprefix("seen-")) for path in (run / "private").glob("seen-*.npz"))


def read_sighting(run: Path, number: int) -> Sighting:
    """Read what :func:`record` wrote.

    Raises
    ------
    InputError
        The round was not recorded.
    ComponentFailure
        The file is damaged.
    """
    path = run / "private" / f"seen-{number:06d}.npz"
    if not path.exists():
        known = recorded_rounds(run)
        raise InputError(
            f"round {number} of {run} was not recorded; recorded are {', '.join(map(str, known)) or 'none'}: choose "
            "rounds with attack.rounds before a run starts."
        )
    try:
        arrays, header = unpack(path)
    except ComponentFailure:
        raise ComponentFailure(
            f"{path} is damaged, so the rows of round {number} are lost; delete it, and run again (into another "
            "folder) to record them."
        ) from None
    billboards: Billboards = {}
    updates: Billboards = {}
    tasks = {}
    for name, value in arrays.items():
        kind, _, rest = name.partition("/")
        group, _, own = rest.partition("/")
        if kind == "tasks":
            tasks[rest] = np.asarray(value, dtype=np.int64)
        else:
            (billboards if kind == "billboard" else updates).setdefault(group, {})[own] = value
    return Sighting(int(header["round"]), header["kind"], billboards, tasks, updates)


def record_scores(played: Mapping[str, GameResults], run: Path, number: int) -> None:
    """Write the score of every game of one round, so that games of several runs can be judged together."""
    arrays = {
        f"{name}/{attack}/{side}": values
        for name, one in played.items()
        for attack, sides in one.scores.items()
        for side, values in sides.items()
    }
    header = {"format": _FORMAT, "round": number, "released": False}
    write_bytes(private_folder(run) / f"scores-{number:06d}.npz", pack(arrays, header))


def read_scores(run: Path, number: int) -> Scores:
    """Read what :func:`record_scores` wrote.

    Raises
    ------
    InputError
        No games were played in this round.
    ComponentFailure
        The file is damaged.
    """
    path = run / "private" / f"scores-{number:06d}.npz"
    if not path.exists():
        raise InputError(
            f"{run} holds no games of round {number}; play them in a new run with attack.rounds = [{number}], or with "
            "`fedpriv attack` if rows of this round were recorded."
        )
    found: Scores = {}
    for key, values in unpack(path)[0].items():
        name, attack, side = key.split("/")
        found.setdefault(name, {}).setdefault(attack, {})[side] = np.asarray(values, dtype=np.float64)
    return found
