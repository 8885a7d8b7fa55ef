"""The partitioners of flwr-datasets, run on labels in memory: no images, no network, no progress bars.

A partitioner sees a table with two columns, the position of an example and its label (or natural id), in an
order that the caller chose. ``flwr_datasets`` is imported when a partition is made, not before: its import
takes seconds.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError

__all__ = ["dirichlet", "iid", "natural", "pathological", "shards"]

Indices = list[NDArray[np.int64]]


def iid(order: NDArray[np.int64], tasks: int) -> Indices:
    """Cut ``order`` into consecutive parts of almost equal size (``IidPartitioner`` does not shuffle)."""
    return _run(order, None, lambda kinds: kinds.IidPartitioner(num_partitions=tasks))


def dirichlet(
    order: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    tasks: int,
    alpha: float,
    min_examples: int,
    self_balancing: bool,
    seed: int,
) -> Indices:
    """Divide every class among the tasks by Dirichlet proportions (``DirichletPartitioner``).

    It redraws up to ten times if a task has fewer than ``min_examples`` examples, then gives up.
    """
    advice = (
        f"dirichlet: no draw out of 11 gave every task {min_examples} examples for alpha={alpha:g} and "
        f"{tasks} tasks; raise alpha, lower tasks, lower min_examples (with "
        "drop_unusable=true), or use sizes='exact'"
    )
    return _run(
        order,
        labels,
        lambda kinds: kinds.DirichletPartitioner(
            num_partitions=tasks,
            partition_by="key",
            alpha=float(alpha),
            min_partition_size=min_examples,
            self_balancing=self_balancing,
            seed=seed,
        ),
        advice,
    )


def pathological(
    order: NDArray[np.int64], labels: NDArray[np.int64], *, tasks: int, classes: int, seed: int
) -> Indices:
    """Give every task exactly ``classes`` classes, the first in turn, the others at random."""
    advice = (
        f"shards: {tasks} tasks of {classes} classes each cannot be made, because a class has fewer "
        "examples than tasks that need it; lower tasks or classes_per_task"
    )
    return _run(
        order,
        labels,
        lambda kinds: kinds.PathologicalPartitioner(
            num_partitions=tasks,
            partition_by="key",
            num_classes_per_partition=classes,
            class_assignment_mode="first-deterministic",
            seed=seed,
        ),
        advice,
    )


def shards(order: NDArray[np.int64], labels: NDArray[np.int64], *, tasks: int, count: int, seed: int) -> Indices:
    """Sort by label, cut into ``tasks * count`` equal shards, give ``count`` of them to every task."""
    return _run(
        order,
        labels,
        lambda kinds: kinds.ShardPartitioner(
            num_partitions=tasks, partition_by="key", num_shards_per_partition=count, seed=seed
        ),
    )


def natural(ids: NDArray[Any]) -> Indices:
    """Gather the examples of every natural id, ids in sorted order (``NaturalIdPartitioner``)."""
    order = np.arange(len(ids), dtype=np.int64)
    return _run(order, ids, lambda kinds: kinds.NaturalIdPartitioner(partition_by="key"))


def _run(
    order: NDArray[np.int64], key: NDArray[Any] | None, make: Callable[[Any], Any], advice: str | None = None
) -> list[NDArray[np.int64]]:
    """Run a partitioner on the table (position, key) in the given order; return every task's positions.

    Without an advice, what would stop the partitioner was refused before.
    """
    with _quiet():
        import datasets
        import flwr_datasets.partitioner as kinds

        columns: dict[str, Any] = {"position": order}
        if key is not None:
            columns["key"] = key[order]
        try:
            partitioner = make(kinds)
            partitioner.dataset = datasets.Dataset.from_dict(columns)
            parts = [partitioner.load_partition(number)[:] for number in range(partitioner.num_partitions)]
        except (ValueError, IndexError) as error:
            if advice is None:
                raise
            raise InputError(f"{advice}.") from error
    return [np.asarray(part["position"], dtype=np.int64) for part in parts]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings (each of their causes is an error sentence here) and the bars written to stderr."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
