"""Advice about data, models and whole experiments is true: what is refused, what is said, and that doing it helps."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from advice import GONE, Case, cases
from helpers import Unbending, experiment, toy_tasks
from scipy.sparse import csr_array
from torch import nn

from fedpriv import InputError, Target
from fedpriv.adversary import Watch, with_watch
from fedpriv.clients import MAML, GlobalModel, LocalOnly, LowRankSparse, LowRankSparseNet
from fedpriv.cohort import Ragged, Tasks, check_shots
from fedpriv.data import Dataset, FewShot, few_shot, load
from fedpriv.experiment import Experiment, ModelSettings
from fedpriv.models.factored import Factored
from fedpriv.privacy import NodePolicy
from fedpriv.privacy.terms import Relation
from fedpriv.strategies import AlternatingMinimization, Billboard

X = [np.arange(12, dtype="float32").reshape(4, 3) + k for k in range(3)]
Y = [np.array([0, 1, 0, 1]) for _ in X]
REPLACE = Relation.REPLACE_ONE


@functools.cache
def digits() -> Dataset:
    return load("digits")


@functools.cache
def toys(**changes: Any) -> Tasks:
    return toy_tasks(8, **changes)


# --- arrays and tasks ------------------------------------------------------------------------------------------------


def made(
    inputs: Any = None, targets: Any = None, offsets: Any = None, count: int = 3, test: Any = None, **changes: Any
) -> Tasks:
    """Three tasks of four examples, checked."""
    inputs, targets = X if inputs is None else inputs, Y if targets is None else targets
    part = Ragged.from_lists(inputs, targets) if offsets is None else Ragged(inputs, targets, offsets)
    names = tuple(f"task-{k}" for k in range(count))
    known: dict[str, Any] = {"names": names, "num_classes": 2, "declared": "benchmark", "validation": part}
    tasks = Tasks("own", train=part, test=part if test is None else test, **{**known, **changes})
    tasks.check()
    return tasks


def twice(values: Any, count: int = 3) -> list[Any]:
    return [values] * count


FLOATS = X[0]
STRANGE = np.where(FLOATS > 5, np.nan, FLOATS)

ARRAYS = cases(
    made,
    {},
    (
        {"inputs": twice(FLOATS > 5)},
        "give numbers, .astype('float32')",
        {"inputs": twice((FLOATS > 5).astype("float32"))},
    ),
    (
        {"inputs": twice(FLOATS + 1j)},
        "give real and imaginary parts",
        {"inputs": twice(np.concatenate([FLOATS.real, FLOATS.imag], axis=1))},
    ),
    (
        {"inputs": twice(FLOATS.astype("datetime64[D]"))},
        "give numbers, such as days since",
        {"inputs": twice((FLOATS.astype("datetime64[D]") - np.datetime64("1970-01-01")) / np.timedelta64(1, "D"))},
    ),
    (
        {"inputs": twice(FLOATS.astype("timedelta64[s]"))},
        "give numbers, such as seconds",
        {"inputs": twice(FLOATS.astype("timedelta64[s]") / np.timedelta64(1, "s"))},
    ),
    (
        {"targets": twice(np.array(["no", "yes", "no", "yes"]))},
        "give numbers; number classes and words by a list",
        {"targets": twice([["no", "yes"].index(word) for word in ("no", "yes", "no", "yes")])},
    ),
    (
        {"inputs": twice(FLOATS.astype(object))},
        "make numbers of them",
        {"inputs": twice(np.asarray(FLOATS.astype(object), dtype="float32"))},
    ),
    (
        {"inputs": twice(np.zeros(4, dtype=[("a", "f4")]))},
        "give one plain array of numbers",
        {"inputs": twice(np.zeros(4, dtype=[("a", "f4")])["a"].reshape(4, 1))},
    ),
    (
        {"inputs": twice(FLOATS.astype("uint64"))},
        "got uint64; give .astype('int64')",
        {"inputs": twice(FLOATS.astype("uint64").astype("int64"))},
    ),
    (
        {"inputs": twice(np.float32(3))},
        "got a single number; give an array [n, ...]",
        {"inputs": twice(np.full((4, 1), 3.0))},
    ),
    (
        {"inputs": twice(torch.from_numpy(FLOATS).to_sparse())},
        "give .to_dense() or",
        {"inputs": twice(torch.from_numpy(FLOATS).to_sparse().to_dense())},
    ),
    (
        {"inputs": twice(csr_array(FLOATS))},
        "give the array that it holds, of a sparse matrix .toarray()",
        {"inputs": twice(csr_array(FLOATS).toarray())},
    ),
    (
        {"inputs": twice(np.ma.masked_array(FLOATS, FLOATS > 5))},
        "leave the masked examples out, or fill them (.filled(value))",
        {"inputs": twice(np.ma.masked_array(FLOATS, FLOATS > 5).filled(0.0))},
    ),
    (
        {"inputs": twice([[1.0], [1.0, 2.0], [3.0], [4.0]])},
        "give one array of numbers [n, ...], all examples",
        {"inputs": twice([[1.0, 0.0], [1.0, 2.0], [3.0, 0.0], [4.0, 0.0]])},
    ),
    (
        {"offsets": [2, 4, 8, 12], "inputs": np.concatenate(X), "targets": np.concatenate(Y)},
        "Ragged.from_lists makes them.",
        {"inputs": GONE, "targets": GONE, "offsets": GONE},
    ),
    (
        {"names": ("a", "b", "\ud800")},
        "got half of a surrogate pair; rename that task",
        {"names": ("a", "b", "c")},
    ),
    ({"names": ("a", "b", "c\0")}, "in the fingerprint; rename that task", {"names": ("a", "b", "c")}),
    ({"names": ("a", "b", 3)}, "use str(...), and the same spelling", {"names": ("a", "b", str(3))}),
    (
        {"names": ("a", "b", "a")},
        "rename one of them, or join their examples",
        {"names": ("a", "b", "c")},
        {"names": ("a", "b"), "inputs": [X[0], X[1]], "targets": [Y[0], Y[1]]},
    ),
    (
        {"inputs": [], "targets": []},
        "so there are no tasks; give one array per task",
        {"inputs": GONE, "targets": GONE},
    ),
    (
        {"inputs": [X[0], X[1], X[2].astype("int64")]},
        "; give all tasks one type, such as",
        {"inputs": [X[0], X[1], X[2].astype("int64").astype("float32")]},
    ),
    ({"inputs": X[:2]}, "; give both for each task", {"inputs": X}),
    (
        {"declared": ""},
        "declared='protected' for data of people (all runs spend one privacy budget, kept in a ledger file), or "
        "declared='benchmark' for",
        {"declared": "protected"},
        {"declared": "benchmark"},
    ),
    (
        {"inputs": [X[0], X[1], X[2][:0]], "targets": [Y[0], Y[1], Y[2][:0]]},
        "has no training examples; drop it or give it data",
        {"inputs": X[:2], "targets": Y[:2], "names": ("a", "b")},
        {"inputs": X, "targets": Y},
    ),
    (
        {"inputs": [X[0], X[1], STRANGE]},
        "mend it, or leave the task out",
        {"inputs": [X[0], X[1], np.nan_to_num(STRANGE)]},
        {"inputs": X[:2], "targets": Y[:2], "names": ("a", "b")},
    ),
    (
        {"test": Ragged.from_lists([X[0], X[1], X[2][:0]], [Y[0], Y[1], Y[2][:0]])},
        "so it cannot be scored; give it more data",
        {"test": GONE},
    ),
    (
        {"test": Ragged.from_lists([x.astype("int64") for x in X], Y)},
        "give all parts one type, such as",
        {"test": Ragged.from_lists([x.astype("int64").astype("float32") for x in X], Y)},
    ),
    (
        {"targets": [np.eye(2, dtype="int64")[y] for y in Y]},
        "give .argmax(axis=1) of one-hot rows, .reshape(-1) of a column, or num_classes=None",
        {"targets": [np.eye(2, dtype="int64")[y].argmax(axis=1) for y in Y]},
        {"num_classes": None},
    ),
    (
        {"targets": [y.astype("float32") for y in Y]},
        "give .astype('int64'), or num_classes=None for values",
        {"targets": [y.astype("float32").astype("int64") for y in Y]},
        {"num_classes": None},
    ),
    (
        {"targets": [y[:, None] for y in Y]},
        ".reshape(-1) of a column",
        {"targets": [y[:, None].reshape(-1) for y in Y]},
    ),
)

# --- few-shot tasks, partitions --------------------------------------------------------------------------------------


def shots_of(shots: int, **changes: Any) -> None:
    check_shots(made(**changes), shots)


def dealt(data: Any = None, **settings: Any) -> Any:
    return few_shot(digits() if data is None else data, FewShot(**settings))


@functools.cache
def femnist() -> Dataset:
    return load("femnist", size=14)


def divided(partition: str, data: Any = None, **settings: Any) -> Tasks:
    return (digits() if data is None else data).partition(partition, **settings)


@functools.cache
def small(kind: str) -> Dataset:
    """Forty flat examples: two classes of twenty, one class, or one with a few other examples."""
    counts = {"even": 20, "three others": 3, "one other": 1, "one class": 0}[kind]
    labels = np.array([0] * (40 - counts) + [1] * counts)
    return replace(digits(), name="small", inputs=np.zeros((40, 3), "float32"), targets=labels, num_classes=2)


@functools.cache
def letters() -> Dataset:
    """Four writers of 0, O, 1 and l, five or six times each: by their shapes two classes."""
    labels = np.tile(np.repeat([0, 24, 1, 47], [6, 5, 5, 5]), 4)
    writers = np.repeat(np.arange(4), 21)
    return replace(
        digits(),
        name="femnist",
        inputs=np.zeros((84, 1, 4, 4), "float32"),
        targets=labels,
        num_classes=62,
        natural_ids=writers,
    )


def named(ids: Any) -> Tasks:
    """Four tasks, one per natural id of letters."""
    return replace(letters(), natural_ids=ids).partition("natural", tasks=4)


MADE_BY: list[Any] = [1, "two", 3.5, None]
"""Who made the letters, in types that cannot be ordered."""

SMALL = {"data": small("even"), "ways": 2, "held_out_classes": 0, "held_out": 1, "tasks": 1}

FEW = [
    *cases(
        shots_of,
        {},
        ({"shots": 2}, "lower the shots to {} or give the task more examples", {"shots": 1}),
        (
            {"shots": 1, "targets": [Y[0], Y[1], np.array([0, 1, 1, 1])]},
            "give the task more examples, or leave it out",
            {"targets": Y},
            {"inputs": X[:2], "targets": Y[:2], "count": 2},
        ),
        ({"shots": 1, "targets": [Y[0], Y[1], np.zeros(4, int)]}, "; give it at least 2 ways", {"targets": Y}),
        (
            {"shots": 4, "declared": "protected"},
            "lower the shots to {} or give the task more examples",
            {"shots": 3},
        ),
    ),
    *cases(
        dealt,
        {"ways": 3, "examples": 6, "tasks": 4, "held_out": 4},
        (
            {"shots": 5},
            "and 2 are needed (to learn by, and to score); raise data.examples to {}",
            {"examples": 7},
            {"shots": 4},
        ),
        ({"examples": 2}, "and 2 are needed (to learn by, and to score); raise data.examples to {}", {"examples": 3}),
        ({"turns": True, **SMALL}, "; leave out data.turns", {"turns": GONE}),
        ({"apart": True, "data": replace(digits(), name="numbers")}, "; leave out data.apart", {"apart": GONE}),
        (
            {"apart": True, **SMALL, "data": letters(), "held_out_classes": 1},
            "parting some that look alike; change data.held_out_classes",
            {"held_out_classes": 2},
        ),
        (
            {"by": "writers", **SMALL, "data": letters(), "held_out_classes": 2},
            "people are held out and not classes; leave out data.held_out_classes",
            {"held_out_classes": GONE},
        ),
        (
            {
                "by": "writers",
                **SMALL,
                "data": letters(),
                "held_out_classes": GONE,
                "shots": 5,
                "examples": 8,
                "ways": 4,
            },
            "are asked to learn; lower data.ways, data.shots, data.held_out or data.tasks",
            {"shots": 1},
        ),
        (
            {"by": "writers", **SMALL, "data": letters(), "held_out_classes": GONE, "tasks": 4, "ways": 4},
            "{} are held out and {} are asked to learn; lower data.ways, data.shots, data.held_out or",
            {"tasks": 3},
        ),
        ({"ways": 6}, "lower data.ways or change data.held_out_classes", {"ways": 5}, {"held_out_classes": 0}),
        (
            {"examples": 80, "tasks": 9, "held_out": 1},
            "are asked for; lower data.examples",
            {"examples": 6},
            {"tasks": 3},
        ),
        (
            {"examples": 80, "tasks": 1},
            "are asked for; lower data.examples",
            {"examples": 6},
            {"held_out": 3},
        ),
        ({"by": "writers"}, "; set data.by = 'classes', or use femnist", {"by": "classes"}),
    ),
    *cases(
        divided,
        {"partition": "dirichlet", "tasks": 10, "alpha": 0.5},
        ({"tasks": GONE}, "; give it, for example tasks=100", {"tasks": 100}),
        (
            {"sizes": "natural", "examples": 10},
            "leave it out or set sizes={}",
            {"examples": GONE},
            {"sizes": "exact"},
        ),
        ({"tasks": 1000}, "lower tasks to {} or less.", {"tasks": 1797 // 4}),
        (
            {"tasks": 10, "examples": 200},
            "examples, the data set has {}; lower",
            {"examples": 1797 // 10},
            {"tasks": 1797 // 200},
        ),
        (
            {"tasks": 5, "data": small("one other")},
            "fewer than the {} tasks; {}",
            {"tasks": 1},
        ),
        ({"tasks": 1000, "examples": 40}, "examples, the data set has {}; lower", {"tasks": 1797 // 40}),
        ({"tasks": 5, "data": small("one class")}, "choose another data set", {"data": GONE}),
        (
            {"sizes": "natural", "alpha": 0.01},
            "raise alpha, lower tasks, lower min_examples",
            {"alpha": 100.0},
            {"sizes": "exact"},
        ),
    ),
    *cases(
        named,
        {},
        (
            {"ids": np.array([MADE_BY[writer] for writer in letters().natural_ids], dtype=object)},
            "one for each example, got {} of shape {}; give [str(one) for one in ids] of other values",
            {"ids": tuple(str(MADE_BY[writer]) for writer in letters().natural_ids)},
        ),
    ),
    *cases(
        divided,
        {"partition": "natural", "data": letters(), "tasks": 4},
        ({"data": GONE}, "or another data set (femnist)", {"data": letters()}, {"data": GONE, "partition": "iid"}),
        ({"tasks": 5}, "tasks are asked for; lower tasks or min_examples", {"tasks": 4}),
        ({"min_examples": 50}, "tasks are asked for; lower tasks or min_examples", {"min_examples": 21}),
    ),
    *cases(
        divided,
        {"partition": "iid", "tasks": 4, "drop_unusable": True, "data": small("even")},
        (
            {"tasks": 40},
            "can be trained on and tested; lower tasks or choose another partition",
            {"tasks": 4},
        ),
    ),
    *cases(
        divided,
        {"partition": "shards", "tasks": 10, "data": small("one other")},
        (
            {"classes_per_task": 2},
            "examples than tasks that need it; lower tasks or classes_per_task",
            {"classes_per_task": 1, "tasks": 2},
            {"tasks": 1},
        ),
    ),
    *cases(
        divided,
        {"partition": "shards", "tasks": 10},
        (
            {"classes_per_task": 2, "shards_per_task": 2},
            "exclude each other; give one of them",
            {"classes_per_task": GONE},
            {"shards_per_task": GONE},
        ),
        ({"shards_per_task": 200}, "examples; lower tasks or shards_per_task", {"shards_per_task": 20}, {"tasks": 8}),
    ),
]

# --- experiments -----------------------------------------------------------------------------------------------------


def planned(**changes: Any) -> Experiment:
    """An experiment, checked as a run does before it starts."""
    built = experiment(changes.pop("tasks", toys()), **changes)
    built.check()
    return built


BOARD: dict[str, Any] = {"clipping_norm": 1.0, "rounds": 2, "noise_multiplier": 1.0}
QUIET = Billboard(**{**BOARD, "noise_multiplier": 0.0})
ALONE = {"client": LocalOnly()}


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    net[0].requires_grad_(False)
    return net


@functools.cache
def learners() -> Tasks:
    """Tasks with enough examples of each class for an episode."""
    return dealt(ways=3, examples=6, tasks=4, held_out=1)[0]


def board(**changes: Any) -> Billboard:
    return Billboard(**{**BOARD, **changes})


def protected(**changes: Any) -> Experiment:
    tasks = replace(toys(), declared="protected")
    return experiment(tasks, **changes)


def huge(scale: float) -> Tasks:
    tasks = toys()
    part = Ragged(tasks.train.inputs.astype("float64") * scale, tasks.train.targets, tasks.train.offsets)
    return replace(
        tasks,
        train=part,
        **{
            name: replace(tasks.part(name), inputs=tasks.part(name).inputs.astype("float64"))  # type: ignore[arg-type]
            for name in ("validation", "test")
        },
    )


def values() -> Tasks:
    tasks = toys()
    return replace(tasks, num_classes=None)


def net(rank: int = 2, **more: Any) -> ModelSettings:
    return ModelSettings(name="low-rank-net", settings={"hidden": 7, "rank": rank, **more})


def values_of(loss: str = "squared", **changes: Any) -> Experiment:
    """Low-rank-plus-sparse models of tasks with one value each."""
    part = [np.random.default_rng(k).normal(size=(6, 4)) for k in range(5)]
    data = Ragged.from_lists(part, [one.sum(axis=1) for one in part])
    tasks = Tasks("values", tuple("abcde"), data, data, data, None, declared="benchmark")
    known: dict[str, Any] = {
        "model": ModelSettings(name="low-rank"),
        "client": LowRankSparse(sparsity=1),
        "strategy": AlternatingMinimization(clipping_norm=1.0, rounds=1, noise_multiplier=0.0),
    }
    built = experiment(tasks, **{**known, **changes})
    built.run()
    return built


def with_held_out(names: str = "new", kind: str = "float32", **changes: Any) -> Experiment:
    """An experiment with people held out who are like the population."""
    tasks = toys()
    parts = {
        part: replace(tasks.part(part), inputs=tasks.part(part).inputs.astype(kind))  # type: ignore[arg-type]
        for part in ("train", "validation", "test")
    }
    people = replace(tasks, names=tuple(f"{names}-{k}" for k in range(len(tasks))), **parts)
    return experiment(tasks, held_out=people, **changes)


def reproduced(declared: str = "protected", reproduce: bool = True) -> None:
    known = {"population": "people", "ledger": Path("people.sqlite")} if declared == "protected" else {}
    experiment(replace(toys(), declared=declared), **known).check(reproduced=reproduce)


def layers(*between: nn.Module, last: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), *between, nn.Linear(4, 3) if last is None else last)


def shared(*, again: bool) -> nn.Module:
    one = nn.Linear(5, 5)
    return nn.Sequential(one, nn.ReLU(), one if again else nn.Linear(5, 5), nn.Linear(5, 3))


def lazy(*, seen: bool) -> nn.Module:
    net = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3))
    if seen:
        net(torch.zeros(1, 5))
    return net


def spoiled(mend: str = "") -> nn.Module:
    """A network that holds a NaN before any training, or what is done about it."""
    net = layers()
    nn.init.constant_(net[0].weight, float("nan"))  # type: ignore[index,arg-type]
    if mend == "initialise":
        net[0].reset_parameters()  # type: ignore[index,operator]
    if mend == "load":
        net.load_state_dict(layers().state_dict())
    return net


class Named(nn.Module):
    """A linear model whose parameter has a name of one's choice, or none."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._parameters[name] = nn.Parameter(torch.zeros(5, 3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self._parameters[self.name]


