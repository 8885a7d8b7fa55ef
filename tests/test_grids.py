"""One algorithm, any grid: in this process, on Ray, and under Flower's own engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_tasks
from threadpoolctl import threadpool_info, threadpool_limits

from fedpriv import Experiment
from fedpriv.clients import GlobalModel
from fedpriv.cohort.fast.threads import one_blas_thread
from fedpriv.protocol import ALL
from fedpriv.runs import CheckpointStore
from fedpriv.strategies import Billboard

SETTINGS = [
    *["data.tasks=30", "strategy.rounds=3", "strategy.noise_multiplier=2.0", "client.epochs=2"],
    *["client.final_epochs=3", "strategy.evaluate_every=1", "model.name=mlp", "model.hidden=8"],
    'client.share=["1.*"]',
]


BREAKING = """
import os
from pathlib import Path
from flwr.serverapp import ServerApp
from fedpriv import config
from fedpriv.runtime import stock
from fedpriv.runtime.apps import client_app
from fedpriv.runtime.node import Node

def break_off(name):
    work = getattr(Node, name)
    def broken(self, content):
        request = content["request"]
        answer = work(self, content)
        if request["round"] != 1 and "attempt" not in request:  # the work is done, its answer and its states are lost
            (Path(os.environ["FEDPRIV_TEST_MARKERS"]) / f"{name}-{request['round']}").touch()
            raise RuntimeError("broken off")
        return answer
    setattr(Node, name, broken)

for name in ("train", "finish", "evaluate"):
    break_off(name)
def node(context):  # whoever unpickles the app imports this module, and so works with what is broken off
    return stock._restored(Node(stock._spec(context)), context)

client = client_app(node, after=stock._keep)
server = ServerApp()

@server.main()
def serve_without_data(grid, context):
    config._tasks = None  # whoever loads data fails
    stock._main(grid, context)
"""


@pytest.mark.timeout(400)
def test_all_grids_agree(fedpriv: Any, tmp_path: Path) -> None:
    """Also where a node of Flower's fails in the middle of a round, under a server that loads no data.

    No process of Flower's stays behind.
    """
    results: dict[str, Any] = {}
    (tmp_path / "markers").mkdir()
    (tmp_path / "breaking.py").write_text(BREAKING)
    (tmp_path / "main.py").write_text(
        "from fedpriv.runtime import stock\n"
        "stock._APP = stock._APP.replace('fedpriv.runtime.stock:', 'breaking:')\n"
        "from fedpriv.cli import main\nmain()\n"
    )
    places = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    more = {"PYTHONPATH": os.pathsep.join(places), "FEDPRIV_TEST_MARKERS": str(tmp_path / "markers")}
    for grid in ("in-process", "ray", "flower"):
        sets = [f"--set={item}" for item in [*SETTINGS, f"run.grid={grid}"]]
        words = ["run", "pmtl", "--reproduce", "5", "--out", str(tmp_path / grid), "--json", *sets]
        how = [str(tmp_path / "main.py")] if grid == "flower" else ["-m", "fedpriv"]
        if grid == "flower":
            code, _, error = fedpriv(*words, "--out", str(tmp_path / "ray"))
            assert (code, error) == (2, f"fedpriv: {tmp_path / 'ray'} is not empty; choose another --out.\n")
        ran = subprocess.run(
            [sys.executable, *how, *words], env=os.environ | more, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        results[grid] = json.loads((tmp_path / grid / "summary.json").read_text())
    reference = CheckpointStore(tmp_path / "in-process/checkpoints").load(3).billboards[ALL]
    for grid in ("ray", "flower"):
        found = CheckpointStore(tmp_path / grid / "checkpoints").load(3).billboards[ALL]
        for name, value in reference.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
        assert results[grid]["guarantee"] == results["in-process"]["guarantee"]
        for model, scores in results["in-process"]["diagnostics"]["per_task"].items():
            # An example at the boundary between two classes may fall either way by rounding.
            assert np.mean(np.array(scores) != results[grid]["diagnostics"]["per_task"][model]) < 0.05
    broken = {path.name for path in (tmp_path / "markers").iterdir()}
    assert {"train-2", "train-3", "finish-0", "evaluate-0"} <= broken
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "fedpriv-flower-" not in processes


def test_blas_has_one_thread_on_server_and_shards_and_gets_the_others_back() -> None:
    """Threads of OpenBLAS spin: two on the server made a round on Ray take half as long again."""

    def threads() -> list[int]:
        return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]

    tasks = toy_tasks()
    network = torch.nn.Linear(5, 3)
    strategy = Billboard(clipping_norm=1.0, noise_multiplier=1.0, rounds=2, sampling_rate=0.5)
    experiment = Experiment(
        tasks=tasks, model=network, client=GlobalModel(learning_rate=0.1, steps=1), strategy=strategy, grid="in-process"
    )
    seen: list[list[int]] = []
    one_blas_thread().restore_original_limits()  # now all libraries are there
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        experiment.run(progress=lambda *_: seen.append(threads()))
        assert threads() == before
    assert set(before) == {2}, "the machine must have a second thread to give, or this shows nothing"
    assert [set(found) for found in seen] == [{1}, {1}]

    # Ray gives its workers one thread only where nobody asked for another number.
    code = "from fedpriv.runtime.pool import _Shard; from threadpoolctl import threadpool_info; _Shard()\n"
    code += "print({one['num_threads'] for one in threadpool_info() if one['user_api'] == 'blas'})"
    two = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    shard = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | two, capture_output=True, text=True, check=True
    )
    assert shard.stdout == "{1}\n"
