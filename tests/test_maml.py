"""MAML as a client: what it sends, where its noise goes, what may be claimed for it, and that it learns."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Unbending, toy_problem
from torch import Tensor, nn
from torch.func import functional_call

from fedpriv import Experiment, InputError, Target
from fedpriv.clients import MAML
from fedpriv.cohort import Cohort, Key, Learner, Params, State, Tasks, engine_named, task_gradients
from fedpriv.cohort.private_steps import clipped_gradients
from fedpriv.config import build_experiment
from fedpriv.data import FewShot, few_shot, load
from fedpriv.errors import BudgetExceeded
from fedpriv.privacy import epsilon
from fedpriv.privacy.entropy import ReproducibleEntropy
from fedpriv.privacy.gaussian import gaussian_epsilon
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.local import pixel_guarantee, support_guarantee
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.policy import NodePolicy
from fedpriv.privacy.terms import Observer, Output, Relation
from fedpriv.runs.published import Folder
from fedpriv.runtime.guard import Guard
from fedpriv.scenarios import scenario
from fedpriv.scenarios.maml import PRESETS
from fedpriv.strategies import Billboard


@functools.lru_cache
def people(seed: int = 0) -> tuple[Tasks, Tasks]:
    return few_shot(load("digits"), FewShot(ways=3, examples=5, tasks=8, held_out=6, turns=True, seed=seed))


def learner(tasks: Tasks, engine: str = "auto", noise: int | None = 1) -> Learner:
    source = None if noise is None else ReproducibleEntropy(noise)
    return Learner(toy_problem(tasks), engine_named(engine), noise=source)


def sent(client: MAML, tasks: Tasks, positions: Any = None, engine: str = "auto", round: int = 1, **how: Any) -> Params:
    """Return the updates of some tasks in one round."""
    mine = learner(tasks, engine, **how)
    cohort = Cohort(tasks, np.arange(len(tasks)) if positions is None else np.array(positions), torch.float64)
    _, update = client.train(mine, mine.problem.initial(), {}, cohort, Key(0, round))
    return update


def experiment(client: MAML | None = None, **more: Any) -> Experiment:
    tasks, new = people()
    if more.pop("protected", False):
        tasks = replace(tasks, declared="protected")
    strategy = more.pop("strategy", {})
    settings = {"clipping_norm": 1.0, "noise_multiplier": 1.0, "rounds": 3} | strategy
    if "target" in settings:
        settings.pop("noise_multiplier")
    return Experiment(
        tasks=tasks,
        held_out=new,
        model=more.pop("model", "linear"),
        client=client or MAML(queries=2),
        strategy=Billboard(**settings),
        grid="in-process",
        baseline=False,
        **more,
    )


@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("engine", ["auto", "vmap", "loop"])
def test_a_task_sends_the_negative_meta_gradient_of_its_episode(engine: str, order: Any) -> None:
    tasks, _ = people()
    client = MAML(learning_rate=0.4, steps=2, shots=1, queries=2, order=order)
    update = sent(client, tasks, engine=engine)
    problem = learner(tasks).problem
    episode = client.draw(Cohort(tasks, np.arange(len(tasks)), torch.float64), Key(0, 1))
    for task in (0, 5):
        theta = {name: value.requires_grad_() for name, value in problem.initial().items()}
        here = dict(theta)
        for _ in range(2):
            loss = nn.functional.cross_entropy(
                functional_call(problem.model, here, (episode.support.inputs[task],)), episode.support.targets[task]
            )
            slopes = torch.autograd.grad(loss, list(here.values()), create_graph=order == "second")
            here = {name: value - 0.4 * one for (name, value), one in zip(here.items(), slopes, strict=True)}
        outputs = functional_call(problem.model, here, (episode.query.inputs[task],))
        loss = nn.functional.cross_entropy(outputs, episode.query.targets[task])
        wanted = torch.autograd.grad(loss, list(theta.values()))
        for name, value in zip(theta, wanted, strict=True):
            assert torch.allclose(update[name][task], -value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_not_a_bit_depends_on_who_shares_the_cohort(dtype: torch.dtype) -> None:
    tasks, _ = people()
    client = MAML(learning_rate=0.4, steps=2, queries=2, noise_support=0.1, noise_adaptation=0.1)
    problem = toy_problem(tasks, dtype=dtype)

    def row(positions: list[int], task: int) -> Params:
        def stage(learner: Learner, part: Cohort, state: State) -> State:
            return client.train(learner, problem.initial(), state, part, Key(0, 1))[1]

        cohort = Cohort(tasks, np.array(positions), dtype)
        found = Guard(engine_named("auto"), problem).run("train", stage, cohort, lambda _: {}, ReproducibleEntropy(1))
        assert found.counted.all()
        work = torch.tensor(found.work[positions.index(task)])
        return {"work": work, **{name: value[positions.index(task)] for name, value in found.tree.items()}}

    alone, beside = row([5], 5), row([0, 1, 5, 7], 5)
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_arrays_that_start_from_zero_are_no_part_of_the_meta_model(order: Any, noise: float) -> None:
    """What the billboard holds of them is never used, nothing is sent of them, the rest is as if they were zero."""
    tasks, _ = people()
    mine = learner(tasks)
    start = mine.problem.initial()
    head = tuple(start)[-2:]
    usual: dict[str, Any] = {"learning_rate": 0.4, "queries": 2, "order": order, "noise_validation": noise}
    client = MAML(from_zero=head, **usual)
    cohort = Cohort(tasks, np.arange(len(tasks)), torch.float64)
    _, update = client.train(mine, start, {}, cohort, Key(0, 1))
    assert all(not update[name].any() for name in head)
    zeros = {name: torch.zeros_like(value) if name in head else value for name, value in start.items()}
    _, wanted = MAML(**usual).train(mine, zeros, {}, cohort, Key(0, 1))
    other = {name: value + 3.0 if name in head else value for name, value in start.items()}
    _, again = client.train(mine, other, {}, cohort, Key(0, 1))
    for name in set(start) - set(head):
        assert torch.equal(update[name], wanted[name])
        assert torch.equal(update[name], again[name])
        assert update[name].any()
    scores = [one.evaluate(mine, here, {}, cohort).loss for one, here in ((client, other), (MAML(**usual), zeros))]
    assert torch.equal(*scores)


def test_arrays_that_start_from_zero_get_the_noise_of_the_node_and_are_not_published_as_a_model() -> None:
    """The row is noised whole, so the guarantee is that of any other row."""
    head = ("3.weight", "3.bias")
    node: dict[str, Any] = {"noise_at": "node", "noise_multiplier": 4.0}
    said = [
        experiment(MAML(queries=1, **more), model="mlp", strategy=node).run().summary["guarantee"]
        for more in ({}, {"from_zero": head})
    ]
    assert said[0] == said[1]
    start = experiment(model="mlp").problem().initial()
    published = experiment(MAML(queries=1, from_zero=head), model="mlp", strategy=node).run().billboards["all"]
    moved = [float(np.abs(published[name] - start[name].numpy()).max()) for name in head]
    assert min(moved) > 0
    with pytest.raises(InputError, match=r"would publish billboard\.accuracy, at a cost, of a model that nobody uses"):
        experiment(
            MAML(queries=1, from_zero=head),
            model="mlp",
            strategy={"metrics": ("billboard.accuracy",), "metrics_epsilon": 1.0},
        )


def test_private_adaptation_also_starts_from_zero() -> None:
    """Adaptation as in DP-SGD moves the last layer, whose gradients are clipped and noised like all others."""
    tasks, _ = people()
    usual: dict[str, Any] = {
        "queries": 2, "order": "first", "episodes": "fixed", "adaptation_clip": 0.5, "noise_adaptation": 1.0,
    }  # fmt: skip
    start = learner(tasks).problem.initial()
    head = tuple(start)[-2:]
    zeros = {name: torch.zeros_like(value) if name in head else value for name, value in start.items()}
    cohort = Cohort(tasks, np.arange(len(tasks)), torch.float64)
    _, update = MAML(from_zero=head, **usual).train(learner(tasks), start, {}, cohort, Key(0, 1))
    _, wanted = MAML(**usual).train(learner(tasks), zeros, {}, cohort, Key(0, 1))
    assert all(torch.equal(update[name], wanted[name]) for name in set(start) - set(head))
    assert all(not update[name].any() for name in head)


def test_arrays_that_start_from_zero_must_exist_and_leave_something() -> None:
    tasks, _ = people()
    problem = learner(tasks).problem
    with pytest.raises(InputError, match="unknown array in client\\.from_zero 'head'"):
        MAML(from_zero=("head",)).check(problem, tasks)
    with pytest.raises(InputError, match="names all 4 arrays of the model, so there is nothing left to learn"):
        MAML(from_zero=tuple(problem.initial())).check(problem, tasks)


def test_evaluation_adapts_without_noise_and_counts_no_work() -> None:
    tasks, new = people()
    mine = learner(tasks)
    start = mine.problem.initial()
    cohort = Cohort(new, np.arange(len(new)), torch.float64)
    plain = MAML(learning_rate=0.4).evaluate(mine, start, {}, cohort)
    noisy = MAML(learning_rate=0.4, noise_support=9.0, noise_adaptation=9.0).evaluate(mine, start, {}, cohort)
    assert torch.equal(plain.loss, noisy.loss)
    assert not torch.equal(plain.loss, mine.evaluate({k: v.expand(6, *v.shape) for k, v in start.items()}, cohort).loss)
    assert not mine.work


# --- noise at four places ----------------------------------------------------------------------------------------

PLACES = ("noise_support", "noise_adaptation", "noise_query", "noise_validation")


@pytest.mark.parametrize("order", ["second", "first"])
def test_any_combination_of_the_four_places_changes_what_is_sent(order: Any) -> None:
    tasks, _ = people()
    seen = []
    for combination in range(16):
        chosen = {name: 0.3 for bit, name in enumerate(PLACES) if combination >> bit & 1}
        update = sent(MAML(learning_rate=0.4, queries=2, order=order, **chosen), tasks, [0, 1])
        seen.append(torch.cat([value.reshape(-1) for value in update.values()]))
        assert seen[-1].isfinite().all()
    assert len({tuple(one.tolist()) for one in seen}) == 16


def test_noise_of_the_node_is_fresh_every_round_and_secret() -> None:
    """Noise from the public seed would protect nobody: without a source it comes from the operating system."""
    tasks, _ = people()
    client, quiet = MAML(queries=2, noise_validation=1.0, episodes="fixed"), MAML(queries=2, episodes="fixed")
    still = sent(quiet, tasks, [0])

    def noise(**how: Any) -> Tensor:
        update = sent(client, tasks, [0], **how)
        return torch.cat([(update[name] - still[name]).reshape(-1) for name in update])

    assert torch.equal(noise(), noise())  # a message that comes twice gets the same answer
    assert not torch.allclose(noise(), noise(round=2))
    assert not torch.allclose(noise(noise=None), noise(noise=None))
    # 6 standard errors: one false alarm in 5e8.
    values = torch.cat([noise(round=number) for number in range(1, 6)])
    assert abs(values.std().item() - 1.0) < 6 / math.sqrt(2 * len(values))
    assert abs(values.mean().item()) < 6 / math.sqrt(len(values))


def test_noise_on_inputs_has_its_size_and_spares_padding() -> None:
    tasks, _ = people()
    client = MAML(queries=2, noise_query=0.5, input_range=(0.0, 1.0))
    mine = learner(tasks)
    cohort = Cohort(tasks, np.arange(8), torch.float64)
    drawn = client.draw(cohort, Key(0, 1)).query
    noisy = client._noisy(mine, drawn, "maml query", 0.5, cohort, Key(0, 1))
    difference = noisy.inputs - drawn.inputs
    assert (difference[drawn.mask == 0] == 0).all()
    values = difference[drawn.mask > 0]
    assert abs(values.std().item() - 0.5) < 0.5 * 6 / math.sqrt(2 * values.numel())
    wide = replace(
        drawn, inputs=drawn.inputs * 100
    )  # what is outside the declared range does not raise the sensitivity
    assert client._noisy(mine, wide, "x", 0.0, cohort, Key(0, 1)).inputs.max() <= 1.0


def test_clipped_gradients_are_sums_of_clipped_examples() -> None:
    tasks, _ = people()
    mine = learner(tasks)
    cohort = Cohort(tasks, np.arange(4), torch.float64)
    support = MAML(shots=2, queries=1).draw(cohort, Key(0, 1)).support
    start = {name: value.expand(4, *value.shape) for name, value in mine.problem.initial().items()}
    found = clipped_gradients(mine, start, support, 0.1)
    for task in range(4):
        total = {name: torch.zeros(value.shape[1:], dtype=value.dtype) for name, value in start.items()}
        for place in range(support.mask.shape[1]):
            leaves = {name: value[task].clone().requires_grad_() for name, value in start.items()}
            outputs = mine.problem.predict(leaves, support.inputs[task, place][None])
            loss = nn.functional.cross_entropy(outputs, support.targets[task, place][None])
            one = torch.autograd.grad(loss, list(leaves.values()))
            norm = math.sqrt(sum(float(value.square().sum()) for value in one))
            assert norm > 0.1
            for name, value in zip(leaves, one, strict=True):
                total[name] += value * (0.1 / norm)
        for name, value in total.items():
            assert torch.allclose(found[name][task], value, rtol=1e-5)
    loose = clipped_gradients(mine, start, support, 1e9)  # a huge clip: the plain sum of gradients
    plain, _ = task_gradients(mine.engine, mine.problem, start, support)
    assert all(torch.allclose(loose[name], 6 * plain[name], rtol=1e-10) for name in plain)


def test_replacing_a_support_example_moves_a_private_step_by_at_most_twice_the_clip() -> None:
    tasks, _ = people()
    mine = learner(tasks)
    cohort = Cohort(tasks, np.arange(1), torch.float64)
    support = MAML(shots=2, queries=1).draw(cohort, Key(0, 1)).support
    start = {name: value.expand(1, *value.shape) for name, value in mine.problem.initial().items()}
    for factor in (1.0, 1e3, math.inf, math.nan):
        other = replace(support, inputs=support.inputs.clone())
        other.inputs[0, 0] = -factor * (1 + other.inputs[0, 0])
        moved = [clipped_gradients(mine, start, one, 0.1) for one in (support, other)]
        squares = sum(float((moved[0][name] - moved[1][name]).square().sum()) for name in start)
        assert math.sqrt(squares) <= 0.2


# --- what may be claimed -----------------------------------------------------------------------------------------


def test_plain_standard_deviations_are_labelled_no_guarantee() -> None:
    tasks, _ = people()
    found, plain = MAML(**dict.fromkeys(PLACES, 0.1)).local_guarantees(tasks, rounds=3, delta=1e-3)
    assert not found
    assert len(plain) == 4
    assert all("no guarantee" in one for one in plain)
    assert MAML().local_guarantees(tasks, rounds=3, delta=1e-3) == ([], [])


@pytest.mark.parametrize(
    ("noise", "advice", "done"),
    [
        (
            {"noise_adaptation": 2.0},
            "set client.adaptation_clip, client.order = 'first' and client.episodes = 'fixed'",
            {"adaptation_clip": 0.1, "order": "first", "episodes": "fixed"},
        ),
        ({"noise_support": 2.0, "noise_query": 2.0}, "declare client.input_range", {"input_range": (0.0, 1.0)}),
        (
            {"noise_query": 2.0},
            "noise both support and query inputs, and declare client.input_range",
            {"noise_support": 2.0, "input_range": (0.0, 1.0)},
        ),
    ],
)
def test_plain_noise_promises_something_once_the_advice_is_followed(noise: Any, advice: str, done: Any) -> None:
    tasks, _ = people()
    found, plain = MAML(**noise).local_guarantees(tasks, rounds=3, delta=1e-3)
    assert not found
    assert {one.rpartition("for one, ")[2] for one in plain} == {f"{advice}."}
    (found,), plain = MAML(**noise, **done).local_guarantees(tasks, rounds=3, delta=1e-3)
    assert not plain
    assert found.epsilon < math.inf


def test_noise_on_what_is_sent_is_advised_to_clip_first() -> None:
    """The same noise promises nothing as the client's, and something as the strategy's on the node."""
    quiet = {"noise_multiplier": 0.0, "rounds": 1}
    result = experiment(MAML(queries=2, noise_validation=4.0), strategy=quiet).run()
    advice = "for one, set strategy.noise_at = 'node' instead, which clips first."
    assert any("noise_validation" in one and one.endswith(advice) for one in result.summary["warnings"])
    assert result.guarantee.epsilon == math.inf
    result = experiment(MAML(queries=2), strategy={"noise_multiplier": 4.0, "rounds": 1, "noise_at": "node"}).run()
    assert not any(advice in one for one in result.summary["warnings"])
    assert result.guarantee.observer is Observer.SERVER
    assert result.guarantee.epsilon == pytest.approx(gaussian_epsilon(2 / 4, result.guarantee.delta), rel=1e-6)


def test_pixels_are_protected_by_noise_on_both_sets_over_the_declared_range() -> None:
    tasks, _ = people()
    one_sided, plain = MAML(noise_support=5.0, input_range=(0, 1)).local_guarantees(tasks, rounds=3, delta=1e-3)
    assert not one_sided
    assert "noise both" in plain[0]
    client = MAML(noise_support=5.0, noise_query=8.0, input_range=(0, 1))
    (found,), plain = client.local_guarantees(tasks, rounds=3, delta=1e-3)
    assert not plain
    # Independent derivation: 64 pixels of range 1 are at most 8 apart; three times Gaussian noise of 5.
    assert found.epsilon == pytest.approx(gaussian_epsilon(8 / 5 * math.sqrt(3), 1e-3), rel=1e-6)
    assert "label is not protected" in found.unit
    assert "sensitivity is 8 for 64 values" in found.assumptions[1]
    assert (found.output, found.observer) == (Output.ROWS, Observer.SERVER)
    with pytest.raises(InputError, match="from a smaller to a larger"):
        pixel_guarantee(1.0, values=4, low=1, high=0, participations=1, delta=1e-3, num_tasks=8)
    with pytest.raises(InputError, match="'input_range' must go from a smaller"):
        MAML(input_range=(1, 0))


def test_the_adaptation_gradient_is_private_in_first_order_with_fixed_sets_only() -> None:
    tasks, _ = people()
    with pytest.raises(InputError, match=r"Hessian of the support loss past the noise; set order = 'first'"):
        MAML(adaptation_clip=0.1, noise_adaptation=2.0)
    fresh = MAML(adaptation_clip=0.1, noise_adaptation=2.0, order="first", steps=2)
    assert fresh.local_guarantees(tasks, rounds=3, delta=1e-3)[0] == []
    fixed = fresh.model_copy(update={"episodes": "fixed"})
    (found,), plain = fixed.local_guarantees(tasks, rounds=3, delta=1e-3)
    assert not plain
    # Six Gaussian steps whose sums move by up to two clips, against noise of two clips.
    assert found.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(6) * 2 / 2, 1e-3), rel=1e-6)
    assert "query set" in found.public
    again = support_guarantee(2.0, 7.0, steps=2, participations=3, delta=1e-3, num_tasks=8)
    assert again.epsilon == pytest.approx(found.epsilon)  # the clip itself does not matter


# --- noise on the node for the whole row -------------------------------------------------------------------------


def test_noise_on_the_node_is_local_privacy_against_the_server_and_composes() -> None:
    result = experiment(strategy={"noise_at": "node", "noise_multiplier": 4.0, "sampling_rate": 0.5}).run()
    found = result.guarantee
    assert (found.output, found.observer, found.relation) == (Output.ROWS, Observer.SERVER, Relation.REPLACE_ONE)
    # Two rows are up to 2 clips apart: mu = 2 / 4 in each of three rounds, and coins hide nothing.
    assert found.epsilon == pytest.approx(gaussian_epsilon(0.5 * math.sqrt(3), found.delta), rel=1e-6)
    assert "local differential privacy" in str(found).lower()
    assert all(one["noise_at"] == "node" for one in result.summary["releases"])


def test_a_target_is_met_by_noise_on_the_node() -> None:
    run = experiment(strategy={"noise_at": "node", "target": Target(epsilon=3.0, delta=1e-3)})
    found = run.run().guarantee
    assert 2.9 < found.epsilon <= 3.0
    release = Release(
        noise_multiplier=found.noise_multiplier, sampling_name="full", rate=1, clipping_norm=1, noise_at="node"
    )
    assert epsilon({release: 3}, 1e-3, Relation.REPLACE_ONE).value == pytest.approx(found.epsilon)


@pytest.mark.parametrize("reply", ["sum", "rows"])
def test_every_row_has_the_declared_noise_before_it_leaves(reply: Any) -> None:
    """The billboard of a round is the clipped mean plus the nodes' noise, and the server adds none."""
    common = {"rounds": 1, "reply": reply, "clipping_norm": 0.5}
    quiet = experiment(strategy=common | {"noise_multiplier": 0.0}).run(reproduce=3).billboards["all"]
    noisy = (
        experiment(strategy=common | {"noise_multiplier": 2.0, "noise_at": "node"}).run(reproduce=3).billboards["all"]
    )
    # float32 billboards; 8 tasks of noise 2 * 0.5 each, divided by 8.
    difference = np.concatenate([(noisy[name] - quiet[name]).ravel() for name in quiet])
    std = 2.0 * 0.5 * math.sqrt(8) / 8
    assert abs(difference.std() / std - 1.0) < 6 / math.sqrt(2 * len(difference))  # one false alarm in 5e8


