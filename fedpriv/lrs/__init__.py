"""Linear models that are low-rank plus sparse: theta_i = U w_i + b_i, batched over tasks, in float64.

Knows no Flower. ``packing`` and ``subspace`` are numpy, for the server; the rest is torch, for the tasks. So nothing is
collected here: import the modules.
"""
