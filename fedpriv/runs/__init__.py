"""Run folders: metrics, checkpoints, resume."""

from fedpriv.runs.checkpoint import CheckpointStore, read_states, write_states
from fedpriv.runs.folder import RunFolder, begun, free_folder, made_in_python, read_config, read_finished
from fedpriv.runs.record import RunRecord, plain

__all__ = [
    "CheckpointStore",
    "RunFolder",
    "RunRecord",
    "begun",
    "free_folder",
    "made_in_python",
    "plain",
    "read_config",
    "read_finished",
    "read_states",
    "write_states",
]
