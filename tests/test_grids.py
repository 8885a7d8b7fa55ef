"""One algorithm, any grid: in this process, on Ray, and under Flower's own engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpriv.protocol import ALL
from fedpriv.runs import BoundaryStore

SETTINGS = [
    *["data.tasks=30", "strategy.rounds=3", "strategy.noise_multiplier=2.0", "client.epochs=2"],
    *["client.final_epochs=3", "strategy.evaluate_every=1", "model.name=mlp", "model.hidden=8"],
]


@pytest.mark.timeout(400)
def test_all_grids_agree(tmp_path: Path) -> None:
    """Also: no process of Flower's stays behind."""
    results: dict[str, Any] = {}
    for grid in ("in-process", "ray", "flower"):
        sets = [f"--set={item}" for item in [*SETTINGS, f"run.grid={grid}"]]
        words = ["run", "pmtl", "--reproduce", "5", "--out", str(tmp_path / grid), "--json", *sets]
        ran = subprocess.run([sys.executable, "-m", "fedpriv", *words], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        results[grid] = json.loads((tmp_path / grid / "summary.json").read_text())
    reference = BoundaryStore(tmp_path / "in-process/checkpoints").load(3).billboards[ALL]
    for grid in ("ray", "flower"):
        found = BoundaryStore(tmp_path / grid / "checkpoints").load(3).billboards[ALL]
        for name, value in reference.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
        assert results[grid]["guarantee"] == results["in-process"]["guarantee"]
        for model, scores in results["in-process"]["diagnostics"]["per_task"].items():
            # An example at the boundary between two classes may fall either way by rounding.
            assert np.mean(np.array(scores) != results[grid]["diagnostics"]["per_task"][model]) < 0.05
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "fedpriv-flower-" not in processes
