"""Cases of advice: a call that is refused, what the message says to do, and the same call when it is done."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from fedpriv.errors import FedprivError

GONE = object()


@dataclass(frozen=True)
class Case:
    """``make(**good, **bad)`` is refused with words that hold ``said``; each way of following them is accepted.

    ``said`` is cut from the source text of the message, with {} for what is put in, and from no other message, so that
    ``test_advice_list`` finds the one that the case covers.
    """

    make: Callable[..., Any]
    good: dict[str, Any]
    bad: dict[str, Any]
    said: str
    ways: tuple[dict[str, Any], ...]

    def refused(self) -> str:
        with pytest.raises((FedprivError, ValueError)) as caught:
            self._made(self.bad)
        pattern = ".*".join(map(re.escape, self.said.split("{}")))
        assert re.search(pattern, str(caught.value), re.DOTALL), f"{caught.value} does not hold {self.said!r}"
        return str(caught.value)

    def followed(self) -> list[Any]:
        return [self._made(self.bad, way) for way in self.ways]

    def _made(self, *changes: dict[str, Any]) -> Any:
        settings = dict(self.good)
        for one in changes:
            settings |= one
        return self.make(**{name: value for name, value in settings.items() if value is not GONE})


def cases(make: Callable[..., Any], good: dict[str, Any], *rows: Any) -> list[Any]:
    """Return one parameter per row ``(bad, said, way, ...)``."""
    return [
        pytest.param(Case(make, good, bad, said, tuple(ways)), id=f"{make.__name__}-{said}")
        for bad, said, *ways in rows
    ]
