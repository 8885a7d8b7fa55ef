"""The plan of a run: parts that do not go together, what it resolves to, and that it is resolved once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import experiment, noisy, toy_tasks

from fedpriv import InputError, Target
from fedpriv.clients import MeanRegularized
from fedpriv.privacy import Ledger, epsilon, plan
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.bounds import WHOLE, Bounds, Clipping
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.histories import EVERYBODY
from fedpriv.privacy.ledger import Entry
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.metrics import Metrics
from fedpriv.privacy.participation import Participation
from fedpriv.privacy.plan import Mechanism, PrivacyPlan
from fedpriv.privacy.sampling import FullParticipation, PoissonSampling, fixed_size
from fedpriv.privacy.terms import Relation
from fedpriv.protocol import ALL
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.strategies import Billboard, Silent, TaskStrategy

TARGET = Target(epsilon=3.0, delta=1e-3)
GROUPS = tuple(number % 2 for number in range(12))
STRATEGIES: dict[str, dict[str, Any]] = {
    "poisson": {},
    "full": {"sampling_rate": 1.0},
    "fixed-size": {"sampling": "fixed-size"},
    "limited": {"min_separation": 3, "sampling_rate": 0.25},
    "banded": {"noise": "banded", "min_separation": 3, "sampling_rate": 0.25},
    "adaptive": {"clipping": "adaptive"},
    "norms": {"clipping_norm": None, "clipping_norms": {"1": 0.3, "3": 0.2}},
    "metrics": {"metrics": ("personal.loss",), "metrics_every": 2, "metrics_epsilon": 0.5},
    "node": {"noise_at": "node", "reply": "rows"},
    "groups": {"groups": GROUPS, "group_epsilons": {"0": 1.5, "1": 3.0}},
}


def strategy(**changes: Any) -> Billboard:
    return noisy(**{"rounds": 4, "noise_multiplier": None, "target": TARGET, **changes})


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("use_state", [True, False])
def test_what_is_forecast_is_what_a_run_comes_to(name: str, use_state: bool) -> None:
    """Without training: the same guarantees, computed from the plan before and from the ledger after."""
    client = MeanRegularized(learning_rate=0.1, strength=1.0) if use_state else None
    run = experiment(toy_tasks(12), strategy=strategy(**STRATEGIES[name]), **({"client": client} if client else {}))
    bound, _ = run.check()
    result = run.run(reproduce=1)
    forecast = bound.resolve(12).guarantees
    said = tuple(replace(one, reproduction=False) for one in (result.guarantee, result.personal_guarantee))
    if name == "adaptive":  # the norm of later rounds is not known before
        forecast, said = (tuple(replace(one, clipping_norm=None) for one in pair) for pair in (forecast, said))
    assert said == forecast
    assert forecast[0].epsilon <= 3.0 + 1e-9


def test_the_noise_is_calibrated_once_per_run_and_target(monkeypatch: Any, tmp_path: Path) -> None:
    asked: list[float] = []
    calibrate = plan.calibrate_noise_multiplier

    def counting(target: Target, *rest: Any) -> float:
        asked.append(target.epsilon)
        return calibrate(target, *rest)

    monkeypatch.setattr(plan, "calibrate_noise_multiplier", counting)
    experiment(toy_tasks(12), strategy=strategy()).run(tmp_path / "run", reproduce=1)
    assert asked == [3.0]
    experiment(toy_tasks(12), strategy=strategy(**STRATEGIES["groups"])).run(reproduce=1)
    assert asked == [3.0, 1.5, 3.0]


def test_strategies_are_at_most_two_classes_deep() -> None:
    own = [one for one in Billboard.__mro__ if one.__module__.startswith("fedpriv.strategies")]
    assert own == [Billboard, TaskStrategy]


def test_a_plan_refuses_parts_that_do_not_go_together() -> None:
    """Also where it is made by hand, and not by a strategy."""
    secret, norm, noise = Participation(sampling_rate=0.5), Clipping(1.0), Mechanism(noise_multiplier=1.0)
    for parts, words in (
        ({"mechanism": None}, "clipping and mechanism go together"),
        ({"participation": Participation(0.25, min_separation=4), "clipping": Clipping(1.0, "adaptive")}, "adaptive"),
        (
            {"mechanism": Mechanism(noise="banded", noise_multiplier=1.0), "participation": Participation(limits=True)},
            "banded noise needs tasks that wait",
        ),
        ({"metrics": Metrics(("personal.loss",))}, "published metrics cost privacy"),
        ({"metrics": Metrics(("personal.loss",), 9, 0.5)}, "at most rounds=4, got 9"),
        ({"mechanism": Mechanism(noise_multiplier=1.0, noise_at="node"), "clipping": Clipping(1.0, "per-layer")},
         "one clipping norm for the whole update"),
    ):  # fmt: skip
        made: dict[str, Any] = {"participation": secret, "clipping": norm, "mechanism": noise, **parts}
        with pytest.raises(InputError, match=words):
            PrivacyPlan(4, **made)
    with pytest.raises(InputError, match="exactly one of them"):
        Mechanism()
    with pytest.raises(InputError, match="must be in"):
        Participation(sampling_rate=1.5)


def test_both_sides_derive_their_release_from_one_declaration() -> None:
    """The server's is amplified; the node's counts its participation in full, whatever was drawn."""
    for sampling, name in ((PoissonSampling(0.1), "poisson"), (fixed_size(0.5, 10), "fixed-size")):
        said = Declaration(0.5, 2.0, fixed_size=name == "fixed-size")
        travelled = Declaration.from_settings(said.to_settings())
        assert travelled == said
        assert (said.sampled(sampling).sampling_name, said.sampled(sampling).rate) == (name, sampling.rate)
        counted = travelled.counted()
        assert (counted.cost.rate, counted.noise_multiplier, counted.clipping_norm) == (1.0, 2.0, 0.5)
        assert counted.cost.fixed == (name == "fixed-size")
    banded = BandedMechanism(horizon=6, participations=2, separation=3, bands=3)
    said = Declaration.of(Bounds({WHOLE: 0.5}), 2.0, banded=banded)
    assert Declaration.from_settings(said.to_settings()) == said
    assert said.sampled(FullParticipation()) == said.counted()
    metrics = Declaration(noise_multiplier=3.0, metrics=("personal.loss",), clipping_norm=99.0)
    assert metrics.measured().clipping_norm == 0.5, "bounded by what it is, whatever is declared"
    assert metrics.counted().clipping_norm == 99.0, "an update stays one"


def test_nothing_is_planned_where_nothing_is_published() -> None:
    resolved = Silent(rounds=3, sampling_rate=0.5).resolve(8)
    assert not resolved.releases()
    assert [one.rounds for one in resolved.guarantees] == [0, 0]
    assert resolved.expected_answers == 12.0


class Stopped(Exception):
    """The run was stopped."""


def stop(done: int, total: int) -> None:
    if done == 3:
        raise Stopped


@pytest.mark.parametrize("name", ["poisson", "metrics", "limited"])
def test_an_entry_outside_of_the_plan_is_an_error(name: str, tmp_path: Path) -> None:
    """A run that goes on must find the noise that its first rounds were charged with."""
    changes = STRATEGIES[name]
    run = experiment(toy_tasks(12), strategy=strategy(**changes))
    with pytest.raises(Stopped):
        run.run(tmp_path / "run", reproduce=1, progress=stop)
    entries = entries_of(tmp_path / "run")
    run.strategy.resolve(12).refuse_others(entries)
    louder = strategy(**changes, target=None, noise_multiplier=run.strategy.resolve(12).noise_multiplier * (1 + 1e-9))
    for other in (louder, strategy(**{**changes, "rounds": 5})):
        with pytest.raises(InputError, match="that this run does not plan"):
            other.resolve(12).refuse_others(entries)
    assert CheckpointStore(tmp_path / "run/checkpoints").rounds()[-1] == 3
    assert run.run(tmp_path / "run", reproduce=1, resume=True).summary["finished"]


@pytest.mark.parametrize("name", ["poisson", "banded", "metrics", "groups"])
def test_a_run_goes_on_where_its_noise_is_rounded_otherwise(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Another processor or library finds another noise in the eighth digit: that of the first rounds stays."""
    run = experiment(toy_tasks(12), strategy=strategy(**STRATEGIES[name]))
    with pytest.raises(Stopped):
        run.run(tmp_path / "run", reproduce=1, progress=stop)
    whole = run.run(reproduce=1)
    exact = {"calibrate": plan.calibrate_noise_multiplier, "metrics": Metrics.noise}
    off = 1 + 9e-8
    monkeypatch.setattr(plan, "calibrate_noise_multiplier", lambda *how: off * exact["calibrate"](*how))
    monkeypatch.setattr(Metrics, "noise", lambda *how: off * exact["metrics"](*how))
    assert run.resolve().noise_multiplier > run.resolve().as_begun(entries_of(tmp_path / "run")).noise_multiplier
    result = run.run(tmp_path / "run", reproduce=1, resume=True)
    by_group: dict[tuple[str, str | None], set[Release]] = {}
    for entry in entries_of(tmp_path / "run"):
        by_group.setdefault((entry.group, entry.release.measures), set()).add(entry.release)
    assert {len(found) for found in by_group.values()} == {1}
    assert result.guarantee == whole.guarantee
    for group, arrays in whole.billboards.items():
        for array, value in arrays.items():
            np.testing.assert_array_equal(result.billboards[group][array], value)
    off = 1 + 2e-6  # no rounding
    with pytest.raises(InputError, match="that this run does not plan"):
        run.resolve().refuse_others(entries_of(tmp_path / "run"))


