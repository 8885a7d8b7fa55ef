"""Low-rank plus sparse personal models (AMHT-LRS) on tasks whose truth is known, beside simpler models.

Pal and others: Private and Efficient Meta-Learning with Low Rank and Sparse Decomposition. A run adds ``rmse``: the
error of every kind of model on test targets without noise, so 0 means that the truth was found.
"""

from __future__ import annotations

from typing import Any

PRESETS = ("exact", "normal-equations", "published", "private", "private-statistics")


def measure(experiment: Any, result: Any) -> dict[str, Any]:
    """Return the errors of simpler models beside those of a run; imported late, so that listing scenarios is quick."""
    from fedpriv.scenarios.lrs_synthetic.compare import compare

    return compare(experiment, result)
