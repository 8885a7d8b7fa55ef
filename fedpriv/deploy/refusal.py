"""What a node refuses, and the code that tells a server so."""

from __future__ import annotations

from fedpriv.errors import ComponentFailure

__all__ = ["Refusal"]


class Refusal(ComponentFailure):
    """A node does not do what it is asked, for a reason that does not depend on any value of its data."""
