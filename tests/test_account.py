"""``fedpriv account``: the published tables, solving forth and back, what an attacker gains, and refusals."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedpriv.cli.account_words import as_json, as_text
from fedpriv.errors import InputError
from fedpriv.privacy import (
    Epsilon,
    Observer,
    Relation,
    Release,
    Target,
    attacker_for,
    calibration,
    delta_for,
    epsilon,
    gaussian_delta,
)
from fedpriv.privacy.account import Account
from fedpriv.privacy.calibration import calibrate_noise_multiplier, needs_no_noise
from fedpriv.privacy.sampling import FixedSizeSampling, FullParticipation, PoissonSampling
from fedpriv.privacy.solve import Answer, solve

ADD, REPLACE = Relation.ADD_REMOVE, Relation.REPLACE_ONE
DELTA = 1e-5


def account(**values: Any) -> Answer:
    return solve(Account(**{"delta": DELTA, **values}))


# --- through the command line ----------------------------------------------------------------------------------------


def test_the_reference_numbers_through_the_command_line(fedpriv: Any) -> None:
    words = ["--noise-multiplier", "1", "--sampling-rate", "0.01", "--rounds", "1000", "--delta", "1e-5", "--json"]
    code, out, err = fedpriv("account", *words)
    assert code == 0, err
    found = json.loads(out)
    assert found["epsilon"] == pytest.approx(1.83, abs=0.01)
    assert found["epsilon_replace_one"] == pytest.approx(2.84, abs=0.01)
    assert found["epsilon_rdp"] == pytest.approx(2.1014, rel=1e-3)
    assert (found["relation"], found["observer"], found["unit"]) == ("add/remove", "public", "task")
    found = json.loads(fedpriv("account", *words, "--sampling", "fixed-size", "--population", "10000")[1])
    assert found["epsilon"] == pytest.approx(14.8, abs=0.03)
    assert found["epsilon_rdp"] == pytest.approx(20.99, abs=0.03)
    assert (found["relation"], found["cohort"], found["accountant"]) == ("replace-one", 100, "pld")
    assert list(found["relations"]) == ["replace-one"]
    assert "against a coalition of them epsilon is 2268.8" in found["warnings"][0]


def test_the_old_name_of_a_sampling_is_said_to_be_one(fedpriv: Any) -> None:
    words = ["account", *RUN, "--observer", "coalition", "--json", "--sampling"]
    new, old = fedpriv(*words, "fixed-size-unamplified"), fedpriv(*words, "fixed-size-counted")
    assert new[0] == old[0] == 0
    assert new[1] == old[1]
    said = "the sampling 'fixed-size-counted' is called 'fixed-size-unamplified' now; use that name"
    assert said in old[2]
    assert said not in new[2]


def test_the_words_and_the_figure(fedpriv: Any, tmp_path: Path) -> None:
    words = ["--epsilon", "2", "--rounds", "100", "--sampling", "full", "--population", "100"]
    code, out, err = fedpriv("account", *words, "--figure", "a.svg")
    assert code == 0, err
    assert out.startswith("noise multiplier = ")
    expected = ["add/remove: epsilon = ", "replace-one: epsilon = ", "by rdp", "against the public", "unit: one task"]
    expected += ["delta = 0.0001", "100 rounds, full participation", "at 1% false positives", "wrote a.svg"]
    assert [said for said in expected if said not in out] == []
    image = (tmp_path / "a.svg").read_text()
    assert image.startswith("<?xml")
    code, out, _ = fedpriv("account", *words, "--figure", "b.png", "--json")
    assert json.loads(out)["figure"] == "b.png"
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"
    for wrong, said in (("a.pdf", "must end in .svg or .png"), ("nowhere/a.svg", "there is no folder nowhere")):
        code, _, err = fedpriv("account", *words, "--figure", wrong)
        assert code == 2
        assert said in err


def test_figures_show_what_was_asked() -> None:
    from fedpriv.cli.account_figure import draw

    answer = account(noise_multiplier=5.0, rounds=30, sampling_rate=0.2, epsilon=None)
    (axes,) = draw(answer).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["pld, add/remove", "rdp, add/remove", "pld, replace-one", "rdp, replace-one"]
    for name, relation in (("pld, add/remove", ADD), ("pld, replace-one", REPLACE)):
        assert lines[name].get_xdata()[[0, -1]].tolist() == [1, 30]  # type: ignore[index, union-attr]
        assert lines[name].get_ydata()[-1] == answer.epsilon(relation).value  # type: ignore[index]
        assert (np.diff(lines[name].get_ydata()) > 0).all()
    assert "observer: public, unit: one task" in axes.get_title(loc="left")
    fixed = account(epsilon=3.0, rounds=20, sampling_rate=0.2, population=50, sampling="fixed-size")
    assert [line.get_label() for line in draw(fixed).axes[0].lines] == [
        "pld, replace-one",
        "rdp, replace-one",
        "target",
    ]


def test_help_stays_quick() -> None:
    """Nothing heavy is imported for it; the bound on time is loose, for machines at work."""
    heavy = "numpy scipy dp_accounting torch flwr ray matplotlib pydantic"
    code = f"import fedpriv.cli, sys; print([m for m in {heavy.split()!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    began = time.process_time()
    subprocess.run([sys.executable, "-m", "fedpriv", "account", "--help"], capture_output=True, check=True)
    assert time.process_time() - began < 5


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "rate", "rounds", "pld", "renyi", "replace"),
    [
        (1, 0.01, 1000, 1.8289, 2.1014, 2.8440),
        (1, 0.1, 100, 7.0466, 7.9039, 10.5164),
        (2, 0.1, 200, 3.3598, 3.6797, 6.5363),
        (3, 0.1, 200, 2.0038, 2.1929, 4.0746),
        (0.8, 0.02, 500, 4.6682, 5.3719, 6.2415),
        (5, 1.0, 100, 9.9973, 10.7255, 24.3816),
    ],
)
def test_poisson_table(z: float, rate: float, rounds: int, pld: float, renyi: float, replace: float) -> None:
    found = as_json(account(noise_multiplier=z, sampling_rate=rate, rounds=rounds))
    assert found["epsilon"] == pytest.approx(pld, rel=1e-3)
    assert found["epsilon_rdp"] == pytest.approx(renyi, rel=1e-3)
    assert found["epsilon_replace_one"] == pytest.approx(replace, rel=1e-3)
    assert found["relations"]["replace-one"]["epsilon_rdp"] >= replace


@pytest.mark.parametrize(
    ("m", "cohort", "rounds", "participations", "poisson", "renyi_wor", "known", "every"),
    [
        (1000, 100, 200, 20, 3.00, 12.6, 8.92, 28.2),
        (206, 100, 1000, 486, 30.7, 134.0, 44.0, 63.1),
        (10_000, 100, 500, 5, 0.85, 2.43, 4.46, 44.6),
    ],
)
def test_what_real_deployments_cost(
    m: int, cohort: int, rounds: int, participations: int, poisson: float, renyi_wor: float, known: float, every: float
) -> None:
    """Noise multipliers for epsilon 2 at delta 1e-5; two or three digits are published, hence the slack."""
    goal = {"epsilon": 2.0, "cohort": cohort, "population": m}
    assert account(**goal, rounds=rounds).noise_multiplier == pytest.approx(poisson, rel=6e-3)
    # The table used Renyi divergences for cohorts of fixed size: they give 2 there, and the certified curve less.
    fixed = Release(noise_multiplier=renyi_wor, sampling_name="fixed-size", rate=cohort / m, clipping_norm=1.0)
    assert epsilon({fixed: rounds}, DELTA, REPLACE, "rdp").value == pytest.approx(2.0, rel=1e-2)
    assert epsilon({fixed: rounds}, DELTA, REPLACE).value < 2.0
    for times, noise in ((participations, known), (rounds, every)):
        found = account(epsilon=2.0, sampling="full", rounds=times).noise_multiplier
        assert found == pytest.approx(noise, rel=3e-3)
        assert found == pytest.approx(1.99381 * math.sqrt(times), rel=1e-5)


# --- forth and back --------------------------------------------------------------------------------------------------


CONFIGURATIONS = st.fixed_dictionaries(
    {
        "sampling": st.sampled_from(["poisson", "fixed-size", "full", "fixed-size-unamplified"]),
        "noise_multiplier": st.floats(0.8, 8.0),
        "rounds": st.integers(2, 300),
        "population": st.integers(50, 5000),
        "rate": st.floats(0.01, 0.7),
        "log_delta": st.floats(-9.0, -5.0),
        "replace": st.booleans(),
        "solve_for": st.sampled_from(["noise_multiplier", "rounds", "sampling_rate", "population"]),
    }
)


def check(c: dict[str, Any]) -> None:
    """All properties of one configuration."""
    delta = min(10 ** c["log_delta"], 0.1 / c["population"])
    common: dict[str, Any] = {"sampling": c["sampling"], "delta": delta}
    if c["replace"]:
        common["relation"] = REPLACE
    sampled = c["sampling"] in ("poisson", "fixed-size")
    cohort = max(1, round(c["rate"] * c["population"]))
    known: dict[str, Any] = {"noise_multiplier": c["noise_multiplier"], "rounds": c["rounds"]}
    if sampled:
        known |= {"cohort": cohort, "population": c["population"]}

    def spent(**changes: Any) -> float:
        return solve(Account(**{**common, **known, **changes})).epsilon().value

    answer = solve(Account(**common, **known))
    here = answer.epsilon().value
    assert 0 < here < math.inf
    slack = 1 + 2e-3  # grids differ from one configuration to the next
    # monotone in each argument
    assert spent(noise_multiplier=1.1 * c["noise_multiplier"]) <= here * slack
    assert spent(rounds=c["rounds"] + 3) >= here / slack
    assert spent(delta=delta / 3) >= here / slack
    if sampled and cohort < c["population"]:
        assert spent(cohort=cohort + 1) >= here / slack
        assert spent(population=c["population"] + 40) <= here * slack
    # the two accountants, the two relations
    for relation in answer.question.row.relations:
        assert answer.epsilon(relation).value <= 1.01 * answer.epsilon(relation, rdp=True).value
    if ADD in answer.question.row.relations:
        assert answer.epsilon(REPLACE).value >= answer.epsilon(ADD).value / slack
    # forth and back
    goal = here * 1.05
    if not 0.02 < goal < 100.0:
        return
    unknown = c["solve_for"] if sampled else {"sampling_rate": "rounds"}.get(c["solve_for"], "noise_multiplier")
    asked = {**common, **known, "epsilon": goal}
    del asked["cohort" if unknown == "sampling_rate" else unknown]
    if unknown == "population" and (sampled and cohort >= c["population"]):
        return
    back = solve(Account(**asked))
    assert back.solved_for == unknown
    assert back.epsilon().value <= goal
    if unknown == "noise_multiplier" or (unknown == "sampling_rate" and c["sampling"] == "poisson"):
        assert back.epsilon().value >= 0.99 * goal or back.sampling.rate == 1.0
    elif unknown == "rounds":
        assert spent(rounds=back.rounds + 1) > goal
    elif unknown == "sampling_rate":
        assert back.cohort is not None
        assert back.cohort == c["population"] or spent(cohort=back.cohort + 1) > goal
    else:
        assert back.population is not None
        assert back.population == cohort or spent(population=back.population - 1) > goal


@given(CONFIGURATIONS)
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_solving_forth_and_back(configuration: dict[str, Any]) -> None:
    check(configuration)


@pytest.mark.soak
@pytest.mark.timeout(0)
@given(CONFIGURATIONS)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_solving_forth_and_back_at_random(configuration: dict[str, Any]) -> None:
    check(configuration)


def test_each_number_of_one_run_is_found_again() -> None:
    whole = {"noise_multiplier": 5.0, "rounds": 200, "sampling": "fixed-size", "population": 1000, "cohort": 100}
    goal = account(**whole).epsilon().value + 1e-9
    for left_out in ("noise_multiplier", "rounds", "cohort", "population"):
        asked = {name: value for name, value in whole.items() if name != left_out}
        found = account(**asked, epsilon=goal)
        value = getattr(found, left_out)
        assert value == pytest.approx(whole[left_out], rel=3e-3 if left_out == "noise_multiplier" else 1e-12)
    rate = account(noise_multiplier=3.0, rounds=200, epsilon=2.0038).sampling.rate
    assert rate == pytest.approx(0.1, rel=5e-3)
    assert rate < 0.1001
    rounded = float(as_text(account(rounds=200, epsilon=2.0, sampling_rate=0.1)).split(" ")[3].rstrip(","))
    assert account(noise_multiplier=rounded, rounds=200, sampling_rate=0.1).epsilon().value <= 2.0, (
        "what is shown holds"
    )


# --- what it means ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [0.5, 3.0, 40.0])
def test_an_attacker_on_gaussians_is_the_exact_one(z: float) -> None:
    for relation, mu in ((ADD, math.sqrt(10) / z), (REPLACE, 2 * math.sqrt(10) / z)):
        found = attacker_for(
            {Release(noise_multiplier=z, sampling_name="full", rate=1.0, clipping_norm=1.0): 10}, relation
        )
        assert found.advantage == pytest.approx(2 * norm.cdf(mu / 2) - 1, rel=1e-9)
        assert found.advantage == gaussian_delta(mu, 0.0)
        for rate, power in found.true_positive_rates.items():
            exact = norm.cdf(norm.ppf(rate) + mu)
            assert exact * (1 - 1e-12) <= power <= exact * 1.003


def test_an_attacker_on_one_sampled_release_by_likelihood_ratios() -> None:
    """The Neyman-Pearson test on (1 - q) N(0) + q N(1) against N(0): its power by quadrature is met from above."""
    z, q = 0.8, 0.3
    one = Release(noise_multiplier=z, sampling_name="poisson", rate=q, clipping_norm=1.0)
    found = attacker_for([one], ADD)
    for rate, power in found.true_positive_rates.items():
        threshold = z * norm.isf(rate)  # the ratio grows in x
        forth = (1 - q) * rate + q * norm.sf((threshold - 1) / z)
        assert forth <= power * (1 + 1e-9)
        assert power == pytest.approx(forth, rel=5e-3)
    assert found.advantage == pytest.approx(q * (2 * norm.cdf(0.5 / z) - 1), rel=1e-4)
    assert found.advantage == pytest.approx(delta_for([one], 0.0), rel=1e-12)


def test_an_attacker_at_the_ends() -> None:
    none = attacker_for([], ADD)
    assert (none.advantage, none.true_positive_rates[0.01]) == (0.0, 0.01)
    bare = attacker_for([Release(noise_multiplier=0.0, sampling_name="full", rate=1.0, clipping_norm=1.0)], ADD)
    assert (bare.advantage, bare.true_positive_rates[0.01]) == (1.0, 1.0)
    for rate in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(InputError, match="false positive rate"):
            attacker_for([], ADD, (rate,))


# --- observers and refusals ------------------------------------------------------------------------------------------


def test_observers() -> None:
    run = {"noise_multiplier": 5.0, "rounds": 50}
    public = account(**run, sampling_rate=0.1)
    coalition = account(**run, sampling_rate=0.1, observer="coalition")
    assert public.epsilon() == coalition.epsilon(), "secret coins hide as much from a coalition"
    assert as_json(coalition)["notion"] == "joint differential privacy"
    counted = account(**run, sampling="fixed-size-unamplified", observer="coalition")
    full = account(**run, sampling="full", relation=REPLACE)
    assert counted.epsilon() == full.epsilon()
    assert as_json(counted)["sampling_rate"] is None
    server = account(**run, sampling_rate=0.1, observer="server", noise_at="node")
    assert server.epsilon() == full.epsilon(), "the server sees who takes part"
    assert "every round counted in full" in as_text(server)
    assert as_json(server)["output"] == "rows of updates"
    sized = account(**run, sampling="fixed-size-unamplified", observer="coalition", population=1000, sampling_rate=0.1)
    assert (sized.cohort, sized.rate) == (100, 0.1)
    assert sized.epsilon() == full.epsilon()


RUN = ["--noise-multiplier", "1", "--rounds", "100", "--delta", "1e-5"]
TENTH = ["--sampling-rate", "0.1"]
FIXED = ["--sampling", "fixed-size", *TENTH, "--population", "1000"]
WRONG = [
    # a fixed cohort with Poisson's relation; a coalition with amplification; delta; the server and its own noise
    ([*RUN, *FIXED, "--relation", "add-remove"], "use the relation replace-one, or Poisson sampling"),
    ([*RUN, *FIXED, "--observer", "coalition"], "count every round in full ('fixed-size-unamplified')"),
    ([*RUN, *FIXED, "--observer", "server", "--noise-at", "node"], "count every round in full"),
    ([*RUN, *TENTH, "--population", "100000"], "below 1/m = 1e-05 for m = 100000 tasks, got 1e-05"),
    ([*RUN, *TENTH, "--observer", "server"], "add the noise on the node"),
    (
        [*RUN, *TENTH, "--observer", "server", "--noise-at", "node", "--relation", "add-remove"],
        "under replace-one only",
    ),
    ([*RUN, *TENTH, "--observer", "experimenter"], "publish billboards instead"),
    ([*RUN, *TENTH, "--noise-at", "node"], "claim those against the server"),
    ([*RUN, "--sampling", "fixed-size", *TENTH], "needs --population"),
    # numbers
    (RUN, "missing are --epsilon and --sampling-rate; if all tasks take part in every round, say --sampling full"),
    ([*RUN, *TENTH, "--epsilon", "1"], "nothing is left to solve for; leave out one of"),
    ([*RUN, "--epsilon", "1", "--sampling", "full"], "leave out one of --epsilon, --noise-multiplier and --rounds"),
    ([*RUN, *TENTH, "--cohort", "5"], "either --sampling-rate or --cohort"),
    ([*RUN, "--cohort", "50", "--population", "20"], "'cohort' must be at most the population, 20, got 50"),
    ([*RUN, *TENTH, "--sampling", "full"], "leave out --sampling-rate"),
    ([*RUN, "--sampling-rate", "1.5"], "'sampling_rate' must be less than or equal to 1, got 1.5"),
    ([*RUN, "--sampling-rate", "0"], "'sampling_rate' must be greater than 0, got 0"),
    ([*RUN[2:], *TENTH, "--noise-multiplier", "0"], "'noise_multiplier' must be greater than 0, got 0"),
    ([*RUN[2:], *TENTH, "--noise-multiplier", "nan"], "noise_multiplier"),
    ([*RUN[:2], *RUN[4:], *TENTH, "--rounds", "0"], "'rounds' must be greater than or equal to 1, got 0"),
    ([*RUN[:4], *TENTH], "'delta' is required"),
    ([*RUN[:4], *TENTH, "--delta", "1"], "'delta' must be less than 1, got 1"),
    ([*RUN[:2], *RUN[4:], *TENTH, "--epsilon", "-1"], "'epsilon' must be greater than or equal to 0.000001, got -1"),
    # nothing that would do
    (
        [*RUN[:2], *RUN[4:], "--sampling", "full", "--epsilon", "0.1"],
        "a single round costs epsilon 4.377, more than 0.1",
    ),
    ([*RUN[2:], "--sampling", "full", "--epsilon", "2000"], "at most 1000"),
    ([*RUN, "--epsilon", "1e-6", "--sampling", "fixed-size", "--population", "99"], "even a cohort of one task costs"),
    ([*RUN, "--epsilon", "0.0001", "--cohort", "50"], "use a smaller delta, more noise or fewer rounds"),
    ([*RUN, "--epsilon", "1", "--sampling", "fixed"], "'poisson', 'fixed-size', 'fixed-size-unamplified', 'full'"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_questions_are_one_sentence_and_exit_code_2(fedpriv: Any, words: list[str], sentence: str) -> None:
    code, out, err = fedpriv("account", *words)
    assert code == 2, out
    assert sentence in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert out == ""


def test_replace_one_cannot_be_had_for_the_price_of_add_remove() -> None:
    """Under replace-one a task's update moves the sum by two clipping norms; no option says otherwise."""
    one = account(noise_multiplier=30.0, rounds=10, sampling="full", relation=REPLACE)
    assert one.epsilon() == account(noise_multiplier=15.0, rounds=10, sampling="full").epsilon()
    with pytest.raises(InputError, match="replace-one"):
        Account(noise_multiplier=1.0, rounds=1, delta=DELTA, sampling="fixed-size-unamplified", relation=ADD)
    assert Account(noise_multiplier=1.0, rounds=1, delta=DELTA, sampling="full").observer is Observer.PUBLIC


