"""Data that people bring themselves: what is taken, what is refused by its type, and what values may never decide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Explosive, toy_tasks
from torch import nn

from fedpriv import Experiment, InputError
from fedpriv.clients import MAML, GlobalModel, LocalOnly, MeanRegularized
from fedpriv.cohort import PARTS, Cohort, Ragged, Tasks, usable
from fedpriv.cohort.episodes import check_shots
from fedpriv.held_out import pretrained, score_held_out
from fedpriv.protocol import ALL
from fedpriv.settings import Settings
from fedpriv.strategies import Billboard

X = [np.arange(12, dtype="float32").reshape(4, 3), np.ones((2, 3), "float32")]
Y = [np.array([0, 1, 0, 1]), np.array([1, 0])]


def one(inputs: Any = None, targets: Any = None) -> Ragged:
    """Two tasks of 4 and 2 examples, the first entry replaced."""
    return Ragged.from_lists([X[0] if inputs is None else inputs, X[1]], [Y[0] if targets is None else targets, Y[1]])


def made(part: Ragged | None = None, **changes: Any) -> Tasks:
    part = part or one()
    fields: dict[str, Any] = {
        "dataset": "mine", "names": ("ann", "bob"), "train": part, "validation": part, "test": part, "num_classes": 2,
        "declared": "benchmark",
    }  # fmt: skip
    return Tasks(**{**fields, **changes})


# --- inputs and targets belong together ---


def test_an_entry_with_as_many_inputs_as_another_one_has_targets_is_refused_with_its_place() -> None:
    """The totals agree, so cuts taken from the targets would put two rows of one person into another's task."""
    with pytest.raises(InputError, match=r"task number 0 .* has 4 inputs and 2 targets"):
        Ragged.from_lists(X, Y[::-1])
    with pytest.raises(InputError, match="inputs of 2 tasks and targets of 1"):
        Ragged.from_lists(X, Y[:1])
    with pytest.raises(InputError, match="there are no tasks"):
        Ragged.from_lists([], [])
    with pytest.raises(InputError, match=r"\(2, 4, 3\) and \(2, 3\)"):
        Ragged.from_block(np.zeros((2, 4, 3)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="6 inputs and 5 targets"):
        Ragged(np.zeros((6, 3)), np.zeros(5), np.array([0, 6]))


@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        ([2, 4, 6], "go from 2 to 6"),
        ([0, 5, 3, 6], "fall behind entry 1"),
        ([0, 4], "go from 0 to 4"),
        ([0, 4, 9], "go from 0 to 9"),
        ([0.0, 4.0, 6.0], "float64"),
        ([[0, 6]], r"shape \(1, 2\)"),
        ([], r"shape \(0,\)"),
    ],
)
def test_offsets_that_drop_or_repeat_rows_are_refused(offsets: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Ragged(np.zeros((6, 3)), np.zeros(6), np.array(offsets))


def test_entries_and_parts_that_differ_are_refused_and_empty_ones_do_not_matter() -> None:
    with pytest.raises(InputError, match=r"number 1 .* shape \(3,\), number 0 holds \(4,\)"):
        one(np.zeros((4, 4)))
    with pytest.raises(InputError, match=r"number 1 .* float32, number 0 holds int64"):
        one(X[0].astype("int64"))
    empty = Ragged.from_lists([[], X[1]], [[], Y[1]])
    assert empty.sizes.tolist() == [0, 2]
    assert empty.inputs.dtype == np.float32
    nothing = Ragged.from_lists([[], []], [[], []])
    tasks = made(validation=nothing)
    tasks.check()
    assert tasks.validation.inputs.shape == (0, 3)
    for other, words in (
        (Ragged.from_lists(X * 2, Y * 2), "validation part has 4 tasks where there are 2 names"),
        (Ragged.from_lists([np.zeros((2, 5))] * 2, [Y[1]] * 2), r"shape \(5,\), the train part \(3,\)"),
        (Ragged.from_lists([x.astype("int64") for x in X], Y), "inputs of type int64, the train part float32"),
    ):
        with pytest.raises(InputError, match=words):
            made(validation=other).check()
    with pytest.raises(InputError, match="'bob' has no training examples"):
        made(train=Ragged.from_lists([X[0], []], [Y[0], []])).check()
    with pytest.raises(InputError, match="there are no tasks; give"):
        made(replace(one(), inputs=X[0][:0], targets=Y[0][:0], offsets=np.array([0])), names=()).check()


# --- types ---


def test_arrays_of_many_kinds_are_taken_for_what_they_are() -> None:
    import pandas as pd

    swapped, backwards = X[0].astype(">f4"), X[0][::-1][::-1]
    frozen = X[0].copy()
    frozen.flags.writeable = False
    leaf = torch.from_numpy(X[0]).requires_grad_()
    halves = (X[0].astype("float16"), torch.from_numpy(X[0]).bfloat16())
    for given in (
        X[0].tolist(),
        leaf,
        pd.DataFrame(X[0]),
        swapped,
        backwards,
        frozen,
        np.asfortranarray(X[0]),
        *halves,
    ):
        found = one(given)
        np.testing.assert_array_equal(found.inputs[:4], X[0])
        assert found.inputs.dtype in (np.float32, np.float64)
        assert found.inputs.dtype.isnative
        flat = Ragged(given, Y[0], [0, 4])
        np.testing.assert_array_equal(Cohort(made(one(given)), np.arange(2)).part("train").inputs[0], X[0])
        assert torch.from_numpy(np.array(flat.inputs)).dtype in (torch.float32, torch.float64)
    assert one(X[0].astype(np.longdouble)).inputs.dtype == np.float64
    backward = Ragged(X[0][::-1], Y[0], np.array([0, 4]))
    assert torch.from_numpy(backward.inputs)[0, 0] == 9, "torch cannot read an array that goes backwards"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.ma.masked_array(X[0], X[0] > 5), "mask would be lost"),
        (np.ma.masked_array(X[0]), "mask would be lost"),  # the type decides, not whether somebody's value is missing
        ([np.ma.masked_array(row, row > 5) for row in X[0]], "mask would be lost"),
        (X[0] > 5, r"booleans \(bool\).*astype\('float32'\)"),
        (X[0].astype(complex), "complex numbers"),
        (X[0].astype("datetime64[s]"), "dates"),
        (X[0].astype(str), "text"),
        (X[0].astype("S3"), "bytes"),
        (X[0].astype(object), "Python objects"),
        ([[1.0, None, 2.0]] * 4, "list of Python objects"),
        (np.zeros(4, dtype=[("a", "f4")]), "records"),
        (X[0].astype("uint64"), r"uint64; give \.astype\('int64'\)"),
        (object(), "give the array that it holds"),
        ([[1.0], [1.0, 2.0], [3.0], [4.0]], r"list that makes no array \(ValueError\)"),
        (np.float32(3), "axis of examples"),
        (torch.from_numpy(X[0]).to_sparse(), "to_dense"),
        (None, r"array of numbers \[n, \.\.\.\], got NoneType"),
    ],
)
def test_what_holds_no_numbers_is_refused_by_its_type(inputs: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        Ragged.from_lists([inputs, X[1]], Y)
    assert "inputs of task number 0" in str(refused.value)
    assert "7.0" not in str(refused.value), "no value gets into a sentence"


def test_pandas_columns_that_may_hold_gaps_are_refused_whether_or_not_they_do() -> None:
    import pandas as pd

    for values in ([1.0, 2.0, 3.0, 4.0], [1.0, None, 3.0, 4.0]):
        with pytest.raises(InputError, match=r"columns of type Float64; give \.to_numpy\('float32'"):
            one(pd.DataFrame({name: pd.array(values, dtype="Float64") for name in "abc"}))
    gaps = pd.DataFrame({name: pd.array([1.0, None, 3.0, 4.0], dtype="Float64") for name in "abc"})
    assert np.isnan(one(gaps.to_numpy("float32", na_value=float("nan"))).inputs[1]).all(), "the advice"
    labels = pd.Series(pd.array([0, 1, None, 1], dtype="Int64"))
    with pytest.raises(InputError, match=r"type Int64; give \.to_numpy\('int64', na_value=-1\)"):
        one(targets=labels)
    assert one(targets=labels.to_numpy("int64", na_value=-1)).targets[:4].tolist() == [0, 1, -1, 1], "the advice"
    with pytest.raises(InputError, match=r"type category; .*fixed beforehand"):
        one(targets=pd.Series(["no", "yes", "no", "yes"], dtype="category"))


def test_python_objects_become_numbers_by_the_advice() -> None:
    for values in (X[0].astype(object), [[1.0, None, 2.0]] * 4, [[2**70, 1, 1]] * 4):
        with pytest.raises(InputError, match=r"np\.asarray\(values, dtype='float32'\)"):
            one(values)
        assert one(np.asarray(values, dtype="float32")).inputs.dtype == np.float32


def test_entries_come_as_a_list() -> None:
    for values in (None, {"ann": X[0]}, "ab", 3):
        with pytest.raises(
            InputError, match="inputs must be a list with one array per task, in the order of names, got"
        ):
            Ragged.from_lists(values, Y)  # type: ignore[arg-type]
    assert len(Ragged.from_lists(np.zeros((2, 4, 3)), (labels for labels in np.zeros((2, 4), int)))) == 2  # type: ignore[arg-type]


def test_a_loss_and_a_model_that_do_not_fit_the_data_are_a_sentence() -> None:
    with pytest.raises(InputError, match="give Tasks num_classes"):
        trained(made(num_classes=None), loss="cross-entropy").problem()
    flat = Ragged.from_lists([x[:, 0] for x in X], Y)
    with pytest.raises(InputError, match=r"\.reshape\(-1, 1\)"):
        trained(made(flat)).problem()
    trained(made(Ragged.from_lists([x[:, 0].reshape(-1, 1) for x in X], Y))).problem()


@pytest.mark.parametrize(
    ("targets", "advice", "words"),
    [
        (Y[0].astype("float32"), lambda y: y.astype("int64"), r"whole numbers, got float.*astype\('int64'\)"),
        (np.array(["no", "yes", "no", "yes"]), lambda y: (y == "yes").astype(int), "text.*fixed beforehand"),
        (Y[0].astype(object), None, "Python objects"),
        (np.eye(2, dtype=int)[Y[0]], lambda y: y.argmax(axis=1), r"shape \(2,\).*argmax"),
        (Y[0][:, None], lambda y: y.reshape(-1), r"shape \(1,\).*reshape\(-1\)"),
    ],
)
def test_labels_are_whole_numbers_or_refused(targets: Any, advice: Any, words: str) -> None:
    other = np.eye(2, dtype=int)[Y[1]] if targets.shape == (4, 2) else Y[1].reshape(-1, *targets.shape[1:])
    with pytest.raises(InputError, match=words):
        made(Ragged.from_lists(X, [targets, other.astype(targets.dtype)]))
    if advice:
        np.testing.assert_array_equal(made(one(targets=advice(targets))).train.targets[:4], Y[0])


def test_booleans_are_classes_and_whole_numbers_are_values_of_a_regression() -> None:
    tasks = made(Ragged.from_lists(X, [labels.astype(bool) for labels in Y]))
    assert tasks.train.targets.dtype == np.int64
    np.testing.assert_array_equal(tasks.train.targets, np.concatenate(Y))
    values = made(num_classes=None)
    assert values.train.targets.dtype == np.float64
    assert Cohort(values, np.arange(2)).part("train").targets.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": (1, 2)}, "names must be text, got int at place 0"),
        ({"names": "ab"}, "sequence with one name per task, got str"),
        ({"names": ("a\ud800", "b")}, "UTF-8"),
        ({"names": ("a\0", "b")}, "NUL"),
        ({"num_classes": 2.0}, "public number of classes"),
        ({"num_classes": True}, "public number of classes"),
        ({"train": (X, Y)}, "train must be a Ragged, got tuple"),
        ({"test": None}, "test must be a Ragged, got NoneType"),
        ({"groups": (0, "b")}, "whole number for each task, got str"),
        ({"declared": "public"}, "got 'public'"),
    ],
)
def test_fields_of_the_wrong_type_are_a_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        made(**changes)


