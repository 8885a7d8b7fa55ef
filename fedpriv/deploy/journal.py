"""What a node keeps on its disk: for each run its states and last answer, and for all time what it ever answered.

Both are written before a reply leaves. The account of what was granted comes first, so that after a crash it may hold
an answer that never left, and never lacks one that did. A journal's file is replaced as a whole, and the one before it
is kept beside it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedpriv.arrays import arrays_from, record_of
from fedpriv.deploy.refusal import Refusal
from fedpriv.errors import ComponentFailure
from fedpriv.files import private_directory, writing
from fedpriv.protocol import Request, RunName
from fedpriv.runs.atomic import damage_said, read_members, write_bytes, write_members
from fedpriv.runtime.answering import Memory, Work
from fedpriv.runtime.node import Node
from fedpriv.runtime.store import StateStore

__all__ = ["LastingMemory", "NodeAccount", "RunJournal", "last_of", "read_last"]

_FORMAT = 1


class LastingMemory(Memory):
    """The memory of a node on a real machine: a round that was answered is answered the same way, or not at all.

    A server that died and goes on asks its last round again, and does not know that it asked before. Whatever else is
    asked for that round, or for an earlier one, is refused and counted: it would be a second answer for one charge.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rounds: dict[str, int] = {}
        """The last round answered, by kind of question."""
        self.refused = 0
        """Questions that were refused because their round was answered."""

    def work(self, kind: str, request: Request) -> Work:
        """Return what was done for a question.

        Raises
        ------
        Refusal
            The node has answered another question for this round, or one for a later round.
        """
        if self.asked_before(kind, request):
            return self._work
        if request.round <= self.rounds.get(kind, -1):
            self.refused += 1
            raise Refusal(
                f"this node has answered round {self.rounds[kind]} of this run, and is asked something else for round "
                f"{request.round}; it answers each round once. Restore the server's run folder and go on from there, "
                "or start a new run."
            )
        return super().work(kind, request)

    def settle(self) -> None:
        """Keep that the question at hand was answered."""
        if self._work.answer is not None and self.question is not None:
            kind, number = self.question
            self.rounds[kind] = max(number, self.rounds.get(kind, -1))


class RunJournal:
    """States, counters and last answer of one node for one run, in one private file.

    Parameters
    ----------
    folder : Path
        Of the node; created when missing.
    of : RunName
        The run.
    """

    def __init__(self, folder: Path, of: RunName) -> None:
        private_directory(folder)
        # A name that a server chose is no name of a file.
        digest = sha256(f"{of.population}\0{of.run}".encode()).hexdigest()[:24]
        self.path = folder / f"run-{digest}.npz"
        self.of = of

    @property
    def previous(self) -> Path:
        """The journal before the newest one."""
        return self.path.with_suffix(".before.npz")

    @property
    def last(self) -> Path:
        """What the personal models of a finished run are made of, beside the states."""
        return last_of(self.path)

    def keep_last(self, request: Request, configuration: str, first: int) -> None:
        """Keep what the last fit was asked with: billboards, which tasks are in which group, and the configuration.

        Raises
        ------
        ComponentFailure
            The disk refuses it.
        """
        header = {"format": _FORMAT, "population": self.of.population, "run": self.of.run, "said": configuration}
        arrays = [
            *(
                (f"billboard/{group}\0{name}", value)
                for group, one in request.billboards.items()
                for name, value in one.items()
            ),
            *((f"tasks/{group}", ids - first) for group, ids in request.tasks.items()),
        ]
        write_members(self.last, arrays, header)

    def exists(self) -> bool:
        """Tell whether the node has answered something for this run."""
        return self.path.exists()

    def write(self, node: Node, memory: LastingMemory, configuration: str) -> None:
        """Write everything, atomically; the reply may leave after that.

        Raises
        ------
        ComponentFailure
            The disk refuses it. Nothing may leave then.
        """
        answered = memory.answered()
        header = {
            "format": _FORMAT,
            "population": self.of.population,
            "run": self.of.run,
            "configuration": configuration,
            "fingerprint": node.tasks.fingerprint,
            "rounds": memory.rounds,
            "refused": memory.refused,
            "question": None if answered is None else answered[0],
            "asked": memory.question,
            "answer": None if answered is None else _described(answered[1]),
        }

        def members() -> Iterator[tuple[str, NDArray[Any]]]:
            if answered is not None:
                for record, arrays in _arrays_of(answered[1]).items():
                    for name, value in arrays.items():
                        yield f"answer/{record}\0{name}", value
            for name, positions, rows in node.store.blocks():
                yield f"positions/{name}", positions
                yield f"rows/{name}", rows

        if self.path.exists():
            with writing(self.previous):
                self.previous.unlink(missing_ok=True)
                os.link(self.path, self.previous)
        write_members(self.path, members(), header)

    def read(self, node: Node, memory: LastingMemory, configuration: str | None) -> None:
        """Give a node what it had when it answered last; a configuration of None is not compared.

        Raises
        ------
        ComponentFailure
            The file is damaged, was written for other tasks, or the run has another configuration now.
        """
        header, members = read_members(self.path)
        with damage_said(f"the journal {self.path}"):
            if (header["population"], header["run"]) != (self.of.population, self.of.run):
                raise ValueError(f"it is of run {header['run']!r}")
            kept, tasks = str(header["configuration"]), str(header["fingerprint"])
            memory.rounds = {str(kind): int(number) for kind, number in header["rounds"].items()}
            memory.refused = int(header["refused"])
        if configuration is not None and kept != configuration:
            raise ComponentFailure(
                f"run {self.of.run!r} has another configuration than when this node first answered it; its states "
                "belong to the first. Start a new run."
            )
        if tasks != node.tasks.fingerprint:
            raise ComponentFailure(
                f"this node hosts other tasks than when it answered run {self.of.run!r}; put its data back, or start "
                "a new run."
            )
        with damage_said(f"the journal {self.path}"):
            answer: dict[str, dict[str, NDArray[Any]]] = {}
            positions: NDArray[np.int64] = np.empty(0, dtype=np.int64)
            for key, values in members:
                kind, _, name = key.partition("/")
                if kind == "answer":
                    record, _, array = name.partition("\0")
                    answer.setdefault(record, {})[array] = values
                elif kind == "positions":
                    positions = values
                else:
                    node.store.restore([(name, positions, values)])
            node.run = self.of
            if header["question"] is not None:
                memory.restore(header["question"], _answer_of(header["answer"], answer))
                memory.question = None if header["asked"] is None else (header["asked"][0], int(header["asked"][1]))


