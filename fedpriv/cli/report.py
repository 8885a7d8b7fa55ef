"""``fedpriv report``: one page for one run or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli.options import JsonFlag, path, path_option, say

__all__ = ["report"]


def report(
    runs: Annotated[list[Path], typer.Argument(parser=path, metavar="RUNS...", help="Run folders.")],
    out: Annotated[Path | None, path_option("HTML file to write; RUN/report.html for one run, unless given.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write one self-contained HTML page for one run or several."""
    from fedpriv.report import write_report

    page = write_report(runs, out)
    say(json.dumps({"report": str(page)}) if as_json else f"wrote {page}")
