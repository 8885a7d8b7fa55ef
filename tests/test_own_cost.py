"""A mechanism with noise of another kind: the example of CONTRIBUTING.md, against derivations that share no code."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import mpmath as mp
import numpy as np
import pytest
from helpers import experiment, noisy, toy_problem, toy_tasks

from fedpriv import InputError, NoGuarantee, Target, strategies
from fedpriv.cli import main
from fedpriv.clients import GlobalModel
from fedpriv.privacy import (
    Entropy,
    GdpFilter,
    Ledger,
    Relation,
    Release,
    RenyiFilter,
    ReproducibleEntropy,
    SystemEntropy,
    claims,
    epsilon,
    guarantee_for,
    renyi,
)
from fedpriv.privacy.accounting import deltas_for, shared_relations
from fedpriv.privacy.bounds import WHOLE, Bounds
from fedpriv.privacy.distribution import Distribution, Piece
from fedpriv.privacy.gaussian_cost import GaussianCost
from fedpriv.privacy.individual import Participants, individual_spending
from fedpriv.privacy.journal import Journal
from fedpriv.privacy.own_cost import _KNOWN, OwnCost, mechanism
from fedpriv.privacy.participation import Participation
from fedpriv.privacy.person import person_epsilon
from fedpriv.privacy.poisson import bounded_losses
from fedpriv.privacy.sampling import OLD_NAMES, FullParticipation
from fedpriv.privacy.terms import Output
from fedpriv.protocol import ALL, record_from_billboards
from fedpriv.runtime.grid import InProcessGrid
from fedpriv.runtime.node import NodeSpec

ADD, REPLACE, ZERO = Relation.ADD_REMOVE, Relation.REPLACE_ONE, Relation.ZERO_OUT
GAUSS = Release(noise_multiplier=4.0, sampling_name="full", rate=1.0, clipping_norm=1.0)


def written(start: str, name: str) -> ModuleType:
    """Return the module that CONTRIBUTING.md tells the reader to write."""
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    code = next(block for block in page.split("```python\n")[1:] if block.startswith(start)).split("```")[0]
    module = ModuleType(name)
    sys.modules[name] = module
    exec(code, module.__dict__)
    return module


VOTES = written('"""How many tasks vote', "votes")


def laplace(scale: float = 2.0, rate: float = 1.0) -> Release:
    return Release.own(VOTES.LaplaceCost(scale=scale, rate=rate))


def curve(e: Any, tau: Any) -> Any:
    """The hockey-stick divergence of Lap(e) from Lap(0) at exp(tau), in closed form."""
    return mp.mpf(max(0, 1 - mp.exp(min(tau, (tau - e) / 2))))


def over_losses(e: Any, function: Any) -> Any:
    """Return the mean of a function of the loss of one release."""
    middle = mp.quad(lambda u: mp.exp(-u) / 2 * function(e - 2 * u), mp.linspace(0, e, 9))
    return function(e) / 2 + mp.exp(-e) / 2 * function(-e) + middle


def normal_curve(mu: Any, tau: Any) -> Any:
    return mp.ncdf(mu / 2 - tau / mu) - mp.exp(tau) * mp.ncdf(-mu / 2 - tau / mu)


def just_above(found: list[float], exact: list[Any], loose: float = 1e-3) -> None:
    """Nothing is on the optimistic side, and hardly anything is lost."""
    for one, true in zip(found, exact, strict=True):
        assert float(true) * (1 - 1e-12) <= one <= float(true) * (1 + loose) + 1e-15


@pytest.mark.parametrize(("scale", "relation"), [(0.5, REPLACE), (1.0, ADD), (2.0, ZERO), (20.0, ADD), (20.0, REPLACE)])
def test_one_release_has_the_exact_curve(scale: float, relation: Relation) -> None:
    e = relation.sensitivity / scale
    at = [share * e for share in (0.0, 0.5, 0.97, 0.999)]
    just_above(deltas_for([laplace(scale)], at, relation), [curve(e, tau) for tau in at])
    assert deltas_for([laplace(scale)], [e * 1.001, 2 * e], relation) == pytest.approx([0.0, 0.0], abs=1e-25)
    for delta in (1e-2, 1e-6):
        exact = max(0.0, e + 2 * math.log1p(-delta))
        found = epsilon([laplace(scale)], delta, relation)
        assert exact <= found.value <= exact * (1 + 1e-6) + 1e-6
        assert found.accountant == "pld"


