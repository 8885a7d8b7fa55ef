"""Reading files: IDX, npz, what is missing or damaged, and the real data where $FEDPRIV_DATA is set."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

import fedpriv.data
from fedpriv.data import check, load, regression_optima, regression_tasks, sources
from fedpriv.data.idx import parse_idx, read_content, read_idx
from fedpriv.data.images import to_inputs
from fedpriv.data.loading import read_digits
from fedpriv.errors import InputError


@pytest.fixture
def real():
    if not os.environ.get("FEDPRIV_DATA"):
        pytest.skip("$FEDPRIV_DATA is not set")


def idx_bytes(values, code=0x08):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, code, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def fake(tmp_path):
    """A data directory with fake t10k files of "mnist" in the right shapes, one gzip, one plain."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10_000, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 10_000, dtype=np.uint8)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/t10k-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "mnist/t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    return tmp_path, images, labels


def femnist_arrays():
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (6237, 28, 28), dtype=np.uint8),
        "labels": rng.integers(0, 62, 6237, dtype=np.uint8),
        "writers": (np.arange(6237) % 206).astype(np.uint16),
    }


def write_femnist(folder, **arrays):
    (folder / "femnist-206").mkdir(exist_ok=True)
    path = folder / "femnist-206/femnist-206.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]
)
def test_idx_types(code, dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    parsed = parse_idx(idx_bytes(values, code), "x")
    assert (parsed == values).all()
    assert parsed.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_files_plain_and_gzip(tmp_path, suffix):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    content = idx_bytes(values)
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    assert (read_idx(path, (2, 3)) == values).all()
    with pytest.raises(InputError, match=r"must hold uint8 values of shape \(3, 2\), got uint8 of shape \(2, 3\)"):
        read_idx(path, (3, 2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got nothing"),
        (b"\0\0\x08", "not an IDX file"),
        (b"\0\1\x08\1\0\0\0\0", "not an IDX file"),
        (b"\0\0\x07\1\0\0\0\0", "not an IDX file"),
        (b"\0\0\x08\0", "not an IDX file"),
        (b"\0\0\x08\2\0\0\0\1", "ends within its header"),
        (b"\0\0\x08\1\0\0\0\5abc", "announces shape"),
        (b"\0\0\x08\1\0\0\0\2abc", "announces shape"),
        (b"\0\0\x08\3" + b"\xff" * 12, "announces shape"),
    ],
)
def test_damaged_idx(content, words):
    with pytest.raises(InputError, match=words):
        parse_idx(content, "the file")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:40], lambda b: b[:60] + b"xxxx" + b[64:], lambda b: b[:5]]
)
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "file.gz"
    path.write_bytes(damage(gzip.compress(np.random.default_rng(0).bytes(500))))
    with pytest.raises(InputError, match="damaged gzip file"):
        read_content(path)


def test_images():
    images = np.zeros((2, 28, 28), dtype=np.uint8)
    images[0, :2, :2] = [[255, 255], [0, 0]]
    pooled = to_inputs(images, 14)
    assert pooled.shape == (2, 1, 14, 14)
    assert pooled.dtype == np.float32
    assert pooled[0, 0, 0, 0] == 0.5
    assert pooled.sum() == 0.5
    inverted = to_inputs(images, 28, invert=True)
    assert (inverted[0, 0, 0, 0], inverted[1, 0, 5, 5]) == (0.0, 1.0)
    noise = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    expected = (noise / 255).reshape(3, 1, 7, 4, 7, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(to_inputs(noise, 7), expected, rtol=1e-6)


def test_mnist_from_plain_and_gzip_files(fake):
    folder, images, labels = fake
    dataset = load("mnist", folder, part="test", size=14)
    assert dataset.inputs.shape == (10_000, 1, 14, 14)
    assert (dataset.targets == labels).all()
    full = load("mnist", str(folder), part="test")
    assert (full.inputs[:, 0] * 255 == images).all()
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz', which is missing: set FEDPRIV_DATA"):
        load("mnist", folder)


def test_mnist_labels_out_of_range(fake):
    folder, _, labels = fake
    (folder / "mnist/t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels + np.uint8(1))))
    with pytest.raises(InputError, match=r"must lie in 0\.\.9, got 10"):
        load("mnist", folder, part="test")


def test_digits_are_those_of_scikit_learn_and_come_without_its_import():
    code = "import sys; from fedpriv.data.loading import read_digits; read_digits(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    from sklearn.datasets import load_digits

    images, labels = read_digits()
    theirs = load_digits()
    assert np.array_equal(images, theirs.images)
    assert np.array_equal(labels, theirs.target)
    assert images.dtype == np.uint8
    assert images.flags.c_contiguous


def test_femnist(tmp_path):
    arrays = femnist_arrays()
    write_femnist(tmp_path, **arrays)
    dataset = load("femnist", tmp_path)
    np.testing.assert_allclose(dataset.inputs[:, 0], 1 - arrays["images"] / 255.0, atol=1e-6)
    assert (dataset.natural_ids == arrays["writers"]).all()
    tasks = dataset.partition("natural")
    assert len(tasks) == 206
    assert tasks.names[12] == "femnist/writer-0012"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, "has no array 'labels'"),
        ({"labels": np.zeros(5, np.uint8)}, r"of shape \(6237,\), got uint8 of shape \(5,\)"),
        ({"labels": np.zeros(6237)}, "unsigned integers"),
        ({"labels": np.full(6237, 62, np.uint8)}, r"must lie in 0\.\.61, got 62"),
        ({"writers": np.array([{}] * 6237)}, "is damaged"),
    ],
)
def test_wrong_femnist(tmp_path, change, words):
    arrays = {**femnist_arrays(), **change}
    write_femnist(tmp_path, **{name: values for name, values in arrays.items() if values is not None})
    with pytest.raises(InputError, match=words):
        load("femnist", tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:1000], lambda b: b"", lambda b: b"no archive"])
