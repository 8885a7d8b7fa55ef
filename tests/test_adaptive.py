"""Adaptive clipping: joint cost of update and bit, feedback from both sides, and one norm per round on every path."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from helpers import crash_at, experiment, toy_problem, toy_tasks

from fedpriv import InputError, Target
from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.privacy import NodePolicy, PoissonSampling, Release, delta_for, gaussian_epsilon
from fedpriv.privacy.adaptive import bit_share, default_count_stddev, next_norm
from fedpriv.privacy.bounds import BIT
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.entropy import ReproducibleEntropy
from fedpriv.privacy.journal import Journal
from fedpriv.privacy.ledger import Ledger
from fedpriv.protocol import ALL, Reply, Request, record_from_billboards
from fedpriv.runtime.grid import InProcessGrid
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.strategies import Billboard

C = 0.3


def adaptive(**changes: Any) -> Billboard:
    settings: dict[str, Any] = {"clipping": "adaptive", "clipping_norm": C, "rounds": 4, "noise_multiplier": 1.0}
    return Billboard(**{**settings, **changes})


def norms(result: Any) -> list[float]:
    """Return the clipping norm of each round, and the one after the last."""
    return [entry["clipping_norm"] for entry in result.summary["releases"]] + [result.summary["clipping"]["norm"]]


# --- the cost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantile", "stddev", "z"), [(0.5, 5.0, 1.0), (0.9, 5.0, 1.0), (0.2, 30.0, 8.0)])
def test_update_and_bit_together_cost_what_is_charged(quantile: float, stddev: float, z: float) -> None:
    """Derived another way: two Gaussian mechanisms composed by their privacy loss distributions, for both relations."""
    reach = max(quantile, 1 - quantile)
    update = z / math.sqrt(1 - bit_share(z, stddev, reach))
    for sensitivity in (1.0, 2.0):
        one = privacy_loss_distribution.from_gaussian_mechanism(
            update / sensitivity, value_discretization_interval=1e-3
        )
        two = privacy_loss_distribution.from_gaussian_mechanism(
            stddev, sensitivity=reach * sensitivity, value_discretization_interval=1e-3
        )
        assert one.compose(two).get_epsilon_for_delta(1e-5) == pytest.approx(
            gaussian_epsilon(sensitivity / z, 1e-5), rel=5e-3
        )


def test_the_formula_of_the_paper_at_the_median() -> None:
    """z_u = (z^-2 - (2 s)^-2)^(-1/2); 1.00504 for z = 1 and 100 participants."""
    assert default_count_stddev(100, 1, 1.0, 0.5) == 5.0
    assert 1.0 / math.sqrt(1 - bit_share(1.0, 5.0, 0.5)) == pytest.approx(1.0050378, rel=1e-6)
    for z, stddev in ((1.0, 5.0), (3.0, 7.0), (0.4, 20.0)):
        paper = (z**-2 - (2 * stddev) ** -2) ** -0.5
        assert z / math.sqrt(1 - bit_share(z, stddev, 0.5)) == pytest.approx(paper, rel=1e-12)


def test_much_noise_on_few_tasks_leaves_the_bits_a_twentieth() -> None:
    """A twentieth of 103 participants would cost more than all that a multiplier of 30 stands for."""
    stddev = default_count_stddev(103, 1, 30.0, 0.5)
    assert bit_share(30.0, stddev, 0.5) == pytest.approx(0.05)
    assert math.sqrt(2) * default_count_stddev(100, 2, 1.0, 0.5) == pytest.approx(5.0), "two groups count separately"
    with pytest.raises(InputError, match=r"must be above 15, got 5"):
        bit_share(30.0, 5.0, 0.5)


def test_the_pair_is_amplified_as_one_release() -> None:
    """The hockey-stick divergence of the sampled pair by quadrature in two dimensions, against the accountant's one."""
    rate, z, stddev, quantile, epsilon = 0.3, 1.5, 4.0, 0.7, 0.4
    shift = np.array([1 / (z / math.sqrt(1 - bit_share(z, stddev, quantile))), quantile / stddev])
    axis = np.linspace(-9, 10, 1901)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    cell = (axis[1] - axis[0]) ** 2
    without = np.exp(-(x**2 + y**2) / 2) / (2 * math.pi)
    present = np.exp(-((x - shift[0]) ** 2 + (y - shift[1]) ** 2) / 2) / (2 * math.pi)
    mixed = (1 - rate) * without + rate * present
    removed = np.maximum(mixed - math.exp(epsilon) * without, 0).sum() * cell
    added = np.maximum(without - math.exp(epsilon) * mixed, 0).sum() * cell
    stated = delta_for({Release.of(PoissonSampling(rate), z): 1}, epsilon)
    assert max(removed, added) == pytest.approx(stated, rel=2e-3)