def test_one_person_under_two_spellings_is_refused() -> None:
    made(names=["ann", np.str_("bob")]).check()
    for names in (("ann", "ann"), ("Zoe\u0308", "Zo\u00eb")):
        with pytest.raises(InputError, match="unique, also after Unicode normalisation"):
            made(names=names).check()
    late = made(names=("Zoe\u0308", "cleo"))
    with pytest.raises(InputError, match="is in the population, too"):
        trained(made(names=("Zo\u00eb", "bob")), held_out=late)
    with pytest.raises(InputError, match="held-out people need inputs of type float32, got int64"):
        trained(made(), held_out=made(Ragged.from_lists([x.astype(int) for x in X], Y), names=("c", "d")))
    with pytest.raises(InputError, match=r"kinds must have shape \(2, 2\)"):
        made(kinds=np.zeros((2, 3), dtype=np.int64)).check()


def test_no_validation_part_means_that_nobody_has_validation_examples() -> None:
    tasks = made(validation=None)
    tasks.check()
    assert tasks.validation.sizes.tolist() == [0, 0]
    assert tasks.shard(1, 2).validation.inputs.shape == (0, 3)


# --- whole numbers reach the model ---


def words(count: int = 6) -> Tasks:
    """People who write three words each time; what they talk about follows from the first."""
    rng = np.random.default_rng(0)

    def part(size: int) -> Ragged:
        ids = [rng.integers(0, 11, size=(size + person % 2, 3)) for person in range(count)]
        return Ragged.from_lists(ids, [one[:, 0] % 2 for one in ids])

    return Tasks("words", tuple(f"p{k}" for k in range(count)), part(8), None, part(4), 2, "benchmark")  # type: ignore[arg-type]


