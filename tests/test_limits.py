"""Limits of participation and correlated noise in runs: kept, recorded, charged once, and the same after a crash."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import C, banded_matrix, crash_at, experiment, noisy, toy_problem, toy_tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_resume import killed_and_resumed

from fedpriv import BudgetExceeded, ComponentFailure, Experiment, InputError, Target
from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.cohort import Cohort, Key, Learner, Params, State
from fedpriv.privacy import BandedMechanism, Ledger, NodePolicy, Release, ReproducibleEntropy, epsilon
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.privacy.participation import Participations, cohort_size, round_robin, uniform_choice
from fedpriv.protocol import ALL, Reply, Request, record_from_billboards
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runtime.grid import InProcessGrid
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.runtime.pool import ShardPool
from fedpriv.strategies import Billboard
from fedpriv.summary import RunResult

LIMITS = BandedMechanism(horizon=20, participations=3, separation=4, bands=4)


def banded(**changes: Any) -> Billboard:
    return noisy(**{"rounds": 9, "sampling_rate": 0.34, "min_separation": 2, "noise": "banded", **changes})


def personal(**changes: Any) -> Experiment:
    client = MeanRegularized(strength=0.5, learning_rate=0.3, final_epochs=2)
    values = {"client": client, "strategy": banded(), "checkpoint_every": 4, "shards": 2}
    return experiment(**{"tasks": toy_tasks(7), **values, **changes})


# --- the record ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    tasks=st.integers(1, 30), separation=st.integers(1, 6), most=st.integers(1, 5), size=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_whoever_may_be_asked_keeps_the_limits(tasks: int, separation: int, most: int, size: int, seed: int) -> None:
    limits = BandedMechanism(horizon=25, participations=most, separation=separation, bands=1)
    done, asked = Participations.none(tasks), []
    coins = ReproducibleEntropy(seed).coins(1)
    for number in range(1, 26):
        free = np.flatnonzero(done.may(np.arange(tasks), number, limits))
        ids = uniform_choice(free, size, coins)
        assert len(ids) == min(size, len(free))
        assert (np.diff(ids) > 0).all()
        done = Participations.from_arrays(done.to_arrays(), tasks).after(ids, number, limits)
        asked.append(ids)
        for wrong in set(range(tasks)) - set(free.tolist()):
            with pytest.raises(ComponentFailure, match="nothing was released"):
                done.after(np.array([wrong]), number, limits)
    for task in range(tasks):
        rounds = [number for number, ids in enumerate(asked) if task in ids]
        assert len(rounds) <= most
        assert all(gap >= separation for gap in np.diff(rounds))


@settings(max_examples=100, deadline=None)
@given(tasks=st.integers(1, 60), rate=st.floats(0.01, 1.0), rounds=st.integers(1, 80))
def test_turns_are_fair(tasks: int, rate: float, rounds: int) -> None:
    """Everybody's turn comes every m/q rounds, rounded: separation and count follow from m, q and T alone."""
    size = cohort_size(tasks, rate)
    turns = [round_robin(tasks, size, number) for number in range(1, rounds + 1)]
    assert all(len(set(ids.tolist())) == size == len(ids) for ids in turns)
    for task in range(tasks):
        mine = [number for number, ids in enumerate(turns) if task in ids]
        assert all(gap >= tasks // size for gap in np.diff(mine))
        assert rounds * size // tasks <= len(mine) <= math.ceil(rounds * size / tasks)
    assert size == max(1, math.floor(rate * tasks + 1e-9))


def test_a_random_schedule_is_uniform_among_the_permitted() -> None:
    """Pearson's statistic over the 10 pairs of 5; a false alarm has probability 1e-6."""
    coins, found = ReproducibleEntropy(5).coins(1), Counter()
    for _ in range(5000):
        found[tuple(uniform_choice(np.array([2, 3, 5, 7, 11]), 2, coins).tolist())] += 1
    assert len(found) == 10
    assert stats.chisquare(list(found.values())).pvalue > 1e-6


def test_a_record_of_another_population_is_refused() -> None:
    with pytest.raises(InputError, match="how often each of 5 tasks took part"):
        Participations.from_arrays(Participations.none(4).to_arrays(), 5)
    with pytest.raises(InputError, match="restore the checkpoint"):
        Participations.from_arrays({}, 5)


# --- runs ------------------------------------------------------------------------------------------------------------


def history(folder: Path) -> list[Checkpoint]:
    store = CheckpointStore(folder / "checkpoints")
    return [store.load(number) for number in store.rounds()]


@pytest.mark.parametrize("schedule", ["round-robin", "random"])
@pytest.mark.parametrize("groups", [None, (0, 1) * 6])
def test_a_run_keeps_and_records_its_limits(tmp_path: Path, schedule: Any, groups: Any) -> None:
    strategy = banded(rounds=12, sampling_rate=0.2, min_separation=3, schedule=schedule, groups=groups)
    result = personal(tasks=toy_tasks(12), strategy=strategy, checkpoint_every=100).run(tmp_path / "run")
    checkpoints = history(tmp_path / "run")
    rounds: dict[int, list[int]] = {task: [] for task in range(12)}
    for checkpoint in checkpoints[1:]:
        for ids in checkpoint.sampled.values():
            assert len(ids) == cohort_size(12 if groups is None else 6, 0.2)
            for task in ids.tolist():
                rounds[task].append(checkpoint.round)
        assert checkpoint.participations["counts"].tolist() == [len(mine) for mine in rounds.values()]
        assert checkpoint.participations["last"].tolist() == [max(mine, default=0) for mine in rounds.values()]
    limits = strategy.resolve(12).banded
    assert limits is not None
    assert limits.separation == limits.bands == 3
    assert max(map(len, rounds.values())) <= limits.participations
    assert min(gap for mine in rounds.values() for gap in np.diff(mine)) >= 3
    assert "at least 3 rounds apart, enforced by the server" in str(result.guarantee)
    assert result.guarantee.accountant == "gaussian"
    assert result.guarantee.rounds == 12
    alone = Release(noise_multiplier=1.0, sampling_name="full", rate=1.0, clipping_norm=C)
    assert result.guarantee.epsilon == pytest.approx(
        epsilon({alone: limits.participations}, result.guarantee.delta).value
    ), "groups compose in parallel"
    entries = Ledger(tmp_path / "run/ledger.sqlite").entries("toy")
    assert len(entries) == 12 * len(checkpoints[-1].billboards), "every round is recorded"
    assert len({entry.release for entry in entries}) == 1
    assert [line["epsilon"] for line in result.privacy_lines] == [result.guarantee.epsilon] * 2


def test_no_noise_and_a_huge_clip_are_plain_federated_averaging_over_whose_turn_it_is() -> None:
    """Noise that is correlated changes nothing else, and the denominator is the public size of a cohort."""
    values = {"clipping_norm": 1e9, "noise_multiplier": 0.0, "rounds": 6, "sampling_rate": 0.5}
    client = GlobalModel(learning_rate=0.5)
    one = experiment(toy_tasks(6), client=client, strategy=Billboard(noise="banded", **values)).run(reproduce=1)
    two = experiment(toy_tasks(6), client=client, strategy=Billboard(min_separation=2, **values)).run(reproduce=1)
    for name, value in one.billboards[ALL].items():
        np.testing.assert_array_equal(two.billboards[ALL][name], value)
    assert math.isinf(one.guarantee.epsilon)
    tasks = toy_tasks(6)
    for turn in ([0, 2, 4], [1, 3, 5]):
        assert round_robin(6, 3, 1 + turn[0]).tolist() == turn
    first = experiment(tasks, client=client, strategy=Billboard(noise="banded", **{**values, "rounds": 2}), seed=1)
    model, learner = first.problem().initial(), Learner(first.problem())
    for number, turn in ((1, [0, 2, 4]), (2, [1, 3, 5])):
        cohort = Cohort(tasks, np.array(turn), next(iter(model.values())).dtype)
        _, update = client.train(learner, model, {}, cohort, Key(1, number))
        model = {name: value + update[name].mean(dim=0) for name, value in model.items()}
    found = first.run(reproduce=1).billboards[ALL]
    for name, value in model.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-12, atol=1e-13)


