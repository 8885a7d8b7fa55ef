"""Whether sharing pays: the forecast before a run, what is measured after it, and that its advice helps."""

from __future__ import annotations

import json
import math
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import experiment, toy_tasks

from fedpriv import Experiment, Target
from fedpriv.clients import GlobalModel, LocalOnly
from fedpriv.config import apply
from fedpriv.forecast import Forecast, compared, forecast_sharing
from fedpriv.privacy.gaussian import gaussian_mu
from fedpriv.privacy.terms import Relation
from fedpriv.scenarios import scenario
from fedpriv.strategies import Billboard, Silent

DELTA = 1e-5


def shared(m: int, epsilon: float, **changes: Any) -> Experiment:
    """People with few examples each of what is the same for all of them."""
    settings: dict[str, Any] = {
        "model": "linear",
        "client": GlobalModel(learning_rate=0.5, epochs=5, final_epochs=0),
        "strategy": billboard(epsilon),
        "baseline": True,
        "dtype": "float32",
        "report": True,
    }
    return experiment(toy_tasks(m, features=12, classes=4, sizes=[5] * m), **{**settings, **changes})


def billboard(epsilon: float, **changes: Any) -> Billboard:
    target = Target(epsilon=epsilon, delta=DELTA)
    return Billboard(**{"clipping_norm": 0.5, "sampling_rate": 0.5, "rounds": 20, "target": target, **changes})


def forecast(run: Experiment) -> Forecast | None:
    return forecast_sharing(run.strategy.resolve(len(run.tasks)), run.problem().num_parameters)


@pytest.mark.parametrize(("epsilon", "z"), [(0.4, 8.6), (0.8, 4.6), (2.0, 2.0), (4.0, 1.1)])
def test_the_ratio_is_z_sqrt_p_over_m(epsilon: float, z: float) -> None:
    """With the numbers that the README gives for one release."""
    found = forecast(shared(100, epsilon))
    assert found is not None
    assert found.multiplier == pytest.approx(z, rel=0.05)
    assert found.ratio == pytest.approx(z * math.sqrt(12 * 4 + 4) / 100, rel=0.05)


def test_relation_groups_and_noise_on_the_nodes_count() -> None:
    plain = forecast(shared(100, 2.0))
    assert plain is not None
    replaced = Target(epsilon=2.0, delta=DELTA, relation=Relation.REPLACE_ONE)
    other = forecast(shared(100, 2.0, strategy=billboard(2.0, target=replaced)))
    assert other is not None
    assert other.ratio == pytest.approx(2 * plain.ratio, rel=0.01)
    groups = tuple(int(number < 20) for number in range(100))
    smallest = forecast(shared(100, 2.0, strategy=billboard(2.0, groups=groups)))
    assert smallest is not None
    assert smallest.tasks == 20
    assert smallest.ratio == pytest.approx(5 * plain.ratio, rel=0.01)
    own = billboard(4.0, groups=groups, group_epsilons={"0": 0.1, "1": 4.0})
    costly = forecast(shared(100, 4.0, strategy=own))
    assert costly is not None
    assert (costly.tasks, costly.epsilon) == (80, 0.1)
    rows = forecast(shared(100, 2.0, strategy=billboard(2.0, noise_at="node")))
    assert rows is not None
    z = 2 / gaussian_mu(rows.epsilon, DELTA)
    assert rows.ratio == pytest.approx(z * math.sqrt(52) / 10), "100 rows with noise each"


def test_nothing_is_forecast_where_nothing_is_noisy_or_shared() -> None:
    quiet = Billboard(clipping_norm=0.5, rounds=2, noise_multiplier=0.0)
    assert forecast(shared(10, 1.0, strategy=quiet)) is None
    assert forecast(shared(10, 1.0, client=LocalOnly(), strategy=Silent(rounds=2))) is None


def digits(epsilon: float, **changes: Any) -> Experiment:
    chosen = scenario("pmtl")
    config = apply(chosen.preset("digits"), {"strategy.epsilon": epsilon, "run.report": False, **changes})
    built: Experiment = chosen.build(config, None)
    return built


def accuracies(run: Experiment) -> tuple[float, float, list[str]]:
    result = run.run(reproduce=1)
    found = result.diagnostics.accuracy
    assert found.personal is not None
    assert found.local_only is not None
    return found.personal, found.local_only, [line for line in result.summary["warnings"] if "alone" in line]


def advised(sentence: str, pattern: str) -> str:
    found = re.search(pattern, sentence)
    assert found, sentence
    return found[1].replace(",", "")


