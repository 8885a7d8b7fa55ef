"""Are the data sets here, and are they the right ones? What ``fedpriv data check`` prints."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedpriv.data.catalog import SourceFile, SourceInfo, data_directory, locate, sources
from fedpriv.data.idx import read_content
from fedpriv.data.loading import read_digits
from fedpriv.errors import InputError

__all__ = ["CheckResult", "check"]


@dataclass(frozen=True)
class CheckResult:
    """The state of one file; all fields are strings, so it turns into JSON.

    Attributes
    ----------
    name : str
        The data set.
    file : str
        The file, relative to the data directory.
    status : {"ok", "missing", "corrupt"}
        Whether its content has the known checksum.
    detail : str
        A sentence: what was found, and what to do.
    """

    name: str
    file: str
    status: Literal["ok", "missing", "corrupt"]
    detail: str


def check(data_dir: Path | str | None = None) -> list[CheckResult]:
    """Compare every file of every data set with its known SHA-256.

    Parameters
    ----------
    data_dir : path, optional
        The data directory; by default ``$FEDPRIV_DATA``. Without any, all but the embedded set are missing.

    Returns
    -------
    list of CheckResult
        In the order of :func:`~fedpriv.data.catalog.sources`.

    Raises
    ------
    InputError
        The data directory does not exist.
    """
    folder = data_directory(data_dir)
    return [_check_file(info, file, folder) for info in sources() for file in info.files]


def _check_file(info: SourceInfo, file: SourceFile, folder: Path | None) -> CheckResult:
    where = "scikit-learn's load_digits"
    if file.covers == "arrays":
        images, labels = read_digits()
        digest = hashlib.sha256(images.tobytes() + labels.astype("uint8").tobytes()).hexdigest()
    else:
        try:
            path = locate(info, file, folder)
        except InputError as error:
            return CheckResult(info.name, file.path, "missing", str(error))
        where = str(path)
        try:
            content = read_content(path) if file.covers == "uncompressed" else path.read_bytes()
        except InputError as error:
            return CheckResult(info.name, file.path, "corrupt", str(error))
        except OSError as error:
            detail = f"the file {where!r} cannot be read: {error.strerror or error}."
            return CheckResult(info.name, file.path, "corrupt", detail)
        digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        detail = (
            f"the SHA-256 of {where!r} ({file.covers}) must be {file.sha256}, got {digest}; it is "
            "another version or damaged: fetch it again."
        )
        return CheckResult(info.name, file.path, "corrupt", detail)
    return CheckResult(info.name, file.path, "ok", f"{where}: SHA-256 as expected.")