def test_noise_on_the_node_does_not_depend_on_shards_and_not_on_the_seed_alone() -> None:
    strategy = {"noise_at": "node", "noise_multiplier": 1.0, "rounds": 1}
    found = [experiment(strategy=strategy, shards=shards).run(reproduce=3).billboards["all"] for shards in (1, 3)]
    assert all(np.allclose(found[0][name], found[1][name], rtol=0, atol=1e-6) for name in found[0])
    free = [experiment(strategy=strategy, seed=3).run().billboards["all"] for _ in range(2)]
    assert not any(np.allclose(free[0][name], free[1][name]) for name in free[0])


def test_rows_are_charged_before_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that dies after the rows came has seen them: the ledger knows, and the same rows come again."""
    run = experiment(strategy={"noise_at": "node", "noise_multiplier": 1.0, "rounds": 2})
    seen: list[Any] = []
    whole = Billboard._released

    def dies(self: Billboard, number: int, group: str, total: Any) -> Any:
        seen.append({name: np.array(value) for name, value in total.items()})
        if len(seen) == 2:
            raise RuntimeError("the server died")
        return whole(self, number, group, total)

    monkeypatch.setattr(Billboard, "_released", dies)
    with pytest.raises(RuntimeError, match="died"):
        run.run(tmp_path / "run")
    ledger = Ledger(tmp_path / "run" / "ledger.sqlite")
    (population,) = ledger.populations()
    assert [entry.round for entry in ledger.entries(population)] == [1, 2]
    key = tmp_path / "run" / "checkpoints" / "node-noise.key"
    assert key.stat().st_mode & 0o777 == 0o600
    result = run.run(tmp_path / "run", resume=True)
    assert all(np.array_equal(seen[1][name], seen[2][name]) for name in seen[1])
    assert result.guarantee.rounds == 2
    assert not key.exists()


def test_combinations_without_a_guarantee_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="noise on the nodes is drawn and accounted for one participation"):
        Billboard(clipping_norm=1, noise_multiplier=1, rounds=3, noise_at="node", min_separation=1)
    target = Target(epsilon=1, relation="add/remove")
    with pytest.raises(InputError, match="a row that is missing is seen to be missing"):
        Billboard(clipping_norm=1, target=target, rounds=3, noise_at="node")
    with pytest.raises(InputError, match="noise on the node is independent"):
        Release(noise_multiplier=1, sampling_name="fixed-size", rate=0.5, clipping_norm=1, noise_at="node")
    tasks = replace(people()[0], declared="protected")
    protected = {"population": "p", "ledger": tmp_path / "l.sqlite"}
    strategy = Billboard(clipping_norm=1, noise_multiplier=1, rounds=3, noise_at="node")
    common: dict[str, Any] = {"tasks": tasks, "client": MAML(), "strategy": strategy, "grid": "in-process"} | protected
    with pytest.raises(InputError, match="budget under add/remove cannot pay for noise on the nodes"):
        Experiment(**common, budget=Target(epsilon=1.0))
    with pytest.raises(BudgetExceeded):
        Experiment(**common, budget=Target(epsilon=0.5, relation="replace-one")).run()


def test_a_reserved_round_is_paid_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that just pays for the run still does after a crash, and the ledger is found whole."""
    noise = 8.0
    cost = gaussian_epsilon(2.0 * math.sqrt(3) / noise, 1e-5)
    run = experiment(
        strategy={"noise_at": "node", "noise_multiplier": noise},
        protected=True,
        population="p",
        ledger=tmp_path / "l.sqlite",
        budget=Target(epsilon=cost * (1 + 1e-9), delta=1e-5, relation="replace-one"),
        budget_filter="gdp",
    )
    whole = Billboard._released

    def dies(self: Billboard, number: int, group: str, total: Any) -> Any:
        if number == 2:
            raise RuntimeError("the server died")
        return whole(self, number, group, total)

    monkeypatch.setattr(Billboard, "_released", dies)
    with pytest.raises(RuntimeError, match="died"):
        run.run(tmp_path / "run")
    monkeypatch.setattr(Billboard, "_released", whole)
    assert run.run(tmp_path / "run", resume=True).guarantee.rounds == 3
    ledger = Ledger(tmp_path / "l.sqlite")
    assert ledger.verify("p") == ([], [])
    assert not list(Folder.open(tmp_path / "run").problems(ledger.entries("p"), ledger.describe("p")))


