"""Data that are used again by the next experiment are not read and divided again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["keep_data", "kept"]

_KEPT: ContextVar[dict[str, tuple[str, Any]] | None] = ContextVar("kept", default=None)


@contextmanager
def keep_data() -> Iterator[None]:
    """Keep the last data set and the last tasks in memory while this context lasts.

    One of each is enough for experiments that come seed by seed, and no more memory than one run needs is held.
    """
    if _KEPT.get() is not None:  # inside another one: use that
        yield
        return
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def kept(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """Return what was made last under this key; the key starts with the kind of thing. Else make it.

    Outside :func:`keep_data` it is always made.
    """
    store = _KEPT.get()
    if store is None:
        return make()
    kind, text = str(key[0]), repr(key)  # as text, 1 is neither 1.0 nor true
    if kind not in store or store[kind][0] != text:
        store.pop(kind, None)  # freed before the next one is made
        store[kind] = text, make()
    return store[kind][1]
