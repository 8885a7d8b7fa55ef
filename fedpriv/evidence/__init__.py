"""Evidence for claims: a protocol that is committed first, its runs, and the columns that tables are made of."""

from __future__ import annotations

from fedpriv.evidence.protocol import Protocol, Tuning, read_protocol
from fedpriv.evidence.run import Evidence, collect

__all__ = ["Evidence", "Protocol", "Tuning", "collect", "read_protocol"]
