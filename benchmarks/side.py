"""One side in a process of its own: `python -m benchmarks.side SPEC`, where SPEC is a JSON file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.outcome import Outcome
from benchmarks.work import Work

_SIDES = {
    "fedpriv": "ours:run_fedpriv",
    "flower": "flower:run_flower",
    "pfl": "pfl_research:run_pfl",
    "local": "local:run_local",
}


def main(path: Path) -> None:
    """Run the side that the file asks for; write ``outcome.json`` and ``model.npz`` beside it."""
    spec = json.loads(path.read_text(encoding="utf-8"))
    work, directory = Work(**spec.pop("work")), path.parent
    module, _, name = _SIDES[spec.pop("side")].partition(":")
    # A side is imported only when it is asked for: each knows libraries that the others may not have.
    run: Callable[..., tuple[Outcome, dict[str, Any]]] = getattr(import_module(f"benchmarks.sides.{module}"), name)
    outcome, model = run(work, directory, **spec)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several of us, which hold the same model
        np.savez(directory / "model.npz", **model)
        outcome.write(directory / "outcome.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
