"""What attacks on a run came to: the best round of each set, all rounds, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedpriv.adversary.games import SETS
from fedpriv.adversary.outcome import GAMES_FOR_LOW_RATE
from fedpriv.report.tables import filled

__all__ = ["as_text", "bound_words", "game_table", "remarks", "results_of", "task_rows"]

_COLUMNS = ("round", "set", "attack", "game", "accuracy", "AUC", "TPR at 1% FPR", "bound on AUC")


def results_of(run: Path) -> dict[str, Any]:
    """Return the results that lie in a run folder; empty if nobody attacked it.

    ``query.accuracy`` and ``support.accuracy`` are those of the paper's game in the round where it is highest, with the
    controlled game of the same round beside it.
    """
    rounds = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((run / "private").glob("attack-*.json"))]
    if not rounds:
        return {}
    found: dict[str, Any] = {}
    for name in SETS:
        having = [one for one in rounds if name in one]
        if having:
            best = max(having, key=lambda one: one[name]["accuracy"])
            found[name] = {
                "accuracy": best[name]["accuracy"],
                "controlled_accuracy": best[name]["inversion"]["controlled"]["accuracy"]["value"],
                "round": best["round"],
                **{key: best[name][key] for key in ("inversion", "score", "observer", "output")},
            }
    bounds = [one["auc_bound"] for one in rounds if "auc_bound" in one]
    return {"released": False, **found, "auc_bound": bounds[0] if bounds else None, "attacked": rounds}


def game_table(results: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the heading and a row of text per round, set, attack and game; no column that says nothing."""
    bound = results.get("auc_bound")
    limit = "" if bound is None else f"{bound:.3f}"
    rows: list[tuple[str, ...]] = []
    for one in results.get("attacked", []):
        for name in SETS:
            for attack in ("inversion", "score") if name in one else ():
                for rule in ("paper", "controlled"):
                    out = one[name][attack][rule]
                    low = _rate(out["tpr_at_low_fpr"]) if out["games"] >= GAMES_FOR_LOW_RATE else ""
                    cells = (_rate(out["accuracy"]), _rate(out["auc"]), low, limit)
                    rows.append((str(one["round"]), name, attack, rule, *cells))
    return filled(_COLUMNS, rows)


def task_rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return per round: number of tasks, share of games won, share of members put to the right task, guessing."""
    return [
        (
            str(one["round"]),
            str(one["which_task"]["tasks"]),
            _rate(one["which_task"]["won"]),
            _rate(one["which_task"]["right_task"]),
            f"{1 / one['which_task']['tasks']:.3f}",
        )
        for one in results.get("attacked", [])
        if "which_task" in one
    ]


def remarks(results: dict[str, Any]) -> list[str]:
    """Return what went wrong or was left out, a sentence each."""
    lines = []
    for one in results.get("attacked", []):
        if "failed" in one:
            lines.append(f"round {one['round']}: {one['failed']}")
        if one.get("left_out"):
            lines.append(f"round {one['round']}: {one['left_out']} rows did not fit into attack.limit_mib.")
    if not game_table(results)[1]:  # nobody attacked, or every attack failed and said why
        recorded = [str(one["round"]) for one in results.get("attacked", []) if "failed" not in one]
        if recorded:
            lines.append(
                f"Nothing was attacked: the rounds {', '.join(recorded)} were recorded only; fedpriv attack RUN "
                "attacks what was recorded."
            )
    return lines


def bound_words(results: dict[str, Any]) -> str:
    """Say in a sentence what bounds the attacks."""
    bound = results.get("auc_bound")
    if bound is None:
        return "There is no bound: noise that the server adds gives nothing against the server."
    return f"Noise of the nodes bounds the AUC of every attack on one row by {bound:.3f}."


def as_text(results: dict[str, Any]) -> str:
    """Return a table in plain text, one line per round, set, attack and rule."""
    lines = ["What a malicious server learns from rows of updates (observer: the server; never released)"]
    lines += remarks(results)
    heading, rows = game_table(results)
    if not rows:
        return "\n".join(lines)
    widths = [max(map(len, cells)) for cells in zip(heading, *rows, strict=True)]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heading, *rows)
    ]
    lines += [
        f"round {number}, in whose query set among {tasks} tasks: won {won}, the right task of members {right} "
        f"(guessing: {guessing})"
        for number, tasks, won, right, guessing in task_rows(results)
    ]
    return "\n".join([*lines, bound_words(results)])


def _rate(found: dict[str, Any]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
