"""Tasks as a table again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_frame"]


def as_frame(
    names: Sequence[str],
    parts: Mapping[str, tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]],
    columns: tuple[str, ...] | None,
    task: str,
    target: str,
    part: str,
) -> pd.DataFrame:
    """Return a row for each example: person after person, each one's parts in their order.

    Parameters
    ----------
    names : sequence of str
        Of the people.
    parts : mapping of str to (inputs, targets, offsets)
        Train, validation and test.
    columns : tuple of str, or None
        What the columns of inputs are called, x0, x1, ... unless given.
    task, target, part : str
        What the other columns are called.

    Raises
    ------
    InputError
        A column would be called like another one.
    """
    import pandas as pd

    inputs, targets = (np.concatenate([one[place] for one in parts.values()]) for place in (0, 1))
    sizes = [np.diff(offsets) for _, _, offsets in parts.values()]
    owner = np.concatenate([np.repeat(np.arange(len(names)), one) for one in sizes])
    which = np.repeat(np.arange(len(parts)), [int(one.sum()) for one in sizes])
    flat = inputs.reshape(len(inputs), -1)
    wide = targets.reshape(len(targets), -1)
    called = columns if columns is not None else tuple(f"x{place}" for place in range(flat.shape[1]))
    answers = [target] if wide.shape[1] == 1 else [f"{target}{place}" for place in range(wide.shape[1])]
    every = [task, part, *called, *answers]
    if len(set(every)) < len(every):
        twice = next(one for place, one in enumerate(every) if one in every[:place])
        raise InputError(f"two columns would be called {twice!r}; give task, target or part another name.")
    order = np.lexsort((which, owner))
    table: dict[str, Any] = {task: np.array(names, dtype=object)[owner[order]]}
    table[part] = np.array(list(parts), dtype=object)[which[order]]
    table |= {name: flat[order, place] for place, name in enumerate(called)}
    table |= {name: wide[order, place] for place, name in enumerate(answers)}
    return pd.DataFrame(table)
