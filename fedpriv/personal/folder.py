"""A private folder of personal models: one file for all tasks, and a manifest that says what it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from fedpriv.errors import InputError
from fedpriv.files import private_directory, replacing
from fedpriv.personal.outline import NOT_PROTECTED, Block, Ids, Outline, Source
from fedpriv.personal.stacked import Layout, StackedFile, rows_of
from fedpriv.progress import show_part
from fedpriv.roster import Roster
from fedpriv.settings import Settings

__all__ = [
    "CONSTANT", "LEARNED", "MANIFEST", "MODELS_FILE", "OWN", "ExportedModels", "Manifest", "constants_of",
    "fresh_folder", "is_export", "manifest_of", "read_manifest", "write_folder", "write_manifest",
]  # fmt: skip

MANIFEST, MODELS_FILE = "manifest.json", "models.safetensors"
OWN = "has_own_model"
LEARNED, CONSTANT = "learned.", "constant."
_TASKS_AT_A_TIME = 256


class Manifest(Settings):
    """What a folder of personal models says about itself.

    Attributes
    ----------
    fedpriv : str
        Version that wrote it.
    format : {"personal-models", "personal-models-onnx"}
        Whether one file holds all models, or each that was asked for is a graph, ``<place in the roster>.onnx``.
    version : int
        Of the format.
    note : str
        What protects the models: nothing.
    released : bool
        Always False.
    model : dict
        ``name`` and ``settings`` of the model, ``seed`` and ``dtype``; only a module's class name where it was given in
        Python.
    loss : str
        What outputs mean.
    client : str
        Name of the client algorithm.
    arrays : dict
        Shape of each learned array of one task. In the file each has one more axis, the tasks', in front.
    constants : list of str
        Frozen parameters and buffers, which all tasks share.
    billboards : dict
        SHA-256 of the last billboard of each group.
    columns : tuple of str, or None
        What the columns of the inputs are called.
    reading : dict or None
        How rows of a file of one's own are read.
    roster : Roster
        Who the tasks are, in the order of the tasks' axis.
    """

    fedpriv: str
    format: Literal["personal-models", "personal-models-onnx"] = "personal-models"
    version: Literal[1] = 1
    note: str = NOT_PROTECTED
    released: bool = False
    model: dict[str, Any]
    loss: Literal["cross-entropy", "squared"]
    client: str
    arrays: dict[str, tuple[int, ...]]
    constants: tuple[str, ...]
    billboards: dict[str, str]
    columns: tuple[str, ...] | None
    reading: dict[str, Any] | None = None
    roster: Roster


def is_export(folder: Path) -> bool:
    """Tell whether a folder holds personal models."""
    return (folder / MANIFEST).exists()


def fresh_folder(out: Path) -> None:
    """Make a private folder for an export, or clear the one that an export left.

    Raises
    ------
    InputError
        It holds other files, or cannot be made.
    """
    manifest = out / MANIFEST
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not manifest.exists())):
        raise InputError(f"{out} is there and is not the folder of an export; choose another one.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        private_directory(out)
        manifest.unlink(missing_ok=True)  # what follows is whole when the new one is there
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}); choose another folder.") from None


def write_folder(out: Path, outline: Outline, source: Source) -> None:
    """Write all models of a run.

    Parameters
    ----------
    out : Path
        A folder that is not there yet, is empty, or holds an older export, which is replaced.
    outline, source : Outline, Source
        The models.

    Raises
    ------
    InputError
        The folder holds other files, or cannot be written.
    """
    count = len(outline.roster)
    learned = {name: _numpy(value) for name, value in outline.problem.initial().items()}
    constants = {name: _numpy(value) for name, value in constants_of(outline.problem.model)}
    layout = Layout(
        {f"{LEARNED}{name}": (str(value.dtype), (count, *value.shape)) for name, value in learned.items()}
        | {f"{CONSTANT}{name}": (str(value.dtype), value.shape) for name, value in constants.items()}
        | {OWN: ("bool", (count,))},
        {"format": "fedpriv personal models 1", "note": NOT_PROTECTED},
    )
    fresh_folder(out)
    manifest = manifest_of(outline)
    try:
        with replacing(out / MODELS_FILE, private=True) as file:
            stacked, done = StackedFile(file, layout), 0
            for name, value in constants.items():
                stacked.put_whole(f"{CONSTANT}{name}", value)
            for ids, params, own in source.blocks(np.arange(count, dtype=np.int64)):
                for name in learned:
                    stacked.put(f"{LEARNED}{name}", ids, _numpy(params[name]))
                stacked.put(OWN, ids, own)
                done += len(ids)
                show_part("personal models", "tasks", done, count)
        write_manifest(out, manifest)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another folder.") from None


def manifest_of(
    outline: Outline, format: Literal["personal-models", "personal-models-onnx"] = "personal-models"
) -> Manifest:
    """Return what a folder of a run's models says about itself."""
    learned = outline.problem.initial()
    return Manifest(
        fedpriv=version("fedpriv"),
        format=format,
        model=outline.model,
        loss=outline.problem.loss,
        client=outline.client,
        arrays={name: tuple(value.shape) for name, value in learned.items()},
        constants=tuple(name for name, _ in constants_of(outline.problem.model)),
        billboards=outline.digests,
        columns=outline.columns,
        reading=outline.reading,
        roster=outline.roster,
    )


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Write the manifest, whose presence says that an export is whole; it names the tasks: private."""
    with replacing(out / MANIFEST, private=True) as file:
        file.write((json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n").encode())


@dataclass(frozen=True)
class ExportedModels:
    """Models of a folder, read when they are asked for.

    Attributes
    ----------
    path : Path
        The file.
    names : tuple of str
        The learned arrays.
    """

    path: Path
    names: tuple[str, ...]

    def blocks(self, ids: Ids) -> Iterator[Block]:
        """Yield the models of these tasks, some at a time."""
        for start in range(0, len(ids), _TASKS_AT_A_TIME):
            some = ids[start : start + _TASKS_AT_A_TIME]
            rows = rows_of(self.path, [*(f"{LEARNED}{name}" for name in self.names), OWN], some)
            own: NDArray[np.bool_] = rows.pop(OWN)
            yield some, {name.removeprefix(LEARNED): torch.from_numpy(value) for name, value in rows.items()}, own


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder.

    Raises
    ------
    InputError
        It is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder} holds no {MANIFEST} ({error.strerror}); give the folder that `fedpriv models RUN --out` wrote."
        ) from None
    except (ValidationError, ValueError):
        raise InputError(f"{path} is damaged; export the models anew.") from None


def constants_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield frozen parameters and buffers, which all tasks share."""
    yield from ((name, value) for name, value in model.named_parameters() if not value.requires_grad)
    yield from model.named_buffers()


def _numpy(value: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = value.detach().numpy()
    return found
