"""Tuning before a protocol's report runs: every arm tries the same grid with the same seeds at every point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from fedpriv.config import apply
from fedpriv.errors import InputError
from fedpriv.evidence.protocol import Protocol
from fedpriv.evidence.run import Configs, collect
from fedpriv.sweep import Build

__all__ = ["TuningResult", "tune"]


@dataclass(frozen=True)
class TuningResult:
    """One combination of the grid, for one arm at one point."""

    arm: str  # whose it is
    point: str
    values: dict[str, Any]  # value by dotted key
    accuracy: float  # of the personal models, mean over tuning seeds
    best: bool  # whether it is the best one of this arm at this point; the first of equals


def tune(
    protocol: Protocol, configs: Configs, *, build: Build, out: Path, data_dir: Path | None = None
) -> list[TuningResult]:
    """Run what a protocol tries at its points (``tuning.at``); what is finished is read.

    A value of the grid replaces what ``configs`` choose already. Other arguments are those of
    :func:`fedpriv.evidence.collect`.

    Raises
    ------
    InputError
        The protocol tries nothing.
    """
    if not protocol.tuning.at:
        raise InputError("this protocol tunes nothing; say in tuning.at which grid and seeds every point tries.")
    tried: list[TuningResult] = []
    for where, trial in protocol.tuning.at.items():
        cells = {_name(values): dict(zip(trial.grid, values, strict=True)) for values in product(*trial.grid.values())}
        mine = {arm: config for (arm, point), config in configs.items() if point == where}
        asked = {
            (arm, f"{where}-{name}"): apply(config, cell)
            for arm, config in mine.items()
            for name, cell in cells.items()
        }
        found = collect(asked, trial.seeds, build=build, out=out, data_dir=data_dir)
        for arm in mine:
            scores = [fmean(found.column(arm, f"{where}-{name}")) for name in cells]
            best = scores.index(max(scores))
            tried += [
                TuningResult(arm, where, cell, score, at == best)
                for at, (cell, score) in enumerate(zip(cells.values(), scores, strict=True))
            ]
    return tried


def _name(values: Sequence[Any]) -> str:
    return "-".join(map(str, values))
