"""Paired differences between arms, corrected for all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedpriv.evidence.protocol import Protocol
from fedpriv.evidence.run import Evidence
from fedpriv.statistics import Interval, contrast, holm

__all__ = ["Difference", "claimed", "differences"]


@dataclass(frozen=True)
class Difference:
    """One side minus the other at one point, paired by seed.

    Attributes
    ----------
    first, second : str
        The sides: an arm, ``arm.model`` where it is not the personal models, or ``arm.rmse.amht``: a measure.
    point : str
        Where they are compared.
    interval : Interval
        Mean and 95% interval of the differences.
    p : float
        Of the two-sided t-test, after Holm's correction over all differences that were asked for together.
    """

    first: str
    second: str
    point: str
    interval: Interval
    p: float

    @property
    def above(self) -> bool:
        """Whether the interval lies above 0."""
        return self.interval.low > 0

    @property
    def below(self) -> bool:
        """Whether the interval lies below 0: where less is better."""
        return self.interval.high < 0


def differences(evidence: Evidence, pairs: Iterable[tuple[str, str]], points: Iterable[str]) -> list[Difference]:
    """Compare all pairs (:attr:`fedpriv.evidence.Protocol.pairs`) at all points, which follow each other in a pair."""
    points = list(points)
    asked = [(first, second, point) for first, second in pairs for point in points]
    found = [contrast(_column(evidence, first, at), _column(evidence, second, at)) for first, second, at in asked]
    adjusted = holm([one.p for one in found])
    return [Difference(*names, one.interval, p) for names, one, p in zip(asked, found, adjusted, strict=True)]


def claimed(protocol: Protocol, found: Sequence[Difference]) -> list[Difference]:
    """Return the differences that a protocol claims something about."""
    return [one for one in found if (one.first, one.second) in protocol.claims]


def _column(evidence: Evidence, side: str, point: str) -> list[float]:
    arm, _, model = side.partition(".")
    return evidence.column(arm, point, model or "personal")