def test_releases_compose_with_each_other_and_with_gaussian_noise() -> None:
    e, f, mu = 0.5, 1.25, 0.25
    at = [0.0, 0.3, 0.9, 1.6]
    exact = [over_losses(e, lambda loss, tau=tau: curve(f, tau - loss)) for tau in at]
    just_above(deltas_for({laplace(1 / e): 1, laplace(1 / f): 1}, at), exact)
    exact = [over_losses(e, lambda loss, tau=tau: normal_curve(mu, tau - loss)) for tau in at]
    just_above(deltas_for({laplace(1 / e): 1, GAUSS: 1}, at), exact)
    both = epsilon({laplace(1 / e): 3, GAUSS: 9}, 1e-5, ADD, "rdp").value
    assert both >= epsilon({laplace(1 / e): 3, GAUSS: 9}, 1e-5).value > epsilon({GAUSS: 9}, 1e-5).value


@pytest.mark.parametrize("rate", [0.01, 0.4, 0.9])
def test_a_poisson_sample_is_amplified_both_ways(rate: float) -> None:
    e = 2.0
    density = [lambda x, c=centre: mp.exp(-abs(x - c)) / 2 for centre in (0, e)]
    mixed = lambda x: (1 - rate) * density[0](x) + rate * density[1](x)  # noqa: E731

    def stick(one: Any, two: Any, tau: float) -> Any:
        ends = [-40, -10, -3, *mp.linspace(-1, e + 1, 25), e + 3, e + 10, e + 40]
        return mp.quad(lambda x: max(mp.mpf(0), one(x) - mp.exp(tau) * two(x)), ends)

    at = [0.0, 0.7 * math.log1p(rate * math.expm1(e))]
    exact = [max(stick(mixed, density[0], tau), stick(density[0], mixed, tau)) for tau in at]
    found = deltas_for([laplace(1 / e, rate)], at)
    just_above([one * (1 + 1e-4) for one in found], exact)  # the kinks limit the quadrature, not the answer
    # Replacing one is not amplified, but a task that never takes part is not seen: an upper bound.
    whole = deltas_for([laplace(1 / e)], at, REPLACE)
    assert deltas_for([laplace(1 / e, rate)], at, REPLACE) == pytest.approx([min(rate, one) for one in whole])


@pytest.mark.parametrize(("scale", "rate", "count"), [(20.0, 1.0, 1000), (1.0, 0.01, 500), (0.5, 0.2, 20)])
def test_long_histories_agree_with_dp_accounting(scale: float, rate: float, count: int) -> None:
    """Beside 20 Poisson samples with Gaussian noise; that library rounds losses to a grid, up or down."""
    from dp_accounting.pld import privacy_loss_distribution as library

    sampled = Release(noise_multiplier=1.5, sampling_name="poisson", rate=0.1, clipping_norm=1.0)
    found = epsilon({laplace(scale, rate): count, sampled: 20}, 1e-6).value
    ends = []
    for up in (False, True):
        how = {"value_discretization_interval": 1e-4, "pessimistic_estimate": up, "use_connect_dots": up}
        one = library.from_laplace_mechanism(scale, sampling_prob=rate, **how).self_compose(count)
        other = library.from_gaussian_mechanism(1.5, sampling_prob=0.1, **how).self_compose(20)
        ends.append(one.compose(other).get_epsilon_for_delta(1e-6))
    assert ends[0] <= found <= ends[1] * (1 + 2e-4)


@pytest.mark.parametrize("order", [1.5, 2.0, 8.0, 64.0])
def test_renyi_divergences_are_those_of_the_paper(order: float) -> None:
    """Mironov, 2017, Table II; for a Poisson sample at order 2 in closed form."""
    for relation in (ADD, ZERO, REPLACE):
        for scale in (0.3, 2.0, 40.0):
            e = mp.mpf(relation.sensitivity) / scale
            first = order / (2 * order - 1) * mp.exp((order - 1) * e)
            second = (order - 1) / (2 * order - 1) * mp.exp(-order * e)
            exact = float(mp.log(first + second) / (order - 1))
            assert exact * (1 - 1e-14) <= renyi(laplace(scale), order, relation) <= exact * (1 + 1e-9) + 1e-12
    rate, e = 0.1, 0.5
    square = over_losses(e, mp.exp)  # E_Q (P/Q)^2 = E_P P/Q
    assert renyi(laplace(1 / e, rate), 2.0) >= float(mp.log(1 + rate**2 * (square - 1))) * (1 - 1e-12)


def test_a_vector_is_dominated_by_one_dimension() -> None:
    """However a task spreads its l1 norm over entries, the pair of one dimension is the worse one."""
    for first, second in ((0.3, 0.7), (0.5, 0.5), (0.01, 0.99), (1.5, 1.0)):
        for tau in (0.0, 0.1, 0.4, 0.9, -0.5):
            product = over_losses(mp.mpf(first), lambda loss, tau=tau, other=second: curve(other, tau - loss))
            assert product <= curve(first + second, tau) + mp.mpf(10) ** -10


