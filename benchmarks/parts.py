"""Measuring parts one after the other, each in a process of its own, and keeping what was found for the others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["measure_parts"]


def measure_parts(module: str, parts: Sequence[str], kept: Path) -> dict[str, Any]:
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
