"""Advice is true: settings that are refused, what the message says to do, and that it is accepted when done."""

from __future__ import annotations

from typing import Any

import pytest

from fedpriv import InputError, NoGuarantee, Target
from fedpriv.account import Account, solve
from fedpriv.strategies import Billboard

BOARD = {"clipping_norm": 1.0, "rounds": 4, "noise_multiplier": 1.0, "sampling_rate": 0.25}
ASKED = {"noise_multiplier": 1.0, "rounds": 10, "sampling_rate": 0.1, "population": 100}
GONE = object()

ADVICE: list[tuple[Any, dict[str, Any], dict[str, Any], str, dict[str, Any]]] = [
    (Billboard, BOARD, {"min_separation": 8}, "at most 1/8", {"sampling_rate": 0.125}),
    (Billboard, BOARD, {"schedule": "random"}, "give", {"max_participations": 2}),
    (Account, ASKED, {"epsilon": 3.0}, "leave out one of", {"rounds": GONE}),
    (Account, ASKED, {"noise_multiplier": GONE}, "give all but one", {"epsilon": 1.0}),
    (Account, ASKED, {"cohort": 10}, "not both", {"sampling_rate": GONE}),
    (Account, ASKED, {"sampling": "full"}, "leave out --sampling-rate", {"sampling_rate": GONE}),
    (Account, ASKED, {"population": GONE}, "give --delta", {"delta": 1e-4}),
    (Account, ASKED, {"delta": 0.5}, "use 0.0001", {"delta": 1e-4}),
    (
        Account,
        ASKED,
        {"sampling": "fixed-size", "relation": "add/remove"},
        "relation replace-one",
        {"relation": "replace-one"},
    ),
    (Account, ASKED, {"observer": "server"}, "add the noise on the node", {"noise_at": "node"}),
]


def made(kind: Any, *changes: dict[str, Any]) -> Any:
    settings: dict[str, Any] = {}
    for one in changes:
        settings |= one
    return kind(**{name: value for name, value in settings.items() if value is not GONE})


@pytest.mark.parametrize(("kind", "good", "bad", "said", "followed"), ADVICE)
def test_following_the_advice_helps(
    kind: Any, good: dict[str, Any], bad: dict[str, Any], said: str, followed: dict[str, Any]
) -> None:
    with pytest.raises((InputError, NoGuarantee)) as refused:
        made(kind, good, bad)
    assert said in str(refused.value)
    answer = made(kind, good, bad, followed)
    if kind is Account:
        assert solve(answer).epsilon().value > 0.0


def test_a_target_of_no_round_is_told_to_use_more_noise() -> None:
    with pytest.raises(InputError, match="use more noise"):
        solve(Account(noise_multiplier=0.5, epsilon=0.1, sampling_rate=0.5, population=100))
    assert solve(Account(noise_multiplier=50.0, epsilon=0.1, sampling_rate=0.5, population=100)).rounds >= 1
    assert Target(epsilon=1.0).delta_for(100) == 1e-4
