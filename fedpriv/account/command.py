"""What ``fedpriv account`` does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fedpriv.account.account import Account
from fedpriv.account.solve import solve
from fedpriv.account.words import as_json, as_text
from fedpriv.privacy.terms import Relation

__all__ = ["account"]

_RELATIONS = {"add-remove": Relation.ADD_REMOVE, "replace-one": Relation.REPLACE_ONE}


def account(*, relation: str | None, figure: Path | None, json_output: bool, **values: Any) -> None:
    """Answer a question, print the account, draw the figure.

    Parameters
    ----------
    relation : str or None
        "add-remove" or "replace-one".
    figure : Path or None
        Where to draw, .svg or .png.
    json_output : bool
        Whether to print JSON.
    **values
        The numbers and choices of :class:`Account`.
    """
    question = Account(relation=None if relation is None else _RELATIONS[relation], **values)
    if figure is not None:
        from fedpriv.account.figure import check_file

        check_file(figure)
    answer = solve(question)
    if json_output:
        found = as_json(answer)
        if figure is not None:
            found["figure"] = str(figure)
        sys.stdout.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    else:
        sys.stdout.write(as_text(answer) + "\n")
    if figure is not None:
        from fedpriv.account.figure import write_figure

        write_figure(answer, figure)
        if not json_output:
            sys.stdout.write(f"wrote {figure}\n")
