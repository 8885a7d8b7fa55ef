"""The words of a round: what travels in Flower messages between a strategy and a node.

Only public names of Flower are used here. A billboard or an update is a dictionary from a parameter's name to an array;
with public groups of tasks there is one per group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedpriv.arrays import Arrays, arrays_from, record_of
from fedpriv.errors import ComponentFailure
from fedpriv.privacy.declaration import Declaration

__all__ = [
    "ALL",
    "METRICS",
    "PROTOCOL",
    "Arrays",
    "Billboards",
    "Reply",
    "Request",
    "RunName",
    "TaskRange",
    "billboards_from_record",
    "record_from_billboards",
    "records_by_group",
    "refuse_other_version",
]

Billboards = dict[str, Arrays]
Ids = NDArray[np.int64]

PROTOCOL = 1
"""Version of what is written here; nodes and servers of another one refuse each other. Before 1 none was said."""

ALL = "all"
"""Name of the one group when tasks are not grouped."""

METRICS = "metrics"
"""Under which group and name a node's contribution to published metrics travels."""


def refuse_other_version(version: int, who: str, here: str) -> None:
    """Refuse somebody who speaks another version of the protocol (ComponentFailure)."""
    if version != PROTOCOL:
        raise ComponentFailure(
            f"{who} speaks version {version} of fedpriv's protocol and {here} version {PROTOCOL}; install the same "
            "version of fedpriv on both."
        )


def record_from_billboards(billboards: Billboards) -> ArrayRecord:
    """Join billboards for Flower's ``arrays``: plain names without groups, ``group/name`` with groups."""
    if set(billboards) == {ALL}:
        return record_of(billboards[ALL])
    return record_of({f"{group}/{name}": value for group, one in billboards.items() for name, value in one.items()})


def records_by_group(record: ArrayRecord, groups: Iterable[str]) -> dict[str, ArrayRecord]:
    """Divide Flower's ``arrays`` into one record per group, for messages that share them; nothing is copied."""
    names = list(groups)
    if names == [ALL] or not any("/" in name for name in record):
        return dict.fromkeys(names, record)
    found = {group: ArrayRecord() for group in names}
    for name, value in record.items():
        group, _, rest = name.partition("/")
        if group in found:
            found[group][rest] = value
    return found


def billboards_from_record(record: ArrayRecord, groups: Iterable[str]) -> Billboards:
    """Undo :func:`record_from_billboards`; plain names start every group from the same arrays."""
    return {group: arrays_from(one) for group, one in records_by_group(record, groups).items()}


@dataclass(frozen=True)
class RunName:
    """Which run of which population a message belongs to; empty for a strategy without a ledger.

    Attributes
    ----------
    population : str
        Whose budget is spent.
    run : str
        The id under which the ledger knows the run.
    """

    population: str = ""
    run: str = ""

    def to_settings(self) -> dict[str, Any]:
        """Return what travels in every message."""
        return {"protocol": PROTOCOL, "population": self.population, "run": self.run}

    def to_content(self) -> RecordDict:
        """Write the question which tasks a node hosts."""
        return RecordDict({"query": ConfigRecord(self.to_settings())})

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> RunName:
        """Read it from a message.

        Raises
        ------
        ComponentFailure
            The sender speaks another version of the protocol.
        """
        refuse_other_version(settings.get("protocol", 0), "the server", "this node")
        return cls(str(settings["population"]), str(settings["run"]))

    @classmethod
    def from_content(cls, content: RecordDict) -> RunName:
        """Read it from the question which tasks a node hosts."""
        return cls.from_settings(_of_kind(content, ConfigRecord).get("query", {}))


