"""What of a run's configuration a server tells its nodes, and what a node makes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedpriv.deploy.owner import OwnerFile
from fedpriv.deploy.refusal import Refusal
from fedpriv.errors import FedprivError

if TYPE_CHECKING:
    from pathlib import Path

    from fedpriv.cohort.tasks import Tasks
    from fedpriv.config import Config
    from fedpriv.experiment import Experiment
    from fedpriv.runtime.node import NodeSpec

__all__ = ["CONFIG_KEY", "digest_of", "node_experiment", "node_spec", "told"]

CONFIG_KEY = "fedpriv"
"""Under which key of the run's configuration it travels, as JSON."""

_TOLD = {"model": None, "client": None, "run": {"seed", "dtype", "engine", "loss", "task_seconds"}}
"""Sections that nodes are told, and which keys; None is all. No path, no data, nothing of the server's own."""


def told(config: Config) -> str:
    """Return what nodes are told of a configuration, as JSON."""
    found = {
        section: {key: value for key, value in config.get(section, {}).items() if keys is None or key in keys}
        for section, keys in _TOLD.items()
    }
    return json.dumps(found, sort_keys=True)


def digest_of(text: str) -> str:
    """Return the SHA-256 by which a journal knows a configuration."""
    return hashlib.sha256(text.encode()).hexdigest()


def node_spec(owner: OwnerFile, folder: Path, tasks: Tasks, text: Any) -> NodeSpec:
    """Build what a node needs for a run, from what its server said and what its owner allows.

    Parameters and errors are those of :func:`node_experiment`.
    """
    experiment = node_experiment(owner, folder, tasks, text)
    with _refusing():
        spec = experiment.node(tasks)
    return replace(spec, tasks=replace(spec.tasks, first=tasks.first))  # its place is in the whole population


def node_experiment(owner: OwnerFile, folder: Path, tasks: Tasks, text: Any) -> Experiment:
    """Build the experiment that a server speaks of, for the node's tasks, if its owner allows it.

    Parameters
    ----------
    owner : OwnerFile
        What is allowed.
    folder : Path
        Of the owner's file.
    tasks : Tasks
        The node's own, under their ids in the population.
    text : Any
        What the server said: whatever it is, it is only read as JSON.

    Raises
    ------
    Refusal
        The configuration is damaged, names what the owner does not allow, or does not fit the data.
    """
    from fedpriv.components import component
    from fedpriv.config import build_experiment
    from fedpriv.own_code import named

    config = _sections(text)
    folders = tuple((folder / place).resolve() for place in owner.allow.code)
    for kind, allowed in (("model", owner.allow.models), ("client", owner.allow.clients)):
        name = config[kind].get("name")
        if not isinstance(name, str):
            raise Refusal(f"the run names no {kind}; this node builds none that it has to guess.")
        if (allowed is not None and name not in allowed) or (allowed is None and named(name)):
            raise Refusal(
                f"this node does not allow the {kind} {name!r}; its owner may add it to allow.{kind}s of the node's "
                "file."
            )
        if any("file" in key or "path" in key for key in config[kind]):
            raise Refusal(f"the run gives its {kind} the path of a file, and this node reads only its owner's.")
    whole: Config = {
        "data": {},
        "model": config["model"],
        "client": config["client"],
        "strategy": {"name": "billboard", "rounds": 1, "noise_multiplier": 1.0, "clipping_norm": 1.0},
        "run": {**config["run"], "declared": tasks.declared, **_ASIDE},
        **({"code": {"path": [str(place) for place in folders]}} if folders else {}),
    }
    with _refusing():
        for kind in ("model", "client"):
            component(kind, config[kind]["name"], folders)
        return build_experiment(whole, roster=tasks.roster).model_copy(update={"policy": owner.policy})


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what is wrong with a run's configuration into a refusal, for which no value of the data is the reason."""
    try:
        yield
    except FedprivError as error:
        raise Refusal(f"this node cannot do what the run asks: {error}") from None


_ASIDE = {"population": "of the node", "ledger": "none", "baseline": True}
"""What protected data need on a server, and a node never uses: it opens no ledger."""


def _sections(text: Any) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    if not isinstance(found, Mapping) or found.keys() != _TOLD.keys():
        raise Refusal(
            "the run says nothing of its model and client that this node can read; start it with `fedpriv deploy run`."
        )
    for section, keys in _TOLD.items():
        values = found[section]
        if not isinstance(values, Mapping) or (keys is not None and not values.keys() <= keys):
            raise Refusal(
                f"the run's section {section!r} holds what no node is told; start it with `fedpriv deploy run`."
            )
    return {section: dict(found[section]) for section in _TOLD}
