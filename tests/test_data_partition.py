"""Partitions of the embedded digits: every scheme, the splits, determinism, and every bad input."""

from __future__ import annotations

import hashlib
import logging
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.data import load, scheme_names
from fedpriv.errors import InputError
from fedpriv.split import split_sizes, split_task

PARTS = ("train", "validation", "test")
SCHEMES = [
    ("dirichlet", {"alpha": 0.3}),
    ("dirichlet", {"alpha": 0.05, "examples": 12}),
    ("dirichlet", {"alpha": 1.0, "prior": "empirical"}),
    ("dirichlet", {"alpha": 2.0, "sizes": "natural"}),
    ("dirichlet", {"alpha": 2.0, "sizes": "natural", "self_balancing": True, "min_examples": 2}),
    ("iid", {}),
    ("shards", {}),
    ("shards", {"classes_per_task": 3}),
    ("shards", {"shards_per_task": 2}),
]


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture
def numbered(digits):
    """Digits whose inputs are their own row numbers, to follow every example."""
    import dataclasses

    return dataclasses.replace(digits, inputs=np.arange(len(digits), dtype=np.float32).reshape(-1, 1))


def rows(tasks):
    return [np.concatenate([tasks.part(p).inputs[tasks.part(p).rows(k)] for p in PARTS]) for k in range(len(tasks))]


def test_digits(digits):
    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert digits.inputs.dtype == np.float32
    assert digits.targets.dtype == np.int64
    assert (digits.inputs.min(), digits.inputs.max()) == (0.0, 1.0)
    assert np.bincount(digits.targets).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.source.declared == "benchmark"


def test_the_line_of_the_manual():
    tasks = load("digits").partition("dirichlet", tasks=100, alpha=0.3, seed=0)
    tasks.check()
    assert len(tasks) == 100
    assert tasks.names[17] == "digits/dirichlet(alpha=0.3,seed=0)/00017"
    assert tasks.dataset == "digits/dirichlet(alpha=0.3,seed=0)"
    assert (tasks.train.sizes == 10).all()
    assert (tasks.validation.sizes == 3).all()
    assert (tasks.test.sizes == 4).all()
    assert tasks.num_classes == 10
    assert tasks.declared == "benchmark"


def test_many_seeds_and_alphas_are_all_trainable(digits):
    for seed in range(5):
        for tasks, alpha in [(100, 0.3), (449, 0.01), (449, 1e-300), (10, 1e6), (1, 0.1)]:
            digits.partition("dirichlet", tasks=tasks, alpha=alpha, seed=seed).check()


