"""Which settings make Flower's stock engine fastest here? `python -m benchmarks.tune` writes ``tuning.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from benchmarks.runner import prepared
from benchmarks.work import Work

RESULTS = Path(__file__).with_name("tuning.json")
SETTINGS = [("own", 0.25), ("own", 0.5), ("own", 1.0), ("own", 2.0), ("client", 0.5), ("server", 0.5)]
_TASKS = 300


def main(passes: int) -> None:
    """Try every setting, one after the other, as often as asked; all 1,000 tasks stay registered."""
    work, found = Work(), {setting: [] for setting in SETTINGS}
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
                rate = outcome.tasks_per_second
                found[clipping, num_cpus].append(round(rate, 1))
                print(f"clipping={clipping:6} num_cpus={num_cpus:<4} {rate:6.1f} tasks/s", flush=True)
    rows = [
        {"clipping": clipping, "num_cpus": num_cpus, "median": median(rates), "tasks_per_second": rates}
        for (clipping, num_cpus), rates in found.items()
    ]
    RESULTS.write_text(json.dumps({"tasks_per_round": _TASKS, "settings": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
