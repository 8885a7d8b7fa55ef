"""A server's step with what it gets and returns checked: a faulty one is named before its round is charged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import ComponentFailure, InputError
from fedpriv.protocol import Arrays, Billboards
from fedpriv.strategies.server_updates.update import NoisySum, ServerUpdate

__all__ = ["changed", "first_state", "frozen", "next_step"]


def first_state(update: ServerUpdate, billboards: Billboards) -> Billboards:
    """Return the state before round 1 in float64, by group; groups without any are left out.

    Raises
    ------
    InputError
        ``initial_state`` fails, or gives something else than arrays of numbers.
    """
    found: Billboards = {}
    for group, one in billboards.items():
        try:
            state = _owned(update.initial_state(frozen(one)), np.float64)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{type(update).__name__}.initial_state must return arrays of numbers by name, and leave the billboard "
                f"as it is: {_cause(error)}."
            ) from error
        if state:
            found[group] = state
    return found


def next_step(
    update: ServerUpdate, released: Mapping[str, NoisySum], billboards: Billboards, state: Billboards, *, spent: bool
) -> tuple[Billboards, Billboards]:
    """Return the next billboards and the state of the update, by group.

    Parameters
    ----------
    update : ServerUpdate
        What moves the billboards; it gets what was released and its own state, and nothing else.
    released : mapping
        By group.
    billboards, state : dict
        Those of the round before.
    spent : bool
        Whether the noise was drawn for this round: then it is charged whatever the step does, and never drawn again.

    Raises
    ------
    ComponentFailure
        The step fails, or makes something that nodes, or the next round, could not use.
    """
    name, end = type(update).__name__, "nothing was published"
    if spent:
        end += ", and the round is charged, because the step saw its noisy sum: mend it, and start a new run"
    published: Billboards = {}
    kept: Billboards = {}
    for group, noisy in released.items():
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at below
                found: Any = update.step(noisy, frozen(state.get(group, {})))
            if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(one, Mapping) for one in found)):
                raise TypeError(f"it must return the pair (billboard, state), both mappings, got {_kind(found)}")
            published[group] = _owned(found[0])
            if found[1]:
                kept[group] = _owned(found[1], np.float64)
        except Exception as error:
            raise ComponentFailure(
                f"{name}.step failed in round {noisy.round}: {_cause(error)}; {end}. It gets arrays that are "
                "read-only, and returns a billboard and a state: arrays of numbers by name."
            ) from error
    for what, before, after in (("publish", billboards, published), ("keep", state, kept)):
        if (array := changed(before, after)) is None:
            continue
        wanted, got = _shape(before, array), _shape(after, array)
        if wanted is None:
            place = "initial_state" if what == "keep" else "the billboard"
            raise ComponentFailure(f"{name} must {what} {array!r} no more: {place} has no such array; {end}.")
        raise ComponentFailure(
            f"{name} must {what} {array!r} as {wanted}, as in the round before, got {got or 'no such array'}; {end}."
        )
    for group, arrays in published.items():
        for array, value in arrays.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ComponentFailure(
                    f"{name} makes {array!r} of group {group!r} a NaN or an infinity in round {released[group].round}, "
                    f"which no task could start from; {end}. A lower server_learning_rate may help, too."
                )
    return published, kept


def frozen(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return views that cannot be written to."""
    found = {name: value.view() for name, value in arrays.items()}
    for value in found.values():
        value.setflags(write=False)
    return found


def changed(before: Billboards, after: Billboards) -> str | None:
    """Return the first array, as ``group/name``, that is not in both with one shape and type."""
    kinds = [
        {(group, name): (value.shape, value.dtype) for group, arrays in one.items() for name, value in arrays.items()}
        for one in (before, after)
    ]
    if kinds[0] == kinds[1]:  # as in every round of a good step
        return None
    names = {f"{group}/{name}" for group, name in kinds[0] | kinds[1]}
    return min((name for name in names if _shape(before, name) != _shape(after, name)), default=None)


def _owned(arrays: Mapping[str, NDArray[Any]], dtype: Any = None) -> Arrays:
    found = {name: np.array(value) for name, value in arrays.items()}
    for name, value in found.items():
        if value.dtype.kind not in "fiub":
            raise TypeError(f"{name!r} is {value.dtype}, no array of real numbers")
    return found if dtype is None else {name: value.astype(dtype) for name, value in found.items()}


def _shape(arrays: Billboards, name: str) -> tuple[tuple[int, ...], str] | None:
    group, _, own = name.partition("/")
    value = arrays.get(group, {}).get(own)
    return None if value is None else (value.shape, str(value.dtype))


def _kind(found: Any) -> str:
    if isinstance(found, tuple):
        return f"a tuple of {', '.join(type(one).__name__ for one in found) or 'nothing'}"
    return type(found).__name__


def _cause(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return text if isinstance(error, TypeError | InputError) else f"{type(error).__name__}: {text}"
