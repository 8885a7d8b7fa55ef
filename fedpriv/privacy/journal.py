"""Publishing a release exactly once: stage it, charge the ledger, then let it out.

A crash between any two steps leaves the ledger at or above the truth. A staged release that was charged is read back,
never drawn again; one that was not charged was never seen by anybody and is thrown away.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.names import renamed
from fedpriv.privacy.calibration import calibrate_to_filter
from fedpriv.privacy.entropy import Entropy
from fedpriv.privacy.histories import EVERYBODY
from fedpriv.privacy.ledger import Entry, Ledger
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.metrics import MetricsRelease
from fedpriv.privacy.sampling import FixedSizeSampling, Sampling

__all__ = ["Checkpoint", "Journal", "Storage"]


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to go on after a round.

    Attributes
    ----------
    round : int
        The round that ends here; 0 is the public start.
    billboards : dict
        Per group, the arrays that the next round publishes.
    sampled : dict
        Per group, the ids of the tasks that took part, int64 [k]. Secret: coins must not be published.
    participations : dict
        How often each task took part and when last, int32 [m], where limits are kept; else empty.
    noise : dict
        Per group, the noise of past rounds that the noise to come depends on, float64 [bands - 1, d]; empty without
        correlated noise. As secret as the updates: without it the next round cannot be made, and it is never drawn
        again.
    clipping_norm : float or None
        The norm that the next round clips to, where it adapts to what was released.
    state : dict
        Per group, what the server's step keeps of the rounds before, float64 arrays by name; empty without any. Public
        as the billboards are, so it stands in the digest and, unlike noise, need not be deleted.
    """

    round: int
    billboards: dict[str, dict[str, NDArray[Any]]]
    sampled: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    participations: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    noise: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    clipping_norm: float | None = None
    state: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)

    def charged_by(self, entries: Iterable[Entry]) -> bool:
        """Tell whether a ledger's entries for this round and its groups are for this very draw, and there are any.

        Rows with local noise are charged before they are made, so without a digest.
        """
        digest = self.digest()
        mine = [one for one in entries if one.round == self.round and one.group in self.billboards]
        return bool(mine) and all(
            one.digest == digest or (one.release.noise_at == "node" and not one.digest) for one in mine
        )

    def digest(self) -> str:
        """Return the SHA-256 of what is released: the ledger knows by it which draw it was charged for."""
        found = hashlib.sha256(str(self.round).encode())
        if self.clipping_norm is not None:
            found.update(f"|{self.clipping_norm!r}|".encode())
        for kind, groups in (("", self.billboards), ("state|", self.state)):
            for group, arrays in sorted(groups.items()):
                for name, value in sorted(arrays.items()):
                    found.update(f"|{kind}{group}|{name}|{_text(value.dtype)}|{value.shape}|".encode())
                    found.update(np.ascontiguousarray(value).tobytes())
        return found.hexdigest()


@functools.lru_cache(maxsize=64)
def _text(dtype: np.dtype[Any]) -> str:
    return str(dtype)  # which takes longer than the hash of a small array


