"""Metrics of one's own: what they are given, where they are undefined, where they are shown."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import toy_tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from torch import Tensor

from fedpriv import Experiment, InputError, Tasks
from fedpriv.cli.run import model_rows, spread_lines
from fedpriv.clients import MAML, GlobalModel, MeanRegularized
from fedpriv.cohort import METRICS, Metric, Ragged
from fedpriv.config import apply, build_experiment, parse_assignments, read_toml
from fedpriv.report import read_run, write_report
from fedpriv.report.tables import headline, outputs, spread
from fedpriv.statistics import spread_over_tasks
from fedpriv.strategies import Billboard


class Classes:
    """What a metric has to know of a problem."""

    loss: ClassVar[str] = "cross-entropy"


class Values:
    """The same in regression."""

    loss: ClassVar[str] = "squared"


def value(function: Any, predictions: Tensor, targets: Tensor, kind: Any = Classes) -> float:
    outputs = tuple(predictions.shape[1:])
    return Metric.of("own", function).fitted(kind, outputs).value(predictions, targets)


def probabilities(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    raw = np.round(rng.normal(size=(count, classes)), 1)  # so that there are ties
    targets = rng.integers(0, classes, count)
    targets[:classes] = np.arange(classes)
    return torch.softmax(torch.from_numpy(raw), dim=1), torch.from_numpy(targets)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(6, 40), classes=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_the_metrics_by_name_are_those_of_scikit_learn(count: int, classes: int, seed: int) -> None:
    predictions, targets = probabilities(count, classes, seed)
    score = predictions[:, 1] if classes == 2 else predictions
    wanted = sklearn.roc_auc_score(targets, score, multi_class="ovr")
    assert METRICS["auc"][0](predictions, targets) == pytest.approx(wanted, abs=1e-12)
    values, noise = predictions[:, 0], predictions[:, 1]
    assert METRICS["rmse"][0](noise, values) == pytest.approx(sklearn.root_mean_squared_error(values, noise))
    assert METRICS["r2"][0](noise, values) == pytest.approx(sklearn.r2_score(values, noise))
    several = predictions[:, :2], predictions.flip(0)[:, :2]
    assert METRICS["r2"][0](*several) == pytest.approx(sklearn.r2_score(several[1], several[0]))


def test_the_calibration_error_by_hand() -> None:
    """Three examples at 0.9, of which one is right, and one at 0.6, which is wrong: (3 |1/3 - 0.9| + 0.6) / 4."""
    sure = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
    found = METRICS["calibration-error"][0](sure, torch.tensor([0, 1, 1, 0]))
    assert found == pytest.approx((3 * (0.9 - 1 / 3) + 0.6) / 4)
    assert METRICS["calibration-error"][0](torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])) == 0


class Accumulating:
    """Adds up batches as torchmetrics' classes do, and takes probabilities of the second class."""

    higher_is_better: ClassVar[bool] = True

    def __init__(self) -> None:
        self.right: list[Tensor] = []

    def reset(self) -> None:
        self.right = []

    def update(self, preds: Tensor, target: Tensor) -> None:
        if preds.shape != target.shape:
            raise ValueError("preds and target must have the same shape")
        self.right.append((preds > 0.5) == (target == 1))

    def compute(self) -> Tensor:
        return torch.cat(self.right).double().mean()

    def __call__(self, *batch: Tensor) -> Tensor:
        raise AssertionError("would mix tasks")


