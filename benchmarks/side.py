"""One side in a process of its own: `python -m benchmarks.side SPEC`, where SPEC is a JSON file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.work import Work


def main(path: Path) -> None:
    """Run the side that the file asks for; write ``outcome.json`` and ``model.npz`` beside it."""
    spec = json.loads(path.read_text())
    work, directory = Work(**spec.pop("work")), path.parent
    if spec.pop("side") == "flower":
        from benchmarks.flower_side import run_flower as run
    else:
        from benchmarks.fedpriv_side import run_fedpriv as run  # type: ignore[assignment]
    outcome, model = run(work, directory, **spec)
    np.savez(directory / "model.npz", **model)  # type: ignore[arg-type]
    outcome.write(directory / "outcome.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
