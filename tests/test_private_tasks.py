"""What tells of single tasks of protected data is in ``private/``, and in no other file, page, figure or log."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy_tasks

from fedpriv import Experiment, InputError, Tasks
from fedpriv.cli.run import spread_lines
from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.cohort import Ragged
from fedpriv.report import read_run, write_figures, write_report
from fedpriv.report.figures import accuracies, per_task
from fedpriv.report.tables import headline, outputs, spread
from fedpriv.runs.finished import write_summary
from fedpriv.strategies import Billboard

OUTSIDE = ("private", "checkpoints")
NAMES = tuple(f"Zelda-{number:02d}-Quux" for number in range(12))


def people(values: bool = False) -> Tasks:
    """Twelve protected tasks; the first two have one class in their test part."""
    tasks = replace(toy_tasks(12, classes=2), names=NAMES, declared="protected")
    tasks.test.targets[:] = np.tile([0, 1, 1, 0], 12)
    tasks.test.targets[:8] = 1
    if not values:
        return tasks
    rng = np.random.default_rng(1)
    parts = {
        name: Ragged.from_lists(
            [part.inputs[part.rows(k)] for k in range(12)],
            [rng.normal(size=part.sizes[k]).astype("float32") for k in range(12)],
        )
        for name, part in (("train", tasks.train), ("validation", tasks.validation), ("test", tasks.test))
    }
    return replace(tasks, num_classes=None, **parts)


def experiment(folder: Path, tasks: Tasks | None = None, **more: Any) -> Experiment:
    strategy = Billboard(clipping_norm=0.5, rounds=2, noise_multiplier=4.0, delta=1e-3, evaluate_every=1)
    settings: dict[str, Any] = {
        "tasks": tasks or people(),
        "model": "linear",
        "client": MeanRegularized(learning_rate=0.3, strength=0.3),
        "strategy": strategy,
        "grid": "in-process",
        "population": "clinic",
        "ledger": folder / "clinic.sqlite",
    }
    return Experiment(**settings | more)


def outside(folder: Path) -> dict[str, str]:
    """Return the text of every file that is neither in private/ nor in checkpoints/, the ledger among them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part in OUTSIDE for part in path.relative_to(folder).parts):
            found[str(path.relative_to(folder))] = path.read_bytes().decode("utf-8", "replace")
    return found


def told(numbers: set[float], text: str, digits: int) -> list[float]:
    """Return the numbers that a text writes with at least so many digits behind the point, rounded or cut off."""

    def stands(number: float) -> bool:
        cut = f"{number:.{digits + 3}f}"[:-3]
        return any(re.search(rf"(?<![\d.]){re.escape(way)}", text) for way in {cut, f"{number:.{digits}f}"})

    return [number for number in numbers if stands(number)]


@pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])
def test_no_file_outside_names_a_task_or_tells_its_numbers(tmp_path: Path, caplog: Any, values: bool) -> None:
    metrics = {"mine": lambda p, t: float((p if values else p[:, 0]).std())}
    metrics |= {} if values else {"auc": "auc"}
    caplog.set_level("DEBUG")
    run = experiment(tmp_path, people(values), metrics=metrics)
    result = run.run(tmp_path / "run")
    write_report(tmp_path / "run")
    texts = outside(tmp_path) | {"log": caplog.text, "shown": repr(result) + result._repr_html_()}
    expected = {"run/summary.json", "run/metrics.jsonl", "run/report.html", "run/config.toml", "clinic.sqlite"}
    assert expected <= texts.keys()
    numbers = {
        float(number)
        for name, scores in result.scores.items()
        for number in scores
        if np.isfinite(number) and round(float(number), 2) != round(float(number), 6) and not (values and "acc" in name)
    }
    assert len(numbers) > 60
    for where, text in texts.items():
        assert "Zelda" not in text, where
        assert "Quux" not in text, where
        if where.endswith(".svg"):
            continue  # numbers there are places on the page; what is drawn is looked at below
        # The noise is secret, so other numbers begin by chance with the same four digits: in one text of ten with those
        # of one task (measured), of six tasks in fewer than one text of a million. A table of tasks would tell twelve.
        assert len(told(numbers, text, digits=4)) < 6, where
        assert not told(numbers, text, digits=7), where
    kept = json.loads((tmp_path / "run/private/tasks.json").read_text())
    assert kept["tasks"] == list(NAMES)
    assert kept["released"] is False
    for name, scores in kept["scores"].items():
        np.testing.assert_array_equal(np.array(scores, dtype=float), result.scores[name])
    assert {"personal.loss", "local_only.mine"} <= kept["scores"].keys()
    for path in (tmp_path / "run/private").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert (tmp_path / "run/private").stat().st_mode & 0o777 == 0o700


def test_others_cannot_look_into_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        experiment(tmp_path, report=False, baseline=False).run(tmp_path / "run")
        assert [path.name for path in (tmp_path / "run/private").iterdir()] == ["tasks.json"]
        assert (tmp_path / "run/private").stat().st_mode & 0o777 == 0o700
        write_figures(read_run(tmp_path / "run"))
        assert (tmp_path / "run/private/figures").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_how_far_tasks_differ_and_how_many_have_no_metric_is_private_too(tmp_path: Path) -> None:
    result = experiment(tmp_path, metrics="auc").run(tmp_path / "run")
    kept = json.loads((tmp_path / "run/private/tasks.json").read_text())
    assert kept["undefined"] == {"auc": {"personal": 2, "billboard": 2, "local_only": 2}}
    losses = np.sort(result.scores["personal.loss"])
    assert kept["spread"]["loss"]["personal"]["worst_decile"] == pytest.approx(losses[-2:].mean())
    found = result.summary["diagnostics"]
    assert {"spread", "per_task_metrics", "undefined"}.isdisjoint(found)
    assert found["per_task"] == {}
    assert "not defined" not in str(result.summary["warnings"])
    assert spread_lines(result.summary) == [
        "What single tasks reach, how far they differ, and how many updates counted as zero is in private/tasks.json "
        "of the run folder, for you alone."
    ]