class Stubborn(GlobalModel):
    """Sends the same huge update whatever happens: what one task can do at most.

    Attributes
    ----------
    direction : float
        What task 3 sends in place of 1.
    """

    direction: float = 1.0

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        """Send ones, or ``direction`` for task 3."""
        update = {name: value.new_ones((len(cohort), *value.shape)) * 1e6 for name, value in billboard.items()}
        for value in update.values():
            value[np.flatnonzero(cohort.ids == 3)] *= self.direction
        return state, update


@pytest.mark.parametrize(("direction", "factor"), [(-1.0, 2.0), (0.0, 1.0)], ids=["replaced", "removed"])
@pytest.mark.parametrize("reply", ["sum", "rows"])
def test_one_task_moves_the_whole_run_by_the_sensitivity(
    tmp_path: Path, direction: float, factor: float, reply: Any
) -> None:
    """From the billboards of two noiseless runs: || C (X - X') || is sqrt(k) clipping norms, twice when replaced."""
    strategy = banded(noise_multiplier=0.0, sampling_rate=0.29, min_separation=3, rounds=11, reply=reply)
    limits = strategy.resolve(7).banded
    assert limits is not None
    sums = []
    for number, sent in enumerate((1.0, direction)):
        run = personal(client=Stubborn(direction=sent), strategy=strategy, checkpoint_every=100)
        run.run(tmp_path / str(number), reproduce=1)
        boards = [
            np.concatenate([value.ravel() for value in one.billboards[ALL].values()])
            for one in history(tmp_path / str(number))
        ]
        sums.append(np.diff(boards, axis=0) * cohort_size(7, 0.29))
    moved = float(np.linalg.norm(banded_matrix(limits) @ (sums[0] - sums[1])))
    assert moved <= factor * C * limits.sensitivity * (1 + 1e-9)
    assert moved >= factor * C * math.sqrt(limits.participations - 1) * (1 - 1e-9), "the bound is nearly met"