@dataclass(frozen=True)
class Request:
    """What the server asks of a node.

    Attributes
    ----------
    round : int
        Round number, from 1; 0 outside training.
    billboards : dict
        Per group, the billboard of this round; empty where :meth:`to_content` is given records.
    tasks : dict
        Per group, the ids of the tasks that shall work, int64 [k].
    reply : {"sum", "rows"}
        The node's clipped sum, or one row per task.
    declared : Declaration
        What the server says about its mechanism: nodes clip by it, and check it by their policy.
    epochs : int
        Length of the local-only baseline; 0 elsewhere.
    of : RunName
        For which run. What a node keeps of another run is not used for it.
    attempt : int
        From 2 on, the same question again: the node did not answer it, or its answer did not arrive. What was done for
        it is not done again.
    """

    round: int
    billboards: Billboards
    tasks: dict[str, Ids]
    reply: Literal["sum", "rows"] = "sum"
    declared: Declaration = field(default_factory=Declaration)
    epochs: int = 0
    of: RunName = field(default_factory=RunName)
    attempt: int = 1

    def to_content(self, records: Mapping[str, ArrayRecord] | None = None) -> RecordDict:
        """Write the request as the content of a Flower message.

        Parameters
        ----------
        records : mapping or None
            Per group, its billboard as a record already: messages to many nodes then share it.
        """
        settings: dict[str, Any] = {"round": self.round, "reply": self.reply, "epochs": self.epochs}
        settings |= {**self.of.to_settings(), **self.declared.to_settings()}
        if self.attempt > 1:
            settings["attempt"] = self.attempt
        content = RecordDict({"request": ConfigRecord(settings)})
        for group, ids in self.tasks.items():
            content[f"tasks/{group}"] = record_of({"ids": ids})
            content[f"billboard/{group}"] = records[group] if records else record_of(self.billboards[group])
        return content

    @classmethod
    def from_content(cls, content: RecordDict) -> Request:
        """Read a request from the content of a Flower message."""
        settings: Any = _of_kind(content, ConfigRecord)["request"]
        of = RunName.from_settings(settings)
        return cls(
            round=int(settings["round"]),
            billboards=_groups(content, "billboard/"),
            tasks=cls.tasks_of(content),
            reply=settings["reply"],
            declared=Declaration.from_settings(settings),
            epochs=int(settings["epochs"]),
            of=of,
            attempt=int(settings.get("attempt", 1)),
        )

    @staticmethod
    def tasks_of(content: RecordDict) -> dict[str, Ids]:
        """Return who is asked, without reading the rest."""
        return {group: record["ids"] for group, record in _groups(content, "tasks/").items()}


def _of_kind(content: RecordDict, kind: type[Any]) -> dict[str, Any]:
    """Return the records of one kind; Flower's own views write every record back while they are made."""
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def _groups(content: RecordDict, prefix: str) -> dict[str, Arrays]:
    return {
        name.removeprefix(prefix): arrays_from(record)
        for name, record in _of_kind(content, ArrayRecord).items()
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
            content[f"update/{group}"] = record_of(arrays)
        for group, ids in self.tasks.items():
            content[f"tasks/{group}"] = record_of({"ids": ids})
        return content

    @classmethod
    def from_content(cls, content: RecordDict) -> Reply:
        """Read a reply from the content of a Flower message; foreign records are ignored."""
        return cls(
            updates=_groups(content, "update/"),
            tasks={group: record["ids"] for group, record in _groups(content, "tasks/").items() if "ids" in record},
            diagnostics=dict(_of_kind(content, MetricRecord).get("diagnostics", {})),
            note=str(_of_kind(content, ConfigRecord).get("note", {}).get("text", "")),
        )


@dataclass(frozen=True)
class TaskRange:
    """Which tasks a node hosts: ids ``first`` to ``first + count``, with the fingerprint of their names.

    ``uses_state`` says whether what its tasks send may depend on rounds before, by its client or its policy,
    ``protected`` whether its data are people's, and ``protocol`` is the version that the node speaks.
    """

    first: int
    count: int
    fingerprint: str
    uses_state: bool = True
    protected: bool = True
    protocol: int = PROTOCOL

    @property
    def last(self) -> int:
        """The id after the last one."""
        return self.first + self.count

    def to_content(self) -> RecordDict:
        """Write the range as the content of a Flower message."""
        return RecordDict({"hosts": ConfigRecord(dict(vars(self)))})

    @classmethod
    def from_content(cls, content: RecordDict) -> TaskRange:
        """Read a range from the content of a Flower message."""
        hosts: Any = _of_kind(content, ConfigRecord)["hosts"]
        version = int(hosts.get("protocol", 0))
        uses_state, protected = (bool(hosts.get(name, True)) for name in ("uses_state", "protected"))
        return cls(int(hosts["first"]), int(hosts["count"]), str(hosts["fingerprint"]), uses_state, protected, version)
