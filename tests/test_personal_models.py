"""Models that are taken out of a run predict what the run scored: from each client, live, from files, opened later."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from helpers import Crash, toy_tasks
from numpy.typing import NDArray
from test_billboard import experiment, noisy
from torch import nn
from torch.nn.functional import cross_entropy

from fedpriv import ComponentFailure, Experiment, InputError, RunResult, Tasks, open_models, open_run
from fedpriv.clients import MAML, FedProx, GlobalModel, LocalOnly, MeanRegularized
from fedpriv.cohort import Learner, Scores
from fedpriv.config import apply, build_experiment, parse_assignments
from fedpriv.lrs.store import PersonalModels
from fedpriv.personal import Personal
from fedpriv.runs.folder import RunFolder
from fedpriv.runtime.pool import ShardPool
from fedpriv.scenarios import scenario
from fedpriv.strategies import Silent

TASKS = toy_tasks(9, sizes=[6, 9, 4, 13, 5, 8, 6, 21, 7])
SMALL = [
    "data.tasks=12", "data.dimension=8", "data.samples=16", "data.sparsity=1", "data.overlap=2", "data.noise=0.3",
    "client.sparsity=1", "run.grid=in-process", "run.report=false",
]  # fmt: skip
NET = [
    "data.tasks=8", "strategy.rounds=4", "client.warm_up=2", "client.epochs=1", "client.sparsity=5", "run.report=false",
    "run.grid=in-process", "run.baseline=false",
]  # fmt: skip


def toy(client: Any, tasks: Tasks = TASKS, **changes: Any) -> Experiment:
    quiet: dict[str, Any] = {"report": False, "baseline": False, "grid": "in-process", "dtype": "float32"}
    return experiment(tasks, **{"client": client, "strategy": noisy(rounds=3), **quiet, **changes})


def preset(name: str, *settings: str, of: str | None = None) -> Experiment:
    return build_experiment(apply(scenario(name).preset(of), parse_assignments(settings)))


class Frozen(nn.Module):
    """A network of one's own with a layer that nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Linear(5, 6).requires_grad_(False)
        self.head = nn.Linear(6, 3)
        self.register_buffer("scale", torch.tensor(0.7), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.tanh(self.body(inputs)) * self.scale)
        return found


SGD: dict[str, Any] = {"learning_rate": 0.3, "batch_size": 4}
CLIENTS: dict[str, Callable[[], Experiment]] = {
    "mean-regularized": lambda: toy(MeanRegularized(strength=(0.1, 1.0), final_epochs=2, **SGD)),
    "without a last fit": lambda: toy(MeanRegularized(**SGD)),
    "local-only": lambda: toy(LocalOnly(**SGD), strategy=Silent(rounds=3)),
    "global-model": lambda: toy(GlobalModel(**SGD)),
    "global-model, fine-tuned": lambda: toy(GlobalModel(final_epochs=2, **SGD)),
    "fed-prox": lambda: toy(FedProx(final_epochs=1, **SGD)),
    "maml": lambda: toy(MAML(learning_rate=0.4), shots_for(9)),
    "frozen module": lambda: toy(MeanRegularized(final_epochs=1, **SGD), model=Frozen(), public_weights=True),
    "a head that stays": lambda: toy(MeanRegularized(share=("*.weight",), final_epochs=1, **SGD)),
    "a head that stays, no last fit": lambda: toy(GlobalModel(share=("*.weight",), **SGD)),
    "groups": lambda: toy(GlobalModel(**SGD), strategy=noisy(rounds=3, groups=(0, 1, 0, 1, 1, 0, 0, 1, 1))),
    "low-rank-sparse": lambda: preset("lrs-synthetic", *SMALL),
    "published-low-rank-sparse": lambda: preset("lrs-synthetic", *SMALL, "client.name=published-low-rank-sparse"),
    "low-rank-sparse-net": lambda: preset("lrs-net", *NET, of="digits"),
}


def shots_for(count: int) -> Tasks:
    """Tasks with at least three examples of each class."""
    tasks = toy_tasks(count, sizes=[12] * count)
    tasks.train.targets[:] = np.tile([0, 1, 2], 4 * count)
    return tasks


