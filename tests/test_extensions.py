"""What people add to fedpriv: mistakes show before data are touched, and old formulas do not account for new things."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers import experiment, noisy, toy_tasks

from fedpriv import ComponentFailure, InputError, NoGuarantee, Tasks, clients, scenarios
from fedpriv.cli import main
from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.cohort import ClientAlgorithm, Cohort, Key, Learner, Params, Ragged, State, broadcast
from fedpriv.config import apply
from fedpriv.privacy import Release, RenyiFilter, epsilon
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.ledger import Ledger
from fedpriv.protocol import ALL, Reply, Request
from fedpriv.runs import read_config
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.strategies import server_updates
from fedpriv.strategies.server_updates import SGD, NoisySum


class Wider(Release):
    """What a newcomer does first: widen the type."""

    mechanism: Literal["gaussian", "laplace"] = "gaussian"  # type: ignore[assignment]
    sampling_name: Literal["poisson", "full", "shuffled"]  # type: ignore[assignment]


@pytest.mark.parametrize("changes", [{"mechanism": "laplace"}, {"sampling_name": "shuffled"}], ids=str)
def test_a_new_kind_of_release_is_refused_until_it_has_formulas(changes: dict[str, Any], tmp_path: Path) -> None:
    values = {"noise_multiplier": 1.0, "sampling_name": "poisson", "rate": 0.1, "clipping_norm": 1.0}
    release = Wider(**{**values, **changes})
    with pytest.raises(NoGuarantee, match="no formula"):
        epsilon([release], 1e-5)
    with pytest.raises(NoGuarantee, match="no formula"):
        RenyiFilter.for_budget(1.0, 1e-5).cost({release: 1})
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.register("people", fingerprint="f", num_tasks=10, declared="benchmark")
    with pytest.raises(NoGuarantee, match="no formula"):
        ledger.charge("people", "run", 1, "", release)
    assert ledger.entries("people") == []


class Odd(ClientAlgorithm):
    """Sends nothing new; its state is wrong in one of several ways."""

    kind: str = "fine"

    def initial_state(self, billboard: Params, cohort: Cohort) -> State:
        wrong: dict[str, Any] = {"nested": {"a": {"b": torch.zeros(1)}}, "flat": {"a": torch.zeros(7)}}
        return wrong.get(self.kind, {})

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        return state, {name: value - value for name, value in broadcast(billboard, len(cohort)).items()}


@pytest.mark.parametrize("engine", ["auto", "vmap", "loop"])
def test_a_model_with_too_few_outputs_is_refused_before_it_is_paid_for(tmp_path: Path, engine: str) -> None:
    """Every task's training would fail and count as zero, and every round would be charged."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5, 2))
    with pytest.raises(InputError, match="the model must give 3 outputs for every example, one per class"):
        experiment(toy_tasks(5), model=model, engine=engine).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Scribbler(Odd):
    """Writes into what all tasks start from, or into a clone of it."""

    clones: bool = False

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        first = next(iter(billboard.values()))
        (first.clone() if self.clones else first).add_(1.0)
        return super().train(learner, billboard, state, cohort, key)


def test_writing_into_the_billboard_is_refused() -> None:
    with pytest.raises(InputError, match=r"must not write into the billboard, .*; clone '"):
        experiment(toy_tasks(5), client=Scribbler()).run()
    experiment(toy_tasks(5), client=Scribbler(clones=True)).run()


class Frozen(GlobalModel):
    """Sends a view that repeats one row for its first layer; task 2 is never finite."""

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        state, update = super().train(learner, billboard, state, cohort, key)
        first, *others = update
        bad = torch.from_numpy(cohort.ids == 2)
        for name in others:
            update[name] = update[name].masked_fill(bad.view(-1, *[1] * (update[name].dim() - 1)), torch.nan)
        return state, {**update, first: broadcast({first: billboard[first] + 1}, len(cohort))[first]}


def test_a_task_that_does_not_count_leaves_the_others_alone() -> None:
    tasks = toy_tasks(5)
    node = Node(NodeSpec(tasks, Frozen(), experiment(tasks).problem()))
    billboard = {name: value.numpy() for name, value in node.spec.problem.initial().items()}
    request = Request(1, {ALL: billboard}, {ALL: np.arange(5)}, reply="rows", declared=Declaration(1e6))
    rows = Reply.from_content(node.train(request.to_content())).updates[ALL]
    first = next(iter(rows))
    assert [bool(np.abs(row).max() > 0.5) for row in rows[first]] == [True, True, False, True, True]


