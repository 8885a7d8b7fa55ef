"""Frozen, validated settings: the one way in which user input becomes objects.

A client algorithm, a strategy or a section of the configuration is a :class:`Settings` class. Its fields are at the
same time the Python keywords, the configuration keys and the bounds that are checked, so the three cannot drift apart.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpriv.errors import FedprivError, InputError
from fedpriv.names import kebab, unknown

__all__ = ["Settings", "sentences"]


class Settings(BaseModel):
    """Immutable keyword settings; wrong input raises :class:`~fedpriv.errors.InputError` with a sentence."""

    called: ClassVar[str | None] = None
    """What sentences call it, where users do not know it by the name of its class."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(sentences(type(self), error)) from None


def sentences(model: type[BaseModel], error: ValidationError) -> str:
    """Turn pydantic's report into sentences that name the setting, the bound and the value got."""
    return " ".join(_sentence(model, item) for item in error.errors(include_url=False))


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
    return f"{owner}: {where!r} {rule}, got {item['input']!r}."
