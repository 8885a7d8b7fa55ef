"""Published metrics: bounded, noisy, charged before they get out, inside the target; and nothing unless asked for."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from helpers import Crash, experiment, toy_problem, toy_tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpriv import BudgetExceeded, ComponentFailure, InputError, Target
from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.config import build_experiment, read_toml
from fedpriv.privacy import NodePolicy, Relation, Release, epsilon
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.entropy import SystemEntropy
from fedpriv.privacy.journal import Journal
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.metrics import MetricsRelease, contributions, metrics_norm, metrics_release, noisy_means
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.protocol import ALL, METRICS, Reply, Request
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.runtime.pool import ShardPool
from fedpriv.strategies import Billboard, Silent

NAMES = ("personal.accuracy", "personal.loss", "billboard.loss")


def measured(**changes: Any) -> Billboard:
    given: dict[str, Any] = {
        "clipping_norm": 0.3,
        "rounds": 6,
        "metrics": NAMES,
        "metrics_every": 2,
        "sampling_rate": 0.6,
    }
    if "target" not in changes:
        given |= {"noise_multiplier": 1.0, "metrics_epsilon": 3.0}
    return Billboard(**{**given, **changes})


def personal(**changes: Any) -> Any:
    client = MeanRegularized(strength=0.5, learning_rate=0.3, final_epochs=1)
    return experiment(
        toy_tasks(9), **{"client": client, "strategy": measured(), "checkpoint_every": 3, "shards": 2, **changes}
    )


def means(result: Any) -> dict[int, dict[str, float]]:
    return {one["round"]: one["values"] for one in result.summary["metrics"]["means"]}


# --- one task's part -------------------------------------------------------------------------------------------------

SCORES = hnp.arrays(np.float64, (4, 3), elements=st.floats(width=64))


@settings(max_examples=100, deadline=None)
@given(scores=SCORES)
def test_whatever_the_scores_a_task_contributes_at_most_its_bound(scores: Any) -> None:
    found = contributions(dict(zip(NAMES, scores.T, strict=True)), NAMES, 2.0)
    assert found.shape == (4, 3)
    assert (np.linalg.norm(found, axis=1) <= metrics_norm(3)).all()
    assert (found[~np.isfinite(scores).all(axis=1)] == 0).all()
    for fine, row in zip(scores, found, strict=True):
        if np.isfinite(fine).all():
            np.testing.assert_allclose(row, np.clip(fine / [1.0, 2.0, 2.0], 0, 1) - 0.5)
    assert metrics_release(3, 1.0).clipping_norm == math.sqrt(3) / 2


def test_the_bound_is_reached() -> None:
    ends = {name: np.array([0.0, 1e9]) for name in NAMES}
    low, high = contributions(ends, NAMES, 2.0)
    assert np.linalg.norm(low) == np.linalg.norm(high) == pytest.approx(metrics_norm(3))
    assert np.linalg.norm(high - low) == pytest.approx(2 * metrics_norm(3))


def test_means_are_unbiased_and_have_the_stated_noise() -> None:
    """200 draws: mean, variance and independence of three measures; by chance outside with a probability below 1e-5."""
    sums = [(np.array([1.0, -0.5, 0.0]), 4), (np.array([np.nan, 0.0, 0.0]), 2), (np.array([9.0, 9.0, 9.0]), 2)]
    exact = noisy_means(sums, NAMES, 2.0, 10, 0.0, SystemEntropy(), 1)
    bounded = 9.0 * (2 * metrics_norm(3)) / math.sqrt(3 * 81)  # what two tasks can come to
    expected = {"personal.accuracy": (1.0 + bounded) / 10 + 0.5, "personal.loss": 2 * ((bounded - 0.5) / 10 + 0.5)}
    assert {name: exact.values[name] for name in expected} == pytest.approx(expected)
    assert set(exact.noise.values()) == {0.0}
    drawn = [noisy_means(sums, NAMES, 2.0, 10, 5.0, SystemEntropy(), 1) for _ in range(200)]
    assert drawn[0].noise == pytest.approx(
        {name: 5 * metrics_norm(3) / 10 * (1 if "acc" in name else 2) for name in NAMES}
    )
    unit = np.array([[(one.values[n] - exact.values[n]) / one.noise[n] for n in NAMES] for one in drawn])
    assert (np.abs(unit.mean(axis=0)) < 5.5 / math.sqrt(200)).all()
    assert (np.abs(np.square(unit).sum(axis=0) - 200) < 5.5 * 20).all()
    assert (np.abs(np.corrcoef(unit.T)[np.triu_indices(3, 1)]) < 0.35).all()
    assert MetricsRelease.from_json(drawn[0].to_json()) == drawn[0]


def test_replacing_one_task_moves_the_exact_mean_by_at_most_its_share() -> None:
    tasks = toy_tasks(6)
    strategy = measured(noise_multiplier=0.0, metrics_epsilon=None, metrics_every=0, rounds=1, sampling_rate=1.0)
    base = means(experiment(tasks, strategy=strategy).run(reproduce=0))[1]
    largest = 0.0
    for value in (1e30, -1e3, np.float32(0)):
        other = replace(tasks, test=replace(tasks.test, inputs=tasks.test.inputs.copy()))
        other.test.inputs[other.test.rows(2)] = value
        found = means(experiment(other, strategy=strategy).run(reproduce=0))[1]
        moves = [abs(found[name] - base[name]) * (6 if "accuracy" in name else 6 / 5) for name in NAMES]
        assert max(moves) <= 1 + 1e-9
        largest = max(largest, *moves)
    assert largest > 0.2, "the comparison must be able to fail"


# --- runs ------------------------------------------------------------------------------------------------------------


def test_off_by_default_and_diagnostics_stay_unreleased(tmp_path: Path) -> None:
    plain = personal(strategy=measured(metrics=(), metrics_every=0, metrics_epsilon=None)).run(
        tmp_path / "run", reproduce=1
    )
    assert "metrics" not in plain.summary
    assert len(plain.summary["releases"]) == 6
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"evaluation", "privacy"}
    with_metrics = personal().run(tmp_path / "other", reproduce=1)
    for name, value in plain.billboards[ALL].items():
        np.testing.assert_array_equal(with_metrics.billboards[ALL][name], value)
    assert with_metrics.summary["diagnostics"]["accuracy"] == plain.summary["diagnostics"]["accuracy"]
    assert with_metrics.summary["diagnostics"]["released"] is False
    lines = [json.loads(line) for line in (tmp_path / "other/metrics.jsonl").read_text().splitlines()]
    published = [line for line in lines if line["kind"] == "metrics"]
    assert [line["round"] for line in published] == [2, 4, 6]
    assert all(line["released"] for line in published)
    assert set(published[0]["accuracy"]) == {"personal"}
    assert set(published[0]["loss"]) == {"personal", "billboard"}


def test_without_noise_the_metrics_are_the_diagnostics() -> None:
    """At the end, after the final fit; losses stay below the bound here."""
    strategy = measured(noise_multiplier=0.0, metrics_epsilon=None, metrics_largest_loss=50.0)
    result = personal(strategy=strategy).run(reproduce=1)
    last = means(result)[6]
    assert last["personal.accuracy"] == pytest.approx(result.diagnostics.accuracy.personal)
    assert last["personal.loss"] == pytest.approx(result.diagnostics.loss.personal)
    assert last["billboard.loss"] == pytest.approx(result.diagnostics.loss.billboard)
    assert math.isinf(result.guarantee.epsilon)


def test_shards_engines_and_ray_agree(pool: ShardPool) -> None:
    """With an adaptive norm, so that one run on Ray serves for both."""
    strategy = measured(clipping="adaptive", metrics_every=3)
    reference = personal(strategy=strategy).run(reproduce=6)
    for changes in ({"shards": 4}, {"shards": 1, "engine": "loop"}, {"grid": "ray"}):
        other = personal(strategy=strategy, **changes).run(reproduce=6, pool=pool)
        for number, values in means(reference).items():
            assert means(other)[number] == pytest.approx(values, rel=1e-9)
        norms = [[entry["clipping_norm"] for entry in one.summary["releases"]] for one in (reference, other)]
        np.testing.assert_allclose(norms[0], norms[1], rtol=1e-10)


# --- the cost --------------------------------------------------------------------------------------------------------


def test_the_target_covers_the_metrics() -> None:
    """Derived another way: the sampled rounds and the metrics composed by the library itself."""
    target = Target(epsilon=2.0, delta=1e-3)
    alone = measured(target=target, metrics=(), metrics_every=0).resolve(40).noise_multiplier
    strategy = measured(target=target, metrics_epsilon=1.0)
    noise, own = strategy.resolve(40).noise_multiplier, strategy.resolve(40).metrics_noise
    assert noise > 1.05 * alone
    planned = strategy.resolve(40).releases(6)
    assert 0.995 * 2.0 <= epsilon(planned, 1e-3).value <= 2.0
    metrics = {release: count for release, count in planned.items() if release.measures}
    assert sum(metrics.values()) == 3
    assert epsilon(metrics, 1e-3).value == pytest.approx(1.0, abs=1e-6)
    rounds = privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=0.6, value_discretization_interval=1e-3
    )
    three = privacy_loss_distribution.from_gaussian_mechanism(own / math.sqrt(3), value_discretization_interval=1e-3)
    assert rounds.self_compose(6).compose(three).get_epsilon_for_delta(1e-3) == pytest.approx(2.0, rel=5e-3)


BANDED_NOISE = {"noise": "banded", "min_separation": 3, "sampling_rate": 0.25}


@pytest.mark.parametrize("settings", [{"sampling_rate": 1.0}, BANDED_NOISE], ids=["full", "banded"])
@pytest.mark.parametrize("relation", list(Relation), ids=str)
def test_without_sampling_target_and_metrics_add_up_exactly(relation: Relation, settings: dict[str, Any]) -> None:
    target = Target(epsilon=2.0, delta=1e-3, relation=relation)
    strategy = measured(target=target, metrics_epsilon=0.5, **settings)
    assert epsilon(strategy.resolve(40).releases(6), 1e-3, relation).value == pytest.approx(2.0, abs=1e-6)
    assert epsilon(strategy.resolve(40).measurements(), 1e-3, relation).value == pytest.approx(0.5, abs=1e-6)


def test_the_guarantee_says_that_metrics_are_in_it() -> None:
    result = personal(strategy=measured(target=Target(epsilon=5.0), metrics_epsilon=1.0)).run(reproduce=1)
    assert 0.99 * 5 <= result.guarantee.epsilon <= 5
    assert "all tasks for the metrics" in str(result.guarantee)
    assert "varying" not in str(result.guarantee), "noise and norm are those of the updates"
    assert result.guarantee.public.endswith("the billboards and metrics")
    alone = result.summary["metrics"]["alone"]
    assert alone["epsilon"] == pytest.approx(1.0)
    assert (alone["relation"], alone["observer"]) == ("add/remove", "public")
    assert result.privacy_lines[-1]["epsilon"] == pytest.approx(result.guarantee.epsilon)


def test_metrics_of_states_tell_who_was_drawn() -> None:
    """Cohorts of fixed size are amplified only if nothing that is published depends on who took part before."""
    fixed = {"sampling": "fixed-size", "rounds": 2, "sampling_rate": 0.5}
    for names, counted in ((("billboard.accuracy",), False), (("personal.accuracy",), True)):
        strategy = measured(metrics=names, **fixed).for_updates(use_state=False)
        assert strategy.plan.sampling_of(9).name == ("fixed-size-unamplified" if counted else "fixed-size")
        result = personal(client=GlobalModel(), strategy=strategy).run(reproduce=0)
        assert result.guarantee.relation is Relation.REPLACE_ONE
        assert result.summary["metrics"]["alone"]["relation"] == "replace-one"


# --- published once, and charged before ------------------------------------------------------------------------------


@contextmanager
def crash_when_measuring(monkeypatch: Any, moment: str, round: int) -> Any:
    owner, method = {
        "before stage": (CheckpointStore, "stage_measured"),
        "after stage": (Journal, "charge_measured"),
        "after charge": (CheckpointStore, "promote_measured"),
        "after promote": (CheckpointStore, "promote_measured"),
    }[moment]
    original = getattr(owner, method)

    def crash(self: Any, first: Any, *rest: Any) -> Any:
        if getattr(first, "round", first) != round:
            return original(self, first, *rest)
        if moment == "after promote":
            original(self, first, *rest)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, crash)
        with pytest.raises(Crash):
            yield


@pytest.mark.parametrize("round", [2, 4, 6])
@pytest.mark.parametrize("moment", ["before stage", "after stage", "after charge", "after promote"])
def test_metrics_are_drawn_once_whatever_the_moment_of_a_crash(
    tmp_path: Path, monkeypatch: Any, moment: str, round: int
) -> None:
    """With the system's entropy, so that a second draw would be seen."""
    with crash_when_measuring(monkeypatch, moment, round):
        personal().run(tmp_path / "run")
    store = CheckpointStore(tmp_path / "run/checkpoints")
    ledger = Ledger(tmp_path / "run/ledger.sqlite")
    charged = [entry for entry in ledger.entries("toy") if entry.release.measures]
    assert len(charged) == round // 2 - (0 if "charge" in moment or "promote" in moment else 1)
    assert len(store.measured()) <= len(charged), "published means charged"
    pending = store.pending_measured()
    result = personal(shards=3).run(tmp_path / "run", resume=True)
    after = [entry for entry in ledger.entries("toy") if entry.release.measures]
    assert [entry.round for entry in after] == [2, 4, 6]
    published = {one.round: one for one in store.measured()}
    assert {entry.round: entry.digest for entry in after} == {n: one.digest() for n, one in published.items()}
    assert {n: one.values for n, one in published.items()} == means(result)
    if moment == "after charge":
        assert pending == published[round], "read back, never drawn again"
    if moment == "after stage":
        assert pending != published[round], "nobody saw it, and nobody paid for it"
    assert len(ledger.entries("toy")) == 9