# --- the sensitivity, by brute force ---------------------------------------------------------------------------------


@pytest.fixture
def at_work(tmp_path: Path) -> Any:
    """Three nodes of two tasks, bound to a strategy with rows; returns what one round sums before noise."""
    tasks = toy_tasks(6)
    problem = toy_problem(tasks)
    grid = InProcessGrid([NodeSpec(tasks.shard(k, k + 2), GlobalModel(), problem) for k in (0, 2, 4)])
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.register("toy", fingerprint="f", num_tasks=6, declared="benchmark", budget=None)
    initial = record_from_billboards({ALL: {k: v.numpy() for k, v in problem.initial().items()}})
    runs = iter(range(99))

    def bound(**changes: Any) -> tuple[Billboard, list[Message]]:
        strategy = adaptive(noise_multiplier=0.0, target_clipped_quantile=0.8, **changes)
        strategy.bind(grid, initial, journal=Journal(ledger, "toy", f"{next(runs)}"), entropy=ReproducibleEntropy(0))
        return strategy, grid.send_and_receive(strategy.configure_train(1, initial, {}, grid))  # type: ignore[arg-type]

    return bound


def tampered(reply: Message, change: Any) -> Message:
    content = RecordDict({"diagnostics": MetricRecord()})
    for name, record in reply.content.array_records.items():
        arrays = {key: value.numpy().copy() for key, value in record.items()}
        content[name] = ArrayRecord(
            {key: Array(value) for key, value in (change(arrays) if name.startswith("update/") else arrays).items()}
        )
    changed = Message(content, reply_to=reply)
    changed.metadata.__dict__.update(reply.metadata.__dict__)
    return changed


def summed(strategy: Billboard, replies: list[Message]) -> tuple[Any, float]:
    """Return the sum of the updates and of the centred bits of one round, without noise."""
    strategy.aggregate_train(1, replies)
    before, after = strategy.session.start[ALL], strategy.session.checkpoint.billboards[ALL]
    return np.concatenate([(after[name] - before[name]).ravel() * 6 for name in before]), strategy.session.bits[ALL]


def first_row(value: Any, bit: float | None = None) -> Any:
    def change(arrays: dict[str, Any]) -> dict[str, Any]:
        for name, array in arrays.items():
            if name != BIT:
                array[0] = value
            elif bit is not None:
                array[0] = bit
        return arrays

    return change


@pytest.mark.parametrize(
    ("name", "change", "removed"),
    [
        ("nothing", lambda a: a, False),
        ("nan", first_row(np.nan), True),
        ("a bit that is not finite", first_row(1.0, np.inf), True),
        ("zero", first_row(0.0, 0.2), False),
        ("zero, and a lie about it", first_row(0.0, -0.8), False),
        ("huge, and a lie about it", first_row(1e300, 0.2), False),
        ("a huge bit", first_row(1.0, 1e9), False),
        ("no bits", lambda a: {k: v for k, v in a.items() if k != BIT}, None),
        ("bits of another shape", lambda a: {k: v[:, 0] if k == BIT else v for k, v in a.items()}, None),
    ],
)
@pytest.mark.parametrize("reply", ["rows", "sum"])
def test_whatever_one_task_sends_the_pair_moves_by_its_bound(
    at_work: Any, name: str, change: Any, removed: bool | None, reply: Any
) -> None:
    """In a sum a node answers for its two tasks, so it may move the pair twice as far."""
    strategy, replies = at_work(reply=reply)
    update, bits = summed(strategy, replies)
    strategy, replies = at_work(reply=reply)
    if reply == "sum" and name == "bits of another shape":
        pytest.skip("a sum has one bit")
    other, other_bits = summed(strategy, [tampered(replies[0], change), *replies[1:]])
    moved, by = float(np.linalg.norm(update - other)), abs(bits - other_bits)
    tasks = 2 if reply == "sum" or removed is None else 1
    factor = 1 if removed or removed is None else 2
    assert moved <= factor * tasks * C * (1 + 1e-9)
    assert by <= factor * tasks * 0.8 + 1e-12
    assert np.isfinite(other).all()
    assert (moved == 0) is (name == "nothing")