def test_damaged_femnist(tmp_path, damage):
    path = write_femnist(tmp_path, **femnist_arrays())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="is damaged"):
        load("femnist", tmp_path)
    femnist = next(result for result in check(tmp_path) if result.name == "femnist")
    assert femnist.status == "corrupt"


def test_a_flipped_bit_in_femnist(tmp_path):
    path = write_femnist(tmp_path, **femnist_arrays())
    content = bytearray(path.read_bytes())
    content[200_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        load("femnist", tmp_path)


def test_a_single_array_is_no_archive(tmp_path):
    path = write_femnist(tmp_path, **femnist_arrays())
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="is damaged"):
        load("femnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mnsit", {}, "unknown data set 'mnsit': did you mean 'mnist'"),
        ("digits", {"size": 14}, "unknown setting 'size'"),
        ("mnist", {"siez": 14}, "did you mean 'size'"),
        ("femnist", {"size": 13}, "'size' must be 28, 14 or 7, got 13"),
        ("fashion", {"part": "some"}, "'part' must be 'all', 'train' or 'test'"),
        (
            "fashion",
            {},
            r"needs the file 'fashion-mnist/train-images-idx3-ubyte\.gz' and no data directory is set",
        ),
        ("femnist", {}, "FEDPRIV_DATA.*fedpriv data list"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, name, options, words):
    monkeypatch.delenv("FEDPRIV_DATA", raising=False)
    with pytest.raises(InputError, match=words):
        load(name, **options)


def test_the_directory_comes_from_the_environment(monkeypatch, fake):
    folder, _, _ = fake
    monkeypatch.setenv("FEDPRIV_DATA", str(folder))
    assert len(load("mnist", part="test")) == 10_000
    monkeypatch.setenv("FEDPRIV_DATA", str(folder / "nowhere"))
    with pytest.raises(InputError, match=r"\$FEDPRIV_DATA is .*nowhere', which is not a directory"):
        check()
    with pytest.raises(InputError, match="the data directory given is"):
        load("mnist", folder / "nowhere")


def test_check_tells_ok_missing_and_corrupt_apart(monkeypatch, fake):
    folder, _, _ = fake
    monkeypatch.delenv("FEDPRIV_DATA", raising=False)
    assert [result.status for result in check()] == ["ok"] + ["missing"] * 14
    results = {result.file: result for result in check(folder)}
    assert results["(scikit-learn)"].status == "ok"
    assert results["mnist/train-images-idx3-ubyte.gz"].status == "missing"
    assert results["mnist/t10k-images-idx3-ubyte.gz"].status == "corrupt"
    assert "0fa7898d509279e4" in results["mnist/t10k-images-idx3-ubyte.gz"].detail
    (folder / "mnist/t10k-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b damaged")
    results = {result.file: result for result in check(folder)}
    assert results["mnist/t10k-labels-idx1-ubyte.gz"].status == "corrupt"
    assert "damaged gzip" in results["mnist/t10k-labels-idx1-ubyte.gz"].detail
    json.dumps([dataclasses.asdict(result) for result in results.values()])


