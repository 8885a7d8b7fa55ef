"""Run folders: metrics, checkpoints, resume."""

from fedpriv.runs.checkpoint import BoundaryStore, read_states, write_states
from fedpriv.runs.folder import RunFolder, free_folder, plain, read_config

__all__ = ["BoundaryStore", "RunFolder", "free_folder", "plain", "read_config", "read_states", "write_states"]