def test_functions_of_either_library_are_called_as_they_want_to_be() -> None:
    two, three = probabilities(20, 2, 0), probabilities(20, 3, 1)
    labels = two[0].argmax(1)
    assert value(sklearn.roc_auc_score, *two) == pytest.approx(sklearn.roc_auc_score(two[1], two[0][:, 1]))
    several = partial(sklearn.roc_auc_score, multi_class="ovr")
    assert value(several, *three) == pytest.approx(several(three[1], three[0]))
    assert value(sklearn.f1_score, *two) == pytest.approx(sklearn.f1_score(two[1], labels))
    assert value(sklearn.log_loss, *two) == pytest.approx(sklearn.log_loss(two[1], two[0]))
    accumulating = Accumulating()
    for _ in range(2):  # nothing of one task is left for the next
        assert value(accumulating, *two) == pytest.approx(sklearn.accuracy_score(two[1], labels))
    assert not accumulating.right
    mine = lambda predictions, targets: (predictions.argmax(1) == targets).double().mean()  # noqa: E731
    assert value(mine, *three) == pytest.approx(sklearn.accuracy_score(three[1], three[0].argmax(1)))
    line = torch.arange(9.0).double()
    assert value(sklearn.r2_score, line + 1, line, Values) == pytest.approx(sklearn.r2_score(line, line + 1))
    better = [Metric.of("m", one).higher_is_better for one in (sklearn.r2_score, sklearn.mean_absolute_error, mine)]
    assert better == [True, False, None]
    assert Metric.of("m", accumulating).higher_is_better


@pytest.mark.parametrize(
    "function",
    [METRICS["auc"][0], sklearn.roc_auc_score, lambda p, t: float("nan"), lambda p, t: 1 / int((t == 1).sum())],
)
def test_a_metric_that_is_undefined_or_fails_has_no_value(function: Any) -> None:
    predictions, _ = probabilities(6, 2, 0)
    assert math.isnan(value(function, predictions, torch.zeros(6, dtype=torch.int64)))


def test_a_number_that_a_library_calls_meaningless_is_none() -> None:
    import warnings

    def returns_zero(predictions: Tensor, targets: Tensor) -> float:
        if not targets.any():
            warnings.warn("No positive samples in targets, true positive value should be meaningless.", stacklevel=1)
            return 0.0
        return 1.0

    predictions, targets = probabilities(6, 2, 0)
    assert value(returns_zero, predictions, targets) == 1
    assert math.isnan(value(returns_zero, predictions, torch.zeros(6, dtype=torch.int64)))


