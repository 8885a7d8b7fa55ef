"""``fedpriv list``: scenarios, presets, data sets."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fedpriv.cli.data import data_list
from fedpriv.cli.options import JsonFlag, show_table

__all__ = ["list_"]


def list_(
    what: Annotated[Literal["scenarios", "presets", "datasets"], typer.Argument(help="What to list.")] = "scenarios",
    as_json: JsonFlag = False,
) -> None:
    """Show the scenarios, their presets, or the data sets."""
    if what == "datasets":
        data_list(as_json)
        return
    from fedpriv.scenarios import scenarios

    found = scenarios().values()
    if what == "scenarios":
        rows = [{"scenario": one.name, "description": one.description, "presets": list(one.presets)} for one in found]
    else:
        rows = [
            {"scenario": one.name, "preset": name, "about": one.about(name)} for one in found for name in one.presets
        ]
    show_table(rows, as_json)
