"""What a run needs to go on: a checkpoint after every round, a snapshot of personal states every few rounds.

Personal states between two snapshots are not written: they are trained again from the recorded billboards and the
recorded participants, which gives the same states because mini-batches are keyed. Nothing is released twice by that.
This folder holds personal states, secret coins, and the last noise where noise is correlated over rounds: it belongs to
the experimenter and must not be shared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.files import private_directory, sync_directory, writing
from fedpriv.privacy.journal import Checkpoint
from fedpriv.privacy.metrics import MetricsRelease
from fedpriv.runs.atomic import damage_said, pack, read_members, unpack, write_bytes, write_members

__all__ = ["Block", "CheckpointStore", "read_counts", "read_states", "write_states"]

_FORMAT = 1
Block = tuple[str, NDArray[np.int64], NDArray[Any]]
"""A name, positions [k], and their rows [k, ...]: how states travel into checkpoints and back."""
_PENDING = "pending.npz"
_PENDING_METRICS = "metrics-pending.json"


class CheckpointStore:
    """Checkpoints in a folder; implements :class:`fedpriv.privacy.journal.Storage`.

    Parameters
    ----------
    directory : Path
        Created when missing, for its owner alone: it holds who took part, personal models and secrets.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not directory.is_dir():
            private_directory(directory)

    @property
    def folder(self) -> Path:
        """The run's folder, in which this one lies."""
        return self.directory.parent

    @property
    def head_path(self) -> Path:
        """The newest head that the run has seen of its ledger."""
        return self.directory / "ledger.head"

    def stage(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint under its pending name, durably."""
        arrays: dict[str, NDArray[Any]] = {}
        for kind, groups in (("billboard", checkpoint.billboards), ("state", checkpoint.state)):
            for group, named in groups.items():
                arrays.update({f"{kind}/{group}/{name}": value for name, value in named.items()})
        arrays.update({f"sampled/{group}": ids for group, ids in checkpoint.sampled.items()})
        arrays.update({f"participations/{name}": counts for name, counts in checkpoint.participations.items()})
        header: dict[str, Any] = {"format": _FORMAT, "round": checkpoint.round}
        if checkpoint.clipping_norm is not None:
            header["clipping_norm"] = checkpoint.clipping_norm
        if checkpoint.noise:
            # First, so that a checkpoint that is there has its noise; that of the round before stays until this round
            # is promoted. It is large and needed once, so old checkpoints do without it.
            about = {**header, "digest": checkpoint.digest()}
            write_bytes(self._noise_path(checkpoint.round), pack(checkpoint.noise, about))
        write_bytes(self.directory / _PENDING, pack(arrays, header))

    def promote(self, round: int) -> None:
        """Rename the pending checkpoint to its final name, and forget the noise that earlier ones needed."""
        with writing(self._path(round)):
            (self.directory / _PENDING).replace(self._path(round))
            sync_directory(self.directory)
        for old in (round - 1, round - 2):  # two, since a crash may have come between renaming and this
            self._noise_path(old).unlink(missing_ok=True)

    def forget_noise(self) -> None:
        """Delete the noise that rounds to come would need: there are none, and it would undo what it protects."""
        for path in list(self.directory.glob("noise-*.npz")):
            path.unlink()

    def pending(self) -> Checkpoint | None:
        """Return the checkpoint that was staged but not promoted, if there is one; without its noise."""
        path = self.directory / _PENDING
        return self._read(path) if path.exists() else None

    def discard_pending(self) -> None:
        """Throw away a staged checkpoint that was never charged, so never published."""
        (self.directory / _PENDING).unlink(missing_ok=True)

    def stage_measured(self, measured: MetricsRelease) -> None:
        """Write metrics under a pending name, durably."""
        write_bytes(self.directory / _PENDING_METRICS, measured.to_json().encode())

    def promote_measured(self, round: int) -> None:
        """Rename pending metrics to their final name."""
        path = self.directory / f"metrics-{round:06d}.json"
        with writing(path):
            (self.directory / _PENDING_METRICS).replace(path)
            sync_directory(self.directory)

    def pending_measured(self) -> MetricsRelease | None:
        """Return the metrics that were staged but not promoted, if there are any."""
        path = self.directory / _PENDING_METRICS
        return _metrics_in(path) if path.exists() else None

    def discard_pending_measured(self) -> None:
        """Throw away staged metrics that were never charged, so never published."""
        (self.directory / _PENDING_METRICS).unlink(missing_ok=True)

    def measured(self) -> list[MetricsRelease]:
        """Return the published metrics, by round."""
        found = (path for path in self.directory.iterdir() if re.fullmatch(r"metrics-\d+\.json", path.name))
        return [_metrics_in(path) for path in sorted(found)]

    def rounds(self) -> list[int]:
        """Return the rounds whose checkpoint is here, ascending."""
        return self._numbers(r"round-(\d+)\.npz")

    def load(self, round: int) -> Checkpoint:
        """Read the checkpoint after a round; with its noise, if it is the last one."""
        checkpoint = self._read(self._path(round))
        with damage_said(f"the checkpoint {self._path(round)}"):
            if checkpoint.round != round:
                raise ValueError(f"it is of round {checkpoint.round}")
        if not self._noise_path(round).exists():
            return checkpoint
        noise, header = unpack(self._noise_path(round))
        # What a draw left that was thrown away belongs to no checkpoint.
        return replace(checkpoint, noise=noise) if header["digest"] == checkpoint.digest() else checkpoint

    def snapshots(self) -> list[int]:
        """Return the rounds after which personal states were written, ascending; only whole snapshots."""
        return self._numbers(r"states-(\d+)\.complete")

    def seal(self, round: int) -> None:
        """Declare a snapshot whole, then drop what it replaces."""
        write_bytes(self.directory / f"states-{round:06d}.complete", b"")
        for path in list(self._older(round)):
            path.unlink()

    def _numbers(self, pattern: str) -> list[int]:
        found = (re.fullmatch(pattern, path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def keep_last_states(self, rounds: int, write: Callable[[Path, int], None]) -> tuple[Path, int]:
        """Write the states after the last fit, which follows the last round; return where they are.

        They are numbered as if there was one more round, so a run that is killed before its summary goes on without
        them. The summary, which comes later, says that they are whole.

        Parameters
        ----------
        rounds : int
            Rounds of the run.
        write : callable
            Writes all states into a folder, under a number.
        """
        for path in _state_files(self.directory, rounds + 1):  # other nodes may have written them
            path.unlink()
        where = self.directory.resolve(), rounds + 1
        write(*where)
        return where

    def last_states(self, rounds: int) -> tuple[Path, int] | None:
        """Return where the states after the last fit of a finished run are; None if it kept none."""
        return (self.directory.resolve(), rounds + 1) if _state_files(self.directory, rounds + 1) else None

    def _older(self, round: int) -> Iterator[Path]:
        for path in self.directory.iterdir():
            match = re.match(r"(round|states|noise)-(\d+)", path.name)
            if match and int(match[2]) < round:
                yield path

    def _path(self, round: int) -> Path:
        return self.directory / f"round-{round:06d}.npz"

    def _noise_path(self, round: int) -> Path:
        return self.directory / f"noise-{round:06d}.npz"

    @staticmethod
    def _read(path: Path) -> Checkpoint:
        arrays, header = unpack(path)
        billboards: dict[str, dict[str, NDArray[Any]]] = {}
        state: dict[str, dict[str, NDArray[np.float64]]] = {}
        sampled: dict[str, NDArray[np.int64]] = {}
        participations: dict[str, NDArray[np.int32]] = {}
        with damage_said(f"the checkpoint {path}"):
            for key, value in arrays.items():
                kind, group, *rest = key.split("/", 2)
                if kind in ("billboard", "state"):
                    (billboards if kind == "billboard" else state).setdefault(group, {})[rest[0]] = value
                elif kind == "participations":
                    participations[group] = value
                else:
                    sampled[group] = value
            norm = header.get("clipping_norm")
            return Checkpoint(
                int(header["round"]), billboards, sampled, participations, clipping_norm=norm, state=state
            )


def _metrics_in(path: Path) -> MetricsRelease:
    with damage_said(f"the checkpoint {path}"):
        return MetricsRelease.from_json(path.read_text(encoding="utf-8"))


def write_states(directory: Path, round: int, first: int, blocks: Iterable[Block]) -> None:
    """Write the personal states of one node's tasks, ids ``first`` on, as they are after a round.

    Parameters
    ----------
    directory : Path
        The checkpoints of a run.
    round, first : int
        After which round, and the id of the node's first task.
    blocks : iterable of (name, positions [k], rows [k, ...])
        Read one after the other, so that states larger than the memory can be written.
    """

    def members() -> Iterator[tuple[str, NDArray[Any]]]:
        for name, positions, rows in blocks:
            yield f"positions/{name}", positions
            yield f"rows/{name}", rows

    path = directory / f"states-{round:06d}-{first:09d}.npz"
    write_members(path, members(), {"format": _FORMAT, "round": round, "first": first})


def read_states(directory: Path, round: int, first: int = 0) -> Iterator[Block]:
    """Read a snapshot of the whole population block by block, whichever nodes wrote it.

    Positions count from the task ``first``; those of tasks before it are negative.

    Raises
    ------
    ComponentFailure
        A file is missing or damaged.
    """
    for path in _state_files(directory, round):
        yield from _blocks(path, first)


def read_counts(directory: Path, round: int, num_tasks: int) -> NDArray[np.int64] | None:
    """Return how often each task took part up to a snapshot, int64 [m]; None if it does not say for every task.

    A node counts a task that it let take part, whether or not its update was of use.
    """
    counts = np.full(num_tasks, -1, dtype=np.int64)
    for path in _state_files(directory, round):
        # Only as far as needed: the states themselves, which come later, may be large.
        with damage_said(f"the checkpoint {path}"):
            for name, positions, rows in _blocks(path, 0):
                if name == "participations":
                    counts[positions] = rows
                    break
    return counts if (counts >= 0).all() else None


def _state_files(directory: Path, round: int) -> list[Path]:
    return sorted(directory.glob(f"states-{round:06d}-*.npz"))


def _blocks(path: Path, first: int) -> Iterator[Block]:
    """Read the blocks of one file; positions count from the task ``first``."""
    header, members = read_members(path)
    positions: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    for key, values in members:
        kind, _, name = key.partition("/")
        if kind == "positions":
            positions = values + (int(header["first"]) - first)
        else:
            yield name, positions, values
