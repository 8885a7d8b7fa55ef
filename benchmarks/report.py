"""Writes ``docs/benchmarks.md`` from what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.envs import PINS
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.maml import MetaSpeed, section
from benchmarks.peers import OURS, PEERS, Peer
from benchmarks.tune import RESULTS
from benchmarks.turns import Agreement, Turns
from benchmarks.work import Work

__all__ = ["Result", "write_report"]

_TEXT = """\
# Speed beside other engines and beside hand-written loops

Written by `make bench` (`python -m benchmarks`) on {today}.

{headline}

Each table gives medians over {turns} turns. *Ratio* is fedpriv's tasks per second divided by the other side's within a
turn. The last column divides by the CPU time of all processes of a side (driver, actors) instead of the clock: other
jobs on the machine blur it less, and it is fair to sides that use one core.

{tables}

{meta}

## The work

All tasks take part in every round. A round starts from the global model; every task takes its SGD steps; its whole
drift is clipped in l2, the sum gets Gaussian noise and is divided by the public number of tasks. Data are synthetic
float32 (ten class centres with noise). All sides read the same files, start from the same initial values and use the
same mini-batches: the order of examples is a file, too. pfl has no hook for it; its data sets are
written in that order instead.

Proof that it is the same work: every side trained one round in float64 without noise, and its model is compared with
fedpriv's. The largest difference of a weight, divided by the largest step of a weight in that round:

{agreement}

pfl takes the difference of two models in float32 whatever they are, hence its larger numbers. In float32, which the
speed is measured with, single tasks agree to 1e-5, except where the input of a ReLU is zero up to rounding: its
gradient jumps there, and that task's update differs by a few percent (seen in 1 of 40 tasks of the MLP).

## How it was measured

- {machine}; {versions}.
- Load average before the run {load:.1f}. The sides ran in turns, every other turn in the opposite order, and only
  ratios within a turn count.
- Each side ran in a fresh process. Start-up and one warm-up round are left out on all sides. Measured rounds per turn
  (fewer with convolutions): {rounds}.
- fedpriv: `Experiment` with `GlobalModel` and `Billboard`, 2 shards of one torch thread, and a run folder. It also
  charges a SQLite ledger and writes a durable checkpoint in every round. Its clock runs from the end of one round to
  the end of the next.
- Flower: one task per SuperNode, a plain PyTorch loop with `torch.optim.SGD`, Flower's message API; run by
  `flwr.simulation.run_simulation`, the same engine as behind `flwr run`. The client clips by hand, the server adds up
  in float64 and charges the same ledger. The data and the network stay in the actor, which has one torch thread;
  logging is off; `num_cpus` {num_cpus:g} per client.
- pfl-research: `FederatedAveraging` on `SimulatedBackend` with `CentrallyAppliedPrivacyMechanism(GaussianMechanism)`,
  in an environment of its own that shares torch and numpy with ours. Every user's data set is made once, with the
  examples in the order of round 1's mini-batches, so that pfl cuts it once and hands out views. Later rounds use the
  same order again. No evaluation, no metrics on the platform, no ledger (pfl has none). Two processes are started
  with torchrun, talk through gloo, and have one torch thread each.
- plain PyTorch loop: tasks one after the other, one network, one optimizer, one thread. No ledger.
- `torch.func.vmap`: chunks of tasks, one thread per process, tasks split between the processes. No ledger.
- bare batched loop: forward and backward pass of this very network written as batched matrix products (`baddbmm_`), the
  gathering of mini-batches, the clip, the sum in float64, the noise. No ledger, no run folder, no checks. It is the
  limit of mini-batches: a ratio of 1 would mean that everything else that fedpriv does costs nothing. Above 1 the span
  of the examples (below) saved more than that.

## What was tried to make each peer faster

From `python -m benchmarks.tune`; further passes run in the opposite order. The fastest setting is used above, unless
the difference is within the noise.

{tuning}

## What was tried to make fedpriv faster

- The span of a task's own examples: the first layer follows from what it gave at the start and from inner products of
  the examples; its weights are written once, at the end. Two large products take the place of two thin ones per step.
  At first this lost (the MLP above took 1.14 ms a task instead of 0.83), because the inner products were computed in
  every round. Now they are kept from round to round, up to 256 MB in a shard, and what is large is computed on a
  task's rows where they lie. On a busy machine, a node's tasks per CPU second with it and without, in turns, best of
  seven rounds: the MLP above 827 and 458; in its first round, with nothing kept, 456 and 374; five passes over the 100
  examples 327 and 122; 20 examples, ten steps 1218 and 499; 65 to 128 examples, one pass 736 and 420; personal models
  with a pull (PMTL), ten steps 475 and 317. It is taken where it costs less with nothing kept
  (`fedpriv/cohort/fast/span.py`): not for 300 examples and one pass, nor for the softmax model above, where it would
  make up for a slow first round only later.
- Softmax over fewer than 17 classes by hand: a third of the time of `torch.softmax`, which was a tenth of a step.
- Without gain: mini-batches in blocks of 2, 5 or 10 steps, weights moved once a block: 0.42 to 0.67 ms of products, not
  0.31 to 0.46.
