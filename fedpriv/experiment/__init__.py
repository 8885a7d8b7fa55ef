"""An experiment: tasks, a model, a client algorithm and a strategy, run on a grid and accounted for."""

from fedpriv.experiment.specification import Experiment, ModelSettings

__all__ = ["Experiment", "ModelSettings"]
