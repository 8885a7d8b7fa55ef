"""The app that Flower runs in its own way: fedpriv's client and server, a process for each message."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedpriv import Experiment
from fedpriv.config import build_experiment, read_toml
from fedpriv.roster import Roster
from fedpriv.runtime.node import NodeSpec
from fedpriv.runtime.stock import client_for


def experiment(folder: Path) -> Experiment:
    """Return the experiment of somebody without data."""
    return build_experiment(read_toml(folder / "config.toml"), roster=Roster.read(folder / "roster.json"))


@lru_cache
def own(folder: str, number: int) -> NodeSpec:
    """Load the tasks of one node."""
    from fedpriv.config import tasks_of

    run = experiment(Path(folder))
    data, per_node = json.loads((Path(folder) / "data.json").read_text(encoding="utf-8"))
    tasks = tasks_of(data, None, "benchmark")
    mine = tasks.shard(per_node * number, per_node * (number + 1))
    return run.node(replace(mine, first=0), noise_seed=number)


client = client_for(lambda context: own(str(context.run_config["folder"]), int(context.node_config["number"])))
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Serve one run."""
    folder = Path(str(context.run_config["folder"]))
    experiment(folder).run(folder / "run", on=grid)
