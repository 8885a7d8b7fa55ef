"""The page on Tables I and II: what is pooled, what is tested, and what is written for made-up runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedpriv.adversary import GameResults, judge, read_scores
from fedpriv.adversary.recorded import record_scores
from fedpriv.evidence import Evidence
from fedpriv.scenarios.maml_attack import noise, tables
from fedpriv.scenarios.maml_attack.cells import Cell, Level, below, judged, trend


def played(rng: np.random.Generator, count: int, shift: float) -> GameResults:
    """Return games whose members score higher by ``shift`` standard deviations."""
    sides = {side: rng.normal(shift * (side == "members"), 1.0, count) for side in ("members", "paper", "controlled")}
    return GameResults({"inversion": sides, "score": sides}, {}, {}, 0)


def test_games_of_several_runs_are_judged_by_one_threshold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = []
    for number in range(2):
        record_scores({"query": played(rng, 30, 2.0)}, tmp_path / str(number), 1)
        runs.append(read_scores(tmp_path / str(number), 1))
    found = judged(runs, "query", "inversion", "paper", 10)
    sides = [[run["query"]["inversion"][side] for run in runs] for side in ("members", "paper")]
    by_hand = judge(*(np.r_[a[:10], b[:10], a[10:], b[10:]] for a, b in sides), 20)
    assert found == by_hand
    assert (found.games, found.validation) == (40, 20)


def test_the_test_against_the_paper() -> None:
    """The z-test of two proportions with pooled variance is the chi-squared test without correction."""
    rng = np.random.default_rng(1)
    outcome = judge(rng.normal(1, 1, 70), rng.normal(0, 1, 70), 20)
    cell = Cell("query", "mnist", 5, 1, {"paper": outcome, "controlled": outcome}, {}, (49, 4), {})
    assert cell.paper_accuracy == 0.95
    right = round(cell.accuracy * 100)
    square, p, *_ = stats.chi2_contingency([[right, 100 - right], [95, 5]], correction=False)
    assert square > 1
    assert below(cell) == pytest.approx(p / 2)


def test_a_trend_covers_its_truth() -> None:
    """Of 400 intervals about 20 miss; more than 40 has a chance below 1e-4."""
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(400):
        first, second = rng.binomial(100, 0.8, 12) / 100, rng.binomial(100, 0.7, 12) / 100
        pairs = [((a, a * (1 - a) / 100), (b, b * (1 - b) / 100)) for a, b in zip(first, second, strict=True)]
        one = trend(pairs)
        missed += not one.low <= 0.1 <= one.high
    assert missed <= 40


LEAST = {"format": 1, "guarantee": dict.fromkeys(("notion", "unit", "relation", "observer", "sentence"), "made up")}
"""What every record of a run holds besides its scores."""


def test_the_page_of_made_up_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell gets a line and a verdict; the network and its settings are what the protocol says."""
    root = tmp_path
    (root / "docs").mkdir()
    protocol, configs = tables._read()
    assert len(protocol.own["paper"]["query"]) == len(protocol.own["paper"]["support"]) == 18
    rng = np.random.default_rng(3)
    held: dict[str, Any] = {name: {"accuracy": 0.5} for name in ("billboard", "scratch", "pretrained")}
    for (arm, point), config in configs.items():
        attack = config["attack"]
        assert config["client"]["learning_rate"] == {"mnist": 0.5, "fashion": 0.3}[config["data"]["name"]]
        for seed in protocol.seeds[point]:
            run = root / tables._RUNS / f"{arm}-{point}" / f"seed-{seed}"
            for number in attack["rounds"]:
                strong = {"query": 1, "support": 30}[arm] == number
                games = played(rng, attack["games"] + attack["validation"], 3.2 if strong else 1.0)
                record_scores({arm: games}, run, number)
            (run / "summary.json").write_text(json.dumps({**LEAST, "diagnostics": {"held_out": held}}))
    monkeypatch.setattr(tables, "collect", lambda *_, **__: Evidence({}, {}, 3600.0, {"torch": "2"}))
    tables.main(root)
    page = (root / "docs/evidence-attacks.md").read_text()
    assert page.count("| 0.50 (start 0.50, pre-trained 0.50) |") == 36
    assert "query set, mnist, 5 ways, 1 shot: 0.9" in page  # 3.2 deviations are not enough for 0.95
    assert "is below 0.85" not in page
    assert page.count("| yes |") == 7  # all trends but that of the shots, which made-up games do not have
    assert "1.00 core-hours" in page
    assert {path.name for path in (root / "docs/images").iterdir()} == {
        "maml-attack-cells.svg",
        "maml-attack-epochs.svg",
    }


def level(value: float, accuracy: float, auc: float) -> Level:
    return Level("support", value, accuracy, 0.01, {"query": {"paper": {"auc": {"value": auc}}}})


def test_the_confident_area_needs_both() -> None:
    """Near chance and still learning: neither the noise that learning dies of, nor the noise that hides nothing."""
    levels = [level(0, 0.8, 0.99), level(0.1, 0.79, 0.9), level(0.3, 0.76, 0.6), level(1, 0.74, 0.5)]
    assert noise.confident(levels, "query") == [0.3]


def test_bounds_of_calibrated_noise() -> None:
    """Phi(mu / sqrt 2): mu is 2 for a multiplier of 1, and 1 for pixels where the noise is an image's whole range."""
    assert noise._bound("node", 1.0) == pytest.approx(stats.norm.cdf(2**0.5))
    assert noise._bound("pixels", 28.0) == pytest.approx(stats.norm.cdf(0.5**0.5))


def test_the_noise_protocol_is_what_runs() -> None:
    protocol, configs = noise._read()
    assert len(configs["noise"]) == 1 + 12 + 5 + 5
    for (arm, value), config in configs["noise"].items():
        section, key = {
            "support": ("client", "noise_support"),
            "query": ("client", "noise_query"),
            "adaptation": ("client", "noise_adaptation"),
            "adaptation-calibrated": ("client", "noise_adaptation"),
            "validation": ("client", "noise_validation"),
            "node-calibrated": ("strategy", "noise_multiplier"),
            "pixels-calibrated": ("client", "noise_support"),
            "none": ("strategy", "noise_multiplier"),
        }[arm]
        assert config[section][key] == float(value)
        assert ("adaptation_clip" in config["client"]) == (arm == "adaptation-calibrated")
    assert set(protocol.own["wider"]) == set(protocol.own["places"])
    assert configs["learning"]["mnist", "5-shot"]["data"]["shots"] == 5