def test_a_resumed_run_has_the_metrics_of_an_undisturbed_one(tmp_path: Path, monkeypatch: Any) -> None:
    """Personal states are trained again before anything is measured."""
    reference = personal().run(reproduce=6)
    with crash_when_measuring(monkeypatch, "before stage", 4):
        personal().run(tmp_path / "run", reproduce=6)
    resumed = personal(shards=1).run(tmp_path / "run", reproduce=6, resume=True)
    for number, values in means(reference).items():
        assert means(resumed)[number] == pytest.approx(values, rel=1e-9)
    (tmp_path / "run/summary.json").unlink()
    published = CheckpointStore(tmp_path / "run/checkpoints").measured()
    again = personal().run(tmp_path / "run", reproduce=6, resume=True)
    assert means(again) == {one.round: one.values for one in published}
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if line["kind"] == "metrics"] == [2, 4, 6], "each once"
    (tmp_path / "run/summary.json").unlink()
    (tmp_path / "run/checkpoints/metrics-000005.json").write_text(replace(published[0], round=5).to_json())
    with pytest.raises(InputError, match="does not hold all"):
        personal().run(tmp_path / "run", reproduce=6, resume=True)


def test_no_task_is_asked_for_what_the_budget_cannot_pay(tmp_path: Path, monkeypatch: Any) -> None:
    tasks = replace(toy_tasks(9), declared="protected")
    asked: list[str] = []
    original = Node.measure
    monkeypatch.setattr(Node, "measure", lambda self, content: (asked.append("x"), original(self, content))[1])

    def run(budget: float, **changes: Any) -> Any:
        return experiment(
            tasks, strategy=measured(rounds=2, sampling_rate=1.0, noise_multiplier=4.0, metrics_epsilon=0.5, **changes),
            population="toy", ledger=tmp_path / f"{budget}.sqlite", budget=Target(epsilon=budget),
        ).run()  # fmt: skip

    run(3.0)
    asked.clear()
    with pytest.raises(BudgetExceeded, match="A noise multiplier of"):
        run(1.0)
    assert not asked, "the whole run was refused before anybody worked"
    enough = Ledger(tmp_path / "3.0.sqlite")
    counts = enough.counts("toy")
    assert sum(count for release, count in counts.items() if release.measures) == 1
    monkeypatch.setattr(ResolvedPlan, "releases", lambda *_: {})
    with pytest.raises(BudgetExceeded):
        run(1.0)
    assert not asked


