"""The billboard aggregator: sensitivity by brute force, and what must not change it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from helpers import C, Explosive, experiment, final, moved, noisy, toy_problem, toy_tasks, whole
from scipy import stats

from fedpriv import ComponentFailure, InputError, Target
from fedpriv.clients import GlobalModel, LocalOnly, MeanRegularized
from fedpriv.cohort import Key, Learner, LoopEngine, Problem, broadcast
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.entropy import ReproducibleEntropy
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.privacy.ledger import Ledger
from fedpriv.protocol import ALL, Reply, Request, record_from_billboards
from fedpriv.runtime.grid import InProcessGrid
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.strategies import Billboard, Silent


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3, 1e30], ids=lambda s: f"scale-{s:g}")
@pytest.mark.parametrize("reply", ["sum", "rows"])
def test_replacing_one_task_moves_the_pre_noise_aggregate_by_at_most_twice_the_bound(scale: float, reply: Any) -> None:
    """Whatever one task's data become (heavy, zero, huge), the mean moves by at most 2 C / m (E3, E4)."""
    tasks = toy_tasks(6, sizes=[4, 12, 3, 5, 60, 2])
    other = replace(tasks, train=replace(tasks.train, inputs=tasks.train.inputs.copy()))
    other.train.inputs[other.train.rows(4)] *= scale
    strategy = Billboard(clipping_norm=C, rounds=1, noise_multiplier=0.0, reply=reply)
    difference = moved(final(tasks, strategy=strategy), final(other, strategy=strategy))
    assert difference <= 2 * C / 6 * (1 + 1e-9)
    if scale == 1e3:
        assert difference > 0.1 * C / 6, "the comparison must be able to fail"


@pytest.fixture
def at_work(tmp_path: Path) -> tuple[Billboard, InProcessGrid, list[Message], Ledger]:
    """A bound strategy with three nodes of two tasks, and the honest replies of round 1."""
    tasks = toy_tasks(6)
    problem = toy_problem(tasks)
    specs = [NodeSpec(tasks.shard(k, k + 2), GlobalModel(), problem) for k in (0, 2, 4)]
    grid = InProcessGrid(specs)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.register("toy", fingerprint="f", num_tasks=6, declared="benchmark", budget=None)
    strategy = Billboard(clipping_norm=C, rounds=3, noise_multiplier=0.0, reply="rows")
    initial = record_from_billboards({ALL: {k: v.numpy() for k, v in problem.initial().items()}})
    strategy.bind(grid, initial, journal=Journal(ledger, "toy", "run"), entropy=ReproducibleEntropy(0))
    replies = grid.send_and_receive(strategy.configure_train(1, initial, {}, grid))  # type: ignore[arg-type]
    return strategy, grid, replies, ledger


def aggregate(strategy: Billboard, replies: list[Message]) -> dict[str, Any]:
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    return {name: value.numpy() for name, value in arrays.items()}


def tampered(reply: Message, change: Any) -> Message:
    """Copy a reply with one of its arrays changed."""
    content = RecordDict({"diagnostics": MetricRecord()})
    for name, record in reply.content.array_records.items():
        arrays = {key: value.numpy().copy() for key, value in record.items()}
        if name.startswith("update/"):
            arrays = change(arrays)
        content[name] = ArrayRecord({key: Array(value) for key, value in arrays.items()})
    changed = Message(content, reply_to=reply)
    changed.metadata.__dict__.update(reply.metadata.__dict__)
    return changed


def one_entry(value: float) -> Any:
    def change(arrays: dict[str, Any]) -> dict[str, Any]:
        next(iter(arrays.values()))[0].flat[0] = value
        return arrays

    return change


