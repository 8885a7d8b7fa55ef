"""What a malicious server learns about support and query sets from MAML's gradients, inside the rounds.

Rafiei, Maheri, Rabiee: Privacy Challenges in Meta-Learning. The server publishes the meta-model and follows the
protocol, but reads every task's row before it adds noise, in the first, the middle and the last round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedpriv.config import Config, build_experiment

PRESETS = ("digits", "mnist", "fashion", "femnist")


def build(config: Config, data_dir: Path | None = None) -> Any:
    """Build the experiment; the query set has as many shots as the support set, as in the paper, if not said."""
    client = config["client"]
    if client.get("name") == "maml":
        client = {"queries": config["data"].get("shots", 1), **client}
    return build_experiment({**config, "client": client}, data_dir)