class Storage(Protocol):
    """Where checkpoints are kept. ``stage`` and ``promote`` must be durable before they return, ``promote`` atomic."""

    @property
    def folder(self) -> Path | None:
        """The run's folder; None where there is none."""

    def stage(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint under a pending name."""

    def promote(self, round: int) -> None:
        """Make the pending checkpoint of a round the newest one."""

    def stage_measured(self, measured: MetricsRelease) -> None:
        """Write metrics under a pending name."""

    def promote_measured(self, round: int) -> None:
        """Make the pending metrics of a round published ones."""

    def measured(self) -> list[MetricsRelease]:
        """Return the metrics that were published, by round."""


@dataclass(frozen=True)
class Journal:
    """The only way from an aggregate to a billboard, and from the tasks' scores to published metrics.

    Attributes
    ----------
    ledger : Ledger
        Where releases are charged.
    population, run : str
        Whose budget, and which run.
    storage : Storage or None
        Where checkpoints are kept; None keeps nothing, for runs without a folder.
    """

    ledger: Ledger
    population: str
    run: str
    storage: Storage | None = None
    _charged: dict[int, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def check(self, releases: Mapping[Release, int], entropy: Entropy | None = None) -> None:
        """Refuse, before any client works, what the budget cannot pay, or what would protect nobody.

        Parameters
        ----------
        releases : mapping from Release to count
            What is about to be charged.
        entropy : Entropy or None
            Where its noise will come from, if that is to be looked at.

        Raises
        ------
        BudgetExceeded
            The releases would exceed the budget of the population.
        InputError
            The noise of protected data would come from a seed.
        """
        if entropy is not None:
            self.refuse_seed(entropy)
        self.ledger.check(self.population, self.run, releases)

    def refuse_seed(self, entropy: Entropy) -> None:
        """Refuse noise and coins from a seed for a protected population: what they cost would be charged, for nothing.

        Raises
        ------
        InputError
            The entropy is reproducible, and the population is declared protected.
        """
        if entropy.reproducible and self.ledger.entered(self.population)["declared"] == "protected":
            raise InputError(
                f"noise that comes from a seed protects nobody, and population {self.population!r} is declared "
                "protected; use SystemEntropy, or a population that is declared a benchmark if its data are public."
            )

    def enough_noise(
        self, sampling: Sampling, rounds: int, beside: Mapping[Release, int] | None = None
    ) -> float | None:
        """Return the smallest noise multiplier with which the budget pays for rounds to come, None if none does.

        What else the run will release is paid first.

        A budget that holds over several runs needs a little more noise than a target for one run, because it stays
        valid when later runs react to earlier ones.
        """
        left = self.ledger.left(self.population)
        if left is None:
            return None
        left = replace(left, allowance=left.allowance - left.cost(beside or {}))
        if left.allowance <= 1e-4:  # the search gets long where hardly anything is left
            return None
        if isinstance(sampling, FixedSizeSampling):
            sampling = replace(sampling, counted=True)  # as the ledger counts it
        exact = calibrate_to_filter(left, sampling, rounds)
        digit = 10.0 ** (math.floor(math.log10(exact)) - 4)
        rounded = math.ceil(exact * (1.0 + 1e-9) / digit) * digit  # up: what is advised must fit
        release = Release.of(sampling, rounded)
        return rounded if left.admits(left.cost({release: rounds})) else None

    def spent(self, number: int, groups: Iterable[str]) -> bool:
        """Tell whether a release of this round, to one of these groups, was charged.

        Rounds are charged in order, so the ledger is not asked about the one after the last that was charged here.
        """
        if number - 1 in self._charged and number not in self._charged:
            return False
        return any(self.ledger.charged(self.population, self.run, number, group) for group in groups)

    def reserve(self, number: int, releases: Mapping[str, Release]) -> None:
        """Charge a round before its rows are asked for: with noise on the nodes, what arrives at the server is out.

        A round that is asked for again is charged once: the nodes' noise comes from a secret of the run, so the same
        rows come again.
        """
        self.ledger.charge_many(self.population, self.run, number, dict(releases), in_order=True)

    def publish(self, checkpoint: Checkpoint, releases: Mapping[str, Release]) -> None:
        """Stage a checkpoint, charge one release per group, and promote it.

        Parameters
        ----------
        checkpoint : Checkpoint
            Already noised.
        releases : mapping from group to Release
            What is charged; groups are disjoint, so they compose in parallel. Empty if nothing private is released.
        """
        if self.storage:
            self.storage.stage(checkpoint)
        self.charge(checkpoint, releases)
        if self.storage:
            self.storage.promote(checkpoint.round)

    def charge(self, checkpoint: Checkpoint, releases: Mapping[str, Release]) -> None:
        """Charge the releases of one round together.

        Charging the same checkpoint again counts once; another draw for a round that was charged is refused, and so
        is a round of a group whose round before was not charged.
        """
        if releases:
            where = (self.population, self.run, checkpoint.round)
            digest = checkpoint.digest()
            self.ledger.charge_many(*where, dict(releases), digest=digest, in_order=True)
            self._charged[checkpoint.round] = digest

    def charged_here(self, checkpoint: Checkpoint) -> bool:
        """Tell whether this very checkpoint was charged by this object, without asking the ledger."""
        return self._charged.get(checkpoint.round) == checkpoint.digest()

    def publish_measured(self, measured: MetricsRelease, release: Release) -> None:
        """Stage metrics, charge them to everybody, and promote them."""
        if self.storage:
            self.storage.stage_measured(measured)
        self.charge_measured(measured, release)
        if self.storage:
            self.storage.promote_measured(measured.round)

    def charge_measured(self, measured: MetricsRelease, release: Release) -> None:
        """Charge metrics; the same ones again count once, another draw is refused."""
        where = (self.population, self.run, measured.round, EVERYBODY)
        self.ledger.charge(*where, release, digest=measured.digest())

    def charged(self, checkpoint: Checkpoint | MetricsRelease) -> bool:
        """Tell whether this very checkpoint, or these very metrics, were charged already."""
        return checkpoint.charged_by(self.ledger.entries(self.population, self.run, checkpoint.round))

    def refuse_missing(self, last: Checkpoint, measured: Iterable[MetricsRelease]) -> None:
        """Refuse to go on, or to say what a run cost, if the ledger does not hold every release of the run.

        Parameters
        ----------
        last : Checkpoint
            After the last round that was published.
        measured : iterable of MetricsRelease
            The metrics that were published.

        Raises
        ------
        InputError
            Something is missing, or the ledger holds another draw of the last round.
        """
        entries = self.ledger.entries(self.population, self.run)
        charged = {(entry.round, entry.group) for entry in entries}
        published = {(number, group) for number in range(1, last.round + 1) for group in last.billboards}
        published |= {(one.round, EVERYBODY) for one in measured}
        if not published <= charged or (last.round and not last.charged_by(entries)):
            raise InputError(
                f"the ledger {self.ledger.path} does not hold all {last.round} rounds that run {self.run!r} has "
                "published; restore the ledger that the run was started with: going on would under-count what was "
                "released."
            )


_OLD = {"Boundary": "Checkpoint"}
"""Old names of what is here, and their new ones; they work, with a warning, until version 0.2."""


def __getattr__(name: str) -> Any:
    return globals()[renamed(__name__, name, _OLD)]