@pytest.mark.parametrize(
    ("name", "change", "removes"),
    [
        ("nan", one_entry(np.nan), 1),
        ("inf", one_entry(np.inf), 1),
        ("huge", one_entry(1e300), 0),
        ("zero", lambda a: {k: v * 0 for k, v in a.items()}, 2),
        ("integers", lambda a: {k: np.full(v.shape, 7, dtype=np.int64) for k, v in a.items()}, 0),
        ("wrong shape", lambda a: {k: v[..., None] for k, v in a.items()}, 2),
        ("wrong count", lambda a: {k: v[:1] for k, v in a.items()}, 2),
        ("text", lambda a: {k: np.full(v.shape, "x") for k, v in a.items()}, 2),
        ("missing name", lambda a: dict(list(a.items())[1:]), 2),
        ("other name", lambda a: {f"{k}!": v for k, v in a.items()}, 2),
    ],
)
def test_a_strange_update_counts_as_zero_or_is_clipped(at_work: Any, name: str, change: Any, removes: int) -> None:
    strategy, _, replies, ledger = at_work
    start = strategy.session.checkpoint
    honest = aggregate(strategy, replies)
    strategy.session.checkpoint, strategy.session.journal = start, Journal(ledger, "toy", "another run")
    changed = aggregate(strategy, [tampered(replies[0], change), *replies[1:]])
    assert all(np.isfinite(value).all() for value in changed.values())
    # Two tasks of one node are touched at most: each moves the mean by at most C/m if removed, 2C/m if replaced.
    assert moved(honest, changed) <= (removes if removes else 4) * C / 6 * (1 + 1e-9)
    if name in ("nan", "wrong shape"):
        assert moved(honest, changed) > 0


def test_noise_is_added_and_charged_even_if_nobody_answers(at_work: Any) -> None:
    strategy, _, _, ledger = at_work
    strategy.session.resolved = replace(strategy.session.resolved, noise={ALL: 2.0})
    start = strategy.session.checkpoint.billboards[ALL]
    published = aggregate(strategy, [])
    count = sum(value.size for value in published.values())
    deviation = np.concatenate([(published[k] - start[k]).ravel() for k in published]) * 6
    assert len(ledger.entries("toy")) == 1
    # Chi-square with `count` degrees of freedom, outside these bounds with probability 2e-9; zeros lie far below them.
    spread = float(np.square(deviation / (2.0 * C)).sum())
    assert 0.2 * count < stats.chi2.ppf(1e-9, count) < spread < stats.chi2.isf(1e-9, count)


def test_a_failing_node_of_many_tasks_stops_the_run_but_a_single_task_counts_as_zero(at_work: Any) -> None:
    strategy, _, replies, ledger = at_work
    broken = Message(Error(code=1, reason="out of memory"), reply_to=replies[0])
    broken.metadata.__dict__.update(replies[0].metadata.__dict__)
    with pytest.raises(ComponentFailure, match="out of memory"):
        strategy.aggregate_train(1, [broken, *replies[1:]])
    assert ledger.entries("toy") == []


def test_one_task_per_node_failing_counts_as_zero() -> None:
    tasks = toy_tasks(3, sizes=[4, 5, 6])
    tasks.train.inputs[tasks.train.rows(1)] = 1e4
    model = Explosive(5, 3)
    broken = final(tasks, model=model, engine="loop", shards=3)
    together = final(tasks, model=model, engine="loop", shards=1)
    alone = experiment(tasks, model=model)
    problem = alone.problem()
    with pytest.raises(InputError, match=r"run\.engine='loop'"):
        experiment(tasks, model=model, engine="vmap").run()
    cohort = replace(whole(tasks), positions=np.array([0, 2]))
    learner = Learner(problem, LoopEngine())
    billboard = problem.initial()
    _, update = GlobalModel(learning_rate=0.5).train(learner, billboard, {}, cohort, Key(0, 1))
    norms = torch.sqrt(sum(v.reshape(2, -1).square().sum(1) for v in update.values()))  # type: ignore[call-overload]
    scale = torch.clamp(C / norms, max=1.0)
    for name, value in billboard.items():
        expected = value + torch.einsum("c,c...->...", scale, update[name]) / 3
        np.testing.assert_allclose(broken[name], expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(together[name], expected, rtol=1e-12, atol=1e-12)


def test_no_noise_and_a_huge_clip_are_plain_federated_averaging() -> None:
    tasks = toy_tasks(5)
    rounds = 3
    strategy = Billboard(clipping_norm=1e9, rounds=rounds, noise_multiplier=0.0)
    found = final(tasks, strategy=strategy)
    problem = experiment(tasks).problem()
    model = problem.initial()
    learner = Learner(problem)
    for number in range(1, rounds + 1):
        local = learner.sgd(
            broadcast(model, 5), whole(tasks), Key(0, number), learning_rate=0.5, batch_size=10, epochs=1
        )
        model = {name: value.mean(dim=0) for name, value in local.items()}
    for name, value in model.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": 3},
        {"engine": "loop"},
        {"shards": 7, "engine": "loop"},
        {"strategy": noisy(reply="rows")},
        {"strategy": noisy(reply="rows"), "shards": 4},
    ],
    ids=["three shards", "loop", "one task per node, loop", "rows", "rows on four shards"],
)
def test_how_it_is_computed_does_not_matter(changes: dict[str, Any]) -> None:
    tasks = toy_tasks(7)
    client = MeanRegularized(strength=0.5, learning_rate=0.3, epochs=2, final_epochs=2)
    reference = experiment(tasks, client=client, strategy=noisy()).run(reproduce=4)
    other = experiment(tasks, **{"client": client, "strategy": noisy(), **changes}).run(reproduce=4)
    for name, value in reference.billboards[ALL].items():
        np.testing.assert_allclose(other.billboards[ALL][name], value, rtol=1e-10, atol=1e-12)
    for name, scores in reference.scores.items():
        np.testing.assert_allclose(other.scores[name], scores, rtol=1e-9)


