"""What may be claimed, how it is said, and what a node agrees to."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from helpers import experiment, noisy, toy_tasks
from numpy.typing import NDArray
from scipy import stats

import fedpriv.privacy
from fedpriv import Target
from fedpriv.errors import InputError, NoGuarantee
from fedpriv.privacy import (
    CLAIMS,
    FullParticipation,
    Guarantee,
    NodePolicy,
    NoiseAt,
    Notion,
    Observer,
    Output,
    PoissonSampling,
    Relation,
    Release,
    claim,
    decide,
    epsilon,
    gaussian_epsilon,
    guarantee_for,
)

POISSON = Release(noise_multiplier=2.0, sampling_name="poisson", rate=0.1, clipping_norm=0.5)
FULL = Release(noise_multiplier=20.0, sampling_name="full", rate=1.0, clipping_norm=0.5)

# Written out by hand from the design, not derived from the code.
ALLOWED = {
    (Output.BILLBOARDS, Observer.PUBLIC, NoiseAt.SERVER): Notion.DP,
    (Output.PERSONAL_MODELS, Observer.COALITION, NoiseAt.SERVER): Notion.JOINT_DP,
    (Output.METRICS, Observer.PUBLIC, NoiseAt.SERVER): Notion.DP,
    (Output.ROWS, Observer.SERVER, NoiseAt.NODE): Notion.LOCAL_DP,
    (Output.CLIPPED_SUM, Observer.SERVER, NoiseAt.NODE): Notion.LOCAL_DP,
}


@pytest.mark.parametrize("cell", list(itertools.product(Output, Observer, NoiseAt)), ids=str)
def test_every_cell_is_claimed_or_refused_with_a_sentence(cell: tuple[Output, Observer, NoiseAt]) -> None:
    for sampling in (PoissonSampling(0.1), FullParticipation(), "poisson", "full"):
        if cell in ALLOWED:
            row = claim(*cell, sampling)
            assert row.notion is ALLOWED[cell]
            # A row that is missing is seen to be missing; noise on the node is for a server that knows who takes part.
            either = (Relation.ADD_REMOVE, Relation.REPLACE_ONE)
            assert row.relations == ((Relation.REPLACE_ONE,) if cell[0] is Output.ROWS else either)
            assert row.amplified == (cell[2] is NoiseAt.SERVER)
            assert row.accounting
            assert row.attacks
        else:
            with pytest.raises(NoGuarantee) as caught:
                claim(*cell, sampling)
            text = str(caught.value)
            assert text.startswith("no guarantee for ")
            assert text.endswith(".")
            assert ";" in text  # the next step
    if cell in ALLOWED:
        with pytest.raises(NoGuarantee, match="shuffled"):
            claim(*cell, "shuffled")


def test_particular_refusals() -> None:
    for output in (Output.ROWS, Output.CLIPPED_SUM, Output.BILLBOARDS):
        with pytest.raises(NoGuarantee, match="gives nothing against the server"):
            claim(output, Observer.SERVER, NoiseAt.SERVER, "poisson")
    with pytest.raises(NoGuarantee, match="jointly private"):
        claim(Output.PERSONAL_MODELS, Observer.PUBLIC, NoiseAt.SERVER, "poisson")
    assert {(row.output, row.observer, row.noise_at) for row in CLAIMS} == set(ALLOWED)
    lines = [(row.output, row.observer, row.noise_at, name) for row in CLAIMS for name in row.samplings]
    assert len(set(lines)) == len(lines), "two lines of the table answer one question"


def test_guarantee_says_everything() -> None:
    found = guarantee_for({POISSON: 200}, delta=1e-5, num_tasks=1000)
    assert found.epsilon == epsilon({POISSON: 200}, 1e-5).value
    assert found.epsilon_replace_one == epsilon({POISSON: 200}, 1e-5, Relation.REPLACE_ONE).value
    text = str(found)
    for word in (
        "Joint differential privacy",
        "unit task",
        "add/remove",
        "coalition",
        "epsilon = 3.36",
        "delta = 1e-05",
        "accountant pld",
        "replace-one: epsilon = 6.53",
        "200 releases on 1000 tasks",
        "Poisson, rate 0.1",
    ):
        assert word in text
    assert found.holds
    assert "coins stay secret" in " ".join(found.assumptions)


def test_dp_for_personal_models_cannot_be_expressed() -> None:
    found = guarantee_for({POISSON: 1}, delta=1e-5, num_tasks=100)
    for change in (
        {"notion": Notion.DP},
        {"observer": Observer.PUBLIC},
        {"observer": Observer.SERVER},
        {"output": Output.DIAGNOSTICS},
        {"output": Output.BILLBOARDS},
        {"noise_at": NoiseAt.NODE},
        {"sampling_names": ("fixed-size",)},
        {"epsilon": math.nan},
        {"epsilon": -1.0},
    ):
        with pytest.raises(NoGuarantee):
            dataclasses.replace(found, **change)
    with pytest.raises(InputError, match="1/m"):
        dataclasses.replace(found, delta=0.01)
    with pytest.raises(InputError, match="1/m"):
        guarantee_for({POISSON: 1}, delta=0.01, num_tasks=100)
    with pytest.raises(NoGuarantee):
        guarantee_for({POISSON: 1}, delta=1e-5, num_tasks=100, output=Output.ROWS, observer=Observer.SERVER)


def test_rows_are_accounted_without_amplification() -> None:
    found = guarantee_for(
        {POISSON: 3},
        delta=1e-5,
        num_tasks=100,
        output=Output.ROWS,
        observer=Observer.SERVER,
        noise_at=NoiseAt.NODE,
    )
    assert found.notion is Notion.LOCAL_DP
    assert found.relation is Relation.REPLACE_ONE
    assert found.accountant == "gaussian"
    assert found.epsilon == pytest.approx(gaussian_epsilon(2 * math.sqrt(3) / 2.0, 1e-5))
    with pytest.raises(NoGuarantee, match="not local differential privacy under add/remove"):
        dataclasses.replace(found, relation=Relation.ADD_REMOVE)


def test_guarantee_without_noise_without_releases_and_reproduced() -> None:
    silent = Release(noise_multiplier=0.0, sampling_name="full", rate=1.0, clipping_norm=1.0)
    none = guarantee_for({silent: 2, FULL: 1}, delta=1e-5, num_tasks=100)
    assert str(none).startswith("no guarantee: ")
    assert none.to_json()["epsilon"] == "inf"
    assert not none.holds
    nothing = guarantee_for({}, delta=1e-5, num_tasks=100)
    assert str(nothing).startswith("Nothing was released: epsilon 0")
    assert nothing.epsilon == 0.0
    again = guarantee_for({FULL: 10}, delta=5e-3, num_tasks=100, reproduction=True)
    assert str(again).startswith("reproduction, no guarantee")
    assert "would have had" in str(again)
    assert f"epsilon = {again.epsilon:.4g}" in str(again)
    assert "safer choice" in str(again)
    assert not again.holds


def test_guarantee_round_trip() -> None:
    silent = Release(noise_multiplier=0.0, sampling_name="poisson", rate=0.5, clipping_norm=1.0)
    for releases in ({FULL: 10}, {silent: 1}, {}, {FULL: 1, silent: 1}):
        found = guarantee_for(releases, delta=5e-3, num_tasks=100, assumptions=("one more",))
        text = json.dumps(found.to_json(), allow_nan=False)
        assert Guarantee.from_json(json.loads(text)) == found
    values = json.loads(text)
    for key in ("notion", "epsilon", "delta", "relation", "observer", "accountant", "sentence"):
        assert key in values
    with pytest.raises(NoGuarantee):
        Guarantee.from_json({**values, "notion": "differential privacy"})
    for wrong in ({}, {**values, "relation": "sideways"}, {**values, "epsilon": "much"}):
        with pytest.raises(InputError):
            Guarantee.from_json(wrong)


def test_policy_counts_without_amplification() -> None:
    policy = NodePolicy(max_epsilon=3.0, delta=1e-5)
    verdict = decide(policy, {POISSON: 3}, POISSON)
    assert verdict.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(4) / 2.0, 1e-5))
    assert not verdict.allowed
    assert "max_epsilon" in verdict.reason
    assert verdict.label == "if the server adds its noise"
    assert decide(policy, [POISSON], POISSON).allowed == (gaussian_epsilon(math.sqrt(2) / 2.0, 1e-5) <= 3.0)
    assert decide(policy, [], POISSON, NoiseAt.NODE).label == "noise added on the node"
    replace = NodePolicy(relation=Relation.REPLACE_ONE)
    assert decide(replace, [], POISSON).epsilon == pytest.approx(gaussian_epsilon(1.0, 1e-5))


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ({"max_participations": 2}, "max_participations"),
        ({"min_noise_multiplier": 2.5}, "min_noise_multiplier"),
        ({"max_clipping_norm": 0.4}, "max_clipping_norm"),
        ({"max_epsilon": 0.5}, "max_epsilon"),
    ],
)
def test_each_limit_of_a_policy(limit: dict[str, float], name: str) -> None:
    verdict = decide(NodePolicy(**limit), {POISSON: 2}, POISSON)
    assert not verdict.allowed
    assert name in verdict.reason
    assert verdict.reason.endswith(".")
    generous = {key: (0.1 if key.startswith("min") else 1000) for key in limit}
    assert decide(NodePolicy(**generous), {POISSON: 2}, POISSON).allowed
    assert decide(NodePolicy(max_participations=3), {POISSON: 2}, POISSON).allowed
    no_noise = Release(noise_multiplier=0.0, sampling_name="full", rate=1.0, clipping_norm=0.1)
    assert not decide(NodePolicy(max_epsilon=1e300), [], no_noise).allowed
    for wrong in ({"max_participations": -1}, {"delta": 1.0}, {"max_epsilon": 0}, {"max_epsilom": 1}):
        with pytest.raises(InputError):
            NodePolicy(**wrong)


def test_importing_is_light() -> None:
    heavy = "torch flwr ray dp_accounting opacus scipy cryptography"
    code = f"import fedpriv.privacy, sys; print([m for m in {heavy.split()!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_all_is_sorted_and_complete() -> None:
    names = fedpriv.privacy.__all__
    assert len(set(names)) == len(names)
    assert all(hasattr(fedpriv.privacy, name) for name in names)
    public = {
        name
        for name, value in vars(fedpriv.privacy).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("fedpriv.privacy.")
    }
    assert public <= set(names)


@pytest.mark.parametrize("release", [FULL, FULL.model_copy(update={"noise_multiplier": 3.0})], ids=["20", "3"])
@pytest.mark.parametrize(("relation", "moves"), [(Relation.ADD_REMOVE, 1.0), (Relation.REPLACE_ONE, 2.0)])
def test_the_headline_epsilon_is_that_of_the_stated_relation(
    release: Release, relation: Relation, moves: float
) -> None:
    """Replacing moves a sum by two clipping norms. The curve of Gaussian noise is written out here once more."""
    found = guarantee_for({release: 9}, delta=1e-6, num_tasks=1000, relation=relation)

    def delta(epsilon: float, moves: float) -> float:
        mu = moves * math.sqrt(9) / release.noise_multiplier
        upper = stats.norm.cdf(mu / 2 - epsilon / mu)
        return float(upper - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu))

    assert found.relation is relation
    assert delta(found.epsilon, moves) == pytest.approx(1e-6, rel=1e-3)
    assert delta(found.epsilon_replace_one, 2.0) == pytest.approx(1e-6, rel=1e-3)
    assert f"relation {relation.value}, epsilon = {found.epsilon:.4g}" in str(found)


def test_the_headline_epsilon_of_coins_is_that_of_the_stated_relation() -> None:
    """One release by coins: the largest difference of the two mixtures, by quadrature."""
    rate, z, width = 0.3, 1.2, 40.0
    grid = np.linspace(-width, width, 400_001)

    def mixture(centre: float) -> NDArray[np.float64]:
        return np.asarray((1 - rate) * stats.norm.pdf(grid, 0, z) + rate * stats.norm.pdf(grid, centre, z))

    release = Release(noise_multiplier=z, sampling_name="poisson", rate=rate, clipping_norm=1.0)
    alone = stats.norm.pdf(grid, 0, z)
    pairs = {
        Relation.ADD_REMOVE: [(mixture(1.0), alone), (alone, mixture(1.0))],
        Relation.REPLACE_ONE: [(mixture(1.0), mixture(-1.0))],
    }
    for relation, curves in pairs.items():
        found = guarantee_for({release: 1}, delta=1e-4, num_tasks=100, relation=relation)
        reached = max(
            float(np.maximum(one - math.exp(found.epsilon) * two, 0.0).sum() * (grid[1] - grid[0]))
            for one, two in curves
        )
        assert reached == pytest.approx(1e-4, rel=2e-2)
        assert found.relation is relation
    assert found.epsilon == found.epsilon_replace_one


@pytest.mark.parametrize("relation", list(Relation))
def test_a_run_prints_the_epsilon_of_the_relation_of_its_target(relation: Relation) -> None:
    """The noise was made for it, so it comes out again; under the other relation it would be half or twice as large."""
    strategy = noisy(noise_multiplier=None, rounds=3, sampling_rate=1.0, target=Target(epsilon=2.0, relation=relation))
    found = experiment(toy_tasks(6), strategy=strategy).run().guarantee
    assert found.relation is relation
    assert found.epsilon == pytest.approx(2.0, rel=1e-2)
    assert (found.epsilon_replace_one == found.epsilon) is (relation is Relation.REPLACE_ONE)
