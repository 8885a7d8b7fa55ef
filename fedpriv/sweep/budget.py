"""Whether protected populations can pay for all runs of a sweep together, asked before any of them starts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fedpriv.errors import BudgetExceeded, InputError
from fedpriv.privacy.ledger import Ledger

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment
    from fedpriv.privacy.mechanisms import Release

__all__ = ["Spending"]


@dataclass
class _Account:
    ledger: Ledger
    population: str
    fingerprint: str
    planned: Counter[Release] = field(default_factory=Counter)
    runs: int = 0


class Spending:
    """What the runs that are left will charge, by population.

    Asking writes nothing: a population that its ledger does not know yet is looked at in a scratch file. A context
    manager, which removes that file.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._scratch = TemporaryDirectory(prefix="fedpriv-sweep-")

    def __enter__(self) -> Spending:
        return self

    def __exit__(self, *_: Any) -> None:
        self._scratch.cleanup()

    @property
    def needed(self) -> bool:
        """Whether any run spends a common budget."""
        return bool(self._accounts)

    def add(self, folder: Path, experiment: Experiment, *, finished: bool) -> None:
        """Count a run; benchmark data have a ledger per run and no common budget.

        Raises
        ------
        InputError
            The grid gives the population other tasks, or its ledger holds another one under this name.
        """
        if experiment.declared != "protected" or experiment.ledger is None or experiment.population is None:
            return
        key = (str(experiment.ledger.resolve()), experiment.population)
        fingerprint = experiment.tasks.fingerprint
        account = self._accounts.get(key)
        if account is None:
            ledger = experiment.ledger
            known = ledger.exists() and experiment.population in Ledger(ledger).populations()
            place = ledger if known else Path(self._scratch.name) / f"{len(self._accounts)}.sqlite"
            account = self._accounts[key] = _Account(Ledger(place), experiment.population, fingerprint)
        if account.fingerprint != fingerprint:
            raise InputError(
                f"the population {experiment.population!r} must have the same tasks in all runs, and they change "
                "with the grid or the seed; leave data.* out of the grid and fix the partition with --set data.seed=0."
            )
        # Only a run itself may enter a new version of its population: asking writes nothing.
        if not experiment.new_version or account.ledger.path != experiment.ledger:
            account.ledger.register(
                experiment.population,
                fingerprint=fingerprint,
                num_tasks=len(experiment.tasks),
                declared=experiment.declared,
                budget=experiment.budget,
                budget_filter=experiment.budget_filter,
            )
        left = experiment.strategy.rounds - self._charged(account, folder)
        if left > 0 and not finished:
            account.planned.update(experiment.resolve().releases(left))
            account.runs += 1

    def check(self) -> None:
        """Refuse what a budget cannot pay.

        Raises
        ------
        BudgetExceeded
            All runs that are left, together, exceed the budget of their population.
        """
        for account in self._accounts.values():
            try:
                account.ledger.check(account.population, "sweep", account.planned)
            except BudgetExceeded as error:
                raise BudgetExceeded(
                    f"{account.runs} runs together are too much, and none was started: {error} "
                    "Fewer seeds or cells would also help."
                ) from None

    @staticmethod
    def _charged(account: _Account, folder: Path) -> int:
        """Return how many rounds of a half-done run were charged already."""
        identity = folder / "checkpoints" / "run-id"
        if not identity.exists():
            return 0
        return len(
            {entry.round for entry in account.ledger.entries(account.population, identity.read_text(encoding="utf-8"))}
        )
