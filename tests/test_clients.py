"""The client algorithms against their definitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_problem, toy_tasks, whole

from fedpriv import Experiment, InputError
from fedpriv.clients import FedProx, GlobalModel, LocalOnly, MeanRegularized
from fedpriv.cohort import ClientAlgorithm, Cohort, Key, Learner, Params, broadcast, unnest
from fedpriv.privacy.declaration import Declaration
from fedpriv.protocol import ALL as EVERYBODY
from fedpriv.protocol import Reply, Request
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.strategies import Billboard

ALL: list[ClientAlgorithm] = [MeanRegularized(), GlobalModel(), FedProx(), LocalOnly()]


def close(one: Params, two: Params, **tolerance: float) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("client", ALL, ids=lambda c: type(c).__name__)
def test_first_time_tasks_start_from_the_billboard_and_nothing_else(client: ClientAlgorithm) -> None:
    """Error E7: with a vanishing step the personal model must be exactly the billboard."""
    tasks = toy_tasks(4)
    learner = Learner(toy_problem(tasks))
    billboard = {name: value + 0.3 for name, value in learner.problem.initial().items()}
    cohort = whole(tasks)
    frozen = client.model_copy(update={"learning_rate": 0.0})
    state = frozen.initial_state(billboard, cohort)
    state, update = frozen.train(learner, billboard, state, cohort, Key(0, 1))
    close(frozen.personal(billboard, state, cohort), broadcast(billboard, 4))
    for value in update.values():
        assert not value.any()


@pytest.mark.parametrize("memory_bytes", [1e9, 0], ids=["memory", "file"])
@pytest.mark.parametrize("client", [MeanRegularized(learning_rate=0.3), FedProx(learning_rate=0.3)], ids=["mr", "prox"])
def test_a_task_that_comes_later_starts_as_if_nobody_had_come_before(
    client: ClientAlgorithm, memory_bytes: float
) -> None:
    """Through a node and its store of states: what others left there reaches neither its row nor its own model."""
    tasks = toy_tasks(5)
    spec = NodeSpec(tasks, client, toy_problem(tasks), memory_bytes=memory_bytes)
    initial = {name: value.numpy() for name, value in spec.problem.initial().items()}
    later = {name: value + 0.3 for name, value in initial.items()}

    def asked(node: Node, round: int, billboard: dict[str, Any], ids: list[int]) -> Reply:
        request = Request(
            round, {EVERYBODY: billboard}, {EVERYBODY: np.array(ids)}, reply="rows", declared=Declaration(1e9)
        )
        return Reply.from_content(node.train(request.to_content()))

    used, fresh = Node(spec), Node(spec)
    asked(used, 1, initial, [0, 1, 3])
    asked(used, 2, later, [0, 3])
    rows = [asked(node, 3, later, [2, 4]).updates[EVERYBODY] for node in (used, fresh)]
    assert all(value.any() for value in rows[0].values())
    for name, value in rows[0].items():
        np.testing.assert_array_equal(value, rows[1][name])
    kept = [node.store.read(np.array([2, 4]), {}) for node in (used, fresh)]
    close(kept[0], kept[1])
    frozen = Node(replace(spec, algorithm=client.model_copy(update={"learning_rate": 0.0})))
    asked(frozen, 1, initial, [0, 1, 3])
    assert not any(value.any() for value in asked(frozen, 2, later, [2]).updates[EVERYBODY].values())
    cohort = Cohort(tasks, np.array([2]), torch.float64)
    state = frozen.store.read(np.array([2]), {})
    public = {name: torch.from_numpy(value) for name, value in later.items()}
    close(client.personal(public, state, cohort), broadcast(public, 1))


def test_mean_regularized_step_is_algorithm_1() -> None:
    """One full-batch step: w - eta * (gradient + lambda (w - billboard))."""
    tasks = toy_tasks(3, sizes=[4, 6, 5])
    problem = toy_problem(tasks)
    learner, cohort = Learner(problem), whole(tasks)
    billboard = problem.initial()
    client = MeanRegularized(strength=0.4, learning_rate=0.1, batch_size=100)
    personal = {name: value + 0.2 for name, value in broadcast(billboard, 3).items()}
    state = client.initial_state(billboard, cohort)
    state |= {f"model/{name}": value for name, value in personal.items()}
    new, update = client.train(learner, billboard, state, cohort, Key(0, 1))
    gradients = learner.engine.gradients(problem, personal, cohort.part("train"))
    for name, value in personal.items():
        expected = value - 0.1 * (gradients[name] + 0.4 * (value - billboard[name]))
        torch.testing.assert_close(new[f"model/{name}"], expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(update[name], expected - billboard[name], rtol=1e-10, atol=1e-12)
    literal = client.model_copy(update={"update": "difference"})
    _, difference = literal.train(learner, billboard, state, cohort, Key(0, 1))
    for name, value in personal.items():
        torch.testing.assert_close(difference[name], new[f"model/{name}"] - value, rtol=1e-10, atol=1e-12)


def test_strong_pull_stays_at_the_billboard_and_no_pull_is_local_training() -> None:
    tasks = toy_tasks(3)
    learner, cohort = Learner(toy_problem(tasks)), whole(tasks)
    billboard = learner.problem.initial()
    free, alone = MeanRegularized(strength=0.0, epochs=3), LocalOnly(epochs=3)
    one, _ = free.train(learner, billboard, free.initial_state(billboard, cohort), cohort, Key(0, 1))
    two, _ = alone.train(learner, billboard, alone.initial_state(billboard, cohort), cohort, Key(0, 1))
    close(unnest("model", one), unnest("model", two))
    tied = MeanRegularized(strength=9.9, learning_rate=0.1, epochs=3)
    three, _ = tied.train(learner, billboard, tied.initial_state(billboard, cohort), cohort, Key(0, 1))
    far = sum(((one[k] - billboard[k[6:]]) ** 2).sum() for k in one if k.startswith("model/"))
    near = sum(((three[k] - billboard[k[6:]]) ** 2).sum() for k in three if k.startswith("model/"))
    assert near < 0.3 * far


def test_fedprox_without_pull_is_fedavg() -> None:
    tasks = toy_tasks(3)
    learner, cohort = Learner(toy_problem(tasks)), whole(tasks)
    billboard = learner.problem.initial()
    _, one = GlobalModel(epochs=2).train(learner, billboard, {}, cohort, Key(0, 1))
    _, two = FedProx(epochs=2, mu=0.0).train(learner, billboard, {}, cohort, Key(0, 1))
    _, three = FedProx(epochs=2, mu=1.0).train(learner, billboard, {}, cohort, Key(0, 1))
    close(one, two)
    assert any(not torch.allclose(one[name], three[name]) for name in one)


def test_each_task_chooses_the_strength_with_the_lowest_validation_loss() -> None:
    tasks = toy_tasks(5, seed=3)
    learner, cohort = Learner(toy_problem(tasks)), whole(tasks)
    billboard = learner.problem.initial()
    candidates = (0.0, 1.0, 5.0)
    chooser = MeanRegularized(strength=candidates, epochs=4)
    state, _ = chooser.train(learner, billboard, chooser.initial_state(billboard, cohort), cohort, Key(0, 1))
    losses = []
    for strength in candidates:
        fixed = MeanRegularized(strength=strength, epochs=4)
        one, _ = fixed.train(learner, billboard, fixed.initial_state(billboard, cohort), cohort, Key(0, 1))
        losses.append(learner.evaluate(unnest("model", one), cohort, "validation").loss)
    best = torch.stack(losses).argmin(dim=0)
    assert state["strength"].tolist() == [candidates[k] for k in best.tolist()]
    chosen = state["strength"].clone()
    work = dict(learner.work)
    again, _ = chooser.train(learner, billboard, state, cohort, Key(0, 2))
    assert torch.equal(again["strength"], chosen), "a strength is chosen once, then kept"
    spent = {task: learner.work[task] - work[task] for task in work}
    assert spent == {k: 4 * int(n) for k, n in enumerate(tasks.train.sizes)}, "search is paid for only once"


def test_final_fit_moves_towards_own_data_and_counts_as_work() -> None:
    tasks = toy_tasks(4)
    learner, cohort = Learner(toy_problem(tasks)), whole(tasks)
    billboard = learner.problem.initial()
    client = GlobalModel(final_epochs=5)
    state = client.finish(learner, billboard, {}, cohort, Key(0, 0))
    before = learner.evaluate(broadcast(billboard, 4), cohort, "train").loss
    after = learner.evaluate(client.personal(billboard, state, cohort), cohort, "train").loss
    assert (after < before).all()
    assert learner.work == {k: 5 * int(n) for k, n in enumerate(tasks.train.sizes)}
    assert GlobalModel().finish(learner, billboard, {}, cohort, Key(0, 0)) == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": -1.0}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"learning_rate": 0.0}, "greater than 0"),
        ({"epochs": 0}, "epochs"),
        ({"strenght": 1.0}, "did you mean 'strength'"),
        ({"strength": ()}, "strength"),
    ],
)
def test_wrong_settings_are_sentences(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        MeanRegularized(**settings)


def test_ragged_tasks_meet_tasks_of_their_size(monkeypatch: Any) -> None:
    """Ten huge tasks among small ones: padded together, most of every mini-batch would be empty."""
    from fedpriv.runtime import node as module

    sizes = [(4 if k % 5 else 60) for k in range(50)]
    tasks = toy_tasks(50, sizes=sizes)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 10 * 8 * sum(v.numel() for v in toy_problem(tasks).initial().values()))
    run = Experiment(
        tasks=tasks, model="mlp", client=GlobalModel(batch_size=60, epochs=2), grid="in-process", shards=1,
        strategy=Billboard(clipping_norm=1.0, noise_multiplier=1.0, rounds=1), dtype="float64",
    ).run()  # fmt: skip
    assert run.summary["fill_ratio"] == 1.0