@mechanism
class Coin(OwnCost):
    """Randomised response: a bit that is 1 with probability ``one`` for the task's 1, and ``zero`` without it."""

    mechanism: ClassVar[str] = "coin"
    samplings: ClassVar[tuple[str, ...]] = ("full", "poisson")

    one: float
    zero: float

    def losses(self, relation: Relation, cut: float) -> list[Distribution]:
        rows = [(self.one, self.zero), (1 - self.one, 1 - self.zero)]
        pair = [
            Piece(0.0, 1.0, lambda x, p=p: math.log(p) + 0 * x, lambda x, p=p, q=q: math.log(p / q) + 0 * x)
            for p, q in rows
        ]
        return bounded_losses(pair, self.rate, relation)


def divergences(one: float, zero: float, rate: float, count: int) -> list[list[tuple[Any, Any]]]:
    """Return for removing and adding the probabilities (P, Q) of all outputs of several releases, exactly."""
    p, q, r = mp.mpf(one), mp.mpf(zero), mp.mpf(rate)
    mixed = r * p + (1 - r) * q
    pairs = [
        (
            mp.binomial(count, k) * mixed**k * (1 - mixed) ** (count - k),
            mp.binomial(count, k) * q**k * (1 - q) ** (count - k),
        )
        for k in range(count + 1)
    ]
    return [pairs, [(b, a) for a, b in pairs]]


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize(("one", "zero"), [(0.5, 0.05), (0.05, 0.5), (0.9, 0.8)])
@pytest.mark.parametrize("count", [1, 4])
def test_a_pair_that_is_not_symmetric_counts_in_both_directions(
    one: float, zero: float, rate: float, count: int
) -> None:
    """Exchanged, it would hide that an answer is rare without the task, or with it."""
    release, ways = Release.own(Coin(one=one, zero=zero, rate=rate)), divergences(one, zero, rate, count)
    at = [0.0, 0.2, 0.6, 1.5]
    exact = [max(sum(max(mp.mpf(0), p - mp.exp(tau) * q) for p, q in way) for way in ways) for tau in at]
    for relation in (ADD, ZERO):
        just_above(deltas_for({release: count}, at, relation), exact)
    for order in (1.5, 2.0, 8.0):
        sums = [mp.log(sum(p**order * q ** (1 - order) for p, q in way)) / (order - 1) for way in ways]
        assert count * renyi(release, order) == pytest.approx(float(max(sums)), rel=1e-9)
    # Replacing may go either way, in each release anew; one is charged as everybody's, at the largest loss.
    whole, largest = (
        divergences(one, zero, 1.0, 1),
        max(abs(math.log(one / zero)), abs(math.log((1 - one) / (1 - zero)))),
    )
    for tau, found in zip(at, deltas_for([release], at, REPLACE), strict=True):
        exact = max(sum(max(mp.mpf(0), p - mp.exp(tau) * q) for p, q in way) for way in whole)
        assert float(exact) * min(1.0, rate) * (1 - 1e-12) <= found <= math.tanh(largest / 2) * (1 + 1e-3)
    there_and_back = [(p * q2, q * p2) for p, q in whole[0] for p2, q2 in whole[0]]
    for tau, found in zip(at, deltas_for({Release.own(Coin(one=one, zero=zero)): 2}, at, REPLACE), strict=True):
        exact = sum(max(mp.mpf(0), p - mp.exp(tau) * q) for p, q in there_and_back)
        assert float(exact) * (1 - 1e-12) <= found
    assert epsilon([Release.own(Coin(one=one, zero=zero))], 1e-9, REPLACE).value == pytest.approx(largest, rel=1e-3)
    assert renyi(release, 64.0, REPLACE) <= largest


def test_randomised_response_is_refused_by_a_budget_that_cannot_pay() -> None:
    for one, zero in ((0.5, 0.05), (0.05, 0.5)):
        release = Release.own(Coin(one=one, zero=zero))
        for relation in (ADD, REPLACE):
            assert epsilon([release], 1e-6, relation).value == pytest.approx(math.log(10), rel=1e-3)
            limit = RenyiFilter.for_budget(1.5, 1e-6, relation)
            assert not limit.admits(limit.cost({release: 1}))


@mechanism
class OneWay(Coin):
    """Believes one direction, by formulas of its own."""

    mechanism: ClassVar[str] = "one-way"
    both: bool = False

    def losses(self, relation: Relation, cut: float) -> list[Distribution]:
        found = list(super().losses(ADD, cut))
        return found if self.both else found[:1]


def test_losses_of_one_direction_are_refused_where_both_differ() -> None:
    values = {"one": 0.5, "zero": 0.05}
    alone, both = Release.own(OneWay(**values)), Release.own(OneWay(**values, both=True))
    for release, relation in ((alone, ADD), (alone, REPLACE), (both, REPLACE)):
        for ask in (lambda: epsilon([release], 1e-6, relation), lambda: renyi(release, 2.0, relation)):  # noqa: B023
            with pytest.raises(NoGuarantee, match="'one-way' has no losses that hold in both directions of"):
                ask()
    assert epsilon([both], 1e-6, ADD) == epsilon([Release.own(Coin(**values))], 1e-6, ADD)


