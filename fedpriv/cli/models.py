"""``fedpriv models``: the personal models of a finished run as one compact file, and what serving from it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli.options import DataDir, JsonFlag, path, path_option, say, say_json
from fedpriv.config import build_experiment
from fedpriv.errors import InputError
from fedpriv.progress import Progress, phase

__all__ = ["models"]


def models(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="The folder of a finished run.")],
    out: Annotated[Path, path_option("File to write, in the safetensors format.")] = Path("models.safetensors"),
    dtype: Annotated[str, typer.Option(help="Type of the numbers in it: float32 or float64.")] = "float32",
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the personal models of a finished run (low-rank plus sparse) to one compact file, to predict from."""
    from fedpriv.lrs.store import PAIRS, PersonalModels, served
    from fedpriv.personal import personal_models
    from fedpriv.runs.checkpoint import CheckpointStore
    from fedpriv.runs.folder import made_in_python, read_config

    config = read_config(run)
    if made_in_python(config):
        raise InputError(
            f"{run} was made in Python, so no command can load its data; there, "
            "fedpriv.personal.personal_models(experiment, billboard).save(path) writes the same file."
        )
    if not (run / "summary.json").exists():
        raise InputError(f"{run} is not finished; go on with `fedpriv run ... --out {run} --resume` first.")
    experiment = build_experiment(config, data_dir)
    checkpoints = CheckpointStore(run / "checkpoints")
    billboards = checkpoints.load(checkpoints.rounds()[-1]).billboards
    if len(billboards) != 1:
        raise InputError(f"{run} has a billboard for each of {len(billboards)} groups; export a run without groups.")
    (billboard,) = billboards.values()
    with Progress(quiet=as_json), phase("personal models"):
        personal_models(experiment, billboard).save(out, dtype=dtype)
    found = {"file": str(out), "tasks": len(experiment.tasks), "file_bytes": out.stat().st_size, "released": False}
    found |= served(PersonalModels.open(out))
    if as_json:
        say_json(found)
        return
    say(
        f"{found['tasks']:,} models of {found['numbers_per_task']} own numbers each: {found['bytes_per_task']} bytes "
        f"per task, {found['file_bytes']:,} in all; {found['microseconds_per_pair']:.2f} microseconds for a (task, x) "
        f"pair, {PAIRS:,} at a time. {out} belongs to its tasks: do not publish it."
    )
