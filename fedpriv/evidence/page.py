"""The pages of all evidence: filled templates that begin and end alike, and the tables in them.

A template is Markdown beside the protocol, ``NAME.md.j2``, in the language of Jinja; it writes ``docs/NAME.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fedpriv.errors import InputError
from fedpriv.evidence.pairs import Difference, claimed
from fedpriv.evidence.protocol import Protocol
from fedpriv.evidence.run import Evidence

__all__ = ["difference_table", "ending", "fill_page", "fill_template", "page_root", "table_rows"]


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


def fill_page(template: Path, protocol: Protocol, evidence: Evidence, failed: Sequence[str], **parts: object) -> str:
    """Return the page that a template becomes.

    Besides the parts, a template can write ``{{ opening("FOLDER/PROTOCOL.toml") }}``, the first sentences,
    ``{{ ending }}`` (:func:`ending`), ``{{ protocol }}``, and ``{{ part|lines }}`` for a part that is a list of lines.

    Parameters
    ----------
    template : Path
        Its file; it may include others of its folder.
    protocol : Protocol
        Whose page.
    evidence : Evidence
        Its runs.
    failed : sequence of str
        Where the claim did not hold, in words; empty if it held.
    **parts : object
        What the template names.
    """

    def opening(place: str) -> str:
        return (
            f"Made by `make evidence` from [the protocol](../scenarios/{place}), which was committed before the first "
            f"report run. {protocol.question}"
        )

    shared = {"opening": opening, "ending": "\n".join(ending(protocol, evidence, failed)), "protocol": protocol}
    return fill_template(template, **shared, **parts)


def fill_template(template: Path, **parts: object) -> str:
    """Return what a template becomes; a name in it without a part is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        autoescape=select_autoescape(),  # nothing in Markdown
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["lines"] = "\n".join
    return environment.get_template(template.name).render(parts)


def table_rows(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the rows of a table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in rows]


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
    return table_rows(rows)


def ending(protocol: Protocol, evidence: Evidence, failed: Sequence[str]) -> list[str]:
    """Return the lines that say what would have refuted the claim, whether it was, and what the runs took.

    All arguments are those of :func:`fill_page`.
    """
    verdict = f"It was refuted: {'; '.join(failed)}." if failed else "It was not refuted."
    return [
        f"What would have refuted the claim: {protocol.refuted}. {verdict}",
        "",
        f"The report runs took at most {evidence.seconds / 3600:.2f} core-hours (wall time of one core per run). "
        f"Versions: {', '.join(f'{name} {number}' for name, number in evidence.versions.items())}.",
    ]
