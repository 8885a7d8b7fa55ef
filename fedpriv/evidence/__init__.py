"""Evidence for claims: a protocol that is committed first, its runs, and the columns that tables are made of."""

from __future__ import annotations

from fedpriv.evidence.page import difference_table, ending, fill_page, fill_template, page_root, table_rows
from fedpriv.evidence.pairs import Difference, claimed, differences
from fedpriv.evidence.protocol import Arm, Point, Protocol, Trial, Tuning, read_protocol
from fedpriv.evidence.run import UNSEEN, Configs, Evidence, collect, configurations, read_study
from fedpriv.evidence.tune import TuningResult, tune

__all__ = [
    "UNSEEN",
    "Arm",
    "Configs",
    "Difference",
    "Evidence",
    "Point",
    "Protocol",
    "Trial",
    "Tuning",
    "TuningResult",
    "claimed",
    "collect",
    "configurations",
    "difference_table",
    "differences",
    "ending",
    "fill_page",
    "fill_template",
    "page_root",
    "read_protocol",
    "read_study",
    "table_rows",
    "tune",
]