def scores_of(personal: Personal, tasks: Tasks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score each task's module on its test part, by the definitions: accuracy and mean loss, [m] each."""
    accuracies, losses = [], []
    for place, name in enumerate(tasks.names):
        rows = tasks.test.rows(place)
        inputs, targets = tasks.test.inputs[rows], tasks.test.targets[rows]
        module, kind = personal[name], personal.outline.problem.dtype
        assert not module.training
        with torch.no_grad():
            outputs = module(torch.from_numpy(inputs).to(kind))
        if tasks.num_classes is None:
            error = outputs.double().numpy().reshape(targets.shape) - targets
            losses.append(float(0.5 * (error.reshape(len(error), -1) ** 2).sum(axis=1).mean()))
            accuracies.append(np.nan)
            np.testing.assert_array_equal(personal.predict(name, inputs), outputs.numpy().reshape(targets.shape))
        else:
            losses.append(float(cross_entropy(outputs.double(), torch.from_numpy(targets))))
            accuracies.append(float(np.mean(personal.predict(name, inputs) == targets)))
            chances = personal.predict(name, inputs, probabilities=True)
            np.testing.assert_allclose(chances, outputs.softmax(dim=1).numpy())
    return np.array(accuracies), np.array(losses)


def assert_as_scored(personal: Personal, tasks: Tasks, result: RunResult) -> None:
    """Accuracies are the same to the bit; of losses the order of sums differs, since the run computes many tasks."""
    accuracy, loss = scores_of(personal, tasks)
    if tasks.num_classes is not None:
        np.testing.assert_allclose(accuracy, result.scores["personal.accuracy"], rtol=1e-7)  # means of float32
    exact = personal.outline.problem.dtype == torch.float64
    if "personal.loss" in result.scores:
        np.testing.assert_allclose(loss, result.scores["personal.loss"], rtol=1e-9 if exact else 2e-6, atol=1e-9)


@pytest.mark.parametrize("kind", CLIENTS)
def test_what_is_taken_out_predicts_what_was_scored(kind: str, tmp_path: Path) -> None:
    made = CLIENTS[kind]()
    tasks, module = made.data, made.model if isinstance(made.model, nn.Module) else None
    result = made.run()
    assert_as_scored(result.personal, tasks, result)
    kept = made.run(tmp_path / "run")  # another run: its own coins and noise
    kept.personal.save(tmp_path / "out")
    again = open_run(tmp_path / "run", made)
    assert_as_scored(again.personal, tasks, kept)
    read = open_models(tmp_path / "out", module and Frozen())
    assert_as_scored(read, tasks, kept)
    assert list(read) == list(kept.personal) == list(tasks.names)
    if kind not in ("global-model", "groups"):
        assert any(
            not torch.equal(one, other)
            for one, other in zip(read[tasks.names[0]].parameters(), read[tasks.names[1]].parameters(), strict=True)
        )


def test_modules_are_copies_of_the_runs_own(tmp_path: Path) -> None:
    own = Frozen()
    result = toy(MeanRegularized(final_epochs=1, **SGD), model=own, public_weights=True).run()
    first = result.personal["task-0"]
    assert isinstance(first, Frozen)
    assert result.personal["task-0"] is not first
    assert not torch.equal(first.head.weight, own.head.weight)
    torch.testing.assert_close(first.body.weight, own.body.weight, rtol=0, atol=0)
    before = result.predict("task-0", TASKS.test.inputs[:4], probabilities=True)
    with torch.no_grad():
        first.head.weight.zero_()
    np.testing.assert_array_equal(result.predict("task-0", TASKS.test.inputs[:4], probabilities=True), before)
    result.personal.save(tmp_path / "out")
    other = Frozen()
    with torch.no_grad():
        other.body.weight.zero_()  # the folder has the constants of the run
        other.scale.zero_()
    read = open_models(tmp_path / "out", other)
    np.testing.assert_array_equal(read.predict("task-0", TASKS.test.inputs[:4], probabilities=True), before)
    assert float(other.scale) == 0  # what was given stays as it is
    with pytest.raises(InputError, match=r"given in Python; give it there: fedpriv\.open_models"):
        open_models(tmp_path / "out")
    with pytest.raises(InputError, match=r"learned arrays.*give the one of the run"):
        open_models(tmp_path / "out", nn.Linear(5, 3))


def arrays_of(personal: Personal) -> dict[str, NDArray[Any]]:
    found = {}
    for ids, params, _ in personal.blocks():
        for name, value in params.items():
            found |= {f"{place} {name}": row.numpy() for place, row in zip(ids.tolist(), value, strict=True)}
    return dict(sorted(found.items()))


def test_a_run_that_went_on_after_its_last_states_has_the_models_of_one_that_was_never_stopped(
    tmp_path: Path, monkeypatch: Any
) -> None:
    made = toy(MeanRegularized(final_epochs=2, **SGD), checkpoint_every=2)
    whole = made.run(tmp_path / "whole", reproduce=4)

    def crash(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_summary", crash)
        with pytest.raises(Crash):
            made.run(tmp_path / "run", reproduce=4)
    resumed = made.model_copy(update={"shards": 3}).run(tmp_path / "run", reproduce=4, resume=True)
    opened = open_run(tmp_path / "run", made)
    for one in (resumed, opened):
        for name, value in arrays_of(whole.personal).items():
            np.testing.assert_array_equal(arrays_of(one.personal)[name], value, err_msg=name)


def test_shards_on_ray_leave_the_same_models_with_a_folder_and_without(
    pool: ShardPool, tmp_path: Path, monkeypatch: Any
) -> None:
    made = toy(MeanRegularized(final_epochs=1, **SGD))
    here = arrays_of(made.run(reproduce=2).personal)
    ray = made.model_copy(update={"grid": "ray", "shards": 2})
    results = [ray.run(place, reproduce=2, pool=pool) for place in (None, tmp_path / "run")]
    # A run that keeps nothing does not fail where the temporary folder cannot be written to.
    monkeypatch.setattr("fedpriv.experiment.personal.mkdtemp", lambda prefix: str(tmp_path / "gone" / prefix))
    lost = ray.run(reproduce=2, pool=pool)
    assert lost.diagnostics == results[0].diagnostics
    with pytest.raises(InputError, match=r"the states of the tasks were not kept: .* cannot be written"):
        lost.personal  # noqa: B018
    for result in results:
        found = arrays_of(result.personal)
        assert found.keys() == here.keys()
        for name, value in here.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_people_whose_values_cannot_be_computed_have_the_billboard_and_are_not_named(tmp_path: Path) -> None:
    inputs = TASKS.train.inputs.copy()
    inputs[TASKS.train.rows(4)] = np.nan
    people = replace(TASKS, train=replace(TASKS.train, inputs=inputs), declared="protected")
    made = toy(
        MeanRegularized(final_epochs=1, **SGD), people, population="p", ledger=tmp_path / "p.sqlite",
        model="linear",
    )  # fmt: skip
    result = made.run(tmp_path / "run")
    result.personal.save(tmp_path / "out")
    (billboard,) = result.billboards.values()
    file = safetensors.numpy.load((tmp_path / "out" / "models.safetensors").read_bytes())
    assert file["has_own_model"].tolist() == [place != 4 for place in range(9)]
    for name, value in billboard.items():
        np.testing.assert_array_equal(file[f"learned.{name}"][4], value)
        assert not np.array_equal(file[f"learned.{name}"][3], value)
    np.testing.assert_array_equal(
        result.predict("task-4", TASKS.test.inputs[:3]),
        open_models(tmp_path / "out").predict("task-4", TASKS.test.inputs[:3]),
    )
    for shown in (repr(result.personal), result.personal._repr_html_(), repr(result), result._repr_html_()):
        assert "task-" not in shown
    with pytest.raises(InputError, match=r"no task 'task-99' among the 9 of this run; see list\(personal\)\.$"):
        result.predict("task-99", TASKS.test.inputs[:3])  # no name of another person is suggested


def test_a_folder_of_an_earlier_version_gives_what_follows_from_its_billboard_alone(tmp_path: Path) -> None:
    cases: tuple[tuple[Any, bool], ...] = (
        (GlobalModel(final_epochs=2, **SGD), True),
        (MeanRegularized(**SGD), False),
        (GlobalModel(share=("*.weight",), **SGD), False),  # what stays with a task is on no billboard
    )
    for number, (client, possible) in enumerate(cases):
        made, run = toy(client), tmp_path / str(number)
        before = arrays_of(made.run(run).personal)
        for path in (run / "checkpoints").glob("states-*.npz"):
            path.unlink()
        if possible:
            found = arrays_of(open_run(run, made).personal)
            for name, value in before.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            with pytest.raises(InputError, match=r"no states of the end of its run.*run it once more"):
                open_run(run, made).personal  # noqa: B018
            assert len(made.run(tmp_path / f"again-{number}").personal["task-0"].state_dict()) == len(before) // 9


def test_states_that_are_lost_or_damaged_are_said(pool: ShardPool, tmp_path: Path) -> None:
    made = toy(MeanRegularized(**SGD), shards=2, grid="ray")
    made.run(tmp_path / "run", pool=pool)
    files = sorted((tmp_path / "run" / "checkpoints").glob("states-000004-*.npz"))
    assert len(files) == 2
    content = files[1].read_bytes()
    files[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(ComponentFailure, match=r"states-000004-\d+\.npz cannot be read"):
        list(open_run(tmp_path / "run", made).personal.blocks())
    files[1].unlink()
    with pytest.raises(ComponentFailure, match=r"lost the states of [45] tasks; restore it from a copy"):
        list(open_run(tmp_path / "run", made).personal.blocks())


class OwnScores(GlobalModel):
    """Scores something else than it gives out."""

    def evaluate(self, learner: Learner, billboard: Any, state: Any, cohort: Any) -> Scores:
        return learner.evaluate({k: 0 * v for k, v in self.personal(billboard, state, cohort).items()}, cohort)


def test_what_cannot_be_taken_out_is_a_sentence(tmp_path: Path) -> None:
    result = toy(OwnScores(**SGD)).run()
    with pytest.raises(InputError, match=r"OwnScores scores in a way of its own.*override models\(\)"):
        result.personal  # noqa: B018
    result = toy(GlobalModel(**SGD)).run(tmp_path / "run")
    one = TASKS.test.inputs[0]
    for question, said in (
        (lambda: result.predict("task-99", one[None]), "there is no task 'task-99' among the 9 of this run; did you"),
        (lambda: result.personal["nobody at all"], r"no task 'nobody at all' among the 9 of this run; see list"),
        (lambda: result.predict("task-0", one), r"must have shape \(n, 5\).*got \(5,\); for a single one.*x\[None\]"),
        (lambda: result.predict("task-0", np.zeros((2, 4))), r"must have shape \(n, 5\).*got \(2, 4\)\."),
        (lambda: result.predict("task-0", [["a"] * 5]), "must be numbers, got <U1"),
        (lambda: result.predict("task-0", [one, one * np.nan]), r"row 1 of the examples .* holds a NaN"),
        (lambda: result.predict("task-0", [one.astype(float) * 1e300]), "row 0 of the examples.*more than 3.4e"),
        (lambda: result.personal.save(tmp_path / "m.safetensors"), "only low-rank-plus-sparse models have a compact"),
        (lambda: result.personal.save(tmp_path / "run"), "is not the folder of an export; choose another one"),
        (lambda: result.to_frame("month"), "'per' must be 'task' or 'round', got 'month'"),
        (lambda: pickle.loads(pickle.dumps(result)).personal, r"open its folder with fedpriv\.open_run\(folder\)"),
        (lambda: open_run(tmp_path / "run"), r"made in Python.*fedpriv.open_run\(folder, experiment\)\.personal.save"),
        (lambda: open_run(tmp_path / "nothing"), "is not a run folder: it holds no config.toml"),
        (lambda: open_models(tmp_path / "run"), "holds no manifest.json"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            question()
    with pytest.raises(KeyError):
        result.personal["nobody"]
    result.personal.save(tmp_path / "m")
    result.personal.save(tmp_path / "m")
    assert "nobody" not in result.personal
    assert result.predict("task-0", np.zeros((0, 5))).shape == (0,)
    assert result.predict("task-0", np.zeros((0, 5)), probabilities=True).shape == (0, 3)
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(InputError, match="is not finished; go on with `fedpriv run"):
        open_run(tmp_path / "run", toy(GlobalModel(**SGD)))
    values = preset("lrs-synthetic", *SMALL).run()
    with pytest.raises(InputError, match="predicts values, which have no probabilities"):
        values.predict(next(iter(values.personal)), np.zeros((1, 8)), probabilities=True)
    assert (
        values.predict(next(iter(values.personal)), np.zeros((1, 8))).shape == values.population.test.targets[:1].shape
    )


def test_a_damaged_export_is_a_sentence(tmp_path: Path) -> None:
    toy(GlobalModel(**SGD)).run().personal.save(tmp_path / "out")
    manifest, models = tmp_path / "out" / "manifest.json", tmp_path / "out" / "models.safetensors"
    whole = models.read_bytes()
    for content in (whole[:-1], whole[:30], b""):
        models.write_bytes(content)
        with pytest.raises(InputError, match="does not hold personal models, or is cut short; export them anew"):
            open_models(tmp_path / "out")
    models.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        open_models(tmp_path / "out")
    models.write_bytes(whole)
    toy(GlobalModel(**SGD)).run().personal.save(tmp_path / "out")  # anew, as advised
    assert len(open_models(tmp_path / "out")) == 9
    about = json.loads(manifest.read_text())
    about["roster"]["names"] = about["roster"]["names"][:-1]
    manifest.write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"does not hold the models that manifest\.json names"):
        open_models(tmp_path / "out")
    for text in ("{", "{}", "[]"):
        manifest.write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json is damaged; export the models anew"):
            open_models(tmp_path / "out")


def test_an_export_is_private_and_replaces_an_older_one(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    result = toy(MeanRegularized(**SGD)).run()
    result.personal.save(out)
    out.chmod(0o755)
    toy(GlobalModel(**SGD)).run().personal.save(out)
    assert out.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in out.iterdir()} == {"manifest.json", "models.safetensors"}
    for path in out.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    about = json.loads((out / "manifest.json").read_text())
    assert about["client"] == "global-model"
    assert about["released"] is False
    assert "no guarantee protects" in about["note"]
    assert set(about["billboards"]) == {"all"}


def test_a_table_of_tasks_and_one_of_rounds(tmp_path: Path) -> None:
    made = toy(MeanRegularized(**SGD), baseline=True, strategy=noisy(rounds=4, evaluate_every=2))
    for result in (made.run(), made.run(tmp_path / "run")):
        people = result.to_frame()
        assert people["task"].tolist() == list(TASKS.names)
        np.testing.assert_array_equal(people["train"], TASKS.train.sizes)
        for model in ("personal", "billboard", "local_only"):
            np.testing.assert_array_equal(people[f"{model}_accuracy"], result.scores[f"{model}.accuracy"])
        rounds = result.to_frame("round").set_index("round")
        assert rounds.loc[4, "epsilon"] == pytest.approx(result.guarantee.epsilon)
        assert rounds.loc[4, "diagnostic_personal_loss"] == pytest.approx(result.diagnostics.loss.personal)
        assert np.isfinite(rounds.loc[2, "diagnostic_personal_loss"])
    shutil.rmtree(tmp_path / "run" / "figures", ignore_errors=True)
    opened = open_run(tmp_path / "run", made).to_frame()
    np.testing.assert_allclose(opened["personal_accuracy"], result.scores["personal.accuracy"], atol=1e-6)


def test_the_compact_file_holds_the_states_of_the_run(tmp_path: Path) -> None:
    made = preset("lrs-synthetic", *SMALL, "client.name=published-low-rank-sparse")  # which goes on from round to round
    result = made.run()
    result.personal.save(tmp_path / "m.safetensors", dtype="float64")
    tasks, models = made.data, PersonalModels.open(tmp_path / "m.safetensors")
    for place, name in enumerate(tasks.names):
        inputs = tasks.test.inputs[tasks.test.rows(place)]
        found = models.predict(np.full(len(inputs), place), inputs)
        np.testing.assert_allclose(found, result.predict(name, inputs).reshape(-1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("client", [GlobalModel(final_epochs=3, **SGD), MeanRegularized(final_epochs=2, **SGD)])
def test_people_who_come_later_get_the_models_by_which_held_out_people_are_scored(client: Any) -> None:
    later = replace(toy_tasks(5, seed=4, sizes=[6, 9, 4, 13, 5]), names=tuple("abcde"))
    result = toy(client, held_out=later, references=False).run()
    models = result.personal.adapted(later)
    accuracy, _ = scores_of(models, later)
    scored = result.summary["diagnostics"]["held_out"]["billboard"]["accuracy"]
    assert round(float(accuracy.mean()), 4) == scored
    one, other = (models[name].state_dict() for name in later.names[:2])
    assert any(not torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InputError, match=r"these people have num_classes 2 and the run's tasks 3; give both the same"):
        result.personal.adapted(toy_tasks(4, classes=2))
    groups = toy(client, strategy=noisy(rounds=1, groups=(0, 1, 0, 1, 1, 0, 0, 1, 1))).run()
    with pytest.raises(InputError, match=r"a billboard for each of 2 groups.*use a run without groups"):
        groups.personal.adapted(later)


def test_models_of_a_folder_cannot_be_fitted_to_others(tmp_path: Path) -> None:
    made = toy(GlobalModel(final_epochs=1, **SGD))
    made.run(tmp_path / "run").personal.save(tmp_path / "out")
    with pytest.raises(InputError, match=r"open the run: fedpriv.open_run\(folder\)"):
        open_models(tmp_path / "out").adapted(TASKS)
    assert len(open_run(tmp_path / "run", made).personal.adapted(TASKS)) == 9


def test_a_notebook_sees_means_guarantee_and_what_protects_the_models() -> None:
    result = toy(MeanRegularized(final_epochs=1, **SGD)).run()
    shown = result._repr_html_()
    assert "mean test accuracy" in shown
    assert f"{result.diagnostics.accuracy.personal:.4g}" in shown
    assert escape(str(result.guarantee)) in shown
    models = result.personal._repr_html_()
    assert "models of 9 tasks" in models
    assert "no guarantee protects a task against somebody who reads its own" in models
    for text in (shown, models):
        assert not any(name in text for name in TASKS.names)
