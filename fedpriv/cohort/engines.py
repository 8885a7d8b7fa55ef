"""The engines by name."""

from __future__ import annotations

from collections.abc import Callable

from fedpriv.cohort.engine import Engine, LoopEngine, VmapEngine
from fedpriv.cohort.fast.kernels import KernelEngine
from fedpriv.errors import InputError
from fedpriv.names import unknown

__all__ = ["ENGINES", "engine_named"]

ENGINES: dict[str, Callable[[], Engine]] = {"auto": KernelEngine, "vmap": VmapEngine, "loop": LoopEngine}


def engine_named(name: str) -> Engine:
    """Return an engine by name.

    Raises
    ------
    InputError
        The name is unknown.
    """
    if name not in ENGINES:
        raise InputError(unknown("engine", name, ENGINES))
    return ENGINES[name]()
