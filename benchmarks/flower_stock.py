"""fedpriv's Ray grid against Flower's stock Ray simulation engine, on the same work.

The sides run in turns (A B A B ...), each in a fresh process, because the machine may be busy with other things: the
ratio of neighbours counts, not the seconds. Start-up and a warm-up round are left out on both sides. Before that, both
train one round without noise and their models are compared: the work is the same, down to rounding.

The last line of the output is one JSON object. A full run also writes ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import write_report
from benchmarks.runner import Runner, prepared
from benchmarks.work import Outcome, Work

RIVAL = {"clipping": "own", "num_cpus": 0.5}
"""What ``benchmarks.tune`` found fastest."""

_TARGET = 10.0
_TOLERANCE = 1e-3
"""Largest difference of the models after a round, relative to how far the round moved them."""


def compare_models(runner: Runner, work: Work, shards: int) -> dict[str, float]:
    """Train one round without noise on both sides and compare what came out."""
    quiet = replace(work, noise_multiplier=0.0)
    few: dict[str, Any] = {"rounds": 1, "warm_up": 0}
    _, ours = runner.run("fedpriv", quiet, shards=shards, **few)
    _, theirs = runner.run("flower", quiet, warm_up_tasks=0, **RIVAL, **few)
    start = {name: value.detach().numpy() for name, value in work.network().named_parameters()}
    away = max(float(np.abs(ours[name] - theirs[name]).max()) for name in start)
    moved = max(float(np.abs(ours[name] - start[name]).max()) for name in start)
    size = max(float(np.abs(theirs[name]).max()) for name in start)
    return {"relative_to_model": away / size, "relative_to_step": away / moved}


def measure_pairs(
    runner: Runner, work: Work, pairs: int, flower: dict[str, Any], fedpriv: dict[str, Any]
) -> list[dict[str, float]]:
    """Run both sides in turns; return the rates and the ratio of every pair."""
    found = []
    for number in range(1, pairs + 1):
        rates: dict[str, float] = {}
        for side, settings in (("flower", flower), ("fedpriv", fedpriv)):
            outcome: Outcome = runner.run(side, work, **settings)[0]
            rates[side] = outcome.tasks_per_second
            rates[f"{side}_cpu"] = outcome.tasks_per_cpu_second
        rates["ratio"] = rates["fedpriv"] / rates["flower"]
        rates["ratio_cpu"] = rates["fedpriv_cpu"] / rates["flower_cpu"]
        found.append(rates)
        print(
            f"{number:4d} {rates['flower']:18.1f} {rates['fedpriv']:19.1f} {rates['ratio']:9.1f} "
            f"{rates['ratio_cpu']:22.1f}",
            flush=True,
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 if the sides disagree or the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flower_stock", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer tasks and rounds: under two minutes, no report")
    parser.add_argument("--pairs", type=int, default=None, help="turns of both sides (3, or 1 with --quick)")
    parser.add_argument("--shards", type=int, default=2, help="fedpriv's actors")
    parser.add_argument("--report", type=Path, default=Path("docs/benchmarks.md"), help="where the report goes")
    chosen = parser.parse_args(arguments)
    work = Work(tasks=200) if chosen.quick else Work()
    pairs = chosen.pairs or (1 if chosen.quick else 3)
    flower = {"rounds": 1 if chosen.quick else 2, "warm_up": 1, "warm_up_tasks": work.tasks // 5, **RIVAL}
    fedpriv = {"rounds": 5, "warm_up": 1, "shards": chosen.shards}

    load = os.getloadavg()[0]
    print(work.describe())
    few = replace(work, tasks=50 if chosen.quick else 200)
    with prepared(few) as runner:
        agreement = compare_models(runner, few, chosen.shards)
    print(
        "after one round without noise the models differ by "
        f"{agreement['relative_to_model']:.1e} of their size, {agreement['relative_to_step']:.1e} of the step\n"
    )
    print("pair   Flower [tasks/s]   fedpriv [tasks/s]     ratio   ratio per CPU second", flush=True)
    with prepared(work) as runner:
        found = measure_pairs(runner, work, pairs, flower, fedpriv)
    result = {
        "ratio": {"flower": round(median(pair["ratio"] for pair in found), 2)},
        "ratio_per_cpu_second": {"flower": round(median(pair["ratio_cpu"] for pair in found), 2)},
        "smallest_ratio": round(min(pair["ratio"] for pair in found), 2),
        "pairs": [round(pair["ratio"], 2) for pair in found],
        "tasks_per_second": {side: round(median(pair[side] for pair in found), 1) for side in ("fedpriv", "flower")},
        "agreement": agreement,
        "load": round(load, 1),
        "quick": chosen.quick,
        "target": _TARGET,
    }
    if not chosen.quick:
        write_report(chosen.report, work, found, result, flower, fedpriv)
    print(f"\nmedian ratio {result['ratio']['flower']}, smallest {result['smallest_ratio']}")
    print(json.dumps(result))
    if agreement["relative_to_step"] >= _TOLERANCE:
        return 1
    # Few tasks per round leave both sides with their fixed costs, so the target is not judged by them.
    return 0 if chosen.quick or result["ratio"]["flower"] >= _TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
