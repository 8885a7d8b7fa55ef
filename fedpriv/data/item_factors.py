"""What is known of rated items from people whose ratings are public: the features of everybody else's models.

Factors that were fitted on the people who are protected would be a release of their ratings. So there is no way here
to fit them on anybody but the people who were declared public.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.randomness import generator

__all__ = ["ItemFactors", "Ratings", "fit_item_factors", "fit_levels"]

Array = NDArray[np.float64]
_PRIOR_RATINGS = 5.0
"""Ridge of levels, slopes and factors: as much as so many ratings that say nothing."""
_SWEEPS = 8


@dataclass(frozen=True)
class Ratings:
    """Who rated what how.

    Attributes
    ----------
    people, items : ndarray of int64, shape [n]
        Numbers from 0 on.
    values : ndarray of float64, shape [n]
        Ratings.
    """

    people: NDArray[np.int64]
    items: NDArray[np.int64]
    values: Array


@dataclass(frozen=True)
class ItemFactors:
    """What models of ratings stand on.

    Attributes
    ----------
    mean : float
        Of all public ratings; targets are ratings minus this.
    features : ndarray, shape [items, 2 + rank]
        1, the item's own level, its factors; each scaled by how much people differ in it, so that the weights of one
        person, minus those of all, are about as large for each.
    """

    mean: float
    features: Array


def fit_item_factors(ratings: Ratings, items: int, rank: int) -> ItemFactors:
    """Fit levels, then a factorisation of what they leave by alternating ridge regression.

    Parameters
    ----------
    ratings : Ratings
        Of people who are public.
    items : int
        Number of items; one that nobody public rated has level and factors 0.
    rank : int
        Number of factors; the result is their principal axes.

    Raises
    ------
    InputError
        There are fewer public people, or items, than factors.
    """
    _, people = np.unique(ratings.people, return_inverse=True)
    count = int(people.max(initial=-1)) + 1
    if rank > min(count, items):
        raise InputError(
            f"'rank' must be at most the number of public people {count} and of items {items}, got {rank}; lower it, "
            "or raise 'public'."
        )
    mean, own, level = fit_levels(Ratings(people, ratings.items, ratings.values), count, items, _SWEEPS)
    along = level[ratings.items]
    rest = ratings.values - mean - own[people] - along
    prior = _PRIOR_RATINGS * float(np.mean(along**2))
    slope = np.bincount(people, rest * along, count) / (np.bincount(people, along**2, count) + prior)
    by_person, by_item = _split(people, count), _split(ratings.items, items)
    factors = 0.1 * generator(0, "data/item-factors").standard_normal((items, rank))
    for _ in range(_SWEEPS):
        weights = _solve(factors[ratings.items], rest, by_person)
        factors = _solve(weights[people], rest, by_item)
    values, axes = np.linalg.eigh(weights.T @ weights / count)
    scaled = factors @ (axes * np.sqrt(np.maximum(values, 0.0)))
    left, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    columns = [np.full((items, 1), own.std()), slope.std() * level[:, None], left * sizes]
    return ItemFactors(mean, np.concatenate(columns, axis=1))


def fit_levels(ratings: Ratings, people: int, items: int, sweeps: int) -> tuple[float, Array, Array]:
    """Fit a level per person and one per item in turn, each with a ridge.

    Parameters
    ----------
    ratings : Ratings
        Of all people.
    people, items : int
        How many there are; one without a rating has level 0.
    sweeps : int
        How often each is fitted, given the other.

    Returns
    -------
    tuple of float, ndarray of shape [people], ndarray of shape [items]
        The mean of all ratings, and what is added to it.
    """
    mean = float(ratings.values.mean())
    own, level = np.zeros(people), np.zeros(items)
    per_person = np.bincount(ratings.people, minlength=people) + _PRIOR_RATINGS
    per_item = np.bincount(ratings.items, minlength=items) + _PRIOR_RATINGS
    for _ in range(sweeps):
        level = np.bincount(ratings.items, ratings.values - mean - own[ratings.people], items) / per_item
        own = np.bincount(ratings.people, ratings.values - mean - level[ratings.items], people) / per_person
    return mean, own, level


def _split(keys: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Return where each of so many keys stands."""
    return np.split(np.argsort(keys, kind="stable"), np.cumsum(np.bincount(keys, minlength=count))[:-1])


def _solve(columns: Array, wanted: Array, parts: list[NDArray[np.int64]]) -> Array:
    """Ridge regression of each part, shape [parts, rank]."""
    found = np.zeros((len(parts), columns.shape[1]))
    ridge = _PRIOR_RATINGS * np.eye(columns.shape[1])
    for number, part in enumerate(parts):
        if len(part):
            some = columns[part]
            found[number] = np.linalg.solve(some.T @ some + ridge, some.T @ wanted[part])
    return found
