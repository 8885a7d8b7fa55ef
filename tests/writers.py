"""FEMNIST writers as LEAF's JSON: one file for each node, and one with all of them for a simulation."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 7
"""Pixels of an edge, after pooling."""
_FEWEST = 12


def write_writers(folder: Path, sizes: Sequence[int]) -> list[Path]:
    """Write each node's writers and, last, all of them; no writer is on two nodes, and the names are in order."""
    with np.load(Path(os.environ["FEDPRIV_DATA"]) / "femnist-206" / "femnist-206.npz") as file:
        images, labels, writers = file["images"], file["labels"], file["writers"]
    ids, counts = np.unique(writers, return_counts=True)
    chosen = ids[counts >= _FEWEST][: sum(sizes)]
    factor = 28 // SIDE
    pooled = 1.0 - images.reshape(-1, SIDE, factor, SIDE, factor).mean(axis=(2, 4)) / 255.0
    people = {
        f"writer{place:03d}": {
            "x": pooled[writers == one].round(3).reshape(-1, SIDE * SIDE).tolist(),
            "y": labels[writers == one].tolist(),
        }
        for place, one in enumerate(chosen)
    }
    names, made = list(people), list[Path]()
    cuts = np.cumsum([0, *sizes]).tolist()
    for number, (first, last) in enumerate([*pairwise(cuts), (0, cuts[-1])]):
        path = folder / ("all.json" if number == len(sizes) else f"node{number}.json")
        path.write_text(json.dumps(_leaf({name: people[name] for name in names[first:last]})))
        made.append(path)
    return made


def _leaf(people: dict[str, Any]) -> dict[str, Any]:
    return {"users": list(people), "num_samples": [len(one["y"]) for one in people.values()], "user_data": people}