def last_of(journal: Path) -> Path:
    """Return which file holds what the last fit of a journal's run was asked with."""
    return journal.with_name(journal.name.replace("run-", "last-", 1))


def read_last(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[Any]]], dict[str, NDArray[np.int64]]]:
    """Return header, billboards and tasks by group of what :meth:`RunJournal.keep_last` wrote.

    Raises
    ------
    ComponentFailure
        The file is damaged.
    """
    header, members = read_members(path)
    billboards: dict[str, dict[str, NDArray[Any]]] = {}
    tasks: dict[str, NDArray[np.int64]] = {}
    with damage_said(str(path)):
        _ = header["population"], header["run"], header["said"]
        for key, value in members:
            kind, _, rest = key.partition("/")
            group, _, name = rest.partition("\0")
            if kind == "billboard":
                billboards.setdefault(group, {})[name] = value
            else:
                tasks[group] = value
    return header, billboards, tasks


class NodeAccount:
    """What the tasks of a node ever granted, whatever population, run, server or key asked.

    Parameters
    ----------
    path : Path
        A private file that no run resets. Tasks are known by their names there, so that it holds when they move.

    Raises
    ------
    ComponentFailure
        The file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._granted: dict[str, dict[str, int]] = {}
        self._last: dict[str, dict[str, int]] = {}
        if not path.exists():
            return
        with damage_said(str(path)):
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != _FORMAT:
                raise ValueError(f"it has format {found['format']!r}")
            for kept, name in ((self._granted, "granted"), (self._last, "last_granted")):
                for kind, counts in found[name].items():
                    kept[kind] = {str(task): int(count) for task, count in counts.items()}

    def give(self, store: StateStore, names: tuple[str, ...]) -> None:
        """Let a node's store hold what these tasks granted before, and nothing else."""
        store.granted.clear()
        store.last_granted.clear()
        for kind, counts in self._granted.items():
            store.grants(kind)[:] = [counts.get(name, 0) for name in names]
        for kind, rounds in self._last.items():
            store.last_grants(kind)[:] = [rounds.get(name, 0) for name in names]

    def take(self, store: StateStore, names: tuple[str, ...]) -> None:
        """Write what a node's store holds, durably; counts never go down.

        Raises
        ------
        ComponentFailure
            The disk refuses it. Nothing may leave then.
        """
        granted, last = _raised(self._granted, store.granted, names), _raised(self._last, store.last_granted, names)
        if (granted, last) == (self._granted, self._last) and self.path.exists():
            return
        found = {"format": _FORMAT, "granted": granted, "last_granted": last}
        write_bytes(self.path, json.dumps(found).encode())
        self._granted, self._last = granted, last  # an answer that the disk refused to count does not leave, nor count

    def counts(self, name: str) -> dict[str, int]:
        """Return how often a task granted each kind of release (as JSON)."""
        return {kind: counts[name] for kind, counts in self._granted.items() if counts.get(name)}

    @property
    def names(self) -> list[str]:
        """Tasks that granted anything, in the order in which they came."""
        return list(dict.fromkeys(name for counts in self._granted.values() for name in counts))


def _raised(
    kept: Mapping[str, Mapping[str, int]], counted: Mapping[str, NDArray[np.int64]], names: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    """Return counts by kind and task, none below what is kept."""
    found = {kind: dict(counts) for kind, counts in kept.items()}
    for kind, values in counted.items():
        mine = found.setdefault(kind, {})
        mine |= {
            name: max(value, mine.get(name, 0)) for name, value in zip(names, values.tolist(), strict=True) if value
        }
    return found


def _arrays_of(content: RecordDict) -> dict[str, dict[str, NDArray[Any]]]:
    return {name: arrays_from(record) for name, record in content.items() if isinstance(record, ArrayRecord)}


def _described(content: RecordDict) -> list[Any]:
    """Return everything of an answer that is no array, as JSON can hold it, in order."""
    found: list[Any] = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            found.append([name, "arrays", None])
        else:
            kind = "metrics" if isinstance(record, MetricRecord) else "texts"
            found.append([name, kind, {key: _plain(value) for key, value in record.items()}])
    return found


def _answer_of(described: list[Any], arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> RecordDict:
    content = RecordDict()
    for name, kind, values in described:
        if kind == "arrays":
            content[name] = record_of(arrays.get(name, {}))
        else:
            back = {
                key: base64.b64decode(value["bytes"]) if isinstance(value, dict) else value
                for key, value in values.items()
            }
            content[name] = MetricRecord(cast(Any, back)) if kind == "metrics" else ConfigRecord(cast(Any, back))
    return content


def _plain(value: Any) -> Any:
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
