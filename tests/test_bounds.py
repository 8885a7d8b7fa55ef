"""Clipping by groups: the joint sensitivity by brute force, the noise that is added, and who refuses what."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from helpers import experiment, final, moved, toy_problem, toy_tasks
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv import InputError
from fedpriv.clients import GlobalModel
from fedpriv.config import apply, parse_assignments
from fedpriv.privacy import NodePolicy, gaussian_epsilon
from fedpriv.privacy.bounds import BIT, Bounds, layers
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.ledger import Ledger
from fedpriv.protocol import ALL, Reply, Request
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.strategies import Billboard

SIZES = {"1.weight": 35, "1.bias": 7, "3.weight": 21, "3.bias": 3}
NORMS = {"1": 0.3, "3": 0.02}
Z = 1.7


def updates(rng: np.random.Generator, tasks: int) -> dict[str, Any]:
    """Rows of very different sizes, some of them not finite."""
    scale = 10.0 ** rng.uniform(-6, 6, size=tasks)
    found = {name: rng.normal(size=(tasks, size)) * scale[:, None] for name, size in SIZES.items()}
    for strange in (np.nan, np.inf, 1e300):
        if rng.random() < 0.3:
            found[rng.choice(list(SIZES))][rng.integers(tasks)] = strange
    return found


def scaled(bounds: Bounds, update: dict[str, Any]) -> Any:
    """Return the sum in standard deviations of its noise, times the noise multiplier, as one vector."""
    norm, scales = bounds.scales({name: value[0].size for name, value in update.items()}, bit_share=0.1)
    return np.concatenate([value.ravel() / scales.get(name, 1.0) for name, value in bounds.sum(update).items()]) / norm


@pytest.mark.parametrize("bounds", [Bounds({"": 0.5}), Bounds(NORMS), Bounds({"": 0.5}, 0.8)], ids=["flat", "2", "bit"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_one_task_moves_the_sum_by_at_most_its_bound(bounds: Bounds, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = updates(rng, 6), updates(rng, 1)
    replaced = {name: np.concatenate([other[name], value[1:]]) for name, value in one.items()}
    without = {name: value[1:] for name, value in one.items()}
    marked = [bounds.marked(some, np.ones(len(some["1.bias"]), dtype=bool)) for some in (one, replaced, without)]
    first, second, third = (scaled(bounds, some) for some in marked)
    assert np.linalg.norm(first - third) <= 1 + 1e-12
    assert np.linalg.norm(first - second) <= 2 + 1e-12
    assert np.isfinite(first).all()
    rows = bounds.rows(marked[0])
    for name, value in bounds.sum(marked[0]).items():
        np.testing.assert_allclose(rows[name].sum(axis=0), value, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("bounds", [Bounds(NORMS), Bounds({"": 0.5}, 0.8)], ids=["groups", "bit"])
def test_the_bound_is_reached(bounds: Bounds) -> None:
    huge = {name: np.full((1, size), 1e6) for name, size in SIZES.items()}
    assert np.linalg.norm(scaled(bounds, bounds.marked(huge, np.array([True])))) == pytest.approx(1.0)


def test_a_row_that_is_strange_in_one_group_counts_in_none() -> None:
    update = {name: np.ones((2, size)) for name, size in SIZES.items()}
    update["3.bias"][0, 0] = np.nan
    for name, value in Bounds(NORMS).sum(update).items():
        np.testing.assert_array_equal(value, Bounds(NORMS).rows({k: v[1:] for k, v in update.items()})[name][0])
    assert not any(value[0].any() for value in Bounds(NORMS).rows(update).values())


def test_the_noise_of_all_groups_together_is_what_is_accounted() -> None:
    """Derived another way: the groups as separate Gaussian mechanisms, composed by their privacy loss distributions."""
    norm, scales = Bounds(NORMS).scales(SIZES)
    composed = None
    for group, bound in NORMS.items():
        std = Z * norm * scales[f"{group}.bias"]
        one = privacy_loss_distribution.from_gaussian_mechanism(std / bound, value_discretization_interval=1e-3)
        composed = one if composed is None else composed.compose(one)
    expected = gaussian_epsilon(1 / Z, 1e-5)
    assert composed.get_epsilon_for_delta(1e-5) == pytest.approx(expected, rel=1e-3)


def test_the_shares_add_the_least_noise() -> None:
    norm, scales = Bounds(NORMS).scales(SIZES)
    sizes = {group: SIZES[f"{group}.weight"] + SIZES[f"{group}.bias"] for group in NORMS}
    ours = sum(size * scales[f"{group}.bias"] ** 2 for group, size in sizes.items()) * norm**2
    assert ours == pytest.approx(sum(NORMS[g] * math.sqrt(sizes[g]) for g in NORMS) ** 2)
    assert ours <= sum(sizes.values()) * sum(bound**2 for bound in NORMS.values()), "equal noise everywhere"
    for share in np.linspace(0.01, 0.99, 99):
        assert ours <= sizes["1"] * NORMS["1"] ** 2 / share + sizes["3"] * NORMS["3"] ** 2 / (1 - share) + 1e-12


class Still(GlobalModel):
    """Sends zeros, so that what is published is noise."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        return state, {name: value.new_zeros((len(cohort), *value.shape)) for name, value in billboard.items()}


