"""The page with what a deployed round costs."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

__all__ = ["page", "write_page"]

_PARTS = {
    "us: computing and answering": ("our worker",),
    "us: front": ("our front",),
    "us: supervisors": ("our supervisor",),
    "the server's part of the run": ("server's part of the run",),
    "Flower: SuperLink": ("SuperLink",),
    "Flower: SuperNodes": ("SuperNode",),
    "Flower: superexec": ("superexec",),
    "processes that ended": (),
    "other": ("process per message", "other"),
}
"""Rows of the table of CPU seconds, and the kinds of processes in each."""


def page(kept: dict[str, Any]) -> str:
    """Return the page, in Markdown."""
    by_nodes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for turn in kept["turns"]:
        by_nodes[turn["ours"]["nodes"]].append(turn)
    lines = [
        "# What a deployed round costs",
        "",
        "Written by `python -m benchmarks.deploy`; do not edit. The same app (softmax on digits, two tasks for each",
        "node, all of them in each round) on the same tasks, over TLS with a key for each node, all on one machine: by",
        "`fedpriv deploy`, whose workers stay, and as Flower runs it, with a process for each message. In turns; the",
        "order changes with each turn. CPU seconds are of all processes of a side. The first two rounds are left out.",
        "",
        f"{kept['machine']}, {kept['date']}. Other work shared the processor: seconds by the clock are upper bounds.",
        "",
        "| nodes | turns | CPU s a round: ours | Flower's way | ratio (lowest to highest) | s a round: ours "
        "| Flower's way | MiB: ours | Flower's way, at rest | kB a node and round, up / down: ours | Flower's way |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for nodes, turns in sorted(by_nodes.items()):
        ratios = [turn["stock"]["cpu_seconds"] / turn["ours"]["cpu_seconds"] for turn in turns]

        def of(side: str, key: str, turns: list[dict[str, Any]] = turns) -> float:
            return mean(turn[side][key] for turn in turns)

        memory = {side: mean(sum(turn[side]["memory"].values()) for turn in turns) for side in ("ours", "stock")}
        moved = {side: f"{of(side, 'up') / 1e3:.1f} / {of(side, 'down') / 1e3:.1f}" for side in ("ours", "stock")}
        lines.append(
            f"| {nodes} | {len(turns)} | {of('ours', 'cpu_seconds'):.2f} | {of('stock', 'cpu_seconds'):.1f} | "
            f"{mean(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | {of('ours', 'seconds'):.1f} | "
            f"{of('stock', 'seconds'):.1f} | {memory['ours']:.0f} | {memory['stock']:.0f} | {moved['ours']} | "
            f"{moved['stock']} |"
        )
    lines += ["", "## Where the CPU seconds of a round go", ""]
    heads = [f"{side}, {nodes}" for side in ("ours", "Flower's way") for nodes in sorted(by_nodes)]
    lines += ["| " + " | ".join(["by kind of process; side, nodes", *heads]) + " |", "| --- " * (len(heads) + 1) + "|"]
    for row, kinds in _PARTS.items():
        cells = []
        for side in ("ours", "stock"):
            for _, turns in sorted(by_nodes.items()):
                cells.append(f"{mean(_part(turn[side]['cpu'], row, kinds) for turn in turns):.2f}")
        if any(float(cell) >= 0.01 for cell in cells):
            lines.append("| " + " | ".join([row, *cells]) + " |")
    lines += [
        "",
        "Processes that ended are those that Flower starts for each message, which import Python's packages anew;",
        "nothing of ours ends in a round. What is left on our side is what a round needs of Flower's protocol: each",
        "SuperNode asks for messages every three seconds, and a message is several signed requests through the front",
        "to the SuperLink.",
        "",
    ]
    return "\n".join(lines)


def write_page(kept: dict[str, Any], path: Path) -> None:
    """Write the page."""
    path.write_text(page(kept), encoding="utf-8")


def _part(cpu: dict[str, float], row: str, kinds: tuple[str, ...]) -> float:
    if row == "processes that ended":
        return sum(value for kind, value in cpu.items() if kind.endswith(", ended"))
    return sum(cpu.get(kind, 0.0) for kind in kinds)