def test_pieces_that_are_no_pair_are_refused() -> None:
    half = Piece(0.0, 1.0, lambda x: 0.0 * x - math.log(2.0), lambda x: 0.0 * x + 1.0)
    other = Piece(0.0, 1.0, half.density, lambda x: 0.0 * x - 1.0)
    hill = Piece(0.0, 1.0, lambda x: 0.0 * x, lambda x: 0.01 * np.sin(2 * np.pi * x))
    for pieces in ([half], [half, other], [hill]):
        with pytest.raises(InputError, match=r"must have the probability 1 under P and Q, .* rise or fall on each"):
            bounded_losses(pieces, 1.0, ADD)


# --- what is not given is refused by name --------------------------------------------------------------------------


@mechanism
class NoRenyi(OwnCost):
    """Losses with a cut: composition only."""

    mechanism: ClassVar[str] = "no-renyi"

    def losses(self, relation: Relation, cut: float) -> list[Distribution]:
        pair = VOTES.LaplaceCost(scale=2.0).losses(relation, cut)
        pair[0].cut = 2.0**-500
        return list(pair)


@mechanism
class NoLosses(OwnCost):
    """A Renyi bound only."""

    mechanism: ClassVar[str] = "no-losses"

    def renyi(self, orders: tuple[float, ...], relation: Relation) -> tuple[float, ...]:
        return tuple(0.01 * order * relation.sensitivity**2 for order in orders)


@mechanism
class Nothing(OwnCost):
    """No formula at all."""

    mechanism: ClassVar[str] = "nothing"


@mechanism
class Added(VOTES.LaplaceCost):  # type: ignore[misc, name-defined]
    """Add/remove only."""

    mechanism: ClassVar[str] = "added"
    relations: ClassVar[tuple[Relation, ...]] = (ADD,)


def test_what_a_mechanism_cannot_give_is_refused_by_its_name() -> None:
    alone, bound, none = (Release.own(kind()) for kind in (NoRenyi, NoLosses, Nothing))
    assert epsilon([alone], 1e-5).accountant == "pld"
    with pytest.raises(NoGuarantee, match="'no-renyi' has no bound of its Renyi divergence; no Renyi filter"):
        RenyiFilter.for_budget(1.0, 1e-5).cost({alone: 1})
    assert epsilon({bound: 2, GAUSS: 1}, 1e-5).accountant == "rdp"
    assert RenyiFilter.for_budget(1.0, 1e-5).cost({bound: 2}) > 0
    with pytest.raises(NoGuarantee, match=r"'no-losses' has no distribution of its privacy loss; use .* 'rdp'"):
        epsilon([bound], 1e-5, ADD, "pld")
    with pytest.raises(NoGuarantee, match="'nothing' has no"):
        epsilon([none, GAUSS], 1e-5)
    with pytest.raises(NoGuarantee, match="'nothing' has no"):
        deltas_for([none], [1.0])
    for accountant in ("gaussian", "opacus-rdp"):
        with pytest.raises(NoGuarantee, match=r"'laplace' has no formula of the accountant .* use 'auto'"):
            epsilon([GAUSS, laplace()], 1e-5, ADD, accountant)  # type: ignore[arg-type]
    with pytest.raises(NoGuarantee, match=r"'laplace' has no mu, .* register the population with the filter 'renyi'"):
        GdpFilter.for_budget(1.0, 1e-5).cost({laplace(): 1})
    with pytest.raises(NoGuarantee, match="'laplace' has no exact Gaussian curve"):
        individual_spending([({1: {"": laplace()}}, Participants())], 5)


@mechanism
class Answers(OwnCost):
    """Gaussian noise on the answers to several questions, all of which move with a task."""

    mechanism: ClassVar[str] = "answers"
    samplings: ClassVar[tuple[str, ...]] = ("full", "poisson")

    noise: float
    questions: int

    def gaussian_noise(self, relation: Relation) -> float:
        return self.noise / (relation.sensitivity * math.sqrt(self.questions))


@pytest.mark.parametrize("relation", [ADD, ZERO, REPLACE])
def test_gaussian_noise_of_another_mechanism_composes_in_closed_form(relation: Relation) -> None:
    history, plain = {Release.own(Answers(noise=4.0, questions=9)): 2, GAUSS: 1}, {GAUSS: 19}
    found = epsilon(history, 1e-5, relation)
    assert found.accountant == "gaussian"
    assert found.value == pytest.approx(epsilon(plain, 1e-5, relation).value, rel=1e-9)
    for kind in (RenyiFilter, GdpFilter):
        limit = kind.for_budget(1.0, 1e-5, relation)  # type: ignore[attr-defined]
        assert limit.cost(history) == pytest.approx(limit.cost(plain), rel=1e-9)
    # A sample has no losses here: the divergence without amplification stands in.
    sampled = Release.own(Answers(noise=4.0, questions=9, rate=0.5))
    assert epsilon([sampled], 1e-5, relation).accountant == "rdp"
    silent = Release.own(Answers(noise=0.0, questions=1))
    assert math.isinf(epsilon([silent], 1e-5, relation).value)
    assert math.isinf(renyi(silent, 2.0, relation))


