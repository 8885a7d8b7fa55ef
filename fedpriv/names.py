"""Names as users type them: kebab-case of class names, the nearest known name for a typing error, old names."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["dotted", "kebab", "nearest", "renamed", "unknown"]


def kebab(name: str) -> str:
    """Turn a class name into the name users type: ``MeanRegularized`` becomes ``mean-regularized``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def dotted(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a nested mapping by dotted name, ``{"rmse.amht": 0.1}``; no truth values or texts."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": number for inner, number in dotted(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[str(name)] = value
    return found


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is closest to ``name``, or None if nothing is close."""
    matches = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def renamed(module: str, name: str, old: Mapping[str, str]) -> str:
    """Return the new name of what a module's users import under an old one, and warn whoever does.

    Raises
    ------
    AttributeError
        The module has, and had, no such name.
    """
    if name not in old:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} is now called {old[name]}; use that name.", DeprecationWarning, stacklevel=3)
    return old[name]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence for an unknown name: what was got, the nearest known name, all known names."""
    names = sorted(known)
    close = nearest(name, names)
    hint = f"did you mean {close!r}? " if close else ""
    return f"unknown {kind} {name!r}: {hint}known are {', '.join(names) or 'none'}."