@pytest.mark.parametrize("better", [True, False, None])
def test_worst_decile_and_deviation_by_hand(better: bool | None) -> None:
    values = [float(number) for number in range(25)]
    found = spread_over_tasks(values, higher_is_better=better)
    assert found["worst_decile"] == {True: 1.0, False: 23.0, None: None}[better]  # of three among 25
    assert found["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert spread_over_tasks([], higher_is_better=True) == {"worst_decile": None, "deviation": None}
    assert spread_over_tasks([2.0], higher_is_better=True) == {"worst_decile": 2.0, "deviation": None}


def experiment(tasks: Tasks, client: Any = None, **more: Any) -> Experiment:
    strategy = Billboard(clipping_norm=0.5, rounds=2, noise_multiplier=0.5, evaluate_every=1)
    settings: dict[str, Any] = {
        "tasks": tasks,
        "model": "linear",
        "grid": "in-process",
        "shards": 2,
        "strategy": strategy,
    }
    return Experiment(client=client or MeanRegularized(learning_rate=0.3), **settings | more)


def two_classes(count: int = 12, single: int = 2) -> Tasks:
    """Tasks with two classes, the first of them with one class in their test part."""
    tasks = toy_tasks(count, classes=2, sizes=[8] * count)
    tasks.test.targets[:] = np.tile([0, 1, 1, 0], count)
    tasks.test.targets[: 4 * single] = 1
    return tasks


@pytest.mark.parametrize(
    "client", [MeanRegularized(learning_rate=0.3), GlobalModel(final_epochs=1), MAML(order="first")]
)
@pytest.mark.parametrize("engine", ["auto", "loop"])
def test_a_run_has_the_metrics_of_every_model_and_says_for_how_many_tasks_they_are_undefined(
    client: Any, engine: str
) -> None:
    tasks = two_classes()
    for position in range(len(tasks)):
        tasks.train.targets[tasks.train.rows(position)] = np.arange(tasks.train.sizes[position]) % 2
    own = lambda predictions, targets: (predictions.argmax(1) == targets).double().mean()  # noqa: E731
    run = experiment(tasks, client, metrics={"auc": "auc", "hits": own}, engine=engine).run(reproduce=1)
    found = run.diagnostics
    for model in ("personal", "billboard", "local_only"):
        np.testing.assert_allclose(run.scores[f"{model}.hits"], run.scores[f"{model}.accuracy"], atol=1e-6)
        auc = run.scores[f"{model}.auc"]
        assert np.isnan(auc).tolist() == [True] * 2 + [False] * 10
        assert vars(found.metrics["auc"])[model] == pytest.approx(np.nanmean(auc))
        assert vars(found.metrics["hits"])[model] == pytest.approx(vars(found.accuracy)[model], abs=1e-6)
    said = "the metric 'auc' is not defined for some of the 12 tasks, or fails on them: 2 (personal), 2 (billboard), 2"
    assert said in " ".join(run.summary["warnings"])
    assert run.summary["diagnostics"]["released"] is False
    assert "auc" not in str(run.summary["releases"])


def regression(count: int = 12) -> Tasks:
    rng = np.random.default_rng(0)

    def part(size: int) -> Ragged:
        inputs = rng.normal(size=(count, size, 3)).astype("float32")
        values = np.stack([inputs.sum(axis=2), inputs[:, :, 0]], axis=2) + 0.1 * rng.normal(size=(count, size, 2))
        return Ragged.from_block(inputs, values.astype("float32"))

    return Tasks("values", tuple(f"task-{k}" for k in range(count)), part(12), part(4), part(6), None, "benchmark")


def test_a_regression_has_its_rmse_and_no_accuracy(tmp_path: Path) -> None:
    """The one that follows from the loss is the one by hand."""
    run = experiment(regression(), metrics=["r2"]).run(tmp_path / "run", reproduce=1)
    asked = experiment(regression(), metrics=["rmse", "r2"]).run(reproduce=1)
    for model in ("personal", "billboard", "local_only"):
        np.testing.assert_allclose(run.scores[f"{model}.rmse"], asked.scores[f"{model}.rmse"], rtol=1e-5)
    assert run.diagnostics.accuracy.personal is None
    heading, *rows = model_rows(run)
    assert heading == ("model", "loss", "rmse", "r2", "epsilon (others see)")
    assert rows[0][2] == f"{run.scores['personal.rmse'].mean():.3f}"
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if line["kind"] == "evaluation"]
    assert len(told) == 3
    assert not any(line["accuracy"] for line in told)
    assert told[-1]["metrics"]["r2"]["personal"] == run.diagnostics.metrics["r2"].personal
    assert "r2" in told[0]["metrics"]
    assert "<th>mean test rmse</th>" in run._repr_html_()


def test_where_they_are_shown_and_read_back(tmp_path: Path) -> None:
    run = experiment(two_classes(), metrics="auc")
    result = run.run(tmp_path / "run", reproduce=1)
    page = write_report(tmp_path / "run").read_text()
    record = read_run(tmp_path / "run")
    assert headline(record).columns[:4] == ("model", "test accuracy", "test loss", "auc")
    assert f"{result.diagnostics.metrics['auc'].personal:.4g}" in page
    table = spread(record)
    assert table is not None
    worst = float(np.sort(result.scores["personal.auc"][2:])[0])
    assert ("auc, personal", f"{worst:.4g}") in [row[:2] for row in table.rows]
    assert "means of further metrics" in str(outputs(record).rows)
    assert "worst decile" in spread_lines(result.summary)[0]
    again = run.run(tmp_path / "run", reproduce=1, resume=True)
    assert again.diagnostics == result.diagnostics
    np.testing.assert_allclose(again.scores["personal.auc"], result.scores["personal.auc"], atol=1e-6)
    other = run.model_copy(update={"metrics": {}})
    assert other.run(tmp_path / "run", reproduce=1, resume=True).diagnostics == result.diagnostics