# --- nodes and their policies ----------------------------------------------------------------------------------------


def test_a_node_with_a_policy_contributes_without_telling_scores_and_counts_it() -> None:
    tasks = toy_tasks(5)
    policy = NodePolicy(max_participations=2, max_clipping_norm=0.1, min_noise_multiplier=0.5)
    node = Node(NodeSpec(tasks, GlobalModel(), toy_problem(tasks), policy=policy))
    billboards = {ALL: {name: value.numpy() for name, value in node.spec.problem.initial().items()}}
    asked = Request(
        1, billboards, {ALL: np.arange(5)}, declared=Declaration(noise_multiplier=9.0, metrics=("billboard.accuracy",))
    )
    assert Request.from_content(asked.to_content()).declared.metrics == ("billboard.accuracy",)
    sums = []
    for noise in (9.0, 0.1, 9.0, 9.0):
        banded = BandedMechanism(horizon=9, participations=9, separation=1, bands=1)
        said = replace(asked.declared, noise_multiplier=noise, clipping_norm=1e-9, banded=banded)
        request = replace(asked, declared=said)  # its own bound holds
        answer = Reply.from_content(node.measure(request.to_content()))
        assert set(answer.diagnostics) == {"refused"}, "what failed depends on data"
        sums.append((float(answer.updates[METRICS][METRICS][0]), answer.diagnostics["refused"]))
    assert sums[0][0] == sums[2][0] != 0
    assert [refused for _, refused in sums] == [0, 5, 0, 5]
    assert sums[1][0] == sums[3][0] == 0
    assert {Release.from_json(kind).measures for kind in node.store.granted} == {"metrics"}
    update = Request(2, billboards, {ALL: np.arange(5)}, declared=Declaration(0.05, 9.0))
    assert Reply.from_content(node.train(update.to_content())).diagnostics["refused"] == 5, "counted together"
    other = Node(replace(node.spec, policy=NodePolicy(max_clipping_norm=0.1)))
    disguised = other.train(replace(asked, declared=replace(asked.declared, clipping_norm=99.0)).to_content())
    assert "max_clipping_norm" in Reply.from_content(disguised).note, "an update stays one, whatever comes with it"
    said = replace(asked.declared, metrics=("billboard.acuracy",))
    with pytest.raises(InputError, match=r"did you mean 'billboard\.accuracy'"):
        node.measure(replace(asked, declared=said).to_content())


