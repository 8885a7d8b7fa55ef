"""Mean-regularised personal models through a private billboard (PMTL), beside local-only training.

Hu, Wu, Smith: Private Multi-Task Learning. A task is one person; the server sees clipped sums, everybody else sees the
billboard only.
"""

PRESETS = ("digits", "femnist", "fashion")