def shortened(tasks: Tasks, task: int, size: int) -> Tasks:
    """Leave one task only so many training examples."""
    data = tasks.train
    kept = [data.rows(k) for k in range(len(tasks))]
    kept[task] = slice(kept[task].start, kept[task].start + size)
    return replace(tasks, train=Ragged.from_lists([data.inputs[r] for r in kept], [data.targets[r] for r in kept]))


UNSTABLE = {"learning_rate": 5.0, "batch_size": 32, "epochs": 15}


@pytest.mark.parametrize("engine", ["auto", "vmap"])
@pytest.mark.parametrize(
    "client",
    [
        GlobalModel(**UNSTABLE),
        GlobalModel(**UNSTABLE, momentum=0.5),
        MeanRegularized(**UNSTABLE, strength=0.01),
        MeanRegularized(**UNSTABLE, strength=(0.01, 0.02), momentum=0.5),
    ],
    ids=["plain", "momentum", "pulled", "searched"],
)
def test_not_a_bit_of_an_update_depends_on_the_size_of_another_task(engine: str, client: ClientAlgorithm) -> None:
    """Rounding that follows the padding would be amplified by unstable training beyond the sensitivity."""
    whole = toy_tasks(6, sizes=[23, 23, 33, 23, 9, 9])
    rows = []
    for size in (33, 13, 3):
        tasks = shortened(whole, 2, size)
        node = Node(NodeSpec(tasks, client, experiment(tasks, dtype="float32").problem(), engine=engine))
        billboard = {name: value.numpy() for name, value in node.spec.problem.initial().items()}
        request = Request(1, {ALL: billboard}, {ALL: np.arange(6)}, reply="rows", declared=Declaration(1e6))
        answer = Reply.from_content(node.train(request.to_content())).updates[ALL]
        rows.append(np.concatenate([value.reshape(6, -1) for value in answer.values()], axis=1))
    others = [0, 1, 3, 4, 5]
    assert np.abs(rows[0][others]).max() > 1
    for found in rows[1:]:
        np.testing.assert_array_equal(found[others], rows[0][others])
        assert (found[2] != rows[0][2]).any()


@pytest.mark.parametrize("kind", ["nested", "flat"])
def test_a_wrong_state_is_refused_before_data_are_touched(kind: str) -> None:
    with pytest.raises(InputError, match=r"Odd\.initial_state must return a state of tensors with a task axis"):
        experiment(toy_tasks(5), client=Odd(kind=kind)).run()


def test_no_reference_is_shown_where_no_work_was_counted() -> None:
    """Untrained, it would make any client look good."""
    result = experiment(toy_tasks(5), client=Odd(), baseline=True).run(reproduce=0)
    assert result.diagnostics.accuracy.local_only is None
    assert "counted no gradient work" in result.summary["warnings"][-1]
    counted = experiment(toy_tasks(5), client=GlobalModel(), baseline=True).run(reproduce=0)
    assert counted.diagnostics.accuracy.local_only is not None


class Sloppy(SGD):
    """Moves the billboard to something that nodes cannot read."""

    how: str = "dtype"

    def step(self, released: NoisySum, state: Any) -> Any:
        arrays, state = super().step(released, state)
        name = next(iter(arrays))
        if self.how == "missing":
            return {key: value for key, value in arrays.items() if key != name}, state
        changed = arrays[name].astype(np.float16) if self.how == "dtype" else arrays[name][..., :1]
        return {**arrays, name: changed}, state


@pytest.mark.parametrize("how", ["missing", "dtype", "shape"])
def test_a_billboard_that_nodes_cannot_read_is_not_published(tmp_path: Path, how: str) -> None:
    with pytest.raises(ComponentFailure, match="nothing was published, and the round is charged"):
        experiment(
            toy_tasks(5), strategy=noisy(rounds=2, server_update=Sloppy(how=how))
        ).run(tmp_path / "run")  # fmt: skip
    ledger = Ledger(tmp_path / "run/ledger.sqlite")
    assert len(ledger.entries(ledger.populations()[0])) == 1
    assert not list((tmp_path / "run/checkpoints").glob("*1*"))


