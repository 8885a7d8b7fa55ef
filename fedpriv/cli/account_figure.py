"""The figure of an account: epsilon over the rounds, both accountants, every relation that holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedpriv.cli.account_words import sampling_words
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy.solve import Answer
from fedpriv.privacy.terms import Relation
from fedpriv.report.figures import COLOURS, INK, canvas, save_svg, whole_numbers
from fedpriv.report.words import delta_text, epsilon_text, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_file", "draw", "write_figure"]

_POINTS = 12
"""Points of a curve; each costs one composition of privacy loss distributions."""

_STYLES = {Relation.ADD_REMOVE: (COLOURS["personal"], "o"), Relation.REPLACE_ONE: (COLOURS["billboard"], "s")}
_SUFFIXES = (".svg", ".png")


def draw(answer: Answer) -> Figure:
    """Return the figure, drawn without pyplot (no global state)."""
    figure, axes = canvas(4.4)
    rounds = sorted({1, *(max(1, round(answer.rounds * step / _POINTS)) for step in range(1, _POINTS + 1))})
    highest, lowest = 0.0, float("inf")
    for relation in answer.question.row.relations:
        colour, marker = _STYLES[relation]
        for rdp in (False, True):
            found = [answer.epsilon(relation, rdp=rdp, rounds=one) for one in rounds]
            values = [one.value for one in found]
            axes.plot(
                rounds,
                values,
                color=colour,
                ls=(0, (4, 2)) if rdp else "-",
                lw=1.8,
                marker="" if rdp else marker,
                ms=4.5,
                label=f"{found[-1].accountant}, {relation.value}",
                clip_on=False,
            )
            highest, lowest = max(highest, *values), min(lowest, *(one for one in values if one > 0.0), highest)
    if answer.question.epsilon is not None:
        axes.axhline(answer.question.epsilon, color=INK, lw=1, ls=":", label="target")
    # A bound that is loose by orders of magnitude would flatten the others.
    if lowest > 0.0 and highest > 100.0 * lowest:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0.0)
    whole_numbers(axes)
    spent = epsilon_text(answer.epsilon().value)
    words = sampling_words(answer)
    title = (
        f"Epsilon {spent} after {number(answer.rounds)} rounds ({answer.question.stated_relation.value}, "
        f"observer: {answer.question.observer.value}, unit: one task)\n"
        f"{words[0].upper()}{words[1:]}, noise multiplier {number(answer.noise_multiplier)}"
    )
    axes.set_title(title, fontsize=8.5, loc="left")
    axes.set_xlabel("rounds")
    axes.set_ylabel(f"epsilon at delta = {delta_text(answer.delta)}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9, handlelength=3.2)
    return figure


def check_file(file: Path) -> None:
    """Refuse, before anything is computed, a file that cannot be drawn to.

    Raises
    ------
    InputError
        Its name has another ending than .svg or .png, or its folder is not there.
    """
    if file.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--figure must end in {' or '.join(_SUFFIXES)}, got {file.name!r}.")
    if not file.parent.is_dir():
        raise InputError(f"--figure: there is no folder {file.parent}; make it first.")


def write_figure(answer: Answer, file: Path) -> None:
    """Draw to an SVG or PNG file."""
    figure = draw(answer)
    try:
        if file.suffix.lower() == ".svg":
            save_svg(figure, file)
        else:
            figure.savefig(file, dpi=160)
    except OSError as error:
        raise ComponentFailure(f"the figure cannot be written to {file} ({error.strerror}); choose another.") from None
