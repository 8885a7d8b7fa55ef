"""Linear models that are low-rank plus sparse: theta_i = U w_i + b_i, batched over tasks, in float64.

Knows no Flower. ``subspace`` and ``packing`` are numpy for the server, the rest is torch for the tasks; so nothing is
imported here.
"""

from __future__ import annotations

__all__: list[str] = []