def test_the_client_of_the_contributing_page_runs_as_the_page_says(tmp_path: Path, monkeypatch: Any) -> None:
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    section = page.split("### A client algorithm\n")[1].split("\n### ")[0]
    module = ModuleType("fedpriv.clients.interpolated")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(section.split("```python\n")[1].split("```")[0], module.__dict__)
    monkeypatch.setattr(clients, "Interpolated", module.Interpolated, raising=False)
    monkeypatch.setattr(clients, "__all__", [*clients.__all__, "Interpolated"])
    words = next(part for part in section.split("`") if part.startswith("fedpriv run")).split()[1:]
    short = ["--set", "strategy.rounds=2", "--set", "data.tasks=20", "--set", "run.grid=in-process"]
    monkeypatch.setattr(sys, "argv", ["fedpriv", *words, *short, "--reproduce", "1", "--out", str(tmp_path / "run")])
    main()
    said = read_config(tmp_path / "run")["client"]
    assert (said["name"], said["share"]) == ("interpolated", 0.7)
    # A mixture of nothing of one's own is the billboard.
    for share, same in ((0.0, True), (1.0, False)):
        found = experiment(toy_tasks(5), client=module.Interpolated(share=share)).run(reproduce=0).diagnostics.loss
        assert (found.personal == pytest.approx(found.billboard, rel=1e-6)) == same


def test_the_server_step_of_the_contributing_page_runs_as_the_page_says(tmp_path: Path, monkeypatch: Any) -> None:
    """File, line in ``__init__`` and command are the page's own; the steps are those of PyTorch's optimiser."""
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    section = page.split("### A server step\n")[1].split("\n### ")[0]
    code, line = (block.split("```")[0] for block in section.split("```python\n")[1:])
    assert code.count("\n") < 60
    named = re.search(r"`strategies/server_updates/(\w+)\.py`:\n\n```python", section)
    assert named is not None
    name = f"fedpriv.strategies.server_updates.{named[1]}"
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(code, module.__dict__)
    for taken in ("Nesterov", "__all__"):  # so that they are put back
        monkeypatch.setattr(server_updates, taken, getattr(server_updates, taken, None), raising=False)
    exec(line, server_updates.__dict__)
    words = next(part for part in section.split("`") if part.startswith("fedpriv run")).split()[1:]
    short = ["--set", "strategy.rounds=3", "--set", "data.tasks=20", "--set", "run.grid=in-process"]
    monkeypatch.setattr(sys, "argv", ["fedpriv", *words, *short, "--reproduce", "1", "--out", str(tmp_path / "run")])
    main()
    said = read_config(tmp_path / "run")["strategy"]
    assert (said["server_update"], said["server_momentum"]) == ("nesterov", 0.5)
    assert CheckpointStore(tmp_path / "run/checkpoints").load(3).state[ALL]

    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([weights], lr=0.3, momentum=0.5, nesterov=True)
    update = module.Nesterov(momentum=0.5)
    billboard = {"w": np.zeros(2)}
    state = update.initial_state(billboard)
    for number, mean in enumerate(np.random.default_rng(0).normal(size=(4, 2)), start=1):
        weights.grad = torch.from_numpy(-mean)
        optimiser.step()
        billboard, state = update.step(server_updates.NoisySum(number, 4, billboard, {"w": mean * 5}, 5.0, 0.3), state)
    np.testing.assert_allclose(billboard["w"], weights.detach().numpy(), rtol=1e-12)


def package(**attributes: Any) -> ModuleType:
    module = ModuleType("fedpriv.scenarios.ward", attributes.pop("doc", "A ward."))
    module.__file__ = "/nowhere/ward/__init__.py"
    vars(module).update(attributes)
    return module


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "must name its presets"),
        ({"PRESETS": ()}, "must name its presets"),
        ({"PRESETS": "small"}, "must name its presets"),
        ({"PRESETS": ("small",)}, r"small\.toml is not there"),
    ],
    ids=str,
)
def test_a_faulty_scenario_is_a_sentence(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scenarios._read("ward", package(**attributes))


def test_another_partition_keeps_only_what_it_knows() -> None:
    """The presets' alpha belongs to Dirichlet; no other scheme could be chosen on the command line."""
    config = scenarios.scenario("pmtl").preset("fashion")
    changed = apply(config, {"data.partition": "iid", "data.tasks": 50})
    assert changed["data"] == {"name": "fashion", "size": 14, "partition": "iid", "tasks": 50}


def test_a_million_tasks_are_checked_at_once() -> None:
    """Python would need minutes; what is wrong with one of them is still named."""
    tasks = toy_tasks(2000, sizes=[4] * 2000)
    tasks.check()
    tasks.train.targets[tasks.train.rows(1234).start] = 3
    with pytest.raises(InputError, match=r"'task-1234' holds a label outside of 0\.\.2 in its train part"):
        tasks.check()
