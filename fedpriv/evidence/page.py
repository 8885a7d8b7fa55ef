"""What the pages of all evidence share: where they lie, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpriv.errors import InputError
from fedpriv.evidence.pairs import Difference, claimed
from fedpriv.evidence.protocol import Protocol
from fedpriv.evidence.run import Evidence

__all__ = ["Study", "difference_table", "ending", "opening", "page_root"]


@dataclass(frozen=True)
class Study:
    """One of several protocols that a module follows, and what is written about it.

    Attributes
    ----------
    protocol : str
        Its file, beside the module.
    name : str
        Of its page and its runs.
    title, explained : str
        What the page says before its tables.
    """

    protocol: str
    name: str
    title: str
    explained: str


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


def opening(protocol: Protocol, title: str, place: str) -> list[str]:
    """Return the title, where the protocol lies below ``scenarios/``, and its question."""
    return [
        f"# {title}",
        "",
        f"Made by `make evidence` from [the protocol](../scenarios/{place}), which was committed before the first "
        f"report run. {protocol.question}",
        "",
    ]


def difference_table(
    protocol: Protocol,
    found: Sequence[Difference],
    columns: Sequence[str],
    cells: Callable[[Difference], Sequence[str]],
    side: str = "above",
) -> list[str]:
    """Return the table of all differences: what a page says of each, its p-value, and whether it was claimed.

    Parameters
    ----------
    protocol : Protocol
        Whose claims.
    found : sequence of Difference
        What came out.
    columns : sequence of str
        Headings of what ``cells`` returns.
    cells : callable
        What stands before the p-value.
    side : {"above", "below"}
        Of 0, where claims are.
    """
    heading = [*columns, "p (Holm)", f"claimed {side} 0"]
    rows = [heading, ["---"] * len(heading)]
    claims = claimed(protocol, found)
    rows += [[*cells(one), f"{one.p:.2g}", "yes" if one in claims else ""] for one in found]
    return [f"| {' | '.join(row)} |" for row in rows]


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
