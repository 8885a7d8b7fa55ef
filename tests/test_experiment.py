"""Experiments from end to end: the script, the command line, protected populations, convergence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import experiment, noisy, toy_tasks

from fedpriv import BudgetExceeded, Experiment, InputError, Target
from fedpriv.cli import main
from fedpriv.clients import MeanRegularized
from fedpriv.cohort import Ragged, Tasks
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.policy import NodePolicy
from fedpriv.protocol import ALL
from fedpriv.strategies import Billboard

README = Path(__file__).parent.parent / "README.md"


NOT_NEEDED = {"ray", "dp_accounting", "opacus", "sklearn", "flwr_datasets", "datasets", "scipy.stats"}
"""What takes seconds to import, and short runs have no use for."""


def script() -> str:
    blocks = README.read_text().split("```python\n")[1:]
    return next(block.split("```")[0] for block in blocks if "Experiment(" in block)


def test_the_script_of_the_readme_runs_and_equals_the_command_line(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Design 8: verbatim, twice, and with fixed coins the same numbers as `fedpriv run` with the same settings."""
    monkeypatch.chdir(tmp_path)
    for folder in ("first", "first-2"):
        if folder == "first":
            ran = subprocess.run([sys.executable, "-c", script()], capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
            said = ran.stdout
        else:
            exec(script(), {})
            said = capsys.readouterr().out
        assert "Joint differential privacy of the personal models" in said
        shown = [float(number) for number in re.findall(r"(?:personal|local only|billboard) (0\.\d\d)", said)]
        personal, alone, _ = shown
        assert personal > alone + 0.15, "sharing wins clearly, and training alone stands beside it"
        summary = json.loads((tmp_path / "runs" / folder / "summary.json").read_text())
        assert summary["guarantee"]["epsilon"] <= 2.0
        assert summary["sharing"]["forecast"] is None
    exec(script().replace('.run(out=free_folder("runs", "first"))', '.run(out="runs/fixed", reproduce=5)'), {})
    mine = json.loads((tmp_path / "runs/fixed/summary.json").read_text())
    keys = {"data.tasks": 200, "data.seed": 0, "strategy.evaluate_every": 0}
    sets = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    words = ["fedpriv", "run", "pmtl", *sets, "--set=run.grid=in-process", "--reproduce=5", "--out=cli", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    capsys.readouterr()
    main()
    theirs = json.loads(capsys.readouterr().out)
    for measure in ("accuracy", "loss"):
        assert theirs["diagnostics"][measure] == pytest.approx(mine["diagnostics"][measure], rel=1e-9)
    assert theirs["guarantee"] == mine["guarantee"]
    assert theirs["diagnostics"]["released"] is False
    assert theirs["guarantee"]["notion"] == "joint differential privacy"
    assert {"epsilon", "delta", "relation", "observer", "accountant"} <= theirs["guarantee"].keys()
    assert theirs["tasks_per_second"] > 0
    assert theirs["guarantee"]["sentence"].startswith("reproduction, no guarantee")


def protected(tmp_path: Path, **changes: Any) -> Experiment:
    from dataclasses import replace

    settings: dict[str, Any] = {
        "strategy": noisy(noise_multiplier=5.0),
        "population": "clinic",
        "ledger": tmp_path / "clinic.sqlite",
        "budget": Target(epsilon=3.0, delta=1e-5),
    }
    return experiment(replace(toy_tasks(7), declared="protected"), **{**settings, **changes})


def test_a_protected_population_continues_its_ledger_until_the_budget_is_spent(tmp_path: Path) -> None:
    def spend() -> int:
        for number in range(1, 50):
            try:
                protected(tmp_path).run(tmp_path / f"run-{number}")
            except BudgetExceeded:
                return number
        return 0

    runs = spend()
    assert runs > 1
    with pytest.raises(BudgetExceeded, match="clinic"):
        protected(tmp_path).run(tmp_path / "once-more")
    ledger = Ledger(tmp_path / "clinic.sqlite")
    assert len(ledger.entries("clinic")) == 4 * (runs - 1), "the refused run released nothing"
    assert ledger.spent("clinic", 1e-5).value <= 3.0


def test_a_refused_run_is_told_how_much_noise_would_fit(tmp_path: Path) -> None:
    """A target equal to the budget needs a little more noise: the budget also holds if later runs react to this one."""
    equal = noisy(noise_multiplier=None, target=Target(epsilon=3.0, delta=1e-5))
    for attempt in range(2):  # on a fresh budget, and on what is left of it
        with pytest.raises(BudgetExceeded, match=r"A noise multiplier of [\d.]+ would fit") as refused:
            protected(tmp_path, strategy=equal).run(tmp_path / f"refused-{attempt}")
        enough = float(str(refused.value).split("multiplier of ")[1].split(" would")[0])
        with pytest.raises(BudgetExceeded):
            protected(tmp_path, strategy=noisy(noise_multiplier=0.99 * enough)).run(tmp_path / f"less-{attempt}")
        protected(tmp_path, strategy=noisy(noise_multiplier=enough if attempt else 1.5 * enough)).run(
            tmp_path / f"more-{attempt}"
        )


def test_protected_data_need_a_population_and_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.population"):
        protected(tmp_path, population=None)
    protected(tmp_path).run(tmp_path / "one")
    from dataclasses import replace

    other = replace(toy_tasks(6), declared="protected")
    with pytest.raises(InputError, match="clinic"):
        protected(tmp_path).model_copy(update={"tasks": other}).run(tmp_path / "two")


def test_protected_data_are_never_released_with_known_noise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="protects nobody"):
        protected(tmp_path).run(tmp_path / "one", reproduce=1)
    assert not (tmp_path / "clinic.sqlite").exists()


def test_delta_of_one_over_m_is_refused() -> None:
    with pytest.raises(InputError, match="delta"):
        experiment(toy_tasks(7), strategy=noisy(delta=1 / 7)).run()


def test_seed_fixes_only_what_may_be_public() -> None:
    """Invariant 7: equal seeds, different noise; equal --reproduce, equal everything."""
    tasks = toy_tasks(7)
    one, two = (experiment(tasks, strategy=noisy(), seed=3).run() for _ in range(2))
    assert not np.array_equal(one.billboards[ALL]["1.weight"], two.billboards[ALL]["1.weight"])
    assert not one.guarantee.reproduction
    three, four = (experiment(tasks, strategy=noisy()).run(reproduce=3) for _ in range(2))
    np.testing.assert_array_equal(three.billboards[ALL]["1.weight"], four.billboards[ALL]["1.weight"])
    assert three.guarantee.reproduction
    five = experiment(tasks, strategy=noisy()).run(reproduce=4)
    assert not np.array_equal(three.billboards[ALL]["1.weight"], five.billboards[ALL]["1.weight"])


def test_nodes_enforce_their_own_policy() -> None:
    """Invariant 10: after two participations nothing of a task leaves its node; its model stays as it was."""
    tasks = toy_tasks(5)
    strategy = Billboard(clipping_norm=0.3, rounds=4, noise_multiplier=0.0)
    two = Billboard(clipping_norm=0.3, rounds=2, noise_multiplier=0.0)
    limited = experiment(tasks, strategy=strategy, policy=NodePolicy(max_participations=2)).run(reproduce=1)
    short = experiment(tasks, strategy=two).run(reproduce=1)
    for name, value in short.billboards[ALL].items():
        np.testing.assert_array_equal(limited.billboards[ALL][name], value)
    assert limited.diagnostics.accuracy.personal is None, "scores stay on a node whose policy does not mention them"
    assert "refused" in limited.summary["warnings"][-1]
    weak = experiment(tasks, strategy=strategy, policy=NodePolicy(min_noise_multiplier=1.0)).run(reproduce=1)
    start = experiment(tasks).model_copy(update={"seed": 1}).problem().initial()
    for name, value in weak.billboards[ALL].items():
        np.testing.assert_array_equal(value, start[name].numpy())


def test_a_run_folder_is_not_overwritten_and_settings_must_match_on_resume(tmp_path: Path) -> None:
    tasks = toy_tasks(5)
    experiment(tasks, strategy=noisy()).run(tmp_path / "run", reproduce=1)
    with pytest.raises(InputError, match="holds a run already"):
        experiment(tasks, strategy=noisy()).run(tmp_path / "run", reproduce=1)
    with pytest.raises(InputError, match=r"strategy\.clipping_norm was 0\.3"):
        experiment(tasks, strategy=noisy(clipping_norm=0.2)).run(tmp_path / "run", reproduce=1, resume=True)
    with pytest.raises(InputError, match="no run to resume"):
        experiment(tasks, strategy=noisy()).run(tmp_path / "other", reproduce=1, resume=True)
    again = experiment(tasks, strategy=noisy()).run(tmp_path / "run", reproduce=1, resume=True)
    assert again.guarantee == experiment(tasks, strategy=noisy()).run(reproduce=1).guarantee


def test_what_a_run_makes_public_is_marked(tmp_path: Path) -> None:
    """Invariant 1: every line of the metrics is a diagnostic that says so, or is computed from the ledger alone."""
    experiment(toy_tasks(5), strategy=noisy(evaluate_every=2)).run(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"evaluation", "privacy"}
    assert all(line["released"] is False for line in lines if line["kind"] == "evaluation")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["diagnostics"]["released"] is False
    assert len(summary["releases"]) == 4
    assert [line["epsilon"] for line in lines if line["kind"] == "privacy"][-1] == pytest.approx(
        summary["guarantee"]["epsilon"], rel=1e-3
    )


def quadratic(count: int, dimension: int, seed: int = 0) -> Tasks:
    """Linear regression with orthonormal designs: every task's loss is exactly strongly convex with Hessian 1."""
    rng = np.random.default_rng(seed)
    scale = np.sqrt(dimension)
    inputs = [np.linalg.qr(rng.normal(size=(dimension, dimension)))[0] * scale for _ in range(count)]
    optimum = 1.0 + 0.3 * rng.normal(size=(count, dimension))
    targets = [x @ w for x, w in zip(inputs, optimum, strict=True)]
    part = Ragged.from_lists(inputs, targets)
    return Tasks("quadratic", tuple(f"q{k}" for k in range(count)), part, part, part, None, "benchmark")


def gaps(rounds: int, noise: float, seed: int = 0) -> tuple[float, float]:
    """How far a run is from the optimum of the mean-regularised objective (equation 2 with lambda 1).

    With Hessian 1 in every task the optimal billboard is the mean of the tasks' optima theta_k, and the optimal
    personal model lies half way between theta_k and it. Returns the squared distance of the billboard, and the
    distance of the mean personal loss from its optimum.
    """
    tasks = quadratic(20, 5)
    client = MeanRegularized(strength=1.0, learning_rate=0.2, epochs=1, batch_size=5)
    strategy = Billboard(clipping_norm=100.0, rounds=rounds, noise_multiplier=noise)
    model = torch.nn.Linear(5, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    result = experiment(tasks, model=model, client=client, strategy=strategy).run(reproduce=seed)
    rows = [tasks.train.rows(k) for k in range(20)]
    theta = np.array([np.linalg.solve(tasks.train.inputs[row], tasks.train.targets[row]) for row in rows])
    billboard = float(np.square(result.billboards[ALL]["weight"][0] - theta.mean(axis=0)).sum())
    personal = 0.5 * np.square((theta - theta.mean(axis=0)) / 2).sum(axis=1).mean()
    return billboard, abs(float(result.scores["personal.loss"].mean()) - float(personal))


def test_strongly_convex_runs_converge_linearly_to_a_floor_that_rises_with_the_noise() -> None:
    """Paper section 4.3 (Theorem 5, Corollary 6): linear rate without noise; a floor that rises with sigma^2."""
    clean = [gaps(rounds, 0.0) for rounds in (10, 20, 30, 40)]
    for measure in (0, 1):
        errors = [found[measure] for found in clean]
        rates = [after / before for before, after in pairwise(errors)]
        assert all(rate < 0.6 for rate in rates)
        assert max(rates) / min(rates) < 1.5, "the rate is linear: the same factor in each ten rounds"
    assert gaps(150, 0.0)[0] < 1e-6
    # Floors are averages of 5 coordinates times 6 seeds; the ratio of two chi-squares with 30 degrees of freedom
    # leaves (0.24, 4.1) of its expectation with probability below 1e-3. A floor linear in sigma would give 8.
    low = np.mean([gaps(100, 0.002, seed)[0] for seed in range(6)])
    high = np.mean([gaps(100, 0.016, seed)[0] for seed in range(100, 106)])
    assert 64 * 0.24 < high / low < 64 * 4.1


def test_one_population_cannot_have_two_budgets(tmp_path: Path) -> None:
    protected(tmp_path).run(tmp_path / "one")
    with pytest.raises(InputError, match="would spend it twice"):
        protected(tmp_path, population="clinic-2").run(tmp_path / "two")


def test_default_delta_and_policies_can_be_stored(tmp_path: Path) -> None:
    policy = NodePolicy(max_participations=3)
    strategy = Billboard(clipping_norm=0.3, rounds=2, target=Target(epsilon=5.0))
    experiment(toy_tasks(7), strategy=strategy, policy=policy).run(tmp_path / "run")
    experiment(toy_tasks(7), strategy=strategy, policy=policy).run(tmp_path / "run", resume=True)


def test_wrong_strategies_leave_no_folder(tmp_path: Path) -> None:
    for strategy in (noisy(groups=(0, 1)), Billboard(clipping_norm=0.3, rounds=2, target=Target(epsilon=2000.0))):
        with pytest.raises(InputError):
            experiment(toy_tasks(7), strategy=strategy).run(tmp_path / "run")
        assert not (tmp_path / "run").exists()