def test_metrics_change_nothing_that_is_published() -> None:
    one, two = (experiment(two_classes(), metrics=metrics).run(reproduce=1) for metrics in ({}, {"auc": "auc"}))
    for name, published in one.billboards["all"].items():
        np.testing.assert_array_equal(two.billboards["all"][name], published)
    assert one.summary["releases"] == two.summary["releases"]
    assert one.guarantee == two.guarantee


MODULE = "def gini(predictions, targets):\n    return 2 * float(predictions[:, 1].mean()) - 1\nnumber = 3\n"


def test_by_name_and_by_module_from_a_configuration(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "my_measures_for_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "my.toml"
    path.write_text(
        '[data]\nname = "digits"\ntasks = 20\nalpha = 1.0\n[model]\nname = "linear"\n[client]\n[strategy]\n'
        "clipping_norm = 0.5\nrounds = 1\nnoise_multiplier = 1.0\n"
        '[run]\ngrid = "in-process"\nmetrics = ["auc", "my_measures_for_a_test:gini"]\n'
    )
    run = build_experiment(read_toml(path))
    assert list(run.metrics) == ["auc", "gini"]
    assert run.describe()["run"]["metrics"] == {"auc": "auc", "gini": "my_measures_for_a_test:gini"}
    again = build_experiment(apply(read_toml(path), {"run.metrics": run.describe()["run"]["metrics"]}))
    assert again.metrics == run.metrics
    found = again.run(reproduce=1)
    assert found.diagnostics.metrics["gini"].personal is not None
    short = build_experiment(apply(read_toml(path), parse_assignments(["run.metrics=calibration-error"])))
    assert list(short.metrics) == ["calibration-error"]
    for name, words in {
        "acu": "unknown metric 'acu': did you mean 'auc'.*One of your own is named module:function",
        "my_measures_for_a_test:gni": "unknown metric of my_measures_for_a_test 'gni': did you mean 'gini'",
        "no_such_module_here:x": "there is no module 'no_such_module_here'",
        "my_measures_for_a_test:number": "must be a function or a name, got a int",
    }.items():
        with pytest.raises(InputError, match=words):
            build_experiment(apply(read_toml(path), {"run.metrics": [name]}))


@pytest.mark.parametrize(
    ("metrics", "words", "mended"),
    [
        ({"loss": "auc"}, "the name 'loss' cannot be used", {"auc": "auc"}),
        ({"a.b": "auc"}, "use letters, digits", {"a-b": "auc"}),
        (
            {"m": Accumulating},
            r"is the class Accumulating; give an object of it, Accumulating\(\)",
            {"m": Accumulating()},
        ),
        ({"m": lambda p, t: p}, r"fails on made-up predictions \(probabilities \[n, 2\]\).*give a function of", "auc"),
        ({"m": lambda p, t: sklearn.f1_score(p, t)}, "fails on made-up predictions", {"m": sklearn.f1_score}),
        ("r2", "is of values, and this run predicts classes; use 'auc', 'calibration-error'", "auc"),
        (3, "must be names, or a table of functions by name, got a int", ["auc"]),
    ],
)
def test_what_cannot_be_a_metric_is_refused_before_the_run(metrics: Any, words: str, mended: Any) -> None:
    with pytest.raises(InputError, match=words):
        experiment(two_classes(), metrics=metrics).check()
    experiment(two_classes(), metrics=mended).check()
    with pytest.raises(InputError, match="is of classes, and this run predicts values; use 'r2', 'rmse'"):
        experiment(regression(), metrics="auc").check()


def test_a_function_that_has_no_module_travels_to_ray_s_processes() -> None:
    """By what Ray sends nodes with; ``pickle`` alone cannot."""
    from ray import cloudpickle

    run = experiment(two_classes(), metrics={"own": lambda predictions, targets: predictions[:, 0].mean()})
    (sent, *_) = cloudpickle.loads(cloudpickle.dumps(run.specs(run.problem(), 2)))
    predictions, targets = probabilities(6, 2, 0)
    assert sent.metrics[0].value(predictions, targets) == pytest.approx(float(predictions[:, 0].mean()))
