"""Plant faults in a copy of the code, one at a time, and see a test notice each: `make mutants`.

``mutants.toml`` lists the faults. A fault that no test notices is a survivor, and fails the run: the guard that its
test claims to be has no power. A test that fails without any fault proves nothing, so all of them run once before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutants.toml"
MAPPED = ("strategies", "clients", "scenarios")
"""Folders that are packages inside ``fedpriv`` once it is installed."""

NOTICED, SURVIVED = 1, 0
"""pytest's exit codes: some test failed, and all passed. Any other is an entry that cannot be run."""

LONGEST_SECONDS = 900
"""For the tests of one fault; a fault that makes them hang is not noticed by them."""


@dataclass(frozen=True)
class Fault:
    """One planted fault: ``old`` stands once in ``file`` and is replaced by ``new``; ``tests`` must notice."""

    name: str
    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def plant(self, tree: Path) -> None:
        """Change the copy of the code in a folder."""
        place = tree / installed(self.file)
        text = place.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: 'old' must stand once in {self.file}, and stands {text.count(self.old)} times."
            )
        place.write_text(text.replace(self.old, self.new), encoding="utf-8")


def installed(file: str) -> str:
    """Return where a file of the checkout lies once it is installed."""
    return f"fedpriv/{file}" if file.split("/")[0] in MAPPED else file


def faults() -> list[Fault]:
    """Read the list."""
    found = tomllib.loads(LIST.read_text(encoding="utf-8"))["fault"]
    return [Fault(**{**one, "tests": tuple(one["tests"])}) for one in found]


def copy_to(tree: Path) -> None:
    """Copy code and tests into an empty folder, laid out as a wheel lays them out."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fedpriv", tree / "fedpriv", ignore=skip)
    for folder in MAPPED:
        shutil.copytree(ROOT / folder, tree / "fedpriv" / folder, ignore=skip)
    shutil.copytree(ROOT / "tests", tree / "tests", ignore=skip)
    for name in ("pyproject.toml", "CONTRIBUTING.md"):  # whose examples some tests run
        shutil.copy(ROOT / name, tree)


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run some tests on the copy in a folder; return pytest's exit code and what it printed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-m",
        "not soak",
        "-p",
        "no:cacheprovider",
        *(f"tests/{one}" for one in tests),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, f"did not end within {LONGEST_SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def judge(fault: Fault) -> tuple[int, str]:
    """Plant one fault in a copy of its own and run its tests."""
    with tempfile.TemporaryDirectory(prefix="fedpriv-mutant-") as folder:
        copy_to(Path(folder))
        fault.plant(Path(folder))
        return run_tests(Path(folder), fault.tests)


def main() -> int:
    """Run the list, or the faults whose name holds a given text; return 1 if one survives or cannot be run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; all faults unless given")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a fault first")
    asked = parser.parse_args()
    wanted = [one for one in faults() if not asked.names or any(name in one.name for name in asked.names)]
    if not asked.no_baseline:
        with tempfile.TemporaryDirectory(prefix="fedpriv-mutant-") as folder:
            copy_to(Path(folder))
            code, said = run_tests(Path(folder), sorted({test for one in wanted for test in one.tests}))
        if code != SURVIVED:
            sys.stdout.write(f"{said}\nthe tests must pass without any fault.\n")
            return 1
    began, bad = time.monotonic(), []
    with ThreadPoolExecutor(asked.jobs) as crew:
        calls = {crew.submit(judge, one): one for one in wanted}
        for number, call in enumerate(as_completed(calls), start=1):
            fault, (code, said) = calls[call], call.result()
            verdict = {NOTICED: "noticed", SURVIVED: "SURVIVED"}.get(code, f"cannot be run (exit code {code})")
            by = next(
                (line.split("::")[1].split(" ")[0] for line in said.splitlines() if line.startswith("FAILED")), ""
            )
            sys.stdout.write(f"[{number}/{len(wanted)}] {fault.guard}: {fault.name}: {verdict} {by}\n")
            sys.stdout.flush()
            if code != NOTICED:
                bad.append(fault.name)
                sys.stdout.write("".join(f"    {line}\n" for line in said.splitlines()[-15:]))
    sys.stdout.write(
        f"{len(wanted)} faults planted, {len(wanted) - len(bad)} noticed, {len(bad)} not "
        f"({time.monotonic() - began:.0f} s): {', '.join(bad) or 'no survivor'}.\n"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
