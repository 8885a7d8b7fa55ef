"""Server strategies: what the server publishes. One file each; add yours to ``__all__``."""

from fedpriv.strategies.base import TaskStrategy
from fedpriv.strategies.billboard import Billboard
from fedpriv.strategies.malicious import MaliciousMetaLearner
from fedpriv.strategies.silent import Silent

__all__ = ["Billboard", "MaliciousMetaLearner", "Silent", "TaskStrategy"]
