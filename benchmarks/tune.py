"""Which settings make every peer fastest here? `python -m benchmarks.tune` writes ``tuning.json``.

``python -m benchmarks.tune --peers limit vmap --models cnn --passes 1`` tries a part and leaves the other entries.
What is found is put into ``benchmarks/peers.py`` by hand.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.outcome import Outcome
from benchmarks.runner import prepared
from benchmarks.work import MODELS, TASKS, Work

__all__ = ["RESULTS"]

RESULTS = Path(__file__).with_name("tuning.json")
_TRIED: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> None:
    """Try every setting of the chosen peers, one after the other, as often as asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__.split("\n")[0])
    parser.add_argument("--peers", nargs="+", choices=tuple(_TRIED), default=tuple(_TRIED))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=("mlp", "cnn"))
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=None, help="tasks per round (1000, or 200 for the CNN)")
    chosen = parser.parse_args(arguments)
    for model in chosen.models:
        work = Work(model=model, tasks=chosen.tasks or TASKS[model])
        for peer in chosen.peers:
            _save(peer, work, _try(peer, work, chosen.passes))


def _try(peer: str, work: Work, passes: int) -> list[dict[str, Any]]:
    side, fixed, settings = (_TRIED[peer][key] for key in ("side", "fixed", "tried"))
    if side == "flower":
        fixed = {**fixed, "round_tasks": min(work.tasks, fixed["round_tasks"])}
    found: list[list[Outcome]] = [[] for _ in settings]
    with prepared(work) as runner:
        for turn in range(passes):
            for position in _there_and_back(len(settings), turn):
                outcome, _ = runner.run(side, work, **fixed, **settings[position])
                found[position].append(outcome)
                print(
                    f"{work.model:6} {peer:6} {_words(settings[position]):40} {outcome.tasks_per_second:8.1f} tasks/s "
                    f"{outcome.tasks_per_cpu_second:8.1f} tasks/CPU s",
                    flush=True,
                )
    return [
        {
            "setting": setting,
            "tasks_per_second": [round(one.tasks_per_second, 1) for one in outcomes],
            "median": round(median(one.tasks_per_second for one in outcomes), 1),
            "per_cpu_second": round(median(one.tasks_per_cpu_second for one in outcomes), 1),
        }
        for setting, outcomes in zip(settings, found, strict=True)
    ]


def _there_and_back(count: int, turn: int) -> Iterator[int]:
    return iter(range(count)) if turn % 2 == 0 else reversed(range(count))


def _words(setting: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items())


def _save(peer: str, work: Work, rows: list[dict[str, Any]]) -> None:
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    mine = {"peer": peer, "model": work.model, "tasks": work.tasks}
    kept = [entry for entry in known if (entry["peer"], entry["model"]) != (peer, work.model)]
    RESULTS.write_text(json.dumps([*kept, {**mine, "settings": rows}], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
