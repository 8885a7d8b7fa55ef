"""Which settings make Flower's stock engine fastest here? `python -m benchmarks.tune` writes ``tuning.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from benchmarks.runner import prepared
from benchmarks.work import Work

RESULTS = Path(__file__).with_name("tuning.json")
SETTINGS = [("own", 1.0), ("own", 0.5), ("own", 0.25), ("client", 0.5), ("server", 0.5), ("own", 2.0)]
_TASKS = 300


def main(passes: int) -> None:
    """Try every setting, one after the other, as often as asked; all 1,000 tasks stay registered."""
    work = Work()
    found: dict[tuple[str, float], list[tuple[float, float]]] = {setting: [] for setting in SETTINGS}
    with prepared(work) as runner:
        for number in range(passes):
            for clipping, num_cpus in SETTINGS[:: -1 if number % 2 else 1]:
                outcome, _ = runner.run(
                    "flower",
                    work,
                    rounds=2,
                    warm_up=1,
                    warm_up_tasks=100,
                    clipping=clipping,
                    num_cpus=num_cpus,
                    round_tasks=_TASKS,
                )
                rates = outcome.tasks_per_second, outcome.tasks_per_cpu_second
                found[clipping, num_cpus].append(rates)
                print(
                    f"clipping={clipping:6} num_cpus={num_cpus:<4} {rates[0]:6.1f} tasks/s {rates[1]:6.1f} tasks/CPU s",
                    flush=True,
                )
                _write(found)


def _write(found: dict[tuple[str, float], list[tuple[float, float]]]) -> None:
    rows = [
        {
            "clipping": clipping,
            "num_cpus": num_cpus,
            "tasks_per_second": [round(rate, 1) for rate, _ in rates],
            "median": round(median(rate for rate, _ in rates), 1),
            "per_cpu_second": round(median(rate for _, rate in rates), 1),
        }
        for (clipping, num_cpus), rates in found.items()
        if rates
    ]
    RESULTS.write_text(json.dumps({"tasks_per_round": _TASKS, "settings": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
