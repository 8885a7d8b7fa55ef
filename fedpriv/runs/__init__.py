"""Run folders: metrics, checkpoints, resume."""

from fedpriv.runs.checkpoint import BoundaryStore, read_states, write_states
from fedpriv.runs.folder import RunFolder, begun, free_folder, made_in_python, plain, read_config, read_finished

__all__ = [
    "BoundaryStore",
    "RunFolder",
    "begun",
    "free_folder",
    "made_in_python",
    "plain",
    "read_config",
    "read_finished",
    "read_states",
    "write_states",
]
