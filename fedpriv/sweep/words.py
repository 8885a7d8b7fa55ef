"""What users type: ``--grid key=v1,v2`` and ``--seeds 8``, ``3,5,9`` or ``2001-2008``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from fedpriv.config import SECTIONS, parse_value
from fedpriv.errors import InputError

__all__ = ["as_text", "parse_grid", "parse_seeds"]

_MAX_SEEDS = 10_000
_OWN = {"run.seed": "--seeds", "run.reproduce": "--reproduce"}
# Who is protected and whose budget is spent: one and the same for a sweep, or the same people would pay from two.
_OWN |= {f"run.{name}": f"--set run.{name}" for name in ("ledger", "population", "declared")}
_OWN |= {f"run.budget_{name}": f"--set run.budget_{name}" for name in ("epsilon", "delta")}


def parse_grid(words: Iterable[str]) -> dict[str, list[Any]]:
    """Turn ``["client.strength=0.5,[0.1,1]"]`` into ``{"client.strength": [0.5, [0.1, 1]]}``.

    Commas inside brackets, braces and quotes belong to a value.

    Raises
    ------
    InputError
        No key, no value, a key or a value that stands twice, a key that the sweep sets itself.
    """
    grid: dict[str, list[Any]] = {}
    for text in words:
        key, equals, listed = text.partition("=")
        key = key.strip()
        values = [part.strip() for part in _split(listed)]
        if not equals or not key or "" in values:
            raise InputError(
                f"--grid needs key=v1,v2 without empty values, got {text!r}; for example --grid strategy.epsilon=1,2,4."
            )
        if key in grid:
            raise InputError(f"--grid names {key} twice; give all its values in one list.")
        if key in _OWN:
            raise InputError(f"--grid cannot vary {key}; use {_OWN[key]}.")
        section, dot, name = key.partition(".")
        if section not in SECTIONS or not dot or not name:
            raise InputError(f"--grid needs a dotted key such as strategy.epsilon, got {key!r}.")
        grid[key] = []
        for value in map(parse_value, values):
            if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in grid[key]):
                raise InputError(f"--grid gives {key} the value {as_text(value)} twice; leave one out.")
            grid[key].append(value)
    return grid


def parse_seeds(text: str) -> list[int]:
    """Turn ``8`` into 0 to 7, and lists and ranges such as ``3,5,9`` or ``2001-2008`` into their numbers.

    A single seed is a range of one, ``5-5``, or a list with a comma at its end, ``5,``.

    Raises
    ------
    InputError
        Not such a text, no seed, a seed that stands twice, or more than 10,000.
    """
    if re.fullmatch(r"\s*\d+\s*", text):
        first, stop = 0, int(text)
        spans = [range(first, stop)]
    else:
        spans = []
        for part in text.removesuffix(",").split(","):
            match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
            if match is None:
                raise InputError(
                    f"--seeds needs a number, a list or a range, got {text!r}; for example 8, 3,5,9 or 1-4."
                )
            spans.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    if any(not span for span in spans) or sum(map(len, spans)) > _MAX_SEEDS:
        raise InputError(
            f"--seeds must name 1 to {_MAX_SEEDS:,} seeds, the smaller end of a range first; got {text!r}."
        )
    seeds = [seed for span in spans for seed in span]
    twice = next((seed for at, seed in enumerate(seeds) if seed in seeds[:at]), None)
    if twice is not None:
        raise InputError(f"--seeds names {twice} twice; a seed counts once.")
    return seeds


def as_text(value: Any) -> str:
    """Write a value as users type it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _split(text: str) -> list[str]:
    """Cut at commas outside brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += sign
    return parts
