"""Writes ``docs/benchmarks.md`` from what was measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.tune import RESULTS
from benchmarks.work import Work

__all__ = ["write_report"]

_CLIPPING = {
    "own": "the client, by hand; the server adds up in float64",
    "client": "Flower's `fixedclipping_mod` with `DifferentialPrivacyClientSideFixedClipping`",
    "server": "Flower's `DifferentialPrivacyServerSideFixedClipping`",
}

_TEXT = """\
# Speed beside Flower's stock simulation engine

Written by `make bench` (`python -m benchmarks.flower_stock`) on {today}.

**fedpriv's Ray grid trains {ratio} times as many tasks per second as Flower's stock Ray engine on the same work**
(median of {pairs} alternating pairs, smallest {smallest}). The target of at least {target:g} is {verdict}.

| pair | Flower [tasks/s] | fedpriv [tasks/s] | ratio | ratio of tasks per CPU second |
| ---: | ---: | ---: | ---: | ---: |
{rows}

The last column divides by the CPU time of all processes of a side (driver, Ray, actors) instead of the clock: other
jobs on the machine blur it less (they still share caches and memory). Its median is {ratio_cpu}.

## The work

{work}.

All tasks take part in every round. A round starts from the global model; every task sends its drift; the whole
drift is clipped in l2, the sum gets Gaussian noise and is divided by the public number of tasks; the release is charged
to a SQLite ledger, durably, before the next round. Data are synthetic float32 (ten class centres with noise), the same
files on both sides; initial values and the order of mini-batches are the same numbers, too.

Proof that it is the same work: without noise, after one round of 200 tasks, the largest difference of the two global
models is {model:.1e} of the largest weight and {step:.1e} of the largest step.

## How it was measured

- {cores} cores ({cpu}), {memory:.0f} GB RAM, {system}; Python {python}, {versions}.
- Load average before the run {load}: other jobs shared the machine, so the sides ran in turns and only the ratio of
  neighbours counts.
- Each side ran in a fresh process. Start-up and one warm-up round are left out on both sides; then Flower's clock runs
  from a round's `configure_train` to its charged release ({flower_rounds} rounds), ours from the end of one round to
  the end of the next ({fedpriv_rounds} rounds).
- fedpriv: `Experiment` with `GlobalModel` and `Billboard`, {shards} shards, and a run folder: it also writes a durable
  checkpoint after every round, which the rival does not.
- Flower: one task per SuperNode (1,000 SuperNodes), a plain PyTorch loop with `torch.optim.SGD`, Flower's message API;
  run by `flwr.simulation.run_simulation`, the same engine as behind `flwr run`. Clipping: {clipping}; `num_cpus`
  {num_cpus:g} per client. It may keep the mapped data and the network in the actor, uses one torch thread, and its
  logging is off.

## What was tried to make Flower faster

{tuning}

## What the numbers do not say

- A Flower user could put many tasks into one SuperNode and batch them by hand. That is what fedpriv is; the stock
  engine has no notion of a task inside a node, nor of its privacy.
- The model is small on purpose: with many small tasks, the cost is in moving messages and starting operators. With a
  large network per task both sides would spend their time in the same matrix products, so expect a smaller ratio there
  (not measured).
- Flower walks all registered nodes in every poll, so its rate falls with the number of registered tasks.
- On a busy machine the scheduler shares the cores among processes, and the rival runs more of them than fedpriv (a
  driver that works as hard as its actors, and {actors} actors against {shards} shards). That favours the rival in the
  column by the clock; the column by CPU time has no such favour.
- Two cores only; nothing here speaks about clusters or GPUs.
"""


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _tuning() -> str:
    if not RESULTS.exists():
        return "Nothing recorded; run `python -m benchmarks.tune`."
    tried = json.loads(RESULTS.read_text())
    lines = [
        f"From `python -m benchmarks.tune`: {tried['tasks_per_round']} of 1,000 registered tasks per round, two rounds",
        "after a warm-up; further passes run in the opposite order. The machine was shared, so small differences mean",
        f"little. {tried.get('note', '')}".rstrip(),
        "",
        "| who clips | `num_cpus` | tasks/s in each pass | median | per CPU second |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for row in tried["settings"]:
        passes = ", ".join(f"{rate:.1f}" for rate in row["tasks_per_second"])
        lines.append(
            f"| {_CLIPPING[row['clipping']]} | {row['num_cpus']:g} | {passes} | {row['median']:.1f} "
            f"| {row['per_cpu_second']:.1f} |"
        )
    return "\n".join(lines)


def write_report(
    path: Path,
    work: Work,
    pairs: Sequence[Mapping[str, float]],
    result: Mapping[str, Any],
    flower: Mapping[str, Any],
    fedpriv: Mapping[str, Any],
) -> None:
    """Write the page."""
    rows = [
        f"| {number} | {pair['flower']:.1f} | {pair['fedpriv']:.1f} | {pair['ratio']:.1f} | {pair['ratio_cpu']:.1f} |"
        for number, pair in enumerate(pairs, start=1)
    ]
    text = _TEXT.format(
        today=date.today().isoformat(),
        ratio=f"{result['ratio']['flower']:.1f}",
        ratio_cpu=f"{result['ratio_per_cpu_second']['flower']:.1f}",
        smallest=f"{result['smallest_ratio']:.1f}",
        pairs=len(pairs),
        target=result["target"],
        verdict="met" if result["ratio"]["flower"] >= result["target"] else "**missed**",
        actors=max(1, int((os.cpu_count() or 1) / flower["num_cpus"])),
        rows="\n".join(rows),
        work=work.describe(),
        model=result["agreement"]["relative_to_model"],
        step=result["agreement"]["relative_to_step"],
        cores=os.cpu_count(),
        cpu=_cpu(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=", ".join(f"{name} {version(name)}" for name in ("flwr", "ray", "torch", "numpy")),
        load=f"{result['load']:.1f}",
        flower_rounds=flower["rounds"],
        fedpriv_rounds=fedpriv["rounds"],
        shards=fedpriv["shards"],
        clipping=_CLIPPING[flower["clipping"]],
        num_cpus=flower["num_cpus"],
        tuning=_tuning(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
