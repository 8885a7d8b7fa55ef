"""The run folder: configuration, metrics, checkpoints, summary, figures, report."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import tomli_w

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.files import private_directory, sync_directory, writing
from fedpriv.privacy.entropy import RoundSecret
from fedpriv.privacy.ledger import Ledger
from fedpriv.runs.atomic import damage_said, write_bytes
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runs.finished import adds_local_noise, read_record, write_summary
from fedpriv.runs.record import RunRecord, plain

__all__ = ["RunFolder", "begun", "free_folder", "made_in_python", "read_config", "read_finished"]


_WAITING = "not-started"
"""The file that is there until a run asks its first task."""


def free_folder(parent: Path | str, name: str) -> Path:
    """Return the first of ``name``, ``name-2``, ``name-3`` in a folder that is not there yet."""
    candidates = [Path(parent, name), *(Path(parent, f"{name}-{number}") for number in range(2, 10_000))]
    return next(folder for folder in candidates if not folder.exists())


def begun(path: Path) -> bool:
    """Tell whether a folder holds a run that can go on: it has asked a first task, and is not finished."""
    kept = {name: (path / name).exists() for name in ("config.toml", _WAITING, "summary.json")}
    return kept["config.toml"] and not kept[_WAITING] and not kept["summary.json"]


class RunFolder:
    """A run folder that this process owns until :meth:`close`.

    Parameters
    ----------
    path : Path
        The folder.
    config : dict
        The resolved configuration, by section.
    resume : bool
        Go on with what is there; otherwise the folder must not hold a run yet, unless that one never started.

    Raises
    ------
    InputError
        A run is there already, or none is, or its configuration differs.
    ComponentFailure
        Another process works in the folder.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        existing = path / "config.toml"
        if not resume:
            self._refuse_a_run()
        if resume and not existing.exists():
            raise InputError(
                f"{path} holds no run to resume; leave out --resume (in Python: resume=True) to start one."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the run folder {path} cannot be made ({error.strerror}); choose another one (--out)."
            ) from None
        self._lock = self._acquire()
        try:
            if resume:
                _compare(read_config(path), config, path)
            else:
                self._begin_anew()
                write_bytes(existing, tomli_w.dumps(_toml(config)).encode(), public=True)
            private_directory(path / "checkpoints")  # one that an earlier version left open, too
            self.checkpoints = CheckpointStore(path / "checkpoints")
            if resume:
                self._refuse_what_was_lost()
            self.run_id = self._identity()
        except BaseException:
            self.close()
            raise

    def _refuse_what_was_lost(self) -> None:
        """Refuse to begin anew in the place of a run that has published: its releases would be those of no run.

        The first checkpoint and the run's name are written before a task is asked, and until then ``not-started`` is
        there. A finished run needs neither.
        """
        lost = not (self.checkpoints.directory / "run-id").exists() or not self.checkpoints.rounds()
        if lost and not self._waiting.exists() and not self.summary_path.exists():
            raise InputError(
                f"{self.checkpoints.directory} lost the name or the billboards of the run, without which it cannot go "
                "on; restore the folder from a copy, or start a new run in another one."
            )

    def started(self) -> None:
        """Say, before the first task is asked, that from now on the folder holds a run."""
        if self._waiting.exists():
            self._waiting.unlink()
            sync_directory(self.path)

    def _refuse_a_run(self) -> None:
        if (self.path / "config.toml").exists() and not self._waiting.exists():
            raise InputError(
                f"{self.path} holds a run already; choose another folder, or go on with --resume (in Python: "
                "resume=True)."
            )

    def _begin_anew(self) -> None:
        """Remove what a run left that never started: nothing was asked of a task, so nothing is lost."""
        self._refuse_a_run()  # it may have started before this process had the lock
        if self._waiting.exists():
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
            (self.path / "config.toml").unlink(missing_ok=True)
            # Somebody may keep the ledger of people here, who have a history.
            if self.ledger_path.exists() and Ledger(self.ledger_path).unused():
                for ending in (".head", "-journal", ""):  # the ledger last: a head alone tells of one that is gone
                    Path(f"{self.ledger_path}{ending}").unlink(missing_ok=True)
        write_bytes(self._waiting, b"No task was asked anything yet: this run did not start.\n")

    @property
    def _waiting(self) -> Path:
        return self.path / _WAITING

    @property
    def ledger_path(self) -> Path:
        """Where a benchmark run keeps its own ledger."""
        return self.path / "ledger.sqlite"

    @property
    def summary_path(self) -> Path:
        """The file that marks a run as finished."""
        return self.path / "summary.json"

    def coins(self) -> RoundSecret:
        """Return the secret of this run's coins, made when the run starts; as private as the personal states.

        Two copies of a folder that both go on draw the same coins: they are one run twice, not two runs.
        """
        content = self._secret(self._coins_path, "coins", _packed(RoundSecret.fresh()))
        return RoundSecret(int.from_bytes(content[:8], "big"), content[8:])

    def forget_coins(self, round: int, *, durably: bool) -> None:
        """Move the secret of the coins past a round: who took part in it cannot be derived any more, and never again.

        In place, since a renamed file would leave the old secret on the disk. Every round; ``durably`` when checkpoints
        are dropped, which hold the same until then: before that, a power failure may take back the step, which only
        means that it is done again.
        """
        if not self._coins_path.exists():
            return
        coins = self.coins()
        with self._coins_path.open("r+b") as file:
            file.write(_packed(coins.at(max(coins.round, round + 1))))
            file.flush()
            if durably:
                os.fsync(file.fileno())

    def node_secret(self) -> bytes:
        """Return the secret that the noise of this run's nodes comes from, 32 bytes, made when the run starts.

        A round that is run again, because nothing of it was published, gives the very same noisy rows. With fresh noise
        two copies of a row would be out, of which one was charged.
        """
        return self._secret(self._node_secret_path, "noise", secrets.token_bytes(32))

    def _secret(self, path: Path, what: str, fresh: bytes) -> bytes:
        """Return what a file keeps, whose last 32 bytes are secret; ``fresh`` is written when the run starts."""
        if not path.exists():
            if any(self.checkpoints.rounds()):
                raise InputError(f"{path} is gone, which holds the {what} of the rounds to come; restore it to go on.")
            write_bytes(path, fresh)
        content = path.read_bytes()
        if len(content) != len(fresh):
            raise InputError(
                f"{path} is damaged ({len(content)} bytes where {len(fresh)} belong); restore it to go on."
            )
        if not any(content[-32:]):  # what some file systems leave of a file after a power failure: everybody knows it
            raise InputError(f"{path} is damaged: it holds zeros where a secret belongs; restore it to go on.")
        return content

    @property
    def _node_secret_path(self) -> Path:
        return self.checkpoints.directory / "node-noise.key"

    @property
    def _coins_path(self) -> Path:
        return self.checkpoints.directory / "coins.key"

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``; its presence marks the run as finished. It holds scores: private."""
        write_summary(self.path, summary)
        self._forget_secrets()

    def write_private(self, name: str, text: str) -> None:
        """Write what only the experimenter may read, into ``private/``, which nobody else may enter."""
        private_directory(self.path / "private")
        write_bytes(self.path / "private" / name, text.encode())

    def read_record(self) -> RunRecord | None:
        """Return the record of a finished run, or None."""
        if not self.summary_path.exists():
            return None
        loaded = read_record(self.path)
        self._forget_secrets()  # a kill may have come between the summary and this
        return loaded

    def _forget_secrets(self) -> None:
        """Delete what only rounds to come need, and what would tell more than was released."""
        self._coins_path.unlink(missing_ok=True)
        self._node_secret_path.unlink(missing_ok=True)
        self.checkpoints.forget_noise()

    def keep_about(self, about: dict[str, Any]) -> dict[str, Any]:
        """Return the names that the run was started under; refuse other ones."""
        path = self.checkpoints.directory / "about.json"
        if not path.exists():
            write_bytes(path, json.dumps(about).encode())
            return about
        with damage_said(str(path)):
            stored: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        for key, value in about.items():
            if stored.get(key, value) != value:
                raise InputError(
                    f"{self.path} was started with {key} {stored[key]!r}, got {value!r}; resume with the first."
                )
        return stored

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``, which holds means that no release covers: private."""
        path = self.path / "metrics.jsonl"
        opener = lambda name, flags: os.open(name, flags, 0o600)  # noqa: E731 (as open() calls it)
        with writing(path), open(path, "a", encoding="utf-8", opener=opener) as file:
            file.write(json.dumps(plain(line)) + "\n")

    def log_unreachable(self, round: int, tasks: int) -> None:
        """Append that so many tasks of a round could not be reached; a run that goes on has to say so, too."""
        self.log({"round": round, "kind": "unreachable", "released": False, "tasks": tasks})

    def unreachable(self) -> int:
        """Return how many tasks could not be reached in all rounds."""
        return sum(entry["tasks"] for _, entry in self._metrics() if entry["kind"] == "unreachable")

    def rewind_metrics(self, round: int) -> None:
        """Drop lines after a round (they will come again) and what is no line, such as one that a crash cut in two."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line, entry in self._metrics():
            told = entry["kind"] in ("evaluation", "unreachable") and not entry.get("final")
            if entry["round"] <= round and told:
                kept.append(line)
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode())

    def _metrics(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the lines of ``metrics.jsonl`` that a run wrote, with what they hold."""
        path = self.path / "metrics.jsonl"
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                text = line.decode()
                entry = json.loads(text)
            except ValueError:
                continue
            if isinstance(entry, dict) and {"kind", "round"} <= set(entry):
                yield text, entry

    def close(self) -> None:
        """Let other processes work in the folder."""
        self._lock.close()

    def _identity(self) -> str:
        """Return the name under which the ledger knows this run, also after the folder was moved."""
        path = self.checkpoints.directory / "run-id"
        if not path.exists():
            name = f"{self.path.resolve().name}-{secrets.token_hex(4)}"
            write_bytes(path, name.encode("utf-8", "surrogateescape"))  # where the locale is not UTF-8
        with damage_said(str(path)):
            name = path.read_text(encoding="utf-8")
            if not name or "\0" in name:
                raise ValueError("no name in it")
        return name

    def _acquire(self) -> TextIO:
        try:
            handle = (self.path / ".lock").open("w", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"the run folder {self.path} cannot be written to ({error.strerror}); choose another one (--out)."
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.close()
            raise ComponentFailure(
                f"another process works in {self.path}; wait for it or choose another folder (--out)."
            ) from error
        return handle


def read_finished(path: Path, config: dict[str, Any], about: dict[str, Any]) -> RunRecord | None:
    """Return the record of a run that is finished; None if it is not, so that there is something to go on with.

    Raises
    ------
    InputError
        It was run under another configuration, or other names.
    """
    if not (path / "summary.json").exists():
        return None
    folder = RunFolder(path, config, resume=True)
    try:
        folder.keep_about(about)
        return folder.read_record()
    finally:
        folder.close()


def made_in_python(config: dict[str, Any]) -> bool:
    """Tell whether a configuration is of a run whose data were given in Python, so that no command can load them."""
    return not {"name", "file"} & set(config.get("data", {}))


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a run folder."""
    try:
        return tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is not a run folder: it holds no config.toml; give the --out of a run.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path / 'config.toml'} is damaged ({error}); restore it or start a new run.") from None


_FREE = {
    *("grid", "shards", "engine", "checkpoint_every", "address", "state_memory", "references", "report"),
    *("timeout", "attempts", "task_seconds", "new_version", "metrics"),
}
"""Settings of [run] that change no result, only what is scored at the end, how long nodes are waited for, or what was
said once: a run may go on under other ones."""


_INITIAL = (("model", "initial"), ("code", "initial"))
"""Where a run keeps what its model starts from: a module that was given, or one by name."""


def _compare(stored: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    wanted = _toml(wanted)
    free = _FREE - {"engine"} if adds_local_noise(stored) else _FREE
    for section in sorted({*stored, *wanted}):
        old, new = stored.get(section, {}), wanted.get(section, {})
        for key in sorted({*old, *new}):
            if section == "run" and key in free:
                continue
            # A run may go on that was started before a list was known, which is empty unless somebody wants it.
            if section in ("client", "strategy") and key not in old and new[key] == []:
                continue
            if (section, key) in _INITIAL:
                continue  # last, below: a setting says more
            if section == "code":
                continue  # below: the same files may lie elsewhere
            if (section, key) == ("data", "groups") and key not in old:
                continue  # an earlier version kept none
            if (section, key) == ("run", "ledger") and _same_file(old.get(key), new.get(key)):
                continue  # an earlier version kept the path as it was given, and Python does
            if old.get(key) != new.get(key):
                raise InputError(
                    f"{section}.{key} was {old.get(key)!r} when {path} was started and is {new.get(key)!r} now; "
                    "resume with the old value, or start a new run."
                )
    for name, kept in _code(stored).items():
        if kept != _code(wanted).get(name):
            raise InputError(
                f"the module {name!r} was another file when {path} was started; put it back, or start a new run."
            )
    for section, key in _INITIAL:
        began, now = stored.get(section, {}).get(key), wanted.get(section, {}).get(key)
        if None not in (began, now) and began != now:  # an earlier version kept none
            raise InputError(
                f"the model's initial values are not those that {path} was started with; build it from the same "
                "weights, such as after the same torch.manual_seed(...), or start a new run."
            )


def _same_file(one: Any, other: Any) -> bool:
    """Tell whether two paths, seen from the current folder, are of one file."""
    return isinstance(one, str) and isinstance(other, str) and Path(one).resolve() == Path(other).resolve()


def _code(config: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each module of users' own that a run was started with."""
    return {name: kept["sha256"] for name, kept in config.get("code", {}).get("modules", {}).items()}


def _packed(coins: RoundSecret) -> bytes:
    return coins.round.to_bytes(8, "big") + coins.secret


def _toml(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what TOML cannot say (None), keep the rest as plain values."""
    kept: dict[str, Any] = _without_none(json.loads(json.dumps(config)))
    return kept


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
