"""Who the tasks of a run are and what they hold, in a few texts that a run folder keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedpriv.cohort import Tasks, digest_of
from fedpriv.roster import fingerprint_of

if TYPE_CHECKING:
    from fedpriv.experiment.specification import Experiment

__all__ = ["people_of"]


def people_of(experiment: Experiment, data: Mapping[str, Any]) -> dict[str, str]:
    """Return digests of the tasks' names, of their public groups, and of what they hold.

    Parameters
    ----------
    experiment : Experiment
        Whose tasks are meant.
    data : mapping
        The section ``[data]`` of its configuration. What a known data set by ``name`` holds follows from its settings,
        to the last bits only on one machine: its values are not looked at.

    Returns
    -------
    dict of str
        ``names``, with groups ``groups``, and of data of one's own ``values``: as private as the data.
    """
    tasks = experiment.tasks
    found = {"names": tasks.fingerprint}
    if tasks.groups is not None:
        found["groups"] = fingerprint_of(map(str, tasks.groups))
    if isinstance(tasks, Tasks) and "name" not in data:
        found["values"] = digest_of(tasks)
    return found
