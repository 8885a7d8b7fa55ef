"""``fedpriv account``: how much privacy, for how much noise, over how many rounds, with how many tasks."""

from __future__ import annotations

from fedpriv.account.account import Account
from fedpriv.account.solve import Answer, solve

__all__ = ["Account", "Answer", "solve"]
