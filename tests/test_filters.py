"""Both filters against adversaries who choose each release after they saw the ones before."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest

from fedpriv import Experiment
from fedpriv.clients import GlobalModel
from fedpriv.errors import BudgetExceeded, InputError, NoGuarantee
from fedpriv.privacy import (
    BandedMechanism,
    GdpFilter,
    Ledger,
    Relation,
    Release,
    RenyiFilter,
    Target,
    calibrate_to_filter,
)
from fedpriv.privacy.sampling import FixedSizeSampling, FullParticipation, PoissonSampling
from fedpriv.strategies import Billboard
from tests.helpers import toy_tasks

PLAIN = Release(noise_multiplier=10.0, sampling_name="full", rate=1.0, clipping_norm=1.0)
POISSON = PLAIN.model_copy(update={"sampling_name": "poisson", "rate": 0.1})
EPSILON, DELTA = 1.0, 1e-2


def transcripts(limit: GdpFilter | RenyiFilter, adversary: str, count: int, seed: int) -> Any:
    """Return privacy losses [count] of adaptive histories of plain Gaussian releases that the filter lets pass.

    Each step the adversary chooses mu from the loss so far; the filter stops what it cannot pay for. The loss of a step
    is ``mu (x + mu) - mu^2 / 2`` for the noise x of a world in which the task is there.
    """
    rng = np.random.default_rng(seed)
    per_mu = limit.cost({PLAIN: 1}) * PLAIN.noise_multiplier**2  # what mu^2 = 1 costs
    loss, spent = np.zeros(count), np.zeros(count)
    for step in range(40):
        mu = np.full(count, 0.1)
        if adversary == "chases high losses":
            mu = np.where(loss > 0.5 * EPSILON, 0.3, 0.05)
        elif adversary == "doubles when behind":
            mu = np.where(loss < 0, 0.35, 0.02)
        elif adversary == "stops when ahead":
            mu = np.where(loss > EPSILON, 0.0, 0.2)
        room = np.maximum(0.0, limit.allowance - spent) / per_mu
        mu = np.minimum(mu, np.sqrt(room)) if step % 2 else np.where(mu**2 <= room, mu, 0.0)
        loss += mu * (rng.normal(size=count) + mu) - mu**2 / 2
        spent += per_mu * mu**2
    assert (spent <= limit.allowance * (1 + 1e-12)).all()
    return loss


ADVERSARIES = ["does not react", "chases high losses", "doubles when behind", "stops when ahead"]


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("kind", [GdpFilter, RenyiFilter])
def test_no_adaptive_history_exceeds_the_budget(kind: Any, adversary: str) -> None:
    """E[(1 - e^(eps - loss))+] <= delta, by 100,000 histories; five standard errors: false alarms below 3e-7 each."""
    limit = kind.for_budget(EPSILON, DELTA)
    gains = np.maximum(0.0, -np.expm1(EPSILON - transcripts(limit, adversary, 100_000, seed=7)))
    assert gains.mean() <= DELTA + 5 * gains.std() / math.sqrt(len(gains))
    # and the test would notice a filter that lets a tenth too much through
    wrong = kind(**{**vars(limit), "allowance": limit.allowance * (1.1 if kind is GdpFilter else 1.5)})
    if adversary == "does not react":
        gains = np.maximum(0.0, -np.expm1(EPSILON - transcripts(wrong, adversary, 100_000, seed=7)))
        assert gains.mean() > DELTA + 5 * gains.std() / math.sqrt(len(gains))


@pytest.mark.parametrize(("eps", "delta"), [(0.3, 1e-6), (2.0, 1e-5), (8.0, 1e-9)])
def test_the_gdp_allowance_is_the_exact_curve(eps: float, delta: float) -> None:
    """By mpmath, with 40 digits."""
    with mpmath.workdps(40):
        mu = mpmath.sqrt(GdpFilter.for_budget(eps, delta).allowance)
        found = mpmath.ncdf(-eps / mu + mu / 2) - mpmath.exp(eps) * mpmath.ncdf(-eps / mu - mu / 2)
        assert delta * (1 - 1e-8) < found <= delta
    limit = GdpFilter.for_budget(eps, delta)
    assert limit.epsilon(limit.allowance, delta) == pytest.approx(eps, rel=1e-9)
    renyi = RenyiFilter.for_budget(eps, delta)
    assert renyi.epsilon(renyi.allowance, delta) == pytest.approx(eps, rel=1e-9)
    assert limit.epsilon(0.0, delta) == renyi.epsilon(0.0, delta) == 0.0
    gained = (limit.allowance / limit.cost({PLAIN: 1})) / (renyi.allowance / renyi.cost({PLAIN: 1}))
    assert 1.05 < gained < 1.25  # what the module's description promises


def test_the_gdp_filter_counts_squares_of_mu() -> None:
    add, replace = (GdpFilter.for_budget(1.0, 1e-5, one) for one in (Relation.ADD_REMOVE, Relation.REPLACE_ONE))
    banded = BandedMechanism(horizon=30, participations=4, separation=5, bands=5)
    banded = PLAIN.model_copy(update={"mechanism": "banded", "sampling_name": "min-separation", "banded": banded})
    counted = PLAIN.model_copy(update={"sampling_name": "fixed-size-unamplified", "rate": 0.1})
    assert add.cost({PLAIN: 3, banded: 1}) == pytest.approx(0.03 + 0.04)
    assert replace.cost({PLAIN: 3, counted: 2}) == pytest.approx(4 * 0.05)
    assert add.cost({PLAIN.model_copy(update={"noise_multiplier": 0.0}): 1}) == math.inf
    with pytest.raises(NoGuarantee, match="replace-one"):
        add.cost({counted: 1})
    amplified = FixedSizeSampling(10, 100)
    for release in (POISSON, Release.of(amplified, 10.0)):
        with pytest.raises(NoGuarantee, match=r"plain Gaussian releases only.*'renyi'"):
            replace.cost({release: 1})
    for limit in (add, replace):
        exact = calibrate_to_filter(limit, FullParticipation(), 50)
        assert limit.admits(limit.cost({PLAIN.model_copy(update={"noise_multiplier": exact}): 50}))
        assert not limit.admits(limit.cost({PLAIN.model_copy(update={"noise_multiplier": exact * 0.99}): 50}))
        with pytest.raises(NoGuarantee):
            calibrate_to_filter(limit, PoissonSampling(0.2), 50)


def test_a_population_keeps_the_filter_that_it_chose(tmp_path: Path) -> None:
    ledger, budget = Ledger(tmp_path / "l.sqlite"), Target(epsilon=1.0, delta=1e-5)
    values: dict[str, Any] = {"num_tasks": 100, "declared": "protected", "budget": budget}
    ledger.register("gdp", fingerprint="a", **values, budget_filter="gdp")
    ledger.register("renyi", fingerprint="b", **values)
    granted = {"gdp": 0, "renyi": 0}
    for name in granted:
        while ledger.describe(name)["left"]["more_like_the_last"] != 0:
            ledger.charge(name, "r", granted[name], "", PLAIN)
            granted[name] += 1
        with pytest.raises(BudgetExceeded, match=f"{granted[name]} rounds of this run"):
            ledger.charge(name, "r", granted[name], "", PLAIN)
    assert granted["gdp"] == int(GdpFilter.for_budget(1.0, 1e-5).allowance * 100)
    assert granted["renyi"] < granted["gdp"]
    found = ledger.describe("gdp")["left"]
    assert (found["filter"], found["more_like_the_last"], found["within"]) == ("gdp", 0, True)
    assert found["filter_epsilon"] == pytest.approx(found["epsilon_if_runs_were_fixed_beforehand"], rel=1e-9)
    tighter = ledger.describe("renyi")["left"]
    assert tighter["epsilon_if_runs_were_fixed_beforehand"] < tighter["filter_epsilon"] <= 1.0
    with pytest.raises(InputError, match="filter may not change"):
        ledger.register("gdp", fingerprint="a", **values)
    with pytest.raises(InputError, match="did you mean 'gdp'"):
        ledger.register("new", fingerprint="c", **values, budget_filter="gpd")  # type: ignore[arg-type]
    with pytest.raises(NoGuarantee, match="'renyi'"):
        ledger.check("gdp", "r", {POISSON: 1})
    before = ledger.path.read_bytes()
    with pytest.raises(NoGuarantee, match="'renyi'"):
        ledger.charge("gdp", "r", 10_000, "", POISSON)
    assert ledger.path.read_bytes() == before


def experiment(tmp_path: Path, **changes: Any) -> Experiment:
    tasks = toy_tasks(20)
    object.__setattr__(tasks, "declared", "protected")
    strategy = Billboard(clipping_norm=1.0, rounds=2, noise_multiplier=5.0, sampling_rate=changes.pop("rate", 1.0))
    settings = {
        "budget": Target(epsilon=4.0),
        "budget_filter": "gdp",
        "population": "p",
        "ledger": tmp_path / "l.sqlite",
    }
    return Experiment(
        tasks=tasks,
        model="linear",
        client=GlobalModel(learning_rate=0.1, epochs=1),
        strategy=strategy,
        grid="in-process",
        baseline=False,
        **{**settings, **changes},
    )


def test_an_experiment_chooses_its_filter(tmp_path: Path) -> None:
    with pytest.raises(NoGuarantee, match=r"run\.budget_filter"):
        experiment(tmp_path, rate=0.5).run()
    assert not (tmp_path / "l.sqlite").exists()  # the population is not stuck with a filter that cannot pay
    experiment(tmp_path).run()
    assert Ledger(tmp_path / "l.sqlite").describe("p")["left"]["filter"] == "gdp"
    with pytest.raises(InputError, match="give 'budget'"):
        experiment(tmp_path, budget=None)
    with pytest.raises(InputError, match="filter may not change"):
        experiment(tmp_path, budget_filter="renyi").run()
