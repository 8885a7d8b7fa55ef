"""A server with a roster and no data, under Flower's own engine, with nodes that load their own tasks only."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roster_app
import tomli_w
from roster_app import NODES, SEED, away

from fedpriv import Experiment
from fedpriv.clients import MeanRegularized
from fedpriv.cohort import PARTS
from fedpriv.config import apply, build_experiment
from fedpriv.protocol import ALL
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runtime.stock import run_app
from fedpriv.scenarios import scenarios

SHORT = {
    "data.tasks": 2 * NODES,
    "client.epochs": 1,
    "client.final_epochs": 1,
    "strategy.rounds": 3,
    "strategy.evaluate_every": 0,
    "run.seed": SEED,
    "run.report": False,
    "run.baseline": False,
}
APP = """\
[project]
name = "roster-app"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "fedpriv"

[tool.flwr.app.components]
serverapp = "roster_app:server"
clientapp = "roster_app:client"

[tool.flwr.app.config]
folder = {folder}
"""


class AThirdIsAway(MeanRegularized):
    """Tasks of nodes that are away in a round fail in it, so they count as zero and keep their states."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        if any(away(task // 2, key.round) for task in cohort.ids.tolist()):
            raise ValueError("away")
        return super().train(learner, billboard, state, cohort, key)


def lay_out(run: Experiment, folder: Path) -> None:
    """Write what each node has, in a file of its own, and the roster."""
    run.roster.write(folder / "roster.json")
    (folder / "nodes").mkdir()
    for node in range(NODES):
        tasks = run.data.shard(2 * node, 2 * node + 2)
        arrays = {
            f"{part}.{what}": getattr(tasks.part(part), what)
            for part in PARTS
            for what in ("inputs", "targets", "offsets")
        }
        np.savez(folder / "nodes" / f"{node}.npz", names=np.array(tasks.names), **arrays)


def last(folder: Path) -> Any:
    return CheckpointStore(folder / "checkpoints").load(3)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_pmtl_is_served_without_data_and_with_a_third_of_the_nodes_away(tmp_path: Path, monkeypatch: Any) -> None:
    """To the bit what a simulation gives that holds all data; who is away counts as zero, as there."""
    config = apply(scenarios()["pmtl"].preset(), SHORT)
    whole = build_experiment(config)
    lay_out(whole, tmp_path)
    config["data"] = {"name": "there is none here"}
    (tmp_path / "config.toml").write_bytes(tomli_w.dumps(config).encode())
    (tmp_path / "app").mkdir()
    (tmp_path / "app/pyproject.toml").write_text(APP.format(folder=json.dumps(str(tmp_path))))
    shutil.copy(roster_app.__file__, tmp_path / "app")
    data = os.environ.get("FEDPRIV_DATA", "/nowhere")
    monkeypatch.delenv("FEDPRIV_DATA", raising=False)
    said = run_app(tmp_path / "app", NODES)
    assert (tmp_path / "server.json").exists(), said[-5:]
    server = json.loads((tmp_path / "server.json").read_text())
    assert server["FEDPRIV_DATA"] is None
    assert any(place.endswith("roster.json") for place in server["opened"]), "what the server opens is seen"
    secret = (str(tmp_path / "nodes"), data, "sklearn")
    assert [place for place in server["opened"] if any(one in place for one in secret)] == []

    zeros = AThirdIsAway(**whole.client.model_dump())
    for name, changes in (("all", {}), ("away", {"client": zeros})):
        wanted = whole.model_copy(update={"grid": "in-process", "shards": 1, **changes})
        wanted.run(tmp_path / f"whole-{name}", reproduce=SEED)
        mine, found = last(tmp_path / f"whole-{name}"), last(tmp_path / name)
        np.testing.assert_array_equal(found.sampled[ALL], mine.sampled[ALL])
        for array, value in mine.billboards[ALL].items():
            np.testing.assert_array_equal(found.billboards[ALL][array], value)
    summaries = {name: json.loads((tmp_path / name / "summary.json").read_text()) for name in ("all", "away")}
    assert summaries["all"]["unreachable"]["tasks"] == 0
    assert summaries["away"]["unreachable"]["tasks"] > 0
    moved = [last(tmp_path / name).billboards[ALL] for name in ("all", "away")]
    assert any((one != two).any() for one, two in zip(*(arrays.values() for arrays in moved), strict=True))
