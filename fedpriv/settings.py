"""Frozen, validated settings: the one way in which user input becomes objects.

A client algorithm, a strategy or a section of the configuration is a :class:`Settings` class. Its fields are at the
same time the Python keywords, the configuration keys and the bounds that are checked, so the three cannot drift apart.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from enum import Enum
from numbers import Number
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpriv.errors import FedprivError, InputError
from fedpriv.names import kebab, unknown

__all__ = ["Settings", "sentences"]


_MAX_ENTRIES = 200
"""Entries of a list or letters of a text that somebody typed; what is longer holds data."""


class Settings(BaseModel):
    """Immutable keyword settings; wrong input raises :class:`~fedpriv.errors.InputError` with a sentence.

    True and False are no numbers here, though Python and pydantic would take them for 1 and 0.
    """

    called: ClassVar[str | None] = None
    """What sentences call it, where users do not know it by the name of its class."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            if _holds_truth(value) and name in type(self).model_fields and not _takes_truth(type(self), name):
                rule = "be a number" if isinstance(value, bool) else "hold numbers"
                raise InputError(f"{kebab(type(self).__name__)}: {name!r} must {rule}, got {_shown(value)}.")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(sentences(type(self), error)) from None


def sentences(model: type[BaseModel], error: ValidationError) -> str:
    """Turn pydantic's report into sentences that name the setting, the bound and the value got."""
    return " ".join(_sentence(model, item) for item in error.errors(include_url=False))


def _holds_truth(value: Any) -> bool:
    """Tell whether a value is True or False, or a plain container that holds one."""
    if isinstance(value, dict):
        return any(map(_holds_truth, value.values()))
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_truth, value)))


@functools.cache
def _takes_truth(model: type[BaseModel], name: str) -> bool:
    """Tell whether a setting may hold True or False: everything may whose type has no numbers."""
    found = list(_parts(model.model_fields[name].annotation))
    return any(one is bool for one in found) or not any(one is int or one is float for one in found)


def _parts(kind: Any) -> Iterator[Any]:
    yield kind
    for part in get_args(kind):
        yield from _parts(part)


def _sentence(model: type[BaseModel], item: Any) -> str:
    owner = getattr(model, "called", None) or kebab(model.__name__)
    where = ".".join(str(part) for part in item["loc"]) or owner
    kind = item["type"]
    if kind == "extra_forbidden":
        return f"{owner}: " + unknown("setting", where, model.model_fields)
    if kind == "missing":
        return f"{owner}: the setting {where!r} is required; give it a value."
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, FedprivError | ValueError):
        return f"{owner}: {cause}"
    rule = str(item["msg"]).replace("Input should be", "must be")
    rule = re.sub(r"\d{16,}(\.\d+)?", lambda number: f"{float(number[0]):g}", rule)
    return f"{owner}: {where!r} {rule}, got {_shown(item['input'])}."


def _shown(value: Any) -> str:
    """Return what was typed; of anything else the type, because it may hold somebody's data."""
    return repr(value) if _typed(value) else f"a {type(value).__name__}"


def _typed(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_typed(one) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple | str):
        return len(value) <= _MAX_ENTRIES and (isinstance(value, str) or all(map(_typed, value)))
    return value is None or isinstance(value, Number | Path | Enum)
