"""The personal models of a node's tasks, after the last fit of a run: made on the node, from its journal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from fedpriv.deploy.configuration import node_experiment
from fedpriv.deploy.journal import LastingMemory, RunJournal, last_of, read_last
from fedpriv.deploy.owner import OwnerFile, state_folder
from fedpriv.errors import InputError
from fedpriv.experiment.personal import personal_of_node
from fedpriv.names import unknown
from fedpriv.personal import Personal
from fedpriv.protocol import RunName
from fedpriv.runtime.node import Node

__all__ = ["personal_of_journal"]


def personal_of_journal(file: Path, run: str | None = None, data_dir: Path | None = None) -> Personal:
    """Return the models that the tasks of a node have from a run; nothing leaves the node.

    Parameters
    ----------
    file : Path
        The owner's.
    run : str or None
        The run's name, as ``fedpriv deploy status NODE.toml`` says it; the last finished one unless given.
    data_dir : Path or None
        Where known data sets lie.

    Raises
    ------
    InputError
        The node has finished no such run, or the owner's file is wrong.
    ComponentFailure
        A file of the node is damaged, or its data are not those of the run.
    """
    owner, file = OwnerFile.read(file), file.resolve()
    state = state_folder(file)
    found = sorted(state.glob("last-*.npz"), key=lambda path: path.stat().st_mtime_ns)
    runs = {str(header["run"]): (header, path) for path in found for header in [read_last(path)[0]]}
    if not runs:
        raise InputError(f"node {owner.name} has finished no run yet, so its tasks have no models; run one first.")
    if run is not None and run not in runs:
        raise InputError(unknown("finished run", run, runs))
    path = runs[run][1] if run is not None else found[-1]
    header, billboards, groups = read_last(path)
    tasks = owner.tasks(data_dir)
    experiment = node_experiment(owner, file.parent, tasks, header["said"]).model_copy(update={"tasks": tasks})
    node = Node(replace(experiment.node(tasks), tasks=tasks))
    journal = RunJournal(state, RunName(header["population"], header["run"]))
    if last_of(journal.path) != path:
        raise InputError(f"{path} is not of the run that it names; restore the node's folder from a copy.")
    journal.read(node, LastingMemory(), None)
    config = {"data": dict(owner.data), **({"code": {"path": list(owner.allow.code)}} if owner.allow.code else {})}
    return personal_of_node(experiment, node, billboards, groups, json.loads(json.dumps(config)))
