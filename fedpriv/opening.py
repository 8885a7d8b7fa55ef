"""A finished run opened again: its numbers, and its tasks' models."""

from __future__ import annotations

from pathlib import Path

from fedpriv.components import refuse_changed
from fedpriv.config import build_experiment
from fedpriv.errors import InputError
from fedpriv.experiment import Experiment
from fedpriv.experiment.execution import read_back
from fedpriv.experiment.personal import personal_of_finished
from fedpriv.personal import Personal
from fedpriv.runs.finished import read_record
from fedpriv.runs.folder import made_in_python, read_config
from fedpriv.summary import RunResult

__all__ = ["open_run", "personal_of_run"]


def open_run(
    folder: Path | str, experiment: Experiment | None = None, *, data_dir: Path | str | None = None
) -> RunResult:
    """Open the folder of a finished run, if its ledger still says the same: nothing is trained or charged.

    Parameters
    ----------
    folder : path
        The run folder.
    experiment : Experiment or None
        What was run, where it was made in Python. A run of the command line is built from its own ``config.toml``.
    data_dir : path or None
        Where data sets lie; ``$FEDPRIV_DATA`` unless given.

    Returns
    -------
    RunResult

    Raises
    ------
    InputError
        It is no run folder, the run is not finished, its data are not at hand, or the experiment is another one.
    """
    folder = Path(folder)
    if experiment is None:
        return read_back(_built(folder, data_dir), folder, read_record(folder), read_config(folder))
    _refuse_unfinished(folder)
    return experiment.run(folder, resume=True, reproduce=read_config(folder).get("run", {}).get("reproduce"))


def personal_of_run(folder: Path, data_dir: Path | None = None) -> Personal:
    """Return the models of a finished run of the command line; none of its scores is read, so its ledger is not asked.

    Raises
    ------
    InputError
        As :func:`open_run`.
    """
    return personal_of_finished(_built(folder, data_dir), folder, read_record(folder), read_config(folder))()


def _built(folder: Path, data_dir: Path | str | None) -> Experiment:
    """Build what was run from the configuration of its folder."""
    config = read_config(folder)
    if made_in_python(config):
        raise InputError(
            f"{folder} was made in Python, so no command can load its data; there, fedpriv.open_run(folder, "
            "experiment).personal.save(out) writes its models."
        )
    _refuse_unfinished(folder)
    config.pop("attack", None)  # it changes no model
    refuse_changed(config)
    return build_experiment(config, None if data_dir is None else Path(data_dir))


def _refuse_unfinished(folder: Path) -> None:
    read_config(folder)  # which says what is no run folder
    if not (folder / "summary.json").exists():
        raise InputError(
            f"{folder} is not finished; go on with `fedpriv run ... --out {folder} --resume` first. In Python that is "
            "run(folder, resume=True)."
        )
