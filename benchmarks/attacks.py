"""Membership games side by side, and the same attack one game after the other.

The attack by gradient inversion on MAML's rows, for both sets: our games in a batch, and the plain way, a loop over
games where every step builds whole gradients by autograd and differentiates them again. One thread; CPU seconds,
because other jobs on the machine blur them less. Both find the same images. Run with ``python -m benchmarks.attacks``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedpriv.attacks import Inversion, query_match, support_match
from fedpriv.attacks.matching import full_batch
from fedpriv.cohort import InnerLoop, Problem, broadcast, meta_gradient
from fedpriv.cohort.products import ProductEngine
from fedpriv.cohort.threads import one_torch_thread

__all__ = ["NETWORKS", "measure"]

_WAYS, _RATE, _ITERATIONS, _TURNS = 5, 1.0, 20, 3


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


def measure(kind: str, which: str, games: int) -> dict[str, Any]:
    """Return games per CPU second of both ways, their ratio per turn, and how far the images are apart."""
    torch.manual_seed(0)
    problem = Problem(NETWORKS[kind]())
    billboard, inner, attack = problem.initial(), InnerLoop(_RATE), Inversion(iterations=_ITERATIONS)
    labels = torch.arange(_WAYS).expand(games, _WAYS).contiguous()
    support, query = (full_batch(torch.rand(games, _WAYS, 1, 28, 28), labels) for _ in range(2))
    engine = ProductEngine()
    seen = meta_gradient(engine, problem, broadcast(billboard, games), support, query, inner).gradient
    start = torch.rand(games, _WAYS, 1, 28, 28)
    known = (engine, problem, billboard, seen, labels)

    def together() -> Tensor:
        match = query_match(*known) if which == "query" else support_match(*known, query, inner)
        return attack.run(match, start)[0]

    def alone(game: int) -> Tensor:
        own = {name: value[game : game + 1] for name, value in seen.items()}
        asked = (
            full_batch(query.inputs[game : game + 1], query.targets[game : game + 1]) if which == "support" else None
        )
        match = plain_match(problem, billboard, own, labels[game : game + 1], asked)
        return attack.run(match, start[game : game + 1])[0]

    few = min(games, 4)
    apart = float((together()[:few] - torch.cat([alone(game) for game in range(few)])).abs().mean())
    ratios, speeds = [], []
    for turn in range(_TURNS):
        ours = games / _seconds(together)
        loop = 1 / _seconds(lambda game=turn % games: alone(game))
        ratios.append(ours / loop)
        speeds.append((ours, loop))
    return {
        "network": kind,
        "set": which,
        "games": games,
        "iterations": _ITERATIONS,
        "together_per_second": median(one for one, _ in speeds),
        "alone_per_second": median(one for _, one in speeds),
        "ratio": median(ratios),
        "ratios": ratios,
        "images_apart": apart,
    }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure all and print JSON."""
    with one_torch_thread():
        found = [measure(kind, which, 32) for kind in NETWORKS for which in ("query", "support")]
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