def test_a_round_that_is_not_planned_is_an_error() -> None:
    """Also with the release of the others: nobody planned to publish then."""
    resolved = strategy(**STRATEGIES["metrics"]).resolve(12)
    update, measured = resolved.costliest(Bounds({WHOLE: 0.5})), next(iter(resolved.measurements()))

    def entry(round: int, release: Release) -> Entry:
        return Entry("toy", "run", round, ALL if release == update else EVERYBODY, release, "", "")

    resolved.refuse_others([entry(1, update), entry(4, update), entry(2, measured), entry(4, measured)])
    for outside in (entry(0, update), entry(5, update), entry(3, measured), entry(6, measured)):
        with pytest.raises(InputError, match=f"round {outside.round} that this run does not plan"):
            resolved.refuse_others([outside])


@pytest.mark.parametrize(
    ("old", "new"), [("check_boundary", "check_checkpoint"), ("first_boundary", "first_checkpoint")]
)
def test_an_override_under_an_old_name_is_refused_and_the_advice_works(old: str, new: str) -> None:
    """Passed over without a word, a strategy would go on from what it meant to refuse."""
    assert hasattr(Billboard, new)
    with pytest.raises(InputError, match=rf"Older\.{old} would never be asked: override '{new}' instead"):
        type("Older", (Billboard,), {"__module__": __name__, old: lambda _: None})
    type("Newer", (Billboard,), {"__module__": __name__, new: lambda _: None})


