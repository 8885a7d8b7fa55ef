"""A labelled data set in memory, and how it becomes tasks."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from fedpriv.data.catalog import SourceInfo
from fedpriv.data.scheme import Pool
from fedpriv.data.schemes import make_scheme
from fedpriv.errors import InputError
from fedpriv.randomness import generator
from fedpriv.settings import Settings
from fedpriv.split import Fractions, split_task

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Ragged, Tasks

__all__ = ["Dataset", "Partition"]

_LOG = logging.getLogger(__name__)


class Partition(Settings):
    """What all schemes share: see :meth:`Dataset.partition`."""

    tasks: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    fractions: Fractions = (0.6, 0.2, 0.2)
    drop_unusable: bool = False
    groups: int | None = Field(default=None, ge=1)

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: Fractions) -> Fractions:
        train, validation, test = fractions
        if not (train > 0 and validation >= 0 and test > 0 and math.isclose(sum(fractions), 1.0, abs_tol=1e-9)):
            raise ValueError(
                "'fractions' must be the shares of train, validation and test, sum to 1, and be positive "
                f"for train and test, got {fractions}."
            )
        return fractions


@dataclass(frozen=True)
class Dataset:
    """A classification data set in memory.

    Attributes
    ----------
    name : str
        The name it was loaded by.
    inputs : ndarray of float32, shape [N, ...]
        The examples; images have shape [1, height, width] and values in [0, 1], ink at 1.
    targets : ndarray of int64, shape [N]
        Classes from 0 to ``num_classes - 1``.
    num_classes : int
        Number of classes.
    source : SourceInfo
        Where it comes from.
    natural_ids : ndarray of int64, shape [N], or tuple of str, or None
        Who made each example.
    natural_unit : str
        What a natural id stands for, in names of tasks.

    Raises
    ------
    InputError
        Natural ids are not one whole number or text for each example.
    """

    name: str
    inputs: NDArray[np.float32] = field(repr=False)
    targets: NDArray[np.int64] = field(repr=False)
    num_classes: int
    source: SourceInfo
    natural_ids: NDArray[np.int64] | tuple[str, ...] | None = field(default=None, repr=False)
    natural_unit: str = "id"

    def __post_init__(self) -> None:
        if self.natural_ids is None:
            return
        ids = np.asarray(self.natural_ids)
        if ids.dtype.kind not in "iuU" or ids.shape != (len(self),):
            raise InputError(
                f"natural_ids of {self.name!r} must be {len(self)} whole numbers or texts, one for each example, got "
                f"{ids.dtype} of shape {ids.shape}; give [str(one) for one in ids] of other values."
            )

    def __len__(self) -> int:
        return len(self.targets)

    def partition(
        self,
        scheme: str,
        *,
        tasks: int | None = None,
        seed: int = 0,
        fractions: Fractions = (0.6, 0.2, 0.2),
        drop_unusable: bool = False,
        groups: int | None = None,
        **options: Any,
    ) -> Tasks:
        """Divide the examples among tasks, and each task's examples into train, validation and test.

        Parameters
        ----------
        scheme : {"dirichlet", "iid", "natural", "shards"}
            How the examples are divided; its options follow as keywords. See :mod:`fedpriv.data.schemes`.
        tasks : int, optional
            How many tasks; only "natural" knows a number of its own.
        seed : int
            Public. The partition and the splits depend on it and on nothing else random.
        fractions : tuple of 3 floats
            Shares of train, validation and test within each task, by the rule of
            :func:`~fedpriv.split.split_sizes`. A validation share of 0 gives empty validation parts.
        drop_unusable : bool
            Leave out tasks with fewer than 2 training examples, one training class, or no test example. A
            rule that looks at the data, so for public benchmark data only; the others keep their names, and
            the number left out is logged and stands in ``Tasks.dataset``. Otherwise ``Tasks.check`` refuses
            such tasks.
        groups : int, optional
            Public cluster labels: task k gets ``k % groups``. They carry no knowledge about the data.
        **options
            The scheme's own settings, for example ``alpha=0.3``.

        Returns
        -------
        Tasks
            With names such as ``digits/dirichlet(alpha=0.3,seed=0)/00017``: data set, scheme with every
            setting that is not at its default, number. Names identify a population, so they do not depend on
            the fractions. A task's split depends on the seed and its name.

        Raises
        ------
        InputError
            An unknown scheme or option, a value out of bounds, a partition that cannot be made, or no usable
            task.

        Examples
        --------
        >>> from fedpriv.data import load
        >>> tasks = load("digits").partition("dirichlet", tasks=100, alpha=0.3, seed=0)
        >>> len(tasks), tasks.input_shape
        (100, (1, 8, 8))
        """
        # fedpriv.cohort brings torch, which takes seconds: not for `import fedpriv.data`.
        from fedpriv.cohort.tasks import Tasks

        common = Partition(tasks=tasks, seed=seed, fractions=fractions, drop_unusable=drop_unusable, groups=groups)
        kind = make_scheme(scheme, options)
        ids = None if self.natural_ids is None else np.asarray(self.natural_ids)
        pool = Pool(self.name, self.targets, self.num_classes, ids, self.natural_unit)
        drawn = kind.assign(pool, common.tasks, common.seed)

        parts: list[tuple[NDArray[np.int64], ...]] = []
        kept: list[int] = []
        for number, indices in enumerate(drawn.indices):
            rng = generator(common.seed, f"data/split/{drawn.names[number]}")
            split = split_task(self.targets[indices], common.fractions, rng)
            task = tuple(indices[positions] for positions in split)
            if common.drop_unusable and not _usable(self.targets[task[0]], len(task[2])):
                continue
            parts.append(task)
            kept.append(number)
        dropped = len(drawn.indices) - len(kept)
        if not kept:
            raise InputError(
                f"none of the {dropped} tasks of {self.name!r} can be trained on and tested; lower tasks or "
                "choose "
                "another partition."
            )
        origin = f"{self.name}/{kind.label(common.seed)}"
        if dropped:
            _LOG.warning("%s: left out %d of %d tasks as unusable (a public rule)", origin, dropped, len(drawn.indices))
            origin += f", {dropped} of {len(drawn.indices)} tasks left out as unusable"
        return Tasks(
            dataset=origin,
            names=tuple(drawn.names[number] for number in kept),
            train=self._gather([task[0] for task in parts]),
            validation=self._gather([task[1] for task in parts]),
            test=self._gather([task[2] for task in parts]),
            num_classes=self.num_classes,
            declared=self.source.declared,
            groups=None if common.groups is None else tuple(number % common.groups for number in kept),
        )

    def _gather(self, indices: list[NDArray[np.int64]]) -> Ragged:
        from fedpriv.cohort.tasks import Ragged

        flat = np.concatenate(indices)
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in indices])]).astype(np.int64)
        return Ragged(self.inputs[flat], self.targets[flat], offsets)


def _usable(train_labels: NDArray[np.int64], test_size: int) -> bool:
    return len(train_labels) >= 2 and test_size >= 1 and bool((train_labels != train_labels[0]).any())