@pytest.mark.parametrize("checkpoint_every", [3, 4])
def test_a_resumed_node_has_counted_the_metrics_that_it_granted(
    tmp_path: Path, monkeypatch: Any, checkpoint_every: int
) -> None:
    """Nodes grant 7 times in all, so round 6 is refused; on a run that was interrupted, too."""
    settings: dict[str, Any] = {
        "policy": NodePolicy(max_participations=7),
        "strategy": measured(sampling_rate=1.0, metrics=("billboard.loss",)),
        "checkpoint_every": checkpoint_every,  # a snapshot of round 4 comes before the metrics of round 4
    }
    reference = personal(**settings).run(reproduce=6)
    assert "refused" in reference.summary["warnings"][-1]
    with crash_when_measuring(monkeypatch, "after promote", 4):
        personal(**settings).run(tmp_path / "run", reproduce=6)
    resumed = personal(**settings).run(tmp_path / "run", reproduce=6, resume=True)
    assert means(resumed)[6] == pytest.approx(means(reference)[6])
    for name, value in reference.billboards[ALL].items():
        np.testing.assert_allclose(resumed.billboards[ALL][name], value, rtol=1e-9)


STRANGE = {
    "missing": None,
    "text": np.array(["x"] * 3),
    "shape": np.zeros(5),
    "not finite": np.full(3, np.nan),
    "huge": np.full(3, 1e300),
}


