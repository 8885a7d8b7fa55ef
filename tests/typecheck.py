"""Type-check what users get: build the wheel, unpack it elsewhere, and run mypy --strict on that one package.

The mapped top-level folders are one package only after installation, so mypy on the checkout would miss three of them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Return mypy's exit code, or 1 if it looked at fewer files than there are."""
    with tempfile.TemporaryDirectory(prefix="fedpriv-types-") as scratch:
        place = Path(scratch)
        build = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            scratch,
            str(ROOT),
        ]
        subprocess.run(build, check=True)
        with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
            wheel.extractall(place / "unpacked")
        files = sorted((place / "unpacked" / "fedpriv").rglob("*.py"))
        sources = [p for d in ("fedpriv", "strategies", "clients", "scenarios") for p in (ROOT / d).rglob("*.py")]
        if len(files) != len(sources) or not (place / "unpacked/fedpriv/py.typed").exists():
            sys.stderr.write(f"the wheel holds {len(files)} of {len(sources)} modules, or lacks py.typed.\n")
            return 1
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
                   str(ROOT / ".mypy_cache"), "-p", "fedpriv"]  # fmt: skip
        done = subprocess.run(command, cwd=place / "unpacked", capture_output=True, text=True, check=False)
        sys.stdout.write(done.stdout + done.stderr)
        checked = re.search(r"(?:no issues found in|checked) (\d+) source files", done.stdout)
        if checked is None or int(checked[1]) != len(sources):
            sys.stderr.write(f"mypy looked at {checked and checked[1]} of {len(sources)} modules.\n")
            return 1
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