def test_how_it_is_carried_does_not_matter(pool: ShardPool) -> None:
    reference = personal().run(reproduce=4)
    variants = ({"shards": 3}, {"strategy": banded(reply="rows")}, {"engine": "loop"}, {"grid": "ray"})
    for changes in variants:
        other = personal(**changes).run(reproduce=4, pool=pool)
        for name, value in reference.billboards[ALL].items():
            np.testing.assert_allclose(other.billboards[ALL][name], value, rtol=1e-10, atol=1e-12)


# --- crashes ---------------------------------------------------------------------------------------------------------


MOMENTS = ["before stage", "after stage", "after charge", "after promote"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: Any) -> Callable[[str], tuple[Path, RunResult]]:
    """Return the folder and the result of a run that nothing happens to, made once for each schedule."""

    @cache
    def made(schedule: Any) -> tuple[Path, RunResult]:
        folder = tmp_path_factory.mktemp("whole") / "run"
        return folder, personal(strategy=banded(schedule=schedule)).run(folder, reproduce=6)

    return made


@pytest.mark.parametrize("round", [1, 2, 5, 9])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("schedule", ["round-robin", "random"])
def test_every_moment_of_publishing(
    tmp_path: Path, monkeypatch: Any, undisturbed: Any, moment: str, round: int, schedule: Any
) -> None:
    """Bit for bit the same billboards, participants and noise, and the banded mechanism is charged once."""
    strategy = banded(schedule=schedule)
    folder, whole = undisturbed(schedule)
    with crash_at(monkeypatch, moment, round):
        personal(strategy=strategy).run(tmp_path / "run", reproduce=6)
    checkpoints = tmp_path / "run/checkpoints"
    kept = sorted(checkpoints.glob("noise-*.npz"))
    assert len(kept) <= 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
    resumed = personal(strategy=strategy).run(tmp_path / "run", reproduce=6, resume=True)
    for one, two in zip(history(folder), history(tmp_path / "run"), strict=True):
        assert one.digest() == two.digest()
        assert one.sampled.keys() == two.sampled.keys()
        for name, ids in one.sampled.items():
            np.testing.assert_array_equal(two.sampled[name], ids)
        for name, counts in one.participations.items():
            np.testing.assert_array_equal(two.participations[name], counts)
    assert resumed.summary["guarantee"] == whole.summary["guarantee"]
    assert list(checkpoints.glob("noise-*")) == [], "a finished run forgets the noise"
    ledger = Ledger(tmp_path / "run/ledger.sqlite")
    assert len(ledger.entries("toy")) == 9
    assert ledger.counts("toy").total() == 1


class Quiet(GlobalModel):
    """Sends zeros: what is published is noise."""

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        """Send nothing."""
        return state, {name: value.new_zeros((len(cohort), *value.shape)) for name, value in billboard.items()}