MODELS = [
    *cases(
        planned,
        {},
        (
            {"model": layers(nn.BatchNorm1d(4))},
            "replace it by GroupNorm or LayerNorm, or keep its statistics as they are with .eval() on this layer",
            {"model": layers(nn.GroupNorm(2, 4))},
            {"model": layers(nn.LayerNorm(4))},
            {"model": layers(nn.BatchNorm1d(4).eval())},
        ),
        (
            {"model": layers(nn.BatchNorm1d(4, track_running_stats=False))},
            "mixes the examples of a batch; replace it by GroupNorm",
            {"model": layers(nn.GroupNorm(2, 4))},
        ),
        ({"model": layers(nn.Dropout(0.5))}, "so results would depend on sharding; remove it", {"model": layers()}),
        ({"model": shared(again=True)}, "register it once and call it twice", {"model": shared(again=False)}),
        ({"model": lazy(seen=False)}, "run one example through the model first", {"model": lazy(seen=True)}),
        (
            {"model": spoiled()},
            "initialise it, or load other weights",
            {"model": spoiled("initialise")},
            {"model": spoiled("load")},
        ),
        ({"model": Named("a/b")}, "which messages cannot carry; rename it", {"model": Named("b")}),
        ({"model": nn.Identity()}, "has no parameters to learn; choose another model", {"model": "linear"}),
        (
            {"model": layers(last=nn.Linear(4, 2))},
            "one per class, got shape {} for {} examples; change its last layer",
            {"model": layers()},
        ),
        (
            {"tasks": values(), "model": layers()},
            "outputs of shape {} for every example, got shape {} for {} examples; change its last layer",
            {"model": layers(last=nn.Linear(4, 1))},
        ),
    ),
]

