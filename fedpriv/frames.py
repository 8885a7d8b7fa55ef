"""Tables of what a run scored, for pandas: they stay with the experimenter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fedpriv.cohort import PARTS, Tasks

if TYPE_CHECKING:
    from pandas import DataFrame

    from fedpriv.summary import RunResult

__all__ = ["per_round", "per_task"]


def per_task(result: RunResult) -> DataFrame:
    """Return a row per task: name, public group, numbers of examples, scores (NaN where there are none)."""
    from pandas import DataFrame

    people = result.population
    count = max((len(values) for values in result.scores.values()), default=0)
    columns: dict[str, Any] = {"task": range(count) if people is None else people.names}
    if people is not None and people.groups is not None:
        columns["group"] = people.groups
    if isinstance(people, Tasks):
        columns |= {part: people.part(part).sizes for part in PARTS}
    return DataFrame(columns | {_column(name): values for name, values in result.scores.items()})


def per_round(result: RunResult) -> DataFrame:
    """Return a row per round of which something is known: published means and norms, epsilon, unreleased means.

    The columns of means that no release covers begin with ``diagnostic``.
    """
    from pandas import DataFrame

    rows: dict[int, dict[str, float]] = {}
    for line in _lines(result):
        rows.setdefault(int(line["round"]), {}).update(_numbers(line))
    return DataFrame([{"round": number, **rows[number]} for number in sorted(rows)])


def _lines(result: RunResult) -> Iterable[Mapping[str, Any]]:
    if result.folder is None:
        return [*result.evaluations, *result.released_lines, *result.privacy_lines]
    text = (result.folder / "metrics.jsonl").read_text(encoding="utf-8")  # a run that went on has older lines there
    return [json.loads(line) for line in text.splitlines()]


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    start = "" if line.get("released", True) else "diagnostic_"
    found: dict[str, float] = {}
    for name, value in [*line.items(), *line.get("metrics", {}).items()]:
        if name == "metrics":
            continue  # {"metrics": {"auc": {"personal": 0.1}}}
        if isinstance(value, Mapping):  # {"loss": {"personal": 0.1}}
            found |= {f"{start}{model}_{name}": number for model, number in value.items()}
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "round":
            found[f"{start}{name}"] = value
    return found


def _column(name: str) -> str:
    return name.replace(".", "_")