def test_after_every_crash_the_noise_is_still_a_banded_mechanism(tmp_path: Path, monkeypatch: Any) -> None:
    """With noise of the operating system and a crash at each moment, C times what was published is independent noise.

    If the past were lost or drawn again in any round, the variance of that round would be off by a third or more.
    False alarms: 14 rounds, 91 pairs and 14 distributions at 1e-7, below 2e-5.
    """
    tasks = toy_tasks(12, features=60, classes=60)
    strategy = Billboard(
        clipping_norm=C, rounds=14, noise_multiplier=2.0, sampling_rate=0.25, noise="banded", schedule="random"
    )
    run = experiment(
        tasks, client=Quiet(), strategy=strategy, checkpoint_every=100, model="linear", shards=2, baseline=False
    )
    for number, moment in enumerate(MOMENTS):
        with crash_at(monkeypatch, moment, 2 + 3 * number):
            run.run(tmp_path / "run", resume=number > 0)
    store = CheckpointStore(tmp_path / "run/checkpoints")
    newest = store.load(store.rounds()[-1])
    boards = [
        np.concatenate([value.ravel() for value in one.billboards[ALL].values()]) for one in history(tmp_path / "run")
    ]
    limits = strategy.resolve(12).banded
    assert limits is not None
    assert limits.bands == 4
    noise = np.diff(boards, axis=0) * 3 / (2.0 * C)  # three take part; the standard deviation of Z is 2 C
    # What the checkpoint keeps is what was published, N_t = n_t W_t, within half a step of the grid.
    for number in range(newest.round - 3, newest.round):
        kept = newest.noise[ALL][number % 3] * limits.column_norms()[number]
        np.testing.assert_allclose(noise[number], kept, rtol=0, atol=2.0**-11)
    run.run(tmp_path / "run", resume=True)
    boards = [
        np.concatenate([value.ravel() for value in one.billboards[ALL].values()]) for one in history(tmp_path / "run")
    ]
    white = banded_matrix(limits) @ np.diff(boards, axis=0) * 3 / (2.0 * C)
    size, edge = white.shape[1], stats.norm.isf(0.5e-7)
    assert white.shape == (14, 60 * 60 + 60)
    gram = white @ white.T / size
    spread = np.sqrt((1 + np.eye(14)) / size)
    assert (np.abs(gram - np.eye(14)) < edge * spread).all()
    assert min(stats.kstest(row, "norm").pvalue for row in white) > 1e-7
    assert 2 * edge * math.sqrt(2 / size) < 0.3, "a lost past would be seen"


def test_a_banded_mechanism_does_not_go_on_without_its_past(tmp_path: Path, monkeypatch: Any) -> None:
    with crash_at(monkeypatch, "after stage", 6):
        personal().run(tmp_path / "run")
    checkpoints = tmp_path / "run/checkpoints"
    stale, mine = checkpoints / "noise-000006.npz", checkpoints / "noise-000005.npz"
    assert stale.exists()
    content = mine.read_bytes()
    mine.unlink()
    with pytest.raises(InputError, match="is not in the checkpoint"):  # before any client works
        personal().run(tmp_path / "run", resume=True)
    mine.write_bytes(stale.read_bytes())  # the noise of a draw that was thrown away
    with pytest.raises(InputError, match="is not in the checkpoint"):  # before any client works
        personal().run(tmp_path / "run", resume=True)
    mine.write_bytes(content)
    with pytest.raises(InputError, match=r"strategy\.max_participations"):
        personal(strategy=banded(max_participations=6)).run(tmp_path / "run", resume=True)
    personal().run(tmp_path / "run", resume=True)
    assert len(Ledger(tmp_path / "run/ledger.sqlite").entries("toy")) == 9


