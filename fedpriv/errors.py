"""The errors of fedpriv, one tree.

::

    FedprivError
    +-- InputError         the user's input is wrong                       exit code 2
    |   +-- NoGuarantee    a combination for which no privacy claim holds  exit code 2
    |   +-- OwnCodeError   code of the user's own failed: quotes its text  exit code 2
    +-- BudgetExceeded     the privacy budget would be exceeded            exit code 3
    +-- ComponentFailure   a part of the system failed                     exit code 4
    +-- Interrupted        somebody stopped the command                    exit code 130, or 143 after SIGTERM

Every message is one sentence or two: the name, the bound, the value got, the next step.
"""

from __future__ import annotations

__all__ = [
    "BudgetExceeded",
    "ComponentFailure",
    "FedprivError",
    "InputError",
    "Interrupted",
    "NoGuarantee",
    "OwnCodeError",
]


class FedprivError(Exception):
    """Base of all errors that fedpriv raises on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 4


class InputError(FedprivError, ValueError):
    """The user's input is wrong; nothing was started."""

    exit_code = 2


class NoGuarantee(InputError):
    """A combination of output, observer, sampling and noise for which no valid guarantee exists."""


class OwnCodeError(InputError):
    """Code of the user's own failed. The message quotes what it said, which may hold values: no node sends it."""


class BudgetExceeded(FedprivError):
    """A release would exceed the privacy budget of its population; it was not made."""

    exit_code = 3


class ComponentFailure(FedprivError):
    """A component (Ray, a shard, a file) failed; the message names it and says how to resume."""

    exit_code = 4


class Interrupted(FedprivError):
    """Somebody stopped a command that can go on; the message says how. In Python an interrupt stays what it is."""

    exit_code = 130
