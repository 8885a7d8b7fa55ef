"""Personal models out of a run: as modules, for predictions, and as private files."""

from fedpriv.personal.folder import is_export
from fedpriv.personal.mapping import Personal, no_task
from fedpriv.personal.nodes import LiveModels, refitted, restored
from fedpriv.personal.opened import open_models
from fedpriv.personal.outline import NOT_PROTECTED, Outline
from fedpriv.personal.tables import read_examples

__all__ = [
    "NOT_PROTECTED",
    "LiveModels",
    "Outline",
    "Personal",
    "is_export",
    "no_task",
    "open_models",
    "read_examples",
    "refitted",
    "restored",
]
