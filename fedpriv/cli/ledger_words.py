"""The account of a population in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedpriv.privacy.terms import Relation

__all__ = ["as_text", "spent_words"]

_UNIT = "each task with all its data"
_HIDDEN = {
    Relation.ADD_REMOVE: "whether a task is there",
    Relation.ZERO_OUT: "whether a task counts as zero",
    Relation.REPLACE_ONE: "whether a task has its own data or any other",
}
"""What an observer cannot tell, by relation."""


def as_text(found: dict[str, Any]) -> str:
    """Return what ``fedpriv ledger show --json`` holds, as a few lines."""
    lines = [
        f"population {found['population']!r} in {found['ledger']}: {found['tasks']} tasks, {found['declared']} data"
        + (f", version {len(found['versions'])} of its members" if "versions" in found else ""),
        f"What holds for {_UNIT}, against {found['observer']}, at delta {found['delta']:.3g} ({found['delta_of']}):",
    ]
    stated = [_stated(one) for one in (found["spent"] or {}, *found["runs"].values())]
    if relations := [one for one in Relation if any(one in mine for mine in stated)]:
        lines.append(f"  ({_legend(relations)})")
    if found["spent"] is not None:
        lines.append(f"  spent: {_epsilons(found)}")
    lines.append(f"  ({found['note']})")
    if found["budget"] is not None:
        lines += _budget(found)
    alone = "each run alone, against the same, at the same delta:"
    lines += [alone] if found["runs"] else ["runs: none, nothing was released"]
    for run, one in found["runs"].items():
        lines.append(f"  {run}: {_releases(one)}; {_epsilons({'spent': one, 'accountant': one['accountant']})}")
    if found["individual"] is not None:
        lines += _individual(found["individual"])
    return "\n".join(lines)


def _budget(found: dict[str, Any]) -> list[str]:
    budget, left = found["budget"], found["left"]
    held = found["spent"] is not None and Relation.ZERO_OUT in found["spent"] and budget["relation"] == "add/remove"
    relation = f"{budget['relation']}{', which limits of participation hold as zero-out' if held else ''}"
    lines = [
        f"  budget: epsilon {budget['epsilon']:g} at delta {budget['delta']:.3g} ({relation}), cut off by "
        f"a {left['filter_words']}: "
        f"{left['share']:.1%} left",
        f"    spent of it, as the filter counts: epsilon {_number(left['filter_epsilon'])} at that delta; the filter "
        "decides, and this holds whatever runs react to",
        f"    epsilon {_number(left['epsilon_if_runs_were_fixed_beforehand'])} at that delta would hold if all runs "
        "had been fixed beforehand; it decides nothing",
    ]
    if left["more_like_the_last"] is not None:
        lines.append(f"    releases like the last one that still fit: {left['more_like_the_last']}")
    return lines


def _releases(run: dict[str, Any]) -> str:
    words = f"{run['releases']} release{'s' if run['releases'] != 1 else ''}"
    for group, banded in run["streams"].items():
        name = f" of group {group!r}" if group else ""
        words += (
            f", the banded noise{name} paid for {banded['horizon']} rounds with at most {banded['participations']} "
            f"participations ({run['entries']} entries so far)"
        )
    return words


def _individual(one: dict[str, Any]) -> list[str]:
    known = one["rounds"] - one["rounds_with_participants_assumed"]
    lines = [
        f"single tasks, at delta {one['delta']:.3g} ({one['note']}; not released):",
        f"  epsilon from {_number(one['min'])} to {_number(one['max'])}, median {_number(one['median'])}, "
        f"{one['relation']}, each participation in full, without amplification",
        f"  who took part is known for {known} of {one['rounds']} rounds"
        + ("" if known == one["rounds"] else "; in the others every task counts (give --run FOLDER)"),
    ]
    if "task" in one:
        lines.append(f"  task {one['task']}: epsilon {_number(one['epsilon'])}")
    return lines


def spent_words(population: str, spent: Mapping[str, float]) -> str:
    """Say what all runs on a population have spent, from the summary of one: by relation, at its ``delta``."""
    stated = _stated(spent)
    return (
        f"All runs on {population!r} together, for {_UNIT}, against all other tasks, and so the public, too, at delta "
        f"{spent['delta']:.3g}: epsilon {_each(stated)} ({_legend(stated)})."
    )


def _epsilons(found: dict[str, Any]) -> str:
    return f"epsilon {_each(_stated(found['spent']))} by {found['accountant']}"


def _stated(spent: Mapping[str, Any]) -> dict[Relation, float | str]:
    """Return the epsilons that there are, by relation."""
    return {Relation(name): one for name, one in spent.items() if name in set(Relation) and one is not None}


def _each(stated: Mapping[Relation, float | str]) -> str:
    return " and ".join(f"{_number(value)} ({name})" for name, value in stated.items())


def _legend(relations: Iterable[Relation]) -> str:
    return "what nobody can tell: " + "; ".join(f"{one}, {_HIDDEN[one]}" for one in relations)


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
