"""Personal models read back from their folder."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedpriv.cohort import Problem
from fedpriv.cohort.problem import own_copy
from fedpriv.errors import InputError
from fedpriv.models import MODELS, build_model
from fedpriv.own_code import CodeSettings, load
from fedpriv.personal.folder import (
    CONSTANT,
    LEARNED,
    MANIFEST,
    MODELS_FILE,
    OWN,
    ExportedModels,
    Manifest,
    read_manifest,
)
from fedpriv.personal.mapping import Personal
from fedpriv.personal.outline import Outline
from fedpriv.personal.stacked import read_layout, whole

__all__ = ["open_models"]


def open_models(folder: Path | str, module: nn.Module | None = None) -> Personal:
    """Open a folder of personal models that :meth:`Personal.save` or `fedpriv models` wrote.

    Parameters
    ----------
    folder : path
        The folder.
    module : nn.Module or None
        The network, where the run was given one in Python. Its values do not matter: the folder has them all.

    Returns
    -------
    Personal

    Raises
    ------
    InputError
        It is no such folder, a file is damaged, or the module is needed and not given, or another one.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.format != "personal-models":
        raise InputError(f"{folder} holds ONNX graphs, which other programs read; give a folder of the other format.")
    layout = read_layout(folder / MODELS_FILE)
    count = len(manifest.roster)
    expected = {f"{LEARNED}{name}": (count, *shape) for name, shape in manifest.arrays.items()} | {OWN: (count,)}
    if {name: shape for name, (_, shape) in layout.arrays.items() if not name.startswith(CONSTANT)} != expected:
        raise InputError(f"{folder / MODELS_FILE} does not hold the models that {MANIFEST} names; export them anew.")
    problem = Problem(_module(folder, manifest, module), manifest.loss)
    shapes = {name: tuple(value.shape) for name, value in problem.initial().items()}
    if shapes != manifest.arrays:
        raise InputError(
            f"the module has the learned arrays {shapes} and the models in {folder} {manifest.arrays}; give the one of "
            "the run."
        )
    values = dict(chain(problem.model.named_parameters(), problem.model.named_buffers()))
    for name, value in whole(folder / MODELS_FILE, [f"{CONSTANT}{name}" for name in manifest.constants]):
        with torch.no_grad():
            values[name.removeprefix(CONSTANT)].copy_(torch.from_numpy(value))
    outline = Outline(
        roster=manifest.roster,
        problem=problem,
        model=manifest.model,
        client=manifest.client,
        digests=manifest.billboards,
        columns=manifest.columns,
        reading=manifest.reading,
    )
    return Personal(outline, ExportedModels(folder / MODELS_FILE, tuple(manifest.arrays)))


def _module(folder: Path, manifest: Manifest, module: nn.Module | None) -> nn.Module:
    about = manifest.model
    dtype = {"float32": torch.float32, "float64": torch.float64}[about["dtype"]]
    if module is not None:
        return own_copy(module, dtype)
    if "settings" not in about:
        raise InputError(
            f"the models in {folder} are of the module {about['name']!r}, which was given in Python; give it there: "
            "fedpriv.open_models(folder, module)."
        )
    roster = manifest.roster
    if about["name"] not in MODELS:
        _find(folder, about)
    built = build_model(
        about["name"], roster.input_shape, roster.outputs, about["settings"], seed=about["seed"], dtype=dtype
    )
    return own_copy(built, dtype)


def _find(folder: Path, about: dict[str, Any]) -> None:
    """Import a model of users' own from where it lay, if its files are those of the run."""
    code = CodeSettings(**about.get("code", {}))
    for name, source in load("model", about["name"], MODELS, code.folders).sources.items():
        if name in code.modules and code.modules[name].sha256 != source.sha256:
            raise InputError(
                f"{source.file} is not what the models in {folder} were trained with; put the file back as it was, or "
                "give the module: fedpriv.open_models(folder, module)."
            )
