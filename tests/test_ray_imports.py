"""Modules of a user's own reach the shards of a Ray run, wherever they were imported from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NETWORK = """
from torch import nn

class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, inputs):
        return self.layer(inputs)
"""

SCRIPT = """
import shutil
import sys
sys.path.insert(0, {tests!r})

from helpers import toy_tasks
from fedpriv import Experiment
from fedpriv.clients import GlobalModel
from fedpriv.errors import ComponentFailure
from fedpriv.runtime.pool import ShardPool
from fedpriv.strategies import Billboard

def run(model, pool):
    return Experiment(
        tasks=toy_tasks(2), model=model, client=GlobalModel(), grid="ray", shards=1, baseline=False,
        strategy=Billboard(rounds=1, sampling_rate=1.0, noise_multiplier=1.0, clipping_norm=1.0),
    ).run(pool=pool)

with ShardPool() as pool:
    run("linear", pool)  # the shard is warm, and knows nothing of what comes
    sys.path.append("../lib")
    from own_network import Own
    class Here(Own):
        pass
    print(run(Here(), pool).summary["guarantee"] is not None)
    shutil.rmtree("../lib")
    sys.path.append("../moved")
    from gone_network import Gone
    sys.path.remove("../moved")
    try:
        run(Gone(), pool)
    except ComponentFailure as error:
        print(error)
"""


def test_shards_import_from_the_drivers_path_and_take_classes_of_a_script(tmp_path: Path) -> None:
    for folder, module, name in (("lib", "own_network", "Own"), ("moved", "gone_network", "Gone")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{module}.py").write_text(NETWORK.format(name=name))
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    tests = str(Path(__file__).parent)
    (scripts / "run.py").write_text(SCRIPT.format(tests=tests))
    done = subprocess.run([sys.executable, "run.py"], cwd=scripts, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    here, gone = done.stdout.splitlines()
    assert here == "True"
    assert gone == (
        "a shard did not start on Ray: ModuleNotFoundError: No module named 'gone_network'; "
        "install it where the shards run, or use --set run.grid=in-process."
    )
