"""The page with what a deployed round costs."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

__all__ = ["page", "write_page"]

_MESSAGES = "Flower: processes for each message"
_PARTS = {
    "us: computing and answering": ("our worker",),
    "us: front": ("our front",),
    "us: supervisors": ("our supervisor",),
    "the server's part of the run": ("server's part of the run",),
    "Flower: SuperLink": ("SuperLink",),
    "Flower: SuperNodes": ("SuperNode",),
    "Flower: superexec": ("superexec",),
    _MESSAGES: ("process per message", "other"),
}
"""Rows of the table of CPU seconds, and the kinds of processes in each. A process that has ended and waits for its
parent has no command line any more, so it is an other one; what ended altogether is counted with its parent's kind."""
_SIDES = {"ours": "ours", "stock": "Flower's way"}


def page(kept: dict[str, Any]) -> str:
    """Return the page, in Markdown."""
    by_nodes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for turn in kept["turns"]:
        by_nodes[turn["ours"]["nodes"]].append(turn)
    lines = [
        "# What a deployed round costs",
        "",
        "Written by `python -m benchmarks.deploy`; do not edit. The same app (softmax on digits, two tasks for",
        "each node, all of them in each round) on the same tasks, over TLS with a key for each node, all on one",
        "machine: by `fedpriv deploy`, whose workers stay, and as Flower runs it, with a process for each",
        "message. In turns; the order changes with each turn. CPU seconds are of all processes of a side, those",
        "that ended included. The first two rounds are left out. Bytes are TLS and all, counted between nodes and",
        "server, with every look for messages.",
        "",
        f"{kept['machine']}; {kept['versions']}; {kept['date']}. The machine was shared: other work took a part of",
        "both cores that changed from minute to minute. Seconds by the clock are upper bounds, CPU seconds rise a",
        "little when caches are shared, and only ratios within a turn compare. With so few turns the lowest and",
        "highest ratio show the noise; they are no confidence interval. A round of Flower's way counts a process",
        "for a message that runs over its end in part only, which matters little over several rounds.",
        "",
        "| nodes | turns | CPU s a round: ours | Flower's way | ratio (lowest to highest) | s a round: ours "
        "| Flower's way | MiB: ours | Flower's way | kB a node and round, up / down: ours | Flower's way |",
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
            f"{_interval(ratios)} | {of('ours', 'seconds'):.1f} | "
            f"{of('stock', 'seconds'):.1f} | {memory['ours']:.0f} | {memory['stock']:.0f} | {moved['ours']} | "
            f"{moved['stock']} |"
        )
    lines += ["", "## Where the CPU seconds of a round go", ""]
    heads = [f"{word}, {nodes}" for word in _SIDES.values() for nodes in sorted(by_nodes)]
    cases = [(side, turns) for side in _SIDES for _, turns in sorted(by_nodes.items())]

    def table(title: str, rows: dict[str, list[float]], digits: int) -> list[str]:
        shown = {row: [f"{value:.{digits}f}" for value in values] for row, values in rows.items() if any(values)}
        return [
            "| " + " | ".join([title, *heads]) + " |",
            "| --- " * (len(heads) + 1) + "|",
            *("| " + " | ".join([row, *cells]) + " |" for row, cells in shown.items()),
        ]

    lines += table(
        "by kind of process; side, nodes",
        {
            row: [mean(_part(turn[side]["cpu"], row, kinds) for turn in turns) for side, turns in cases]
            for row, kinds in _PARTS.items()
        },
        2,
    )
    lines += [
        "",
        "On our side nothing is started in a round. What is left there is mostly Flower's protocol: each",
        "SuperNode asks for messages every three seconds, and a message is several signed requests through the",
        "front to the SuperLink.",
        "",
        "A process for each message imports its packages anew. The stock app here is fedpriv's own client and",
        "server, so that messages and work are the same. Imports alone took 2.5 CPU s on this machine",
        "(2026-12-01, three tries each); torch and `flwr.clientapp` without fedpriv took 1.9, `flwr.clientapp`",
        "without torch 0.4. By these imports and the other rows, and not by a measurement, the ratio beside a",
        "client of plain PyTorch would be 6 to 8, and beside one without torch 2.5 to 4: what is saved is mostly",
        "the import of torch, once for each message.",
        "",
        "## Resident memory, MiB",
        "",
        "After the last round, all processes of a kind together; pages that processes share count for each, so",
        "the sums are too high. Workers that stay keep their memory between rounds. Flower's way needs about 350",
        "MiB for each message while it is answered, which is in the table only where a process was alive just",
        "then: at rest it needs less than ours, and in the middle of a round about as much.",
        "",
    ]
    lines += table(
        "by kind of process; side, nodes",
        {
            row: [
                mean(sum(turn[side]["memory"].get(kind, 0.0) for kind in kinds) for turn in turns)
                for side, turns in cases
            ]
            for row, kinds in _PARTS.items()
        },
        0,
    )
    lines += [
        "",
        "## Each turn",
        "",
        "Start-up is what comes before the run: folders, keys, all nodes online. Ours has two commands for each",
        "node.",
        "",
        "| nodes | side | rounds counted | s a round | CPU s a round | ratio | start-up, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for nodes, turns in sorted(by_nodes.items()):
        for turn in turns:
            ratio = f"{turn['stock']['cpu_seconds'] / turn['ours']['cpu_seconds']:.1f}"
            for side, word in _SIDES.items():
                one = turn[side]
                lines.append(
                    f"| {nodes} | {word} | {one['rounds']} | {one['seconds']:.1f} | {one['cpu_seconds']:.2f} | "
                    f"{ratio if side == 'stock' else ''} | {one['start_seconds']:.0f} |"
                )
    return "\n".join([*lines, ""])


def write_page(kept: dict[str, Any], path: Path) -> None:
    """Write the page."""
    path.write_text(page(kept), encoding="utf-8")


def _interval(ratios: list[float]) -> str:
    if len(ratios) == 1:
        return f"{ratios[0]:.1f} (one turn)"
    return f"{mean(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"


def _part(cpu: dict[str, float], row: str, kinds: tuple[str, ...]) -> float:
    ended = sum(value for kind, value in cpu.items() if kind.endswith(", ended")) if row == _MESSAGES else 0.0
    return ended + sum(cpu.get(kind, 0.0) for kind in kinds)