LIMITED = ModelSettings(name="linear")
LEARNED = [
    *cases(
        values_of,
        {},
        (
            {"model": LIMITED, "client": GlobalModel()},
            "set model.name='low-rank', or strategy.name='billboard'",
            {"model": ModelSettings(name="low-rank")},
            {"strategy": board()},
        ),
        (
            {"model": LIMITED, "strategy": board()},
            "whose billboard holds 'factors', got {}; set model.name='low-rank'.",
            {"model": ModelSettings(name="low-rank")},
        ),
        ({"dtype": "float32"}, "set run.dtype='float64'", {"dtype": "float64"}),
        (
            {"client": LowRankSparse(sparsity=9)},
            "number of features {}, got {}; use fewer",
            {"client": LowRankSparse(sparsity=4)},
        ),
    ),
    *cases(
        with_held_out,
        {},
        ({"names": "task"}, "is in the population, too; leave it out", {"names": "new"}),
        ({"kind": "int64"}, "got {}; give both one type", {"kind": "float32"}),
    ),
    *cases(
        reproduced,
        {},
        (
            {},
            "leave out reproduce, or declare the data a benchmark if they are public",
            {"reproduce": False},
            {"declared": "benchmark"},
        ),
    ),
    *cases(
        LowRankSparseNet,
        {},
        (
            {"personal_steps": 0, "final_steps": 0},
            "and 'final_steps' are both 0, so nothing would be personal",
            {"final_steps": 1},
        ),
    ),
]

