"""Who belongs to which public group of a population."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.protocol import ALL

__all__ = ["members"]


def members(groups: Sequence[int] | None, num_tasks: int) -> dict[str, NDArray[np.int64]]:
    """Return the sorted ids, int64, of each group's tasks from one public label per task; everybody without labels.

    Raises
    ------
    InputError
        There is not one label per task.
    """
    if groups is None:
        return {ALL: np.arange(num_tasks, dtype=np.int64)}
    if len(groups) != num_tasks:
        raise InputError(
            f"groups must hold one public label per task, got {len(groups)} for {num_tasks} tasks; "
            "leave it out for one billboard."
        )
    labels = np.asarray(groups)
    return {f"group-{label}": np.flatnonzero(labels == label) for label in np.unique(labels)}
