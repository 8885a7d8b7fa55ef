"""The ledger: a durable record of all releases on a population.

It is asked before nodes work and written before anything is published: after a crash the budget may be
over-charged, never under-charged. Asking never changes anything.
"""

from __future__ import annotations

import hashlib
import sqlite3
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from fedpriv.errors import BudgetExceeded, InputError
from fedpriv.files import kept_secret
from fedpriv.names import unknown
from fedpriv.privacy.accounting import Accountant, Epsilon, counted_in_full, epsilon, shared_relations
from fedpriv.privacy.chain import append_links
from fedpriv.privacy.filters import BudgetFilter, FilterName, RenyiFilter
from fedpriv.privacy.histories import EVERYBODY, Charged, histories
from fedpriv.privacy.integrity import out_of_order, problems
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.population import (
    Declared,
    Population,
    add_release,
    charged_releases,
    check_name,
    describe_population,
    divergence,
    find_population,
    release_from,
)
from fedpriv.privacy.store import LedgerFile
from fedpriv.privacy.target import Target, check_delta
from fedpriv.privacy.terms import Relation

__all__ = ["Declared", "Entry", "Ledger"]


def _may_be_a_file(path: str | Path) -> bool:
    try:
        return not stat.S_ISDIR(Path(path).stat().st_mode)
    except (FileNotFoundError, PermissionError, NotADirectoryError):  # the last two are said when it is opened
        return True
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


@dataclass(frozen=True)
class Entry:
    """One charged release."""

    population: str
    run: str
    round: int
    group: str
    release: Release
    digest: str
    charged_at: str