# --- where hardly anybody takes part, and where hardly anything may be spent --------------------------------------


@pytest.mark.parametrize(("rate", "rounds"), [(1e-5, 1), (1e-7, 80), (1e-3, 20)])
def test_without_noise_delta_is_the_chance_of_ever_taking_part(rate: float, rounds: int) -> None:
    """By hand: without noise two neighbours' outputs differ if the task was ever drawn, and only then."""
    ever = 1.0 - (1.0 - rate) ** rounds
    nearly = Release(noise_multiplier=0.05, sampling_name="poisson", rate=rate, clipping_norm=1.0)
    assert delta_for({nearly: rounds}, 3.0) == pytest.approx(ever, rel=1e-3)
    sampling = PoissonSampling(rate)
    assert needs_no_noise(sampling, rounds, ever * 1.001)
    assert not needs_no_noise(sampling, rounds, ever * 0.999)
    for counted in (FullParticipation(), FixedSizeSampling(1, 10**9, counted=True)):
        assert not needs_no_noise(counted, rounds, 0.999)


def test_a_delta_that_holds_without_noise_is_said() -> None:
    question = {"sampling_rate": 1e-7, "rounds": 90, "delta": DELTA}
    with pytest.raises(InputError, match=r"any epsilon holds for this delta without noise.*use a smaller delta"):
        account(epsilon=1.0, **question)
    answer = account(noise_multiplier=1.0, **question)
    assert answer.epsilon().value == 0.0
    assert any("any of the 90 rounds with a probability of 9e-06" in one for one in answer.warnings)
    above = account(epsilon=1.0, sampling_rate=1.2e-7, rounds=90)
    assert 0.99 <= above.epsilon().value <= 1.0
    assert not any("without noise" in one for one in above.warnings)


def test_epsilons_near_zero_are_refused_in_a_sentence(fedpriv: Any) -> None:
    code, _, err = fedpriv(
        "account", "--epsilon", "1e-300", "--sampling-rate", "0.1", "--rounds", "10", "--delta", "1e-5"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "'epsilon' must be greater than or equal to 0.000001, got 1e-300" in err
    for value in (1e-320, 9e-7):
        with pytest.raises(InputError, match="'epsilon' must be at least 1e-06"):
            calibrate_noise_multiplier(Target(epsilon=value), PoissonSampling(0.1), 10, 100)


def test_small_targets_take_few_steps(monkeypatch: Any) -> None:
    """Renyi accounting cannot come down to such an epsilon; the search for a start took 35 steps there."""
    steps: list[float] = []

    def counting(*values: Any) -> Epsilon:
        found = epsilon(*values)
        steps.append(found.value)
        return found

    monkeypatch.setattr(calibration, "epsilon", counting)
    answer = account(epsilon=1e-3, sampling_rate=0.011, rounds=90)
    assert 0.99e-3 <= answer.epsilon().value <= 1e-3
    assert 1 <= len(steps) <= 12