TRIED = [
    *cases(
        planned,
        {"strategy": board()},
        ({"client": LocalOnly()}, "which the strategy {} cannot use; use {}", {"client": GlobalModel()}),
        (
            {"population": " "},
            "name whose budget this run spends, or leave it out",
            {"population": "people"},
            {"population": GONE},
        ),
        ({"budget_filter": "gdp"}, "and there is none; give 'budget'", {"budget": Target(epsilon=50.0)}),
        (
            {
                "tasks": learners(),
                "client": MAML(noise_validation=1.0, order="first"),
                "strategy": board(metrics=("personal.loss",), metrics_epsilon=1.0),
            },
            "leave out strategy.metrics, or the client's noise",
            {"strategy": board()},
            {"client": MAML(order="first")},
        ),
        (
            {
                "tasks": learners(),
                "client": MAML(order="first", from_zero=("3.weight", "3.bias")),
                "strategy": board(metrics=("billboard.loss",), metrics_epsilon=1.0),
            },
            "publish personal.* instead",
            {"strategy": board(metrics=("personal.loss",), metrics_epsilon=1.0)},
        ),
        (
            {"task_seconds": 60.0, "timeout": 30.0},
            "raise the second, or lower the first",
            {"timeout": 61.0},
            {"task_seconds": 3.0},
        ),
        (
            {"tasks": huge(1e39), "dtype": "float32"},
            "scale its values, or set run.dtype = 'float64'",
            {"tasks": huge(1.0)},
            {"dtype": "float64"},
        ),
        ({"tasks": values(), "loss": "cross-entropy"}, "give Tasks num_classes", {"tasks": toys()}),
        (
            {"policy": NodePolicy(max_clipping_norm=5.0), "strategy": board(clipping="adaptive")},
            "set 'largest_clipping_norm' to {}",
            {"strategy": board(clipping="adaptive", largest_clipping_norm=5.0)},
        ),
        (
            {
                "tasks": values(),
                "model": "linear",
                "strategy": board(metrics=("personal.accuracy",), metrics_epsilon=1.0),
            },
            "release the metric 'personal.loss' instead",
            {"strategy": board(metrics=("personal.loss",), metrics_epsilon=1.0)},
        ),
        (
            {"strategy": board(noise_multiplier=None, target=Target(epsilon=2000.0))},
            "which protects nobody; set 'noise_multiplier' itself instead",
            {"strategy": board()},
        ),
        (
            {"strategy": board(noise_multiplier=None, target=Target(epsilon=1e-9))},
            "give a larger one, or set 'noise_multiplier' itself",
            {"strategy": board(noise_multiplier=None, target=Target(epsilon=1.0))},
            {"strategy": board()},
        ),
        (
            {"strategy": board(clipping="adaptive", clipped_count_stddev=1e-3)},
            "leave it out for a good default",
            {"strategy": board(clipping="adaptive")},
        ),
        (
            {"strategy": board(clipping="adaptive", clipped_count_stddev=1e12)},
            "would be nothing but noise; lower it, or use more noise",
            {"strategy": board(clipping="adaptive", clipped_count_stddev=2.0)},
            {"strategy": board(clipping="adaptive", clipped_count_stddev=1e12, noise_multiplier=1e10)},
        ),
        (
            {"tasks": learners(), "client": MAML(), "model": Unbending()},
            "replace that layer, or use first order (client.order = 'first')",
            {"model": "mlp"},
        ),
        (
            {
                "tasks": learners(),
                "client": MAML(order="first", from_zero=("1.weight", "1.bias", "3.weight", "3.bias")),
            },
            "; name those of the last layer",
            {"client": MAML(order="first", from_zero=("3.weight", "3.bias"))},
        ),
        (
            {"client": LowRankSparseNet(network_rate=0.0), "model": net()},
            "set strategy.noise_multiplier = 0, or a rate above 0",
            {"strategy": QUIET},
            {"client": LowRankSparseNet(network_rate=0.5)},
        ),
        (
            {"client": LowRankSparseNet(sparsity=5), "strategy": QUIET, "model": "mlp"},
            "set model.name = 'low-rank-net', or wrap your own: fedpriv.models.factored.Factored(network, rank)",
            {"model": net()},
            {"model": Factored(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), 2)},
        ),
        (
            {"client": LowRankSparseNet(network_rate=0.0, sparsity=5), "strategy": QUIET, "model": net(0)},
            "set 'network_rate' above 0, or 'rank' to at least 1",
            {"client": LowRankSparseNet(network_rate=1.0, sparsity=5)},
            {"model": net(1)},
        ),
        (
            {"client": LowRankSparseNet(sparsity=0), "strategy": QUIET, "model": net(0)},
            "'rank' and 'sparsity' are both 0, so nothing would be personal; use",
            {"client": GlobalModel()},
        ),
        (
            {"client": LowRankSparseNet(sparsity=10**6), "strategy": QUIET, "model": net()},
            "numbers that may be changed, got {}; use fewer",
            {"client": LowRankSparseNet(sparsity=5)},
        ),
    ),
    *cases(
        protected,
        {"population": "people", "ledger": Path("people.sqlite"), "strategy": board(), "model": "mlp"},
        ({"population": None}, "give run.population (a name) and run.ledger (a file)", {"population": "people"}),
        ({"ledger": None}, "(a name) and run.ledger (a file)", {"ledger": Path("people.sqlite")}),
        (
            {"model": frozen()},
            "set run.public_weights = true if they are public (trained on none of these people), or unfreeze them",
            {"public_weights": True},
            {"model": frozen().requires_grad_(True)},
        ),
        (
            {"budget": Target(epsilon=9.0), "strategy": board(noise_at="node")},
            "set run.budget_relation = 'replace-one', or strategy.noise_at = 'server'",
            {"budget": Target(epsilon=9.0, relation=REPLACE)},
            {"strategy": board()},
        ),
        (
            {"budget": Target(epsilon=9.0), "strategy": board(sampling="fixed-size", sampling_rate=0.5)},
            "set run.budget_relation = 'replace-one', or strategy.sampling = 'poisson'",
            {"budget": Target(epsilon=9.0, relation=REPLACE)},
            {"strategy": board(sampling_rate=0.5)},
        ),
    ),
]