def test_relations_are_those_that_all_releases_have() -> None:
    added = Release.own(Added(scale=2.0))
    counted = GAUSS.model_copy(update={"sampling_name": "fixed-size-unamplified", "rate": 0.5})
    assert shared_relations([[added, GAUSS]]) == [ADD]
    assert epsilon([added], 1e-5, ZERO) == epsilon([laplace()], 1e-5, ADD)
    with pytest.raises(NoGuarantee, match=r"'added' has no formula under the relation replace-one; use .* add/remove"):
        epsilon([added], 1e-5, REPLACE)
    with pytest.raises(NoGuarantee, match="'added' and 'gaussian' have no relation in common"):
        shared_relations([[added, counted]])


def test_a_person_with_several_tasks_pays_task_by_task() -> None:
    """Three tasks move a vote by three norms: the exact curve of that bounds from below what is stated."""
    found = person_epsilon([laplace(20.0)], 1e-6, ADD, 3).value
    exact = 3 / 20 + 2 * math.log1p(-1e-6)
    assert exact <= found <= 1.01 * exact
    assert person_epsilon({laplace(20.0): 2, GAUSS: 1}, 1e-6, ADD, 3).value > found


def test_the_table_of_claims_refuses_a_mechanism_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    history = {GAUSS: 3, laplace(): 1}
    with pytest.raises(NoGuarantee, match="with noise of the mechanism 'laplace': the table of claims does not know"):
        guarantee_for(history, delta=1e-5, num_tasks=100)
    # What the message advises: the name in a row, by whoever proved that the row holds.
    rows = tuple(replace(row, mechanisms=(*row.mechanisms, "laplace")) for row in claims.CLAIMS)
    monkeypatch.setattr(claims, "CLAIMS", rows)
    stated = guarantee_for(history, delta=1e-5, num_tasks=100)
    assert (stated.epsilon, stated.accountant) == (epsilon(history, 1e-5).value, "pld")
    assert stated.epsilon_replace_one == epsilon(history, 1e-5, REPLACE).value > stated.epsilon


def test_a_release_says_its_noise_once() -> None:
    cost = VOTES.LaplaceCost(scale=2.0, rate=0.5)
    values = {"mechanism": "laplace", "parameters": cost, "sampling_name": "poisson", "rate": 0.5}
    for wrong in (
        {"mechanism": "gaussian"},
        {"rate": 0.4},
        {"noise_multiplier": 1.0},
        {"clipping_norm": 1.0},
        {"measures": "metrics"},
        {"noise_at": "node"},
        {"sampling_name": "fixed-size"},
        {"sampling_name": "full", "rate": 1.0},
    ):
        with pytest.raises(InputError, match="release"):
            Release(**{**values, **wrong})
    with pytest.raises(InputError, match="no formula for the mechanism 'no-losses' with 'poisson' sampling; use one"):
        Release.own(NoLosses(rate=0.5))
    assert Release.own(NoLosses()).sampling_name == "full"
    assert Release.own(cost) == Release(**values)
    with pytest.raises(InputError, match="Gaussian noise needs 'noise_multiplier'"):
        Release(sampling_name="full", rate=1.0, clipping_norm=1.0)
    with pytest.raises(InputError, match="the mechanism 'shout' is not known here"):
        Release(mechanism="shout", noise_multiplier=1.0, sampling_name="full", rate=1.0, clipping_norm=1.0)


def test_a_name_belongs_to_one_mechanism() -> None:
    for name in ("gaussian", "banded", "laplace", ""):
        with pytest.raises(InputError, match="is taken; give Other another one"):
            mechanism(type("Other", (OwnCost,), {"__module__": "elsewhere", "mechanism": name}))
    with pytest.raises(InputError, match="'samplings' may be 'full' and 'poisson'"):
        mechanism(type("Drawn", (OwnCost,), {"__module__": "a", "mechanism": "drawn", "samplings": ("fixed-size",)}))
    assert mechanism(NoLosses) is NoLosses


# --- in a ledger ---------------------------------------------------------------------------------------------------


def journal(path: Path, declared: str = "protected", **more: Any) -> Journal:
    ledger = Ledger(path / "ledger.sqlite")
    budget = Target(epsilon=1.0) if declared == "protected" else None
    ledger.register("people", fingerprint="f", num_tasks=10, declared=declared, budget=budget, **more)
    return Journal(ledger, "people", "run")


def votes(to: Journal, scale: float, number: int, entropy: Entropy | None = None) -> Any:
    return VOTES.noisy_votes(np.eye(10, 3), scale, entropy or SystemEntropy(), to, number)