@pytest.mark.parametrize(
    "banded", [{}, {"noise": "banded", "min_separation": 3, "sampling_rate": 0.3}], ids=["", "banded"]
)
def test_the_published_noise_has_the_scales(banded: dict[str, Any]) -> None:
    """With equal draws, the noise of a run with groups is that of a run with one norm of 1, times the scales."""
    tasks = toy_tasks(9)
    start = {name: value.numpy() for name, value in experiment(tasks).problem().initial().items()}
    one, two = (
        final(tasks, client=Still(), strategy=Billboard(rounds=5, noise_multiplier=Z, **norms, **banded))
        for norms in ({"clipping_norm": 1.0}, {"clipping_norms": NORMS})
    )
    _, scales = Bounds(NORMS).scales({name: value.size for name, value in start.items()})
    for name, value in start.items():
        np.testing.assert_allclose(two[name] - value, (one[name] - value) * scales[name], rtol=1e-9, atol=1e-12)
    assert len({round(scale, 9) for scale in scales.values()}) == 2


def test_noise_has_the_stated_deviation_per_group() -> None:
    """The chi-square test fails by chance with a probability below 1e-8 per group."""
    tasks = toy_tasks(4)
    start = {name: value.numpy() for name, value in experiment(tasks).problem().initial().items()}
    strategy = Billboard(rounds=1, noise_multiplier=Z, clipping_norms=NORMS)
    drawn: dict[str, list[Any]] = {"1": [], "3": []}
    for seed in range(8):
        found = experiment(tasks, client=Still(), strategy=strategy).run(reproduce=seed).billboards[ALL]
        first = experiment(tasks, seed=seed).problem().initial()
        for name in start:
            drawn[name[0]].append((found[name] - first[name].numpy()).ravel() * len(tasks))
    weights = {
        group: bound * math.sqrt(sum(v for k, v in SIZES.items() if k[0] == group)) for group, bound in NORMS.items()
    }
    for group, parts in drawn.items():
        values = np.concatenate(parts)
        share = weights[group] / sum(weights.values())
        spread = float(np.square(values / (Z * NORMS[group] / math.sqrt(share))).sum())
        assert abs(spread - len(values)) < 6 * math.sqrt(2 * len(values))


@pytest.mark.parametrize("scale", [0.0, 1e3, 1e30], ids=lambda s: f"scale-{s:g}")
@pytest.mark.parametrize("reply", ["sum", "rows"])
def test_replacing_one_task_moves_each_group_by_at_most_twice_its_norm(scale: float, reply: Any) -> None:
    tasks = toy_tasks(6, sizes=[4, 12, 3, 5, 60, 2])
    other = replace(tasks, train=replace(tasks.train, inputs=tasks.train.inputs.copy()))
    other.train.inputs[other.train.rows(4)] *= scale
    strategy = Billboard(clipping_norms=NORMS, rounds=1, noise_multiplier=0.0, reply=reply)
    one, two = final(tasks, strategy=strategy, shards=2), final(other, strategy=strategy, shards=2)
    for group, bound in NORMS.items():
        names = [name for name in one if name.startswith(group)]
        difference = moved({n: one[n] for n in names}, {n: two[n] for n in names})
        assert difference <= 2 * bound / 6 * (1 + 1e-9)
        assert difference > 0.01 * bound / 6, "the comparison must be able to fail"


def test_rows_sums_and_shards_agree_and_one_group_is_one_norm() -> None:
    tasks = toy_tasks(7)
    settings = {"rounds": 3, "noise_multiplier": 1.0, "sampling_rate": 0.6}
    reference = final(tasks, strategy=Billboard(clipping_norms=NORMS, **settings))
    for reply, shards in (("rows", 1), ("sum", 3), ("rows", 4)):
        found = final(tasks, strategy=Billboard(clipping_norms=NORMS, reply=reply, **settings), shards=shards)
        assert moved(reference, found) <= 1e-10
    flat = final(tasks, strategy=Billboard(clipping_norm=0.3, **settings))
    layered = final(tasks, strategy=Billboard(clipping_norm=0.3, clipping="per-layer", **settings))
    assert moved(flat, layered) > 1e-3
    assert layers(["a.weight", "a.bias", "b"], 3.0) == pytest.approx({"a": 3 / math.sqrt(2), "b": 3 / math.sqrt(2)})
    model = {"model": "linear"}
    one, two = (
        final(tasks, strategy=Billboard(**norms, **settings), **model)
        for norms in ({"clipping_norm": 0.3}, {"clipping_norm": 0.3, "clipping": "per-layer"})
    )
    assert moved(one, two) <= 1e-12, "a model of one layer has one group"


