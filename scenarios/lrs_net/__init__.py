"""Low-rank plus sparse personal networks (the neural form of AMHT-LRS) for writers of characters.

Pal and others: Private and Efficient Meta-Learning with Low Rank and Sparse Decomposition.
"""

PRESETS = ("femnist", "femnist-few", "digits")
