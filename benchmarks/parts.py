"""Measuring parts one after the other, each in a process of its own, and keeping what was found for the others."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["command"]


def command(
    module: str,
    about: str,
    parts: Mapping[str, Callable[[], Any]],
    kept: Path,
    report: Path,
    write_report: Callable[[dict[str, Any], Path], None],
) -> None:
    """``python -m MODULE``: measure the chosen parts, each in a process of its own, and write the page."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=tuple(parts), default=tuple(parts))
    parser.add_argument("--report", type=Path, default=report, help="where the report goes")
    parser.add_argument("--here", action="store_true", help="measure one part in this process and print it")
    chosen = parser.parse_args()
    if chosen.here:
        print(json.dumps(parts[chosen.parts[0]]()))
    else:
        write_report(_measure_parts(module, chosen.parts, kept), chosen.report)


def _measure_parts(module: str, parts: Sequence[str], kept: Path) -> dict[str, Any]:
    """Measure parts by ``python -m MODULE --here --parts PART``, whose last line is JSON; return all that is known.

    The file ``kept`` holds what was found before; it is written after every part.
    """
    results: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for part in parts:
        command = [sys.executable, "-m", module, "--here", "--parts", part]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="utf-8")
        results[part] = json.loads(done.stdout.splitlines()[-1])
        kept.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(part, json.dumps(results[part]), flush=True)
    return results
