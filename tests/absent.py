"""What a simulation needs to lose the same answers as a deployed run whose machines were killed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import torch
from deployed import Deployment

from fedpriv.clients import MeanRegularized
from fedpriv.runs.atomic import read_members


class SomeAreAbsent(MeanRegularized):
    """Tasks that were away keep their states and send zeros; of those whose answers were lost, only the answer is."""

    away: ClassVar[dict[int, set[int]]] = {}
    """Tasks by round whose node did not train."""
    lost: ClassVar[dict[int, set[int]]] = {}
    """Tasks by round whose node trained, and whose answer did not arrive."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        after, sent = super().train(learner, billboard, state, cohort, key)
        ids = cohort.ids.tolist()
        away = torch.tensor([task in self.away.get(key.round, ()) for task in ids])
        silent = away | torch.tensor([task in self.lost.get(key.round, ()) for task in ids])

        def chosen(mask: torch.Tensor, this: torch.Tensor, that: torch.Tensor) -> torch.Tensor:
            return torch.where(mask.reshape(-1, *[1] * (that.ndim - 1)), this, that)

        kept = {name: chosen(away, state[name], value) for name, value in after.items()}
        return kept, {name: chosen(silent, torch.zeros_like(value), value) for name, value in sent.items()}


def absent_nodes(run: Path, hosted: Mapping[str, int]) -> dict[int, set[str]]:
    """Return by round which nodes' answers did not arrive: the numbers of tasks in the log of the run say it.

    All tasks take part in each round, and no two sets of nodes host equally many tasks together.
    """
    sums = {
        sum(hosted[name] for name in names): set(names)
        for size in range(len(hosted) + 1)
        for names in combinations(hosted, size)
    }
    assert len(sums) == 2 ** len(hosted), "give the nodes other numbers of tasks"
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {one["round"]: sums[one["tasks"]] for one in found if one["kind"] == "unreachable"}


def _newest(node: Path) -> Path | None:
    found = [path for path in (node / "node.journal").glob("run-*.npz") if not path.name.endswith(".before.npz")]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def rounds_said(said: str) -> set[int]:
    """Return the rounds that a node says it trained in."""
    return {int(number) for number in re.findall(r"^train (\d+)$", said, re.MULTILINE)}


class Witness:
    """Watches a run's nodes, kills them, and finds which answers did not arrive.

    Parameters
    ----------
    lab : Deployment
        Its nodes run; the run begins after this.
    hosted : mapping
        How many tasks each node has, in the order of the population.
    """

    def __init__(self, lab: Deployment, hosted: Mapping[str, int]) -> None:
        self._lab, self._hosted = lab, dict(hosted)
        self._begins = {name: len(lab.running[name].said()) for name in hosted}
        self._before = {name: _newest(lab.nodes[name]) for name in hosted}
        self._answered: dict[str, set[int]] = {name: set() for name in hosted}

    def trained(self, name: str) -> set[int]:
        """Return the rounds of this run that a node trained in."""
        said = self._lab.running[name].said()[self._begins[name] :]
        return self._answered[name] | rounds_said(said)

    def finished(self, name: str) -> bool:
        """Tell whether a node has done the last fit of this run."""
        return "\ntrain.finish" in self._lab.running[name].said()[self._begins[name] :]

    def killed(self, name: str) -> None:
        """Keep what a node's journal holds that it could not say any more; its worker is dead and starts anew later."""
        newest = _newest(self._lab.nodes[name])
        if newest is not None and newest != self._before[name]:
            self._answered[name].add(int(read_members(newest)[0]["rounds"].get("train", 0)))

    def tell(self, run: Path) -> set[str]:
        """Let :class:`SomeAreAbsent` lose what this run lost; return which nodes were absent in any round."""
        SomeAreAbsent.away, SomeAreAbsent.lost = {}, {}
        absent = absent_nodes(run, self._hosted)
        first, ranges = 0, dict[str, range]()
        for name, count in self._hosted.items():
            ranges[name] = range(first, first + count)
            first += count
        for number, names in absent.items():
            for name in names:
                kind = SomeAreAbsent.lost if number in self.trained(name) else SomeAreAbsent.away
                kind.setdefault(number, set()).update(ranges[name])
        return set().union(*absent.values())
