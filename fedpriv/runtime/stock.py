"""The same apps under Flower's stock engine: ``flwr run`` loads ``server`` and ``client`` of this module.

A node finds its tasks by itself: it reads the run's configuration, loads the data set, and takes the shard of its
``partition-id``; nodes that load only their own tasks are made with :func:`client_for`. Its personal states live in
Flower's context. The server needs a roster and no data.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedpriv.errors import ComponentFailure
from fedpriv.protocol import RunName
from fedpriv.roster import Roster
from fedpriv.runtime.apps import client_app
from fedpriv.runtime.flower_private import draw_apart
from fedpriv.runtime.node import Node, NodeSpec

__all__ = ["client", "client_for", "run_app", "run_under_flower", "server"]

_STATE = "fedpriv"
_RUN = "fedpriv-run"
_ANSWER, _PART = "fedpriv-question", "fedpriv-answer/"
"""Under which names a context keeps the last question, and the answer part by part, in case it is asked again."""
_APP = """\
[project]
name = "fedpriv-run"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "fedpriv"

[tool.flwr.app.components]
serverapp = "fedpriv.runtime.stock:server"
clientapp = "fedpriv.runtime.stock:client"

[tool.flwr.app.config]
config = {config}
out = {out}
about = {about}
data-dir = {data_dir}
roster = {roster}
reproduce = {reproduce}
"""


@lru_cache(maxsize=1)
def _specs(config: str, data_dir: str, nodes: int, reproduce: int) -> list[NodeSpec]:
    """Build the shards once per process."""
    from fedpriv.config import build_experiment, read_toml

    experiment = build_experiment(read_toml(Path(config)), Path(data_dir) if data_dir else None)
    if reproduce >= 0:  # as Experiment.run does: the number replaces the seed
        experiment = experiment.model_copy(update={"seed": reproduce})
    return experiment.specs(experiment.problem(), nodes, reproduce if reproduce >= 0 else None)


def _spec(context: Context) -> NodeSpec:
    settings, place = context.run_config, context.node_config
    nodes = int(place["num-partitions"])
    specs = _specs(str(settings["config"]), str(settings["data-dir"]), nodes, int(settings["reproduce"]))
    number = int(place["partition-id"])
    if number >= len(specs):
        raise ComponentFailure(f"node {number} has no tasks: there are {len(specs)} shards; start fewer nodes.")
    return specs[number]


def _restored(node: Node, context: Context) -> Node:
    """Give a node the personal states that its context carries."""
    if _RUN in context.state.config_records:
        of = context.state.config_records[_RUN]
        node.run = RunName(str(of["population"]), str(of["run"]))
    if _ANSWER in context.state.config_records:
        records = context.state.items()
        answer = {name.removeprefix(_PART): record for name, record in records if name.startswith(_PART)}
        node.memory.restore(str(context.state.config_records[_ANSWER]["question"]), RecordDict(answer))
    if _STATE in context.state.array_records:
        values = {key: value.numpy() for key, value in context.state.array_records[_STATE].items()}
        keys = [key.split("/", 2) for key in values if key.startswith("rows/")]
        node.store.restore(
            (name, values[f"positions/{number}/{name}"], values[f"rows/{number}/{name}"]) for _, number, name in keys
        )
    return node


def _keep(node: Node, context: Context) -> None:
    arrays: dict[str, Array] = {}
    for number, (name, positions, rows) in enumerate(node.store.blocks()):
        arrays[f"positions/{number}/{name}"] = Array(positions)
        arrays[f"rows/{number}/{name}"] = Array(np.ascontiguousarray(rows))
    context.state[_STATE] = ArrayRecord(arrays)
    if node.run is not None:
        context.state[_RUN] = ConfigRecord(dict(vars(node.run)))
    for name in [name for name in context.state if name.startswith(_PART)]:
        del context.state[name]
    if (answered := node.memory.answered()) is not None:
        question, answer = answered
        context.state[_ANSWER] = ConfigRecord({"question": question})
        for name, record in answer.items():
            context.state[f"{_PART}{name}"] = record


def client_for(spec_of: Callable[[Context], NodeSpec]) -> ClientApp:
    """Return the ClientApp of nodes that are built anew for every message, as Flower's own engine does it.

    Parameters
    ----------
    spec_of : callable
        Says for a context what its node is made of; :meth:`fedpriv.Experiment.node` does for tasks of its own.
    """
    return client_app(lambda context: _restored(Node(spec_of(context)), context), after=_keep)


client = client_for(_spec)
server = ServerApp()


@server.main()
def _main(grid: Grid, context: Context) -> None:
    from fedpriv.config import build_experiment, read_toml

    draw_apart()
    settings = context.run_config
    config = read_toml(Path(str(settings["config"])))
    data_dir, roster = str(settings["data-dir"]), str(settings["roster"])
    reproduce = int(settings["reproduce"])
    if roster:
        experiment = build_experiment(config, roster=Roster.read(Path(roster)))
    else:
        experiment = build_experiment(config, Path(data_dir) if data_dir else None)
    experiment.run(
        str(settings["out"]),
        reproduce=None if reproduce < 0 else reproduce,
        about=json.loads(str(settings["about"])),
        config=config,
        on=grid,
    )


def _write_app(
    directory: Path,
    config: Path,
    out: Path,
    *,
    data_dir: Path | None,
    roster: Roster | None,
    reproduce: int | None,
    about: dict[str, Any],
) -> None:
    """Write a Flower app that runs one configuration: a ``pyproject.toml``, and the roster if there is one."""
    directory.mkdir(parents=True, exist_ok=True)
    if roster is not None:
        roster.write(directory / "roster.json")
    text = _APP.format(
        config=json.dumps(str(config.resolve())),
        out=json.dumps(str(out.resolve())),
        about=json.dumps(json.dumps(about)),
        data_dir=json.dumps(str(data_dir.resolve()) if data_dir else ""),
        roster=json.dumps("" if roster is None else str(directory.resolve() / "roster.json")),
        reproduce=-1 if reproduce is None else reproduce,
    )
    (directory / "pyproject.toml").write_text(text, encoding="utf-8")


def run_under_flower(
    config: Path,
    out: Path,
    *,
    nodes: int,
    data_dir: Path | None,
    roster: Roster | None,
    reproduce: int | None,
    about: dict[str, Any],
) -> None:
    """Run a configuration with ``flwr run`` on a SuperLink of its own, and stop what was started.

    With a roster the server loads no data; nodes always do.

    Raises
    ------
    ComponentFailure
        Flower did not start, or its run did not finish; the message ends with the last lines it said.
    """
    with tempfile.TemporaryDirectory(prefix="fedpriv-flower-") as home:
        app = Path(home) / "app"
        _write_app(app, config, out, data_dir=data_dir, roster=roster, reproduce=reproduce, about=about)
        said = run_app(app, nodes)
        if not (out / "summary.json").exists():
            cause = next((line for line in reversed(said) if "failed with exception" in line or "Error" in line), "")
            raise ComponentFailure(f"the run under Flower did not finish: {cause or ' '.join(said[-3:])}")


def run_app(app: Path, nodes: int) -> list[str]:
    """Run an app with ``flwr run`` on a SuperLink of its own, and stop that; return the lines it said."""
    with tempfile.TemporaryDirectory(prefix="fedpriv-flower-") as home, _superlink(Path(home)) as environment:
        words = ["run", str(app), "own", "--stream", "--federation-config", f"num-supernodes={nodes}"]
        done = subprocess.run(  # noqa: S603
            [_tool("flwr"), *words],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


@contextmanager
def _superlink(home: Path) -> Iterator[dict[str, str]]:
    """Start a SuperLink in simulation mode on free ports; yield the environment that finds it."""
    port, control = _free_port(), _free_port()
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    command = [
        _tool("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess",
        "--control-api-address", f"127.0.0.1:{control}", "--host", "127.0.0.1", "--port", str(port),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    log = home / "superlink.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603 (our own words only)
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_until_open(port, process, log)
        yield environment
    finally:
        # Its children (the executor, the simulation, Ray) live in the same session.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise ComponentFailure(f"Flower's SuperLink did not start on port {port}: {' '.join(said)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tool(name: str) -> str:
    """Return the path of a program installed beside this Python."""
    return str(Path(sys.executable).parent / name)
