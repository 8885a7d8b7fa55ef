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
    from fedpriv.data import own_inputs
    from fedpriv.opening import personal_of_run
    from fedpriv.personal import is_export, no_task, open_models, read_examples

    with Progress(quiet=as_json), phase("personal model"):
        personal = open_models(source) if is_export(source) else personal_of_run(source, data_dir)
        if task not in personal.outline.places:
            written = source if is_export(source) else "FOLDER"
            first = "" if is_export(source) else f"write them with `fedpriv models {source} --out FOLDER` and "
            raise no_task(task, personal.outline, f"{first}see the names in {written}/manifest.json")
        reading = personal.outline.reading or {}
        by_rules = reading.get("features") is not None and examples.suffix != ".npy"
        inputs = own_inputs(reading, examples) if by_rules else read_examples(examples, personal.outline)
        found = personal.predict(task, inputs, probabilities=probabilities)
    names = reading.get("classes") if isinstance(reading.get("classes"), list) else None
    rows = found.reshape(len(found), -1).tolist()
    if names is not None and not probabilities:
        rows = [[names[number] for number in row] for row in rows]
    if as_json:
        flat = rows if probabilities or found.ndim > 1 else [row[0] for row in rows]
        say_json({"task": task, "predictions": flat, **({"classes": names} if names else {}), "released": False})
        return
    name = "probability" if probabilities else "prediction"
    heads = [f"{name}_{one}" for one in (names if probabilities and names else range(len(rows[0]) if rows else 0))]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(heads if len(heads) > 1 else [name])
    writer.writerows(rows)