def test_float32_engines_agree_to_their_tolerance() -> None:
    tasks = toy_tasks(7)
    # Little noise, so that the grid is finer than the tolerance: on which side of a step a sum falls, rounding decides.
    little = noisy(noise_multiplier=1e-4)
    one = experiment(tasks, strategy=little, dtype="float32").run(reproduce=4).billboards[ALL]
    two = experiment(tasks, strategy=little, dtype="float32", engine="loop", shards=3).run(reproduce=4)
    for name, value in one.items():
        np.testing.assert_allclose(two.billboards[ALL][name], value, rtol=1e-5, atol=1e-6)


def test_the_denominator_is_public() -> None:
    """E5: the sum is divided by rate * m, whatever number of tasks the coins chose."""
    tasks = toy_tasks(6)
    strategy = Billboard(clipping_norm=1e-6, rounds=1, noise_multiplier=0.0, sampling_rate=0.5)
    sizes = set()
    for seed in range(6):
        found = experiment(tasks, strategy=strategy, seed=seed).run(reproduce=seed)
        start = experiment(tasks, seed=seed).problem().initial()
        mean = moved({k: v.numpy() for k, v in start.items()}, found.billboards[ALL])
        chosen = round(mean * 0.5 * 6 / 1e-6, 1)
        assert chosen <= 6
        sizes.add(chosen)
    assert len(sizes) > 1


