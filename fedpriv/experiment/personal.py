"""How the personal models of a run are found: in its nodes, in what they left, or by the last fit once more."""

from __future__ import annotations

import hashlib
import shutil
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedpriv.cohort import ClientAlgorithm
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.names import kebab
from fedpriv.personal import LiveModels, Outline, Personal, refitted, restored
from fedpriv.roster import Roster
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runs.finished import refuse_other_tasks
from fedpriv.runs.record import RunRecord
from fedpriv.runtime.grid import InProcessGrid, LocalGrid
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.strategies.registry import members

if TYPE_CHECKING:
    from fedpriv.experiment.specification import Experiment

__all__ = ["personal_after", "personal_of_finished", "personal_of_node"]

Billboards = Mapping[str, dict[str, NDArray[Any]]]
Config = dict[str, dict[str, Any]]
_MakeNodes = Callable[[], list[Node]]


def personal_after(
    experiment: Experiment,
    own: LocalGrid | None,
    store: CheckpointStore | None,
    rounds: int,
    billboards: Billboards,
    config: Config | None,
) -> Callable[[], Personal]:
    """Keep the states that tasks have after the last fit; return what makes their models when they are asked for.

    Parameters
    ----------
    experiment : Experiment
        As it ran.
    own : LocalGrid or None
        The nodes, if this process started them.
    store : CheckpointStore or None
        Where a run with a folder keeps states.
    rounds : int
        Rounds of the run.
    billboards : mapping
        The last ones.
    config : dict or None
        What the experiment was built from, where it was built from a configuration.
    """
    if own is None:
        return partial(_refuse, _ELSEWHERE)
    if store is not None:
        nodes: _MakeNodes = partial(restored, own.specs, *store.keep_last_states(rounds, own.snapshot))
    elif isinstance(own, InProcessGrid):
        nodes = partial(_nodes_of, own)
    else:  # its shards get other tasks now
        scratch = _Scratch()
        try:
            own.snapshot(scratch.path, rounds)
        except ComponentFailure as error:  # a run that keeps nothing does not fail for that
            return partial(_refuse, f"the states of the tasks were not kept: {error}")
        nodes = partial(_restored_from, scratch, own.specs, rounds)
    return partial(_personal, experiment, billboards, nodes, config)


def personal_of_finished(
    experiment: Experiment, folder: Path, record: RunRecord, config: Config | None
) -> Callable[[], Personal]:
    """Return what makes the models of a finished run when they are asked for.

    Parameters
    ----------
    experiment : Experiment
        The one that was run.
    folder : Path
        The run folder.
    record : RunRecord
        Its record, which says who the tasks were.
    config : dict or None
        What the experiment was built from, where it was built from a configuration.

    Raises
    ------
    InputError
        The experiment's tasks are not those of the run.
    """
    refuse_other_tasks(folder, record, experiment.tasks.fingerprint)
    store = CheckpointStore(folder / "checkpoints")
    billboards = store.load(store.rounds()[-1]).billboards if store.rounds() else {}
    if isinstance(experiment.tasks, Roster) or not billboards:
        return partial(_refuse, _ELSEWHERE)
    kept = store.last_states(experiment.strategy.rounds)
    if kept is None and experiment.client.uses_state:
        return partial(
            _refuse,
            f"{folder} has no states of the end of its run: an earlier version wrote it, or its nodes keep theirs to "
            "themselves; run it once more, with run.grid = 'ray' or 'in-process', to take models out.",
        )

    def nodes() -> list[Node]:
        specs = experiment.specs(experiment.problem(), 1)
        return refitted(specs, billboards, _members(experiment)) if kept is None else restored(specs, *kept)

    return partial(_personal, experiment, billboards, nodes, config)


_ELSEWHERE = (
    "the nodes of this run keep data and personal states to themselves, so there is no model to take out here; that "
    "needs a run with run.grid = 'ray' or 'in-process' and the tasks' data."
)


def personal_of_node(
    experiment: Experiment, node: Node, billboards: Billboards, groups: Mapping[str, NDArray[np.int64]], config: Config
) -> Personal:
    """Return the models of one node's tasks.

    Parameters
    ----------
    experiment : Experiment
        With the node's tasks, counted from 0.
    node : Node
        The same, with their last states.
    billboards : mapping
        The last billboard of each group.
    groups : mapping
        Which of these tasks each group has.
    config : dict
        Where the data came from.
    """
    return _personal(experiment, billboards, lambda: [node], config, groups)


def _personal(
    experiment: Experiment,
    billboards: Billboards,
    nodes: _MakeNodes,
    config: Config | None,
    groups: Mapping[str, NDArray[np.int64]] | None = None,
) -> Personal:
    client, tasks = type(experiment.client), experiment.tasks
    if client.evaluate is not ClientAlgorithm.evaluate and client.models is ClientAlgorithm.models:
        raise InputError(
            f"{client.__name__} scores in a way of its own, so what it scored may be another model than personal() "
            "gives; override models() in the place of evaluate(), and run it once more."
        )
    model = experiment.model
    known: dict[str, Any] = {"name": type(model).__name__, "dtype": experiment.dtype}
    if not isinstance(model, nn.Module):
        name, settings = (model, {}) if isinstance(model, str) else (model.name, model.settings)
        known |= {"name": name, "settings": settings, "seed": experiment.seed}
        known |= {"code": code} if (code := (config or {}).get("code")) else {}
    data = (config or {}).get("data", {})
    outline = Outline(
        roster=experiment.roster,
        problem=experiment.problem(),
        model=known,
        client=kebab(client.__name__),
        digests={group: _digest(arrays) for group, arrays in billboards.items()},
        columns=None if isinstance(tasks, Roster) else tasks.train.columns,
        reading=data if "file" in data else None,
    )
    return Personal(outline, LiveModels(nodes, billboards, _members(experiment) if groups is None else groups))


def _members(experiment: Experiment) -> dict[str, NDArray[np.int64]]:
    return members(experiment.grouped().groups, len(experiment.tasks))


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        found.update(f"{name} {value.dtype} {value.shape}\0".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


def _nodes_of(grid: InProcessGrid) -> list[Node]:
    return [worker.node for worker in grid.workers]


class _Scratch:
    """A private folder that is there as long as this."""

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="fedpriv-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _restored_from(scratch: _Scratch, specs: list[NodeSpec], number: int) -> list[Node]:
    return restored(specs, scratch.path, number)


def _refuse(why: str) -> Personal:
    raise InputError(why)
