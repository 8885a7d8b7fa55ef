"""Run folders beside a ledger: what they published, and who took part. Reading changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.privacy.histories import EVERYBODY
from fedpriv.privacy.individual import Participants
from fedpriv.privacy.journal import Checkpoint
from fedpriv.privacy.ledger import Entry
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.population import of_version
from fedpriv.privacy.target import Target
from fedpriv.runs import CheckpointStore, read_config
from fedpriv.runs.atomic import damage_said
from fedpriv.runs.checkpoint import read_counts
from fedpriv.runs.record import RunRecord

__all__ = ["Folder"]

Charged = Mapping[tuple[int, str], Entry]
"""(round, group) -> what the ledger holds of one run."""


@dataclass(frozen=True)
class Folder:
    """One run folder."""

    path: Path  # where it is
    run: str  # its name in the ledger

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Find a run in a folder.

        Raises
        ------
        InputError
            There is none.
        ComponentFailure
            Its name is damaged.
        """
        name = path / "checkpoints" / "run-id"
        if not name.exists():
            raise InputError(f"{path} is not a run folder with checkpoints; give the --out of a run.")
        with damage_said(f"{name}"):
            run = name.read_text(encoding="utf-8")
            if not run:
                raise ValueError("it is empty")
        return cls(path, run)

    @property
    def head_path(self) -> Path:
        """The newest head that the run has seen of its ledger."""
        return self._store.head_path

    @property
    def delta(self) -> float | None:
        """At which the run states its guarantee; None if neither its summary nor its configuration says it."""
        if self._finished is not None:
            return self._finished.guarantee.delta
        strategy = self._section("strategy")
        target = strategy.get("target")
        found = target.get("delta") if isinstance(target, dict) else strategy.get("delta")
        return float(found) if isinstance(found, int | float) else None

    @property
    def silent(self) -> bool:
        """Whether the run released nothing, by its configuration or by the summary that it wrote."""
        nothing = self._finished is not None and not self._stated
        return nothing or self._section("strategy").get("name") == "silent"

    @property
    def _store(self) -> CheckpointStore:
        return CheckpointStore(self.path / "checkpoints")

    @cached_property
    def _finished(self) -> RunRecord | None:
        path = self.path / "summary.json"
        if not path.exists():
            return None
        with damage_said(f"{path}"):
            record = RunRecord.parse(path.read_text(encoding="utf-8"))
            if record.ledger.path is None or record.ledger.population is None:
                raise ValueError("it names no ledger")
        return record

    @cached_property
    def _stated(self) -> Mapping[tuple[int, str], Release]:
        """What the summary says was charged; nothing before the run is finished."""
        with damage_said(f"{self.path / 'summary.json'}"):
            releases = [] if self._finished is None else self._finished.releases
            return {(one.round, one.group): one.release for one in releases}

    def _section(self, name: str) -> dict[str, Any]:
        found = read_config(self.path).get(name, {})
        return found if isinstance(found, dict) else {}

    def ledger(self) -> tuple[Path, str | None] | None:
        """Return the ledger of the run and the population there (None: its only one); None if it has no ledger yet."""
        own = self.path / "ledger.sqlite"
        if self._finished is not None:
            where = self._finished.ledger
            return (own if own.exists() else Path(str(where.path))), where.population
        if own.exists():
            return own, None
        run = self._section("run")
        return (Path(run["ledger"]), str(run["population"])) if "ledger" in run and "population" in run else None

    def participants(self, charged: Charged, num_tasks: int) -> Participants:
        """Return who took part, as far as the checkpoints say and the ledger knows the same draw."""
        store = self._store
        rounds = [number for number in store.rounds() if number > 0]
        snapshot = max((one for one in store.snapshots() if one <= max(rounds, default=0)), default=0)
        asked, limited = {}, None
        for number in rounds:
            checkpoint = store.load(number)
            if not checkpoint.charged_by(_entries(checkpoint, charged)):
                continue
            if number > snapshot:  # the counts hold the others
                asked[number] = checkpoint.sampled
            if checkpoint.participations:
                limited = checkpoint.participations["counts"].astype(np.int64)
            ids = np.concatenate([np.empty(0, dtype=np.int64), *checkpoint.sampled.values()])
            if ((ids < 0) | (ids >= num_tasks)).any() or (limited is not None and len(limited) != num_tasks):
                raise ComponentFailure(
                    f"the checkpoint of round {number} in {self.path} is of other tasks than the {num_tasks} of this "
                    "population; restore it from a copy."
                )
        counts = read_counts(store.directory, snapshot, num_tasks) if snapshot else None
        return Participants(asked, counts, snapshot, limited, max(rounds, default=0))

    def problems(self, entries: list[Entry], population: Mapping[str, Any]) -> Iterator[str]:
        """Yield a sentence for everything published here that the ledger does not hold, or holds otherwise.

        The ledger's ``entries`` are those of this run; ``population`` is what it says about that
        (:meth:`Ledger.describe`).
        """
        charged = {(one.round, one.group): one for one in entries}
        yield from self._other_population(population)
        yield from self._other_rounds(charged)
        yield from self._other_metrics(charged)
        for key, release in self._stated.items():
            if key in charged and charged[key].release != release:
                yield (
                    f"the ledger holds another release for round {key[0]} than {self.path / 'summary.json'} says was "
                    "charged: what it counts is not what was released"
                )

    @property
    def fingerprint(self) -> str | None:
        """Of the run's tasks, as far as the folder says it."""
        stated = None if self._finished is None else self._finished.ledger.fingerprint
        found = self._section("data").get("fingerprint", stated)
        return None if found is None else str(found)

    def _other_population(self, population: Mapping[str, Any]) -> Iterator[str]:
        """Yield a sentence for what the run knew differently of its population."""
        stated: dict[str, Any] = {"fingerprint": self.fingerprint}
        if self._finished is not None:
            stated |= {"tasks": self._finished.num_tasks, "declared": self._finished.ledger.declared}
        population = of_version(population, self.fingerprint)
        for name, words in (("fingerprint", "their fingerprint"), ("tasks", "their number"), ("declared", "declared")):
            if stated.get(name) not in (None, population[name]):
                yield (
                    f"{self.path} is a run on other tasks: {words} is {stated[name]!r}, the ledger's "
                    f"{population[name]!r}"
                )
        try:
            budget = self._budget()
        except (InputError, TypeError) as error:
            raise ComponentFailure(f"{self.path / 'config.toml'} is damaged ({error}); restore it.") from None
        mine = None if budget is None else budget.model_dump(mode="json")
        held = population["budget"]
        if mine is not None and mine["delta"] is None:
            mine["delta"] = held and held["delta"]
        if mine != held:
            yield (
                f"{self.path} was run under {_budget_words(mine)}, and the ledger says {_budget_words(held)}: a budget "
                "may not change once it is entered"
            )

    def _budget(self) -> Target | None:
        run = self._section("run")
        flat = {key: run[f"budget_{key}"] for key in ("epsilon", "delta", "relation") if f"budget_{key}" in run}
        found = flat or run.get("budget")
        return Target(**found) if found else None

    def _other_rounds(self, charged: Charged) -> Iterator[str]:
        """Yield a sentence for rounds that were published and not charged, or for another draw."""
        if self.silent:
            return
        store = self._store
        rounds = store.rounds()
        last = store.load(rounds[-1]) if rounds else Checkpoint(0, {})
        published = {(number, group) for number in range(1, last.round + 1) for group in last.billboards}
        published |= {key for key, release in self._stated.items() if release.measures is None}
        missing = sorted({number for number, _ in published - charged.keys()})
        if missing:
            yield (
                f"{self.path} has published {max(published)[0]} rounds and the ledger does not hold round {missing[0]}"
                f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: what was released is under-counted"
            )
        for number in rounds:
            if not number or number in missing:
                continue
            checkpoint = store.load(number)
            if not checkpoint.charged_by(_entries(checkpoint, charged)):
                yield f"the ledger was charged for another draw than {self.path} published in round {number}"

    def _other_metrics(self, charged: Charged) -> Iterator[str]:
        """Yield a sentence for metrics that were published and not charged, or for another draw."""
        published = {one.round: one for one in self._store.measured()}
        stated = {number for (number, _), release in self._stated.items() if release.measures is not None}
        for number in sorted(published.keys() | stated):
            entry = charged.get((number, EVERYBODY))
            if entry is None:
                yield (
                    f"{self.path} has published metrics after round {number} and the ledger does not hold them: what "
                    "was released is under-counted"
                )
            elif number in published and entry.digest != published[number].digest():
                yield f"the ledger was charged for other metrics than {self.path} published after round {number}"

    def notes(self, entries: list[Entry]) -> Iterator[str]:
        """Yield a sentence for what was charged and not published, or is not here to be compared."""
        store = self._store
        last, pending = max(store.rounds(), default=0), store.pending()
        rounds = 0 if self._finished is None else self._finished.rounds or 0
        if last < rounds:
            yield (
                f"the checkpoint of round {rounds}, the last one of {self.path}, is gone: what it "
                "published is compared with the summary only"
            )
            last = rounds
        metrics = {one.round for one in entries if one.release.measures is not None}
        ahead = sorted({one.round for one in entries if one.release.measures is None and one.round > last})
        if pending is not None and pending.round in ahead:
            yield f"round {pending.round} was charged and not published yet; --resume reads it back"
        elif ahead:
            yield f"round {ahead[0]} was charged and never published: the budget is over-charged by {len(ahead)}"
        stated = {number for (number, _), release in self._stated.items() if release.measures is not None}
        taken, waiting = metrics - stated - {one.round for one in store.measured()}, store.pending_measured()
        if waiting is not None and waiting.round in taken:
            yield f"metrics after round {waiting.round} were charged and not published yet; --resume reads them back"
        elif taken:
            yield (
                f"metrics after round {min(taken)} were charged and never published: the budget is over-charged by "
                f"{len(taken)}"
            )


def _budget_words(budget: Mapping[str, Any] | None) -> str:
    if budget is None:
        return "no budget"
    return f"a budget of epsilon {budget['epsilon']:g} at delta {budget['delta']:.3g} ({budget['relation']})"


def _entries(checkpoint: Checkpoint, charged: Charged) -> list[Entry]:
    return [charged[key] for group in checkpoint.billboards if (key := (checkpoint.round, group)) in charged]
