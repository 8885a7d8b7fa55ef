"""Second-order MAML: fedpriv's client on cohorts beside a loop over tasks with ``create_graph``.

Both compute, for every task, the meta-gradient of one inner step on 5 classes with one shot and 5 queries each, clip it
and add it to a sum, on one thread of one process. The loop's episodes are made beforehand; fedpriv draws its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from fedpriv.clients import MAML
from fedpriv.cohort import Cohort, Key, Learner, Problem, Ragged, Tasks, engine_named
from fedpriv.privacy.clipping import clipped_sum

__all__ = ["NETWORKS", "MetaSpeed", "measure", "measure_apart", "section"]

NETWORKS = {"mlp": (784, 64), "small": (72, 64)}
"""Inputs and hidden width; five outputs. The second has 4,997 parameters."""

_WAYS, _QUERIES, _RATE, _CLIP = 5, 5, 0.1, 1.0
_CHUNK_BYTES = 8 * 2**20
"""As a node cuts its tasks."""


@dataclass(frozen=True)
class MetaSpeed:
    """What was measured for one network."""

    parameters: int
    ratios: list[float]  # our tasks per CPU second over the loop's, by turn: other jobs on the machine blur it less
    ours: float  # median tasks per CPU second
    loop: float  # the same of the loop
    apart: float  # largest difference of the two sums in float64, relative to the largest entry


def population(count: int, features: int) -> Tasks:
    """Synthetic tasks of five classes with just the examples of an episode."""
    rng = np.random.default_rng(0)

    def part(each: int) -> Ragged:
        size = _WAYS * each
        inputs = rng.standard_normal((count * size, features), dtype=np.float32)
        targets = np.tile(np.repeat(np.arange(_WAYS), each), count)
        return Ragged(inputs, targets, np.arange(count + 1, dtype=np.int64) * size)

    names = tuple(f"synthetic/{number:05d}" for number in range(count))
    return Tasks("synthetic", names, part(1 + _QUERIES), part(0), part(1), _WAYS, "benchmark")


def ours(client: MAML, learner: Learner, tasks: Tasks, key: Key) -> list[np.ndarray[Any, Any]]:
    """Return the sum of clipped updates, cohort by cohort."""
    start = learner.problem.initial()
    size = max(1, _CHUNK_BYTES // sum(value.nbytes for value in start.values()))
    total: list[np.ndarray[Any, Any]] = [np.zeros(tuple(value.shape)) for value in start.values()]
    for first in range(0, len(tasks), size):
        positions = np.arange(first, min(first + size, len(tasks)))
        _, update = client.train(learner, start, {}, Cohort(tasks, positions, learner.problem.dtype), key)
        for sums, part in zip(total, clipped_sum([value.numpy() for value in update.values()], _CLIP), strict=True):
            sums += part
    return total


def loop(problem: Problem, episodes: list[tuple[torch.Tensor, ...]]) -> list[np.ndarray[Any, Any]]:
    """Return the same sum from one task after the other."""
    model, total = (
        problem.model,
        [torch.zeros(value.shape, dtype=torch.float64) for value in problem.model.parameters()],
    )
    names, weights = zip(*model.named_parameters(), strict=True)
    for support, called, query, wanted in episodes:
        slopes = torch.autograd.grad(nn.functional.cross_entropy(model(support), called), weights, create_graph=True)
        fast = {name: weight - _RATE * slope for name, weight, slope in zip(names, weights, slopes, strict=True)}
        loss = nn.functional.cross_entropy(functional_call(model, fast, (query,)), wanted)
        found = torch.autograd.grad(loss, weights)
        norm = torch.stack([value.double().norm() for value in found]).norm().item()
        for sums, value in zip(total, found, strict=True):
            sums.sub_(value, alpha=min(1.0, _CLIP / norm))
    return [value.numpy() for value in total]


def measure(name: str, *, tasks: int = 400, turns: int = 5) -> MetaSpeed:
    """Measure one network: both sides in turns, after a warm-up and a comparison in float64."""
    features, hidden = NETWORKS[name]
    people = population(tasks, features)
    client = MAML(learning_rate=_RATE, queries=_QUERIES)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, _WAYS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        apart = _apart(client, model, people)
        problem = Problem(model.float())
        learner, key = Learner(problem, engine_named("auto")), Key(0, 1)
        episodes = _episodes(client, people, torch.float32, key)
        rates: dict[str, list[float]] = {"ours": [], "loop": []}
        for turn in range(turns + 1):
            sides = {"ours": lambda: ours(client, learner, people, key), "loop": lambda: loop(problem, episodes)}
            for side in list(sides)[:: -1 if turn % 2 else 1]:
                began = time.process_time()
                sides[side]()
                if turn:  # the first turn warms up
                    rates[side].append(tasks / (time.process_time() - began))
    finally:
        torch.set_num_threads(threads)
    ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates["loop"], strict=True)]
    return MetaSpeed(problem.num_parameters, ratios, median(rates["ours"]), median(rates["loop"]), apart)


def measure_apart(*, turns: int) -> dict[str, MetaSpeed]:
    """Measure all networks in a fresh process whose libraries have one thread, as a shard's have."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "benchmarks.maml", "--json", str(turns)]
    done = subprocess.run(command, env=os.environ | one, check=True, capture_output=True, encoding="utf-8")
    return {name: MetaSpeed(**values) for name, values in json.loads(done.stdout).items()}


def section(found: dict[str, MetaSpeed]) -> str:
    """Return the part of the report."""
    lines = [
        "## Second-order MAML",
        "",
        "Meta-gradients of one inner step (5 ways, 1 shot, 5 queries), clipped and summed, on one thread of one "
        "process, by CPU time: fedpriv's client on cohorts, drawing its episodes, beside a loop over tasks with "
        "`create_graph=True` whose episodes lie ready. In turns; the targets are 1.5 times the loop with 784 "
        "inputs, and 5 times at 5,000 parameters.",
        "",
        "| parameters | fedpriv, tasks/CPU s | loop, tasks/CPU s | ratio | smallest | largest | apart in float64 |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {one.parameters:,} | {one.ours:.0f} | {one.loop:.0f} | **{median(one.ratios):.2f}** "
        f"| {min(one.ratios):.2f} | {max(one.ratios):.2f} | {one.apart:.1e} |"
        for one in found.values()
    ]
    return "\n".join(lines)


def _episodes(client: MAML, people: Tasks, dtype: torch.dtype, key: Key) -> list[tuple[torch.Tensor, ...]]:
    drawn = client.draw(Cohort(people, np.arange(len(people)), dtype), key)
    parts = (drawn.support.inputs, drawn.support.targets, drawn.query.inputs, drawn.query.targets)
    return list(zip(*parts, strict=True))


def _apart(client: MAML, model: nn.Module, people: Tasks) -> float:
    few, problem = people.shard(0, min(40, len(people))), Problem(model.double())
    mine = ours(client, Learner(problem, engine_named("auto")), few, Key(0, 1))
    theirs = loop(problem, _episodes(client, few, torch.float64, Key(0, 1)))
    largest = max(float(np.abs(value).max()) for value in theirs)
    return max(float(np.abs(a - b).max()) for a, b in zip(mine, theirs, strict=True)) / largest


if __name__ == "__main__":
    if sys.argv[1:2] == ["--json"]:
        print(json.dumps({name: asdict(measure(name, turns=int(sys.argv[2]))) for name in NETWORKS}))
    else:
        print(section(measure_apart(turns=5)))