class Talk(nn.Module):
    """An embedding and a linear layer; it refuses what is no id."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(11, 4), nn.Linear(12, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        assert ids.dtype == torch.int64
        found: torch.Tensor = self.out(self.words(ids).flatten(1))
        return found


def trained(tasks: Tasks, model: Any = "linear", client: Any = None, engine: str = "auto", **changes: Any) -> Any:
    strategy = Billboard(clipping_norm=0.5, sampling_rate=1.0, rounds=changes.pop("rounds", 2), noise_multiplier=0.0)
    settings = {"grid": "in-process", "strategy": strategy, "shards": 2, **changes}
    client = client or MeanRegularized(epochs=3, learning_rate=0.5, batch_size=4)
    return Experiment(tasks=tasks, model=model, client=client, engine=engine, **settings)


def test_ids_reach_an_embedding_as_whole_numbers_in_every_engine() -> None:
    torch.manual_seed(0)
    tasks, model = words(), Talk()
    bytes_ = {name: replace(tasks.part(name), inputs=tasks.part(name).inputs.astype("uint8")) for name in PARTS}
    short, others = replace(tasks, **bytes_), replace(tasks, num_classes=2)
    assert Cohort(short, np.arange(2)).part("train").inputs.dtype == torch.int64
    found = [trained(some, model, engine=engine, rounds=4).run(reproduce=1) for some, engine in
             ((short, "auto"), (others, "loop"))]  # fmt: skip
    for name, value in found[0].billboards[ALL].items():
        np.testing.assert_allclose(found[1].billboards[ALL][name], value, rtol=1e-4, atol=1e-5)
    assert np.abs(found[0].billboards[ALL]["words.weight"] - model.words.weight.detach().numpy()).max() > 0.01
    maml = trained(tasks, model, MAML(learning_rate=0.1), rounds=1, baseline=False)
    assert not [line for line in maml.run(reproduce=1).summary["warnings"] if "counted as zero" in line]


def test_whole_numbers_are_not_turned_into_floats_in_silence() -> None:
    """Bytes of images would be 0 to 255 and train badly; the advice of the sentence works."""
    bytes_ = replace(toy_tasks(4), validation=None)
    parts = {name: replace(bytes_.part(name), inputs=(40 * bytes_.part(name).inputs % 256).astype(np.uint8))
             for name in ("train", "test")}  # fmt: skip
    tasks = replace(bytes_, **parts)
    with pytest.raises(InputError, match=r"inputs are uint8, and whole numbers reach the model as int64.*/ 255"):
        trained(tasks).run(reproduce=1)
    scaled = {name: replace(part, inputs=part.inputs.astype("float32") / 255) for name, part in parts.items()}
    trained(replace(tasks, **scaled)).run(reproduce=1)


# --- what tasks are declared ---


def test_tasks_by_hand_say_what_they_are() -> None:
    part = one()
    with pytest.raises(
        InputError, match=r"declared='protected' for data of people .*declared='benchmark' for data that"
    ):
        Tasks("mine", ("ann", "bob"), part, part, part, 2)
    for declared in ("protected", "benchmark"):
        assert made(declared=declared).shard(0, 1).declared == declared


# --- values of protected data decide nothing ---

DAMAGE: dict[str, Any] = {
    "nan": lambda part, rows: part.inputs.__setitem__(rows, np.nan),
    "infinite": lambda part, rows: part.inputs.__setitem__((rows.start, 0), np.inf),
    "too large": lambda part, rows: part.inputs.__setitem__((rows.start, 0), 1e300),
    "class": lambda part, rows: part.targets.__setitem__(rows.start, 3),
    "negative class": lambda part, rows: part.targets.__setitem__(rows.start, -1),
}


def people(count: int = 7) -> Tasks:
    """Tasks with float64 inputs, so that numbers can be too large for the run."""
    tasks = toy_tasks(count, sizes=[6, 6, 8, 6, 9, 6, 6][:count])
    parts = {name: replace(tasks.part(name), inputs=tasks.part(name).inputs.astype("float64"))
             for name in ("train", "validation", "test")}  # fmt: skip
    return replace(tasks, **parts)


def damaged(
    how: str, part: str = "train", task: int = 2, declared: str = "protected", tasks: Tasks | None = None
) -> Tasks:
    tasks = tasks or people()
    data = tasks.part(part)  # type: ignore[arg-type]
    copy = replace(data, inputs=data.inputs.copy(), targets=data.targets.copy())
    DAMAGE[how](copy, copy.rows(task))
    return replace(tasks, declared=declared, **{part: copy})


def private(tasks: Tasks, tmp_path: Path, **changes: Any) -> Any:
    """A run whose noise is far too small to hide anything."""
    strategy = Billboard(clipping_norm=0.5, sampling_rate=1.0, rounds=2, noise_multiplier=1e-6, delta=1e-3)
    more = {"population": "clinic", "ledger": tmp_path / "clinic.sqlite", "strategy": strategy}
    return trained(tasks, **{**more, **changes})


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_task_that_cannot_be_used_counts_as_zero_and_is_not_named(how: str, part: str, tmp_path: Path) -> None:
    """The others' sum is what it would be without it, the charge is that of all, and no message tells whose data."""
    folder = tmp_path / "run" if (how, part) == ("class", "train") else None  # one page is as good as ten
    result = private(damaged(how, part), tmp_path).run(folder)
    intact = private(replace(people(), declared="protected"), tmp_path / "..", ledger=tmp_path / "other.sqlite").run()
    assert result.guarantee.epsilon == intact.guarantee.epsilon
    assert np.isnan(result.scores["personal.accuracy"][2])
    assert np.isnan(result.scores["local_only.accuracy"][2])
    for name in ("personal", "billboard", "local_only"):
        assert np.isfinite(np.delete(result.scores[f"{name}.accuracy"], 2)).all()
    same = all(np.allclose(result.billboards[ALL][k], v, atol=1e-3) for k, v in intact.billboards[ALL].items())
    assert same == (part == "test"), "training does not look at the test part"
    written = str(result.summary) + "".join(path.read_text() for path in tmp_path.glob("run/*.[jht]*"))
    assert folder is None or "<html" in written
    for word in ("task-2", "nan.", "Target", "index 3", "out of bounds"):
        assert word not in written
    if part == "train":
        assert result.tasks["counted_as_zero"]["not_finite"] == 2, "once in each round"
    for word in ("not finite", "not_finite", "counted as zero"):
        assert word not in written.replace("how many updates counted as zero", "")


