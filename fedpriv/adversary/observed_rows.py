"""What a server sees of some tasks in one round, with the truth by which attacks are judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.cohort import Batch, Cohort, Episodes, InnerLoop, Key, Marks, Params, Problem
from fedpriv.errors import InputError

__all__ = ["EpisodicClient", "NonMembers", "ObservedRows", "non_members", "observe_rows"]

Images = NDArray[np.float32]


class EpisodicClient(Protocol):
    """A client whose update is the gradient of one episode; see :class:`fedpriv.clients.MAML`."""

    @property
    def inner(self) -> InnerLoop:
        """How tasks adapt."""

    @property
    def from_zero(self) -> tuple[str, ...]:
        """Arrays that start from zero in every task, and of which nothing is sent."""

    def begin(self, billboard: Params) -> Params:
        """Return where every task begins."""

    def draw(self, cohort: Cohort, key: Key) -> Episodes:
        """Return the episodes of one participation, before any noise."""


@dataclass(frozen=True)
class ObservedRows:
    """One game per row.

    Attributes
    ----------
    problem : Problem
        Model and loss, which the server chose.
    billboard : Params, each [...]
        Where the tasks began: what the server published, and zeros for arrays that start from zero.
    gradient : Params, each [G, ...]
        Meta-gradients, up to a positive factor each: rows are clipped. Without arrays that start from zero.
    support, query : Batch
        Truth: the episodes behind them, without padding.
    inner : InnerLoop
        How tasks adapt, which the server chose.
    positions : ndarray of int64, shape [G]
        Of the tasks within their population.
    """

    problem: Problem
    billboard: Params
    gradient: Params
    support: Batch
    query: Batch
    inner: InnerLoop
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, which: NDArray[np.int64] | slice) -> ObservedRows:
        """Return some of the rows."""
        return replace(
            self,
            gradient={name: value[which] for name, value in self.gradient.items()},
            support=_rows(self.support, which),
            query=_rows(self.query, which),
            positions=self.positions[which],
        )


def observe_rows(
    problem: Problem, client: EpisodicClient, billboard: Params, rows: Params, cohort: Cohort, key: Key
) -> tuple[ObservedRows, int]:
    """Put rows that a server received beside the episodes that they came from.

    Parameters
    ----------
    rows : Params, each [C, ...]
        Updates as they arrived, noise of the nodes included: negative meta-gradients.
    cohort : Cohort
        Whose they are.
    key : Key
        Seed and round of the run, from which every task drew its episode.

    Returns
    -------
    ObservedRows
        Rows that can be attacked.
    int
        How many cannot: all zero (refused, failed) or of an episode that is not full.

    Raises
    ------
    InputError
        A row is not finite, or none is left.
    """
    flat = torch.cat([value.reshape(len(cohort), -1) for value in rows.values()], dim=1)
    if not bool(flat.isfinite().all()):
        bad = torch.nonzero(~flat.isfinite().all(dim=1)).flatten()
        raise InputError(
            f"{len(bad)} of {len(cohort)} recorded rows hold NaN or infinite values (the first is of task "
            f"{cohort.tasks.names[int(cohort.positions[int(bad[0])])]!r}); a node that does not clip sent them: "
            "leave these tasks out."
        )
    drawn = client.draw(cohort, key)
    support, query = _trimmed(drawn.support), _trimmed(drawn.query)
    usable = (flat != 0).any(dim=1) & (support.mask > 0).all(dim=1) & (query.mask > 0).all(dim=1)
    kept = torch.nonzero(usable).flatten().numpy()
    if not len(kept):
        zero = int((flat == 0).all(dim=1).sum())
        if zero == len(cohort):
            raise InputError(
                f"all {zero} recorded rows are zero: their tasks refused, failed, or could not be computed with, so "
                "there is nothing to attack."
            )
        raise InputError(
            f"none of the {len(cohort)} recorded rows can be attacked: {zero} are zero, and the episodes of the others "
            "have fewer examples than client.shots and client.queries ask for; lower these."
        )
    gradient = {name: -value.to(problem.dtype) for name, value in rows.items() if name not in client.from_zero}
    whole = ObservedRows(problem, client.begin(billboard), gradient, support, query, client.inner, cohort.positions)
    return whole.part(kept), len(cohort) - len(kept)


@dataclass(frozen=True)
class NonMembers:
    """Images that were in no seen episode.

    Attributes
    ----------
    anywhere : ndarray, shape [G, c, H, W]
        One image of another task for each row, of whatever class: the paper's non-members.
    alike : list of ndarray, each [k, c, H, W]
        Per row, images of the same task and the same class as the slot, that its episode left out.
    """

    anywhere: Images
    alike: list[Images]


def non_members(
    seen: ObservedRows, cohort_of: Cohort, slots_of: Batch, slots: Tensor, generator: np.random.Generator
) -> NonMembers:
    """Find non-members for a slot of every row, by the paper's rule and by the controlled one.

    Parameters
    ----------
    cohort_of : Cohort
        Any cohort of the population; ``seen.positions`` point into its tasks.
    slots_of : Batch
        ``seen.support`` or ``seen.query``.
    slots : Tensor, int64 [G]
        The slot of every row.

    Raises
    ------
    InputError
        A task has no image of its slot's class that its episode left out.
    """
    tasks = cohort_of.tasks
    anywhere, alike = [], []
    for row, position in enumerate(seen.positions.tolist()):
        truth = slots_of.inputs[row, int(slots[row])].numpy()
        own = [
            (part.inputs[part.rows(position)], part.targets[part.rows(position)]) for part in (tasks.train, tasks.test)
        ]
        images, labels = (np.concatenate(list(both)) for both in zip(*own, strict=True))
        images = images.astype(truth.dtype)
        # Labels may have changed names within the episode, so the class is that of the image itself.
        label = labels[int(_same(images, truth).argmax())]
        used = np.concatenate([seen.support.inputs[row].numpy(), seen.query.inputs[row].numpy()])
        free = np.array([not _same(used, image).any() for image in images]) & (labels == label)
        if not free.any():
            raise InputError(
                "an image is compared with one of the same task and class that is in no episode, and task "
                f"{tasks.names[position]!r} has none left of a class; lower client.queries, or give its classes more "
                "examples than client.shots and client.queries take."
            )
        alike.append(generator.permutation(images[free]))
        other = int(generator.integers(len(tasks) - 1))
        stock = tasks.train.inputs[tasks.train.rows(other + (other >= position))]
        anywhere.append(stock[int(generator.integers(len(stock)))].astype(truth.dtype))
    return NonMembers(np.stack(anywhere), alike)


def _same(images: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (images == one).all(axis=tuple(range(1, images.ndim)))
    return found


def _rows(batch: Batch, which: NDArray[np.int64] | slice) -> Batch:
    mask = batch.mask[which]
    return Batch(batch.inputs[which], batch.targets[which], Marks(mask, full=batch.marks.full))


def _trimmed(batch: Batch) -> Batch:
    """Leave out places that no task fills; what is left is full for every task that is kept."""
    width = int(batch.sizes.max())
    mask = batch.mask[:, :width]
    return Batch(batch.inputs[:, :width], batch.targets[:, :width], Marks(mask, full=bool((mask > 0).all())))
