"""The global game: whether an image is in anybody's query set, and in whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.adversary.matching import query_match
from fedpriv.adversary.observed_rows import ObservedRows, non_members
from fedpriv.adversary.outcome import Rate, exact_rate, threshold
from fedpriv.cohort import Cohort, Engine
from fedpriv.cohort.fast.products import ProductEngine
from fedpriv.cohort.fast.threads import one_torch_thread
from fedpriv.errors import InputError
from fedpriv.randomness import generator as generator_for

__all__ = ["WhichTask", "which_task"]


@dataclass(frozen=True)
class WhichTask:
    """Of candidates that did not choose the threshold, half of them members.

    Attributes
    ----------
    tasks : int
        Among how many tasks the server looked.
    won : Rate
        Members and their task found, or non-members known as such; exact intervals.
    right_task : Rate
        Of the members alone, whose task was named, whether or not they were called members. Guessing gives 1 / tasks.
    """

    tasks: int
    won: Rate
    right_task: Rate

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"tasks": self.tasks, "won": vars(self.won), "right_task": vars(self.right_task)}


def which_task(
    seen: ObservedRows, cohort: Cohort, *, tasks: int = 20, seed: int = 0, engine: Engine | None = None
) -> WhichTask:
    """Play the paper's global game on query sets with the cheap score.

    Every task gives one member and one other of the same class; half of them choose the threshold. What a class is
    called within a task is not known, so each name is tried.

    Parameters
    ----------
    seen : ObservedRows
        Rows and truth; the first ``tasks`` of them take part.
    cohort : Cohort
        Any cohort of the population.

    Raises
    ------
    InputError
        There are fewer than four rows, or a class has no image outside of the episodes.
    """
    rng = generator_for(seed, "attacks/which task")
    seen = seen.part(rng.permutation(len(seen))[:tasks])
    if len(seen) < 4:
        raise InputError(f"the global game needs the rows of 4 tasks or more, got {len(seen)}; let more take part.")
    slots = torch.from_numpy(rng.integers(seen.query.mask.shape[1], size=len(seen)))
    found = non_members(seen, cohort, seen.query, slots, rng)
    members = seen.query.inputs[torch.arange(len(seen)), slots]
    strangers = torch.from_numpy(np.stack([images[0] for images in found.alike])).to(members.dtype)
    with one_torch_thread():
        own, theirs = (_scores(engine or ProductEngine(), seen, images) for images in (members, strangers))
    half = len(seen) // 2
    here = threshold(own[:half].max(axis=1), theirs[:half].max(axis=1))
    named = own.argmax(axis=1) == np.arange(len(seen))
    count = len(seen) - half
    wins = int((named & (own.max(axis=1) >= here))[half:].sum()) + int((theirs.max(axis=1) < here)[half:].sum())
    return WhichTask(len(seen), exact_rate(wins, 2 * count), exact_rate(int(named[half:].sum()), count))


def _scores(engine: Engine, seen: ObservedRows, images: Tensor) -> NDArray[np.float64]:
    """Return how well every image explains every gradient, under the name for its class that fits best, [C, T]."""
    kinds = int(max(seen.query.targets.max(), seen.support.targets.max())) + 1
    known = (engine, seen.problem, seen.billboard, seen.gradient)
    by_name = []
    for name in range(kinds):
        match = query_match(*known, torch.full((len(seen), 1), name))
        by_name.append(torch.stack([match(image.expand(len(seen), 1, *image.shape)).detach() for image in images]))
    return np.asarray(torch.stack(by_name).amax(dim=0).double().numpy())
