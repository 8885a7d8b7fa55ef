"""Low-rank plus sparse personal models (AMHT-LRS) on tasks whose truth is known, beside simpler models.

Pal and others: Private and Efficient Meta-Learning with Low Rank and Sparse Decomposition. A run adds ``rmse``: the error of
every kind of model on test targets without noise, so 0 means that the truth was found.
"""

from fedpriv.scenarios.lrs_synthetic.measure import measure

PRESETS = ("exact", "published", "private", "private-statistics")

__all__ = ["measure"]
