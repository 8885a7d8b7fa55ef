"""``fedpriv data``: which data sets there are, and whether their files are right."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fedpriv.cli.options import DataDir, JsonFlag, path, say, say_json, show_table
from fedpriv.config import Config, apply, build_experiment, parse_assignments, read_own
from fedpriv.errors import InputError

__all__ = ["data_check", "data_list"]


def data_list(as_json: JsonFlag = False) -> None:
    """Show sources, licences and files of the data sets."""
    from fedpriv.data import sources

    if as_json:
        say_json([asdict(one) for one in sources()])
        return
    rows = [
        {"data set": one.name, "title": one.title, "source": one.source, "licence": one.licence} for one in sources()
    ]
    show_table(rows, as_json)


def data_check(
    file: Annotated[
        Path | None,
        typer.Argument(
            parser=path, metavar="[FILE]", help="A data file of your own, or the TOML file of a run; see --set."
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="How FILE is read: data.task=school, run.declared=benchmark.")
    ] = None,
    private: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="A private file for the places of values that cannot be used or were changed.",
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Check that the files of the data sets are here and right; or read FILE, and show its structure.

    The model that a TOML file names is tried on made-up examples.
    """
    from fedpriv.data import check

    if file is not None:
        _check_own(file, parse_assignments(assignments or []), private, as_json=as_json)
        return
    if assignments or private:
        raise InputError("--set and --private say how a data file is read; name the file, or leave them out.")
    results = check(data_dir)
    show_table([asdict(result) for result in results], as_json)
    if any(result.status == "corrupt" for result in results):
        raise InputError("some files are not what they should be; fetch them again.")


def _check_own(file: Path, changes: dict[str, Any], private: Path | None, *, as_json: bool) -> None:
    """Show what was read of a data file, or of the one that a TOML file names; then refuse what a run would refuse."""
    from fedpriv.data import check_own_file

    config = _config(file, changes)
    found, refused = check_own_file(config["data"], config["run"].get("declared"), private), None
    if config.get("model"):
        try:
            build_experiment(config).check()
            found["model"] = f"{config['model'].get('name', 'mlp')} works on made-up examples like these"
        except InputError as error:
            refused = error
    if as_json:
        say_json(found)
    else:
        say("\n".join(f"{key}: {value}" for key, value in found.items()))
    if refused is not None:
        raise refused


def _config(file: Path, changes: dict[str, Any]) -> Config:
    if file.suffix.lower() == ".toml":
        config = apply(read_own(file), changes)
        if "file" not in config["data"]:
            raise InputError(f"{file} names no data.file; give the data file itself, or a TOML file that names one.")
    else:
        config = apply({"data": {}, "run": {}}, {"data.file": str(file)} | changes)
    return config
