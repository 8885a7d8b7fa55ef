"""``fedpriv predict``: what one task's own model predicts."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli.options import DataDir, JsonFlag, path, say_json
from fedpriv.progress import Progress, phase

__all__ = ["predict"]


def predict(
    source: Annotated[
        Path,
        typer.Argument(
            parser=path, metavar="RUN", help="The folder of a finished run, or one that `fedpriv models` wrote."
        ),
    ],
    task: Annotated[str, typer.Option(help="Whose model.")],
    examples: Annotated[
        Path, typer.Option("--input", parser=path, metavar="FILE", help="Examples: .csv, .parquet or .npy.")
    ],
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Of each class, not the best class.")] = False,
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Print what one task's own model predicts, as CSV: one line for each example."""
    from fedpriv.opening import personal_of_run
    from fedpriv.personal import is_export, open_models, read_examples

    with Progress(quiet=as_json), phase("personal model"):
        personal = open_models(source) if is_export(source) else personal_of_run(source, data_dir)
        found = personal.predict(task, read_examples(examples, personal.outline), probabilities=probabilities)
    if as_json:
        say_json({"task": task, "predictions": found.tolist(), "released": False})
        return
    rows = found.reshape(len(found), -1)
    name = "probability" if probabilities else "prediction"
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([name] if rows.shape[1] == 1 else [f"{name}_{number}" for number in range(rows.shape[1])])
    writer.writerows(rows.tolist())