def test_the_bits_are_what_they_say(at_work: Any) -> None:
    """Each task's bit against the norm of the update that it would send unclipped."""
    for start in (1e-9, 0.3, 1e9):
        _, replies = at_work(reply="rows", clipping_norm=start)
        unclipped = at_work(reply="rows", clipping_norm=1e9)[1]
        for reply, plain in zip(replies, unclipped, strict=True):
            rows, whole = (Reply.from_content(one.content).updates[ALL] for one in (reply, plain))
            squares = sum(np.square(v).reshape(len(v), -1).sum(axis=1) for k, v in whole.items() if k != BIT)
            np.testing.assert_allclose(rows[BIT][:, 0], (np.sqrt(squares) <= start) - 0.8)


# --- the feedback ----------------------------------------------------------------------------------------------------

LENGTHS = np.exp(np.random.default_rng(5).normal(0.0, 0.7, size=60))


class Lengths(GlobalModel):
    """Sends updates of known norms; one of them may be anything."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        update = {name: value.new_zeros((len(cohort), *value.shape)) for name, value in billboard.items()}
        first = next(iter(update.values())).reshape(len(cohort), -1)
        first[:, 0] = torch.from_numpy(self.lengths()[cohort.ids]).to(first.dtype)
        return state, update

    @staticmethod
    def lengths() -> Any:
        return LENGTHS


class Zeros(Lengths):
    """Sends zeros."""

    @staticmethod
    def lengths() -> Any:
        return LENGTHS * 0


class Strange(Lengths):
    """Sends what is not finite."""

    @staticmethod
    def lengths() -> Any:
        return LENGTHS * np.nan


def followed(client: Any, **changes: Any) -> list[float]:
    strategy = adaptive(**{"rounds": 60, "clip_norm_lr": 0.5, **changes})
    return norms(experiment(toy_tasks(60), client=client, model="linear", strategy=strategy).run(reproduce=3))


@pytest.mark.parametrize("quantile", [0.5, 0.8])
@pytest.mark.parametrize("start", [0.02, 50.0], ids=["far too low", "far too high"])
def test_the_norm_approaches_the_quantile_from_both_sides(start: float, quantile: float) -> None:
    """Flower's own falls to zero from half the median. Noise on the bits: 3 of 60 (multiplier 1, a twentieth)."""
    found = followed(Lengths(), clipping_norm=start, target_clipped_quantile=quantile)
    within = [float((norm >= LENGTHS).mean()) for norm in found]
    assert within[0] in (0.0, 1.0)
    steps = np.diff(np.log(found))
    first = steps[:5].sum()
    assert first > 0.5 if start < 1 else first < -0.2, "it moves in the right direction at once"
    assert np.mean(within[-20:]) == pytest.approx(quantile, abs=0.08)


def test_zeros_shrink_the_norm_geometrically_and_never_to_nothing() -> None:
    found = followed(Zeros(), noise_multiplier=0.0, rounds=20)
    np.testing.assert_allclose(np.diff(np.log(found)), -0.5 * 0.5)
    assert next_norm(1e-6, 0.5, 1e9, 1.0, 1.0) == 1e-12
    assert next_norm(1.0, -1e300, 0.2, 1.0, 7.0) == 7.0


@pytest.mark.parametrize("start", [1e-100, 1e-3, 1.0, 1e97])
def test_room_above_does_not_lift_the_norm(start: float) -> None:
    """However large it may grow, its lower end is that of the start: nothing but what was released moves it."""
    strategy = adaptive(clipping_norm=start, largest_clipping_norm=1e100)
    for excess, lower, upper in ((0.0, 1.0, 1.0), (1e-3, 0.999, 1.0), (1e9, 1e-22, 1.0), (-1e9, 1.0, 1e22)):
        norm = next_norm(start, excess, 0.2, start, strategy.plan.clipping.largest_norm)
        assert max(1e-100, start * min(lower, 1e-12 if excess > 1 else lower)) <= norm <= min(1e100, start * upper)
        assert Release(noise_multiplier=1.0, sampling_name="full", rate=1.0, clipping_norm=norm)
    assert adaptive(clipping_norm=1e97).plan.clipping.largest_norm == 1e100


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_updates_that_do_not_count_leave_the_norm_where_it_is(quantile: float) -> None:
    assert set(followed(Strange(), noise_multiplier=0.0, rounds=5, target_clipped_quantile=quantile)) == {C}


