"""Whom fedpriv is measured beside, with the settings that `python -m benchmarks.tune` found fastest for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.work import Model, Work

__all__ = ["OURS", "PEERS", "QUICK", "Peer"]


@dataclass(frozen=True)
class Peer:
    """One side with its settings."""

    name: str  # in the JSON, and for readers
    title: str
    side: str  # what benchmarks/side.py runs
    rounds: int  # measured in every turn; one more warms up
    settings: Mapping[str, Any]
    # Settings that depend on the network; may replace ``rounds``, too.
    by_model: Mapping[Model, Mapping[str, Any]] = field(default_factory=dict)

    def options(self, model: Model) -> dict[str, Any]:
        """All settings for a network."""
        return {**self.settings, **self.by_model.get(model, {})}

    def measured(self, work: Work, *, quick: bool = False) -> dict[str, Any]:
        """Everything that a measured run of this side is told."""
        told = {"rounds": self.rounds, "warm_up": 1, **self.options(work.model)}
        if quick:
            told["rounds"] = max(1, told["rounds"] // 2)
        if self.side == "flower":
            told["warm_up_tasks"] = work.tasks // 5
            if quick:  # all tasks stay registered, fewer take part
                told |= {"warm_up_tasks": work.tasks // 20, "round_tasks": work.tasks // 5}
        return told

    def unmeasured(self, model: Model) -> dict[str, Any]:
        """One round without warm-up, to compare models."""
        told = {**self.options(model), "rounds": 1, "warm_up": 0}
        return {**told, "warm_up_tasks": 0} if self.side == "flower" else told


OURS = Peer("fedpriv", "fedpriv, Ray grid, 2 shards", "fedpriv", 10, {"shards": 2}, {"cnn": {"rounds": 3}})

PEERS = (
    Peer("flower", "Flower, stock Ray engine", "flower", 2, {"clipping": "own", "num_cpus": 0.5}),
    Peer("pfl_one", "pfl-research, 1 process", "pfl", 2, {"processes": 1}),
    Peer("pfl", "pfl-research, 2 processes", "pfl", 2, {"processes": 2}),
    Peer("plain", "plain PyTorch loop, 1 process", "local", 2, {"module": "plain", "processes": 1}),
    Peer(
        "vmap",
        "`torch.func.vmap` by hand, 2 processes",
        "local",
        3,
        {"module": "vmap", "processes": 2},
        {"mlp": {"megabytes": 16}, "linear": {"megabytes": 4}, "cnn": {"megabytes": 2, "rounds": 2}},
    ),
    Peer(
        "limit",
        "bare batched loop, 2 processes",
        "local",
        10,
        {"module": "bare", "processes": 2},
        {"mlp": {"megabytes": 4}, "linear": {"megabytes": 4}, "cnn": {"megabytes": 1, "rounds": 3}},
    ),
)

QUICK = ("flower", "pfl", "limit")
"""Peers of the quick run."""
