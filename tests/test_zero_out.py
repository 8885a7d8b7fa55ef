"""With limits of participation zero-out is what is proven, and every place that states a guarantee says so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import experiment, noisy, toy_tasks

from fedpriv import Target
from fedpriv.privacy import BandedMechanism, Release, epsilon, guarantee_for
from fedpriv.privacy.accounting import shared_relations
from fedpriv.privacy.guarantee import Guarantee
from fedpriv.privacy.terms import NoiseAt, Observer, Output, Relation

BANDED = {"noise": "banded", "min_separation": 3, "rounds": 6, "sampling_rate": 0.25}
ALONE = {"max_participations": 3, "rounds": 6, "sampling_rate": 0.25}
PLAIN = Release(noise_multiplier=2.0, sampling_name="poisson", rate=0.5, clipping_norm=1.0)
LIMITED = Release(
    mechanism="banded", noise_multiplier=2.0, sampling_name="min-separation", rate=1.0, clipping_norm=1.0,
    banded=BandedMechanism(horizon=6, participations=2, separation=3, bands=3),
)  # fmt: skip


@pytest.mark.parametrize("limits", [BANDED, ALONE], ids=["banded", "independent noise"])
def test_a_limited_run_states_zero_out_everywhere(fedpriv: Any, tmp_path: Path, limits: dict[str, Any]) -> None:
    tasks = replace(toy_tasks(12), declared="protected")
    place = {"population": "p", "ledger": tmp_path / "l.sqlite", "budget": Target(epsilon=50.0)}
    strategy = noisy(**limits)
    result = experiment(tasks, strategy=strategy, report=True, **place).run("run")
    assert "relation zero-out, epsilon = " in str(result.guarantee)
    assert "replace-one: epsilon" in str(result.guarantee)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["guarantee"]["relation"] == summary["personal_guarantee"]["relation"] == "zero-out"
    assert list(summary["ledger"]["spent"]) == ["zero-out", "replace-one", "delta"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {one["relation"] for one in lines if one["kind"] == "privacy"} == {"zero-out"}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<dt>Neighbouring relation</dt><dd>zero-out</dd>" in page
    assert "Epsilon (zero-out)" in page
    assert "add/remove" not in page.replace("add/remove&#34;", "")  # the setting keeps its word
    code, text, error = fedpriv("ledger", "show", "run")
    assert code == 0, error
    assert re.search(r"  spent: epsilon [\d.]+ \(zero-out\) and [\d.]+ \(replace-one\) by gaussian", text)
    assert "(add/remove, which limits of participation hold as zero-out)" in text
    _, text, _ = fedpriv("ledger", "show", "run", "--json")
    found = json.loads(text)
    assert found["individual"]["relation"] == "zero-out"
    assert found["spent"]["add/remove"] is None
    assert found["left"]["epsilon_if_runs_were_fixed_beforehand"] == found["spent"]["zero-out"]


def test_which_relation_a_history_has() -> None:
    assert shared_relations([[PLAIN]]) == [Relation.ADD_REMOVE, Relation.REPLACE_ONE]
    assert shared_relations([[PLAIN, LIMITED]]) == [Relation.ZERO_OUT, Relation.REPLACE_ONE]
    assert shared_relations([[PLAIN], [LIMITED]]) == [Relation.ZERO_OUT, Relation.REPLACE_ONE]
    fixed = PLAIN.model_copy(update={"sampling_name": "fixed-size"})
    assert shared_relations([[LIMITED], [fixed]]) == [Relation.REPLACE_ONE]


def test_zero_out_costs_what_add_remove_costs() -> None:
    for history in ([LIMITED], [PLAIN] * 5, [PLAIN, LIMITED]):
        costs = [epsilon(history, 1e-5, one).value for one in (Relation.ZERO_OUT, Relation.ADD_REMOVE)]
        assert costs[0] == costs[1] < epsilon(history, 1e-5, Relation.REPLACE_ONE).value


def test_asked_as_add_remove_it_is_stated_as_zero_out() -> None:
    stated = guarantee_for([LIMITED], delta=1e-5, num_tasks=100, relation=Relation.ADD_REMOVE)
    assert stated.relation is Relation.ZERO_OUT
    assert guarantee_for([LIMITED], delta=1e-5, num_tasks=100, relation=Relation.REPLACE_ONE).relation == "replace-one"
    assert guarantee_for([PLAIN], delta=1e-5, num_tasks=100).relation is Relation.ADD_REMOVE
    older = stated.to_json() | {"relation": "add/remove"}
    assert Guarantee.from_json(older) == stated
    assert Guarantee.from_json(older | {"sampling_names": ["limited"]}) == stated, "its name until version 0.1"


def test_the_headline_has_the_epsilon_of_the_relation_it_names() -> None:
    """Of each pair of numbers that a guarantee prints, which one is whose: also for cohorts of fixed size and rows."""
    row = Release(noise_multiplier=2.0, sampling_name="full", rate=1.0, clipping_norm=1.0, noise_at="node")
    fixed = PLAIN.model_copy(update={"sampling_name": "fixed-size", "noise_multiplier": 8.0})
    public = {"output": Output.BILLBOARDS, "observer": Observer.PUBLIC}
    server = {"output": Output.ROWS, "observer": Observer.SERVER, "noise_at": NoiseAt.NODE}
    for history, more in (([PLAIN] * 3, {}), ([LIMITED], {}), ([fixed] * 3, public), ([row] * 3, server)):
        for wanted in shared_relations([history]):
            found = guarantee_for(history, delta=1e-5, num_tasks=100, relation=wanted, **more)
            assert found.relation is wanted
            assert found.epsilon == epsilon(history, 1e-5, wanted).value
            assert found.epsilon_replace_one == epsilon(history, 1e-5, Relation.REPLACE_ONE).value
            assert f"relation {wanted.value}, epsilon = {found.epsilon:.4g}, " in str(found)


@pytest.mark.parametrize("relation", [Relation.ADD_REMOVE, Relation.REPLACE_ONE])
def test_the_headline_of_a_run_meets_its_target_under_the_relation_it_names(relation: Relation) -> None:
    target = Target(epsilon=2.0, delta=1e-3, relation=relation)
    result = experiment(toy_tasks(12), strategy=noisy(noise_multiplier=None, target=target)).run()
    noise = result.guarantee.noise_multiplier
    made = {Release(noise_multiplier=noise, sampling_name="poisson", rate=0.6, clipping_norm=1.0): 4}
    assert result.guarantee.relation is result.personal_guarantee.relation is relation
    assert result.guarantee.epsilon == result.personal_guarantee.epsilon == epsilon(made, 1e-3, relation).value <= 2.0
    assert result.guarantee.epsilon_replace_one == epsilon(made, 1e-3, Relation.REPLACE_ONE).value
