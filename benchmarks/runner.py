"""Runs one side in a fresh process and takes everything away that it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import FILES, Data
from benchmarks.envs import pfl_python
from benchmarks.outcome import Outcome
from benchmarks.work import Work

__all__ = ["Runner", "prepared"]

_ROOT = Path(__file__).resolve().parent.parent
_LIMIT_SECONDS = 900.0


class Runner:
    """Starts sides on one set of data files.

    Parameters
    ----------
    directory : Path
        Holds the data; every run gets a folder of its own in it. Its path must be short: Ray puts sockets there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._count = 0

    def run(self, side: str, work: Work, **settings: Any) -> tuple[Outcome, dict[str, np.ndarray[Any, Any]]]:
        """Run one side; return its times and its last global model."""
        self._count += 1
        place = self.directory / str(self._count)
        place.mkdir()
        for name in FILES:
            (place / name).hardlink_to(self.directory / name)
        (place / "spec.json").write_text(json.dumps({"side": side, "work": asdict(work), **settings}), encoding="utf-8")
        self._call(place, _interpreter(side, settings))
        with np.load(place / "model.npz") as arrays:
            model = dict(arrays)
        outcome = Outcome.read(place / "outcome.json")
        shutil.rmtree(place)
        return outcome, model

    def _call(self, place: Path, interpreter: list[str]) -> None:
        environment = {
            **os.environ,
            "FLWR_HOME": str(place / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(place),
        }
        command = [*interpreter, "-m", "benchmarks.side", str(place / "spec.json")]
        with (place / "log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, cwd=_ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(timeout=_LIMIT_SECONDS)
            finally:
                # Ray stops with its driver; whoever is left of the session after a failure goes here.
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code or not (place / "outcome.json").exists():
            tail = "\n".join((place / "log").read_text(encoding="utf-8").splitlines()[-30:])
            raise RuntimeError(f"the side in {place.name} failed with code {code}:\n{tail}")


def _interpreter(side: str, settings: dict[str, Any]) -> list[str]:
    """What starts the side's module: pfl lives in an environment of its own and may be several processes."""
    if side != "pfl":
        return [sys.executable]
    processes = settings["processes"]
    distributed = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [str(pfl_python()), *(distributed if processes > 1 else [])]


@contextmanager
def prepared(work: Work) -> Iterator[Runner]:
    """Write the data into a temporary folder with a short path and remove it in the end, also when terminated."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="fb", dir="/tmp", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        Data.write(work, directory)
        yield Runner(directory)