def test_what_a_damaged_task_adds_is_zero(tmp_path: Path) -> None:
    """The billboard moves by what the other six send, divided by seven."""
    strategy = Billboard(clipping_norm=50.0, sampling_rate=1.0, rounds=1, noise_multiplier=0.0)
    client = GlobalModel(epochs=1, learning_rate=0.1, batch_size=16)

    def moved(tasks: Tasks, **more: Any) -> dict[str, Any]:
        run = trained(tasks, client=client, strategy=strategy, baseline=False, **more)
        start = run.problem().initial()
        return {name: value - start[name].numpy() for name, value in run.run().billboards[ALL].items()}

    everybody = people()
    whole, own = moved(everybody), moved(replace(everybody.shard(2, 3), first=0))
    for how in ("nan", "class"):
        found = moved(damaged(how), population="a", ledger=tmp_path / f"{how}.sqlite")
        for name, value in found.items():
            assert np.abs(own[name]).max() > 1e-3
            np.testing.assert_allclose(7 * value, 7 * whole[name] - own[name], atol=1e-6)


def test_a_value_of_a_benchmark_is_refused_by_name_and_the_advice_fits_own_data() -> None:
    for how, words in (
        ("nan", "a NaN or infinite input"), ("infinite", "a NaN or infinite input"), ("class", r"outside of 0\.\.2"),
        ("negative class", r"outside of 0\.\.2"), ("too large", "too large for float32"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"task 'task-2' holds .*{words}") as refused:
            trained(damaged(how, declared="benchmark"))
        assert "data." not in str(refused.value), "there is no configuration to change"
    trained(damaged("too large", declared="benchmark"), dtype="float64")


def test_a_person_with_one_class_is_normal(tmp_path: Path) -> None:
    tasks = people()
    tasks.train.targets[tasks.train.rows(2)] = 1
    for declared in ("benchmark", "protected"):
        run = private(
            replace(tasks, declared=declared), tmp_path / declared, ledger=tmp_path / f"{declared}.sqlite"
        ).run()
        assert np.isfinite(run.scores["personal.accuracy"]).all()
        assert not [line for line in run.summary["warnings"] if "counted as zero" in line]


def test_a_regression_target_and_published_metrics(tmp_path: Path) -> None:
    """A damaged task contributes the middle of the range to a published mean, as one that does not answer."""
    tasks = people()
    parts = {name: replace(tasks.part(name), targets=tasks.part(name).inputs[:, 0] * 0.3)
             for name in ("train", "validation", "test")}  # fmt: skip
    values = replace(tasks, num_classes=None, **parts)
    values.train.targets[values.train.rows(2).start] = 1e200
    with pytest.raises(InputError, match="task-2"):
        trained(values)
    values.test.targets[values.test.rows(4).start] = np.nan
    strategy = Billboard(clipping_norm=0.5, sampling_rate=1.0, rounds=1, noise_multiplier=1e-6, delta=1e-3,
                         metrics=["personal.loss"], metrics_epsilon=1e9)  # fmt: skip
    run = private(replace(values, declared="protected"), tmp_path, strategy=strategy).run()
    measured = run.summary["metrics"]["means"][0]["values"]["personal.loss"]
    assert np.flatnonzero(np.isnan(run.scores["personal.loss"])).tolist() == [2, 4]
    own = np.delete(run.scores["personal.loss"], [2, 4])
    largest = strategy.metrics_largest_loss
    assert measured == pytest.approx((np.clip(own, 0, largest).sum() + 2 * largest / 2) / 7, abs=0.01)


def test_a_task_whose_model_fails_on_it_is_scored_as_missing_and_not_named(tmp_path: Path) -> None:
    """Also in scoring, where nothing caught it; an exception's text may hold values."""
    torch.manual_seed(0)
    tasks = toy_tasks(5)
    tasks.test.inputs[tasks.test.rows(3)] = 5e3
    told = trained(tasks, Explosive(5, 3), engine="loop").run(reproduce=1)
    assert "task 'task-3'" in " ".join(told.summary["warnings"])
    assert np.flatnonzero(np.isnan(told.scores["personal.accuracy"])).tolist() == [3]
    closed = private(replace(tasks, declared="protected"), tmp_path, model=Explosive(5, 3), engine="loop").run()
    assert "scoring failed" not in str(closed.summary)
    assert closed.tasks["counted_as_zero"] == {"scoring_failed": 2}
    said = closed.tasks["first_reason"] + str(closed.summary)
    assert "cannot be used" in said
    assert "boom" not in said
    assert "task-3" not in said


def test_shots_of_protected_data_are_compared_with_numbers_of_examples_only() -> None:
    tasks = people()
    tasks.train.targets[tasks.train.rows(2)] = 1
    with pytest.raises(InputError, match="one class only"):
        check_shots(tasks, 1)
    check_shots(replace(tasks, declared="protected"), 5)
    with pytest.raises(InputError, match=r"'task-0' has 6 training examples, and 6 shots leave none"):
        check_shots(replace(tasks, declared="protected"), 6)


def test_people_held_out_and_the_pooled_reference_leave_out_who_cannot_be_used(tmp_path: Path) -> None:
    tasks, late = damaged("class"), replace(damaged("nan", "test"), names=tuple(f"late-{k}" for k in range(7)))
    run = private(tasks, tmp_path, held_out=late, client=GlobalModel(final_epochs=1), model="linear")
    problem = run.problem()
    start = {name: value.numpy() for name, value in problem.initial().items()}
    found = score_held_out(run.held_out_people(), problem, start, 100)
    assert found["people"] == 6
    assert np.isfinite(found["billboard"]["accuracy"])
    network = pretrained(run.held_out_people(), problem, 100)
    assert network is not None
    assert all(value.isfinite().all() for value in network.values())


def test_intact_data_are_not_copied_and_the_own_type_of_values_is_kept() -> None:
    tasks = people()
    found = usable(tasks, torch.float64)
    assert found.tasks is tasks
    assert found.trains.all()
    large = damaged("too large")
    assert usable(large, torch.float64).trains.all()
    assert np.flatnonzero(~usable(large, torch.float32).trains).tolist() == [2]
    single = replace(tasks, train=replace(tasks.train, inputs=tasks.train.inputs.astype("float32")))
    single.train.inputs[0, 0] = np.inf
    assert np.flatnonzero(~usable(single, torch.float64).trains).tolist() == [0]


# --- what is shown ---


def test_nothing_that_is_shown_holds_data(tmp_path: Path) -> None:
    tasks = replace(toy_tasks(30), declared="protected")
    marked = replace(tasks.train, inputs=np.full_like(tasks.train.inputs, 0.123456))
    tasks = replace(tasks, train=marked)
    run = private(tasks, tmp_path, held_out=None)
    result = run.run()
    cohort = Cohort(tasks, np.arange(2))
    shown = [
        repr(one) for one in (tasks, tasks.train, cohort, cohort.part("train"), cohort.part("train").marks, run, result)
    ]
    shown += [str(run), str(result), result._repr_html_()]
    for text in shown:
        assert len(text) < 1500
        assert "0.1234" not in text
        assert "task-" not in text
        assert "array(" not in text
    assert repr(tasks).startswith("Tasks('toy': 30 tasks, protected, 3 classes, inputs float32 (5,), ")
    assert "tasks=Tasks('toy': 30 tasks" in repr(run)
    page = shown[-1]
    assert "<th>local only</th>" in page
    assert "Joint differential privacy" in page
    assert "no release covers" in page


def test_wrong_arguments_do_not_print_data() -> None:
    from pydantic import ValidationError

    strategy = Billboard(rounds=1, noise_multiplier=1.0, clipping_norm=1.0)
    secret = np.full((4, 3), 0.123456)
    for value in (secret, torch.from_numpy(secret), [secret], secret.tolist() * 60, "a" * 300, one(secret)):
        with pytest.raises(InputError, match=f"instance of Tasks, got a {type(value).__name__}") as refused:
            Experiment(tasks=value, client=LocalOnly(), strategy=strategy)  # type: ignore[arg-type]
        assert "0.1234" not in str(refused.value)
        with pytest.raises(InputError, match="'held_out' must be") as refused:  # a field without a sentence of its own
            Experiment(tasks=made(), held_out=value, client=LocalOnly(), strategy=strategy)  # type: ignore[arg-type]
        assert "0.1234" not in str(refused.value)
    with pytest.raises(InputError) as refused:
        Experiment(tasks={"dataset": secret, "names": secret}, client=LocalOnly(), strategy=strategy)  # type: ignore[arg-type]
    assert "0.1234" not in str(refused.value)

    class Plain(Settings):
        number: int

    with pytest.raises(ValidationError) as raw:
        Plain.__pydantic_validator__.validate_assignment(Plain.model_construct(number=1), "number", [0.123456])
    assert "0.1234" not in str(raw.value)
    with pytest.raises(InputError, match="got 'seven'"):
        Plain(number="seven")