class Same(GlobalModel):
    """Every task sends the same update, longer than any clipping norm: the sum tells how many were drawn."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        return {}, {name: torch.ones(len(cohort), *value.shape) for name, value in billboard.items()}


@pytest.mark.parametrize(
    "sampled",
    [{"reply": "sum"}, {"reply": "rows"}, {"sampling": "fixed-size"}, {"groups": (0, 0, 0, 0, 1, 1)}],
    ids=["coins", "rows", "fixed size", "groups"],
)
def test_what_moves_the_billboard_is_the_sum_over_the_expected_number(sampled: dict[str, Any]) -> None:
    """Divided by the number drawn, or that answered, every round would move by C: and tell how many those were."""
    tasks = toy_tasks(6)
    strategy = Billboard(clipping_norm=C, rounds=1, noise_multiplier=0.0, sampling_rate=0.5, **sampled)
    alone = experiment(tasks, client=Same(), strategy=strategy)
    sizes = {"group-0": 4, "group-1": 2} if "groups" in sampled else {ALL: 6}
    drawn = []
    for seed in range(8):
        initial = alone.model_copy(update={"seed": seed}).problem().initial()
        start = {name: value.numpy() for name, value in initial.items()}
        found = alone.run(reproduce=seed).billboards
        for group, ids in sizes.items():
            chosen = strategy.plan.sampling_of(ids).draw(ids, ReproducibleEntropy(seed).coins(1, group))
            assert moved(start, found[group]) == pytest.approx(len(chosen) * C / (0.5 * ids), rel=1e-6)
            drawn.append(len(chosen) / (0.5 * ids))
    assert set(drawn) == {1.0} if "sampling" in sampled else len(set(drawn)) > 2


def test_groups_have_billboards_of_their_own() -> None:
    tasks = toy_tasks(6)
    strategy = noisy(groups=(0, 1, 0, 1, 0, 1))
    one = experiment(tasks, strategy=strategy, client=MeanRegularized()).run(reproduce=2)
    assert set(one.billboards) == {"group-0", "group-1"}
    other = replace(tasks, train=replace(tasks.train, inputs=tasks.train.inputs.copy()))
    other.train.inputs[other.train.rows(1)] += 3.0
    two = experiment(other, strategy=strategy, client=MeanRegularized()).run(reproduce=2)
    assert moved(one.billboards["group-0"], two.billboards["group-0"]) == 0
    assert moved(one.billboards["group-1"], two.billboards["group-1"]) > 0
    assert one.guarantee.epsilon == pytest.approx(
        experiment(tasks, strategy=noisy(), client=MeanRegularized()).run(reproduce=2).guarantee.epsilon
    ), "disjoint groups compose in parallel"
    with pytest.raises(InputError, match="one public label per task"):
        experiment(tasks, strategy=noisy(groups=(0, 1))).run(reproduce=2)


class Recorder:
    """A storage that notes the order of events."""

    def __init__(self, ledger: Ledger, fail: bool = False) -> None:
        self.ledger, self.events, self.fail = ledger, [], fail

    def stage(self, checkpoint: Checkpoint) -> None:
        self.events.append(("stage", len(self.ledger.entries("toy"))))

    def promote(self, round: int) -> None:
        self.events.append(("promote", len(self.ledger.entries("toy"))))
        if self.fail:
            raise OSError("disk full")


def test_a_release_is_charged_before_it_gets_out(at_work: Any) -> None:
    strategy, _, replies, ledger = at_work
    recorder = Recorder(ledger)
    strategy.session.journal = Journal(ledger, "toy", "run", recorder)
    strategy.aggregate_train(1, replies)
    assert recorder.events == [("stage", 0), ("promote", 1)]


def test_unbound_strategies_refuse_to_release(at_work: Any) -> None:
    strategy, grid, replies, _ = at_work
    with pytest.raises(InputError, match="not bound"):
        Billboard(clipping_norm=1.0, rounds=1, noise_multiplier=1.0).configure_train(1, ArrayRecord(), {}, grid)  # type: ignore[arg-type]
    strategy.session.journal = None
    with pytest.raises(ComponentFailure, match="no ledger"):
        strategy.aggregate_train(1, replies)


def test_clients_and_strategies_that_do_not_fit_are_refused() -> None:
    tasks = toy_tasks(4)
    with pytest.raises(InputError, match="use 'silent'"):
        experiment(tasks, client=LocalOnly())
    with pytest.raises(InputError, match="use 'billboard'"):
        experiment(tasks, strategy=Silent(rounds=2))


def test_silent_releases_nothing() -> None:
    tasks = toy_tasks(4)
    result = experiment(tasks, client=LocalOnly(epochs=3), strategy=Silent(rounds=2)).run(reproduce=0)
    assert result.guarantee.epsilon == 0
    assert result.summary["releases"] == []
    start = experiment(tasks).problem().initial()
    assert moved({k: v.numpy() for k, v in start.items()}, result.billboards[ALL]) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier"),
        ({"clipping_norm": 0.0}, "clipping_norm"),
        ({"clipping_norm": float("inf")}, "clipping_norm"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 1.1}, "sampling_rate"),
        ({"rounds": 0}, "rounds"),
        ({"noise_multiplier": None}, "give either a target"),
        ({"target": Target(epsilon=1.0)}, "exactly one"),
        ({"sampling_rat": 0.5}, "did you mean 'sampling_rate'"),
    ],
)
def test_wrong_settings_are_sentences(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        noisy(**settings)


def test_problem_with_batch_norm_is_refused_before_work() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))
    with pytest.raises(InputError, match="GroupNorm"):
        experiment(toy_tasks(3), model=model).run()
    assert Problem(torch.nn.Linear(2, 2)).num_parameters == 6


def test_a_round_is_drawn_once_even_without_storage(at_work: Any) -> None:
    """A second draw for a charged round would publish a release that nobody paid for."""
    strategy, _, replies, ledger = at_work
    strategy.session.resolved = replace(strategy.session.resolved, noise={ALL: 1.0})
    start = strategy.session.checkpoint
    aggregate(strategy, replies)
    strategy.session.checkpoint, strategy.session.entropy = start, ReproducibleEntropy(1)
    with pytest.raises(InputError, match="never drawn again"):
        aggregate(strategy, replies)
    assert len(ledger.entries("toy")) == 1


def test_a_node_counts_once(at_work: Any) -> None:
    strategy, _, replies, ledger = at_work
    start = strategy.session.checkpoint
    once = aggregate(strategy, replies)
    strategy.session.checkpoint, strategy.session.journal = start, Journal(ledger, "toy", "another run")
    twice = aggregate(strategy, [replies[0], *replies, replies[2]])
    assert moved(once, twice) == 0
    assert strategy.session.problems["rejected"] == 2


@pytest.mark.parametrize("ids", [[0, 0], [-1, 0], [1, 2], [5]], ids=str)
def test_a_node_refuses_tasks_named_twice_or_not_its_own(at_work: Any, ids: list[int]) -> None:
    strategy, grid, _, _ = at_work
    billboards = strategy.session.checkpoint.billboards
    request = Request(2, billboards, {ALL: np.array(ids)}, declared=Declaration(C))
    for kind in ("train", "evaluate", "train.finish"):
        reply = grid.send_and_receive([Message(request.to_content(), 1, kind)])[0]
        assert reply.has_error()
        assert "a request names" in reply.error.reason


def test_nothing_unclipped_leaves_a_node() -> None:
    """Rows and sums are what an own clipping makes of updates that are far too long, and of short ones."""
    tasks = toy_tasks(6)
    problem = toy_problem(tasks)
    node = Node(NodeSpec(tasks, GlobalModel(learning_rate=2.0), problem))
    start = {ALL: {name: value.numpy() for name, value in problem.initial().items()}}

    def answer(clipping_norm: float, reply: Any) -> dict[str, Any]:
        request = Request(1, start, {ALL: np.arange(6)}, reply, Declaration(clipping_norm))
        return Reply.from_content(node.train(request.to_content())).updates[ALL]

    plain = answer(1e6, "rows")
    norms = np.sqrt(sum(np.square(value).reshape(6, -1).sum(axis=1) for value in plain.values()))
    bound = float(np.median(norms)) / 2
    assert norms.max() > 3 * bound, "the comparison must be able to fail"
    factors = np.minimum(1.0, bound / norms)
    rows, total = answer(bound, "rows"), answer(bound, "sum")
    for name, value in plain.items():
        clipped = value * factors.reshape(6, *[1] * (value.ndim - 1))
        np.testing.assert_allclose(rows[name], clipped, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(total[name], clipped.sum(axis=0), rtol=1e-9, atol=1e-12)


class Fragile(GlobalModel):
    """Fails on every real task, which has examples of several classes, but not on made-up ones."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        if any(len(labels.unique()) > 1 for labels in cohort.part("train").targets):
            raise ValueError("cannot digest this")
        return super().train(learner, billboard, state, cohort, key)


