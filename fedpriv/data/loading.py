"""Data sets by name: ``load("femnist", size=14)``. Files are read where they lie; nothing is downloaded."""

from __future__ import annotations

import zipfile
import zlib
from abc import abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedpriv.data.catalog import SourceInfo, data_directory, locate, source
from fedpriv.data.dataset import Dataset
from fedpriv.data.idx import read_idx
from fedpriv.data.images import to_inputs
from fedpriv.errors import InputError
from fedpriv.names import kebab
from fedpriv.settings import Settings

__all__ = ["READERS", "Digits", "Fashion", "Femnist", "Mnist", "load", "load_options", "read_digits"]


def load_options(name: str) -> set[str]:
    """Return the names of a data set's options; empty for an unknown set."""
    return set(READERS[name].model_fields) if name in READERS else set()


def load(name: str, data_dir: Path | str | None = None, **options: Any) -> Dataset:
    """Read a data set and verify its structure (``fedpriv data check`` also compares checksums).

    Parameters
    ----------
    name : {"digits", "femnist", "mnist", "fashion"}
        ``digits`` is embedded; the others are read from the data directory.
    data_dir : path, optional
        The data directory; by default ``$FEDPRIV_DATA``.
    **options
        ``size`` = 28 (default), 14 or 7 for the three sets of 28x28 images: average pooling. ``part`` = "all"
        (default, one pool of 70,000), "train" or "test" for ``mnist`` and ``fashion``.

    Returns
    -------
    Dataset
        Inputs float32 [N, 1, side, side] in [0, 1], ink at 1; targets int64 [N].

    Raises
    ------
    InputError
        An unknown name or option; a file that is missing, damaged, or not of the expected shape.
    """
    info = source(name)
    if name not in READERS:
        raise InputError(f"{name!r} has tasks of its own, so it is not divided; use natural_tasks({name!r}).")
    return READERS[name](**options).read(info, data_dir)


class Reader(Settings):
    """Base of the settings of every data set."""

    @abstractmethod
    def read(self, info: SourceInfo, data_dir: Path | str | None) -> Dataset:
        """Read the files of the data set."""


class Digits(Reader):
    """The 1,797 digits that come with scikit-learn."""

    def read(self, info: SourceInfo, data_dir: Path | str | None) -> Dataset:  # noqa: ARG002 (embedded)
        """Read the embedded images."""
        images, labels = read_digits()
        return Dataset("digits", to_inputs(images, 8, maximum=16), labels, 10, info)


class Femnist(Reader):
    """Handwritten characters with their writers."""

    size: Literal[28, 14, 7] = 28

    def read(self, info: SourceInfo, data_dir: Path | str | None) -> Dataset:
        """Read images, labels and writers."""
        file = info.files[0]
        path = locate(info, file, data_directory(data_dir))
        count = file.shape[0]
        images, labels, writers = _read_npz(path, {"images": file.shape, "labels": (count,), "writers": (count,)})
        targets = labels.astype(np.int64)
        _check_labels(targets, 62, path)
        return Dataset(
            "femnist",
            to_inputs(images, self.size, invert=True),
            targets,
            62,
            info,
            natural_ids=writers.astype(np.int64),
            natural_unit="writer",
        )


class Mnist(Reader):
    """70,000 images in IDX files."""

    size: Literal[28, 14, 7] = 28
    part: Literal["all", "train", "test"] = "all"

    def read(self, info: SourceInfo, data_dir: Path | str | None) -> Dataset:
        """Read the train files, the t10k files, or both, in this order."""
        folder = data_directory(data_dir)
        chosen = {"all": slice(0, 4), "train": slice(0, 2), "test": slice(2, 4)}[self.part]
        files = [(locate(info, file, folder), file.shape) for file in info.files[chosen]]
        inputs, targets = [], []
        for (images, image_shape), (labels, label_shape) in zip(files[::2], files[1::2], strict=True):
            inputs.append(to_inputs(read_idx(images, image_shape), self.size))
            targets.append(read_idx(labels, label_shape).astype(np.int64))
            _check_labels(targets[-1], 10, labels)
        return Dataset(info.name, np.concatenate(inputs), np.concatenate(targets), 10, info)


class Fashion(Mnist):
    """70,000 images in IDX files, the same format as MNIST."""


READERS: dict[str, type[Reader]] = {kebab(kind.__name__): kind for kind in (Digits, Femnist, Mnist, Fashion)}


def read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return scikit-learn's digits: images uint8 [1797, 8, 8] with values 0 to 16, labels int64 [1797].

    The file is read where the library keeps it: importing the library for it would double the start-up of a short run.
    """
    found = find_spec("sklearn")
    for place in (found.submodule_search_locations or []) if found else []:
        path = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
            return np.ascontiguousarray(rows[:, :-1]).reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits  # a version that keeps it elsewhere

    raw = load_digits()
    return raw.images.astype(np.uint8), raw.target.astype(np.int64)


def _read_npz(path: Path, shapes: dict[str, tuple[int, ...]]) -> list[NDArray[Any]]:
    try:
        # No pickles: a data file must not run code. NumPy leaves a damaged file open, so it is opened here.
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("not an npz archive")
            with archive:
                return [_read_array(archive, name, shape, path) for name, shape in shapes.items()]
    except InputError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        KeyError,
        EOFError,
        OSError,
        NotImplementedError,
    ) as error:
        raise InputError(
            f"the file {str(path)!r} is damaged ({error}); fetch it again, then run `fedpriv data check`."
        ) from None


def _read_array(archive: Any, name: str, shape: tuple[int, ...], path: Path) -> NDArray[Any]:
    advice = "put the right file there, then run `fedpriv data check`."
    if name not in archive:
        names = ", ".join(archive) or "none"
        raise InputError(f"the file {str(path)!r} has no array {name!r} (it has {names}); {advice}")
    values: NDArray[Any] = archive[name]
    if values.shape != shape or values.dtype.kind != "u":
        raise InputError(
            f"the array {name!r} of {str(path)!r} must hold unsigned integers of shape {shape}, got "
            f"{values.dtype} of shape {values.shape}; {advice}"
        )
    return values


def _check_labels(targets: NDArray[np.int64], num_classes: int, path: Path) -> None:
    if int(targets.max()) >= num_classes:
        raise InputError(
            f"labels of {str(path)!r} must lie in 0..{num_classes - 1}, got {int(targets.max())}; fetch it again."
        )
