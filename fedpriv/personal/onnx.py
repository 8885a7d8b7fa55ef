"""Personal models as ONNX graphs, one file for each task that is named: for programs without Python."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedpriv.errors import InputError
from fedpriv.files import replacing
from fedpriv.personal.folder import fresh_folder, manifest_of, write_manifest
from fedpriv.personal.outline import Outline

__all__ = ["write_onnx"]

_MOST = 100
"""Graphs that are written at a time: each is a file that holds the whole network."""


def write_onnx(out: Path, outline: Outline, models: Mapping[str, nn.Module], names: tuple[str, ...]) -> None:
    """Write graphs from ``inputs`` [n, ...] to ``outputs`` [n, ...], for any n, into private files.

    Parameters
    ----------
    out : Path
        A folder for ``<id>.onnx`` of each task and a manifest, whose roster says the ids; or the path of one file.
    outline, models : Outline, mapping
        The models by name.
    names : tuple of str
        The tasks; everybody if none is named.

    Raises
    ------
    InputError
        ONNX is not installed, there are too many tasks, the model cannot be written as a graph, or a file cannot be
        written.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError("ONNX is not installed; install it with pip install 'fedpriv[onnx]'.") from None
    wanted = names or tuple(models)
    single = out.suffix == ".onnx"
    if single and len(wanted) != 1:
        raise InputError(f"{out} is one file, for one task, and {len(wanted)} were asked for; name one, or a folder.")
    if len(wanted) > _MOST:
        raise InputError(
            f"{len(wanted):,} models would be as many ONNX files, of at most {_MOST}; name some of the tasks, or leave "
            "out the format: one file then holds all models."
        )
    graphs = {name: _graph(outline, models[name]) for name in wanted}
    try:
        if single:
            out.parent.mkdir(parents=True, exist_ok=True)
            with replacing(out, private=True) as file:
                file.write(graphs[wanted[0]])
            return
        fresh_folder(out)
        for name, graph in graphs.items():
            with replacing(out / f"{outline.places[name]}.onnx", private=True) as file:
                file.write(graph)
        write_manifest(out, manifest_of(outline, "personal-models-onnx"))
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another path.") from None


def _graph(outline: Outline, model: nn.Module) -> bytes:
    roster = outline.roster
    floats = roster.input_dtype.startswith("float")
    dtype = outline.problem.dtype if floats else torch.int64
    example = torch.zeros((2, *roster.input_shape), dtype=dtype)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it speaks of its own parts
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                input_names=["inputs"],
                output_names=["outputs"],
                verbose=False,
            )
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:  # what torch says itself is how to debug it
            first = first.__cause__
        cause = (str(first).strip() or type(first).__name__).splitlines()[0]
        raise InputError(
            f"the model {type(model).__name__} cannot be written as an ONNX graph ({cause}); leave out the format."
        ) from error
    finally:
        quiet.setLevel(level)
    assert program is not None
    graph: bytes = program.model_proto.SerializeToString()
    _check(graph, model, example)
    return graph


def _check(graph: bytes, model: nn.Module, example: Tensor) -> None:
    """Refuse a graph that does not compute what the model does, as where a way through it depends on values."""
    from onnx import load_from_string
    from onnx.reference import ReferenceEvaluator

    drawn = torch.Generator().manual_seed(0)
    inputs = [example]
    if example.is_floating_point():
        signs = (1.0, -1.0)
        inputs += [sign * torch.rand(example.shape, generator=drawn, dtype=example.dtype) for sign in signs]
    for some in inputs:
        (found,) = ReferenceEvaluator(load_from_string(graph)).run(None, {"inputs": some.numpy()})
        with torch.no_grad():
            expected = model(some).numpy()
        if not np.allclose(found, expected, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(expected).max(initial=0.0)))):
            raise InputError(
                f"the model {type(model).__name__} and its ONNX graph give other outputs, as where what a model does "
                "depends on the values of its inputs; leave out the format."
            )