def test_the_ledger_and_the_node_see_the_joint_norm(tmp_path: Path) -> None:
    tasks = toy_tasks(5)
    strategy = Billboard(clipping_norms=NORMS, rounds=2, noise_multiplier=1.0)
    result = experiment(tasks, strategy=strategy).run(tmp_path / "run", reproduce=0)
    entries = Ledger(tmp_path / "run/ledger.sqlite").entries("toy")
    assert {entry.release.clipping_norm for entry in entries} == {math.hypot(0.3, 0.02)}
    assert result.guarantee.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(2), result.guarantee.delta))
    for largest, refused in ((0.31, 0), (0.3, 5)):
        found = experiment(tasks, strategy=strategy, policy=NodePolicy(max_clipping_norm=largest)).run(reproduce=0)
        assert (f"{refused * 2} refused" in " ".join(found.summary["warnings"])) is bool(refused)


def test_a_node_clips_by_the_declared_groups_and_refuses_groups_that_do_not_fit() -> None:
    tasks = toy_tasks(4)
    node = Node(NodeSpec(tasks, GlobalModel(learning_rate=9.0), toy_problem(tasks)))
    billboards = {ALL: {name: value.numpy() for name, value in node.spec.problem.initial().items()}}
    request = Request(1, billboards, {ALL: np.arange(4)}, "rows", Declaration(99.0, clipping_norms=NORMS))
    assert Request.from_content(request.to_content()).declared.clipping_norms == NORMS
    rows = Reply.from_content(node.train(request.to_content())).updates[ALL]
    for group, bound in NORMS.items():
        squares = sum(np.square(v).reshape(4, -1).sum(axis=1) for name, v in rows.items() if name.startswith(group))
        np.testing.assert_allclose(np.sqrt(squares), bound)
    for norms, words in (({"1": 0.3}, "'3.weight' is in none"), ({"1": -0.3, "3": 1.0}, "between 1e-100")):
        with pytest.raises(InputError, match=words):
            node.train(replace(request, declared=replace(request.declared, clipping_norms=norms)).to_content())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clipping_norms": {"1": 0.3}}, "'3.weight' is in none"),
        ({"clipping_norms": {"1": 0.3, "1.bias": 0.1, "3": 0.2}}, "'1.bias' is in '1', '1.bias'"),
        (
            {"clipping_norms": {"1": 0.3, "3": 0.2, "layer": 0.1}},
            "the group 'layer' of 'clipping_norms' covers no array",
        ),
        ({"clipping_norms": {"1": 0.3, "3": 0.0}}, "between 1e-100"),
        ({"clipping_norms": {}}, "needs names of arrays"),
        ({"clipping_norms": {"": 1.0}}, "needs names of arrays"),
        ({"clipping_norms": NORMS, "clipping_norm": 0.3}, "exactly one of them"),
        ({}, "exactly one of them"),
        ({"clipping_norms": NORMS, "clipping": "per-layer"}, "give 'clipping_norm' instead"),
        ({"clipping_norm": 0.3, "clip_norm_lr": 0.1}, "belongs to clipping='adaptive'"),
        ({"clipping_norm": 0.3, "clipping": "per layer"}, "must be 'flat', 'per-layer' or 'adaptive'"),
    ],
)
def test_what_does_not_fit_is_refused_before_work(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        experiment(toy_tasks(3), strategy=Billboard(rounds=1, noise_multiplier=1.0, **changes)).check()


def test_groups_from_the_command_line(fedpriv: Any) -> None:
    words = ["run", "pmtl", "--set", "data.tasks=20", "--set", "run.grid=in-process", "--out", "no"]
    code, _, err = fedpriv(*words, "--set", 'strategy.clipping_norms={"1.weight"=0.4}')
    assert code == 2
    assert "'1.bias' is in none" in err
    config = apply(
        {"data": {}, "model": {}, "client": {}, "strategy": {"clipping_norm": 0.5, "rounds": 2}, "run": {}},
        parse_assignments(['strategy.clipping_norms={"1.weight"=0.4,"1.bias"=0.1}']),
    )
    assert config["strategy"] == {"rounds": 2, "clipping_norms": {"1.weight": 0.4, "1.bias": 0.1}}
    assert apply(config, {"strategy.clipping_norm": 0.3})["strategy"] == {"rounds": 2, "clipping_norm": 0.3}


def test_bits_are_not_for_groups() -> None:
    with pytest.raises(InputError, match="bits go with one norm"):
        Bounds(NORMS, 0.5)
    with pytest.raises(InputError, match="between 0 and 1"):
        Bounds({"": 1.0}, 1.0)
    assert BIT not in Bounds(NORMS).like({"1.weight": np.zeros(3)})