- Without gain: weights stored transposed.
- What the span gains beside Flower depends on the machine: on another, of which other jobs took a share, five turns
  with real-time priority gave 46.9 times Flower (35.8 to 51.4), 10.8 times pfl on two processes (smallest 8.2) and 1.61
  of the bare loop (smallest 1.06), which goes by mini-batches. Without the span, on a quiet machine: 33.3 times Flower
  (30.5 to 41.1), 7.3 times pfl and 0.93 of the bare loop.

## What the numbers do not say

- A Flower or pfl user could batch tasks inside one client by hand. That is what fedpriv is; neither engine has a notion
  of a task inside a client, nor of its privacy.
- The networks are small on purpose: with many small tasks, the cost is in moving messages and starting operators.
  With a large network per task all sides would spend their time in the same matrix products.
- Flower walks all registered nodes in every poll, so its rate falls with the number of registered tasks.
- On a busy machine the scheduler shares the cores among processes, and Flower runs more of them than the others. That
  favours it in the columns by the clock; the column by CPU time has no such favour.
- Two cores only; nothing here speaks about clusters or GPUs. pfl-research is made for GPUs and large models.
"""


@dataclass(frozen=True)
class Result:
    """All that was found for one network.

    Attributes
    ----------
    work, peers
        What was done, beside whom.
    compared
        Number of tasks in the comparison of models.
    agreement
        By the peer's name.
    turns
        The rates.
    load
        Load average of the machine before all of it.
    """

    work: Work
    peers: Sequence[Peer]
    compared: int
    agreement: dict[str, Agreement]
    turns: Turns
    load: float

    @property
    def names(self) -> list[str]:
        return [peer.name for peer in self.peers]


def write_report(path: Path, results: Sequence[Result], meta: dict[str, MetaSpeed], target: float) -> None:
    """Write the page."""
    first = results[0]
    flower = next(peer for peer in PEERS if peer.name == "flower")
    text = _TEXT.format(
        today=date.today().isoformat(),
        headline=_headline(first, target),
        turns=len(first.turns.rates),
        tables="\n\n".join(_table(result) for result in results),
        meta=section(meta),
        agreement=_agreement(results),
        machine=describe_machine(),
        versions=describe_versions(PINS),
        load=first.load,
        rounds=", ".join(f"{peer.title} {peer.rounds}" for peer in (OURS, *first.peers)),
        num_cpus=flower.settings["num_cpus"],
        tuning=_tuning(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _headline(result: Result, target: float) -> str:
    parts = [f"{result.turns.ratio(peer.name):.2f} ({peer.title})" for peer in result.peers]
    text = f"**fedpriv's tasks per second divided by another side's, {result.work.architecture}: {', '.join(parts)}.**"
    if result.work == Work() and "flower" in result.names:
        met = result.turns.ratio("flower") >= target
        text += f" The target of {target:g} times Flower is {'met' if met else '**missed**'}."
    return text


def _table(result: Result) -> str:
    turns = result.turns
    lines = [
        f"### {result.work.architecture}",
        "",
        f"{result.work.describe()}.",
        "",
        "| side | tasks/s | tasks/CPU s | ratio | smallest | largest | ratio per CPU second |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| {OURS.title} | {turns.rate(OURS.name):.0f} | {turns.rate(OURS.name, per_cpu=True):.0f} | | | | |",
    ]
    for peer in result.peers:
        ratios = turns.ratios(peer.name)
        lines.append(
            f"| {peer.title} | {turns.rate(peer.name):.0f} | {turns.rate(peer.name, per_cpu=True):.0f} "
            f"| **{turns.ratio(peer.name):.2f}** | {min(ratios):.2f} | {max(ratios):.2f} "
            f"| {turns.ratio(peer.name, per_cpu=True):.2f} |"
        )
    return "\n".join(lines)


def _agreement(results: Sequence[Result]) -> str:
    peers = results[0].peers
    lines = [
        "| side | " + " | ".join(f"{result.work.model}, {result.compared} tasks" for result in results) + " |",
        "| --- |" + " ---: |" * len(results),
    ]
    for peer in peers:
        cells = " | ".join(f"{result.agreement[peer.name].relative_to_step:.1e}" for result in results)
        lines.append(f"| {peer.title} | {cells} |")
    return "\n".join(lines)


def _tuning() -> str:
    if not RESULTS.exists():
        return "Nothing recorded; run `python -m benchmarks.tune`."
    return "\n\n".join(_tried(entry) for entry in json.loads(RESULTS.read_text(encoding="utf-8")))


def _tried(entry: dict[str, Any]) -> str:
    note = f" {entry['note']}" if "note" in entry else ""
    lines = [
        f"*{entry['peer']}, {entry['model']}, {entry['tasks']} tasks.*{note}",
        "",
        "| setting | tasks/s in each pass | median | per CPU second |",
        "| --- | --- | ---: | ---: |",
    ]
    for row in entry["settings"]:
        setting = ", ".join(f"`{name}` {value}" for name, value in row["setting"].items())
        passes = ", ".join(f"{rate:.1f}" for rate in row["tasks_per_second"])
        lines.append(f"| {setting} | {passes} | {row['median']:.1f} | {row['per_cpu_second']:.1f} |")
    return "\n".join(lines)
