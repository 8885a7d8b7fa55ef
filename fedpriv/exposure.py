"""The name that :mod:`fedpriv.adversary` had before, for one more version."""

import warnings
from typing import Any

from fedpriv import adversary


def __getattr__(name: str) -> Any:
    """Return what is there under the new name, with a warning."""
    found = getattr(adversary, name)
    warnings.warn("fedpriv.exposure is called fedpriv.adversary now.", DeprecationWarning, stacklevel=2)
    return found