def test_a_mean_of_one_task_among_several_is_that_task_s_own(tmp_path: Path) -> None:
    def of_one(predictions: Any, targets: Any) -> float:
        return float(predictions.std()) if (targets == 0).all() else float("nan")

    tasks = people()
    tasks.test.targets[8:12] = 0
    more: dict[str, Any] = {"metrics": {"rare": of_one, "auc": "auc"}, "baseline": False}
    result = experiment(tmp_path, tasks, **more).run(tmp_path / "run")
    assert np.isfinite(result.scores["personal.rare"]).sum() == 1
    assert result.diagnostics.metrics["rare"].personal is None
    assert result.diagnostics.metrics["auc"].personal is not None
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        assert "rare" not in line
        assert "auc" in line or "privacy" in line
    public = replace(tasks, declared="benchmark")
    shown = experiment(tmp_path, public, ledger=None, population=None, **more).run(reproduce=1)
    assert shown.diagnostics.metrics["rare"].personal is not None


def test_the_page_and_its_figures_show_means_alone(tmp_path: Path) -> None:
    experiment(tmp_path).run(tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.per_task("personal") == []
    assert spread(run) is None
    assert headline(run).note == ""
    assert not any("interval" in column for column in headline(run).columns)
    assert "('diagnostic: values of every single task', 'private/tasks.json'" in str(outputs(run).rows)
    assert per_task(run) is None
    shown = accuracies(run)
    assert shown is not None
    assert sum(len(part.get_offsets()) for part in shown.axes[0].collections) == 0
    assert not (tmp_path / "run/figures/per_task.svg").exists()
    inner = run.in_private()
    drawn = accuracies(inner)
    assert drawn is not None
    assert sum(len(part.get_offsets()) for part in drawn.axes[0].collections) == 36
    assert sorted(path.name for path in (tmp_path / "run/private/figures").iterdir()) == [
        *("accuracies.png", "accuracies.svg", "per_task.png", "per_task.svg")
    ]
    page = (tmp_path / "run/report.html").read_text()
    assert "what single tasks of protected data reach is in private/" in page
    assert "of 12 tasks" not in page


def test_a_run_is_read_back_with_its_tasks_and_without_them(tmp_path: Path) -> None:
    run = experiment(tmp_path, metrics="auc")
    result = run.run(tmp_path / "run")
    again = run.run(tmp_path / "run", resume=True)
    assert again.diagnostics == result.diagnostics
    assert again.scores.keys() == result.scores.keys()
    for name, scores in result.scores.items():
        np.testing.assert_array_equal(again.scores[name], scores)
    shutil.move(tmp_path / "run/private", tmp_path / "elsewhere")
    assert run.run(tmp_path / "run", resume=True).scores == {}
    assert write_figures(read_run(tmp_path / "run"))
    assert not (tmp_path / "run/private").exists()
    (tmp_path / "elsewhere/tasks.json").write_text("{")
    shutil.move(tmp_path / "elsewhere", tmp_path / "run/private")
    with pytest.raises(InputError, match=r"tasks\.json is damaged; restore it from a copy, or delete it"):
        run.run(tmp_path / "run", resume=True)
    (tmp_path / "run/private/tasks.json").unlink()
    assert run.run(tmp_path / "run", resume=True).scores == {}


def test_a_folder_of_an_earlier_version_shows_single_tasks_in_private_only(tmp_path: Path) -> None:
    experiment(tmp_path).run(tmp_path / "run")
    run, scores = tmp_path / "run", [round(0.31 + 0.013 * number, 6) for number in range(12)]
    shutil.rmtree(run / "private")
    shutil.rmtree(run / "figures")
    summary = json.loads((run / "summary.json").read_text())
    summary["diagnostics"]["per_task"] = {"personal": scores, "local_only": scores[::-1]}
    del summary["diagnostics"]["tasks_in"]
    write_summary(run, summary)
    page = write_report(run).read_text()
    assert "of 12 tasks" not in page
    assert "interval" not in str(headline(read_run(run)).columns)
    assert (run / "private/figures/per_task.svg").exists()
    assert not (run / "figures/per_task.svg").exists()
    assert read_run(run).in_private().per_task("personal") == scores


def test_a_benchmark_stays_as_it_was(tmp_path: Path) -> None:
    tasks = replace(people(), declared="benchmark")
    client = GlobalModel(learning_rate=0.3)
    run = experiment(tmp_path, tasks, ledger=None, population=None, client=client)
    found = run.run(tmp_path / "run", reproduce=1).summary["diagnostics"]
    assert len(found["per_task"]["personal"]) == 12
    assert found["spread"]["accuracy"]["personal"].keys() == {"worst_decile", "deviation"}
    assert "tasks_in" not in found
    assert not (tmp_path / "run/private").exists()
    assert (tmp_path / "run/figures/per_task.svg").exists()
    assert "95% interval, accuracy" in headline(read_run(tmp_path / "run")).columns
