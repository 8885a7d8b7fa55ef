"""What a sweep does, decided and checked before anything runs: cells, seeds, and one run folder for each pair."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w

from fedpriv.config import Config, apply
from fedpriv.errors import InputError
from fedpriv.runs.atomic import write_bytes
from fedpriv.sweep.jobs import Job
from fedpriv.sweep.words import as_text

__all__ = ["Cell", "Plan", "holds_sweep", "read_plan"]

_FORMAT = 1
_FILE = "sweep.toml"
_FIRST = {"data.partition", "strategy.server_update"}
"""Keys that, as names do, drop settings which belong to another choice."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    values: dict[str, Any]  # value by key, in the order of the grid
    name: str  # its folder below the sweep's
    config: Config  # its configuration; the seed comes with each run


@dataclass(frozen=True)
class Plan:
    """A sweep as it was asked for."""

    scenario: str  # what is run
    preset: str
    config: Config  # the preset with all ``--set`` applied
    grid: dict[str, list[Any]]  # values by key
    seeds: list[int]  # seeds of every cell
    reproduce: bool = False  # whether the seeds fix noise and coins, too

    def __post_init__(self) -> None:
        if not self.grid or not all(self.grid.values()):
            raise InputError("a sweep needs at least one --grid key=v1,v2; without one, use `fedpriv run`.")
        if self.config["run"].get("grid") == "flower" or "flower" in self.grid.get("run.grid", []):
            raise InputError("a sweep keeps its shards warm, which Flower's own engine cannot; use run.grid=ray.")
        for key in ("seed", "reproduce"):
            if key in self.config["run"]:
                raise InputError(f"run.{key} cannot be set in a sweep; use --seeds and --reproduce.")

    def cells(self) -> list[Cell]:
        """Return the points of the grid, the last key running fastest.

        Raises
        ------
        InputError
            An unknown section, two points with the same configuration, or a point that would not use one of its values.
        """
        found: list[Cell] = []
        combinations = list(product(*self.grid.values()))
        digits = len(str(len(combinations)))
        for number, combination in enumerate(combinations, start=1):
            values = dict(zip(self.grid, combination, strict=True))
            # A new class drops settings that it does not know, so names and choices come before the grid's settings.
            ordered = sorted(values, key=lambda key: (not key.endswith(".name"), key not in _FIRST))
            config = apply(self.config, {key: values[key] for key in ordered})
            for other in found:
                if other.config == config:
                    raise InputError(
                        f"the cells {_label(other.values)} and {_label(values)} are the same run; leave one key out."
                    )
            found.append(Cell(values, f"{number:0{digits}d}-{_folder_name(values)}", config))
        for cell in found:
            for key in cell.values:
                section, _, name = key.partition(".")
                if name not in cell.config[section]:
                    raise InputError(
                        f"the cell {_label(cell.values)} would run without {key}, which another key replaces; leave "
                        "one out."
                    )
        return found

    def jobs(self, out: Path) -> list[Job]:
        """Return one job per seed and cell: seed by seed, so that cells with the same data come one after another."""
        about = {"scenario": self.scenario, "preset": self.preset}
        cells = self.cells()
        return [
            Job(
                out / cell.name / f"seed-{seed}",
                apply(cell.config, {"run.seed": seed}),
                seed,
                cell.values,
                seed if self.reproduce else None,
                about,
            )
            for seed in self.seeds
            for cell in cells
        ]

    def store(self, out: Path) -> None:
        """Write what was asked for to ``sweep.toml``."""
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_bytes(out / _FILE, tomli_w.dumps(self._stored()).encode(), public=True)
        except OSError as error:
            raise InputError(f"the folder {out} cannot be written ({error.strerror}); choose another --out.") from None

    def must_match(self, stored: Plan, out: Path) -> None:
        """Refuse to go on with another sweep than the one that was started."""
        before, now = stored._stored(), self._stored()
        for key in now:
            if before[key] != now[key]:
                was, got = _first_difference(before[key], now[key])
                raise InputError(
                    f"{out} was started with another {key}: {was} then, {got} now; resume with the old one (what is "
                    "left out is taken from there), or start a new sweep."
                )

    def _stored(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "scenario": self.scenario,
            "preset": self.preset,
            "reproduce": self.reproduce,
            "seeds": self.seeds,
            "grid": self.grid,
            "config": self.config,
        }


def holds_sweep(out: Path) -> bool:
    """Tell whether a sweep was started in a folder."""
    return (out / _FILE).exists()


def read_plan(out: Path) -> Plan:
    """Read the sweep that was started in a folder.

    Raises
    ------
    InputError
        There is none, or its file is damaged.
    """
    try:
        found = tomllib.loads((out / _FILE).read_text(encoding="utf-8"))
        if found.pop("format") != _FORMAT:
            raise InputError(f"{out / _FILE} is of a format that this version does not know; use the one that made it.")
        return Plan(**found)
    except OSError:
        raise InputError(f"{out} holds no sweep to resume; leave out --resume to start one.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise InputError(f"{out / _FILE} is damaged ({error}); restore it or start a new sweep.") from None


def _label(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={as_text(value)}" for key, value in values.items())


def _folder_name(values: Mapping[str, Any]) -> str:
    words = [f"{key.partition('.')[2]}-{as_text(value)}" for key, value in values.items()]
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", "-".join(words)).strip("-.")[:60]


def _first_difference(before: Any, now: Any) -> tuple[str, str]:
    """Return the first part of two stored values that differs, as text."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                was, got = _first_difference(before.get(key), now.get(key))
                return (f"{key} {was}", f"{key} {got}") if not isinstance(before.get(key), dict) else (was, got)
    return as_text(before), as_text(now)
