"""The cells of Tables I and II, games of all seeds judged together beside what the paper found; levels of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.adversary import RULES, Outcome, Rate, Scores, judge, read_scores
from fedpriv.runs.finished import read_record
from fedpriv.statistics import Interval, holm

__all__ = [
    "PAPER_SIDE",
    "Cell",
    "Level",
    "below",
    "held_out_scores",
    "judged",
    "proportion",
    "rate_text",
    "read_cells",
    "trend",
]

PAPER_SIDE = 50
"""Games of each side that the paper played in a cell."""


def rate_text(found: Rate) -> str:
    """Return a rate with its interval."""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def proportion(one: Outcome) -> tuple[float, float]:
    """Return the accuracy and its variance, that of a proportion of independent games."""
    value = one.accuracy.value
    return value, value * (1 - value) / (2 * one.games)


@dataclass(frozen=True)
class Cell:
    """One cell."""

    which: str  # the set that is attacked
    data: str
    ways: int
    shots: int
    found: dict[str, Outcome]  # by rule, results of inversion
    cheap: dict[str, Outcome]  # by rule, results of the cheap score
    paper: tuple[int, int]  # members that the paper's attack found, and non-members that it called members, of 50 each
    held_out: dict[str, float]  # accuracy of people who took no part, from the billboard and from the references
    p: float = 1.0  # of the test that inversion is below the paper in the paper's game, after Holm's correction

    @property
    def paper_accuracy(self) -> float:
        """Accuracy in the paper."""
        return (self.paper[0] + PAPER_SIDE - self.paper[1]) / (2 * PAPER_SIDE)

    @property
    def accuracy(self) -> float:
        """Accuracy of inversion in the paper's game."""
        return self.found["paper"].accuracy.value


@dataclass(frozen=True)
class Level:
    """Results of one level of noise."""

    place: str  # where it is added
    level: float  # how much: a standard deviation, or a noise multiplier where it is calibrated
    accuracy: float  # of held-out people after the last round
    half: float  # of the width of its interval over people
    # By set and rule, accuracy and AUC of inversion with their intervals, as results of an attack hold them; as
    # "cheap", those of the cheap score in the paper's game.
    games: dict[str, dict[str, Any]]
    bound: float = 1.0  # the largest AUC that any attack can have, by the guarantee; 1 without one


def read_cells(
    folder: Callable[[str, str], Sequence[Path]],
    paper: Mapping[str, Mapping[str, tuple[int, int]]],
    rounds: Mapping[str, int],
    validation: Callable[[str, str], int],
) -> list[Cell]:
    """Judge all cells, and test them together.

    From arm and point ``folder`` makes the run folders of all seeds, and ``validation`` the games of each side, per
    seed, that choose the threshold. ``paper`` holds the paper's counts by set and point, ``rounds`` by set the round
    that counts.
    """
    cells = []
    for which, points in paper.items():
        for point, counts in points.items():
            data, ways, shots = point.split("-")
            runs = folder(which, point)
            scores = [read_scores(run, rounds[which]) for run in runs]
            found, cheap = (
                {rule: judged(scores, which, attack, rule, validation(which, point)) for rule in RULES}
                for attack in ("inversion", "score")
            )
            cells.append(
                Cell(which, data, int(ways), int(shots), found, cheap, (counts[0], counts[1]), held_out_scores(runs))
            )
    values = holm([below(cell) for cell in cells])
    return [replace(cell, p=p) for cell, p in zip(cells, values, strict=True)]


def judged(runs: Sequence[Scores], which: str, attack: str, rule: str, validation: int) -> Outcome:
    """Judge the games of several runs together: the validation games of all choose one threshold."""

    def side(name: str) -> Any:
        parts = [run[which][attack][name] for run in runs]
        return np.concatenate([part[:validation] for part in parts] + [part[validation:] for part in parts])

    return judge(side("members"), side(rule), validation * len(runs))


def held_out_scores(runs: Iterable[Path]) -> dict[str, float]:
    """Return the accuracy of people who took no part, mean over runs, by where they began."""
    found: dict[str, list[float]] = {}
    for run in runs:
        held = read_record(run).diagnostics.held_out
        for start in ("billboard", "scratch", "pretrained"):
            if start in held:
                found.setdefault(start, []).append(float(held[start]["accuracy"]))
    return {start: float(np.mean(values)) for start, values in found.items()}


def below(cell: Cell) -> float:
    """Return the p-value of the one-sided test that our proportion of right answers is below the paper's."""
    from scipy.special import ndtr

    ours, theirs = 2 * cell.found["paper"].games, 2 * PAPER_SIDE
    pooled = (cell.accuracy * ours + cell.paper_accuracy * theirs) / (ours + theirs)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / ours + 1 / theirs))
    return float(ndtr((cell.accuracy - cell.paper_accuracy) / spread)) if spread else 0.5


def trend(pairs: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> Interval:
    """Return the mean difference of pairs of (accuracy, variance) and its normal 95% interval for independent games."""
    mean = float(np.mean([first[0] - second[0] for first, second in pairs]))
    spread = math.sqrt(sum(first[1] + second[1] for first, second in pairs)) / len(pairs)
    return Interval(mean, 1.959964 * spread, len(pairs))
