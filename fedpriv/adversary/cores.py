"""Batches of games on all cores: they do not touch each other, and torch works without Python's lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import TypeVar

import torch

from fedpriv.cohort import Engine, Problem
from fedpriv.machine import usable_cores

__all__ = ["side_by_side"]

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Engine, Problem, Unit], Result],
    units: Sequence[Unit],
    engine: Engine,
    problem: Problem,
    told: Callable[[int, int], None],
) -> list[Result]:
    """Return what ``work`` gives for each unit, in order; a thread per core, each with engine and model of its own.

    torch swaps parameters in and out of a model while it computes a function of them, so threads cannot share one.

    Parameters
    ----------
    work : callable
        From engine, problem and unit to the result; called inside
        :func:`~fedpriv.cohort.fast.threads.one_torch_thread`.
    units : sequence
        What is to be done.
    engine, problem
        What each thread gets a copy of.
    told : callable
        Told how many units are done, and of how many.
    """
    mine = threading.local()

    def begin() -> None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)  # belongs to the thread
        mine.engine, mine.problem = deepcopy(engine), deepcopy(problem)

    def do(unit: Unit) -> Result:
        return work(mine.engine, mine.problem, unit)

    results: list[Result] = []
    told(0, len(units))
    with ThreadPoolExecutor(max(1, min(usable_cores(), len(units))), initializer=begin) as threads:
        try:
            for result in threads.map(do, units):
                results.append(result)
                told(len(results), len(units))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return results