def test_what_would_never_be_asked_is_refused() -> None:
    """A strategy that asks for more noise in the way of before would get less; in its plan it gets it."""
    with pytest.raises(InputError, match=r"Louder\.resolve_noise would never be asked.*override 'plan'"):

        class Louder(Billboard):
            def resolve_noise(self, num_tasks: int) -> float:
                return 9.0

    class Planned(Billboard):
        @property
        def plan(self) -> PrivacyPlan:
            return replace(super().plan, mechanism=Mechanism(noise_multiplier=9.0))

    run = experiment(toy_tasks(6), strategy=Planned(clipping_norm=0.5, rounds=2, noise_multiplier=1.0))
    assert {one["noise_multiplier"] for one in run.run().summary["releases"]} == {9.0}


def entries_of(folder: Path) -> list[Entry]:
    return list(Ledger(folder / "ledger.sqlite").entries("toy", run_id(folder)))


def run_id(folder: Path) -> str:
    return (folder / "checkpoints/run-id").read_text(encoding="utf-8")


def test_the_group_that_costs_most_is_planned() -> None:
    resolved = strategy(**STRATEGIES["groups"]).resolve(12)
    assert resolved.noise["group-0"] > resolved.noise["group-1"] == resolved.noise_multiplier
    assert epsilon(resolved.releases(), 1e-3, Relation.ADD_REMOVE).value == pytest.approx(3.0, rel=5e-3)