@pytest.mark.parametrize("shards", [1, 4])
def test_tasks_that_all_fail_count_as_zero_and_are_reported(shards: int) -> None:
    """Whether a run stops must not depend on the data, even if every task of a cohort fails."""
    tasks = toy_tasks(4)
    result = experiment(tasks, client=Fragile(), shards=shards).run(reproduce=0)
    start = experiment(tasks).problem().initial()
    assert moved({k: v.numpy() for k, v in start.items()}, result.billboards[ALL]) == 0
    assert len(result.summary["releases"]) == 1
    warning = result.summary["warnings"][-1]
    assert "4 failed" in warning
    assert re.search(r"task 'task-\d' failed in stage 'train': ValueError: cannot digest this", warning)


class Broken(GlobalModel):
    """Returns an update under another name."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        state, update = super().train(learner, billboard, state, cohort, key)
        return state, {f"my-{name}": value for name, value in update.items()}


def test_a_client_that_cannot_work_is_refused_before_private_data_are_touched() -> None:
    with pytest.raises(InputError, match="update of the billboard's names"):
        experiment(toy_tasks(3), client=Broken()).run()


def test_groups_of_the_tasks_reach_the_strategy() -> None:
    tasks = replace(toy_tasks(4), groups=(0, 1, 1, 0))
    assert set(experiment(tasks, strategy=noisy()).run(reproduce=0).billboards) == {"group-0", "group-1"}


def test_nodes_that_host_another_population_are_refused() -> None:
    tasks = toy_tasks(4)
    other = replace(tasks, names=("a", "b", "c", "d"))
    right = experiment(tasks)
    problem = right.problem()
    for hosted, words in ((other, "other tasks"), (toy_tasks(3), "the nodes host 3 tasks")):
        grid = InProcessGrid(right.model_copy(update={"tasks": hosted}).specs(problem, 2))
        with pytest.raises(ComponentFailure, match=words):
            right.run(on=grid)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [3e38, 1e300])
@pytest.mark.parametrize("position", [0, 3])
@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_no_value_of_one_task_reaches_the_update_of_another(
    dtype: Any, value: float, position: int, engine: Any
) -> None:
    """Padding must not carry one task's overflow into the others: all other rows stay bit-identical."""
    if dtype == "float32" and value > 3.4e38:
        pytest.skip("refused before work: infinite in float32")
    tasks = toy_tasks(6, sizes=[4, 12, 3, 5, 60, 2])
    parts = {}
    for part in ("train", "validation"):
        data = tasks.part(part)  # type: ignore[arg-type]
        inputs = data.inputs.astype(dtype)
        inputs[data.rows(position)] = value
        parts[part] = replace(data, inputs=inputs)
    other = replace(tasks, **parts)
    client = MeanRegularized(strength=(1.0, 0.0), learning_rate=0.5, epochs=2, batch_size=3)
    rows = []
    for population in (tasks, other):
        node = Node(NodeSpec(population, client, experiment(population, dtype=dtype).problem(), engine=engine))
        billboards = {ALL: {k: v.numpy() for k, v in node.spec.problem.initial().items()}}
        request = Request(1, billboards, {ALL: np.arange(6)}, "rows", Declaration(C))
        answers = [Reply.from_content(node.train(request.to_content())).updates[ALL] for _ in range(2)]
        rows.append(answers)
    mine = np.arange(6) != position
    for before, after in zip(*rows, strict=True):
        for name, values in before.items():
            np.testing.assert_array_equal(values[mine], after[name][mine])
            assert np.isfinite(after[name]).all()


def test_inputs_that_overflow_the_computing_type_are_refused() -> None:
    tasks = toy_tasks(3)
    large = replace(tasks, train=replace(tasks.train, inputs=tasks.train.inputs.astype(np.float64) + 1e300))
    with pytest.raises(InputError, match="too large for float32"):
        experiment(large, dtype="float32")


def test_a_search_for_strength_does_not_depend_on_who_shares_a_cohort() -> None:
    tasks = toy_tasks(9)
    client = MeanRegularized(strength=(0.1, 1.0), learning_rate=0.3, final_epochs=2)
    found = [
        experiment(tasks, client=client, strategy=noisy(), baseline=True, shards=shards, engine=engine).run(reproduce=4)
        for shards, engine in ((1, "vmap"), (4, "vmap"), (1, "loop"))
    ]
    for other in found[1:]:
        assert other.summary["diagnostics"]["local_compute"] == found[0].summary["diagnostics"]["local_compute"]
        for name, scores in found[0].scores.items():
            np.testing.assert_allclose(other.scores[name], scores, rtol=1e-9)