class Ledger:
    """A ledger on a SQLite file; the file is made by the first :meth:`register`.

    Parameters
    ----------
    path : str or Path
        Where the file is.
    busy_seconds : float
        How long to wait for another process that writes, in seconds.

    Raises
    ------
    InputError
        The path is empty, or a folder.
    """

    def __init__(self, path: str | Path, busy_seconds: float = 30.0) -> None:
        if not isinstance(path, str | Path) or not str(path) or not _may_be_a_file(path):
            raise InputError(
                f"ledger: 'path' must be the path of a file, got {str(path) if isinstance(path, Path) else path!r}; "
                "name one, such as people.sqlite."
            )
        self.path = Path(path)
        self._file = LedgerFile(self.path, busy_seconds)
        self._unlimited: set[str] = set()

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r})"

    def register(
        self,
        population: str,
        *,
        fingerprint: str,
        num_tasks: int,
        declared: str,
        budget: Target | None = None,
        budget_filter: FilterName = "renyi",
        planned: Mapping[Release, int] | None = None,
        new_version: bool = False,
    ) -> None:
        """Enter a population, or check that it is the one that was entered before.

        People who come or leave between runs make a new version of a population, which says so: its budget stays, and
        all that was charged to earlier versions counts for it.

        Parameters
        ----------
        population : str
            Its id, chosen by the user.
        fingerprint : str
            Digest of its list of tasks.
        num_tasks : int
            Number of its tasks, at least 1.
        declared : "benchmark" or "protected"
            A protected population keeps one budget over all runs; each run on a benchmark is accounted alone.
        budget : Target or None
            What a protected population may spend over all runs; None means no limit.
        budget_filter : "renyi" or "gdp"
            What cuts off the budget (:mod:`fedpriv.privacy.filters`).
        planned : mapping or None
            What shall be charged to it first. A filter that cannot pay for such releases is not entered, as it would
            stay, and neither is a new version that the budget cannot pay them for.
        new_version : bool
            Whether another list of tasks than the newest one is meant to be the next version of this population.

        Raises
        ------
        InputError
            If a value is wrong, or differs from what was entered before.
        BudgetExceeded
            If the budget cannot pay what is planned for a new version.
        """
        if declared not in get_args(Declared):
            raise InputError("ledger: " + unknown("declaration", declared, get_args(Declared)))
        check_name(population)
        if budget is not None and declared == "benchmark":
            raise InputError(
                f"ledger: population {population!r} is a benchmark, whose runs are accounted alone, so it "
                "takes no budget; declare it 'protected'."
            )
        if budget_filter not in get_args(FilterName):
            raise InputError("ledger: " + unknown("filter", budget_filter, get_args(FilterName)))
        order = None
        if budget is not None and budget_filter == "renyi":
            delta = budget.delta_for(num_tasks)
            order = RenyiFilter.for_budget(budget.epsilon, delta, budget.relation).order
        chosen = None if budget is None else budget_filter
        wanted = Population(fingerprint, num_tasks, declared, budget, chosen, order)
        check_delta(wanted.delta, num_tasks)
        if wanted.filter is not None and planned:
            wanted.filter.cost(planned)
        if self.path.exists():
            with self._file.read() as connection:
                known = find_population(connection, population)
            if known is not None and self._same(population, known, wanted, new_version=new_version):
                return
        self._file.create()
        with self._file.write() as connection:
            known = find_population(connection, population)
            if known is not None and self._same(population, known, wanted, new_version=new_version):
                return
            self._refuse_twin(connection, population, fingerprint)
            if known is not None:
                if known.filter is not None and planned:  # what is refused here enters no version
                    self._refuse_excess(connection, population, "", known, {EVERYBODY: planned})
                self._file.add_members(connection)
                connection.execute(
                    "INSERT INTO members (population, version, fingerprint, num_tasks) VALUES (?, ?, ?, ?)",
                    (population, len(known.versions) + 1, fingerprint, num_tasks),
                )
                append_links(connection, population)
                return
            stored = budget.model_dump_json() if budget is not None else None
            self._file.upgrade(connection)
            connection.execute(
                "INSERT INTO populations VALUES (?, ?, ?, ?, ?, ?, ?)",
                (population, fingerprint, num_tasks, declared, stored, order, chosen),
            )
            append_links(connection, population)

    def salt(self, population: str) -> bytes:
        """Return the salt under which names of a population are hashed; made when it is first asked for.

        It is kept in a private file beside the ledger. Whoever has it can test names against hashes.
        """
        check_name(population)
        name = hashlib.sha256(population.encode()).hexdigest()[:16]
        return kept_secret(Path(f"{self.path.resolve()}.{name}.salt"))

    def follow(self, path: Path) -> None:
        """Keep the newest head also in a file of one's own, and refuse a ledger that does not go on from it.

        Whoever charges over hours does: an older copy that is put back meanwhile, with the head beside it, is noticed.
        """
        self._file.follow(path)

    def keep_heads(self) -> None:
        """Write the newest head where a crash left an older one."""
        self._file.keep_heads()

    def close(self) -> None:
        """Let go of the file at the end of a run; the next question or charge opens it again."""
        self._file.finish()

    def refuse_read_only(self) -> None:
        """Refuse a file that nobody could charge to, before any work is done for it (ComponentFailure)."""
        self._file.refuse_read_only()

    def charge(self, population: str, run: str, round: int, group: str, release: Release, digest: str = "") -> bool:
        """Charge one release, durably; charging the same release twice counts once.

        Returns
        -------
        bool
            False if this very release was charged before.

        Raises
        ------
        BudgetExceeded, InputError, NoGuarantee, ComponentFailure
            As :meth:`charge_many`.
        """
        return self.charge_many(population, run, round, {group: release}, digest=digest) == 1

    def charge_many(
        self,
        population: str,
        run: str,
        round: int,
        releases: Mapping[str, Release],
        digest: str = "",
        *,
        in_order: bool = False,
    ) -> int:
        """Charge the releases of one round, one per group, all or none.

        With ``in_order`` a round of a group is charged only if the one before it, from round 1 on, was: if it is gone,
        so are others. What goes to everybody is exempt, whose mechanisms number it as they like.

        The first round of a banded mechanism is charged for all of its rounds, also those that will not be run; the
        later ones are recorded and cost nothing more. A run's group has one banded mechanism: another is refused.

        Returns
        -------
        int
            How many were new.

        Raises
        ------
        BudgetExceeded
            A protected population cannot pay; nothing is written.
        InputError
            Another release was charged under the same run, round and group, or the population is unknown.
        NoGuarantee
            A release has no formulas; nothing is written.
        ComponentFailure
            The file is damaged or locked.
        """
        if round < 0:
            raise InputError(f"ledger: 'round' must be at least 0, got {round}.")
        with self._file.write() as connection:
            known = self._known(connection, population)
            new: dict[str, Release] = {}
            texts: dict[str, str] = {}
            for group, release in releases.items():
                before = connection.execute(
                    "SELECT r.release, e.digest FROM entries e JOIN releases r ON r.id = e.release "
                    "WHERE e.population = ? AND e.run = ? AND e.round = ? AND e.part = ?",
                    (population, run, round, group),
                ).fetchone()
                if before is None:
                    new[group] = release
                elif (other := release_from(before[0]) != release) or (digest and before[1] and digest != before[1]):
                    raise InputError(
                        f"ledger: round {round} of run {run!r} (group {group!r}) of population {population!r} was "
                        f"charged for another {'release' if other else 'draw of this release'}; a release is drawn "
                        "once and read back, never drawn again."
                    )
            for group, release in new.items():
                release.cost  # noqa: B018 (which refuses what nobody could account for)
                texts[group] = release.text()  # which refuses what could not be read back
                if in_order and round > 1 and group != EVERYBODY:
                    self._refuse_gap(connection, (population, run, round - 1, group))
                if release.banded is not None:
                    _refuse_other_banded(connection, (population, run, group), round, release)
            if new and known.filter is not None:
                self._refuse_excess(connection, population, run, known, {group: {one: 1} for group, one in new.items()})
            if new:
                self._file.upgrade(connection)
            for group, text in texts.items():
                connection.execute("INSERT OR IGNORE INTO releases (release) VALUES (?)", (text,))
                connection.execute(
                    "INSERT INTO entries (population, run, round, part, release, digest) "
                    "SELECT ?, ?, ?, ?, id, ? FROM releases WHERE release = ?",
                    (population, run, round, group, digest, text),
                )
            if new:
                append_links(connection)
        return len(new)

    def check(self, population: str, run: str, releases: Mapping[Release, int]) -> None:
        """Raise BudgetExceeded if these releases, to everybody, could not all be paid; nothing is written."""
        if population in self._unlimited:  # and will be: a budget may not change
            return
        with self._file.read() as connection:
            known = self._known(connection, population)
            if known.filter is None:
                self._unlimited.add(population)
                return
            self._refuse_excess(connection, population, run, known, {EVERYBODY: releases})

    def left(self, population: str) -> BudgetFilter | None:
        """Return the filter that is left for releases to come, None without a budget."""
        known, charged = self._read(population)
        if known.filter is None:
            return None
        spent = divergence(known.filter, charged)
        return replace(known.filter, allowance=max(0.0, known.filter.allowance - spent))

    def charged(self, population: str, run: str, round: int, group: str | None = None) -> bool:
        """Return whether a release of this round (of this group, or of any) was charged."""
        with self._file.read() as connection:
            self._known(connection, population)
            found = connection.execute(
                "SELECT 1 FROM entries WHERE population = ? AND run = ? AND round = ? AND (? IS NULL OR part "
                "= ?) LIMIT 1",
                (population, run, round, group, group),
            ).fetchone()
        return found is not None

    def entries(self, population: str, run: str | None = None, round: int | None = None) -> list[Entry]:
        """Return all charged releases, or those of a run, or of a round, in the order in which they were charged."""
        asked = {"population": population, "run": run, "round": round}
        asked = {name: value for name, value in asked.items() if value is not None}  # so that the index finds a round
        where = " AND ".join(f"e.{name} = :{name}" for name in asked)
        with self._file.read() as connection:
            self._known(connection, population)
            rows = connection.execute(
                "SELECT e.population, e.run, e.round, e.part, r.release, e.digest, e.charged_at FROM entries "  # noqa: S608 (our own words)
                f"e LEFT JOIN releases r ON r.id = e.release WHERE {where} ORDER BY e.id",
                asked,
            ).fetchall()
        return [
            Entry(row[0], row[1], row[2], row[3], release_from(row[4]), digest=row[5], charged_at=row[6])
            for row in rows
        ]

    def populations(self) -> list[str]:
        """Return the ids of all populations, sorted."""
        with self._file.read() as connection:
            return [row[0] for row in connection.execute("SELECT name FROM populations ORDER BY name")]

    def unused(self) -> bool:
        """Tell whether the file may go: nothing was charged to it, and it holds no budget of protected data."""
        with self._file.read() as connection:
            asked = "SELECT 1 FROM entries UNION ALL SELECT 1 FROM populations WHERE declared = 'protected' LIMIT 1"
            return connection.execute(asked).fetchone() is None

    def runs(self, population: str) -> list[str]:
        """Return the runs that charged this population, sorted."""
        return sorted(self._read(population)[1])

    def counts(self, population: str, run: str | None = None) -> Counter[Release]:
        """Return the releases that a single task may have seen, of one run or of all; the worst task's.

        Groups of one run compose in parallel, runs one after the other. If groups were charged differently,
        the worst is the one with the largest epsilon (at the population's delta; add/remove if all releases have it).
        """
        known, charged = self._read(population, run)
        several = histories(charged)
        if len(several) == 1:
            return several[0]
        relation = shared_relations(several)[0]
        return max(several, key=lambda one: epsilon(one, known.delta, relation).value)

    def histories(self, population: str, run: str | None = None) -> list[Counter[Release]]:
        """Return the releases that single tasks may have seen, one history per kind of task that may be worst off."""
        return histories(self._read(population, run)[1])

    def group_counts(self, population: str, run: str) -> dict[str, Counter[Release]]:
        """Return what the tasks of each group saw of one run: releases to everybody, and those to the group."""
        groups = self._read(population, run)[1].get(run, {})
        shared = groups.get(EVERYBODY, Counter())
        return {group: shared + own for group, own in groups.items() if group != EVERYBODY}

    def spent(
        self,
        population: str,
        delta: float,
        relation: Relation = Relation.ADD_REMOVE,
        run: str | None = None,
        accountant: Accountant = "auto",
    ) -> Epsilon:
        """Return the epsilon of one run or of all runs together, for the worst task.

        For runs that did not react to each other, against the public and the other tasks (so that cohorts of fixed size
        count in full); what a protected population may still spend is decided by
        its filter (:meth:`describe`).
        """
        several = histories(self._read(population, run)[1])
        found = (epsilon(counted_in_full(one), delta, relation, accountant) for one in several)
        return max(found, key=lambda one: one.value)

    def verify(self, population: str) -> tuple[list[str], list[str]]:
        """Read everything, and return what is wrong and what is merely odd, in sentences.

        Raises
        ------
        InputError
            The population is unknown, or the file no ledger.
        ComponentFailure
            The file is damaged so that it cannot be read.
        """
        with self._file.read(checked=False) as connection:
            wrong = list(problems(connection, population))
            if not wrong:
                self._known(connection, population)
                wrong += self._file.chain_problems(connection)
            return wrong, [] if wrong else list(out_of_order(connection, population))

    def entered(self, population: str) -> dict[str, Any]:
        """Return what was entered for a population (the first part of :meth:`describe`), without accounting for it."""
        with self._file.read() as connection:
            return self._known(connection, population).entered()

    def describe(self, population: str, delta: float | None = None) -> dict[str, Any]:
        """Return everything about a population, ready for JSON (an infinite epsilon is the text "inf").

        Parameters
        ----------
        population : str
            Its id.
        delta : float or None
            At which epsilons are stated, instead of the population's; its budget keeps its own.

        Raises
        ------
        InputError
            There is no such population, or delta is too large for it.
        """
        with self._file.read() as connection:
            known = self._known(connection, population)
            charged = charged_releases(connection, population)
            rows = "FROM entries WHERE population = ?"
            entries = dict(connection.execute(f"SELECT run, count(*) {rows} GROUP BY run", (population,)))
            newest = connection.execute(
                f"SELECT release FROM releases WHERE id = (SELECT release {rows} ORDER BY id DESC LIMIT 1)",  # noqa: S608
                (population,),
            ).fetchone()
        last = None if newest is None else release_from(newest[0])
        if delta is not None:
            check_delta(delta, known.largest)
        return describe_population(population, known, charged, entries, last, known.delta if delta is None else delta)

    def _read(self, population: str, run: str | None = None) -> tuple[Population, Charged]:
        with self._file.read() as connection:
            return self._known(connection, population), charged_releases(connection, population, run)

    def _known(self, connection: sqlite3.Connection, population: str) -> Population:
        known = find_population(connection, population)
        if known is None:
            names = [row[0] for row in connection.execute("SELECT name FROM populations")]
            raise InputError(f"ledger {self.path}: " + unknown("population", population, names))
        return known

    def _refuse_gap(self, connection: sqlite3.Connection, before: tuple[str, str, int, str]) -> None:
        """Refuse a round whose (population, run, round, group) before it is missing."""
        there = "SELECT 1 FROM entries WHERE population = ? AND run = ? AND round = ? AND part = ?"
        if connection.execute(there, before).fetchone() is None:
            raise InputError(
                f"ledger {self.path}: it does not hold round {before[2]} of run {before[1]!r} (group {before[3]!r}), "
                f"so round {before[2] + 1} is not charged to it; restore the newer ledger, or what was released is "
                "under-counted."
            )

    def _refuse_twin(self, connection: sqlite3.Connection, population: str, fingerprint: str) -> None:
        """Refuse tasks that spend another budget here already."""
        protected = "FROM populations WHERE declared = 'protected' AND name <> ?"
        for (name,) in connection.execute(f"SELECT name {protected}", (population,)).fetchall():
            other = find_population(connection, name)
            if other is not None and fingerprint in dict(other.versions):
                raise InputError(
                    f"ledger: the tasks of {population!r} are those of {name!r}, which has a budget of its own "
                    f"here; a second name would spend it twice. Use {name!r}."
                )

    def _same(self, population: str, known: Population, wanted: Population, *, new_version: bool) -> bool:
        """Refuse what differs from what was entered; tell whether the members are those of the newest version."""
        same = (known.fingerprint, known.num_tasks) == (wanted.fingerprint, wanted.num_tasks)
        accepted = same or (known.fingerprint != wanted.fingerprint and new_version)
        for name in ("declared",) if accepted else ("fingerprint", "num_tasks", "declared"):
            before, now = getattr(known, name), getattr(wanted, name)
            if before != now:
                raise InputError(
                    f"ledger {self.path}: this is the ledger of another population under the id "
                    f"{population!r}: {name!r} was {before!r}, got {now!r}; use another id or another ledger. If "
                    "people came or left since, run.new_version = true makes these tasks the next version of that "
                    "population, which goes on with its budget."
                )
        check_delta(known.delta, wanted.num_tasks)
        if known.budget != wanted.budget:
            raise InputError(
                f"ledger {self.path}: the budget of population {population!r} was {known.budget!r}, got "
                f"{wanted.budget!r}; a budget may not change once it is entered."
            )
        if known.filter_name != wanted.filter_name:
            raise InputError(
                f"ledger {self.path}: the budget of population {population!r} is cut off by the filter "
                f"{known.filter_name!r}, got {wanted.filter_name!r}; a filter may not change once it is entered."
            )
        return same

    def _refuse_excess(
        self,
        connection: sqlite3.Connection,
        population: str,
        run: str,
        known: Population,
        more: Mapping[str, Mapping[Release, int]],
    ) -> None:
        """Refuse more releases of a run, by group, than the budget pays for beside all that was charged."""
        if known.filter is None or known.budget is None:
            return
        charged = charged_releases(connection, population, alike=True)
        for group, releases in more.items():
            for release, count in releases.items():
                add_release(charged.setdefault(run, {}).setdefault(group, Counter()), release, count)
        cost = divergence(known.filter, charged)
        if not known.filter.admits(cost):
            (before,) = connection.execute(
                "SELECT count(DISTINCT round) FROM entries WHERE population = ? AND run = ?", (population, run)
            ).fetchone()
            rounds = f"{before} round{'s' if before != 1 else ''}"
            raise BudgetExceeded(
                f"population {population!r} may spend epsilon {known.budget.epsilon:g} at delta "
                f"{known.delta:.3g} ({known.budget.relation.value}), and this would take "
                f"{cost / known.filter.allowance:.6g} times its budget; use more noise or fewer rounds. "
                + (
                    f"Nothing more was charged; {rounds} of this run, {run!r}, had been before, and stay charged."
                    if before
                    else "Nothing was charged."
                )
            )