@pytest.mark.parametrize("case", [*ARRAYS, *FEW, *TRIED, *MODELS, *LEARNED])
def test_data_and_experiments_that_follow_the_advice_are_accepted(case: Case) -> None:
    case.refused()
    case.followed()


def test_an_attack_on_arrays_that_the_model_lacks_is_refused_in_a_sentence() -> None:
    watched = experiment(
        learners(),
        client=MAML(order="first", from_zero=("no.weight",)),
        strategy=board(reply="rows", sampling_rate=1.0),
    )
    with pytest.raises(InputError, match="unknown array in client"):
        with_watch(watched, Watch(games=2, validation=1))


def test_shots_are_lowered_to_what_all_tasks_have() -> None:
    """The message names the task with the fewest examples: following it once is enough."""
    uneven = made(targets=[np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])])
    with pytest.raises(InputError, match=r"'task-2' has 1 training examples of class 0.*give the task more examples"):
        check_shots(uneven, 1)
    more = made([np.zeros((9, 3), "float32"), *X[1:]], [np.arange(9) % 2, *Y[1:]], declared="protected")
    with pytest.raises(InputError, match=r"'task-1' has 4 training examples, .*lower the shots to 3"):
        check_shots(more, 20)
    check_shots(more, 3)


def limited(**settings: Any) -> None:
    Billboard(**{**BOARD, **settings}, sampling_rate=0.25, min_separation=4).resolve(8)


