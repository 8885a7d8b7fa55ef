"""What attacks on a run came to: the best round of each set, all rounds, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedpriv.attacks import SETS

__all__ = ["as_text", "results_of"]


def results_of(run: Path) -> dict[str, Any]:
    """Return the results that lie in a run folder; empty if nobody attacked it.

    ``query.accuracy`` and ``support.accuracy`` are those of the paper's game in the round where it is highest, with the
    controlled game of the same round beside it.
    """
    rounds = [json.loads(path.read_text()) for path in sorted((run / "private").glob("attack-*.json"))]
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


def as_text(results: dict[str, Any]) -> str:
    """Return a table in plain text, one line per round, set, attack and rule."""
    lines = ["What a malicious server learns from rows of updates (observer: the server; never released)"]
    head = ("round", "set", "attack", "game", "accuracy", "AUC", "TPR at 1% FPR", "bound on AUC")
    rows: list[tuple[str, ...]] = [head]
    bound = results.get("auc_bound")
    for one in results.get("attacked", []):
        if "failed" in one:
            lines.append(f"round {one['round']}: {one['failed']}")
        if one.get("left_out"):
            lines.append(f"round {one['round']}: {one['left_out']} rows did not fit into attack.limit_mib.")
        for name in SETS:
            for attack in ("inversion", "score") if name in one else ():
                for rule in ("paper", "controlled"):
                    out = one[name][attack][rule]
                    cells = [_rate(out[key]) for key in ("accuracy", "auc", "tpr_at_low_fpr")]
                    limit = "none" if bound is None else f"{bound:.3f}"
                    rows.append((str(one["round"]), name, attack, rule, *cells, limit))
    if len(rows) == 1:  # nobody attacked, or every attack failed and said why
        recorded = [str(one["round"]) for one in results.get("attacked", []) if "failed" not in one]
        if recorded:
            lines.append(
                f"Nothing was attacked: the rounds {', '.join(recorded)} were recorded only; fedpriv attack RUN "
                "attacks what was recorded."
            )
        return "\n".join(lines)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for one in results.get("attacked", []):
        if "which_task" in one:
            task = one["which_task"]
            lines.append(
                f"round {one['round']}, in whose query set among {task['tasks']} tasks: won {_rate(task['won'])}, the "
                f"right task of members {_rate(task['right_task'])} (guessing: {1 / task['tasks']:.3f})"
            )
    if bound is None:
        lines.append("There is no bound: noise that the server adds gives nothing against the server.")
    return "\n".join(lines)


def _rate(found: dict[str, Any]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
