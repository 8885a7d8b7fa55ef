"""What came out of membership games: thresholds from validation games, ROC, AUC and rates with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError

__all__ = ["GAMES_FOR_LOW_RATE", "Outcome", "Rate", "auc_bound", "exact_rate", "judge", "roc", "threshold"]

Scores = NDArray[np.float64]
Measure = Callable[[Scores, Scores], float]
_RESAMPLES = 500
_LOW_RATE = 0.01


@dataclass(frozen=True)
class Rate:
    """A number between 0 and 1 with its 95% interval."""

    value: float
    low: float
    high: float


GAMES_FOR_LOW_RATE = 100
"""Games with a non-member from which on 1% of them is a game at all."""


@dataclass(frozen=True)
class Outcome:
    """How well members and others were told apart.

    Attributes
    ----------
    accuracy, recall, false_positives : Rate
        At the threshold, on games that had no part in choosing it; intervals of Clopper and Pearson, which are exact
        for one proportion of independent games. The accuracy's joins the two sides, which are of one size and play on
        the same rows: it takes them for independent.
    precision : float or None
        Of the games called members, how many were; None if none was called.
    auc, tpr_at_low_fpr : Rate
        Without any threshold; intervals by bootstrap over the games of each side (500 resamples, percentiles). The
        second is the true positive rate where at most 1% of the others are called members; with fewer than 100
        others that means none.
    threshold : float
        Scores from here on are called members.
    games, validation : int
        Games of each side that were judged, and that chose the threshold.
    """

    accuracy: Rate
    recall: Rate
    false_positives: Rate
    precision: float | None
    auc: Rate
    tpr_at_low_fpr: Rate
    threshold: float
    games: int
    validation: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values; without the true positive rate at 1% false ones, where too few games can tell it."""
        found = asdict(self)
        if self.games < GAMES_FOR_LOW_RATE:
            found["tpr_at_low_fpr"] = None
        return found


def judge(members: Scores, others: Scores, validation: int, seed: int = 0) -> Outcome:
    """Judge games: the first ``validation`` of each side choose the threshold, the others are counted.

    Parameters
    ----------
    members, others : ndarray of float64, shape [n]
        Scores; a member's should be higher. Games are independent of each other.
    validation : int
        How many of each side choose the threshold.
    seed : int
        Of the bootstrap.

    Raises
    ------
    InputError
        No games are left, or none chose the threshold.
    """
    if len(members) != len(others):
        raise InputError(f"both sides need as many games, got {len(members)} and {len(others)}; play the missing ones.")
    if not 1 <= validation < len(members):
        raise InputError(
            f"{validation} validation games of {len(members)} leave {max(len(members) - validation, 0)} to judge by; "
            "play more games, or lower attack.validation (at least 1)."
        )
    here = threshold(members[:validation], others[:validation])
    members, others = members[validation:], others[validation:]
    right, wrong = int((members >= here).sum()), int((others >= here).sum())
    count = len(members)
    return Outcome(
        accuracy=exact_rate(right + count - wrong, 2 * count),
        recall=exact_rate(right, count),
        false_positives=exact_rate(wrong, count),
        precision=right / (right + wrong) if right + wrong else None,
        auc=_bootstrap(members, others, _auc, seed),
        tpr_at_low_fpr=_bootstrap(members, others, _low_rate, seed),
        threshold=here,
        games=count,
        validation=validation,
    )


def threshold(members: Scores, others: Scores) -> float:
    """Return the threshold that tells validation games apart best: the middle of the best ones."""
    scores = np.unique(np.concatenate([members, others]))
    cuts = np.concatenate([scores[:1] - 1e-9, (scores[1:] + scores[:-1]) / 2, scores[-1:] + 1e-9])
    gains = (members[:, None] >= cuts).mean(axis=0) - (others[:, None] >= cuts).mean(axis=0)
    best = np.flatnonzero(gains >= gains.max() - 1e-12)
    return float(cuts[best[len(best) // 2]])


def roc(members: Scores, others: Scores) -> tuple[Scores, Scores]:
    """Return false and true positive rates over all thresholds, from (0, 0) to (1, 1)."""
    from sklearn.metrics import roc_curve

    truth = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    false, true, _ = roc_curve(truth, np.concatenate([members, others]), drop_intermediate=False)
    return false, true


def auc_bound(noise_multiplier: float) -> float:
    """Return the largest AUC against one row with noise of the node: Phi(mu / sqrt 2), with mu = 2 / noise multiplier.

    Noise that the server adds bounds nothing here: the server reads the rows before
    (:func:`fedpriv.privacy.claims.claim` refuses it by name).
    """
    from scipy.special import ndtr

    if noise_multiplier <= 0:
        return 1.0
    return float(ndtr(2.0 / noise_multiplier / np.sqrt(2.0)))


def _auc(members: Scores, others: Scores) -> float:
    """Return the chance that a member scores higher than another, ties counting half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, "left") + np.searchsorted(ordered, members, "right")
    return float(below.mean() / (2 * len(others)))


def _low_rate(members: Scores, others: Scores) -> float:
    allowed = int(_LOW_RATE * len(others))
    limit = np.partition(others, len(others) - 1 - allowed)[len(others) - 1 - allowed]
    return float((members > limit).mean())


def _bootstrap(members: Scores, others: Scores, measure: Measure, seed: int) -> Rate:
    draws = np.random.default_rng(seed).integers(len(members), size=(2, _RESAMPLES, len(members)))
    found = [measure(members[mine], others[theirs]) for mine, theirs in zip(*draws, strict=True)]
    low, high = np.quantile(found, [0.025, 0.975])
    return Rate(measure(members, others), float(low), float(high))


def exact_rate(hits: int, count: int) -> Rate:
    """Return a proportion with the interval of Clopper and Pearson."""
    from scipy.special import betaincinv

    low = float(betaincinv(hits, count - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 0.975)) if hits < count else 1.0
    return Rate(hits / count, low, high)
