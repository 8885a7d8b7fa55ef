"""What ``fedpriv ledger show`` and ``fedpriv ledger check`` do. Asking changes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.errors import BudgetExceeded, ComponentFailure, InputError
from fedpriv.ledger.folders import Folder
from fedpriv.ledger.words import as_text
from fedpriv.privacy.accounting import relations_for
from fedpriv.privacy.individual import Participants, individual_epsilons, individual_spending
from fedpriv.privacy.ledger import Entry, Ledger
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.terms import Relation
from fedpriv.runs import plain

__all__ = ["check_ledger", "show_ledger"]


def show_ledger(
    population: str,
    ledger: Path | None,
    runs: list[Path],
    task: int | None,
    *,
    delta: float | None = None,
    as_json: bool,
) -> None:
    """Print what a population and its tasks have spent.

    Parameters
    ----------
    population : str
        Its name, or the folder of a run on it.
    ledger : Path or None
        The ledger file; needed for a name.
    runs : list of Path
        Folders of further runs.
    task : int or None
        Id of a task to name.
    delta : float or None
        At which epsilons are stated; that of the run whose folder was given, or else of the population, if None.
    as_json : bool
        Whether to print JSON.
    """
    opened, name, folders = _open(population, ledger, runs)
    for folder in folders:
        opened.follow(folder.head_path)
    delta_of = "as asked"
    if delta is None and ledger is None:
        delta, delta_of = folders[0].delta, "the run's"
    if delta is None:
        delta_of = "the population's"
    found = {**opened.describe(name, delta), "delta_of": delta_of}
    if task is not None and not 0 <= task < found["tasks"]:
        raise InputError(f"--task must be an id from 0 to {found['tasks'] - 1}, got {task}.")
    found["ledger"] = str(opened.path)
    found["individual"] = _individual(found, opened.entries(name), folders, task)
    found = plain(found)
    sys.stdout.write((json.dumps(found, indent=2, allow_nan=False) if as_json else as_text(found)) + "\n")


def check_ledger(population: str, ledger: Path | None, runs: list[Path], *, as_json: bool) -> None:
    """Check that a ledger is whole, that it holds all that runs have published, and that it is within its budget.

    Raises
    ------
    ComponentFailure
        Something is wrong; the message says what.
    BudgetExceeded
        More was spent than the budget.
    """
    opened, name, folders = _open(population, ledger, runs)
    wrong, notes = opened.verify(name)
    within = None
    if not wrong:
        found, entries = opened.describe(name), opened.entries(name)
        within = found["left"] is None or found["left"]["within"]
        for folder in folders:
            mine = [one for one in entries if one.run == folder.run]
            wrong += folder.problems(mine, found)
            notes += folder.notes(mine)
            opened.follow(folder.head_path)
        if not wrong:
            wrong += opened.verify(name)[0]
    answer = {
        "population": name,
        "ledger": str(opened.path),
        "whole": not wrong,
        "within_budget": within,
        "folders": [str(folder.path) for folder in folders],
        "problems": wrong,
        "notes": notes,
    }
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        lines = [] if wrong else [f"{name}: the ledger is whole{' and within its budget' if within else ''}."]
        lines += [f"note: {note}." for note in notes]
        if not folders and not wrong:
            lines.append("No run folder was compared with it; give --run FOLDER.")
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    if wrong:
        more = f" ({len(wrong) - 1} more, see --json)" if len(wrong) > 1 else ""
        raise ComponentFailure(f"ledger {opened.path}: {wrong[0]}{more}; restore it from a copy before any run.")
    if not within:
        raise BudgetExceeded(f"{name} has spent more than its budget; make no further releases.")


def _open(population: str, ledger: Path | None, runs: list[Path]) -> tuple[Ledger, str, list[Folder]]:
    """Find the ledger, the population in it, and the run folders that were given."""
    folders = [Folder.open(path) for path in runs]
    if ledger is not None:
        return Ledger(ledger), population, folders
    folder = Path(population)
    if not (folder / "checkpoints").is_dir():
        raise InputError(f"{population!r} is not a run folder; give --ledger FILE for a population by name.")
    mine = Folder.open(folder)
    found = mine.ledger()
    if found is None:
        raise InputError(f"{folder} has no ledger yet, or it was moved; give --ledger FILE and the population's name.")
    opened = Ledger(found[0])
    there = [found[1]] if found[1] else opened.populations()
    if not there:
        raise InputError(f"the ledger {opened.path} holds no population yet; nothing was released.")
    return opened, there[0], [mine, *(one for one in folders if one.run != mine.run)]


def _individual(
    found: dict[str, Any], entries: list[Entry], folders: list[Folder], task: int | None
) -> dict[str, Any] | None:
    """Return what single tasks have spent: all runs of a protected population, or the one run of a benchmark."""
    by_run: dict[str, dict[int, dict[str, Release]]] = {}
    for one in entries:
        by_run.setdefault(one.run, {}).setdefault(one.round, {})[one.group] = one.release
    if found["declared"] == "benchmark" and len(by_run) > 1:
        by_run = {folder.run: by_run[folder.run] for folder in folders[:1] if folder.run in by_run}
    if not by_run:
        return None
    known = {
        folder.run: folder.participants(
            {(one.round, one.group): one for one in entries if one.run == folder.run}, found["tasks"]
        )
        for folder in folders
    }
    spending = individual_spending(
        [(charges, known.get(run, Participants())) for run, charges in by_run.items()], found["tasks"]
    )
    valid = relations_for(one.release for one in entries if one.run in by_run)
    wanted = found["budget"]["relation"] if found["budget"] else valid[0]
    stated = next((one for one in valid if one.formulas is Relation(wanted).formulas), Relation(wanted))
    values = individual_epsilons(spending, found["delta"], stated)
    return {
        "released": False,
        "observer": "experimenter",
        "note": "for the experimenter, who knows who took part, and which these numbers tell; no guarantee",
        "amplified": False,
        "accountant": "gaussian",
        "relation": str(Relation(stated)),
        "delta": found["delta"],
        "runs": sorted(by_run),
        "rounds": spending.rounds,
        "rounds_with_participants_assumed": spending.assumed,
        "min": float(values.min()),
        "median": float(np.quantile(values, 0.5, method="lower")),
        "max": float(values.max()),
        **({} if task is None else {"task": task, "epsilon": float(values[task])}),
        "per_task": values.tolist(),
    }