def test_another_draw_of_the_same_release_is_called_that(tmp_path: Path) -> None:
    to = journal(tmp_path)
    votes(to, 5.0, 1)
    with pytest.raises(InputError, match="was charged for another draw of this release; a release is drawn once"):
        votes(to, 5.0, 1)
    with pytest.raises(InputError, match="was charged for another release; a release is drawn once"):
        votes(to, 6.0, 1)
    assert len(to.ledger.entries("people")) == 1


def test_protected_data_are_not_charged_for_noise_from_a_seed(tmp_path: Path) -> None:
    to, tasks = journal(tmp_path), toy_tasks(10)
    grid = InProcessGrid([NodeSpec(tasks, GlobalModel(), toy_problem(tasks))])
    initial = record_from_billboards({ALL: {name: one.numpy() for name, one in toy_problem(tasks).initial().items()}})
    for seeded in (
        lambda: votes(to, 5.0, 1, ReproducibleEntropy(1)),
        lambda: noisy(rounds=2).bind(grid, initial, journal=to, entropy=ReproducibleEntropy(1)),
    ):
        with pytest.raises(InputError, match="from a seed protects nobody, and population 'people' is declared prot"):
            seeded()
    assert to.ledger.entries("people") == []
    votes(to, 5.0, 1, SystemEntropy())
    votes(journal(tmp_path / "public", "benchmark"), 5.0, 1, ReproducibleEntropy(1))


def test_the_mechanism_of_the_contributing_page_runs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.register("people", fingerprint="f", num_tasks=10, declared="benchmark", budget=None)
    journal = Journal(ledger, "people", "run")
    noisy_votes = VOTES.noisy_votes(np.eye(10, 3), 2.0, ReproducibleEntropy(1), journal, 1)
    assert noisy_votes.shape == (3,)
    assert len(ledger.entries("people")) == 1


def test_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    tried = page.split("### A mechanism with a cost of its own\n")[1].split("```python\n")[2].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(tried, dict(VOTES.__dict__))
    _, spent, refused = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Epsilon\(value=0\.49799\d*, accountant='pld'\)", spent)
    assert "may spend epsilon 1 " in refused
    assert "this would take 4.045" in refused
    ledger = Ledger(tmp_path / "votes.sqlite")
    assert len(ledger.entries("people")) == 1
    described = ledger.describe("people", 1e-3)
    assert described["spent"]["add/remove"] == epsilon([laplace(2.0)], 1e-3).value
    assert described["left"]["within"]


def test_noise_is_laplace_and_depends_on_no_vote(tmp_path: Path) -> None:
    to = journal(tmp_path, "benchmark")
    strange = np.full((10, 20_000), np.nan)
    strange[:5] = 1e300
    for rows, total in ((strange, 5.0), (np.zeros((10, 20_000)), 0.0)):
        to = Journal(to.ledger, "people", f"run-{total}")
        noise = VOTES.noisy_votes(rows, 3.0, ReproducibleEntropy(1), to, 1) - total / 20_000
        assert np.abs(noise).mean() == pytest.approx(3.0, rel=0.03)  # of Laplace noise it is the scale
        assert np.mean(noise**2) == pytest.approx(18.0, rel=0.06)
        assert np.mean(np.abs(noise) > 3.0 * math.log(100)) == pytest.approx(0.01, rel=0.3)


def test_texts_of_ledgers_are_read_back_and_old_ones_stay() -> None:
    old = (
        '{"clipping_norm": 1.0, "mechanism": "gaussian", "noise_multiplier": 4.0, "rate": 1.0, '
        '"sampling_name": "full", "version": 1}'
    )
    assert GAUSS.to_json() == old
    assert Release.from_json(old) == GAUSS
    text = laplace(2.0, 0.5).to_json()
    assert Release.from_json(text) == laplace(2.0, 0.5) != laplace(2.0, 0.25)
    assert hash(Release.from_json(text)) == hash(laplace(2.0, 0.5))
    assert json.loads(text)["parameters"] == {"rate": 0.5, "scale": 2.0}
    assert laplace(2.0).record()["parameters"] == {"rate": 1.0, "scale": 2.0}
    assert "parameters" not in GAUSS.record()
    for wrong in (text.replace("2.0", "-2.0"), text.replace("laplace", "gaussian"), text.replace("scale", "size")):
        with pytest.raises(InputError):
            Release.from_json(wrong)