def test_following_the_advice_helps(caplog: Any) -> None:
    """Forecast to be bad and measured as bad; with what the sentence names forecast to be good, and better."""
    bad = digits(0.3)
    found = forecast(bad)
    assert found is not None
    assert found.sentence is not None
    personal, alone, warnings = accuracies(bad)
    assert found.sentence in caplog.text, "it is said before the run"
    assert personal < alone
    assert warnings[0] == found.sentence
    assert "are worse than training alone in this run" in warnings[1]
    mended = digits(float(advised(found.sentence, r"from epsilon ([0-9.]+) on")))
    better = forecast(mended)
    assert better is not None
    assert better.ratio <= 0.5
    personal, alone, warnings = accuracies(mended)
    assert personal > alone
    assert warnings == []
    by_itself = digits(0.3, **{"client.name": "local-only", "strategy.name": "silent"})
    assert forecast(by_itself) is None
    result = by_itself.run(reproduce=1)
    assert (result.diagnostics.accuracy.personal or 0) > alone - 0.05
    assert [line for line in result.summary["warnings"] if "alone" in line] == []


def test_more_people_are_advised_and_help() -> None:
    bad = shared(20, 0.3)
    found = forecast(bad)
    assert found is not None
    many = shared(int(advised(found.sentence or "", r"with at least ([0-9,]+) tasks")), 0.3)
    better = forecast(many)
    assert better is not None
    assert better.ratio <= 0.5
    before, after = accuracies(bad), accuracies(many)
    assert before[0] < before[1]
    assert after[0] > after[1]


def test_a_smaller_model_is_advised_where_it_is_one() -> None:
    """With as many numbers as the sentence says the ratio is a half."""
    found = Forecast(3.0, 1.0, DELTA, Relation.ADD_REMOVE, 20_000, 100)
    small = int(re.search(r"at most ([0-9,]+) shared", found.sentence or "")[1].replace(",", ""))  # type: ignore[index]
    assert found.multiplier * math.sqrt(small) / 100 <= 0.5 < found.multiplier * math.sqrt(small + 2) / 100
    tiny = Forecast(3.0, 0.1, DELTA, Relation.ADD_REMOVE, 500, 10)
    assert "shared numbers, or" not in (tiny.sentence or "")
    assert "from epsilon" not in (Forecast(50.0, 0.1, DELTA, Relation.ADD_REMOVE, 10**9, 10).sentence or "from epsilon")


def test_what_was_measured_is_said_in_the_direction_of_the_measure() -> None:
    assert "0.500 against 0.600" in (compared(0.5, 0.6, "accuracy") or "")
    assert compared(0.6, 0.5, "accuracy") is None
    assert compared(0.5, 0.5, "accuracy") is None
    assert compared(0.6, 0.5, "loss") is not None
    assert compared(0.5, 0.6, "loss") is None
    assert compared(None, 0.5, "accuracy") is None
    assert compared(0.5, None, "loss") is None


@pytest.mark.parametrize("epsilon", [0.3, 8.0])
def test_of_protected_data_the_comparison_goes_to_the_private_folder_alone(tmp_path: Path, epsilon: float) -> None:
    """Whether it is good or bad: what is not there must not tell."""
    run = shared(20, epsilon)
    run = run.model_copy(
        update={
            "tasks": replace(run.tasks, declared="protected"),
            "population": "clinic",
            "ledger": tmp_path / "clinic.sqlite",
        }
    )
    result = run.run(tmp_path / "run")
    private = tmp_path / "run/private/sharing.txt"
    means = result.diagnostics.accuracy  # coins of protected data are secret: chance decides, mostly epsilon
    assert means.personal is not None
    assert means.local_only is not None
    assert ("are worse than training alone" in private.read_text()) is (means.personal < means.local_only)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["sharing"]["measured_in"] == "private/sharing.txt"
    assert "measured" not in summary["sharing"]
    for text in (*result.summary["warnings"], (tmp_path / "run/report.html").read_text()):
        assert "in this run" not in text or "training alone in this run" not in text


def test_forecast_and_measurement_stand_in_the_report(tmp_path: Path) -> None:
    result = shared(20, 0.3).run(tmp_path / "run", reproduce=1)
    page = (tmp_path / "run/report.html").read_text()
    assert "forecast to be worse than training alone" in page
    assert "worse than training alone in this run" in page
    assert result.summary["sharing"]["ratio"] > 2
