"""Low-rank-plus-sparse models in their compact file: the shared factors once, and r + k numbers for each task.

::

    run.personal.save("models.safetensors")

    from fedpriv.lrs.store import PersonalModels
    models = PersonalModels.open(Path("models.safetensors"))
    models.predict(tasks, inputs)     # tasks [n] by their place in the population, inputs [n, d]
"""

from __future__ import annotations

from typing import TypeGuard

import numpy as np

from fedpriv.clients import LowRankSparse
from fedpriv.errors import InputError
from fedpriv.lrs.store import PersonalModels
from fedpriv.personal.nodes import LiveModels
from fedpriv.personal.outline import Outline, Source

__all__ = ["compact", "has_compact_form"]

_OWN = ("coefficients", "index", "values")


def has_compact_form(source: Source) -> bool:
    """Tell whether models are low-rank plus sparse, with the same factors for everybody."""
    return _low_rank_sparse(source) and len(source.billboards) == 1


def compact(outline: Outline, source: Source) -> PersonalModels:
    """Return the models as their tasks keep them.

    Raises
    ------
    InputError
        They have another form, or groups have factors of their own.
    """
    if not _low_rank_sparse(source):
        raise InputError(
            f"only low-rank-plus-sparse models have a compact file, and this run's client is {outline.client!r}; give "
            "the path of a folder, which takes the models of every client."
        )
    if len(source.billboards) != 1:
        raise InputError(
            f"there is a billboard for each of {len(source.billboards)} groups, and a compact file holds one; give the "
            "path of a folder, or export a run without groups."
        )
    (billboard,) = source.billboards.values()
    pieces = list(source.states(np.arange(len(outline.roster), dtype=np.int64)))  # in the order of their ids
    own = {name: np.concatenate([state[name].numpy() for _, state in pieces]) for name in _OWN}
    return PersonalModels(np.asarray(billboard["factors"]), **own)


def _low_rank_sparse(source: Source) -> TypeGuard[LiveModels]:
    return isinstance(source, LiveModels) and all(
        isinstance(node.spec.algorithm, LowRankSparse) for node in source.nodes
    )
