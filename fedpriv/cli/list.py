"""``fedpriv list``: scenarios, presets, data sets, models, client algorithms, strategies."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fedpriv.cli.data import data_list
from fedpriv.cli.options import JsonFlag, show_table

__all__ = ["list_"]

_KINDS = {"models": "model", "clients": "client", "strategies": "strategy"}


def list_(
    what: Annotated[
        Literal["scenarios", "presets", "datasets", "models", "clients", "strategies"],
        typer.Argument(help="What to list."),
    ] = "scenarios",
    as_json: JsonFlag = False,
) -> None:
    """Show the scenarios, their presets, the data sets, or what model.name, client.name and strategy.name may be."""
    if what == "datasets":
        data_list(as_json)
        return
    if what in _KINDS:
        from fedpriv.components import names_of

        show_table(names_of(_KINDS[what]), as_json)
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
