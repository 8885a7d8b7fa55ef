"""What it costs to ask a ledger of 10,000 rounds: `python -m benchmarks.ledger`.

A fresh process imports fedpriv, opens the file and finds epsilon by privacy loss distributions; then one more release
is charged and it asks again. Times are of the wall clock, so run it on a machine that does nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fedpriv.privacy import Ledger, Release
from fedpriv.privacy.chain import append_links

ROUNDS, REPEATS = 10_000, 7

ASK = """
import time
start = time.perf_counter()
import json, sys
from fedpriv.privacy import Ledger, Relation
ledger, relation = Ledger(sys.argv[1]), Relation(sys.argv[2])
first = ledger.spent("people", 1e-5, relation)
asked, processor = time.perf_counter(), time.process_time()
release = ledger.entries("people", "r")[-1].release
later = []
for number in range(5):
    ledger.charge("people", "r", int(sys.argv[3]) + number, "", release)
    before = time.perf_counter()
    ledger.spent("people", 1e-5, relation)
    later.append(time.perf_counter() - before)
print(json.dumps([asked - start, sorted(later)[2], processor, first.value]))
"""


def build(path: Path, release: Release) -> None:
    """Charge one round properly, and write the others as it was written: charging 10,000 takes long."""
    ledger = Ledger(path)
    ledger.register("people", fingerprint="f", num_tasks=1000, declared="benchmark")
    ledger.charge("people", "r", 0, "", release)
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO entries (population, run, round, part, release, digest) VALUES ('people', 'r', ?, '', 1, '')",
            [(number,) for number in range(1, ROUNDS)],
        )
        append_links(connection)
    connection.close()


def main() -> None:
    print(f"{ROUNDS} rounds; median of {REPEATS} fresh processes; seconds")
    print("| noise | rate | relation | epsilon | fresh process, with imports | of the processor | one release later |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for noise, rate in ((1.0, 0.01), (2.0, 0.1), (5.0, 0.5), (0.6, 0.001)):
        release = Release(noise_multiplier=noise, sampling_name="poisson", rate=rate, clipping_norm=1.0)
        for relation in ("add/remove", "replace-one"):
            found = []
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "ledger.sqlite"
                build(path, release)
                for repeat in range(REPEATS):
                    words = [sys.executable, "-c", ASK, str(path), relation, str(ROUNDS + 10 * repeat)]
                    ran = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
                    found.append(json.loads(ran.stdout))
            fresh, later, processor = (statistics.median(one[i] for one in found) for i in (0, 1, 2))
            words = (
                f"{noise:g} | {rate:g} | {relation} | {found[0][3]:.4f} | {fresh:.2f} | {processor:.2f} | {later:.4f}"
            )
            print(f"| {words} |", flush=True)


if __name__ == "__main__":
    main()
