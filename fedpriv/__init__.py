"""fedpriv: federated learning of personalised models under a formal privacy guarantee."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fedpriv.errors import BudgetExceeded, ComponentFailure, FedprivError, InputError, NoGuarantee

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Tasks
    from fedpriv.data import load
    from fedpriv.experiment import Experiment
    from fedpriv.opening import open_run
    from fedpriv.personal import open_models
    from fedpriv.privacy.target import Target
    from fedpriv.roster import Roster
    from fedpriv.runs import free_folder
    from fedpriv.summary import RunResult

__all__ = [
    "BudgetExceeded",
    "ComponentFailure",
    "Experiment",
    "FedprivError",
    "InputError",
    "NoGuarantee",
    "Roster",
    "RunResult",
    "Target",
    "Tasks",
    "free_folder",
    "load",
    "open_models",
    "open_run",
]

# A task's bits must not depend on the tasks beside it. On processors without AVX-512, MKL rounds a product by
# where its matrices lie in memory, too, unless it is told before its first product that this must not be.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_LATE = {
    "Experiment": "fedpriv.experiment",
    "Roster": "fedpriv.roster",
    "RunResult": "fedpriv.summary",
    "Target": "fedpriv.privacy.target",
    "Tasks": "fedpriv.cohort.tasks",
    "free_folder": "fedpriv.runs",
    "load": "fedpriv.data",
    "open_models": "fedpriv.personal",
    "open_run": "fedpriv.opening",
}


def __getattr__(name: str) -> Any:
    """Import heavy parts when they are first asked for, so that the command line starts quickly."""
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'fedpriv' has no attribute {name!r}")
