"""One algorithm, any grid: in this process, on Ray, and under Flower's own engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_tasks
from test_own_code import fresh, lay_out  # noqa: F401 (a fixture that every test here uses)
from threadpoolctl import threadpool_info, threadpool_limits

from fedpriv import Experiment
from fedpriv.clients import GlobalModel
from fedpriv.cohort.fast.threads import one_blas_thread
from fedpriv.protocol import ALL
from fedpriv.runs import CheckpointStore
from fedpriv.runtime import stock
from fedpriv.strategies import Billboard

SETTINGS = [
    *["data.tasks=30", "strategy.rounds=3", "strategy.noise_multiplier=2.0", "client.epochs=2", "run.shards=2"],
    *["client.final_epochs=3", "strategy.evaluate_every=1", "run.baseline=true", 'client.share=["net.1.*"]'],
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


@pytest.mark.long
@pytest.mark.timeout(400)
def test_all_grids_agree(fedpriv: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """With a model, a client and a strategy of one's own, which every node imports from where the file says.

    Also where a node of Flower's fails in the middle of a round, under a server that loads no data. No process of
    Flower's stays behind.
    """
    mine = lay_out(tmp_path / "mine")
    results: dict[str, Any] = {}
    (tmp_path / "markers").mkdir()
    (tmp_path / "breaking.py").write_text(BREAKING)
    places = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    for grid in ("in-process", "ray", "flower"):
        sets = [f"--set={item}" for item in [*SETTINGS, f"run.grid={grid}"]]
        words = ["run", str(mine), "--reproduce", "5", "--json", *sets, "--out"]
        if grid == "flower":
            words.insert(2, "--set=run.report=true")  # which the server there draws
            code, _, error = fedpriv(*words, str(tmp_path / "ray"))
            assert (code, error) == (2, f"fedpriv: {tmp_path / 'ray'} is not empty; choose another --out.\n")
            monkeypatch.setenv("FEDPRIV_TEST_MARKERS", str(tmp_path / "markers"))
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
            monkeypatch.setattr(stock, "_APP", stock._APP.replace("fedpriv.runtime.stock:", "breaking:"))
        code, _, error = fedpriv(*words, str(tmp_path / grid))
        assert code == 0, error
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
    deadline = time.monotonic() + 20
    while left := with_environment(f"FEDPRIV_TEST_MARKERS={tmp_path}"):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def with_environment(start: str) -> list[str]:
    """Return the command lines of processes that were started with such a variable."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # on its way out
            if any(one.startswith(start) for one in (folder / "environ").read_text(errors="replace").split("\0")):
                found.append((folder / "cmdline").read_text(errors="replace").replace("\0", " "))
    return found


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
