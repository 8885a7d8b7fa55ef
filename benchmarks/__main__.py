"""fedpriv beside its rivals and beside loops written by hand, on the same work.

The sides run in turns (A B C, C B A, ...), each in a fresh process, because the machine may be busy with other things:
the ratios within a turn count, not the seconds. Start-up and a warm-up round are left out on all sides. Before that,
all sides train one round without noise and their models are compared: the work is the same, down to rounding.

The last line of the output is one JSON object. A full run also writes ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.envs import pfl_python
from benchmarks.maml import measure_apart
from benchmarks.peers import PEERS, QUICK
from benchmarks.report import Result, write_report
from benchmarks.runner import prepared
from benchmarks.turns import compare_models, take_turns
from benchmarks.work import MODELS, TASKS, Work

_TARGET_RATIO = 40.0
_QUICK_TASKS = 500
_TOLERANCE = 1e-6
"""Largest difference of the models after a round in float64, relative to how far the round moved them.

pfl takes differences of models in float32 whatever they are; the others agree much better."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 if the sides disagree or the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one network, three peers, one turn, no report")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=None, help="networks (all, or the MLP with --quick)"
    )
    parser.add_argument("--peers", nargs="+", choices=[peer.name for peer in PEERS], default=None)
    parser.add_argument("--turns", type=int, default=None, help="turns of all sides (3, or 1 with --quick)")
    parser.add_argument("--tasks", type=int, default=None, help="tasks per round (1000, or 200 for the CNN)")
    parser.add_argument("--report", type=Path, default=Path("docs/benchmarks.md"), help="where the report goes")
    chosen = parser.parse_args(arguments)
    names = chosen.peers or (QUICK if chosen.quick else [peer.name for peer in PEERS])
    peers = [peer for peer in PEERS if peer.name in names]
    if any(peer.side == "pfl" for peer in peers):
        pfl_python()  # made now, so that no measurement runs beside the installation

    load = os.getloadavg()[0]
    meta = measure_apart(turns=3 if chosen.quick else 7)
    print(f"second-order MAML, times a loop: { ({name: round(median(one.ratios), 2) for name, one in meta.items()}) }")
    results: list[Result] = []
    for model in chosen.models or (("mlp",) if chosen.quick else MODELS):
        work = Work(model=model, tasks=chosen.tasks or (_QUICK_TASKS if chosen.quick else TASKS[model]))
        few = replace(work, tasks=min(work.tasks, 40 if chosen.quick else 100))
        print(f"{work.describe()}\none round of {few.tasks} tasks in float64 without noise:", flush=True)
        with prepared(few) as runner:
            agreement = compare_models(runner, few, peers)
        with prepared(work) as runner:
            turns = take_turns(runner, work, peers, chosen.turns or (1 if chosen.quick else 3), quick=chosen.quick)
        results.append(Result(work, peers, few.tasks, agreement, turns, load))
        if not chosen.quick:
            write_report(
                chosen.report, results, meta, _TARGET_RATIO
            )  # after each network, so that a crash keeps what there is
    found = {result.work.model: _summary(result) for result in results}
    print(
        json.dumps(
            {
                **next(iter(found.values())),
                "models": found,
                "maml": {name: asdict(one) for name, one in meta.items()},
                "load": round(load, 1),
                "quick": chosen.quick,
            }
        )
    )
    agree = all(one.relative_to_step < _TOLERANCE for result in results for one in result.agreement.values())
    return 0 if agree and all(_met(result) for result in results) else 1


def _met(result: Result) -> bool:
    # The target compares with Flower, on 1,000 tasks of the MLP.
    if result.work != Work() or "flower" not in result.names:
        return True
    return result.turns.ratio("flower") >= _TARGET_RATIO


def _summary(result: Result) -> dict[str, Any]:
    turns = result.turns
    return {
        "ratio": {name: round(turns.ratio(name), 2) for name in result.names},
        "ratio_per_cpu_second": {name: round(turns.ratio(name, per_cpu=True), 2) for name in result.names},
        "smallest_ratio": {name: round(min(turns.ratios(name)), 2) for name in result.names},
        "tasks_per_second": {name: round(turns.rate(name), 1) for name in ("fedpriv", *result.names)},
        "agreement": {name: asdict(one) for name, one in result.agreement.items()},
    }


if __name__ == "__main__":
    raise SystemExit(main())
