"""What the server does with a noisy sum. One file each; add yours to ``__all__``: users name it in kebab-case."""

from fedpriv.strategies.server_updates.adam import Adam
from fedpriv.strategies.server_updates.sgd import SGD, Momentum
from fedpriv.strategies.server_updates.update import NoisySum, ServerUpdate

__all__ = ["SGD", "Adam", "Momentum", "NoisySum", "ServerUpdate"]
