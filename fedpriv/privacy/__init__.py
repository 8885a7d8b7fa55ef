"""Guarantees, mechanisms, task sampling, accounting, calibration and the ledger.

This package knows no Flower and no model; it works on numpy arrays and plain values.
"""

from __future__ import annotations

from typing import Any

from fedpriv.names import renamed
from fedpriv.privacy.accounting import Accountant, Epsilon, delta_for, epsilon, renyi
from fedpriv.privacy.attacker import Attacker, attacker_for
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.banded_noise import correlated_sum
from fedpriv.privacy.calibration import calibrate_noise_multiplier, calibrate_to_filter
from fedpriv.privacy.claims import CLAIMS, Row, claim
from fedpriv.privacy.clipping import ClippedRows, clip_rows, clipped_sum, update_norms
from fedpriv.privacy.entropy import Entropy, ReproducibleEntropy, SystemEntropy
from fedpriv.privacy.filters import GdpFilter, RenyiFilter
from fedpriv.privacy.gaussian import gaussian_delta, gaussian_epsilon, gaussian_mu
from fedpriv.privacy.guarantee import Guarantee, guarantee_for
from fedpriv.privacy.ledger import Entry, Ledger
from fedpriv.privacy.mechanisms import Release, gaussian_sum
from fedpriv.privacy.policy import Decision, NodePolicy, decide
from fedpriv.privacy.sampling import (
    FixedSizeSampling,
    FullParticipation,
    PoissonSampling,
    Sampling,
    fixed_size,
    sampling_from,
)
from fedpriv.privacy.target import Target, check_delta, default_delta
from fedpriv.privacy.terms import NoiseAt, Notion, Observer, Output, Relation

__all__ = [
    "CLAIMS",
    "Accountant",
    "Attacker",
    "BandedMechanism",
    "ClippedRows",
    "Decision",
    "Entropy",
    "Entry",
    "Epsilon",
    "FixedSizeSampling",
    "FullParticipation",
    "GdpFilter",
    "Guarantee",
    "Ledger",
    "NodePolicy",
    "NoiseAt",
    "Notion",
    "Observer",
    "Output",
    "PoissonSampling",
    "Relation",
    "Release",
    "RenyiFilter",
    "ReproducibleEntropy",
    "Row",
    "Sampling",
    "SystemEntropy",
    "Target",
    "attacker_for",
    "calibrate_noise_multiplier",
    "calibrate_to_filter",
    "check_delta",
    "claim",
    "clip_rows",
    "clipped_sum",
    "correlated_sum",
    "decide",
    "default_delta",
    "delta_for",
    "epsilon",
    "fixed_size",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "gaussian_sum",
    "guarantee_for",
    "renyi",
    "sampling_from",
    "update_norms",
]

_OLD = {"Stream": "BandedMechanism"}
"""Old names of what is here, and their new ones; they work, with a warning, until version 0.2."""


def __getattr__(name: str) -> Any:
    return globals()[renamed(__name__, name, _OLD)]
