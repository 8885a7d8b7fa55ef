"""Frozen parameters are public constants: on no billboard, without noise, and where they were at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_tasks
from torch import Tensor, nn

from fedpriv import Experiment
from fedpriv.clients import MAML, FedProx, GlobalModel, LocalOnly, LowRankSparseNet, MeanRegularized
from fedpriv.cohort import Tasks
from fedpriv.errors import ComponentFailure
from fedpriv.models.factored import Factored
from fedpriv.strategies import Billboard, Silent

TRAINED = ["2.bias", "2.weight"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    net[0].requires_grad_(False)
    return net


def tasks(**more: Any) -> Tasks:
    made = toy_tasks(4, sizes=[9, 6, 7, 8])
    made.train.targets[:] = np.concatenate([np.arange(size) % 3 for size in made.train.sizes])
    return replace(made, **more)


def experiment(client: Any, model: nn.Module, **more: Any) -> Experiment:
    strategy = Billboard(clipping_norm=1.0, sampling_rate=1.0, rounds=2, noise_multiplier=1.0)
    settings: dict[str, Any] = {"tasks": tasks(), "grid": "in-process", "shards": 2}
    settings["strategy"] = strategy if client.sends_update else Silent(rounds=2)
    return Experiment(client=client, model=model, **settings | more)


@pytest.mark.parametrize("engine", ["auto", "loop"])
@pytest.mark.parametrize(
    "client",
    [
        GlobalModel(final_epochs=1),
        FedProx(),
        MeanRegularized(strength=(0.1, 1.0), final_epochs=1),
        MAML(steps=2),
        MAML(order="first", adaptation_clip=1.0, noise_adaptation=0.1),
        MAML(from_zero=("2.bias",)),
        LocalOnly(),
    ],
    ids=lambda one: f"{type(one).__name__}-{getattr(one, 'order', '')}",
)
def test_only_what_is_not_frozen_is_trained_noised_and_published(client: Any, engine: str) -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run = experiment(client, net, engine=engine, held_out=replace(tasks(), names=tuple("wxyz"))).run(reproduce=1)
    if client.sends_update:
        assert sorted(run.billboards["all"]) == TRAINED
        for name, value in run.billboards["all"].items():
            assert not np.array_equal(value, before[name].numpy())  # noise and news
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert np.isfinite(run.scores["personal.loss"]).all()
    assert "21 numbers of the model are shared, and 36 are frozen" in " ".join(run.summary["warnings"])


def test_what_is_computed_is_what_torch_computes_with_the_frozen_layer() -> None:
    """Without noise and with a clip that never cuts, one task's billboard is a plain descent on the last layer."""
    one, net = toy_tasks(1, sizes=[8]), network()
    strategy = Billboard(clipping_norm=1e6, sampling_rate=1.0, rounds=1, noise_multiplier=0.0)
    client = GlobalModel(learning_rate=0.3, batch_size=8, epochs=1)
    run = experiment(client, net, tasks=one, strategy=strategy, dtype="float64", baseline=False).run(reproduce=3)
    hand = network().double()
    inputs, targets = torch.from_numpy(one.train.inputs).double(), torch.from_numpy(one.train.targets)
    nn.functional.cross_entropy(hand(inputs), targets).backward()  # type: ignore[no-untyped-call]
    for name, value in hand.named_parameters():
        if name in TRAINED:
            assert value.grad is not None
            moved = (value - 0.3 * value.grad).detach()
            np.testing.assert_allclose(run.billboards["all"][name], moved.numpy(), rtol=1e-9)


def test_a_run_says_how_many_numbers_are_shared_and_how_many_are_frozen(tmp_path: Path) -> None:
    one = experiment(GlobalModel(), network(), baseline=False)
    said = one.describe()["model"]
    assert {**said, "initial": "a digest"} == {
        "name": "Sequential",
        "parameters": 21,
        "frozen": 36,
        "initial": "a digest",
    }
    one.run(tmp_path / "run", reproduce=1)
    config = (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    assert "parameters = 21\n" in config
    assert "frozen = 36\n" in config


def with_table() -> nn.Module:
    class Positions(nn.Module):
        table: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)
            self.register_buffer("table", torch.arange(5.0), persistent=False)

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = self.layer(inputs + self.table)
            return out

    return Positions()


@pytest.mark.parametrize("build", [network, with_table])
def test_protected_data_need_a_word_that_frozen_weights_are_public(build: Any, tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "tasks": tasks(declared="protected"), "population": "people", "ledger": tmp_path / "ledger.sqlite",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"frozen parameters or buffers.*run\.public_weights = true"):
        experiment(GlobalModel(), build(), **common)
    allowed = experiment(GlobalModel(), build(), public_weights=True, **common)
    allowed.check()
    assert allowed.describe()["run"]["public_weights"] is True
    experiment(GlobalModel(), nn.Linear(5, 3), **common).check()


def test_directions_are_those_of_layers_that_learn() -> None:
    torch.manual_seed(0)
    model = Factored(network(), rank=2)
    client = LowRankSparseNet(sparsity=4, steps=2, final_steps=2)
    run = experiment(client, model, dtype="float64", baseline=False).run(reproduce=1)
    assert sorted(run.billboards["all"]) == ["bank.2.bias", "bank.2.weight", "net.2.bias", "net.2.weight"]
    assert np.isfinite(run.scores["personal.loss"]).all()


class Sly(nn.Module):
    """Writes to its frozen part on examples that a dry run does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.shift = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if float(inputs.abs().max()) > 1.01:  # those that are made up lie below
            with torch.no_grad():
                self.shift.add_(0.1)
        out: Tensor = self.layer(inputs) + self.shift
        return out


@pytest.mark.parametrize("shards", [1, 2])
def test_a_frozen_parameter_that_moves_in_a_run_stops_it(shards: int) -> None:
    with pytest.raises(ComponentFailure, match=r"'shift' of the model is frozen, and has moved"):
        experiment(GlobalModel(), Sly(), engine="loop", shards=shards).run(reproduce=1)


def test_unused_parameters_are_named() -> None:
    net = network().requires_grad_(True)

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.spare = net, nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = self.net(inputs)
            return out

    run = experiment(GlobalModel(), Idle(), baseline=False).run(reproduce=1)
    (said,) = [line for line in run.summary["warnings"] if "no output of the model depends" in line]
    assert "spare.weight, spare.bias" in said
    assert not [line for line in run.summary["warnings"] if "frozen:" in line]