def test_a_mechanism_that_is_not_known_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = journal(tmp_path)
    votes(to, 5.0, 1)
    monkeypatch.delitem(_KNOWN, "laplace")
    fresh = Ledger(to.ledger.path)
    from fedpriv.privacy.population import _priced_alike, release_from

    for cache in (release_from, _priced_alike):  # another process has read nothing yet
        cache.cache_clear()
    for ask in (
        lambda: fresh.counts("people"),
        lambda: fresh.describe("people"),
        lambda: fresh.check("people", "next", {GAUSS: 1}),
        lambda: fresh.charge("people", "next", 1, "", GAUSS),
    ):
        with pytest.raises(
            NoGuarantee, match=r"the mechanism 'laplace' is not known here.*import the module"
        ) as caught:
            ask()
        assert "restore" not in str(caught.value)
    monkeypatch.setitem(_KNOWN, "laplace", VOTES.LaplaceCost)
    assert [one.run for one in fresh.entries("people")] == ["run"], "nothing was charged"


def test_nothing_is_asked_or_charged_without_formulas(tmp_path: Path) -> None:
    to = journal(tmp_path)
    with pytest.raises(NoGuarantee, match="'no-renyi' has no bound"):
        to.check({Release.own(NoRenyi()): 1})
    with pytest.raises(NoGuarantee, match="'no-renyi' has no bound"):
        to.ledger.charge("people", "run", 1, "", Release.own(NoRenyi()))
    with pytest.raises(NoGuarantee, match="'laplace' has no mu"):
        journal(tmp_path / "other", budget_filter="gdp", planned={laplace(): 1})
    assert to.ledger.entries("people") == []


def test_a_run_refuses_a_release_that_is_not_in_its_plan() -> None:
    from fedpriv.privacy.ledger import Entry

    resolved = experiment(toy_tasks(5)).strategy.resolve(5)
    entry = Entry("people", "run", 1, "", laplace(), digest="", charged_at="")
    with pytest.raises(InputError, match=r"holds a release of round 1 that this run does not plan.*laplace"):
        resolved.refuse_others([entry])
    assert resolved.as_begun([entry]) == resolved


# --- a participation scheme without a row --------------------------------------------------------------------------


