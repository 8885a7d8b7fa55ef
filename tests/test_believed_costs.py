"""Formulas and parameters of a mechanism of one's own are checked before they are believed, charged or read back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import Field

from fedpriv import InputError, NoGuarantee, Target
from fedpriv.privacy import Ledger, Release, epsilon
from fedpriv.privacy.accounting import deltas_for
from fedpriv.privacy.distribution import Distribution, Piece
from fedpriv.privacy.own_cost import _KNOWN, OwnCost, mechanism
from fedpriv.privacy.poisson import bounded_losses


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Leave no mechanism behind."""
    before = dict(_KNOWN)
    yield
    _KNOWN.clear()
    _KNOWN.update(before)


def pieces(e: float) -> list[Piece]:
    """Return a Laplace pair of epsilon e."""
    half = -math.log(2.0)
    return [
        Piece(0.0, 1.0, lambda x: half + 0 * x, lambda x: e + 0 * x),
        Piece(0.0, e, lambda x: half - x, lambda x: e - 2 * x),
        Piece(0.0, 1.0, lambda x: half - e + 0 * x, lambda x: -e + 0 * x),
    ]


class Laplace(OwnCost):
    mechanism: ClassVar[str] = "noisy-answer"
    samplings: ClassVar[tuple[str, ...]] = ("full", "poisson")
    e: float = 1.0

    def losses(self, relation: Any, cut: float) -> Any:
        return bounded_losses(pieces(relation.sensitivity * self.e), self.rate, relation)


class Louder(Laplace):
    def losses(self, relation: Any, cut: float) -> Any:
        return bounded_losses(pieces(3 * self.e), self.rate, relation)


def ledger(folder: Path, **more: Any) -> Ledger:
    found = Ledger(folder / "own.sqlite")
    found.register("p", fingerprint="f", num_tasks=10, declared="protected", **more)
    return found


def test_a_class_that_no_ledger_reads_is_not_charged() -> None:
    mechanism(Laplace)
    Release.own(Laplace())
    with pytest.raises(InputError, match="Louder is not the class that a ledger reads by the name 'noisy-answer'"):
        Release.own(Louder())


class Capped(Laplace):
    mechanism: ClassVar[str] = "capped"
    cap: float | None = 0.1

    def losses(self, relation: Any, cut: float) -> Any:
        return bounded_losses(pieces(self.e if self.cap is None else self.cap), self.rate, relation)


def test_none_is_kept_in_a_ledger(tmp_path: Path) -> None:
    """Left out, it would be read back as the default, ten times cheaper here."""
    mechanism(Capped)
    release = Release.own(Capped(cap=None))
    to = ledger(tmp_path)
    assert to.charge("p", "r", 1, "", release)
    assert not to.charge("p", "r", 1, "", release), "the same release again"
    assert list(Ledger(to.path).counts("p")) == [release]


class Hidden(Laplace):
    mechanism: ClassVar[str] = "hidden"
    e: float = Field(default=0.1, exclude=True)


class Renamed(Laplace):
    mechanism: ClassVar[str] = "renamed"
    e: float = Field(default=0.1, alias="s")


class Anything(Laplace):
    mechanism: ClassVar[str] = "anything"
    how: Any = None

    def losses(self, relation: Any, cut: float) -> Any:
        return bounded_losses(pieces(9.0 if self.how is True else 0.1), self.rate, relation)


class Louder2(Release):
    @property
    def cost(self) -> Any:
        return Release.own(Laplace(e=9.0)).cost


def test_a_release_that_is_read_back_as_another_is_not_charged(tmp_path: Path) -> None:
    for kind in (Laplace, Hidden, Renamed, Anything):
        mechanism(kind)
    plain = {"noise_multiplier": 8.0, "sampling_name": "full", "rate": 1.0, "clipping_norm": 1.0}
    to = ledger(tmp_path)
    for release, text in (
        (Release.own(Hidden(e=9.0)), "it is another release"),
        (Release.own(Renamed(s=9.0)), "it is none"),  # type: ignore[call-arg]
        (Release.own(Anything(how=(1, 2))), "it is another release"),
        (Louder2(**plain), "it is another release"),
    ):
        with pytest.raises(InputError, match=f"read back from its text in a ledger, {text}"):
            to.charge("p", "r", 1, "", release)
    assert to.charge("p", "r", 1, "", Release.own(Anything(how=True)))
    assert to.charge("p", "r", 2, "", Release.own(Anything(how=1)))
    assert len(to.entries("p")) == 2


