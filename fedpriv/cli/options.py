"""Words that several commands share, and how they print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "Assignments",
    "DataDir",
    "JsonFlag",
    "PresetName",
    "ScenarioName",
    "path",
    "path_option",
    "say",
    "say_json",
    "show_table",
]


def path(text: str | Path) -> Path:
    """Return a path that was named: an empty one, as of a shell's variable that is not set, would be this folder."""
    if not str(text):
        raise typer.BadParameter("it is empty; name a path ('.' is this folder).")
    return Path(text)


def path_option(about: str, *names: str, **more: Any) -> Any:
    """Return an option that takes a path."""
    return typer.Option(*names, parser=path, metavar="PATH", help=about, **more)


Assignments = Annotated[list[str] | None, typer.Option("--set", help="Setting to change, key=value; may be repeated.")]
ScenarioName = Annotated[
    str, typer.Argument(metavar="SCENARIO|FILE.toml", help="Scenario (see `fedpriv list`), or a TOML file of yours.")
]
PresetName = Annotated[
    str | None, typer.Option(help="Preset of the scenario, or a TOML file of yours; its first preset unless given.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DataDir = Annotated[
    Path | None,
    path_option("Folder of the data sets.", "--data-dir", envvar="FEDPRIV_DATA", show_default=False),
]


def say(text: str) -> None:
    """Print a text."""
    sys.stdout.write(f"{text}\n")


def say_json(found: Any) -> None:
    """Print what a program reads."""
    say(json.dumps(found, indent=2, default=str))


def show_table(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows with the same keys as a table, or as JSON."""
    if as_json:
        say_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(rows[0] if rows else ["nothing"]))
    for row in rows:
        table.add_row(*(", ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for v in row.values()))
    Console().print(table)
