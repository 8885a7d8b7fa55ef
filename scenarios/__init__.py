"""Scenarios: runnable experiments, one folder each, with their presets as TOML files beside the code.

A scenario is a package here whose docstring's first line describes it. ``PRESETS`` names its presets, the default
first; a ``build(config, data_dir)`` function is only needed where the usual one does not do, and
``measure(experiment, result)`` returns what the scenario compares its runs with, for the summary and the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from fedpriv.config import Config, build_experiment, read_toml
from fedpriv.errors import InputError
from fedpriv.names import unknown

__all__ = ["Scenario", "scenario", "scenarios"]


@dataclass(frozen=True)
class Scenario:
    """A runnable experiment."""

    name: str  # as users type it
    description: str  # one line
    presets: dict[str, Path]  # path of the TOML file by preset name; the first is the default
    build: Callable[[Config, Path | None], Any]  # turns (configuration, data directory) into an Experiment
    # Turns (Experiment, RunResult) into further entries of the summary; diagnostics, not released.
    measure: Callable[[Any, Any], dict[str, Any]] | None = None

    def about(self, preset: str) -> str:
        """Return the first sentences of the comment that a preset's file begins with: those of its first line."""
        lines = self.presets[preset].read_text(encoding="utf-8").splitlines()
        comment = [line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)]
        ends = [match.start() for match in re.finditer(r"(?<=\.)(?=\s+[A-Z0-9]|$)", " ".join(comment))]
        return " ".join(comment)[: next((end for end in ends if end >= len(comment[0])), None)]

    def preset(self, name: str | None = None) -> Config:
        """Return the configuration of a preset, the default one unless named."""
        chosen = name or next(iter(self.presets))
        if chosen not in self.presets:
            raise InputError(unknown(f"preset of {self.name}", chosen, self.presets))
        return read_toml(self.presets[chosen])


def scenarios() -> dict[str, Scenario]:
    """Return all scenarios by name."""
    found = {}
    for module in iter_modules(__path__):
        if not module.ispkg:
            continue
        name = module.name.replace("_", "-")
        found[name] = _read(name, import_module(f"{__name__}.{module.name}"))
    return found


def _read(name: str, package: ModuleType) -> Scenario:
    folder = Path(str(package.__file__)).parent
    presets = getattr(package, "PRESETS", None)
    if not isinstance(presets, tuple) or not presets:
        raise InputError(f"the scenario {name!r} must name its presets, PRESETS = ('small',), got {presets!r}.")
    paths = {preset: folder / f"{preset}.toml" for preset in presets}
    for path in paths.values():
        if not path.exists():
            raise InputError(
                f"the scenario {name!r} names the preset {path.stem!r}, but {path} is not there; write it."
            )
    if not (package.__doc__ or "").strip():
        raise InputError(f"the scenario {name!r} needs a docstring; its first line is what `fedpriv list` shows.")
    return Scenario(
        name,
        (package.__doc__ or "").strip().splitlines()[0],
        paths,
        getattr(package, "build", build_experiment),
        getattr(package, "measure", None),
    )


def scenario(name: str) -> Scenario:
    """Return a scenario by name.

    Raises
    ------
    InputError
        The name is unknown.
    """
    known = scenarios()
    if name not in known:
        raise InputError(unknown("scenario", name, known))
    return known[name]
