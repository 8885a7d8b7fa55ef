"""What installed packages offer under a plain name, by entry points such as ``fedpriv.models``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points

from fedpriv.errors import InputError

__all__ = ["GROUPS", "Offer", "offered"]

GROUPS = {"model": "fedpriv.models", "client": "fedpriv.clients", "strategy": "fedpriv.strategies"}
"""The group of entry points of each kind."""


@dataclass(frozen=True)
class Offer:
    """A name that an installed package offers.

    Attributes
    ----------
    name : str
        As users type it.
    target : str
        ``module:Class``.
    package : str
        Who offers it, with its version.
    """

    name: str
    target: str
    package: str


def offered(kind: str) -> dict[str, Offer]:
    """Return what installed packages offer, by name.

    Parameters
    ----------
    kind : str
        Of what; packages offer the kinds of :data:`GROUPS`, and nothing of another one.

    Raises
    ------
    InputError
        Two packages offer different things under one name.
    """
    found: dict[str, Offer] = {}
    for entry in entry_points(group=GROUPS[kind]) if kind in GROUPS else ():
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown"
        offer = Offer(entry.name, entry.value.replace(" ", ""), package)
        other = found.setdefault(entry.name, offer)
        if other.target != offer.target:
            raise InputError(
                f"{other.package} and {offer.package} both offer the {kind} {entry.name!r}; name the one that you "
                f"mean by its module, {other.target!r} or {offer.target!r}, and uninstall or rename the other."
            )
    return found
