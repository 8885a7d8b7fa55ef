"""Rounds for the loops that are written by hand: shares of the tasks per process, the noise, the step; nothing else.

No run folder, no ledger, no checks, no failures: what stands here is what cannot be left out.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.data import Data
from benchmarks.outcome import Outcome, cpu_seconds
from benchmarks.work import Work

__all__ = ["Params", "Trainer", "run_local"]

Params = dict[str, Tensor]
Trainer = Callable[[Params, range, Tensor], Params]
"""(global model, tasks, mini-batches [tasks, steps, batch]) -> float64 sum of the tasks' clipped drifts."""


def _trainer(work: Work, data: Data, module: str, settings: dict[str, Any]) -> Trainer:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found: Trainer = import_module(f"benchmarks.sides.{module}").trainer(work, data, **settings)
    return found


def _serve(pipe: Connection, work: Work, directory: Path, module: str, settings: dict[str, Any], tasks: range) -> None:
    """Answer every (round, model) with the sum over this process's tasks."""
    data = Data.open(work, directory)
    train = _trainer(work, data, module, settings)
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        number, arrays = asked
        order = torch.from_numpy(data.batches(number)[tasks.start : tasks.stop])
        total = train({name: torch.from_numpy(value) for name, value in arrays.items()}, tasks, order)
        pipe.send({name: value.numpy() for name, value in total.items()})


def run_local(
    work: Work, directory: Path, *, module: str, rounds: int, warm_up: int, processes: int, **settings: Any
) -> tuple[Outcome, dict[str, np.ndarray[Any, Any]]]:
    """Run the rounds; this process takes the first share of the tasks itself."""
    shares = [
        range(work.tasks * share // processes, work.tasks * (share + 1) // processes) for share in range(processes)
    ]
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for share in shares[1:]:
        mine, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, work, directory, module, settings, share), daemon=True).start()
        pipes.append(mine)
    data = Data.open(work, directory)
    train = _trainer(work, data, module, settings)
    for pipe in pipes:
        pipe.recv()

    params = {name: value.detach().clone() for name, value in work.network().named_parameters()}
    std = work.noise_multiplier * work.clipping_norm
    seconds: list[float] = []
    used = cpu_seconds()
    for number in range(1, warm_up + rounds + 1):
        if number == warm_up + 1:
            used = cpu_seconds()
        start = time.perf_counter()
        for pipe in pipes:
            pipe.send((number, {name: value.numpy() for name, value in params.items()}))
        total = train(params, shares[0], torch.from_numpy(data.batches(number)[: shares[0].stop]))
        for pipe in pipes:
            for name, value in pipe.recv().items():
                total[name] += torch.from_numpy(value)
        for name, value in total.items():
            value += torch.zeros_like(value).normal_(std=std) if std else 0.0
            params[name] += (value / work.tasks).to(params[name].dtype)
        seconds.append(time.perf_counter() - start)
    outcome = Outcome(seconds[warm_up:], work.tasks, cpu_seconds() - used)
    for pipe in pipes:
        pipe.send(None)
    return outcome, {name: value.numpy() for name, value in params.items()}
