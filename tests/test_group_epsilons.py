"""An epsilon of its own for each public group: noise, charges, guarantees, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fedpriv import Experiment
from fedpriv.clients import GlobalModel
from fedpriv.errors import BudgetExceeded, InputError
from fedpriv.privacy import Ledger, PoissonSampling, Target, calibrate_noise_multiplier, epsilon, plan
from fedpriv.privacy.policy import NodePolicy
from fedpriv.strategies import Billboard
from tests.helpers import toy_tasks

ROUNDS = 5
GROUPS = tuple(int(number >= 8) for number in range(20))
EPSILONS = {"0": 1.0, "1": 4.0}


def experiment(**changes: Any) -> Experiment:
    settings = {"groups": GROUPS, "group_epsilons": EPSILONS, "target": Target(epsilon=4.0), "sampling_rate": 0.5}
    place = {name: changes.pop(name) for name in ("population", "ledger", "budget") if name in changes}
    declared = "protected" if place else "benchmark"
    return Experiment(
        tasks=replace(toy_tasks(20), declared=declared),
        model="linear",
        client=GlobalModel(learning_rate=0.1, epochs=1),
        strategy=Billboard(clipping_norm=1.0, rounds=ROUNDS, **{**settings, **changes}),
        grid="in-process",
        baseline=False,
        **place,
    )


@pytest.mark.parametrize("limits", [{}, {"sampling_rate": 0.25, "noise": "banded", "min_separation": 3}])
def test_each_group_gets_its_own_noise_charge_and_guarantee(
    tmp_path: Path, monkeypatch: Any, limits: dict[str, Any]
) -> None:
    added = []
    for name in ("gaussian_sum", "correlated_sum"):
        original = getattr(plan, name)

        def spy(total: Any, norm: float, noise: float, *rest: Any, original: Any = original) -> Any:
            added.append((rest[-1], noise))
            return original(total, norm, noise, *rest)

        monkeypatch.setattr(plan, name, spy)
    result = experiment(**limits).run(tmp_path / "r")
    entries = Ledger(tmp_path / "r/ledger.sqlite").entries("toy")
    charged = {one.group: one.release.noise_multiplier for one in entries}
    assert len(entries) == 2 * ROUNDS
    assert sorted(set(added)) == sorted(charged.items())  # what is added is what is charged
    if not limits:
        for label, wanted in EPSILONS.items():
            noise = calibrate_noise_multiplier(Target(epsilon=wanted), PoissonSampling(0.5), ROUNDS, 20)
            assert charged[f"group-{label}"] == noise
            made = {one.release: ROUNDS for one in entries if one.group == f"group-{label}"}
            assert 0.99 * wanted < epsilon(made, 1 / 2000).value <= wanted
    stated = {group: one.epsilon for group, one in result.group_guarantees.items()}
    assert stated == pytest.approx({"group-0": 1.0, "group-1": 4.0}, rel=0.01)
    assert stated["group-0"] <= 1.0
    assert result.guarantee.epsilon == stated["group-1"] <= 4.0  # the headline is the worst group's
    stored = json.loads((tmp_path / "r/summary.json").read_text())["group_guarantees"]
    assert stored["group-0"]["epsilon"] == stated["group-0"]


def test_one_epsilon_for_all_states_no_groups() -> None:
    assert experiment(group_epsilons=None).run().group_guarantees == {}


def test_a_budget_pays_for_the_costliest_group(tmp_path: Path) -> None:
    place = {"population": "p", "ledger": tmp_path / "l.sqlite", "budget": Target(epsilon=3.0)}
    with pytest.raises(BudgetExceeded, match="A noise multiplier of"):
        experiment(**place).run()
    experiment(**place, group_epsilons={"0": 1.0, "1": 2.5}, target=Target(epsilon=2.5)).run()
    assert Ledger(tmp_path / "l.sqlite").describe("p")["left"]["share"] < 0.4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": None}, "needs public groups of tasks"),
        ({"group_epsilons": {"0": 4.0}}, "must name every group, and '1' is missing"),
        ({"group_epsilons": {"0": 1.0, "1": 4.0, "2": 1.0}}, "unknown group '2'"),
        ({"group_epsilons": {"0": 1.0, "1": 3.0}}, r"largest of the groups' epsilons, 3"),
        ({"group_epsilons": {"0": 0.0, "1": 4.0}}, "must be positive"),
        ({"group_epsilons": {}}, "must be positive"),
        ({"target": None, "noise_multiplier": 1.0}, "target must state the largest"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        experiment(**changes).run(tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_the_command_takes_a_table(fedpriv: Any) -> None:
    groups = json.dumps([number % 2 for number in range(30)])
    small = ["data.tasks=30", "strategy.rounds=2", "model.name=linear", "run.grid=in-process", "run.baseline=false"]
    words = ["run", "pmtl", "--out", "r", *(f"--set={one}" for one in small)]
    table = "--set=strategy.epsilon={0=1.0, 1=8.0}"
    code, _, err = fedpriv(*words, table)
    assert (code, "needs public groups" in err) == (2, True)
    code, out, err = fedpriv(*words, f"--set=strategy.groups={groups}", table)
    assert code == 0, err
    assert "Tasks of group-0: " in out
    assert "Tasks of group-1: " in out
    code, _, err = fedpriv(*words, "--resume", f"--set=strategy.groups={groups}", table)
    assert code == 0, err
    code, _, err = fedpriv("run", "pmtl", "--set=strategy.epsilon={0='much'}")
    assert (code, "a table of one per group" in err) == (2, True)


def test_personal_models_state_the_worst_group_of_their_own(tmp_path: Path) -> None:
    """Towards the public one group is worst off, and in full another: rounding gives a small group a larger rate."""
    tasks = replace(toy_tasks(40), groups=(*[0] * 37, *[1] * 3))
    strategy = Billboard(
        clipping_norm=1.0, rounds=3, sampling="fixed-size", sampling_rate=0.1, target=Target(epsilon=2.0, delta=1e-3),
        group_epsilons={"0": 2.0, "1": 1.5},
    )  # fmt: skip
    run = Experiment(tasks=tasks, client=GlobalModel(), model="linear", grid="in-process", strategy=strategy)
    result = run.run(tmp_path / "run")
    assert len(result.group_guarantees) == 2
    assert result.personal_guarantee.epsilon == max(one.epsilon for one in result.group_guarantees.values())


def test_equal_norms_per_layer_are_within_their_own_sum() -> None:
    """The root of three thirds exceeds one by a rounding error; no task may be refused for it."""
    tasks = toy_tasks(8)
    layers = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    run = Experiment(
        tasks=tasks, client=GlobalModel(), model=layers, grid="in-process", baseline=False,
        policy=NodePolicy(max_clipping_norm=1.0),
        strategy=Billboard(clipping_norm=1.0, clipping="per-layer", rounds=1, noise_multiplier=1.0),
    )  # fmt: skip
    assert not any("refused" in one for one in run.run().summary["warnings"])
