"""Metrics of a model on one task's test part, beside loss and accuracy: diagnostics, which are never released.

A metric is a function of (predictions, targets), as torchmetrics has them: of classes the predictions are probabilities
[n, K], of values they have the shape of the targets. Objects with ``reset``, ``update`` and ``compute``, and functions
whose first argument is called ``y_true``, as scikit-learn has them, are called as they want to be.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fedpriv.cohort.cohort import Batch
from fedpriv.cohort.engine import plain_attention
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.trees import Params
from fedpriv.errors import InputError

__all__ = ["METRICS", "Metric", "measured"]

Given = Literal["probabilities", "second", "labels", "values"]
"""What a metric is given: probabilities [n, K], those of the second of two classes [n], classes [n], or values."""

_UNDEFINED = re.compile(r"undefined|not defined|ill-defined|meaningless|empty slice|invalid value|divide by zero", re.I)
"""What libraries warn of where they return a number that means nothing, such as an AUC of one class."""
_OF_PROBABILITIES = ("log_loss", "d2_log_loss_score")
"""Functions of scikit-learn that want probabilities under the name of classes."""
_EXAMPLES = 24


@runtime_checkable
class _Stateful(Protocol):
    """A metric that adds up batches, as those of torchmetrics do."""

    def reset(self) -> Any: ...
    def update(self, preds: Any, target: Any) -> Any: ...
    def compute(self) -> Any: ...


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes
    ----------
    name : str
        What tables call it.
    function : callable
        What computes it, or an object that adds up batches.
    higher_is_better : bool or None
        None if nobody says: then no task is the worst.
    given : str or None
        What it is given; None before :meth:`fitted` found out.
    """

    name: str
    function: Any
    higher_is_better: bool | None = None
    given: Given | None = None

    @classmethod
    def of(cls, name: str, function: Any) -> Metric:
        """Take somebody's function or object; which way is better it says by ``higher_is_better``, as torchmetrics do.

        Of functions that are called as scikit-learn's, names that end in ``_error`` or ``_loss`` are better lower.
        """
        said = inspect.getattr_static(function, "higher_is_better", None)
        better = said if isinstance(said, bool) else None
        if better is None and _true_first(function):
            better = not re.search(r"(_error|_loss)$", _called(function))
        return cls(name, function, better)

    def fitted(self, problem: Problem, outputs: tuple[int, ...]) -> Metric:
        """Return this metric with what it is given, found on made-up predictions.

        Parameters
        ----------
        problem : Problem
            Whose loss tells classes from values.
        outputs : tuple of int
            Shape of the model's outputs for one example; of values that of a target.

        Raises
        ------
        InputError
            It fails on all that it could be given.
        """
        made_up = torch.sin(torch.arange(_EXAMPLES * max(1, int(np.prod(outputs))), dtype=torch.float64))
        predictions = made_up.view(_EXAMPLES, *outputs)
        targets = predictions.flip(0)
        if problem.loss == "cross-entropy":
            predictions = torch.softmax(predictions, dim=1)
            targets = torch.arange(_EXAMPLES) % outputs[0]
        first: Exception | None = None
        for kind in self._kinds(problem, outputs):
            tried = replace(self, given=kind)
            try:
                tried._value(predictions, targets)
            except Exception as error:
                first = first or error
            else:
                return tried
        cause = (str(first).strip() or type(first).__name__).splitlines()[0]
        what = "values" if problem.loss == "squared" else f"probabilities [n, {outputs[0]}]"
        raise InputError(
            f"the metric {self.name!r} fails on made-up predictions ({what}) and targets: {type(first).__name__}: "
            f"{cause}; give a function of (predictions, targets) that returns one number."
        )

    def value(self, predictions: Tensor, targets: Tensor) -> float:
        """Return the metric of one task, NaN where it is not defined, or fails."""
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = self._value(predictions, targets)
        except Exception:  # of one class, of no examples: this task has no value
            return np.nan
        undefined = any(_UNDEFINED.search(f"{one.category.__name__} {one.message}") for one in told)
        return np.nan if undefined or not np.isfinite(found) else found

    def _kinds(self, problem: Problem, outputs: tuple[int, ...]) -> list[Given]:
        if problem.loss == "squared":
            return ["values"]
        two: list[Given] = ["second"] if outputs[0] == 2 else []
        if not _true_first(self.function):
            return ["probabilities", *two]
        if _arguments(self.function)[1] == "y_pred" and _called(self.function) not in _OF_PROBABILITIES:
            return ["labels"]
        return [*two, "probabilities"]

    def _value(self, predictions: Tensor, targets: Tensor) -> float:
        if self.given == "second":
            predictions = predictions[:, 1]
        elif self.given == "labels":
            predictions = predictions.argmax(dim=1)
        if isinstance(self.function, _Stateful):
            self.function.reset()
            self.function.update(predictions, targets)
            found = self.function.compute()
            self.function.reset()
        elif _true_first(self.function):
            found = self.function(targets.numpy(), predictions.numpy())
        else:
            found = self.function(predictions, targets)
        return float(found)


