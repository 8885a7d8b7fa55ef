"""What settings refuse whatever their class: truth values for numbers, empty names, bounds with a hundred digits."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers import experiment, toy_tasks

from fedpriv import InputError, Target
from fedpriv.clients import MeanRegularized
from fedpriv.config import build_experiment
from fedpriv.privacy import NodePolicy, Release
from fedpriv.strategies import Billboard

BILLBOARD: dict[str, Any] = {"rounds": 2, "clipping_norm": 1.0, "noise_multiplier": 1.0}
RELEASE: dict[str, Any] = {"noise_multiplier": 1.0, "sampling_name": "full", "rate": 1.0, "clipping_norm": 1.0}


@pytest.mark.parametrize(
    ("model", "good", "name", "value"),
    [
        (Target, {"epsilon": 1.0}, "epsilon", True),
        (Target, {"epsilon": 1.0}, "delta", False),
        (Billboard, BILLBOARD, "clipping_norm", True),
        (Billboard, BILLBOARD, "noise_multiplier", True),
        (Billboard, BILLBOARD, "rounds", True),
        (Billboard, BILLBOARD, "metrics_every", True),
        (Billboard, BILLBOARD, "clipping_norms", {"1": True}),
        (Billboard, BILLBOARD, "groups", (True, 0)),
        (Release, RELEASE, "rate", True),
        (NodePolicy, {}, "max_clipping_norm", True),
        (MeanRegularized, {"strength": 1.0}, "strength", True),
    ],
)
def test_true_is_no_number(model: Any, good: dict[str, Any], name: str, value: Any) -> None:
    model(**good)
    with pytest.raises(InputError, match=rf"{name!r} must (be a number|hold numbers), got"):
        model(**{**good, name: value})


def test_what_may_be_true_still_may() -> None:
    assert experiment(toy_tasks(4), baseline=True).baseline


@pytest.mark.parametrize("key", ["epsilon", "clipping_norm", "metrics_every"])
def test_true_is_no_number_in_a_configuration_either(key: str) -> None:
    strategy = {"clipping_norm": 1.0, "rounds": 2, "epsilon": 2.0, key: True}
    config = {"data": {"name": "digits"}, "model": {}, "client": {}, "strategy": strategy, "run": {}}
    for value in (True, {"0": True}) if key == "epsilon" else (True,):
        with pytest.raises(InputError, match=r"must (be a number|hold numbers), got"):
            build_experiment({**config, "strategy": {**strategy, key: value}})


def test_empty_names_are_refused() -> None:
    for name in ("", "  "):
        with pytest.raises(InputError, match=r"run\.population must not be empty"):
            experiment(toy_tasks(4), population=name)
    for path in ("", "."):
        with pytest.raises(InputError, match="must be the path of a file"):
            experiment(toy_tasks(4), population="people", ledger=path)


def test_bounds_are_short() -> None:
    for norm in (1e308, math.nextafter(1e100, math.inf)):
        for model, values in ((Release, RELEASE), (Billboard, BILLBOARD)):
            with pytest.raises(InputError) as refused:
                model(**{**values, "clipping_norm": norm})
            assert len(str(refused.value)) < 170
    for loss in (1e-320, 1e300):
        with pytest.raises(InputError, match="'metrics_largest_loss' must be"):
            Billboard(**BILLBOARD, metrics=("personal.loss",), metrics_epsilon=1.0, metrics_largest_loss=loss)
