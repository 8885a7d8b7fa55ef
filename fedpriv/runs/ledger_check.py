"""Whether the ledger still says what the summary of a finished run says: asked before a number of it is read back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.population import of_version
from fedpriv.privacy.statements import RunGuarantees, guarantees_of_run
from fedpriv.privacy.terms import Relation
from fedpriv.runs.atomic import damage_said
from fedpriv.runs.finished import what_to_do
from fedpriv.runs.published import Folder
from fedpriv.runs.record import RunRecord

__all__ = ["check_finished", "how_to_find", "ledger_of"]

_EPSILON_TOLERANCE = 1e-6
"""By how much, relative to it, an epsilon may be understated: another version of a library may round it otherwise."""


def ledger_of(path: Path, record: RunRecord) -> Path:
    """Return where the ledger of a finished run is, or should be: in its folder, or where its record says."""
    return _opened(path, record)[1].path


def how_to_find(ledger: Path, folder: Path) -> str:
    """Return what helps where the ledger of a run is not: a relative path is seen from where the run was begun."""
    if ledger.is_absolute() or ledger.resolve().parent == folder.resolve():
        return "restore it"
    return "go to the folder in which the run was begun, from which this path is seen, or restore it"


def check_finished(path: Path, record: RunRecord) -> None:
    """Refuse the numbers of a finished run if its ledger does not, or not any more, hold what they are computed from.

    The ledger must be whole and go on from the head that the run kept (if it kept one), hold every release that the run
    published and no other one in its place, and cost no more than the summary says. Other runs may have gone on.

    Raises
    ------
    ComponentFailure
        The ledger is damaged, an older copy, or another one; or the folder's files are damaged.
    InputError
        The ledger is gone (a run that released nothing needs none), or the summary understates what the run cost.
    """
    folder, ledger, population = _opened(path, record)
    if not ledger.path.exists():
        if folder.silent:
            return
        raise InputError(
            f"the ledger {ledger.path} is gone, which holds what the run in {path} has released; "
            f"{how_to_find(ledger.path, path)} to read the run's numbers."
        )
    ledger.follow(folder.head_path)
    entries, entered = ledger.entries(population, folder.run), ledger.entered(population)
    for problem in folder.problems(entries, entered):
        raise ComponentFailure(f"ledger {ledger.path}: {problem}; restore it from a copy.")
    with damage_said(str(path / "summary.json")):
        delta, relation = record.guarantee.delta, Relation(record.guarantee.relation)
        if delta is None:
            raise ValueError("it names no delta")
    found = guarantees_of_run(
        ledger,
        population,
        folder.run,
        delta=delta,
        num_tasks=of_version(entered, folder.fingerprint)["tasks"],
        relation=relation,
        reproduction=record.guarantee.reproduction,
    )
    with damage_said(str(path / "summary.json")):
        understated = next(_understated(record, found), None)
    if understated is not None:
        raise InputError(f"{path / 'summary.json'} {understated} by ledger {ledger.path}; {what_to_do(path)}.")


def _opened(path: Path, record: RunRecord) -> tuple[Folder, Ledger, str]:
    with damage_said(str(path / "summary.json")):
        folder, population = Folder(path, str(record.ledger.run)), str(record.ledger.population)
    found = folder.ledger()
    return folder, Ledger(path / "ledger.sqlite" if found is None else found[0]), population


def _understated(record: RunRecord, found: RunGuarantees) -> Iterator[str]:
    """Yield in words what the record says too little of; an earlier version wrote one guarantee only."""
    pairs = [(record.guarantee, found.headline), (record.personal_guarantee or record.guarantee, found.personal)]
    if "group_guarantees" in record.model_fields_set:
        pairs += [(record.group_guarantees[group], one) for group, one in found.groups.items()]
    for stated, true in pairs:
        for written, cost in (
            (stated.epsilon, true.epsilon),
            (stated.epsilon_replace_one, true.epsilon_replace_one),
        ):
            said = math.nan if written is None else written
            if not said >= cost * (1.0 - _EPSILON_TOLERANCE):
                yield f"says epsilon {said:.6g} of the {true.output} where it is {cost:.6g}"