def test_strange_replies_count_as_zero_or_are_clipped(monkeypatch: Any) -> None:
    """One node of nine sends something else in place of its task's part."""
    original = Node.measure
    strategy = measured(noise_multiplier=0.0, metrics_epsilon=None, metrics_every=0, rounds=1)
    honest = means(personal(strategy=strategy, shards=9).run(reproduce=1))[1]
    nothing: dict[str, float] = {}
    for kind, part in STRANGE.items():

        def measure(self: Node, content: Any, part: Any = part) -> Any:
            answer = Reply.from_content(original(self, content))
            if self.spec.tasks.first == 0:
                answer = replace(answer, updates={METRICS: {METRICS: part}} if part is not None else {})
            return answer.to_content()

        with monkeypatch.context() as patch:
            patch.setattr(Node, "measure", measure)
            found = means(personal(strategy=strategy, shards=9).run(reproduce=1))[1]
        moves = {name: abs(found[name] - honest[name]) * (9 if "accuracy" in name else 9 / 5) for name in NAMES}
        assert max(moves.values()) <= (1 + metrics_norm(3) if kind == "huge" else 0.5) + 1e-9
        assert max(moves.values()) > 0
        if kind != "huge":
            nothing = nothing or found
            assert found == nothing, f"{kind}: counts as zero among nine, whatever came instead"

    def fails(self: Node, content: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Node, "measure", fails)
    with pytest.raises(ComponentFailure, match="failed to measure after round 2"):
        personal().run(reproduce=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": ("personal.acuracy",)}, "metrics"),
        ({"metrics": ("personal.loss", "personal.loss")}, "twice"),
        ({"metrics_epsilon": None}, "published metrics cost privacy"),
        ({"metrics": ()}, "needs 'metrics'"),
        ({"metrics_every": 7}, "at most rounds=6"),
        ({"metrics_largest_loss": 0.0}, "metrics_largest_loss"),
        ({"target": Target(epsilon=1.0), "metrics_epsilon": 1.0}, "must be below the target"),
    ],
)
def test_what_cannot_be_published_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        measured(**changes)


