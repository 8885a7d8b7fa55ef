"""What a node can tell of its server before it is let in: whether it answers, by which certificate, by which clock."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from fedpriv.deploy.owner import OwnerFile

__all__ = ["AHEAD_SECONDS", "BEHIND_SECONDS", "Reached", "reach"]

AHEAD_SECONDS, BEHIND_SECONDS = 5.0, 305.0
"""How far the clock of a node may be ahead of the server's, or behind it, for Flower to let it in."""

_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Reached:
    """What came of one request.

    Attributes
    ----------
    trouble : str
        Why the server was not reached; empty if it was.
    ahead_seconds : float or None
        By how much this machine's clock is ahead of the server's, to a second or two; None if it does not say.
    """

    trouble: str = ""
    ahead_seconds: float | None = None

    @property
    def clock_trouble(self) -> str:
        """Say that the clocks are too far apart; empty if they are not."""
        ahead = self.ahead_seconds
        if ahead is None or -BEHIND_SECONDS < ahead < AHEAD_SECONDS + 1.0:  # the server's is told in whole seconds
            return ""
        where = "ahead of" if ahead > 0 else "behind"
        return (
            f"the clock of this machine is {abs(ahead):.0f} s {where} the server's, and a node may be at most "
            f"{AHEAD_SECONDS:g} s ahead or {BEHIND_SECONDS:g} s behind; set the clocks"
        )


def reach(owner: OwnerFile, folder: Path) -> Reached:
    """Ask the server's front for nothing, and look at how it answers.

    Parameters
    ----------
    owner : OwnerFile
        Which server, and whose certificates are believed.
    folder : Path
        Of the owner's file.
    """
    authority = folder / owner.server.authority
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError) as error:
        return Reached(f"the authority's certificate {authority} cannot be read ({error}); get it from the server")
    try:
        with httpx.Client(verify=context, timeout=_WAIT_SECONDS, trust_env=False) as client:
            answer = client.get(f"https://{owner.server.address}/")
    except httpx.HTTPError as error:
        return Reached(f"https://{owner.server.address} does not answer as it should: {error}")
    said = answer.headers.get("date")
    try:
        return Reached(ahead_seconds=None if said is None else time.time() - parsedate_to_datetime(said).timestamp())
    except ValueError:
        return Reached()
