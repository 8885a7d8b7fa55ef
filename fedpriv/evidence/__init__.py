"""Evidence for claims: a protocol that is committed first, its runs, and the columns that tables are made of."""

from __future__ import annotations

from fedpriv.evidence.page import Study, difference_table, ending, opening, page_root
from fedpriv.evidence.pairs import Difference, claimed, differences
from fedpriv.evidence.protocol import Arm, Point, Protocol, Trial, Tuning, read_protocol
from fedpriv.evidence.run import Configs, Evidence, collect, configurations
from fedpriv.evidence.tune import TuningResult, tune

__all__ = [
    "Arm",
    "Configs",
    "Difference",
    "Evidence",
    "Point",
    "Protocol",
    "Study",
    "Trial",
    "Tuning",
    "TuningResult",
    "claimed",
    "collect",
    "configurations",
    "difference_table",
    "differences",
    "ending",
    "opening",
    "page_root",
    "read_protocol",
    "tune",
]
