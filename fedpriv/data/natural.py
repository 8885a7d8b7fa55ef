"""Regression tasks that exist: raters and groups of raters, schools. Their own division is the only one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedpriv.data.catalog import SourceInfo, data_directory, locate, source
from fedpriv.data.dataset import Partition
from fedpriv.data.item_factors import ItemFactors, Ratings, fit_item_factors
from fedpriv.data.keep import kept
from fedpriv.data.tables import numbers, read_columns
from fedpriv.errors import InputError
from fedpriv.names import kebab, unknown
from fedpriv.randomness import generator
from fedpriv.settings import Settings
from fedpriv.split import Fractions, split_task

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Tasks

__all__ = ["NATURAL", "Chem97", "Exam", "Insteval", "Movielens", "natural_tasks"]

Array = NDArray[np.float64]
_AGES = (18, 25, 35, 45, 50, 56)
"""Where an age group of MovieLens 1M begins; 100K states ages."""


class NaturalTasks(Settings):
    """What all of them share.

    Attributes
    ----------
    seed : int
        Fixes each task's split and nothing else.
    fractions : tuple of 3 floats
        Shares of train, validation and test within each task.
    min_examples : int
        Tasks with fewer are left out: a rule that looks at the data, so for public benchmark data.
    """

    seed: int = Field(default=0, ge=0)
    fractions: Fractions = (0.6, 0.2, 0.2)
    min_examples: int = Field(default=4, ge=3)

    @abstractmethod
    def make(self, data_dir: Path | str | None) -> Tasks:
        """Read the files and return the tasks: inputs float64 [N, d], targets float64 [N]."""

    def _found(self, number: int = 0) -> tuple[SourceInfo, Any]:
        info = source(kebab(type(self).__name__))
        return info, info.files[number]

    def _tasks(
        self, origin: str, names: Sequence[str], owner: NDArray[np.int64], inputs: Array, targets: Array
    ) -> Tasks:
        """Divide examples [N, d] by the task that each belongs to, and each task's examples by the seed."""
        from fedpriv.cohort.tasks import Ragged, Tasks

        shares = Partition(fractions=self.fractions).fractions
        parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
        chosen: list[str] = []
        order = np.argsort(owner, kind="stable")
        for name, rows in zip(
            names, np.split(order, np.cumsum(np.bincount(owner, minlength=len(names)))[:-1]), strict=True
        ):
            if len(rows) < self.min_examples:
                continue
            chosen.append(f"{origin}/{name}")
            rng = generator(self.seed, f"data/split/{chosen[-1]}")
            for part, places in zip(parts, split_task(np.zeros(len(rows), np.int64), shares, rng), strict=True):
                part.append(rows[places])
        if not chosen:
            raise InputError(f"no task of {origin!r} has {self.min_examples} examples; lower data.min_examples.")
        train, validation, test = (
            Ragged.from_lists([inputs[rows] for rows in part], [targets[rows] for rows in part]) for part in parts
        )
        label = f"{origin}, {len(names) - len(chosen)} of {len(names)} tasks left out as too small"
        where = origin if len(chosen) == len(names) else label
        return Tasks(where, tuple(chosen), train, validation, test, num_classes=None, declared="benchmark")


class RatedItems(NaturalTasks):
    """Tasks that rate items, described by what public people said about them.

    Attributes
    ----------
    public : float
        Share of the people who are declared public: item factors are fitted on their ratings, and they are no tasks.
        Who they are follows from the set and the unit, and not from the seed.
    rank : int
        Number of factors; models have ``rank + 2`` features (:class:`fedpriv.data.item_factors.ItemFactors`).
    """

    public: float = Field(default=0.3, gt=0, lt=1)
    rank: int = Field(default=50, ge=1)

    def _rated(self, origin: str, ratings: Ratings, groups: NDArray[Any]) -> Tasks:
        """Return one task per group of people who are not public; its targets are mean ratings of items.

        Parameters
        ----------
        origin : str
            For names.
        ratings : Ratings
            Of everybody.
        groups : ndarray of str, shape [people]
            Of each person.
        """
        people, items = len(groups), int(ratings.items.max()) + 1
        order = generator(0, f"data/public/{origin}").permutation(people)
        public = np.zeros(people, dtype=bool)
        public[order[: max(1, round(self.public * people))]] = True
        told = public[ratings.people]
        fitted: ItemFactors = kept(
            ("item factors", origin, self.public, self.rank),
            lambda: fit_item_factors(
                Ratings(ratings.people[told], ratings.items[told], ratings.values[told]), items, self.rank
            ),
        )
        names, numbers_of = np.unique(groups[~public], return_inverse=True)
        place = np.zeros(people, dtype=np.int64)
        place[~public] = numbers_of
        key = place[ratings.people[~told]] * items + ratings.items[~told]
        pairs, which = np.unique(key, return_inverse=True)
        targets = np.bincount(which, ratings.values[~told] - fitted.mean) / np.bincount(which)
        return self._tasks(
            origin, [str(name) for name in names], pairs // items, fitted.features[pairs % items], targets
        )