def test_the_partition_is_pinned(numbered):
    # A change here is a change of every experiment: say so in the changelog.
    tasks = numbered.partition("dirichlet", tasks=100, alpha=0.3, seed=0)
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(tasks.part(part).inputs.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "c2e2e063056e04bd"


@pytest.mark.parametrize(("scheme", "options"), SCHEMES)
def test_every_scheme_uses_no_example_twice_and_repeats_itself(numbered, scheme, options):
    first = numbered.partition(scheme, tasks=30, seed=3, **options)
    again = numbered.partition(scheme, tasks=30, seed=3, **options)
    other = numbered.partition(scheme, tasks=30, seed=4, **options)
    assert len(first) == 30
    together = np.concatenate(rows(first)).ravel()
    assert len(np.unique(together)) == len(together) <= 1797
    for part in PARTS:
        data = first.part(part)
        assert (data.targets == numbered.targets[data.inputs.ravel().astype(int)]).all()
        assert (data.inputs == again.part(part).inputs).all()
        assert (data.offsets == again.part(part).offsets).all()
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not np.array_equal(np.sort(rows(first)[0].ravel()), np.sort(rows(other)[0].ravel()))


def test_what_the_schemes_promise(numbered):
    iid = numbered.partition("iid", tasks=100)
    assert {len(task) for task in rows(iid)} == {17, 18}
    two = numbered.partition("shards", tasks=50)
    assert all(len(set(numbered.targets[task.ravel().astype(int)])) == 2 for task in rows(two))
    two.check()
    cut = numbered.partition("shards", tasks=50, shards_per_task=2)
    assert {len(task) for task in rows(cut)} == {34}
    wide = numbered.partition("dirichlet", tasks=20, alpha=1.0, sizes="natural", min_examples=10)
    sizes = [len(task) for task in rows(wide)]
    assert min(sizes) >= 10
    assert sum(sizes) == 1797
    assert max(sizes) > 1.5 * min(sizes)


def test_natural_ids(numbered):
    import dataclasses

    ids = np.arange(1797) % 40
    people = dataclasses.replace(numbered, natural_ids=ids, natural_unit="person")
    tasks = people.partition("natural", tasks=12)
    assert tasks.names[11] == "digits/person-0011"
    for k, task in enumerate(rows(tasks)):
        assert set(task.ravel().astype(int) % 40) == {k}
    named = dataclasses.replace(numbered, natural_ids=tuple("abc"[i % 3] for i in range(1797)))
    assert named.partition("natural").names == ("digits/id-a", "digits/id-b", "digits/id-c")
    # ids 0 to 36 have 45 examples, the others 44; a task's split does not depend on which others take part.
    assert len(people.partition("natural", min_examples=45)) == 37
    assert (people.partition("natural").shard(0, 12).test.inputs == tasks.test.inputs).all()
    with pytest.raises(InputError, match="0 ids of 'digits' have 46 or more examples"):
        people.partition("natural", min_examples=46)
    with pytest.raises(InputError, match="41 tasks are asked for"):
        people.partition("natural", tasks=41)
    # With fewer ids than examples, those behind the last id would be left out without a word.
    for wrong in (ids[:-1], ids[:, None], ids.astype(float), ("a", None) * 898 + ("b",)):
        with pytest.raises(
            InputError, match="natural_ids of 'digits' must be 1797 whole numbers or texts, one for each"
        ):
            dataclasses.replace(numbered, natural_ids=wrong)


def test_unusable_tasks_are_refused_or_left_out(digits, caplog):
    options = {"alpha": 0.1, "sizes": "natural", "min_examples": 0}
    with pytest.raises(
        InputError, match=r"task 'digits/.* (one training example|no training examples|no test examples)"
    ):
        digits.partition("dirichlet", tasks=100, **options).check()
    with caplog.at_level(logging.WARNING, logger="fedpriv.data"):
        tasks = digits.partition("dirichlet", tasks=100, drop_unusable=True, groups=3, **options)
    tasks.check()
    assert 2 < len(tasks) < 100
    left_out = f"{100 - len(tasks)} of 100 tasks"
    assert left_out in caplog.text
    assert left_out in tasks.dataset
    numbers = [int(name.rsplit("/", 1)[1]) for name in tasks.names]
    assert tasks.groups == tuple(number % 3 for number in numbers)
    assert (tasks.test.sizes >= 1).all()
    with pytest.raises(InputError, match="none of the 900 tasks"):
        digits.partition("iid", tasks=900, drop_unusable=True)


def test_no_network_no_output(digits, monkeypatch, capfd):
    def refuse(*arguments, **keywords):
        raise AssertionError("a partition contacted the network")

    import dataclasses

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    people = dataclasses.replace(digits, natural_ids=np.arange(1797) % 40)
    people.partition("natural")
    for scheme, options in SCHEMES:
        digits.partition(scheme, tasks=20, **options)
    assert capfd.readouterr() == ("", "")


@given(
    st.integers(0, 300),
    st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.0, 0.2), (0.01, 0.01, 0.98), (0.98, 0.01, 0.01)]),
)
def test_split_sizes(examples, fractions):
    train, validation, test = split_sizes(examples, fractions)
    assert train + validation + test == examples
    if examples >= 4:
        assert train >= 2
        assert test >= 1
        assert (validation >= 1) == (fractions[1] > 0)
        if min(examples * f for f in fractions if f) >= 2:
            got = (train, validation, test)
            assert all(abs(size - examples * f) < 1 for size, f in zip(got, fractions, strict=True))


def test_split_sizes_by_hand():
    assert split_sizes(17, (0.6, 0.2, 0.2)) == (10, 3, 4)
    assert split_sizes(4, (0.6, 0.2, 0.2)) == (2, 1, 1)
    assert split_sizes(100, (0.7, 0.1, 0.2)) == (70, 10, 20)
    assert [split_sizes(n, (0.6, 0.2, 0.2)) for n in range(4)] == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 0, 1)]


