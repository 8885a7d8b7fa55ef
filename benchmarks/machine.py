"""What a page of measurements must say about the machine and the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

__all__ = ["describe_machine", "describe_versions"]


def describe_machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({_cpu()}), {memory:.0f} GB RAM, {platform.system()} {platform.machine()}"


def describe_versions(pins: Path, packages: Sequence[str] = ("flwr", "ray", "torch", "numpy")) -> str:
    """Versions of this environment, and those that a requirements file pins for another one."""
    lines = (line for line in pins.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    others = ", ".join(line.replace("==", " ") for line in lines)
    here = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"Python {platform.python_version()}, {here}; in pfl's environment also {others}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
