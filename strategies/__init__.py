"""Server strategies: what the server publishes. One file each; add yours to ``__all__``."""

from fedpriv.strategies.alternating_minimization import AlternatingMinimization
from fedpriv.strategies.base import TaskStrategy
from fedpriv.strategies.billboard import Billboard
from fedpriv.strategies.malicious import MaliciousMetaLearner
from fedpriv.strategies.silent import Silent

__all__ = ["AlternatingMinimization", "Billboard", "MaliciousMetaLearner", "Silent", "TaskStrategy"]
