"""The words of a round: what travels in Flower messages between a strategy and a node.

Only public names of Flower are used here. A billboard or an update is a dictionary from a parameter's name to an array;
with public groups of tasks there is one per group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

__all__ = [
    "ALL",
    "Arrays",
    "Billboards",
    "Reply",
    "Request",
    "TaskRange",
    "billboards_from_record",
    "record_from_billboards",
    "records_from_billboards",
]

Arrays = dict[str, NDArray[Any]]
Billboards = dict[str, Arrays]
Ids = NDArray[np.int64]

ALL = "all"
"""Name of the one group when tasks are not grouped."""


def _to_record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()})


def _to_arrays(record: ArrayRecord) -> Arrays:
    return {name: value.numpy() for name, value in record.items()}


def records_from_billboards(billboards: Billboards) -> dict[str, ArrayRecord]:
    """Return one record per group, for messages that share them."""
    return {group: _to_record(arrays) for group, arrays in billboards.items()}


def record_from_billboards(billboards: Billboards) -> ArrayRecord:
    """Join billboards for Flower's ``arrays``: plain names without groups, ``group/name`` with groups."""
    if set(billboards) == {ALL}:
        return _to_record(billboards[ALL])
    return _to_record({f"{group}/{name}": value for group, one in billboards.items() for name, value in one.items()})


def billboards_from_record(record: ArrayRecord, groups: Iterable[str]) -> Billboards:
    """Undo :func:`record_from_billboards`; plain names start every group from the same arrays."""
    arrays = _to_arrays(record)
    names = list(groups)
    if not any("/" in name for name in arrays):
        return {group: dict(arrays) for group in names}
    return {
        group: {name.removeprefix(f"{group}/"): value for name, value in arrays.items() if name.startswith(f"{group}/")}
        for group in names
    }


@dataclass(frozen=True)
class Request:
    """What the server asks of a node.

    Attributes
    ----------
    round : int
        Round number, from 1; 0 outside training.
    billboards : dict
        Per group, the billboard of this round.
    tasks : dict
        Per group, the ids of the tasks that shall work, int64 [k].
    reply : {"sum", "rows"}
        The node's clipped sum, or one row per task.
    clipping_norm, noise_multiplier : float
        What the server declares about its mechanism: nodes clip by the first and check both by their policy.
    epochs : int
        Length of the local-only baseline; 0 elsewhere.
    fixed_size : bool
        Whether the server draws cohorts of fixed size, for which add/remove does not hold.
    noise_at : {"server", "node"}
        Who adds the noise: with "node" every task's row gets its own before it leaves.
    stream : tuple of int
        Declared where noise is correlated over rounds: number of rounds, participations of a task at most, rounds
        between two of them at least, bands. Empty if the noise is drawn for this round alone.
    """

    round: int
    billboards: Billboards
    tasks: dict[str, Ids]
    reply: Literal["sum", "rows"] = "sum"
    clipping_norm: float = 1.0
    noise_multiplier: float = 0.0
    epochs: int = 0
    fixed_size: bool = False
    stream: tuple[int, ...] = ()
    noise_at: Literal["server", "node"] = "server"

    def to_content(self, records: Mapping[str, ArrayRecord] | None = None) -> RecordDict:
        """Write the request as the content of a Flower message.

        Parameters
        ----------
        records : mapping or None
            Per group, its billboard as a record already: messages to many nodes then share it.
        """
        settings: dict[str, Any] = {
            "round": self.round,
            "reply": self.reply,
            "clipping_norm": self.clipping_norm,
            "noise_multiplier": self.noise_multiplier,
            "epochs": self.epochs,
            "fixed_size": self.fixed_size,
            "noise_at": self.noise_at,
        }
        if self.stream:
            settings["stream"] = list(self.stream)
        content = RecordDict({"request": ConfigRecord(settings)})
        for group, ids in self.tasks.items():
            content[f"tasks/{group}"] = _to_record({"ids": ids})
            content[f"billboard/{group}"] = records[group] if records else _to_record(self.billboards[group])
        return content

    @classmethod
    def from_content(cls, content: RecordDict) -> Request:
        """Read a request from the content of a Flower message."""
        settings: Any = content.config_records["request"]
        tasks = _groups(content, "tasks/")
        return cls(
            round=int(settings["round"]),
            billboards=_groups(content, "billboard/"),
            tasks={group: record["ids"] for group, record in tasks.items()},
            reply=settings["reply"],
            clipping_norm=float(settings["clipping_norm"]),
            noise_multiplier=float(settings["noise_multiplier"]),
            epochs=int(settings["epochs"]),
            fixed_size=bool(settings.get("fixed_size", False)),
            stream=tuple(int(value) for value in settings.get("stream", ())),
            noise_at="node" if settings.get("noise_at") == "node" else "server",
        )


def _groups(content: RecordDict, prefix: str) -> dict[str, Arrays]:
    return {
        name.removeprefix(prefix): _to_arrays(record)
        for name, record in content.array_records.items()
        if name.startswith(prefix)
    }


@dataclass(frozen=True)
class Reply:
    """What a node answers.

    Attributes
    ----------
    updates : dict
        Per group, the node's clipped sum (float64, [...]) or its rows ([k, ...]).
    tasks : dict
        Per group, the task ids of the rows; empty for sums.
    diagnostics : dict
        Numbers for the experimenter only; never released.
    note : str
        The first failure or refusal in words, for the experimenter only.
    """

    updates: dict[str, Arrays] = field(default_factory=dict)
    tasks: dict[str, Ids] = field(default_factory=dict)
    diagnostics: Mapping[str, float | int | list[float] | list[int]] = field(default_factory=dict)
    note: str = ""

    def to_content(self) -> RecordDict:
        """Write the reply as the content of a Flower message."""
        content = RecordDict({"diagnostics": MetricRecord(dict(self.diagnostics))})
        if self.note:
            content["note"] = ConfigRecord({"text": self.note})
        for group, arrays in self.updates.items():
            content[f"update/{group}"] = _to_record(arrays)
        for group, ids in self.tasks.items():
            content[f"tasks/{group}"] = _to_record({"ids": ids})
        return content

    @classmethod
    def from_content(cls, content: RecordDict) -> Reply:
        """Read a reply from the content of a Flower message; foreign records are ignored."""
        return cls(
            updates=_groups(content, "update/"),
            tasks={group: record["ids"] for group, record in _groups(content, "tasks/").items() if "ids" in record},
            diagnostics=dict(content.metric_records.get("diagnostics", MetricRecord())),
            note=str(content.config_records.get("note", ConfigRecord()).get("text", "")),
        )


@dataclass(frozen=True)
class TaskRange:
    """Which tasks a node hosts: ids ``first`` to ``first + count``, with the fingerprint of their names."""

    first: int
    count: int
    fingerprint: str

    def to_content(self) -> RecordDict:
        """Write the range as the content of a Flower message."""
        return RecordDict(
            {"hosts": ConfigRecord({"first": self.first, "count": self.count, "fingerprint": self.fingerprint})}
        )

    @classmethod
    def from_content(cls, content: RecordDict) -> TaskRange:
        """Read a range from the content of a Flower message."""
        hosts: Any = content.config_records["hosts"]
        return cls(int(hosts["first"]), int(hosts["count"]), str(hosts["fingerprint"]))