def test_a_mechanism_that_is_defined_again_is_read_anew(tmp_path: Path) -> None:
    """As in a notebook; what was read before would be counted by the old formulas."""
    mechanism(Laplace)
    to = ledger(tmp_path)
    to.charge("p", "r", 1, "", Release.own(Laplace()))
    before = epsilon(to.counts("p"), 1e-3).value
    again = type("Laplace", (Louder,), {"__module__": __name__, "mechanism": "noisy-answer"})
    mechanism(again)
    assert epsilon(to.counts("p"), 1e-3).value > 2.5 * before
    assert to.entries("p")[0].release == Release.own(again())
    with pytest.raises(InputError, match="make the parameters anew"):
        Release.own(Laplace())


def own(**methods: Any) -> Release:
    """Return the release of a mechanism with these formulas."""
    return Release.own(mechanism(type("Own", (Laplace,), {"__module__": __name__, "mechanism": "own", **methods}))())


@pytest.mark.parametrize("values", [(-5.0,), (math.nan,), (), (1.0, 2.0)], ids=["negative", "nan", "short", "long"])
def test_divergences_that_cannot_be_are_refused(values: tuple[float, ...], tmp_path: Path) -> None:
    """A negative one would refund a budget."""
    release = own(renyi=lambda self, orders, relation: values)
    to = ledger(tmp_path, budget=Target(epsilon=3.0))
    with pytest.raises(NoGuarantee, match="'own' has no Renyi divergences"):
        to.charge("p", "r", 1, "", release)
    assert to.entries("p") == []
    with pytest.raises(NoGuarantee, match="'own' has no Renyi divergences"):
        epsilon([release], 1e-3, accountant="rdp")


def flat(mass: float, loss: float, none: float = 0.0, cut: float = 0.0) -> Distribution:
    return Distribution([Piece(0.0, 1.0, lambda x: math.log(mass) + 0 * x, lambda x: loss + 0 * x)], 1.0, none, cut)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: flat(1.0, math.nan), "a loss or a density is not a number"),
        (lambda: flat(1.0, math.inf), "a loss or a density is not a number"),
        (lambda: flat(0.5, 0.1), "P has the probability 0.5 "),
        (lambda: flat(0.5, 0.1, cut=0.1), "P has the probability 0.5 "),
        (lambda: flat(0.9, 0.1, none=0.9), "P has the probability 1.8 "),
        (lambda: flat(1.0, -0.1), "and Q 1.105"),
        (lambda: flat(1.0, 0.1, cut=-0.5), "'none' and 'cut' must be probabilities"),
        (lambda: flat(1.0, 0.1, none=-0.5), "'none' and 'cut' must be probabilities"),
        (lambda: Distribution([], 1.0, 1.0, 0.0), "'none' and 'cut' must be probabilities beside pieces"),
    ],
)
def test_losses_that_cannot_be_are_refused(made: Any, text: str) -> None:
    release = own(losses=lambda self, relation, cut: [made(), made()])
    with pytest.raises(NoGuarantee, match="'own' has no privacy losses that can be.*" + text):
        epsilon([release], 1e-3)


def test_formulas_without_anything_are_refused() -> None:
    with pytest.raises(NoGuarantee, match="return those of removing and of adding a task"):
        epsilon([own(losses=lambda self, relation, cut: [])], 1e-3)
    with pytest.raises(NoGuarantee, match="'own' has no noise of at least 0, but -1"):
        epsilon([own(gaussian_noise=lambda self, relation: -1.0)], 1e-3)


def test_a_rate_that_the_losses_ignore_amplifies_nothing() -> None:
    """It bounded delta as if a task hardly ever took part."""
    mechanism(Laplace)
    kept = Release.own(Laplace(e=2.0, rate=1e-6))
    assert epsilon([kept], 1e-5).value == 0.0
    assert deltas_for([kept], [0.0])[0] <= 1.1e-6

    class Ignores(Laplace):
        mechanism: ClassVar[str] = "ignores"

        def losses(self, relation: Any, cut: float) -> Any:
            return bounded_losses(pieces(self.e), 1.0, relation)

    ignored = Release.own(mechanism(Ignores)(e=2.0, rate=1e-6))
    assert epsilon([ignored], 1e-5).value == pytest.approx(2.0, rel=1e-3)
    assert deltas_for([ignored], [0.0])[0] > 0.5


def test_a_release_that_costs_nothing_has_no_last_one(tmp_path: Path) -> None:
    to = ledger(tmp_path, budget=Target(epsilon=1.0))
    to.charge("p", "r", 1, "", Release(noise_multiplier=1e200, sampling_name="full", rate=1.0, clipping_norm=1.0))
    assert to.describe("p")["left"]["more_like_the_last"] is None
    assert np.isclose(to.describe("p")["left"]["share"], 1.0)
