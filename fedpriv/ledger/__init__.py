"""What ``fedpriv ledger`` answers, and whether the numbers of a finished run are still those of its ledger."""

from __future__ import annotations

from fedpriv.ledger.command import check_ledger, show_ledger
from fedpriv.ledger.finished import check_finished, how_to_find, ledger_of

__all__ = ["check_finished", "check_ledger", "how_to_find", "ledger_of", "show_ledger"]