def _refuse_other_banded(
    connection: sqlite3.Connection, where: tuple[str, str, str], round: int, release: Release
) -> None:
    """Refuse a round that the banded mechanism of this (population, run, group) does not cover, or a second one."""
    mine = "FROM entries e JOIN releases r ON r.id = e.release WHERE e.population = ? AND e.run = ? AND e.part = ?"
    for number, text in connection.execute(f"SELECT DISTINCT r.id, r.release {mine}", where).fetchall():
        before = release_from(text)
        if before.banded is None:
            continue
        if before != release:
            raise InputError(
                f"ledger: run {where[1]!r} (group {where[2]!r}) has banded noise already: its rounds, limits, "
                "clipping norm and noise may not change, and a second banded mechanism needs a run of its own. "
                "Nothing was charged."
            )
        first, last = (
            connection.execute(
                f"SELECT e.round {mine} AND r.id = ? ORDER BY e.round {order} LIMIT 1", (*where, number)
            ).fetchone()[0]
            for order in ("ASC", "DESC")
        )
        if max(round, last) - min(round, first) >= before.banded.horizon:
            raise InputError(
                f"ledger: round {round} of run {where[1]!r} lies outside the {before.banded.horizon} rounds that its "
                f"banded noise, from round {first} on, was charged for; start a new run. Nothing was charged."
            )
