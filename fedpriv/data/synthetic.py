"""Generators of tasks by name: populations that need no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedpriv.data.low_rank_sparse import LowRankSparseDesign
from fedpriv.data.regression import RegressionTasks
from fedpriv.errors import InputError
from fedpriv.names import unknown

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Tasks

__all__ = ["SYNTHETIC", "synthetic_tasks"]

SYNTHETIC: dict[str, type[LowRankSparseDesign] | type[RegressionTasks]] = {
    "low-rank-sparse": LowRankSparseDesign,
    "regression": RegressionTasks,
}


def synthetic_tasks(name: str, **settings: Any) -> Tasks:
    """Generate a population by the name of its generator.

    Parameters
    ----------
    name : str
        One of ``SYNTHETIC``.
    **settings
        Fields of that class.

    Raises
    ------
    InputError
        The name or a setting is unknown, or a value is out of bounds.
    """
    if name not in SYNTHETIC:
        raise InputError(unknown("generator", name, SYNTHETIC))
    return SYNTHETIC[name](**settings).make()
