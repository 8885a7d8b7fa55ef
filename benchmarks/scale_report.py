"""Writes ``docs/scale.md`` and its figure from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from fedpriv.report.figures import COLOURS, canvas, save_svg

__all__ = ["growth_figure", "table", "write_report"]

_TEXT = Path(__file__).with_suffix(".md")
"""The words of the page, with fields."""


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write the page; parts that were never measured are left out in words."""
    missing = "Not measured yet."
    overhead, curve, growth, states = (results.get(name, []) for name in ("overhead", "curve", "growth", "states"))
    if curve:
        growth_figure(
            [one["sampled"] for one in curve],
            [one["seconds"] for one in curve],
            "sampled tasks in a round (100,000 registered)",
            "seconds per round",
            path.parent / "images" / "scale.svg",
        )
    path.write_text(
        _TEXT.read_text(encoding="utf-8").format(
            today=date.today().isoformat(),
            machine=describe_machine(),
            overhead=table(
                ("grid", "registered tasks", "ms per round, median", "smallest"),
                [(one["grid"], f"{one['tasks']:,}", _ms(one["seconds"]), _ms(one["smallest"])) for one in overhead],
            )
            if overhead
            else missing,
            curve=table(
                ("sampled tasks", "seconds per round, median", "microseconds per task"),
                [
                    (f"{one['sampled']:,}", f"{one['seconds']:.3f}", f"{one['seconds'] / one['sampled'] * 1e6:.0f}")
                    for one in curve
                ],
            )
            if curve
            else missing,
            growth=", ".join(f"{value:.2f}" for value in growth[0]["memory"]) if growth else missing,
            states=_states(states[0]) if states else missing,
            sweep=_sweep(results["sweep"]) if "sweep" in results else missing,
        ),
        encoding="utf-8",
    )


def _states(one: dict[str, Any]) -> str:
    return (
        f"{one['tasks']:,} tasks that each keep an MLP 784-64-10: {one['bytes'] / 1e9:.1f} GB of personal states, of "
        f"which `run.state_memory` keeps 1 GiB in memory and the rest in memory-mapped files. Two rounds in which all "
        f"tasks take part, the final evaluation included, took {one['total_seconds']:.0f} s. The memory that cannot be "
        f"given back reached {one['peak_memory']:.2f} GiB."
    )


def _sweep(measured: list[dict[str, Any]]) -> str:
    beside, alone = measured
    return (
        f"`fedpriv sweep` over {beside['runs']} short runs (digits, 40 rounds), from the command to its table and "
        f"figure, start-up of Python and torch included. Runs side by side, one per core, as it is by default: "
        f"{_took(beside)}. Run by run on warm shards (`--jobs 1`), start of Ray included: {_took(alone)}."
    )


def _took(one: dict[str, Any]) -> str:
    ratio = one["total_seconds"] / one["training_seconds"]
    return (
        f"{one['total_seconds']:.1f} s for runs that spent {one['training_seconds']:.1f} s in their rounds, "
        f"{ratio:.2f} times as long"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], first: str = "---") -> str:
    """Return a table in Markdown: the first column as ``first`` says, the others to the right."""
    lines = [head, [first] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def growth_figure(counts: Sequence[int], seconds: Sequence[float], what: str, unit: str, path: Path) -> None:
    """Draw seconds (``unit``) against numbers of tasks (``what``), beside what would be proportional."""
    figure, axes = canvas(3.6)
    axes.loglog(counts, seconds, "o-", color=COLOURS["personal"], lw=2, label="measured")
    ideal = [seconds[-1] * count / counts[-1] for count in counts]
    axes.loglog(counts, ideal, "--", color=COLOURS["billboard"], lw=1.5, label="proportional to the largest")
    axes.set_xlabel(what)
    axes.set_ylabel(unit)
    axes.legend(frameon=False)
    save_svg(figure, path)
