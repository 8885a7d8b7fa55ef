"""What a notebook shows of a run: the means of its models and its guarantee, never data or scores of single tasks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedpriv.summary import RunResult

__all__ = ["result_html"]

_MODELS = {"personal": "personal", "billboard": "billboard", "local_only": "local only"}


def result_html(result: RunResult) -> str:
    """Return a table of mean test scores, as far as there are any, and the guarantees, as HTML."""
    measures = result.diagnostics.measures
    there = {name: found for name, found in measures.items() if any(one is not None for one in vars(found).values())}
    head = "".join(f"<th>mean test {name}</th>" for name in there)
    rows = ""
    for model, words in _MODELS.items():
        values = [getattr(found, model) for found in there.values()]
        if any(value is not None for value in values):
            cells = "".join(f"<td>{'' if value is None else f'{value:.4g}'}</td>" for value in values)
            rows += f"<tr><th>{words}</th>{cells}</tr>"
    table = f"<table><tr><th>model</th>{head}</tr>{rows}</table>" if rows else ""
    said = [str(result.guarantee)]
    if result.personal_guarantee != result.guarantee:
        said.append(str(result.personal_guarantee))
    warnings = [f"<p>Warning: {escape(one)}</p>" for one in result.summary.get("warnings", [])]
    note = "<p>Scores are diagnostics for the experimenter: no release covers them.</p>" if rows else ""
    return "<div>" + table + note + "".join(f"<p>{escape(one)}</p>" for one in said) + "".join(warnings) + "</div>"
