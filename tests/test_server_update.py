"""The server's step: what it computes, that it gets released and public values only, and that a run goes on exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import crash_at, experiment, noisy, personal, same, toy_problem, toy_tasks
from pydantic import PrivateAttr

from fedpriv import ComponentFailure, InputError
from fedpriv.clients import GlobalModel
from fedpriv.config import apply
from fedpriv.privacy.bounds import BIT
from fedpriv.privacy.journal import Checkpoint
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.plan import ResolvedPlan
from fedpriv.protocol import ALL, record_from_billboards
from fedpriv.runs import read_config
from fedpriv.runs.atomic import pack, unpack
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runtime.grid import InProcessGrid
from fedpriv.runtime.node import NodeSpec
from fedpriv.strategies import AlternatingMinimization, Billboard
from fedpriv.strategies.server_updates import SGD, Adam, Momentum, NoisySum, ServerUpdate
from fedpriv.strategies.server_updates.update import State
from fedpriv.sweep.plan import Plan

ADAM = {"server_update": "adam", "server_learning_rate": 0.05, "server_tau": 1e-2}


def followed(update: ServerUpdate, means: list[np.ndarray], rate: float = 0.3) -> np.ndarray:
    """Return where an update leads from zero, by hand, over noisy sums of four expected tasks."""
    billboard: Mapping[str, np.ndarray] = {"w": np.zeros(means[0].shape)}
    state = update.initial_state(billboard)
    for number, mean in enumerate(means, start=1):
        released = NoisySum(number, len(means), billboard, {"w": 4 * mean}, 4.0, rate)
        billboard, state = update.step(released, state)
    return billboard["w"]


@pytest.mark.parametrize(
    ("update", "optimiser"),
    [
        (SGD(), lambda w: torch.optim.SGD(w, lr=0.3)),
        (Momentum(momentum=0.7), lambda w: torch.optim.SGD(w, lr=0.3, momentum=0.7)),
        (Adam(beta_1=0.8, beta_2=0.95, tau=0.02), lambda w: torch.optim.Adam(w, lr=0.3, betas=(0.8, 0.95), eps=0.02)),
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_an_update_is_the_optimiser_of_its_name(update: ServerUpdate, optimiser: Any) -> None:
    """PyTorch's, on minus the noisy mean as the gradient."""
    rng = np.random.default_rng(0)
    means = [rng.normal(size=(3, 2)) for _ in range(6)]
    weights = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    moving = optimiser([weights])
    for mean in means:
        weights.grad = torch.from_numpy(-mean)
        moving.step()
    np.testing.assert_allclose(followed(update, means), weights.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_a_run_with_a_state_follows_its_optimiser(tmp_path: Path) -> None:
    """The billboards of a run are those of PyTorch's Adam on the noisy means of its rounds."""
    rate, fixed = 0.05, {"rounds": 4, "sampling_rate": 0.5}
    adam, first = noisy(**fixed, **ADAM), {}
    released: list[dict[str, np.ndarray]] = []
    step = Adam.step

    def noted(self: Adam, one: NoisySum, state: State) -> Any:
        released.append({name: np.array(value) for name, value in one.mean().items()})
        first.setdefault("x", {name: np.array(value) for name, value in one.billboard.items()})
        return step(self, one, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adam, "step", noted)
        result = experiment(toy_tasks(8), strategy=adam).run(tmp_path / "run", reproduce=2)
    for name, value in first["x"].items():
        weights = torch.from_numpy(value).requires_grad_()
        optimiser = torch.optim.Adam([weights], lr=rate, betas=(0.9, 0.99), eps=1e-2)
        for mean in released:
            weights.grad = torch.from_numpy(-mean[name])
            optimiser.step()
        np.testing.assert_allclose(result.billboards[ALL][name], weights.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("round", [1, 3, 4])
@pytest.mark.parametrize("moment", ["before stage", "after stage", "after charge", "after promote"])
def test_every_moment_of_publishing_leaves_the_state_exact(
    tmp_path: Path, monkeypatch: Any, moment: str, round: int
) -> None:
    """Killed and resumed with Adam, to the bit: the state is written, and charged, with its billboard."""
    one = personal(strategy=noisy(rounds=4, **ADAM), checkpoint_every=3)
    reference = one.run(tmp_path / "whole", reproduce=6)
    with crash_at(monkeypatch, moment, round):
        one.run(tmp_path / "run", reproduce=6)
    same(reference, one.run(tmp_path / "run", reproduce=6, resume=True))
    last, other = (CheckpointStore(tmp_path / name / "checkpoints").load(4) for name in ("whole", "run"))
    assert last.state[ALL].keys() == {f"{kind}/{name}" for kind in "mv" for name in last.billboards[ALL]}
    assert last.digest() == other.digest()


@pytest.mark.parametrize("change", ["another value", "none"])
def test_a_state_that_is_not_the_one_of_its_billboard_is_refused(tmp_path: Path, monkeypatch: Any, change: str) -> None:
    """A step from another state would lead to a billboard that the ledger was not charged for."""
    one = personal(strategy=noisy(rounds=4, **ADAM))
    with crash_at(monkeypatch, "after promote", 3):
        one.run(tmp_path / "run", reproduce=6)
    path = tmp_path / "run/checkpoints/round-000003.npz"
    arrays, header = unpack(path)
    del header["names"]
    states = [name for name in arrays if name.startswith("state/")]
    assert states
    if change == "none":
        arrays = {name: value for name, value in arrays.items() if name not in states}
    else:
        arrays[states[0]] = arrays[states[0]] * (1 + 1e-15) + 1e-300
    path.write_bytes(pack(arrays, header))
    with pytest.raises(InputError, match="does not hold all 3 rounds"):
        one.run(tmp_path / "run", reproduce=6, resume=True)


def bound(strategy: Billboard, checkpoint: Checkpoint | None = None) -> Checkpoint:
    tasks = toy_tasks(6)
    problem = toy_problem(tasks)
    initial = record_from_billboards({ALL: {name: value.numpy() for name, value in problem.initial().items()}})
    grid = InProcessGrid([NodeSpec(tasks, GlobalModel(), problem)])
    return strategy.bind(grid, initial, journal=None, checkpoint=checkpoint).checkpoint


def test_a_checkpoint_without_its_state_is_refused_where_no_ledger_tells() -> None:
    strategy = noisy(rounds=3, **ADAM)
    first = bound(strategy)
    some = {name: value for name, value in first.state[ALL].items() if not name.startswith("v/")}
    bound(strategy, replace(first, round=1))
    for state in ({}, {ALL: some}, {ALL: {name: value[..., :1] for name, value in first.state[ALL].items()}}):
        with pytest.raises(InputError, match="state of the server's step after round 1 is not whole"):
            bound(strategy, replace(first, round=1, state=state))


def test_a_checkpoint_without_a_state_has_the_digest_that_old_ledgers_hold() -> None:
    value = {"": {"w": np.arange(3.0)}}
    plain = Checkpoint(2, value)
    assert plain.digest() == "e5b286667bfbce3779eb413558d2004b887f08ef5c47cd108ce20a6c1eeff1ce"
    kept = replace(plain, state={"": {"w": np.zeros(3)}})
    assert len({plain.digest(), kept.digest(), replace(kept, state={"": {"v": np.zeros(3)}}).digest()}) == 3


def test_strategies_that_set_the_checkpoint_by_its_old_name_move_on_with_a_warning() -> None:
    strategy = noisy(rounds=3)
    later = replace(bound(strategy), round=1)
    with pytest.warns(DeprecationWarning, match=r"Session\.boundary is now called checkpoint"):
        strategy.session.boundary = later
    assert strategy.session.checkpoint is later
    with pytest.warns(DeprecationWarning, match=r"Session\.boundary is now called checkpoint"):
        assert strategy.session.boundary is later


class Spy(SGD):
    """Notes what it is given."""

    seen: ClassVar[list[NoisySum]] = []

    def step(self, released: NoisySum, state: State) -> Any:
        self.seen.append(released)
        return super().step(released, state)


@pytest.mark.parametrize("changes", [{}, {"clipping": "adaptive"}], ids=["flat", "adaptive"])
def test_a_step_is_given_what_was_released_and_nothing_else(changes: Any, monkeypatch: Any) -> None:
    """That is why it costs nothing: no clipped sum, no replies, no participants, no noise."""
    released: list[dict[str, Any]] = []
    whole = ResolvedPlan.noisy

    def noted(self: ResolvedPlan, *arguments: Any) -> Any:
        found, kept = whole(self, *arguments)
        released.append({name: value.copy() for name, value in found.items() if name != BIT})
        assert all((released[-1][name] != arguments[0][name]).all() for name in released[-1]), "there is noise"
        return found, kept

    monkeypatch.setattr(ResolvedPlan, "noisy", noted)
    monkeypatch.setattr(Spy, "seen", [])
    experiment(toy_tasks(6), strategy=noisy(rounds=2, server_update=Spy(), **changes)).run()
    assert {one.name for one in fields(NoisySum)} == {
        *("round", "rounds", "billboard", "total", "expected", "learning_rate"),
    }
    assert [one.round for one in Spy.seen] == [1, 2]
    for seen, noise in zip(Spy.seen, released, strict=True):
        assert seen.total.keys() == noise.keys() == seen.billboard.keys()
        for name, value in noise.items():
            np.testing.assert_array_equal(seen.total[name], value)
            with pytest.raises(ValueError, match="read-only"):
                seen.total[name][...] = 0
            with pytest.raises(ValueError, match="read-only"):
                seen.billboard[name][...] = 0


class Careless(SGD):
    """Keeps something else than it began with."""

    how: str = "name"

    def initial_state(self, billboard: Any) -> State:
        return {"count": np.zeros(2)}

    def step(self, released: NoisySum, state: State) -> Any:
        kept = {"name": {"other": np.zeros(2)}, "shape": {"count": np.zeros(3)}, "nothing": {}}
        return super().step(released, state)[0], kept[self.how]


@pytest.mark.parametrize("how", ["name", "shape", "nothing"])
def test_a_state_that_the_next_round_could_not_use_is_not_published(tmp_path: Path, how: str) -> None:
    strategy = noisy(rounds=2, server_update=Careless(how=how))
    with pytest.raises(ComponentFailure, match=r"Careless must keep 'all/(count|other)'.*the round is charged"):
        experiment(toy_tasks(5), strategy=strategy).run(tmp_path / "run")
    ledger = Ledger(tmp_path / "run/ledger.sqlite")
    assert len(ledger.entries(ledger.populations()[0])) == 1


class Wrong(SGD):
    """Does something from round 2 on that no step may do; ``mended`` does it right."""

    how: str = "single"
    mended: bool = False

    def initial_state(self, billboard: Any) -> State:
        if self.how == "text at first" and not self.mended:
            return {"m": np.array(["one"])}  # type: ignore[dict-item]
        if self.how == "writes at first" and not self.mended:
            next(iter(billboard.values()))[...] = 0.0
        return {"m": np.zeros(2)}

    def step(self, released: NoisySum, state: State) -> Any:
        moved, mean = super().step(released, state)[0], released.mean()
        if self.mended or released.round == 1:
            return moved, state
        first = next(iter(moved))
        if self.how == "writes":
            state["m"][...] = 1.0
        faults = {
            "single": lambda: moved,
            "list": lambda: [moved, state],
            "three": lambda: (moved, state, 1),
            "nothing": lambda: None,
            "fewer": lambda: (released.moved({first: mean[first]}), state),
            "more": lambda: (released.moved({**mean, "other": mean[first]}), state),
            "text": lambda: (moved, {"m": np.array(["one", "two"])}),
            "renamed": lambda: (moved, {"n": np.zeros(2)}),
            "grown": lambda: (moved, {"m": np.zeros(2), "n": np.zeros(2)}),
            "nan": lambda: ({**moved, first: moved[first] * np.nan}, state),
            "infinite": lambda: ({**moved, first: moved[first] + np.inf}, state),
        }
        return faults[self.how]()


WRONG = {
    "single": r"Wrong\.step failed in round 2: it must return the pair \(billboard, state\), both mappings, got dict",
    "list": r"Wrong\.step failed in round 2: it must return the pair .* got list",
    "three": r"Wrong\.step failed .* got a tuple of dict, dict, int",
    "nothing": r"Wrong\.step failed .* got NoneType",
    "fewer": r"Wrong\.step failed in round 2: moved\(\) needs one array for each .* is in the billboard only",
    "more": r"Wrong\.step failed .* 'other' is in the direction only",
    "text": r"Wrong\.step failed in round 2: 'm' is <U3, no array of real numbers",
    "writes": r"Wrong\.step failed in round 2: .*read-only",
    "renamed": r"Wrong must keep 'all/m' as .* got no such array",
    "grown": r"Wrong must keep 'all/n' no more: initial_state has no such array",
}


def spent(folder: Path) -> list[int]:
    ledger = Ledger(folder / "ledger.sqlite")
    return [one.round for one in ledger.entries(ledger.populations()[0])]


@pytest.mark.parametrize("how", WRONG)
def test_a_faulty_step_is_a_sentence(tmp_path: Path, how: str) -> None:
    one = experiment(toy_tasks(5), strategy=noisy(rounds=3, server_update=Wrong(how=how)))
    with pytest.raises(ComponentFailure, match=WRONG[how] + ".*; nothing was published, and the round is charged"):
        one.run(tmp_path / "run")
    assert spent(tmp_path / "run") == [1, 2]


@pytest.mark.parametrize("how", ["nan", "infinite"])
def test_a_step_that_is_not_finite_is_named(tmp_path: Path, how: str) -> None:
    """Not a task: tasks that start from it would be told to lower their learning rate, round after round."""
    one = experiment(toy_tasks(5), strategy=noisy(rounds=3, server_update=Wrong(how=how)))
    words = (
        r"Wrong makes .* of group 'all' a NaN or an infinity in round 2, .*the round is charged.*: mend it, and start"
    )
    with pytest.raises(ComponentFailure, match=words):
        one.run(tmp_path / "run")
    assert spent(tmp_path / "run") == [1, 2]
    experiment(toy_tasks(5), strategy=noisy(rounds=3, server_update=Wrong(how=how, mended=True))).run()


def test_a_rate_beyond_all_numbers_is_lowered_as_the_message_says() -> None:
    for rate in (1e300, 1.0):
        one = experiment(toy_tasks(5), dtype="float32", strategy=noisy(rounds=1, server_learning_rate=rate))
        if rate == 1.0:
            one.run()
            continue
        with pytest.raises(
            ComponentFailure, match=r"SGD makes .* in round 1.*; nothing was published.*server_learning_rate"
        ):
            one.run()


@pytest.mark.parametrize(
    "changes", [{"noise_at": "node"}, {"noise": "banded", "min_separation": 2, "sampling_rate": 0.4}], ids=str
)
def test_a_round_that_was_paid_for_is_not_called_free(tmp_path: Path, changes: Any) -> None:
    """Noise of the nodes is charged before it is asked for, and all rounds of a limited run with the first."""
    one = experiment(toy_tasks(5), strategy=noisy(rounds=3, server_update=Wrong(how="nan"), **changes))
    with pytest.raises(ComponentFailure, match="; nothing was published") as caught:
        one.run(tmp_path / "run")
    assert ("start a new run" in str(caught.value)) == ("noise" in changes), "rows of nodes come again as they were"
    assert spent(tmp_path / "run") == [1, 2]


@pytest.mark.parametrize("how", ["text at first", "writes at first"])
def test_a_faulty_first_state_is_refused_before_a_round(tmp_path: Path, how: str) -> None:
    one = experiment(toy_tasks(5), strategy=noisy(rounds=3, server_update=Wrong(how=how)))
    with pytest.raises(InputError, match=r"Wrong\.initial_state must return arrays of numbers by name, and leave the"):
        one.run(tmp_path / "run")
    experiment(toy_tasks(5), strategy=noisy(rounds=1, server_update=Wrong(how=how, mended=True))).run()


class Picky(SGD):
    """Refuses a sum that it does not like, as a check of its own, and says it."""

    seen: ClassVar[list[float]] = []
    leaves: ClassVar[bool] = False

    def step(self, released: NoisySum, state: State) -> Any:
        self.seen.append(float(next(iter(released.mean().values())).flat[0]))
        if self.leaves:
            raise SystemExit(3)
        raise ValueError(f"too large: {self.seen[-1]}")


@pytest.mark.parametrize("changes", [{}, {"min_separation": 2, "sampling_rate": 0.4}], ids=str)
@pytest.mark.parametrize("leaves", [False, True])
def test_a_noisy_sum_that_a_step_saw_is_spent(
    tmp_path: Path, leaves: bool, changes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each attempt to go on would show it a draw more of the same sum, and none would be paid for."""
    monkeypatch.setattr(Picky, "seen", [])
    monkeypatch.setattr(Picky, "leaves", leaves)
    one = experiment(toy_tasks(5), strategy=noisy(rounds=3, server_update=Picky(), **changes))
    with pytest.raises(SystemExit if leaves else ComponentFailure) as caught:
        one.run(tmp_path / "run")
    assert leaves or "Picky.step failed in round 1: ValueError" in str(caught.value)
    for _ in range(3):
        with pytest.raises(InputError, match=r"round 1 of this run is charged and was not published.*start a new run"):
            one.run(tmp_path / "run", resume=True)
    assert len(Picky.seen) == 1
    assert spent(tmp_path / "run") == [1]


class Counts(SGD):
    """Keeps whole numbers."""

    def initial_state(self, billboard: Any) -> State:
        return {"count": np.zeros(1, dtype=np.int64)}  # type: ignore[dict-item]

    def step(self, released: NoisySum, state: State) -> Any:
        assert state["count"].dtype == np.float64, "as the page says"
        return super().step(released, state)[0], {"count": (state["count"] + 1).astype(np.float32)}


def test_a_state_is_float64_whatever_it_was(tmp_path: Path) -> None:
    experiment(toy_tasks(5), strategy=noisy(rounds=3, server_update=Counts())).run(tmp_path / "run")
    assert CheckpointStore(tmp_path / "run/checkpoints").load(3).state[ALL]["count"].tolist() == [3.0]


def test_updates_that_could_not_go_on_are_refused_when_they_are_defined() -> None:
    """`Momentum` keeps its sum in the state and `SGD` uses the strategy's rate, as the messages say."""
    with pytest.raises(InputError, match=r"Hoarder keeps '_sum' to itself, which a run that goes on would lose"):

        class Hoarder(SGD):
            _sum: float = PrivateAttr(default=0.0)

    with pytest.raises(InputError, match=r"Own\.learning_rate would be set by 'server_learning_rate'"):

        class Own(SGD):
            learning_rate: float = 1.0

    with pytest.raises(InputError, match=r"Old\._publish would never be asked.*give one as 'server_update'"):

        class Old(Billboard):
            def _publish(self, number: int, group: str, total: Any) -> Any:
                return total


def test_every_group_has_a_state_of_its_own(tmp_path: Path) -> None:
    groups = tuple(number % 2 for number in range(6))
    experiment(toy_tasks(6), strategy=noisy(rounds=3, groups=groups, **ADAM)).run(tmp_path / "run", reproduce=1)
    state = CheckpointStore(tmp_path / "run/checkpoints").load(3).state
    assert set(state) == {"group-0", "group-1"}
    assert all((state["group-0"][name] != state["group-1"][name]).any() for name in state["group-0"])


@pytest.mark.parametrize(
    ("settings", "words", "way"),
    [
        ({"server_update": "adm"}, r"unknown server_update 'adm': did you mean 'adam'\?", {"server_update": "adam"}),
        ({"server_update": "adam", "server_tua": 1.0}, "unknown setting 'server_tua': did you mean 'server_tau'",
         {"server_update": "adam", "server_tau": 1.0}),
        ({"server_momentum": 0.5}, "'server_momentum' belongs to server_update='momentum', got 'sgd'; leave it", {}),
        ({"server_update": "momentum", "server_momentum": 1.0}, "'momentum' must be less than 1, got 1.0",
         {"server_update": "momentum", "server_momentum": 0.5}),
        ({"server_update": Adam(), "server_tau": 1.0}, r"give it to that: Adam\(tau=\.\.\.\)",
         {"server_update": Adam(tau=1.0)}),
        ({"server_update": Adam}, "must be an instance of ServerUpdate", {"server_update": Adam()}),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_are_wrong_or_without_effect_are_refused(
    settings: dict[str, Any], words: str, way: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=words):
        noisy(**settings)
    noisy(**way)


def test_a_strategy_with_a_step_of_its_own_refuses_another() -> None:
    common: dict[str, Any] = {"clipping_norm": 1.0, "noise_multiplier": 1.0, "rounds": 2}
    with pytest.raises(InputError, match="has a step of its own, beside which 'server_update' would be without effect"):
        AlternatingMinimization(**common, server_update="momentum")
    AlternatingMinimization(**common)
    Billboard(**common, server_update="momentum")


def test_settings_travel_through_configurations(tmp_path: Path) -> None:
    """Into the run folder with all defaults, and from there to the same strategy; without a choice nothing is said."""
    one = noisy(rounds=2, **ADAM)
    experiment(toy_tasks(5), strategy=one).run(tmp_path / "run")
    said = read_config(tmp_path / "run")["strategy"]
    assert said["server_update"] == "adam"
    assert (said["server_beta_1"], said["server_beta_2"], said["server_tau"]) == (0.9, 0.99, 0.01)
    assert Billboard(**one.model_dump()) == one
    assert "server_update" not in noisy(rounds=2).model_dump()
    config = {"data": {}, "model": {}, "client": {}, "run": {}, "strategy": {"name": "billboard", "rounds": 2}}
    chosen = apply(config, {"strategy.server_update": "adam", "strategy.server_tau": 0.1})
    assert chosen["strategy"]["server_tau"] == 0.1
    other = apply(chosen, {"strategy.server_update": "momentum"})["strategy"]
    assert other == {"name": "billboard", "rounds": 2, "server_update": "momentum"}
    grid = {"strategy.server_momentum": [0.5, 0.9], "strategy.server_update": ["momentum"]}
    plan = Plan("pmtl", "digits", chosen, grid, [1], reproduce=False)
    assert [cell.config["strategy"]["server_momentum"] for cell in plan.cells()] == [0.5, 0.9]
