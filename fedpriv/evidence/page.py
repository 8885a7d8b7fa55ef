"""What the pages of all evidence share: where they lie, and how they end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedpriv.errors import InputError
from fedpriv.evidence.protocol import Protocol
from fedpriv.evidence.run import Evidence

__all__ = ["ending", "page_root"]


def page_root(root: Path | None = None) -> Path:
    """Return the root of the checkout whose ``docs/`` is written.

    Raises
    ------
    InputError
        There is no such folder.
    """
    root = root or Path.cwd()
    if not (root / "docs").is_dir():
        raise InputError(f"{root} has no docs folder; run this from the root of a checkout.")
    return root


def ending(protocol: Protocol, evidence: Evidence, failed: Sequence[str]) -> list[str]:
    """Return the lines that say what would have refuted the claim, whether it was, and what the runs took.

    Parameters
    ----------
    protocol : Protocol
        Whose claim.
    evidence : Evidence
        Its runs.
    failed : sequence of str
        Where the claim did not hold, in words; empty if it held.
    """
    verdict = f"It was refuted: {'; '.join(failed)}." if failed else "It was not refuted."
    return [
        f"What would have refuted the claim: {protocol.refuted}. {verdict}",
        "",
        f"The report runs took at most {evidence.seconds / 3600:.2f} core-hours (wall time of one core per run). "
        f"Versions: {', '.join(f'{name} {number}' for name, number in evidence.versions.items())}.",
    ]
