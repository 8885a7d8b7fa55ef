"""Partition schemes: how the examples of a data set become tasks. One settings class per scheme."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedpriv.data import flower
from fedpriv.data.exact import exact_dirichlet
from fedpriv.data.scheme import Assignment, Pool, Scheme, shuffled
from fedpriv.errors import InputError
from fedpriv.names import kebab, unknown

__all__ = ["SCHEMES", "Dirichlet", "Iid", "Natural", "Shards", "make_scheme", "scheme_names", "scheme_options"]


class Dirichlet(Scheme):
    """Tasks that prefer some classes: the smaller ``alpha``, the fewer classes a task has.

    Two definitions, chosen by ``sizes``:

    - ``"exact"`` (default): every task gets ``examples`` examples (default: all examples divided by the
      number of tasks, rounded down; at least 4) and at least two classes; task k's class proportions are
      drawn from a Dirichlet distribution with parameter ``alpha`` for every class (``prior="uniform"``), or
      ``alpha * C * frequency`` (``prior="empirical"``; C classes). The exact rule:
      :func:`~fedpriv.data.exact.exact_dirichlet`. Hsu et al. [1]_ write the concentration as one number for
      all classes: theirs is C times this ``alpha``.
    - ``"natural"``: every class is divided among the tasks by Dirichlet(``alpha``) proportions over the
      tasks, as in [2]_, by flwr-datasets. Sizes vary widely, and tasks may have one class; ``min_examples``
      (default 4) makes it redraw, ``self_balancing`` stops filling tasks above the average.

    References
    ----------
    .. [1] Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual
       Classification. 2019.
    .. [2] Yurochkin et al.: Bayesian Nonparametric Federated Learning of Neural Networks. ICML 2019.
    """

    alpha: float = Field(gt=0, le=1e6)
    sizes: Literal["exact", "natural"] = "exact"
    examples: int | None = Field(default=None, ge=4)
    prior: Literal["uniform", "empirical"] = "uniform"
    min_examples: int | None = Field(default=None, ge=0)
    self_balancing: bool = False

    @model_validator(mode="after")
    def _match_sizes(self) -> Dirichlet:
        wrong = {
            "exact": {"min_examples": self.min_examples is not None, "self_balancing": self.self_balancing},
            "natural": {"examples": self.examples is not None, "prior": self.prior != "uniform"},
        }[self.sizes]
        for setting, given in wrong.items():
            if given:
                other = "natural" if self.sizes == "exact" else "exact"
                raise ValueError(
                    f"{setting!r} has no meaning for sizes={self.sizes!r}; leave it out or set sizes={other!r}."
                )
        return self

    def draw(self, pool: Pool, tasks: int, seed: int) -> list[NDArray[np.int64]]:
        """Draw by one of the two definitions."""
        if self.sizes == "natural":
            return flower.dirichlet(
                shuffled(pool, seed),
                pool.labels,
                tasks=tasks,
                alpha=self.alpha,
                min_examples=4 if self.min_examples is None else self.min_examples,
                self_balancing=self.self_balancing,
                seed=seed,
            )
        total = len(pool.labels)
        examples = total // tasks if self.examples is None else self.examples
        if examples < 4:
            raise InputError(
                f"dirichlet: {tasks} tasks leave {examples} of {total} examples to each, and a task needs 4 "
                "(2 to "
                f"train, 1 to validate, 1 to test); lower tasks to {total // 4} or less."
            )
        frequency = np.bincount(pool.labels, minlength=pool.num_classes) / total
        # A class without examples never gets any; its parameter only has to be positive.
        weights = np.where(frequency > 0, pool.num_classes * frequency, 1.0)
        concentration = self.alpha * (np.ones(pool.num_classes) if self.prior == "uniform" else weights)
        return exact_dirichlet(
            pool.labels,
            pool.num_classes,
            tasks=tasks,
            examples=examples,
            concentration=concentration,
            seed=seed,
        )


class Shards(Scheme):
    """Tasks with few classes.

    By default every task has exactly ``classes_per_task`` = 2 classes, the first of them in turn and the
    others at random [1]_. With ``shards_per_task`` instead, the examples sorted by class are cut into equal
    shards, and every task gets so many of them [2]_; both shards of a task may be of one class.

    References
    ----------
    .. [1] Li, Diao, Chen, He: Federated Learning on Non-IID Data Silos: An Experimental Study. ICDE 2022.
    .. [2] McMahan et al.: Communication-Efficient Learning of Deep Networks from Decentralized Data. AISTATS
       2017.
    """

    classes_per_task: int | None = Field(default=None, ge=1)
    shards_per_task: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Shards:
        if self.classes_per_task is not None and self.shards_per_task is not None:
            raise ValueError("classes_per_task and shards_per_task exclude each other; give one of them.")
        return self

    def draw(self, pool: Pool, tasks: int, seed: int) -> list[NDArray[np.int64]]:
        """Draw by classes or by shards."""
        order = shuffled(pool, seed)
        if self.shards_per_task is not None:
            if tasks * self.shards_per_task > len(pool.labels):
                raise InputError(
                    f"shards: {tasks} tasks of {self.shards_per_task} shards are more shards than the "
                    f"{len(pool.labels)} examples; lower tasks or shards_per_task."
                )
            return flower.shards(order, pool.labels, tasks=tasks, count=self.shards_per_task, seed=seed)
        classes = 2 if self.classes_per_task is None else self.classes_per_task
        present = len(np.unique(pool.labels))
        if classes > present:
            raise InputError(
                f"shards: classes_per_task must be at most the {present} classes of {pool.name!r}, got {classes}."
            )
        return flower.pathological(order, pool.labels, tasks=tasks, classes=classes, seed=seed)


class Iid(Scheme):
    """Tasks of almost equal size, each a random sample of all examples: the case without heterogeneity."""

    def draw(self, pool: Pool, tasks: int, seed: int) -> list[NDArray[np.int64]]:
        """Shuffle and cut."""
        return flower.iid(shuffled(pool, seed), tasks)


class Natural(Scheme):
    """One task per natural id (a writer, a pupil's school): the unit that privacy protects is a real one.

    Ids with fewer than ``min_examples`` examples are left out (a rule for public data only). Without a number
    of tasks all others are used, else the first so many in the order of their ids. Names do not depend on the
    seed.
    """

    min_examples: int = Field(default=1, ge=1)

    def assign(self, pool: Pool, tasks: int | None, seed: int) -> Assignment:  # noqa: ARG002
        """Give every id its examples."""
        if pool.natural_ids is None:
            raise InputError(
                f"data set {pool.name!r} has no natural ids; use another scheme ("
                f"{', '.join(name for name in scheme_names() if name != 'natural')}) or another data set "
                "(femnist)."
            )
        parts = [part for part in flower.natural(pool.natural_ids) if len(part) >= self.min_examples]
        if not parts or (tasks is not None and tasks > len(parts)):
            raise InputError(
                f"natural: {len(parts)} ids of {pool.name!r} have {self.min_examples} or more examples, and "
                f"{tasks or 'at least 1'} tasks are asked for; lower tasks or min_examples."
            )
        chosen = parts[:tasks]
        ids = [pool.natural_ids[part[0]] for part in chosen]
        texts = [f"{int(i):04d}" if np.issubdtype(type(i), np.integer) else str(i) for i in ids]
        return Assignment(chosen, [f"{pool.name}/{pool.natural_unit}-{text}" for text in texts])

    def draw(self, pool: Pool, tasks: int, seed: int) -> list[NDArray[np.int64]]:
        """Return the positions only."""
        return self.assign(pool, tasks, seed).indices


SCHEMES: dict[str, type[Scheme]] = {kebab(kind.__name__): kind for kind in (Dirichlet, Iid, Natural, Shards)}


def scheme_names() -> list[str]:
    """Return the names of all schemes."""
    return sorted(SCHEMES)


def scheme_options(name: str) -> set[str]:
    """Return the names of a scheme's options; empty for an unknown scheme."""
    return set(SCHEMES[name].model_fields) if name in SCHEMES else set()


def make_scheme(name: str, options: dict[str, Any]) -> Scheme:
    """Return the scheme of that name with validated options; unknown names name the nearest known one."""
    if name not in SCHEMES:
        raise InputError(unknown("partition scheme", name, SCHEMES))
    return SCHEMES[name](**options)