def test_nobody_answering_leaves_only_noise(at_work: Any) -> None:
    strategy, _ = at_work()
    strategy.session.resolved = replace(strategy.session.resolved, noise={ALL: 2.0})
    drawn = []
    for seed in range(200):
        strategy.session.entropy = ReproducibleEntropy(seed)
        strategy._released(1, ALL, strategy.bounds(strategy.session.checkpoint).like(strategy.session.start[ALL]))
        drawn.append(strategy.session.bits[ALL])
    std = default_count_stddev(6, 1, 2.0, 0.8)
    # Mean and chi-square of 200 normals: outside of 5.5 deviations with a probability below 1e-7 together.
    assert abs(np.mean(drawn)) < 5.5 * std / math.sqrt(200)
    assert abs(np.square(np.array(drawn) / std).sum() - 200) < 5.5 * 20


def test_half_of_the_tasks_being_silent_does_not_move_the_aim() -> None:
    """Bits centred at 1/2 would ask for 1.3 of the tasks that answer, and the norm would run away."""
    norm, silent = 1.0, 0.5
    for _ in range(400):
        excess = (1 - silent) * (float((norm >= LENGTHS).mean()) - 0.9)
        norm = next_norm(norm, excess, 0.2, 1.0, 1e9)
    assert (norm >= LENGTHS).mean() == pytest.approx(0.9, abs=0.02)


def test_the_denominator_is_the_expected_number_of_participants() -> None:
    """One coin less or more changes the norm by its bit over 0.5 m, not over the number that came."""
    strategy = adaptive(noise_multiplier=0.0, sampling_rate=0.5, rounds=6, clip_norm_lr=1.0)
    found = norms(experiment(toy_tasks(60), client=Lengths(), model="linear", strategy=strategy).run(reproduce=1))
    steps = -np.diff(np.log(found)) * 30 / 0.5
    np.testing.assert_allclose(steps, steps.round(), atol=1e-9)
    assert len(set(steps.round())) > 2


# --- every path has the same norms -----------------------------------------------------------------------------------


def personal(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "client": MeanRegularized(strength=0.5, learning_rate=0.3, final_epochs=1),
        "strategy": adaptive(rounds=6, sampling_rate=0.6),
        "checkpoint_every": 3,
        "shards": 2,
    }
    return experiment(toy_tasks(7), **{**settings, **changes})