@given(st.lists(st.integers(0, 2), min_size=2, max_size=30), st.integers(0, 1000))
def test_the_train_part_has_two_classes_if_the_task_has(labels, seed):
    labels = np.array(labels)
    parts = split_task(labels, (0.6, 0.2, 0.2), np.random.default_rng(seed))
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert (len(set(labels[parts[0]])) >= 2) == (len(set(labels)) >= 2)


@pytest.mark.parametrize(
    ("scheme", "keywords", "words"),
    [
        ("dirichlett", {"tasks": 10}, "unknown partition scheme 'dirichlett': did you mean 'dirichlet'"),
        ("dirichlet", {"tasks": 10, "alhpa": 1, "alpha": 1}, "did you mean 'alpha'"),
        ("dirichlet", {"tasks": 10}, "'alpha' is required"),
        ("dirichlet", {"tasks": 10, "alpha": 0}, "'alpha' must be greater than 0, got 0"),
        ("dirichlet", {"tasks": 10, "alpha": -1.0}, "'alpha' must be greater than 0, got -1"),
        ("dirichlet", {"tasks": 10, "alpha": float("nan")}, "'alpha' must be a finite number"),
        ("dirichlet", {"tasks": 10, "alpha": float("inf")}, "'alpha' must be a finite number"),
        (
            "dirichlet",
            {"tasks": 10, "alpha": 1, "examples": 3},
            "'examples' must be greater than or equal to 4",
        ),
        ("dirichlet", {"tasks": 10, "alpha": 1, "sizes": "some"}, "'sizes' must be 'exact' or 'natural'"),
        (
            "dirichlet",
            {"tasks": 10, "alpha": 1, "min_examples": 3},
            "'min_examples' has no meaning for sizes='exact'",
        ),
        (
            "dirichlet",
            {"tasks": 10, "alpha": 1, "sizes": "natural", "examples": 9},
            "'examples' has no meaning",
        ),
        ("dirichlet", {"tasks": 10, "alpha": 1, "examples": 180}, "lower tasks to 9 or examples to 179"),
        ("dirichlet", {"tasks": 500, "alpha": 1}, "lower tasks to 449 or less"),
        (
            "dirichlet",
            {"tasks": 100, "alpha": 0.1, "sizes": "natural"},
            "no draw out of 11 gave every task 4",
        ),
        ("dirichlet", {"alpha": 1}, "needs the number of tasks"),
        ("iid", {"tasks": 0}, "'tasks' must be greater than or equal to 1, got 0"),
        ("iid", {"tasks": 1798}, r"at most the number of examples of 'digits' \(1797\), got 1798"),
        ("iid", {"tasks": "many"}, "'tasks' must be a valid integer"),
        ("iid", {"tasks": 10, "alpha": 1}, "unknown setting 'alpha'"),
        ("iid", {"tasks": 10, "seed": -1}, "'seed' must be greater than or equal to 0"),
        ("iid", {"tasks": 10, "groups": 0}, "'groups' must be greater than or equal to 1"),
        ("iid", {"tasks": 10, "fractions": (0.5, 0.5, 0.5)}, "sum to 1"),
        ("iid", {"tasks": 10, "fractions": (1.0, 0.0, 0.0)}, "positive for train and test"),
        ("shards", {"tasks": 10, "classes_per_task": 11}, "at most the 10 classes of 'digits', got 11"),
        ("shards", {"tasks": 10, "classes_per_task": 2, "shards_per_task": 2}, "exclude each other"),
        ("shards", {"tasks": 1000, "classes_per_task": 5}, "a class has fewer examples than tasks"),
        ("shards", {"tasks": 1000, "shards_per_task": 2}, "more shards than the 1797 examples"),
        ("natural", {}, "has no natural ids; use another scheme"),
    ],
)
def test_bad_input_is_one_sentence(digits, scheme, keywords, words):
    with pytest.raises(InputError, match=words):
        digits.partition(scheme, **keywords)


def test_scheme_names():
    assert scheme_names() == ["dirichlet", "iid", "natural", "shards"]
