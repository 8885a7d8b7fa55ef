"""The account of a population in words."""

from __future__ import annotations

from typing import Any

from fedpriv.privacy.terms import Relation

__all__ = ["as_text"]


def as_text(found: dict[str, Any]) -> str:
    """Return what ``fedpriv ledger show --json`` holds, as a few lines."""
    lines = [
        f"population {found['population']!r} in {found['ledger']}: {found['tasks']} tasks, {found['declared']} data"
        + (f", version {len(found['versions'])} of its members" if "versions" in found else ""),
        f"What holds against {found['observer']}, at delta {found['delta']:.3g} ({found['delta_of']}):",
    ]
    if found["spent"] is not None:
        lines.append(f"  spent: {_epsilons(found)}")
    lines.append(f"  ({found['note']})")
    if found["budget"] is not None:
        lines += _budget(found)
    lines += ["runs:"] if found["runs"] else ["runs: none, nothing was released"]
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
        f"    the filter decides, at epsilon {_number(left['filter_epsilon'])}: it holds whatever runs react to",
        f"    epsilon {_number(left['epsilon_if_runs_were_fixed_beforehand'])} would hold if all runs had been fixed "
        "beforehand; it decides nothing",
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
        f"single tasks ({one['note']}; not released):",
        f"  epsilon from {_number(one['min'])} to {_number(one['max'])}, median {_number(one['median'])}, "
        f"{one['relation']}, each participation in full, without amplification",
        f"  who took part is known for {known} of {one['rounds']} rounds"
        + ("" if known == one["rounds"] else "; in the others every task counts (give --run FOLDER)"),
    ]
    if "task" in one:
        lines.append(f"  task {one['task']}: epsilon {_number(one['epsilon'])}")
    return lines


def _epsilons(found: dict[str, Any]) -> str:
    stated = {name: value for name, value in found["spent"].items() if name in set(Relation)}
    words = " and ".join(f"{_number(value)} ({name})" for name, value in stated.items() if value is not None)
    return f"epsilon {words} by {found['accountant']}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
