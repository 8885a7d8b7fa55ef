"""Two hundred kills at random moments: whatever was published, the ledger holds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = '''
import json, os, random, signal, sys, time
from collections import Counter
from pathlib import Path

import numpy as np

from fedpriv.runs.resume import where_to_resume
from fedpriv.runs.published import Folder
from fedpriv.privacy import Ledger, Release
from fedpriv.privacy.journal import Checkpoint, Journal
from fedpriv.runs import RunFolder

place, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
release = Release(noise_multiplier=1e3, sampling_name="poisson", rate=0.5, clipping_norm=1.0)
ledger = Ledger(place / "ledger.sqlite")
ledger.register("people", fingerprint="f", num_tasks=9, declared="protected")
chance = random.Random(seed)


def work():
    """Go on where the last process was killed, and publish round after round, as a run does."""
    folder = RunFolder(place / "run", {"strategy": {"name": "billboard"}}, resume=(place / "run/config.toml").exists())
    journal = Journal(Ledger(place / "ledger.sqlite"), "people", folder.run_id, folder.checkpoints)
    found = where_to_resume(folder, journal, publishes=True).checkpoint
    os.write(ready, b".")
    rng = np.random.default_rng()
    if found is None:
        found = Checkpoint(0, {group: {"w": np.zeros(500)} for group in "ab"})
        folder.checkpoints.stage(found)
        folder.checkpoints.promote(0)
    while True:
        number = found.round + 1
        found = Checkpoint(number, {group: {"w": rng.normal(size=500)} for group in "ab"}, {"a": np.arange(3)})
        journal.publish(found, {"a": release, "b": release})
        if number % 7 == 0:
            folder.checkpoints.seal(number)


moments = Counter()
for number in range(kills):
    begun, ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(1)
    os.close(ready)
    if number % 4:  # one in four is killed while it finds out where to go on
        os.read(begun, 1)
    time.sleep(chance.uniform(0.0, 0.1))
    os.close(begun)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the process failed before it was killed"
    if not (place / "run/checkpoints/run-id").exists():
        moments["before the first release"] += 1
        continue
    folder = Folder.open(place / "run")
    entries = [one for one in Ledger(ledger.path).entries("people") if one.run == folder.run]
    wrong, _ = ledger.verify("people")
    wrong += folder.problems(entries, ledger.describe("people"))
    assert not wrong, wrong
    rounds = Counter(one.round for one in entries)
    published = max(folder._store.rounds(), default=0)
    assert set(rounds.values()) <= {2}, "one group was charged without the other"
    assert sorted(rounds) == list(range(1, len(rounds) + 1))
    assert len(rounds) - published in (0, 1)
    pending = folder._store.pending()
    if len(rounds) > published:
        assert pending is not None, "charged, and lost"
        moments["charged, not published"] += 1
    else:
        moments["staged, not charged" if pending else "between two rounds"] += 1
print(json.dumps({"moments": moments, "published": published}))
'''


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1])
def test_two_hundred_kills_never_under_count(tmp_path: Path, seed: int) -> None:
    """At least one kill must have come at each moment at which counting could go wrong."""
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), "200", str(seed)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    sys.stdout.write(f"{found}\n")
    assert found["published"] > 100
    assert {"charged, not published", "staged, not charged", "between two rounds"} <= set(found["moments"])
