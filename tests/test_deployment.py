"""Real processes: a server behind TLS and nodes that hold their own files, run as the pages say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deployed import deployment, fedpriv

from fedpriv.config import apply, build_experiment
from fedpriv.protocol import ALL
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.scenarios import scenarios

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]

SEED = 5
SHORT: dict[str, Any] = {
    "data.tasks": 8,
    "client.epochs": 1,
    "client.final_epochs": 1,
    "strategy.rounds": 3,
    "strategy.evaluate_every": 0,
    "run.seed": SEED,
    "run.report": False,
    "run.baseline": False,
}
ROUNDS = 3


def last(folder: Path, number: int = ROUNDS) -> Any:
    return CheckpointStore(folder / "checkpoints").load(number)


def test_a_deployed_run_is_the_simulation_to_the_bit(tmp_path: Path) -> None:
    config = apply(scenarios()["pmtl"].preset(), SHORT)
    whole = build_experiment(config)
    whole.model_copy(update={"grid": "in-process", "shards": 1}).run(tmp_path / "whole", reproduce=SEED)
    with deployment(tmp_path) as lab:
        lab.make("pmtl", SHORT)
        for number, name in enumerate(("one", "two")):
            data = {**config["data"], "seed": SEED}
            lab.add(name, data, part=[4 * number, 4 * number + 4], policy={"diagnostics": True})
        lab.start_server()
        for name in lab.nodes:
            lab.start_node(name)
        lab.wait_online("one", "two")
        said = fedpriv("deploy", "run", lab.server, "--out", "run", "--reproduce", str(SEED), cwd=tmp_path)
        assert "personal" in said
    mine, theirs = last(tmp_path / "whole"), last(tmp_path / "run")
    np.testing.assert_array_equal(theirs.sampled[ALL], mine.sampled[ALL])
    for name, value in mine.billboards[ALL].items():
        np.testing.assert_array_equal(theirs.billboards[ALL][name], value)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["unreachable"]["tasks"] == 0
    scores = json.loads((tmp_path / "whole/summary.json").read_text())["diagnostics"]["per_task"]["personal"]
    assert summary["diagnostics"]["per_task"]["personal"] == pytest.approx(scores)
