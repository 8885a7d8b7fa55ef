"""The page on what a malicious server learned from a run: results, and reconstructions beside the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedpriv.adversary.games import SETS
from fedpriv.adversary.recorded import private_folder
from fedpriv.adversary.results import bound_words, game_table, remarks, results_of, task_rows
from fedpriv.report.tables import Table
from fedpriv.report.template import fill, inlined, write_page

__all__ = ["write_attack_page"]

_PICTURES = {
    "reconstructions": (
        "before, after, and what is really there",
        "For each candidate the image from which inversion started, what became of it, and the image in that slot of "
        "the set.",
    ),
    "roc": ("members found against non-members accused", "Games that judge, without those that set the threshold."),
}
_TASK_COLUMNS = ("round", "tasks", "games won", "members put to the right task", "guessing")


def write_attack_page(run: Path) -> Path:
    """Write ``private/report.html`` of a run from the results and pictures beside it, readable by its owner alone.

    Returns
    -------
    Path
        The file.
    """
    results, target = results_of(run), private_folder(run) / "report.html"
    heading, rows = game_table(results)
    page = fill(
        "attacks.html.j2",
        title=f"What a malicious server learned: {run.name}",
        key=_key(results),
        bound=bound_words(results),
        remarks=remarks(results),
        games=Table("Local games, mean and 95% interval over games", heading, tuple(rows), _count(results)),
        tasks=Table("Global games, mean and 95% interval over games", _TASK_COLUMNS, tuple(task_rows(results))),
        pictures=_pictures(run, results),
    )
    write_page(target, page)
    return target


def _key(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the numbers that a reader looks for first."""
    rows = [("Observer", "the server")]
    for name in SETS:
        if name in results:
            best = results[name]
            rows.append((f"{name} set, paper's game, round {best['round']}", f"{best['accuracy']:.1%}"))
            rows.append((f"{name} set, controlled, round {best['round']}", f"{best['controlled_accuracy']:.1%}"))
    return rows


def _count(results: dict[str, Any]) -> str:
    for name in SETS:
        if name in results:
            out = results[name]["inversion"]["paper"]
            return (
                f"{out['games']} games with a member and as many with a non-member in each row, and "
                f"{out['validation']} more of each that set the threshold. Accuracies above are those of the round in "
                "which the paper's game is won most often."
            )
    return ""


def _pictures(run: Path, results: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    for one in results.get("attacked", []):
        for kind, (what, words) in _PICTURES.items():
            path = run / "private" / f"{kind}-{one['round']:06d}.svg"
            if path.exists():
                heading = f"Round {one['round']}: {what}"
                found.append({"heading": heading, "words": words, "image": inlined(path)})
    return found
