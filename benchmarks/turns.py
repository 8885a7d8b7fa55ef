"""Measuring in turns, and the comparison of what the sides computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from benchmarks.outcome import Outcome
from benchmarks.peers import OURS, Peer
from benchmarks.runner import Runner
from benchmarks.work import Work

__all__ = ["Agreement", "Turns", "compare_models", "take_turns"]


@dataclass(frozen=True)
class Agreement:
    """Largest difference between our model and a peer's after one round in float64 without noise."""

    relative_to_model: float  # divided by the largest weight
    relative_to_step: float  # divided by how far the round moved the weights


def compare_models(runner: Runner, work: Work, peers: Sequence[Peer]) -> dict[str, Agreement]:
    """Train one round in float64 without noise on every side and compare what came out."""
    # In float32, the input of a ReLU that is zero up to rounding (one in a few hundred thousand here) gets its gradient
    # on one side and not on the other, and the models then differ by a thousandth of the step, whoever is right.
    quiet = replace(work, noise_multiplier=0.0, dtype="float64")
    start = {name: value.detach().numpy() for name, value in work.network().named_parameters()}
    _, ours = runner.run(OURS.side, quiet, **OURS.unmeasured(work.model))
    size, moved = _largest(ours), _largest({name: ours[name] - start[name] for name in start})
    found = {}
    for peer in peers:
        _, theirs = runner.run(peer.side, quiet, **peer.unmeasured(work.model))
        away = _largest({name: ours[name] - theirs[name] for name in start})
        found[peer.name] = Agreement(away / size, away / moved)
        print(f"  {peer.title:42} differs by {away / moved:.1e} of the step", flush=True)
    return found


def _largest(arrays: dict[str, np.ndarray[Any, Any]]) -> float:
    # np.max keeps NaN, which Python's max would lose: a side that diverges must not pass for one that agrees.
    return float(np.max([np.abs(value).max() for value in arrays.values()]))


@dataclass(frozen=True)
class Turns:
    """The rates of all sides in every turn; only sides of one turn are compared."""

    rates: list[dict[str, float]]  # for each turn, tasks per second by name
    rates_per_cpu: list[dict[str, float]]  # the same per CPU second of all processes of the side

    def ratios(self, name: str, *, per_cpu: bool = False) -> list[float]:
        """fedpriv's rate divided by a peer's, for each turn."""
        return [turn[OURS.name] / turn[name] for turn in (self.rates_per_cpu if per_cpu else self.rates)]

    def ratio(self, name: str, *, per_cpu: bool = False) -> float:
        """Median over turns."""
        return median(self.ratios(name, per_cpu=per_cpu))

    def rate(self, name: str, *, per_cpu: bool = False) -> float:
        """Median over turns."""
        return median(turn[name] for turn in (self.rates_per_cpu if per_cpu else self.rates))


def take_turns(runner: Runner, work: Work, peers: Sequence[Peer], turns: int, *, quick: bool) -> Turns:
    """Run all sides one after the other, then again in the opposite order, and so on."""
    found = Turns([], [])
    sides = [*peers, OURS]
    for turn in range(turns):
        outcomes: dict[str, Outcome] = {}
        for peer in sides[:: -1 if turn % 2 else 1]:
            outcomes[peer.name], _ = runner.run(peer.side, work, **peer.measured(work, quick=quick))
            print(f"  turn {turn + 1}  {peer.title:42} {outcomes[peer.name].tasks_per_second:9.1f} tasks/s", flush=True)
        found.rates.append({name: one.tasks_per_second for name, one in outcomes.items()})
        found.rates_per_cpu.append({name: one.tasks_per_cpu_second for name, one in outcomes.items()})
    return found