class Movielens(RatedItems):
    """MovieLens: people rate films. Tasks are groups of equal gender, age group and occupation, or single people.

    Attributes
    ----------
    size : {"100k", "1m"}
        Which of the two sets.
    unit : {"clusters", "users"}
        What a task is. A person belongs to one cluster, so what protects clusters protects people, with the epsilon of
        replace-one: who joins or leaves changes a cluster and does not add or remove it.
    """

    size: Literal["100k", "1m"] = "100k"
    unit: Literal["clusters", "users"] = "clusters"

    def make(self, data_dir: Path | str | None) -> Tasks:
        """Read ratings and people of either set."""
        small = self.size == "100k"
        info, file = self._found(0 if small else 1)
        path = locate(info, file, data_directory(data_dir))
        folder = "recbole/dataset_example/ml-100k/ml-100k." if small else "ml-1m/"
        rated, who = (f"{folder}inter", f"{folder}user") if small else (f"{folder}ratings.dat", f"{folder}users.dat")
        user = ["user_id", *(["age", "gender"] if small else ["gender", "age"]), "occupation", "zip_code"]
        rating = ["user_id", "item_id", "rating", "timestamp"]
        rows, people = file.shape
        delimiter = "\t" if small else "::"
        seen = read_columns(path, rating, rows, delimiter=delimiter, member=rated, heading=small)
        about = read_columns(path, user, people, delimiter=delimiter, member=who, heading=small)
        ids, known = np.unique(numbers(about, "user_id", path).astype(np.int64), return_index=True)
        rater = numbers(seen, "user_id", path).astype(np.int64)
        if not np.isin(rater, ids).all():
            raise InputError(f"the file {str(path)!r} has ratings of people that it does not list; fetch it again.")
        age = np.searchsorted(_AGES, numbers(about, "age", path), side="right")
        texts = zip(about["gender"], age.tolist(), about["occupation"], strict=True)
        clusters = np.array([f"{gender}-{group}-{work}" for gender, group, work in texts])[known]
        groups = clusters if self.unit == "clusters" else np.array([f"user-{one:04d}" for one in ids])
        # Numbered by the catalogue, from 1 on. Numbered by what was rated, a film that one protected person alone rated
        # would move all films after it, and with them the start of their factors: everybody's features.
        items = numbers(seen, "item_id", path).astype(np.int64) - 1
        if items.min(initial=0) < 0:
            raise InputError(
                f"the file {str(path)!r} must number films from 1 on, got {items.min() + 1}; fetch it again."
            )
        ratings = Ratings(np.searchsorted(ids, rater), items, numbers(seen, "rating", path))
        return self._rated(f"movielens-{self.size}/{self.unit}", ratings, groups)


class Insteval(RatedItems):
    """InstEval: students of ETH Zurich rate lecturers from 1 to 5; a student is a task."""

    def make(self, data_dir: Path | str | None) -> Tasks:
        """Read students, lecturers and ratings."""
        info, file = self._found()
        path = locate(info, file, data_directory(data_dir))
        columns = read_columns(path, ["s", "d", "y"], file.shape[0])
        students, people = np.unique(numbers(columns, "s", path).astype(np.int64), return_inverse=True)
        items = np.unique(numbers(columns, "d", path), return_inverse=True)[1].astype(np.int64)
        groups = np.array([f"student-{one:04d}" for one in students])
        return self._rated("insteval", Ratings(people.astype(np.int64), items, numbers(columns, "y", path)), groups)


class Schools(NaturalTasks):
    """Pupils of a school are a task; features are 1 and what is known of a pupil."""

    school: ClassVar[tuple[str, ...]]
    target: ClassVar[str]
    known: ClassVar[dict[str, float]]
    """Numeric features, each divided by this."""
    female: ClassVar[str]

    def make(self, data_dir: Path | str | None) -> Tasks:
        """Read the pupils."""
        info, file = self._found()
        path = locate(info, file, data_directory(data_dir))
        columns = read_columns(path, [*self.school, self.target, *self.known, self.female], file.shape[0])
        unknown_sex = sorted({*columns[self.female]} - {"F", "M"})
        if unknown_sex:
            raise InputError(f"the column {self.female!r} of {str(path)!r} must hold F or M, got {unknown_sex[0]!r}.")
        labels = [
            "-".join(f"{int(part):03d}" for part in row) for row in zip(*(columns[n] for n in self.school), strict=True)
        ]
        names, owner = np.unique(labels, return_inverse=True)
        female = np.array([one == "F" for one in columns[self.female]], dtype=np.float64)
        features = [
            np.ones(len(owner)),
            *(numbers(columns, name, path) / by for name, by in self.known.items()),
            female,
        ]
        targets = numbers(columns, self.target, path)
        return self._tasks(info.name, [f"school-{one}" for one in names], owner, np.stack(features, axis=1), targets)


class Exam(Schools):
    """London exams: 65 schools; features 1, standLRT, sex; target normexam."""

    school = ("school",)
    target = "normexam"
    known: ClassVar = {"standLRT": 1.0}
    female = "sex"


class Chem97(Schools):
    """A-level chemistry: 2,410 schools; features 1, gcsecnt, age, sex; target score, 0 to 10."""

    school = ("lea", "school")
    target = "score"
    known: ClassVar = {"gcsecnt": 1.0, "age": 6.0}
    female = "gender"


NATURAL: dict[str, type[NaturalTasks]] = {kebab(kind.__name__): kind for kind in (Movielens, Insteval, Exam, Chem97)}


def natural_tasks(name: str, data_dir: Path | str | None = None, **settings: Any) -> Tasks:
    """Read a population of regression tasks by its name.

    Parameters
    ----------
    name : {"movielens", "insteval", "exam", "chem97"}
        Which.
    data_dir : path, optional
        The data directory; by default ``$FEDPRIV_DATA``.
    **settings
        Fields of that class.

    Raises
    ------
    InputError
        The name or a setting is unknown, a value is out of bounds, or a file is missing or damaged.

    Examples
    --------
    >>> natural_tasks("insteval", seed=1)  # doctest: +SKIP
    """
    if name not in NATURAL:
        raise InputError(unknown("population", name, NATURAL))
    return NATURAL[name](**settings).make(data_dir)
