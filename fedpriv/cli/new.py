"""``fedpriv new``: a small project of one's own that runs at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli.options import JsonFlag, path, say, say_json

__all__ = ["new"]


def new(
    folder: Annotated[Path, typer.Argument(parser=path, metavar="DIR", help="Folder to make.")],
    as_json: JsonFlag = False,
) -> None:
    """Write a small project to start from: data, a network, a configuration, a notebook, a test. It runs at once."""
    from fedpriv.project import write_project
    from fedpriv.schema import config_schema

    written = write_project(folder, config_schema())
    if as_json:
        say_json({"project": str(folder), "files": [str(file) for file in written]})
        return
    say("\n".join(f"wrote {file}" for file in written))
    say(f"Now: cd {folder} && fedpriv run my.toml")
