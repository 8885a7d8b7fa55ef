"""Learning to learn from a handful of examples (MAML), through a billboard, beside training from scratch.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning. A task is one person with images of a few classes. What counts is
how well people do who never took part: of classes that nobody had, or other writers.
"""

PRESETS = (
    "digits",
    "mnist",
    "mnist-long",
    "mnist-even",
    "mnist-people",
    "fashion",
    "femnist",
    "femnist-even",
    "femnist-classes",
    "femnist-apart",
)