def test_a_scheme_that_the_table_does_not_know_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's file, its command, and the sentence that it shows."""
    wards = written('"""A billboard whose participants come by wards', "fedpriv.strategies.wards")
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    strategy = wards.Wards(clipping_norm=1.0, noise_multiplier=2.0, rounds=2, sampling_rate=0.5)
    with pytest.raises(NoGuarantee, match="with 'by-ward' sampling: accounted are poisson") as caught:
        experiment(toy_tasks(5), strategy=strategy).run(tmp_path / "run")
    assert f"\n{caught.value}\n" in page
    monkeypatch.setattr(strategies, "Wards", wards.Wards, raising=False)
    monkeypatch.setattr(strategies, "__all__", [*strategies.__all__, "Wards"])
    command = "fedpriv run pmtl --set strategy.name=wards"
    assert f"`{command}` stops" in page
    monkeypatch.setattr(sys, "argv", [*command.split(), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert str(caught.value) in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_a_scheme_in_the_table_is_not_charged_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    wards = written('"""A billboard whose participants come by wards', "fedpriv.strategies.wards")
    rows = tuple(replace(row, samplings=(*row.samplings, "by-ward")) for row in claims.CLAIMS)
    monkeypatch.setattr(claims, "CLAIMS", rows)
    common = {"clipping_norm": 1.0, "noise_multiplier": 2.0, "rounds": 2, "sampling_rate": 0.5}
    with pytest.raises(NoGuarantee, match="chosen by 'by-ward', and a round would be charged as 'poisson'"):
        wards.Wards(**common).resolve(20)

    class Turns(wards.ByWard):  # type: ignore[name-defined, misc]
        def sampling_of(self, num_tasks: int, *, counted: bool) -> Any:
            return Named()

    class Named(FullParticipation):
        name = "turns"

    plan = wards.Wards(**common).plan
    monkeypatch.setattr(claims, "CLAIMS", tuple(replace(row, samplings=(*row.samplings, "turns")) for row in rows))
    assert replace(plan, participation=Turns()).participation.scheme(20, counted=False) == "turns"
    with pytest.raises(InputError, match="'sampling_name' must be 'poisson'"):  # it has no formulas yet
        replace(plan, participation=Turns()).resolve({"all": 20})
    # Limits are kept whoever chooses.
    limited = replace(plan, participation=wards.ByWard(sampling_rate=0.5, min_separation=2))
    assert limited.resolve({"all": 20}).banded is not None


class Chosen(FullParticipation):
    """Whoever is chosen, every round is counted in full."""

    name = "chosen"


class Elders(Participation):
    """Those that were there first; one that is removed makes room for another."""

    relations = (REPLACE,)

    def sampling_of(self, num_tasks: int, *, counted: bool) -> Any:
        return Chosen()


class Newer(Release):
    """What a row's author does: the name in the type, and formulas."""

    sampling_name: Literal["chosen"]  # type: ignore[assignment]

    @property
    def cost(self) -> Any:
        return GaussianCost(self.noise_multiplier or 0.0, 1.0, fixed=True)


def test_a_scheme_with_a_row_can_be_spoken_of_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its rounds would be trained and charged, and the sentence about them would fail at the end."""
    from fedpriv.privacy import declaration

    plan = strategies.Billboard(clipping_norm=1.0, noise_multiplier=2.0, rounds=2).plan
    monkeypatch.setattr(declaration, "Release", Newer)
    declaration._release.cache_clear()
    new = [replace(row, samplings=("chosen",)) for row in claims.CLAIMS if "fixed-size-unamplified" in row.samplings]
    monkeypatch.setattr(claims, "CLAIMS", tuple(new))
    resolved = replace(plan, participation=Elders()).resolve({"all": 20})
    for said in resolved.guarantees:
        assert "relation replace-one" in str(said)
        assert "tasks, chosen, rate 1, noise" in str(said)
    assert resolved.plan.relation is REPLACE
    assert resolved.declaration(Bounds({WHOLE: 1.0})).fixed_size, "nodes are told that add/remove does not hold"
    monkeypatch.setattr(Elders, "relations", (ADD, REPLACE))
    with pytest.raises(
        NoGuarantee, match=r"under add/remove for tasks chosen by 'chosen', .* under replace-one; let the sch"
    ):
        replace(plan, participation=Elders()).resolve({"all": 20})
    monkeypatch.undo()
    declaration._release.cache_clear()
    # A row that says nothing of personal models is not enough.
    monkeypatch.setattr(declaration, "Release", Newer)
    monkeypatch.setattr(claims, "CLAIMS", tuple(row for row in new if row.output is Output.BILLBOARDS))
    with pytest.raises(NoGuarantee, match=r"no guarantee for personal models .*"):
        replace(plan, participation=Elders()).resolve({"all": 20})
    declaration._release.cache_clear()


def test_a_scheme_that_replaces_is_named_where_add_remove_is_asked_for() -> None:
    class Old(strategies.Billboard):
        @property
        def plan(self) -> Any:
            return replace(super().plan, participation=self._part(Elders, limits=False))

    values = {"clipping_norm": 1.0, "rounds": 2}
    with pytest.raises(InputError, match=r"'elders' has no guarantee under add/remove, .* target under 'replace-one'"):
        Old(**values, target=Target(epsilon=1.0, relation=ADD))
    strategy = Old(**values, target=Target(epsilon=1.0, relation=REPLACE))
    budget = {"ledger": "ledger.sqlite", "population": "people"}
    with pytest.raises(InputError, match=r"the scheme 'elders', whose 'relations' lack it; set run\.budget_relation"):
        experiment(toy_tasks(5), strategy=strategy, budget=Target(epsilon=1.0), **budget)
    experiment(toy_tasks(5), strategy=strategy, budget=Target(epsilon=1.0, relation=REPLACE), **budget)


@pytest.mark.parametrize("name", sorted({name for row in claims.CLAIMS for name in row.samplings} | set(OLD_NAMES)))
@pytest.mark.parametrize("changes", ["choose", "sampling_of"])
def test_no_scheme_takes_over_a_name_that_is_accounted_for(name: str, changes: str) -> None:
    """By its class's name it would be charged as coins, or as whatever bears the name."""
    wards = written('"""A billboard whose participants come by wards', "fedpriv.strategies.wards")
    called = "".join(map(str.capitalize, name.split("-")))
    if changes == "choose":
        mine: Any = type(called, (wards.ByWard,), {})
    else:
        drawn = type(called, (FullParticipation,), {})()
        mine = type("Mine", (Participation,), {"sampling_of": lambda self, size, counted: drawn})
    plan = wards.Wards(clipping_norm=1.0, noise_multiplier=2.0, rounds=2, sampling_rate=0.5).plan
    with pytest.raises(InputError, match=f"the name '{name}' is taken by a scheme .*give the class {called} another"):
        replace(plan, participation=mine(sampling_rate=0.5)).resolve({"all": 20})


def test_banded_noise_without_limits_is_refused() -> None:
    wards = written('"""A billboard whose participants come by wards', "fedpriv.strategies.wards")
    banded = {"clipping_norm": 1.0, "noise_multiplier": 2.0, "rounds": 4, "sampling_rate": 0.25, "noise": "banded"}
    with pytest.raises(InputError, match="banded noise is made for tasks whose participation is limited"):
        wards.Wards(**banded)

    class Kept(strategies.Billboard):
        """What the message advises."""

        @property
        def plan(self) -> Any:
            return replace(super().plan, participation=self._part(wards.ByWard, limits=True))

    found = Kept(**banded).resolve(20).banded
    assert found is not None
    assert found.bands == 4


def test_a_strategy_cannot_choose_beside_its_plan() -> None:
    from fedpriv.strategies import Billboard

    with pytest.raises(InputError, match=r"Chooser\.choose would never be asked: noise, cost and participants"):
        type("Chooser", (Billboard,), {"__module__": __name__, "choose": lambda self: None})
