"""Metrics of one's own in a run: by name, by ``module:function``, or as a function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch

from fedpriv.cohort import METRICS, Metric, Population, Problem
from fedpriv.errors import InputError
from fedpriv.own_code import load

__all__ = ["described", "fitted", "named"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TAKEN = ("loss", "accuracy")


def named(given: Any) -> dict[str, Metric]:
    """Turn what a user gives into metrics by name.

    Parameters
    ----------
    given : str, list of str, or mapping of str to str or callable
        A text is one of :data:`fedpriv.cohort.METRICS`, or ``module:function``, found as all code of users' own is.

    Raises
    ------
    InputError
        There is no such metric, or its name cannot be used.
    """
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Mapping):
        if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
            raise InputError(
                f"run.metrics must be names, or a table of functions by name, got a {type(given).__name__}; give for "
                "example metrics={'auc': function}."
            )
        given = {one.rpartition(":")[2]: one for one in given}
    found = {}
    for name, one in given.items():
        if not _NAME.fullmatch(str(name)) or name in _TAKEN:
            raise InputError(
                f"run.metrics: the name {name!r} cannot be used; use letters, digits, '-' and '_', and neither 'loss' "
                "nor 'accuracy', which every run has."
            )
        found[str(name)] = _metric(str(name), one)
    return found


def _metric(name: str, given: Any) -> Metric:
    if isinstance(given, Metric):
        return given
    if isinstance(given, str) and given in METRICS:
        function, _, better = METRICS[given]
        return Metric(name, function, better)
    if isinstance(given, str):
        given = load("metric", given, METRICS).value
    if isinstance(given, type):
        raise InputError(
            f"the metric {name!r} is the class {given.__name__}; give an object of it, {given.__name__}()."
        )
    if not callable(given):
        raise InputError(f"the metric {name!r} must be a function or a name, got a {type(given).__name__}.")
    return Metric.of(name, given)


def described(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Return metrics as a configuration names them."""
    return {name: _ours(one.function) or _path(one.function) for name, one in metrics.items()}


def _ours(function: Any) -> str | None:
    return next((name for name, (known, _, _) in METRICS.items() if known is function), None)


def _path(function: Any) -> str:
    kind = function if inspect.isroutine(function) else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"


def fitted(metrics: Mapping[str, Metric], problem: Problem, tasks: Population) -> tuple[Metric, ...]:
    """Try metrics on made-up predictions of the model, and return them with what each is given.

    Raises
    ------
    InputError
        One is for classes and these are values, or the other way round; or it fails.
    """
    has = "values" if problem.loss == "squared" else "classes"
    for name, one in metrics.items():
        ours = _ours(one.function)
        wanted = has if ours is None else METRICS[ours][1]
        if wanted != has:
            others = ", ".join(repr(other) for other, (_, kind, _) in METRICS.items() if kind == has)
            raise InputError(f"the metric {name!r} is of {wanted}, and this run predicts {has}; use {others}.")
    if not metrics:
        return ()
    outputs = tuple(tasks.target_shape)
    if has == "classes":
        kind = problem.dtype if tasks.input_dtype.startswith("float") else torch.int64
        with torch.no_grad():
            made = problem.scored.predict(problem.initial(), torch.zeros(2, *tasks.input_shape, dtype=kind))
        outputs = tuple(made.shape[1:])
    return tuple(one.fitted(problem, outputs) for one in metrics.values())
