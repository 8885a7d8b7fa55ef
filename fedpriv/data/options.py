"""Which classes read the keys of ``[data]``, by name of the data set."""

from __future__ import annotations

from fedpriv.data.dataset import Partition
from fedpriv.data.fewshot import FewShot
from fedpriv.data.loading import READERS
from fedpriv.data.natural import NATURAL
from fedpriv.data.schemes import SCHEMES
from fedpriv.data.synthetic import SYNTHETIC
from fedpriv.settings import Settings

__all__ = ["data_classes", "partition_names"]


def data_classes() -> dict[str, tuple[type[Settings], ...]]:
    """Return by data set the classes whose settings may stand beside its name."""
    divided: tuple[type[Settings], ...] = (Partition, FewShot, *SCHEMES.values())
    return {
        **{name: (kind,) for name, kind in {**SYNTHETIC, **NATURAL}.items()},
        **{name: (kind, *divided) for name, kind in READERS.items()},
    }


def partition_names() -> list[str]:
    """Return the names that ``data.partition`` may have."""
    return sorted([*SCHEMES, "few-shot"])
