"""``fedpriv ledger``: what a population has spent, and whether its ledger is whole. Asking changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv.cli.options import JsonFlag, path_option, say, say_json
from fedpriv.errors import BudgetExceeded, ComponentFailure, InputError

if TYPE_CHECKING:
    from fedpriv.privacy.ledger import Entry, Ledger
    from fedpriv.privacy.mechanisms import Release
    from fedpriv.runs.published import Folder

__all__ = ["ledger_check", "ledger_show"]

PopulationName = Annotated[str, typer.Argument(help="A run folder, or the name of a population.")]
LedgerFile = Annotated[Path | None, path_option("Ledger file; needed if POPULATION is a name.")]
MoreRuns = Annotated[list[Path] | None, path_option("Folder of another run on it; may be repeated.", "--run")]


def ledger_show(
    population: PopulationName,
    ledger: LedgerFile = None,
    runs: MoreRuns = None,
    task: Annotated[int | None, typer.Option(help="Id of one task to show; --json shows all tasks.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta of the epsilons shown; the run's, or the population's, unless given.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a population (a run folder, or a name) has spent, what is left, and what single tasks have spent."""
    from fedpriv.cli.ledger_words import as_text
    from fedpriv.runs import plain

    opened, name, folders = _open(population, ledger, runs or [])
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
    if as_json:
        say_json(found)
    else:
        say(as_text(found))


def ledger_check(
    population: PopulationName, ledger: LedgerFile = None, runs: MoreRuns = None, as_json: JsonFlag = False
) -> None:
    """Check that the ledger of a population (a run folder, or a name) is whole, complete and within its budget."""
    opened, name, folders = _open(population, ledger, runs or [])
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
        say_json(answer)
    else:
        lines = [] if wrong else [f"{name}: the ledger is whole{' and within its budget' if within else ''}."]
        lines += [f"note: {note}." for note in notes]
        if not folders and not wrong:
            lines.append("No run folder was compared with it; give --run FOLDER.")
        for line in lines:
            say(line)
    if wrong:
        more = f" ({len(wrong) - 1} more, see --json)" if len(wrong) > 1 else ""
        raise ComponentFailure(f"ledger {opened.path}: {wrong[0]}{more}; restore it from a copy before any run.")
    if not within:
        raise BudgetExceeded(f"{name} has spent more than its budget; make no further releases.")


def _open(population: str, ledger: Path | None, runs: list[Path]) -> tuple[Ledger, str, list[Folder]]:
    """Find the ledger, the population in it, and the run folders that were given."""
    from fedpriv.privacy.ledger import Ledger
    from fedpriv.runs.published import Folder

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
    import numpy as np

    from fedpriv.privacy.accounting import shared_relations
    from fedpriv.privacy.individual import Participants, individual_epsilons, individual_spending
    from fedpriv.privacy.terms import Relation

    by_run: dict[str, dict[int, dict[str, Release]]] = {}
    for one in entries:
        by_run.setdefault(one.run, {}).setdefault(one.round, {})[one.group] = one.release
    if found["declared"] == "benchmark" and len(by_run) > 1:
        by_run = {folder.run: by_run[folder.run] for folder in folders[:1] if folder.run in by_run}
    if not by_run or any(one.release.parameters is not None for one in entries if one.run in by_run):
        return None  # single tasks are accounted by the Gaussian curve
    known = {
        folder.run: folder.participants(
            {(one.round, one.group): one for one in entries if one.run == folder.run}, found["tasks"]
        )
        for folder in folders
        # Ids of another version are other people's: there nobody knows who took part.
        if folder.fingerprint in (None, found["fingerprint"])
    }
    spending = individual_spending(
        [(charges, known.get(run, Participants())) for run, charges in by_run.items()], found["tasks"]
    )
    valid = shared_relations([(one.release for one in entries if one.run in by_run)])
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