def test_sources_are_json_and_complete():
    listed = json.loads(json.dumps([dataclasses.asdict(info) for info in sources()]))
    names = [info["name"] for info in listed]
    assert names == ["digits", "femnist", "mnist", "fashion", "movielens", "insteval", "exam", "chem97"]
    assert all(info["licence"] and info["source"] and info["facts"] for info in listed)
    assert all(len(file["sha256"]) == 64 for info in listed for file in info["files"])


def test_the_import_is_light():
    heavy = "torch", "sklearn", "pandas", "datasets", "flwr_datasets", "scipy"
    code = f"import sys, fedpriv.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_exported_names_exist():
    assert all(hasattr(fedpriv.data, name) for name in fedpriv.data.__all__)


def test_regression_tasks():
    settings = {"tasks": 40, "dimension": 5, "heterogeneity": 0.3, "seed": 7}
    tasks = regression_tasks(examples=50, noise=0.0, **settings)
    tasks.check()
    optima = regression_optima(**settings)
    assert tasks.num_classes is None
    assert tasks.train.inputs.dtype == tasks.train.targets.dtype == np.float64
    assert (set(tasks.train.sizes), set(tasks.validation.sizes), set(tasks.test.sizes)) == ({30}, {10}, {10})
    for k in range(40):
        rows = tasks.train.rows(k)
        solution = np.linalg.lstsq(tasks.train.inputs[rows], tasks.train.targets[rows], rcond=None)[0]
        np.testing.assert_allclose(solution, optima[k], atol=1e-10)
    assert optima.std(axis=0).mean() == pytest.approx(0.3, rel=0.2)
    assert np.ptp(regression_optima(tasks=3, dimension=5, heterogeneity=0.0), axis=0).max() == 0
    few = regression_tasks(examples=50, noise=0.0, **{**settings, "tasks": 3})
    assert (few.test.inputs == tasks.test.inputs[:30]).all()
    noisy = regression_tasks(examples=50, noise=0.5, **settings)
    residual = noisy.train.targets - tasks.train.targets
    assert residual.std() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": 0}, "'tasks' must be greater than or equal to 1"),
        ({"dimension": 0}, "'dimension' must be"),
        ({"examples": 3}, "'examples' must be greater than or equal to 4"),
        ({"noise": float("nan")}, "'noise' must be a finite number"),
        ({"heterogeneity": -1}, "'heterogeneity' must be"),
        ({"fractions": (0.5, 0.6, 0.2)}, "sum to 1"),
    ],
)
def test_bad_regression_input(change, words):
    with pytest.raises(InputError, match=words):
        regression_tasks(**{"tasks": 2, "dimension": 2, **change})


@pytest.mark.data
def test_real_checksums(real):
    images = [result for result in check() if result.name in ("digits", "femnist", "mnist", "fashion")]
    assert len(images) == 10
    assert {result.status for result in images} == {"ok"}


@pytest.mark.data
def test_real_femnist(real):
    dataset = load("femnist", size=14)
    assert dataset.inputs.shape == (6237, 1, 14, 14)
    assert len(np.unique(dataset.natural_ids)) == 206
    assert np.unique(dataset.targets).tolist() == list(range(62))
    sizes = np.bincount(np.asarray(dataset.natural_ids))
    assert (sizes.min(), sizes.max(), np.median(sizes)) == (5, 69, 28)
    # Paper is 0: most of an image is paper.
    assert np.median(dataset.inputs) == 0.0
    tasks = dataset.partition("natural")
    tasks.check()
    assert len(tasks) == 206
    assert (tasks.test.sizes >= 1).all()


@pytest.mark.data
@pytest.mark.parametrize(("name", "per_class"), [("mnist", None), ("fashion", 7000)])
def test_real_pools_load(real, name, per_class):
    dataset = load(name)
    assert dataset.inputs.shape == (70_000, 1, 28, 28)
    counts = np.bincount(dataset.targets)
    assert len(counts) == 10
    assert per_class is None or set(counts) == {per_class}
    tasks = dataset.partition("dirichlet", tasks=500, alpha=0.1, examples=100)
    tasks.check()
    assert (tasks.train.sizes == 60).all()
