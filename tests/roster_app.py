"""A Flower app for test_roster_flower.py: a server that has a roster and no data, nodes that load their own tasks only.

Its server runs twice on the same nodes: first all of them are there, then two of six are away in each round.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message
from flwr.serverapp import Grid, ServerApp

from fedpriv import Experiment
from fedpriv.cohort import Ragged, Tasks
from fedpriv.config import build_experiment, read_toml
from fedpriv.protocol import TaskRange
from fedpriv.roster import Roster
from fedpriv.runtime.node import NodeSpec
from fedpriv.runtime.stock import client_for

SEED, NODES = 5, 6


def away(node: int, number: int) -> bool:
    """Tell whether a node is away in a round: a third of them is, in each."""
    return number > 0 and node // 2 == number % 3


def experiment(folder: Path) -> Experiment:
    """Return the experiment of somebody without data."""
    run = build_experiment(read_toml(folder / "config.toml"), roster=Roster.read(folder / "roster.json"))
    return run.model_copy(update={"seed": SEED})


@lru_cache
def own(folder: str, node: int) -> NodeSpec:
    """Load the tasks of one node, and no others."""
    run = experiment(Path(folder))
    with np.load(Path(folder) / "nodes" / f"{node}.npz") as file:
        parts = [
            Ragged(file[f"{part}.inputs"], file[f"{part}.targets"], file[f"{part}.offsets"])
            for part in ("train", "validation", "test")
        ]
        names = tuple(file["names"].tolist())
    tasks = Tasks("their own", names, *parts, num_classes=run.roster.num_classes, declared="benchmark")
    return run.node(tasks, noise_seed=SEED)


client = client_for(lambda context: own(str(context.run_config["folder"]), int(context.node_config["partition-id"])))
server = ServerApp()


class Weather(Grid):
    """Flower's grid, of which some nodes cannot be reached in some rounds, as a SuperLink says it."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.places = grid, dict[int, int]()

    def set_run(self, run: Any) -> None:
        self.grid.set_run(run)

    @property
    def run(self) -> Any:
        return self.grid.run

    def create_message(self, *words: Any, **more: Any) -> Message:
        return self.grid.create_message(*words, **more)

    def get_node_ids(self) -> Iterable[int]:
        return self.grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        return self.grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        there, lost = [], []
        for one in messages:
            of = one.metadata
            training = of.message_type == "train"
            gone = training and away(self.places[of.dst_node_id], int(of.group_id))
            (lost if gone else there).append(one)
        replies = list(self.grid.send_and_receive(there, timeout=timeout)) if there else []
        for reply in replies:
            if reply.metadata.message_type == "query.tasks":
                self.places[reply.metadata.src_node_id] = TaskRange.from_content(reply.content).first // 2
        return replies + [Message(Error(code=5, reason="away"), reply_to=one) for one in lost]


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Serve both runs, and write down which files this process opened."""
    opened: list[str] = []
    sys.addaudithook(lambda event, words: opened.append(str(words[0])) if event in ("open", "os.listdir") else None)
    folder = Path(str(context.run_config["folder"]))
    for name, on in (("all", grid), ("away", Weather(grid))):
        experiment(folder).run(folder / name, reproduce=SEED, on=on)
    said = {"opened": opened, "FEDPRIV_DATA": os.environ.get("FEDPRIV_DATA")}
    (folder / "server.json").write_text(json.dumps(said))