NUMBERS: list[tuple[Callable[..., Any], dict[str, Any], str, dict[str, str]]] = [
    (shots_of, {"shots": 2}, r"lower the shots to (\d+)", {"shots": "-"}),
    (
        dealt,
        {"shots": 9, "examples": 8, "ways": 3, "held_out": 2, "tasks": 2},
        r"raise data.examples to (\d+)",
        {"examples": "+"},
    ),
    (
        dealt,
        {"shots": 9, "examples": 8, "ways": 3, "held_out": 2, "tasks": 2},
        r"lower data.shots to (\d+)",
        {"shots": "-"},
    ),
    (dealt, {"examples": 80, "tasks": 9, "held_out": 1, "ways": 3}, r"data.tasks to (\d+)", {"tasks": "-"}),
    (dealt, {"examples": 80, "tasks": 1, "held_out": 9, "ways": 3}, r"data.held_out to (\d+)", {"held_out": "-"}),
    (
        divided,
        {"partition": "dirichlet", "alpha": 1.0, "tasks": 10, "examples": 200},
        r"tasks to (\d+)",
        {"tasks": "-"},
    ),
    (
        divided,
        {"partition": "dirichlet", "alpha": 1.0, "tasks": 10, "examples": 200},
        r"examples to (\d+)",
        {"examples": "-"},
    ),
    (divided, {"partition": "dirichlet", "alpha": 1.0, "tasks": 1000}, r"lower tasks to (\d+)", {"tasks": "-"}),
    (
        divided,
        {"partition": "dirichlet", "alpha": 1.0, "tasks": 5, "data": small("three others")},
        r"lower tasks to (\d+) or less",
        {"tasks": "-"},
    ),
    (limited, {"rounds": 40, "max_participations": 2}, r"use at most (\d+) rounds", {"rounds": "-"}),
    (limited, {"rounds": 40, "max_participations": 2}, r"of at least (\d+)", {"max_participations": "+"}),
]


@pytest.mark.parametrize(("make", "bad", "pattern", "changed"), NUMBERS, ids=[row[2] for row in NUMBERS])
def test_a_number_in_an_advice_is_the_one_that_helps(
    make: Callable[..., Any], bad: dict[str, Any], pattern: str, changed: dict[str, str]
) -> None:
    """It is taken from the message; one step back towards what was refused is refused, too."""
    with pytest.raises(InputError) as refused:
        make(**bad)
    found = re.search(pattern, str(refused.value))
    assert found is not None, refused.value
    ((name, way),) = changed.items()
    make(**{**bad, name: int(found[1])})
    with pytest.raises(InputError):
        make(**{**bad, name: int(found[1]) + (1 if way == "-" else -1)})
