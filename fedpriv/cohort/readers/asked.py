"""What every reader is told, whatever the form of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedpriv.cohort.readers.column import Placed
from fedpriv.cohort.readers.people import as_split, tidy
from fedpriv.errors import InputError
from fedpriv.roster import Declared
from fedpriv.split import Fractions

__all__ = ["Asked", "Classes", "Found"]

Classes = int | tuple[str, ...] | Literal["infer"] | None
"""The classes as a number, as names in their order, to be looked up, or None for a regression."""

Found = Callable[[str, NDArray[np.int8], Placed], None]
"""Called with a column, a mark for each row (:class:`~fedpriv.cohort.readers.encode.Mark`), and what says where a row
stands. What it gets is private."""


@dataclass(frozen=True)
class Asked:
    """What :class:`fedpriv.cohort.own.OwnData` is told of the data, as the user said it; checked where it is used.

    Attributes
    ----------
    declared : {"benchmark", "protected"}
        What the data are.
    dataset : str
        What reports call the data.
    classes : int, sequence of str or int, "infer" or None
        See :attr:`known`.
    split : (train, validation, test) or str
        Shares within each task, or a column that says the part.
    seed : int
        Public: of the split.
    found : callable or None
        Gets what cannot be used as it is. Of protected data that is private.
    """

    declared: Declared
    dataset: str
    classes: Any = None
    split: Any = (0.6, 0.2, 0.2)
    seed: int = 0
    found: Found | None = None

    @property
    def protected(self) -> bool:
        """Whether values may decide nothing."""
        return self.declared == "protected"

    @property
    def known(self) -> Classes:
        """What the classes are; whole numbers are taken for the texts that stand in a table.

        Raises
        ------
        InputError
            They are none of these, or would be looked up in the labels of protected data.
        """
        given = self.classes
        if given is None:
            return None
        if given == "infer":
            if self.protected:
                raise InputError(
                    "classes='infer' would look classes up in people's labels, so it is for public benchmarks only; "
                    "give their number, or their names in order, classes=['no', 'yes']."
                )
            return "infer"
        if _is_whole(given) and given > 0:
            return int(given)
        listed = isinstance(given, Sequence) and not isinstance(given, str) and given
        if listed and (all(isinstance(one, str) for one in given) or all(map(_is_whole, given))):
            names = tuple(tidy(str(one)) for one in given)
            if len(set(names)) == len(names):
                return names
        raise InputError(
            "classes must be their number, or different texts in their order, or different whole numbers, or left out "
            f"for a regression, got {given!r}; give 2 or ['no', 'yes'], numbers among names in quotation marks."
        )

    def shares(self, of: str) -> Fractions:
        """Return the shares of the split where no column can say the part.

        Raises
        ------
        InputError
            They are no three shares.
        """
        found = as_split(self.split)
        if isinstance(found, str):
            raise InputError(f"split of {of} must be three shares; give [0.6, 0.2, 0.2].")
        return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
