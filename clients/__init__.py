"""Client algorithms: what a task does with a billboard. One file each; add yours to ``__all__``."""

from fedpriv.clients.global_model import FedProx, GlobalModel
from fedpriv.clients.local_only import LocalOnly
from fedpriv.clients.low_rank_sparse import FrozenLowRankSparse, LowRankSparse, PublishedLowRankSparse
from fedpriv.clients.low_rank_sparse_net import LowRankSparseNet
from fedpriv.clients.maml import MAML
from fedpriv.clients.mean_regularized import MeanRegularized

__all__ = [
    "MAML",
    "FedProx",
    "FrozenLowRankSparse",
    "GlobalModel",
    "LocalOnly",
    "LowRankSparse",
    "LowRankSparseNet",
    "MeanRegularized",
    "PublishedLowRankSparse",
]
