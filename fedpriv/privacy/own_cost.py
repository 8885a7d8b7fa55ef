"""A mechanism with a cost of its own: its parameters, its formulas, and its name in ledgers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from fedpriv.errors import InputError, NoGuarantee
from fedpriv.privacy.cost import GAUSSIAN, directions
from fedpriv.privacy.distribution import Distribution
from fedpriv.privacy.terms import Relation
from fedpriv.settings import Settings

__all__ = ["BANDED", "FORGET", "OwnCost", "check_known", "check_registered", "mechanism", "parameters_from"]

_Kind = TypeVar("_Kind", bound="type[OwnCost]")

BANDED = "banded"
"""Name of Gaussian noise that is correlated over rounds."""


class OwnCost(Settings):
    """What a mechanism with noise of another kind costs; its fields are what a ledger holds of it.

    A subclass names itself, gives :meth:`losses`, and is made known by the decorator :func:`mechanism`. See
    :class:`fedpriv.privacy.cost.Cost` for what each formula must be. The relation may be zero-out, under which those of
    add/remove hold; ``relation.sensitivity`` tells it from replace-one.

    Attributes
    ----------
    rate : float
        Probability in (0, 1] that a task takes part, if secret coins decide; 1 if all do.
    """

    mechanism: ClassVar[str]
    """Its name in ledgers, which may not change."""

    relations: ClassVar[tuple[Relation, ...]] = (Relation.ADD_REMOVE, Relation.REPLACE_ONE)
    """Under which relations there are formulas."""

    samplings: ClassVar[tuple[str, ...]] = ("full",)
    """For which samplings: "full", and "poisson" if the formulas use the rate. Others are refused."""

    rate: float = Field(default=1.0, gt=0.0, le=1.0)

    def __lt__(self, other: OwnCost) -> bool:
        """Order costs of one mechanism, so that a history is always composed in the same order."""
        return repr(self) < repr(other)

    def gaussian_noise(self, relation: Relation) -> float | None:  # noqa: ARG002
        """Return None: the noise is not Gaussian. What gives a number composes with Gaussian noise in closed form."""
        return None

    def losses(self, relation: Relation, cut: float) -> Sequence[Distribution] | None:  # noqa: ARG002
        """Return None: there are no formulas."""
        return None

    def renyi(self, orders: tuple[float, ...], relation: Relation) -> tuple[float, ...] | None:
        """Return the divergences of Gaussian noise, or of privacy losses of which nothing is left out; else None."""
        noise = self.gaussian_noise(relation)
        if noise is not None:  # as if every task took part
            return tuple(order / (2.0 * noise * noise) if noise > 0.0 else math.inf for order in orders)
        found = directions(self, relation, 0.0)
        if found is None or any(one.cut > 0.0 for one in found):
            return None
        return tuple(max(one.divergence(order) for one in found) for order in orders)


_KNOWN: dict[str, type[OwnCost]] = {}

FORGET: list[Callable[[], None]] = []
"""Functions that clear caches of releases; called when a mechanism is registered, which a notebook may do twice."""


def mechanism(kind: _Kind) -> _Kind:
    """Make a mechanism known by its name, so that ledgers which hold its releases can be read.

    Raises
    ------
    InputError
        The name is taken, or a sampling is not one that may have formulas.
    """
    name = kind.mechanism
    known = _KNOWN.get(name, kind)
    if name in ("", GAUSSIAN, BANDED) or (known.__module__, known.__name__) != (kind.__module__, kind.__name__):
        raise InputError(f"the mechanism's name {name!r} is taken; give {kind.__name__} another one.")
    if not set(kind.samplings) <= {"full", "poisson"}:
        raise InputError(f"{kind.__name__}: 'samplings' may be 'full' and 'poisson', got {kind.samplings!r}.")
    _KNOWN[name] = kind
    for forget in FORGET:
        forget()
    return kind


def check_registered(parameters: OwnCost) -> None:
    """Refuse parameters of another class than the one by which ledgers would read them.

    Raises
    ------
    InputError
        A ledger would hold a cost that is not theirs.
    """
    kind = type(parameters)
    if _KNOWN.get(kind.mechanism) is not kind:
        raise InputError(
            f"{kind.__name__} is not the class that a ledger reads by the name {kind.mechanism!r}, so its releases "
            "would be counted as those of another; decorate it with @mechanism under a name of its own, or make the "
            "parameters anew if it was defined again."
        )


def check_known(name: str) -> str:
    """Return a mechanism's name, if this installation knows it.

    Raises
    ------
    NoGuarantee
        Nobody can say what its releases cost.
    """
    if name not in (GAUSSIAN, BANDED, *_KNOWN):
        raise NoGuarantee(
            f"the mechanism {name!r} is not known here, so nobody can say what its releases cost; import the module "
            "that defines it, or use the installation that charged them."
        )
    return name


def parameters_from(name: str, values: Any) -> OwnCost:
    """Read the parameters of a mechanism that a ledger holds.

    Raises
    ------
    NoGuarantee
        The mechanism is not known here.
    InputError
        The values are not its parameters.
    """
    kind = _KNOWN.get(check_known(name))
    if kind is None or not isinstance(values, dict):
        raise InputError(f"the mechanism {name!r} has no such parameters: {values!r}; use the fedpriv that wrote them.")
    return kind(**values)
