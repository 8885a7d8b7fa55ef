"""An account in words, and as JSON."""

from __future__ import annotations

import math
from typing import Any

from fedpriv.privacy.attacker import Attacker
from fedpriv.privacy.guarantee import AGAINST, assumptions_for
from fedpriv.privacy.sampling import FIXED_SIZE, UNAMPLIFIED
from fedpriv.privacy.solve import Answer
from fedpriv.privacy.terms import Relation
from fedpriv.runs import plain

__all__ = ["as_json", "as_text", "sampling_words"]

_QUESTIONS = {
    Relation.ADD_REMOVE: "whether a task takes part at all",
    Relation.REPLACE_ONE: "which of two data sets a task has",
}


def as_json(answer: Answer) -> dict[str, Any]:
    """Return everything for a program; an infinite epsilon is the text "inf"."""
    question, row, attacker = answer.question, answer.question.row, answer.attacker()
    both = {relation: answer.epsilon(relation) for relation in row.relations}
    beside = {relation: answer.epsilon(relation, rdp=True).value for relation in row.relations}
    stated = question.stated_relation
    replaced = both.get(Relation.REPLACE_ONE)
    person, tasks = answer.person(), question.tasks_per_person
    several = (
        {}
        if person is None
        else {
            "person": {
                "tasks": tasks,
                "epsilon": person.value,
                "relation": f"{stated.value} of {tasks} tasks",
                "accountant": person.accountant,
            }
        }
    )
    readable: dict[str, Any] = plain(
        {
            "solved_for": answer.solved_for,
            "epsilon": both[stated].value,
            "delta": answer.delta,
            "relation": stated.value,
            "accountant": both[stated].accountant,
            "epsilon_rdp": beside[stated],
            "epsilon_replace_one": None if replaced is None else replaced.value,
            "relations": {
                relation.value: {
                    "epsilon": found.value,
                    "accountant": found.accountant,
                    "epsilon_rdp": beside[relation],
                }
                for relation, found in both.items()
            },
            "observer": question.observer.value,
            "output": row.output.value,
            "notion": row.notion.value,
            "noise_at": row.noise_at.value,
            "unit": "task",
            "noise_multiplier": answer.noise_multiplier,
            "rounds": answer.rounds,
            "sampling": question.sampling,
            "sampling_rate": answer.rate,
            "cohort": answer.cohort,
            "population": answer.population,
            "target_epsilon": question.epsilon,
            "attacker": {
                "tells": _QUESTIONS[stated],
                "advantage": attacker.advantage,
                "true_positive_rate_at": {f"{rate:g}": found for rate, found in attacker.true_positive_rates.items()},
            },
            "assumptions": assumptions_for(row, (question.sampling,), amplified=row.amplified),
            "warnings": answer.warnings,
            **several,
        }
    )
    return readable


def as_text(answer: Answer) -> str:
    """Return the account as a few lines."""
    question, row = answer.question, answer.question.row
    lines = [_solved(answer)]
    for relation in sorted(row.relations, key=lambda one: one is not question.stated_relation):
        found, beside = answer.epsilon(relation), answer.epsilon(relation, rdp=True).value
        lines.append(f"  {relation.value}: epsilon = {_up(found.value)} ({found.accountant}), {_up(beside)} by rdp")
    if (person := answer.person()) is not None:
        tasks = question.tasks_per_person
        lines.append(
            f"  a person with {tasks} tasks: epsilon = {_up(person.value)} ({person.accountant}), "
            f"{question.stated_relation.value} of {tasks} tasks"
        )
    lines += [
        f"  {row.notion.value} of the {row.output.value} against {AGAINST[row.observer]}; unit: one task; "
        f"delta = {answer.delta:.3g}",
        f"  {answer.rounds:,} round{'s' if answer.rounds != 1 else ''}, {sampling_words(answer)}, noise multiplier "
        f"{_up(answer.noise_multiplier)} (in clipping norms)",
        _threat(answer.attacker()),
    ]
    lines += [f"  holds if {one}" for one in assumptions_for(row, (question.sampling,), amplified=row.amplified)]
    lines += [f"warning: {one}" for one in answer.warnings]
    return "\n".join(lines)


def sampling_words(answer: Answer) -> str:
    """Say how tasks are chosen."""
    name, rate = answer.question.sampling, answer.rate
    if name == "full":
        return "full participation"
    at = "" if rate is None else f" at rate {rate:.4g}"
    if name in (FIXED_SIZE, UNAMPLIFIED):
        size = "" if answer.cohort is None else f" of {answer.cohort:,} of {answer.population:,} tasks"
        return f"cohorts of fixed size{size}" + (" (every round counted in full)" if name == UNAMPLIFIED else "")
    counted = "" if answer.question.row.amplified else " (every round counted in full)"
    return f"Poisson sampling{at}{counted}"


def _solved(answer: Answer) -> str:
    """Return the number that was asked for; rounded to the side on which epsilon still holds."""
    if answer.solved_for == "epsilon":
        return f"epsilon = {_up(answer.epsilon().value)}"
    goal = f"for epsilon = {answer.question.epsilon:.4g}"
    if answer.solved_for == "noise_multiplier":
        return f"noise multiplier = {_up(answer.noise_multiplier)}, the smallest {goal}"
    if answer.solved_for == "rounds":
        return f"rounds = {answer.rounds}, the most {goal}"
    if answer.solved_for == "population":
        return f"population = {answer.population} tasks, the fewest {goal}"
    if answer.cohort is not None:
        return f"cohort = {answer.cohort} of {answer.population} tasks (rate {answer.rate:.4g}), the largest {goal}"
    return f"sampling rate = {_down(answer.rate or 0.0)}, the largest {goal}"


def _threat(attacker: Attacker) -> str:
    found = attacker.true_positive_rates[0.01]
    return (
        f"  an attacker who knows all else tells {_QUESTIONS[attacker.relation]} with an advantage (true minus false "
        f"positive rate) of at most {_up(attacker.advantage, 3)}; at 1% false positives at most "
        f"{_up(100 * found, 3)}% true positives"
    )


def _up(value: float, digits: int = 5) -> str:
    return _rounded(value, digits, math.ceil)


def _down(value: float, digits: int = 5) -> str:
    return _rounded(value, digits, math.floor)


def _rounded(value: float, digits: int, side: Any) -> str:
    if not math.isfinite(value) or value == 0.0:
        return "infinite" if value else "0"
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    # A number that has few digits keeps them: 0.1 is not 0.10001.
    return f"{side(round(value / unit, 6)) * unit:.{digits}g}"