def measured(metrics: Sequence[Metric], problem: Problem, params: Params, batch: Batch) -> dict[str, Tensor]:
    """Return each metric [C] of the models [C, ...] of some tasks, float64; NaN where it is not defined.

    One task after the other, by the model itself, whatever the engine.
    """
    if not metrics:
        return {}
    rows: list[list[float]] = []
    with plain_attention(), torch.no_grad():
        for position, count in enumerate(batch.sizes.long().tolist()):
            task = {name: value[position] for name, value in params.items()}
            targets = batch.targets[position, :count]
            if not count:
                rows.append([np.nan] * len(metrics))
                continue
            outputs = problem.scored.predict(task, batch.inputs[position, :count]).double()
            if problem.loss == "cross-entropy":
                outputs = torch.softmax(outputs, dim=1)
            else:
                outputs, targets = outputs.reshape(targets.shape), targets.double()
            finite = bool(outputs.isfinite().all())
            rows.append([one.value(outputs, targets) if finite else np.nan for one in metrics])
    values = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(metrics))
    return {one.name: values[:, at] for at, one in enumerate(metrics)}


def _arguments(function: Any) -> list[str]:
    """Return the names of a function's arguments; none where nobody can tell."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _true_first(function: Any) -> bool:
    """Tell a function that takes targets first, as those of scikit-learn do."""
    names = _arguments(function)
    return len(names) > 1 and names[0] == "y_true"


def _called(function: Any) -> str:
    """Return the name of a function, also of one with some of its arguments given."""
    inner = function.func if isinstance(function, functools.partial) else function
    return str(inner.__name__) if inspect.isroutine(inner) else ""


def _auc(predictions: Tensor, targets: Tensor) -> float:
    """Return the area under the ROC curve; of several classes the mean of one against the rest, over those that occur.

    By ranks (Mann and Whitney), ties count half. NaN for a single class.
    """
    from scipy.stats import rankdata

    classes = torch.unique(targets).tolist()
    if len(classes) < 2:
        return np.nan
    found = []
    for one in classes if predictions.shape[1] > 2 else [1]:
        mine = (targets == one).numpy()
        ranks, count = rankdata(predictions[:, int(one)].numpy()), int(mine.sum())
        found.append((ranks[mine].sum() - count * (count + 1) / 2) / (count * (len(mine) - count)))
    return float(np.mean(found))


def _calibration_error(predictions: Tensor, targets: Tensor) -> float:
    """Return the expected calibration error of the most probable class, in 15 bins of equal width.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    sure, guess = predictions.max(dim=1)
    place = torch.clamp((sure * 15).ceil().long() - 1, 0, 14)
    gap = (guess == targets).double() - sure
    return float(torch.zeros(15, dtype=torch.float64).index_add_(0, place, gap).abs().sum() / len(targets))


def _rmse(predictions: Tensor, targets: Tensor) -> float:
    """Return the root of the mean squared error over examples and outputs."""
    return float((predictions - targets).square().mean().sqrt())


def _r2(predictions: Tensor, targets: Tensor) -> float:
    """Return the share of the variance that is explained, averaged over outputs; NaN where targets do not vary."""
    outputs = targets.reshape(len(targets), -1)
    missed = (outputs - predictions.reshape(outputs.shape)).square().sum(dim=0)
    total = (outputs - outputs.mean(dim=0)).square().sum(dim=0)
    return float((1.0 - missed / total).mean()) if bool((total > 0).all()) else np.nan


METRICS: dict[str, tuple[Callable[[Tensor, Tensor], float], Literal["classes", "values"], bool]] = {
    "auc": (_auc, "classes", True),
    "calibration-error": (_calibration_error, "classes", False),
    "r2": (_r2, "values", True),
    "rmse": (_rmse, "values", False),
}
"""Metrics by name: what computes it, of what, and whether higher is better."""