def test_metrics_do_not_stand_beside_noise_of_the_tasks() -> None:
    with pytest.raises(InputError, match="published metrics would send it their scores without any"):
        experiment(MAML(noise_support=0.1), strategy={"metrics": "personal.accuracy", "metrics_epsilon": 0.5})


def test_a_node_counts_its_local_noise() -> None:
    policy = NodePolicy(max_participations=1, relation="replace-one", max_epsilon=100.0)
    result = experiment(strategy={"noise_at": "node", "rounds": 2}, policy=policy).run()
    assert "2" not in result.summary["diagnostics"]["per_task"].get("note", "")
    assert any("8 refused" in one and "takes part at most 1 times" in one for one in result.summary["warnings"])


# --- bad input, people who come later, the scenario --------------------------------------------------------------


def test_bad_input_is_refused_before_anything_starts() -> None:
    with pytest.raises(InputError, match=r"Unbending cannot be differentiated twice.*client.order = 'first'"):
        experiment(model=Unbending()).check()
    experiment(MAML(order="first"), model=Unbending(), engine="loop").check()
    with pytest.raises(InputError, match="4 shots leave none to judge by; lower the shots to 3"):
        experiment(MAML(shots=4)).check()
    tasks, new = people()
    with pytest.raises(InputError, match="is in the population, too"):
        Experiment(
            tasks=tasks,
            held_out=tasks,
            client=MAML(),
            strategy=Billboard(clipping_norm=1, noise_multiplier=0, rounds=1),
        )
    wrong = replace(new, num_classes=4)
    with pytest.raises(InputError, match="held-out people need examples of shape"):
        Experiment(
            tasks=tasks,
            held_out=wrong,
            client=MAML(),
            strategy=Billboard(clipping_norm=1, noise_multiplier=0, rounds=1),
        )


def test_the_command_line_learns_and_scores_people_who_come_later() -> None:
    """A quarter of the preset, everything fixed by a seed: people held out do better than from the public start."""
    config = scenario("maml").preset("digits")
    config["strategy"]["rounds"] = 80
    config["run"] |= {"grid": "in-process", "shards": 1}
    result = build_experiment(config).run(reproduce=0)
    found = result.summary["diagnostics"]["held_out"]
    assert found["people"] == 30
    assert set(found) == {"people", "billboard", "scratch", "pretrained"}
    assert found["billboard"]["accuracy"] - found["billboard"]["half"] > 0.4  # chance is 0.2
    assert found["scratch"]["gain"] > 0.02
    assert found["scratch"]["best"]["accuracy"] >= found["scratch"]["accuracy"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.data
def test_presets_fit_their_data(preset: str) -> None:
    build_experiment(scenario("maml").preset(preset)).check()
