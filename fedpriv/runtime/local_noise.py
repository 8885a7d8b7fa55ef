"""Local noise: what tasks add themselves, bound to what was asked of them and to how often they answered.

A round that is run again because nothing of it was published must give the very same rows: two copies of a row with
fresh noise would be out where one was charged. So noise comes from a secret, by key. But it may not be the same for
two different rows either, since their difference would have none: a server could ask twice in one round, with another
billboard or after the task's state has changed. So the key holds the digest of the request, how often the task took
part before, and whether it took part now.

The key of a row's noise holds the row itself, too, whatever made it another one: a task that was late, or failed, the
first time and not the second would send zeros and then its update, and their difference would be the update. Whoever
does not know the secret cannot tell such noise from fresh one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedpriv.cohort import Cohort
from fedpriv.privacy.entropy import ReproducibleEntropy
from fedpriv.protocol import Request

__all__ = ["GroupRequest", "LocalNoise"]


@dataclass(frozen=True)
class GroupRequest:
    """What a request asks of the tasks of one group."""

    request: Request
    group: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that a task's answer may depend on, besides the task."""
        asked, said = self.request, self.request.declared
        found = hashlib.sha256()
        limits = () if said.banded is None else tuple(said.banded.model_dump().values())
        mechanism = (said.clipping_norm, sorted(said.clipping_norms.items()), said.target_quantile, limits)
        for part in (asked.round, self.group, asked.reply, said.noise_at, said.noise_multiplier, *mechanism):
            found.update(f"{part!r}|".encode())
        for name, value in sorted(asked.billboards.get(self.group, {}).items()):
            found.update(f"{name}|{value.dtype}|{value.shape}|".encode())
            found.update(np.ascontiguousarray(value).tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class LocalNoise:
    """Noise of some tasks for one answer; implements :class:`fedpriv.cohort.Noise`.

    Attributes
    ----------
    source : ReproducibleEntropy
        Made from the node's secret.
    asked : GroupRequest
        What they answer.
    cohort : Cohort
        The tasks.
    before : ndarray of int64, shape [C]
        How often each took part before.
    allowed : ndarray of bool, shape [C], or None
        Who takes part now; a row of zeros in place of a refused one must not show the noise of an answer. None is all.
    """

    source: ReproducibleEntropy
    asked: GroupRequest
    cohort: Cohort
    before: NDArray[np.int64]
    allowed: NDArray[np.bool_] | None = None

    def normal(self, purpose: str, round: int, shape: int | Sequence[int], group: str = "") -> NDArray[np.float64]:
        """Return the standard normals of one task, which ``group`` names as ``task <id>``."""
        return self.source.normal(purpose, round, shape, f"{group}|{self._labels.get(group, '')}|{self.asked.digest}")

    def row(self, position: int, values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the standard normals, flat, for the row of one task, by its place in the cohort and what it holds."""
        found = hashlib.sha256()
        for value in values:
            found.update(np.ascontiguousarray(value).tobytes())
        size = sum(value.size for value in values)
        task = f"task {int(self.cohort.ids[position])}"
        return self.normal(f"row {found.hexdigest()}", self.asked.request.round, size, task)

    @cached_property
    def _labels(self) -> dict[str, str]:
        allowed = np.ones(len(self.before), dtype=bool) if self.allowed is None else self.allowed
        several = zip(self.cohort.ids.tolist(), self.before.tolist(), allowed.tolist(), strict=True)
        return {f"task {task}": f"{count} before, {'part' if part else 'refused'}" for task, count, part in several}
