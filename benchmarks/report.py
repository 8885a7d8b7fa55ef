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

_TEXT = Path(__file__).with_suffix(".md")
"""The words of the page, with fields."""


@dataclass(frozen=True)
class Result:
    """All that was found for one network."""

    work: Work  # what was done, beside whom
    peers: Sequence[Peer]
    compared: int  # number of tasks in the comparison of models
    agreement: dict[str, Agreement]  # by the peer's name
    turns: Turns
    load: float  # load average of the machine before all of it

    @property
    def names(self) -> list[str]:
        return [peer.name for peer in self.peers]


def write_report(path: Path, results: Sequence[Result], meta: dict[str, MetaSpeed], target: float) -> None:
    """Write the page."""
    first = results[0]
    flower = next(peer for peer in PEERS if peer.name == "flower")
    text = _TEXT.read_text(encoding="utf-8").format(
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
