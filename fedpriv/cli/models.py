"""``fedpriv models``: the personal models of a finished run as private files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli.options import DataDir, JsonFlag, path, say, say_json
from fedpriv.errors import InputError
from fedpriv.progress import Progress, phase

__all__ = ["models"]


def models(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="The folder of a finished run.")],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="A folder for all models. FILE.safetensors: the compact form of low-rank-plus-sparse models, which is "
            "taken for them unless a folder is given.",
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="Of a folder: safetensors or onnx.")] = "safetensors",
    task: Annotated[list[str] | None, typer.Option(help="For onnx: whose model; may be repeated.")] = None,
    dtype: Annotated[str, typer.Option(help="Of a task's numbers in a compact file: float32 or float64.")] = "float32",
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a finished run's personal models to private files: with the last local fit, as they were scored."""
    from fedpriv.opening import personal_of_run
    from fedpriv.personal import NOT_PROTECTED

    if format not in ("safetensors", "onnx"):
        raise InputError(f"--format must be safetensors or onnx, got {format!r}.")
    if task and format != "onnx":
        raise InputError("--task goes with --format onnx; one safetensors file holds the models of all tasks.")
    with Progress(quiet=as_json), phase("personal models"):
        personal = personal_of_run(run, data_dir)
        where = out or Path("models.safetensors" if personal.compact and format == "safetensors" else "models")
        if format == "onnx":
            personal.save_onnx(where, *(task or ()))
        else:
            personal.save(where, dtype=dtype)
    if where.suffix == ".safetensors":
        _say_compact(where, len(personal), as_json=as_json)
        return
    count = len(task) if task else len(personal)
    files = [where] if where.is_file() else sorted(where.iterdir())
    found = {"path": str(where), "format": format, "tasks": count, "released": False}
    found["bytes"] = sum(one.stat().st_size for one in files)
    if as_json:
        say_json(found)
        return
    say(f"{count:,} models, {found['bytes']:,} bytes, in {where}, for you alone. {NOT_PROTECTED}")


def _say_compact(file: Path, count: int, *, as_json: bool) -> None:
    from fedpriv.lrs.store import PAIRS, PersonalModels, served

    found = {"file": str(file), "tasks": count, "file_bytes": file.stat().st_size, "released": False}
    found |= served(PersonalModels.open(file))
    if as_json:
        say_json(found)
        return
    say(
        f"{found['tasks']:,} models of {found['numbers_per_task']} own numbers each: {found['bytes_per_task']} bytes "
        f"per task, {found['file_bytes']:,} in all; {found['microseconds_per_pair']:.2f} microseconds for a (task, x) "
        f"pair, {PAIRS:,} at a time. {file} belongs to its tasks: do not publish it."
    )
