"""What a deployed round costs beside Flower's own way, by number of nodes: ``python -m benchmarks.deploy``.

Both sides run the same app on the same tasks, over TLS with a key for each node, in turns. A round lasts from one
published billboard to the next; the first two are left out, because they find what is set up once. CPU seconds are of
all processes of a side, those that ended included.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from benchmarks.deploy.page import write_page
from benchmarks.deploy.processes import uses
from benchmarks.deploy.sides import Ours, Side, Stock
from benchmarks.machine import describe_machine
from fedpriv.runs.checkpoint import CheckpointStore

RESULTS = Path(__file__).with_name("results.json")
_LEFT_OUT = 2
_LIMIT_SECONDS = 1200.0


def published(side: Side) -> int:
    """Return how many rounds a side has published."""
    folder = side.run / "checkpoints"
    return max(CheckpointStore(folder).rounds(), default=0) if folder.exists() else 0


def measure(kind: type[Side], nodes: int, rounds: int) -> dict[str, Any]:
    """Run a side; return what a round cost, on average over those that count."""
    with tempfile.TemporaryDirectory(prefix="fd", dir="/tmp", ignore_cleanup_errors=True) as name:
        side = kind(Path(name), nodes, rounds)
        began = time.monotonic()
        try:
            side.begin()
            started = time.monotonic() - began
            first = _when(side, _LEFT_OUT)
            last = _when(side, rounds)
        except RuntimeError as error:
            log = Path(name) / "log"
            said = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{error}\n{said}") from error
        finally:
            side.end()
    count = rounds - _LEFT_OUT
    cpu = {}
    for one in sorted(last["uses"].keys() | first["uses"].keys()):
        before, after = (seen["uses"].get(one, {"own": 0.0, "ended": 0.0}) for seen in (first, last))
        cpu[one] = (after["own"] - before["own"]) / count
        cpu[f"{one}, ended"] = (after["ended"] - before["ended"]) / count
    return {
        "side": kind.name,
        "nodes": nodes,
        "rounds": count,
        "start_seconds": started,
        "seconds": (last["at"] - first["at"]) / count,
        "cpu": {one: value for one, value in cpu.items() if abs(value) > 1e-3},
        "cpu_seconds": sum(cpu.values()),
        "up": (last["up"] - first["up"]) / count / nodes,
        "down": (last["down"] - first["down"]) / count / nodes,
        "memory": {one: value["mebibytes"] for one, value in last["uses"].items()},
        "processes": {one: value["count"] for one, value in last["uses"].items()},
    }


def _when(side: Side, rounds: int) -> dict[str, Any]:
    """Return what a side has used when it has published so many rounds."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while published(side) < rounds:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{side.name}: {published(side)} of {rounds} rounds in {_LIMIT_SECONDS:g} s")
        time.sleep(0.05)
    found = {kind: vars(use) for kind, use in uses(side.roots).items()}
    return {"at": time.monotonic(), "uses": found, "up": side.relay.up, "down": side.relay.down}


def _versions() -> str:
    return f"Python {python_version()}, " + ", ".join(f"{name} {version(name)}" for name in ("flwr", "torch", "numpy"))


def main() -> None:
    """Measure both sides in turns, keep what was found, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deploy", description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, nargs=2, default=[12, 5], help="of ours, and of Flower's own way")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--page", type=Path, default=Path("docs/deploy-costs.md"))
    parser.add_argument("--json", type=Path, default=RESULTS, help="what was measured; turns are added to it")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started ends
    kept: dict[str, Any] = (
        json.loads(chosen.json.read_text(encoding="utf-8")) if chosen.json.exists() else {"turns": []}
    )
    for turn in range(chosen.turns):
        for nodes in chosen.nodes:
            sides: list[tuple[type[Side], int]] = list(zip((Ours, Stock), chosen.rounds, strict=True))
            found = [measure(kind, nodes, rounds) for kind, rounds in sides[:: -1 if turn % 2 else 1]]
            kept["turns"].append({one["side"]: one for one in found})
            kept |= {"machine": describe_machine(), "versions": _versions(), "date": date.today().isoformat()}
            chosen.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            for one in found:
                print(
                    f"turn {turn + 1}: {one['side']:5} {nodes:2} nodes: {one['seconds']:.2f} s, "
                    f"{one['cpu_seconds']:.2f} CPU s a round",
                    flush=True,
                )
    write_page(kept, chosen.page)


if __name__ == "__main__":
    main()
