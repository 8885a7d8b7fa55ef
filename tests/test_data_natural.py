"""Regression tasks that exist: what is read, who is public, what is refused."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import experiment, noisy

import fedpriv.data.natural as natural
from fedpriv import InputError
from fedpriv.cohort import Ragged, Tasks
from fedpriv.data import load, natural_tasks
from fedpriv.data.catalog import source
from fedpriv.data.item_factors import Ratings, fit_item_factors
from fedpriv.randomness import generator

PEOPLE, FILMS = 60, 20


def ratings(change: dict[int, float] | None = None) -> list[tuple[int, int, float]]:
    """Everybody rates 12 films; ``change`` adds something to all ratings of a person."""
    rng = np.random.default_rng(0)
    found = []
    for person in range(1, PEOPLE + 1):
        for film in rng.permutation(FILMS)[:12].tolist():
            found.append((person, 10 + film, float(rng.integers(1, 6)) + (change or {}).get(person, 0.0)))
    return found


def archive(folder: Path, size: str, rated: list[tuple[int, int, float]]) -> Path:
    """Write the same ratings as either set has them."""
    (folder / "movielens").mkdir(parents=True, exist_ok=True)
    people = [(n, 17 if n % 2 else 40, "MF"[n % 3 == 0], f"work{n % 4}") for n in range(1, PEOPLE + 1)]
    if size == "100k":
        path, place = folder / "movielens/recbole-1.2.1-py3-none-any.whl", "recbole/dataset_example/ml-100k/ml-100k."
        heading = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
        users = [heading, *(f"{n}\t{age}\t{sex}\t{work}\t0" for n, age, sex, work in people)]
        heading = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
        rows = [heading, *(f"{u}\t{i}\t{r}\t0" for u, i, r in rated)]
        texts = {f"{place}user": users, f"{place}inter": rows}
    else:
        path = folder / "movielens/ml-1m.zip"
        codes = {17: 1, 40: 35}
        texts = {
            "ml-1m/users.dat": [f"{n}::{sex}::{codes[age]}::{work}::0" for n, age, sex, work in people],
            "ml-1m/ratings.dat": [f"{u}::{i}::{r}::0" for u, i, r in rated],
        }
    with zipfile.ZipFile(path, "w") as made:
        for name, lines in texts.items():
            made.writestr(name, "\n".join([*lines, ""]))
    return folder


@pytest.fixture
def small(monkeypatch: Any) -> None:
    """Let the catalogue expect the small archives."""
    info = source("movielens")
    files = tuple(replace(file, shape=(PEOPLE * 12, PEOPLE)) for file in info.files)
    monkeypatch.setattr(natural, "source", lambda name: replace(info, files=files))


SETTINGS: dict[str, Any] = {"rank": 3, "public": 0.4}


def test_one_reader_for_both_sets(small: None, tmp_path: Path) -> None:
    archive(tmp_path, "100k", ratings())
    archive(tmp_path, "1m", ratings())
    first, second = (natural_tasks("movielens", tmp_path, size=size, **SETTINGS) for size in ("100k", "1m"))
    assert len(first) == len(second)
    assert first.names[0].startswith("movielens-100k/clusters/F-")
    users = [natural_tasks("movielens", tmp_path, size=size, unit="users", **SETTINGS) for size in ("100k", "1m")]
    assert [len(one) for one in users] == [36, 36]
    assert users[0].names[0].endswith("0001") or users[0].names[0].endswith("0002")


def test_a_target_is_the_mean_rating_of_a_group(small: None, tmp_path: Path) -> None:
    rated = ratings()
    tasks = natural_tasks("movielens", archive(tmp_path, "100k", rated), **SETTINGS)
    told = generator(0, "data/public/movielens-100k/clusters").permutation(PEOPLE)[:24] + 1
    protected = {*range(1, PEOPLE + 1)} - set(told.tolist())
    public = [value for person, _, value in rated if person not in protected]
    groups: dict[tuple[Any, ...], list[float]] = {}
    for person, film, value in rated:
        if person in protected:
            groups.setdefault((person % 2, person % 3 == 0, person % 4, film), []).append(value)
    expected = sorted(np.mean(values) - np.mean(public) for values in groups.values())
    found = np.concatenate([tasks.part(name).targets for name in ("train", "validation", "test")])
    np.testing.assert_allclose(np.sort(found), expected, atol=1e-12)


def test_features_are_made_of_public_people_only(small: None, tmp_path: Path) -> None:
    """The item factors are no release: whatever protected people rate, all features stay as they were."""
    before = natural_tasks("movielens", archive(tmp_path / "a", "100k", ratings()), unit="users", **SETTINGS)
    person = int(before.names[5].rpartition("-")[2])
    after = natural_tasks(
        "movielens", archive(tmp_path / "b", "100k", ratings({person: 1.0})), unit="users", **SETTINGS
    )
    assert before.names == after.names
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(before.part(part).inputs, after.part(part).inputs)
        changed = np.flatnonzero(before.part(part).targets != after.part(part).targets)
        rows = before.part(part).rows(5)
        assert set(changed) == set(range(rows.start, rows.stop))
    protected = {int(name.rpartition("-")[2]) for name in before.names}
    # A film that nobody else rated changes the features of no other film.
    seen = next(film for rater, film, _ in ratings() if rater == person)
    rated = [(n, 5 if (n, film) == (person, seen) else film, value) for n, film, value in ratings()]
    alone = natural_tasks("movielens", archive(tmp_path / "d", "100k", rated), unit="users", **SETTINGS)
    for part in ("train", "validation", "test"):
        rows = before.part(part).rows(5)
        others = np.ones(len(before.part(part).targets), dtype=bool)
        others[rows] = False
        np.testing.assert_array_equal(before.part(part).inputs[others], alone.part(part).inputs[others])
    public = next(one for one in range(1, PEOPLE + 1) if one not in protected)
    other = natural_tasks(
        "movielens", archive(tmp_path / "c", "100k", ratings({public: 1.0})), unit="users", **SETTINGS
    )
    assert not np.array_equal(before.train.inputs, other.train.inputs)


def test_the_seed_divides_and_nothing_else(small: None, tmp_path: Path) -> None:
    archive(tmp_path, "100k", ratings())
    one, two = (natural_tasks("movielens", tmp_path, seed=seed, **SETTINGS) for seed in (1, 2))
    assert one.names == two.names
    assert not np.array_equal(one.train.targets, two.train.targets)
    totals = [sum(float(t.part(n).inputs.sum()) for n in ("train", "validation", "test")) for t in (one, two)]
    assert totals[0] == pytest.approx(totals[1])


def test_factors_find_a_low_rank_table() -> None:
    rng = np.random.default_rng(1)
    people, items = np.divmod(rng.permutation(200 * 30)[:4000], 30)
    truth = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 30))
    made = fit_item_factors(Ratings(people, items, truth[people, items] + 0.01 * rng.normal(size=4000)), 30, 2)
    assert made.features.shape == (30, 4)
    left = np.linalg.svd(truth - truth.mean(axis=0))[2][:2].T
    found = np.linalg.qr(made.features[:, 2:])[0]
    centred = left - left.mean(axis=0)
    assert np.linalg.norm(centred - found @ (found.T @ centred)) < 0.3 * np.linalg.norm(centred)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 30}, "'rank' must be at most the number of public people 24 and of items 29, got 30"),
        ({"public": 1.0}, "'public' must be less than 1"),
        ({"size": "10m"}, "size"),
        ({"units": "users"}, "units"),
        ({"min_examples": 10_000}, "no task of 'movielens-100k/clusters' has 10000 examples"),
    ],
)
def test_wrong_settings(small: None, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    archive(tmp_path, "100k", ratings())
    with pytest.raises(InputError) as refused:
        natural_tasks("movielens", tmp_path, **{**SETTINGS, **settings})
    assert said in str(refused.value)


def test_damaged_files(small: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which is missing"):
        natural_tasks("movielens", tmp_path)
    path = archive(tmp_path, "100k", ratings()[:-1]) / "movielens/recbole-1.2.1-py3-none-any.whl"
    with pytest.raises(InputError, match="must have 720 rows of 4 columns, got 719 rows"):
        natural_tasks("movielens", tmp_path)
    archive(tmp_path, "100k", [*ratings()[:-1], (1, 1, float("nan"))])
    with pytest.raises(InputError, match="must hold finite numbers"):
        natural_tasks("movielens", tmp_path)
    archive(tmp_path, "100k", [*ratings()[:-1], (999, 1, 3.0)])
    with pytest.raises(InputError, match="ratings of people that it does not list"):
        natural_tasks("movielens", tmp_path)
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match="is damaged"):
        natural_tasks("movielens", tmp_path)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("else", "")
    with pytest.raises(InputError, match="is damaged"):
        natural_tasks("movielens", tmp_path)
    (tmp_path / "schools").mkdir()
    (tmp_path / "schools/exam.csv").write_text("school,result\n1,2\n")


def test_a_table_without_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "schools").mkdir()
    (tmp_path / "schools/exam.csv").write_text("school,result\n1,2\n")
    with pytest.raises(InputError, match="has no column 'normexam' "):
        natural_tasks("exam", tmp_path)
    with pytest.raises(InputError, match="has tasks of its own"):
        load("exam", tmp_path)
    with pytest.raises(InputError, match="did you mean 'insteval'"):
        natural_tasks("instevl", tmp_path)


def test_tasks_that_exist_are_read_as_advised(small: None, tmp_path: Path) -> None:
    archive(tmp_path, "100k", ratings())
    with pytest.raises(InputError, match=r"is not divided; use natural_tasks\('movielens'\)"):
        load("movielens", tmp_path)
    with pytest.raises(InputError, match=r"has 13 examples; lower data\.min_examples"):
        natural_tasks("movielens", tmp_path, unit="users", min_examples=13, **SETTINGS)
    assert len(natural_tasks("movielens", tmp_path, unit="users", min_examples=12, **SETTINGS)) == 0.6 * PEOPLE


def test_protected_people_are_not_chosen_by_their_data(fedpriv: Any, tmp_path: Path, small: None) -> None:
    words = ["--set=run.declared=protected", "--set=run.population=p", "--set=run.ledger=p.sqlite"]
    code, _, err = fedpriv("run", "lrs-ratings", *words)
    assert code == 2
    assert "are left out where they are small" in err
    assert "build a protected population in Python, its tasks chosen beforehand" in err
    found = natural_tasks("movielens", archive(tmp_path, "100k", ratings()), unit="users", **SETTINGS)
    chosen = [place for place in range(len(found)) if place % 2]

    def part(of: Ragged) -> Ragged:
        rows = [of.rows(place) for place in chosen]
        return Ragged.from_lists([of.inputs[some] for some in rows], [of.targets[some] for some in rows])

    names = tuple(found.names[place] for place in chosen)
    parts = [part(one) for one in (found.train, found.validation, found.test)]
    tasks = Tasks("clinic", names, *parts, num_classes=None, declared="protected")
    run = experiment(tasks, model="linear", strategy=noisy(rounds=1), population="clinic", ledger=tmp_path / "p.sqlite")
    assert run.run().summary["ledger"]["population"] == "clinic"


@pytest.mark.data
def test_the_schools_have_their_known_answer() -> None:
    """Pooled test RMSE 0.790 with a quarter held out; seeds differ by about 0.01, and five are averaged."""
    errors = []
    for seed in range(5):
        tasks = natural_tasks("exam", seed=seed, fractions=(0.75, 0.0, 0.25), min_examples=3)
        theta = np.linalg.lstsq(tasks.train.inputs, tasks.train.targets, rcond=None)[0]
        errors.append(float(np.sqrt(np.mean((tasks.test.inputs @ theta - tasks.test.targets) ** 2))))
    assert np.mean(errors) == pytest.approx(0.790, abs=0.02)
    assert len(natural_tasks("chem97")) > 1800


@pytest.mark.data
def test_the_students_have_their_known_answer() -> None:
    tasks = natural_tasks("insteval", rank=2)
    values = np.concatenate([tasks.part(name).targets for name in ("train", "validation", "test")])
    assert len(tasks) > 2000
    assert tasks.input_shape == (4,)
    assert float(values.std()) == pytest.approx(1.333, abs=0.03)
