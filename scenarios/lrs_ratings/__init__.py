"""Personal models of ratings that are one shared model plus a few numbers of one's own (AMHT-LRS), beside simpler ones.

Films (MovieLens) and lecturers (InstEval) are described by factors from people who are public; a task is a group of
people, or a student. A run adds ``rmse``: the error of every kind of model on all test examples together, on those of
data-starved tasks (``starved``) and on those of the others (``rich``); and ``own``: numbers per task of each kind.
"""

from __future__ import annotations

from typing import Any

PRESETS = ("movielens", "insteval", "movielens-private", "insteval-private")


def measure(experiment: Any, result: Any) -> dict[str, Any]:
    """Return the errors of simpler models beside those of a run; imported late, so that listing scenarios is quick."""
    from fedpriv.scenarios.lrs_ratings.compare import compare

    return compare(experiment, result)
