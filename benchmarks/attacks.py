"""Membership games side by side, and the same attack one game after the other, on the same cores.

The attack by gradient inversion on MAML's rows, for both sets: our games in batches on all cores, and the plain way, a
loop over games where every step builds whole gradients by autograd and differentiates them again, with as many threads
of torch as make it fastest. By the clock, in turns; also by CPU seconds, which other jobs on the machine blur less.
Both find the same images. Run with ``python -m benchmarks.attacks``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedpriv.adversary import Inversion, query_match, support_match
from fedpriv.adversary.cores import side_by_side
from fedpriv.adversary.matching import full_batch
from fedpriv.cohort import Engine, InnerLoop, Problem, broadcast, meta_gradient
from fedpriv.cohort.fast.products import ProductEngine
from fedpriv.cohort.fast.threads import one_torch_thread

__all__ = ["NETWORKS", "measure"]

_WAYS, _RATE, _ITERATIONS, _TURNS = 5, 1.0, 20, 9
_BATCH, _ALONE = 32, 8


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, _WAYS))


def _cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (1, 12, 12):
        layers += [nn.Conv2d(channels, 12, 3, stride=2, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 16, _WAYS))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": _mlp, "cnn": _cnn}


def plain_match(problem: Problem, billboard: Any, seen: Any, labels: Tensor, query: Any) -> Callable[[Tensor], Tensor]:
    """Return the cosine of one game [1] by autograd, as one would write it for a single task."""
    here = {name: value.clone().requires_grad_() for name, value in billboard.items()}
    target = torch.cat([seen[name][0].flatten() for name in here])

    def loss(weights: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(problem.model, weights, (inputs,)), targets)

    def cosine(inputs: Tensor) -> Tensor:
        weights: Any = here
        if query is not None:
            slopes = torch.autograd.grad(loss(here, inputs[0], labels[0]), list(here.values()), create_graph=True)
            weights = {name: v - _RATE * s for (name, v), s in zip(here.items(), slopes, strict=True)}
            last = loss(weights, query.inputs[0], query.targets[0])
        else:
            last = loss(weights, inputs[0], labels[0])
        made = torch.autograd.grad(last, list(here.values()), create_graph=True)
        flat = torch.cat([value.flatten() for value in made])
        return nn.functional.cosine_similarity(flat, target, dim=0).unsqueeze(0)

    return cosine


def measure(kind: str, which: str, batches: int) -> dict[str, Any]:
    """Return games per second of both ways, their ratio per turn, and how far the images are apart."""
    torch.manual_seed(0)
    games = batches * _BATCH
    problem = Problem(NETWORKS[kind]())
    billboard, inner, attack = problem.initial(), InnerLoop(_RATE), Inversion(iterations=_ITERATIONS)
    labels = torch.arange(_WAYS).expand(games, _WAYS).contiguous()
    support, query = (full_batch(torch.rand(games, _WAYS, 1, 28, 28), labels) for _ in range(2))
    engine = ProductEngine()
    seen = meta_gradient(engine, problem, broadcast(billboard, games), support, query, inner).gradient
    start = torch.rand(games, _WAYS, 1, 28, 28)

    def batch(own: Engine, model: Problem, here: slice) -> Tensor:
        rows = {name: value[here] for name, value in seen.items()}
        known = (own, model, billboard, rows, labels[here])
        asked = full_batch(query.inputs[here], query.targets[here])
        match = query_match(*known) if which == "query" else support_match(*known, asked, inner)
        return attack.run(match, start[here])[0]

    def together() -> Tensor:
        parts = [slice(first, first + _BATCH) for first in range(0, games, _BATCH)]
        with one_torch_thread():
            return torch.cat(side_by_side(batch, parts, engine, problem, lambda *_: None))

    def alone(game: int) -> Tensor:
        here = slice(game, game + 1)
        own = {name: value[here] for name, value in seen.items()}
        asked = full_batch(query.inputs[here], query.targets[here]) if which == "support" else None
        match = plain_match(problem, billboard, own, labels[here], asked)
        return attack.run(match, start[here])[0]

    apart = float((together()[:4] - torch.cat([alone(game) for game in range(4)])).abs().mean())
    threads = min((1, os.cpu_count() or 1), key=lambda count: _with(count, lambda: alone(0))[0])
    turns = []
    for turn in range(_TURNS):
        ours = _seconds(together)
        loop = _with(threads, lambda first=turn * _ALONE: [alone((first + one) % games) for one in range(_ALONE)])
        turns.append([(games / mine, _ALONE / theirs) for mine, theirs in zip(ours, loop, strict=True)])
    clock, cpu = zip(*turns, strict=True)
    return {
        "network": kind,
        "set": which,
        "games": games,
        "iterations": _ITERATIONS,
        "threads_alone": threads,
        "together_per_second": median(one for one, _ in clock),
        "alone_per_second": median(one for _, one in clock),
        "ratio": median(ours / theirs for ours, theirs in clock),
        "ratios": [ours / theirs for ours, theirs in clock],
        "ratio_per_cpu_second": median(ours / theirs for ours, theirs in cpu),
        "images_apart": apart,
    }


def _with(threads: int, work: Callable[[], Any]) -> tuple[float, float]:
    with one_torch_thread():
        torch.set_num_threads(threads)
        return _seconds(work)


def _seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Return what work takes by the clock, and of all processors."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def main() -> None:
    """Measure all and print JSON."""
    found = [measure(kind, which, 2 * (os.cpu_count() or 1)) for kind in NETWORKS for which in ("query", "support")]
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
