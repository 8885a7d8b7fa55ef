"""What ``fedpriv ledger`` answers."""

from __future__ import annotations

from fedpriv.ledger.command import check_ledger, show_ledger

__all__ = ["check_ledger", "show_ledger"]
