"""Scenarios: runnable experiments, one folder each, with their presets as TOML files beside the code.

A scenario is a package here whose docstring's first line describes it. ``PRESETS`` names its presets, the default
first; a ``build(config, data_dir)`` function is only needed where the usual one does not do, and
``measure(experiment, result)`` returns what the scenario compares its runs with, for the summary and the answer.

A TOML file of a user's own is a scenario with one preset; the one in a run folder is that run's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from fedpriv.config import Config, build_experiment, read_own, read_toml
from fedpriv.errors import InputError
from fedpriv.names import unknown
from fedpriv.runs import made_in_python
from fedpriv.runs.atomic import damage_said

__all__ = ["Scenario", "scenario", "scenarios"]

_ENDING = ".toml"


@dataclass(frozen=True)
class Scenario:
    """A runnable experiment."""

    name: str  # as users type it
    description: str  # one line
    presets: dict[str, Path]  # path of the TOML file by preset name; the first is the default
    build: Callable[[Config, Path | None], Any]  # turns (configuration, data directory) into an Experiment
    # Turns (Experiment, RunResult) into further entries of the summary; diagnostics, not released.
    measure: Callable[[Any, Any], dict[str, Any]] | None = None
    is_file: bool = False  # whether its one preset is a file of a user's own, or that of a run
    of_run: bool = False  # whether that file lies in a run folder

    def about(self, preset: str) -> str:
        """Return the first sentences of the comment that a preset's file begins with: those of its first line."""
        lines = self.presets[preset].read_text(encoding="utf-8").splitlines()
        comment = [line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)]
        ends = [match.start() for match in re.finditer(r"(?<=\.)(?=\s+[A-Z0-9]|$)", " ".join(comment))]
        return " ".join(comment)[: next((end for end in ends if end >= len(comment[0])), None)]

    def label(self, preset: str | None) -> str:
        """Return the name of a preset for folders and reports, that of the default one unless it is named."""
        return next(iter(self.presets)) if preset is None else Path(preset).stem if preset.endswith(_ENDING) else preset

    def folder_name(self, preset: str | None) -> str:
        """Return what a folder of its runs is called."""
        return self.label(preset) if self.name.endswith(_ENDING) else f"{self.name}-{self.label(preset)}"

    def preset(self, name: str | None = None) -> Config:
        """Return the configuration of a preset, the default one unless named; or of a file, by its path.

        Raises
        ------
        InputError
            There is no such preset, or the file cannot be read.
        """
        if self.is_file:
            if name is not None and name not in self.presets:
                raise InputError(f"{self.name} is a preset itself, got --preset {name}; leave one of the two out.")
            return read_own(next(iter(self.presets.values())))
        if name is not None and name.endswith(_ENDING):
            return read_own(Path(name))
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
    """Return a scenario by name, or by the path of a TOML file.

    Raises
    ------
    InputError
        The name is unknown, or there is no such file.
    """
    known = scenarios()
    if name in known:
        return known[name]
    if name.endswith(_ENDING):
        return _of_file(Path(name), known)
    if Path(name, "config.toml").is_file():
        raise InputError(f"{name} is a run folder; give its file, {Path(name, 'config.toml')}, to run it again.")
    if Path(f"{name}{_ENDING}").is_file():
        raise InputError(f"{name!r} is no scenario; to run the file, give {name}{_ENDING}.")
    raise InputError(
        f"{unknown('scenario', name, known)} A file of your own is given with its ending, {name}{_ENDING}."
    )


def _of_file(path: Path, known: dict[str, Scenario]) -> Scenario:
    """Return the scenario of a file: that of its run where it lies in a run folder, else one of its own."""
    config, kept = read_own(path), path.parent / "checkpoints/about.json"
    one = Scenario(path.name, str(path), {path.stem: path}, build_experiment, is_file=True)
    if not kept.is_file():
        return one
    if made_in_python(config):
        raise InputError(
            f"{path} is of a run that was made in Python, so its data are not at hand here; run it again there."
        )
    with damage_said(str(kept)):
        about: dict[str, str] = {"scenario": one.name, "preset": path.stem} | json.loads(
            kept.read_text(encoding="utf-8")
        )
    base = known.get(about["scenario"], replace(one, name=about["scenario"]))
    return replace(base, presets={about["preset"]: path}, is_file=True, of_run=True)