def test_tasks_without_classes_have_no_accuracy() -> None:
    tasks = toy_tasks(4)
    parts = {
        part: replace(tasks.part(part), targets=tasks.part(part).targets.astype(np.float32))
        for part in ("train", "validation", "test")
    }
    values = replace(tasks, **parts, num_classes=None)
    with pytest.raises(InputError, match="have no accuracy"):
        experiment(values, strategy=measured())
    only = measured(metrics="billboard.loss", rounds=1, metrics_every=0)
    assert set(means(experiment(values, model="linear", strategy=only).run(reproduce=0))[1]) == {"billboard.loss"}
    assert not Silent(rounds=1).resolve(4).measurements()


def test_from_the_command_line_to_the_report(fedpriv: Any, tmp_path: Path) -> None:
    sets = [
        "data.tasks=30", "run.grid=in-process", "run.baseline=false", "strategy.rounds=3", "client.final_epochs=1",
        "strategy.metrics=personal.accuracy", "strategy.metrics_epsilon=0.5", "strategy.clipping=adaptive",
    ]  # fmt: skip
    code, out, err = fedpriv("run", "pmtl", *[word for item in sets for word in ("--set", item)], "--out", "run")
    assert code == 0, err
    assert "published: personal accuracy" in out
    page = (tmp_path / "run/report.html").read_text()
    assert "published metrics" in page
    assert "Published, with noise" in page
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["guarantee"]["epsilon"] <= 2.0
    assert summary["metrics"]["released"] is True
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert next(line["clipping_norm"] for line in lines if line["kind"] == "clipping") == 0.5
    again = build_experiment(read_toml(tmp_path / "run/config.toml")).strategy
    assert isinstance(again, Billboard)
    assert (again.metrics, again.metrics_epsilon, again.clipping) == (("personal.accuracy",), 0.5, "adaptive")