def test_shards_rows_and_engines_agree() -> None:
    reference = personal().run(reproduce=6)
    assert len(set(norms(reference))) == 7
    for changes in (
        {"shards": 1, "engine": "loop"},
        {"shards": 4, "strategy": adaptive(rounds=6, sampling_rate=0.6, reply="rows")},
    ):
        other = personal(**changes).run(reproduce=6)
        np.testing.assert_allclose(norms(other), norms(reference), rtol=1e-10)
        for name, value in reference.billboards[ALL].items():
            np.testing.assert_allclose(other.billboards[ALL][name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("moment", "round"), [("before stage", 5), ("after stage", 2), ("after charge", 5), ("after promote", 3)]
)
def test_a_run_goes_on_with_the_norm_that_was_released(
    tmp_path: Path, monkeypatch: Any, moment: str, round: int
) -> None:
    """And what is replayed is asked for with the norm of its own round."""
    asked: dict[int, set[float]] = defaultdict(set)
    original = Node.train

    def note(self: Node, content: Any) -> Any:
        request = Request.from_content(content)
        asked[request.round].add(request.declared.clipping_norm)
        return original(self, content)

    reference = personal().run(reproduce=6)
    monkeypatch.setattr(Node, "train", note)
    with crash_at(monkeypatch, moment, round):
        personal().run(tmp_path / "run", reproduce=6)
    resumed = personal(shards=3).run(tmp_path / "run", reproduce=6, resume=True)
    np.testing.assert_allclose(norms(resumed), norms(reference), rtol=1e-10)
    assert {number: {round_(norm) for norm in several} for number, several in asked.items()} == {
        number: {round_(norm)} for number, norm in enumerate(norms(reference)[:-1], start=1)
    }
    entries = Ledger(tmp_path / "run/ledger.sqlite").entries("toy")
    assert len(entries) == 6
    assert {entry.release.noise_multiplier for entry in entries} == {1.0}


def round_(norm: float) -> float:
    return float(f"{norm:.9g}")


def test_a_checkpoint_without_its_norm_is_refused(at_work: Any) -> None:
    strategy, _ = at_work()
    strategy.session.checkpoint = replace(strategy.session.checkpoint, clipping_norm=None)
    with pytest.raises(InputError, match="is not in the checkpoint"):
        strategy.check_checkpoint()
    one, two = (replace(strategy.session.checkpoint, clipping_norm=norm) for norm in (0.1, 0.2))
    assert one.digest() != two.digest()


def test_a_target_is_met_and_groups_share_one_norm() -> None:
    strategy = adaptive(noise_multiplier=None, target=Target(epsilon=2.0), groups=(0, 1, 0, 1, 0, 1, 1))
    result = personal(strategy=strategy).run(reproduce=6)
    assert 0.99 * 2.0 <= result.guarantee.epsilon <= 2.0
    per_round = defaultdict(set)
    for release in result.summary["releases"]:
        per_round[release["round"]].add(release["clipping_norm"])
    assert all(len(several) == 1 for several in per_round.values())
    assert result.privacy_lines[-1]["epsilon"] == pytest.approx(result.guarantee.epsilon)
    assert "clipping norm varying" in str(result.guarantee)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise": "banded", "sampling_rate": 0.25}, "made, and charged, for one norm"),
        ({"max_participations": 4}, "made, and charged, for one norm"),
        ({"clipping_norm": None, "clipping_norms": {"1": 0.3, "3": 0.3}}, "give 'clipping_norm' instead"),
        ({"largest_clipping_norm": 0.1}, "where the norm starts"),
        ({"target_clipped_quantile": 1.0}, "target_clipped_quantile"),
        ({"clip_norm_lr": 0.0}, "clip_norm_lr"),
        ({"clipped_count_stddev": 0.4}, r"must be above 0\.5"),
        ({"clipped_count_stddev": 1e308}, r"must be at most 5e\+11, got 1e\+308"),
        ({"noise_multiplier": 1e-200}, "nothing but noise; lower it, or use more noise"),
        ({"target_clipped_quantile": 1e-320}, "greater than or equal to 0.001"),
        ({"clipping_norm": 1e308}, "'clipping_norm' must be a number between 1e-100 and 1e100, got 1e"),
        ({"largest_clipping_norm": 1e308}, "'largest_clipping_norm' must be a number between 1e-100 and 1e100"),
    ],
)
def test_what_has_no_guarantee_or_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        personal(strategy=adaptive(**changes)).check()


def test_nodes_with_a_largest_norm_and_their_accounts() -> None:
    policy = NodePolicy(max_clipping_norm=1.0, max_participations=4)
    with pytest.raises(InputError, match="set 'largest_clipping_norm' to 1"):
        personal(policy=policy)
    strategy = adaptive(rounds=6, largest_clipping_norm=1.0)
    tasks = toy_tasks(7)
    node = Node(NodeSpec(tasks, GlobalModel(), toy_problem(tasks), policy=policy))
    billboards = {ALL: {name: value.numpy() for name, value in node.spec.problem.initial().items()}}
    for number, norm in enumerate((0.3, 0.4, 0.5, 2.0, 0.6, 0.7), start=1):
        request = Request(number, billboards, {ALL: np.arange(7)}, "sum", Declaration(norm, 1.0, target_quantile=0.5))
        answer = Reply.from_content(node.train(request.to_content()))
        refused = 7 if norm == 2.0 or number == 6 else 0
        assert answer.diagnostics["refused"] == refused
        assert (answer.updates[ALL][BIT] == 0).all() == bool(refused), "who refuses sends no bit"
    assert len(node.store.granted) == 1, "norms that differ cost the same and are counted together"
    assert personal(policy=policy, strategy=strategy).run(reproduce=0).summary["clipping"]["norm"] <= 1.0
    with pytest.raises(InputError, match="between 0 and 1"):
        node.train(replace(request, declared=replace(request.declared, target_quantile=3.0)).to_content())