def test_asked_is_taken_part(tmp_path: Path) -> None:
    """If only answers counted, a task's data would decide how often it is asked."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.register("toy", fingerprint="f", num_tasks=4, declared="benchmark")
    run, strategy = personal(tasks=toy_tasks(4), shards=4), banded(rounds=5, sampling_rate=0.5)
    problem = run.problem()
    with InProcessGrid(run.specs(problem, 4)) as grid:
        initial = record_from_billboards({ALL: {k: v.numpy() for k, v in problem.initial().items()}})
        session = strategy.bind(grid, initial, journal=Journal(ledger, "toy", "run"))
        strategy.configure_train(1, initial, {}, grid)  # type: ignore[arg-type]
        strategy.aggregate_train(1, [])
        assert session.checkpoint.participations["counts"].tolist() == [1, 0, 1, 0]
        strategy.configure_train(2, initial, {}, grid)  # type: ignore[arg-type]
        assert session.sampled[ALL].tolist() == [1, 3]
        for wrong in ([0, 1], [1, 1]):
            session.sampled = {ALL: np.array(wrong)}
            with pytest.raises(ComponentFailure, match="nothing was released"):
                strategy.aggregate_train(2, [])
        assert session.checkpoint.round == 1
        assert len(ledger.entries("toy")) == 1
        session.checkpoint = replace(session.checkpoint, participations={})
        with pytest.raises(InputError, match="how often each of 4 tasks"):
            strategy.configure_train(2, initial, {}, grid)  # type: ignore[arg-type]


# --- the ledger ------------------------------------------------------------------------------------------------------


def banded_release(**changes: Any) -> Release:
    values = {"noise_multiplier": 20.0, "clipping_norm": 1.0, "horizon": 5, "participations": 2, "separation": 2}
    values |= changes
    limits = BandedMechanism(
        bands=2, **{name: values.pop(name) for name in ("horizon", "participations", "separation")}
    )
    return Release(mechanism="banded", sampling_name="min-separation", rate=1.0, banded=limits, **values)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "ledger.sqlite")
    made.register(
        "people", fingerprint="f", num_tasks=100, declared="protected", budget=Target(epsilon=2.0, delta=1e-5)
    )
    return made


def test_a_banded_mechanism_is_charged_whole_and_once(ledger: Ledger) -> None:
    one = banded_release()
    left = [ledger.left("people").allowance]  # type: ignore[union-attr]
    for number in range(1, 6):
        assert ledger.charge_many("people", "r", number, {"a": one, "b": one}, digest=f"d{number}") == 2
        assert ledger.charge_many("people", "r", number, {"a": one, "b": one}, digest=f"d{number}") == 0
        left.append(ledger.left("people").allowance)  # type: ignore[union-attr]
        assert ledger.counts("people") == Counter({one: 1})
    assert left[0] > left[1] == left[2] == left[5], "also if it stops after the first round"
    assert len(ledger.entries("people")) == 10
    assert ledger.describe("people")["runs"]["r"]["releases"] == 10
    plain = Release(noise_multiplier=20.0, sampling_name="full", rate=1.0, clipping_norm=1.0)
    assert ledger.spent("people", 1e-5).value == pytest.approx(epsilon({plain: 2}, 1e-5).value)
    with pytest.raises(InputError, match="another draw of this release"):
        ledger.charge("people", "r", 3, "a", one, "a second draw")
    # Another run is another mechanism, and other releases of the same run are added.
    ledger.charge("people", "s", 1, "", one)
    ledger.charge("people", "s", 7, "x", plain)
    assert ledger.counts("people") == Counter({one: 2, plain: 1})
    assert ledger.spent("people", 1e-5).value == pytest.approx(epsilon({plain: 5}, 1e-5).value)


@pytest.mark.parametrize(
    "changes",
    [
        {"horizon": 6}, {"participations": 3}, {"separation": 3}, {"clipping_norm": 0.5}, {"noise_multiplier": 30.0},
    ],
    ids=lambda one: next(iter(one)),
)  # fmt: skip
def test_a_banded_mechanism_may_not_change(ledger: Ledger, changes: dict[str, Any]) -> None:
    ledger.charge("people", "r", 1, "a", banded_release(), "d")
    with pytest.raises(InputError, match=r"a second banded mechanism needs a run of its own\. Nothing was charged"):
        ledger.charge("people", "r", 2, "a", banded_release(**changes), "d2")
    assert len(ledger.entries("people")) == 1


def test_a_banded_mechanism_has_no_rounds_beyond_its_horizon(ledger: Ledger) -> None:
    one = banded_release()
    ledger.charge("people", "r", 3, "a", one)
    ledger.charge("people", "r", 7, "a", one)
    for number in (2, 8):
        with pytest.raises(InputError, match="outside the 5 rounds"):
            ledger.charge("people", "r", number, "a", one)
    assert len(ledger.entries("people")) == 2


def test_what_cannot_be_paid_is_refused_before_the_first_round(ledger: Ledger) -> None:
    dear = banded_release(noise_multiplier=1.0)
    with pytest.raises(BudgetExceeded):
        ledger.check("people", "r", {dear: 1})
    with pytest.raises(BudgetExceeded):
        ledger.charge("people", "r", 1, "a", dear)
    assert ledger.entries("people") == []


def test_runs_on_a_protected_population_share_its_budget(tmp_path: Path, monkeypatch: Any) -> None:
    """A banded mechanism that was stopped costs all of itself, its resumption nothing; the next run has its own."""
    tasks = replace(toy_tasks(9), declared="protected")
    values: dict[str, Any] = {
        "tasks": tasks, "population": "clinic", "ledger": tmp_path / "clinic.sqlite",
        "budget": Target(epsilon=3.0, delta=1e-5),
    }  # fmt: skip
    strategy = banded(noise_multiplier=None, target=Target(epsilon=1.8, delta=1e-5), sampling_rate=1 / 3)
    with crash_at(monkeypatch, "after promote", 2):
        personal(**values, strategy=strategy).run(tmp_path / "one")
    ledger = Ledger(tmp_path / "clinic.sqlite")
    assert 1.79 < ledger.spent("clinic", 1e-5).value <= 1.8
    first = personal(**values, strategy=strategy).run(tmp_path / "one", resume=True)
    assert first.guarantee.epsilon == ledger.spent("clinic", 1e-5).value
    dear = banded(noise_multiplier=None, target=Target(epsilon=2.9, delta=1e-5), sampling_rate=1 / 3)
    with pytest.raises(BudgetExceeded, match=r"A noise multiplier of [\d.]+ would fit") as refused:
        personal(**values, strategy=dear).run(tmp_path / "two")
    enough = float(str(refused.value).split("multiplier of ")[1].split(" would")[0])
    with pytest.raises(BudgetExceeded):
        personal(**values, strategy=banded(noise_multiplier=0.99 * enough, sampling_rate=1 / 3)).run(tmp_path / "three")
    personal(**values, strategy=banded(noise_multiplier=enough, sampling_rate=1 / 3)).run(tmp_path / "four")
    assert len(ledger.entries("clinic")) == 18
    assert 1.8 < ledger.spent("clinic", 1e-5).value <= 3.0


# --- the node --------------------------------------------------------------------------------------------------------


def test_a_node_counts_banded_mechanisms_and_keeps_the_separation_itself() -> None:
    tasks = toy_tasks(2)
    problem = toy_problem(tasks)
    limits = BandedMechanism(horizon=9, participations=2, separation=3, bands=3)
    one = banded_release(noise_multiplier=4.0, horizon=9, participations=2, separation=3)
    cost = epsilon([one], 1e-5).value

    def asked(node: Node, number: int, banded: BandedMechanism | None = limits) -> Reply:
        billboard = {name: value.numpy() for name, value in problem.initial().items()}
        request = Request(number, {ALL: billboard}, {ALL: np.array([0])}, "sum", Declaration(1.0, 4.0, banded=banded))
        return Reply.from_content(node.train(request.to_content()))

    policy = NodePolicy(max_epsilon=cost * 1.01, delta=1e-5)
    node = Node(NodeSpec(tasks, GlobalModel(), problem, policy=policy))
    for number, refused in ((1, 0), (2, 1), (3, 1), (4, 0), (8, 1)):
        answer = asked(node, number)
        assert answer.diagnostics["refused"] == refused, number
        if number in (2, 3):
            assert "at least 3 rounds apart, and round" in answer.note
        if number == 8:
            assert "max_epsilon" in answer.note, "a third participation is a second mechanism"
    assert asked(node, 9, banded=None).diagnostics["refused"] == 1, "what was granted so counts beside the rest"
    restored = Node(NodeSpec(tasks, GlobalModel(), problem, policy=NodePolicy()))
    restored.store.restore(node.store.blocks())
    assert asked(restored, 6).diagnostics["refused"] == 1, "the separation survives a checkpoint"
    assert asked(restored, 7).diagnostics["refused"] == 0


def test_nodes_with_a_policy_serve_a_banded_mechanism(tmp_path: Path) -> None:
    """The server's own limits and the nodes' agree: nothing is refused."""
    strategy = banded(noise_multiplier=5.0)
    policy = NodePolicy(max_epsilon=10.0, diagnostics=True)
    result = personal(strategy=strategy, policy=policy).run(tmp_path / "run")
    assert "refused" not in str(result.summary["warnings"])
    strict = personal(strategy=strategy, policy=NodePolicy(max_epsilon=0.1, diagnostics=True)).run()
    assert "banded noise counted as a whole" in str(strict.summary["warnings"])


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampling_rate": 1.0, "min_separation": None}, "'min_separation' of at least 2"),
        ({"min_separation": 1}, "'min_separation' of at least 2"),
        ({"min_separation": 4}, r"'sampling_rate' must be at most 1/4 with min_separation=4, got 0.34"),
        ({"min_separation": 0}, "min_separation"),
        ({"max_participations": 0}, "max_participations"),
        ({"noise": "pink"}, "noise"),
        ({"schedule": "lottery"}, "schedule"),
        ({"noise": "independent", "min_separation": None, "schedule": "random"}, "secret coins"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        banded(**changes)


def test_limits_that_a_population_cannot_keep_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'min_separation' must be at most 1 for the group 'group-1', got 2"):
        personal(strategy=banded(groups=(0, 0, 0, 0, 0, 0, 1))).run(tmp_path / "one")
    with pytest.raises(InputError, match="need tasks that take part 3 times, and max_participations=2"):
        personal(strategy=banded(max_participations=2)).run(tmp_path / "two")
    assert not (tmp_path / "one").exists()


def test_what_is_charged_follows_from_the_settings() -> None:
    def limits(tasks: int, **values: Any) -> BandedMechanism | None:
        base = {"clipping_norm": 1.0, "noise_multiplier": 1.0}
        return Billboard(**{**base, **values}).resolve(tasks).banded

    assert limits(100, rounds=40, sampling_rate=0.5) is None
    assert limits(100, rounds=40, sampling_rate=0.5, noise="banded") == BandedMechanism(
        horizon=40, participations=20, separation=2, bands=2
    )
    assert limits(206, rounds=1000, sampling_rate=100 / 206, noise="banded") == BandedMechanism(
        horizon=1000, participations=486, separation=2, bands=2
    )
    assert limits(10_000, rounds=500, sampling_rate=0.01, noise="banded") == BandedMechanism(
        horizon=500, participations=5, separation=100, bands=100
    )
    # The same limits without correlation: what known participation costs.
    assert limits(1000, rounds=200, sampling_rate=0.1, min_separation=10) == BandedMechanism(
        horizon=200, participations=20, separation=10, bands=1
    )
    # A random schedule may ask some tasks as often as the separation permits.
    assert limits(100, rounds=40, sampling_rate=0.2, min_separation=3, schedule="random") == BandedMechanism(
        horizon=40, participations=14, separation=3, bands=1
    )
    assert limits(
        100, rounds=40, sampling_rate=0.2, max_participations=9, schedule="random", noise="banded"
    ) == BandedMechanism(horizon=40, participations=8, separation=5, bands=5)
    assert limits(10, rounds=3, sampling_rate=0.1, noise="banded") == BandedMechanism(
        horizon=3, participations=1, separation=10, bands=3
    )
    z = (
        Billboard(
            clipping_norm=1.0, rounds=200, sampling_rate=0.1, noise="banded", target=Target(epsilon=2.0, delta=1e-5)
        )
        .resolve(1000)
        .noise_multiplier
    )
    assert z == pytest.approx(8.92, abs=0.005)


# --- the command line ------------------------------------------------------------------------------------------------

COMMAND = ("strategy.noise=banded", "strategy.sampling_rate=0.25")


def test_the_command_runs_and_says_what_is_promised(fedpriv: Any, tmp_path: Path) -> None:
    sets = [f"--set={one}" for one in (*COMMAND, "strategy.rounds=6", "run.grid=in-process", "run.baseline=false")]
    code, out, err = fedpriv("run", "pmtl", "--out", str(tmp_path / "run"), *sets)
    assert code == 0, err
    assert "no sampling assumed (at most 2 participations of a task, at least 4 rounds apart" in " ".join(out.split())
    assert (tmp_path / "run/report.html").exists()
    code, out, err = fedpriv("ledger", "show", str(tmp_path / "run"))
    assert code == 0, err
    code, _, err = fedpriv("run", "pmtl", "--out", str(tmp_path / "no"), *sets, "--set=strategy.min_separation=5")
    assert code == 2
    assert "'sampling_rate' must be at most 1/5" in " ".join(err.split())


def test_kill_and_resume(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, kills=2, rounds=40, grid="in-process", seed=1, more=COMMAND)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("grid", ["in-process", "ray"])
def test_twenty_kills(tmp_path: Path, grid: str) -> None:
    killed_and_resumed(tmp_path, kills=20, rounds=600, grid=grid, seed=2, more=COMMAND)
