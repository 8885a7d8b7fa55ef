"""Personal models out of a run: as modules, for predictions, and as private files."""

from fedpriv.personal.compact import personal_models

__all__ = ["personal_models"]
