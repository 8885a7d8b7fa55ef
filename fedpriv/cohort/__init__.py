"""Batches of ragged tasks, and local optimisation over the task axis. Knows no Flower."""

from typing import Any

from fedpriv.cohort.algorithm import ClientAlgorithm, LocalSGD
from fedpriv.cohort.batches import Schedule
from fedpriv.cohort.cohort import Batch, Cohort, Marks, padded_width
from fedpriv.cohort.contents import digest_of
from fedpriv.cohort.descent import Descent
from fedpriv.cohort.engine import Engine, LoopEngine, TaskFailure, VmapEngine
from fedpriv.cohort.engines import engine_named
from fedpriv.cohort.episodes import Episodes, check_shots, draw_episodes, split_examples
from fedpriv.cohort.fast.kernels import KernelEngine
from fedpriv.cohort.inner_loop import InnerLoop, Order
from fedpriv.cohort.learner import Learner, Noise, Scores
from fedpriv.cohort.meta import (
    MetaGradient,
    adapt,
    meta_gradient,
    refuse_once_differentiable,
    refuse_once_differentiable_on,
    task_gradients,
)
from fedpriv.cohort.metrics import METRICS, Metric
from fedpriv.cohort.probe import notes_on, probe
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.randomness import Key, Purpose
from fedpriv.cohort.sharing import Sharing
from fedpriv.cohort.tasks import PARTS, Population, Ragged, Tasks
from fedpriv.cohort.trees import KEPT, Params, State, broadcast, nest, select, subtract, unnest, zeros_like
from fedpriv.cohort.usable import UsableTasks, only, strange_tasks, usable
from fedpriv.names import renamed

__all__ = [
    "KEPT",
    "METRICS",
    "PARTS",
    "Batch",
    "ClientAlgorithm",
    "Cohort",
    "Descent",
    "Engine",
    "Episodes",
    "InnerLoop",
    "KernelEngine",
    "Key",
    "Learner",
    "LocalSGD",
    "LoopEngine",
    "Marks",
    "MetaGradient",
    "Metric",
    "Noise",
    "Order",
    "Params",
    "Population",
    "Problem",
    "Purpose",
    "Ragged",
    "Schedule",
    "Scores",
    "Sharing",
    "State",
    "TaskFailure",
    "Tasks",
    "UsableTasks",
    "VmapEngine",
    "adapt",
    "broadcast",
    "check_shots",
    "digest_of",
    "draw_episodes",
    "engine_named",
    "meta_gradient",
    "nest",
    "notes_on",
    "only",
    "padded_width",
    "probe",
    "refuse_once_differentiable",
    "refuse_once_differentiable_on",
    "select",
    "split_examples",
    "strange_tasks",
    "subtract",
    "task_gradients",
    "unnest",
    "usable",
    "zeros_like",
]

_OLD = {"Usable": "UsableTasks"}
"""Old names of what is here, and their new ones; they work, with a warning, until version 0.2."""


def __getattr__(name: str) -> Any:
    return globals()[renamed(__name__, name, _OLD)]
