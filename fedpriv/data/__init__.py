"""Data sets, and how they become tasks.

::

    tasks = load("digits").partition("dirichlet", tasks=100, alpha=0.3, seed=0)

======================  ==========================================================
``catalog``             where the data come from: licences, files, checksums
``loading``             ``load``: files to a ``Dataset``
``dataset``             ``Dataset.partition``: a ``Dataset`` to ``Tasks``
``fewshot``             ``few_shot``: a ``Dataset`` to tasks of few classes, and people held out
``schemes``             the partition schemes and their options
``exact``               Dirichlet draws of exact size
``flower``              the partitioners of flwr-datasets
``regression``          synthetic linear-regression tasks with known optima
``low_rank_sparse``     linear tasks that are low-rank plus sparse
``synthetic``           the generators by name
``natural``             regression tasks that exist: raters, groups of raters, schools
``item_factors``        features of rated items, from people who are public
``tables``              columns of text tables
``own_file``            a data file of one's own by the keys of ``[data]``
``own_report``          what was read of it
``keep``                what was loaded or divided last, for the next experiment
``checks``              ``check``: are the files here, and the right ones?
======================  ==========================================================

Importing this package is cheap: scikit-learn and flwr-datasets are imported when they are needed.
"""

from __future__ import annotations

from fedpriv.data.catalog import SourceFile, SourceInfo, sources
from fedpriv.data.checks import CheckResult, check
from fedpriv.data.dataset import Dataset
from fedpriv.data.fewshot import FewShot, few_shot
from fedpriv.data.keep import keep_data, kept
from fedpriv.data.loading import load
from fedpriv.data.low_rank_sparse import LowRankSparseDesign, LowRankSparseTruth
from fedpriv.data.natural import NATURAL, natural_tasks
from fedpriv.data.own_file import OwnFile, own_inputs, own_tasks
from fedpriv.data.own_report import check_own_file
from fedpriv.data.regression import regression_optima, regression_tasks
from fedpriv.data.schemes import scheme_names
from fedpriv.data.synthetic import synthetic_tasks

__all__ = [
    "NATURAL",
    "CheckResult",
    "Dataset",
    "FewShot",
    "LowRankSparseDesign",
    "LowRankSparseTruth",
    "OwnFile",
    "SourceFile",
    "SourceInfo",
    "check",
    "check_own_file",
    "few_shot",
    "keep_data",
    "kept",
    "load",
    "natural_tasks",
    "own_inputs",
    "own_tasks",
    "regression_optima",
    "regression_tasks",
    "scheme_names",
    "sources",
    "synthetic_tasks",
]
