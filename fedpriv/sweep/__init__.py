"""Sweeps: a grid of settings with several seeds, one ordinary run folder for each, one table and one figure."""

from __future__ import annotations

from typing import Any

from fedpriv.names import renamed
from fedpriv.sweep.jobs import Build, Job, Measure, check_jobs, measures_of
from fedpriv.sweep.plan import Cell, Plan, read_plan
from fedpriv.sweep.runner import JobRunner

__all__ = ["Build", "Cell", "Job", "JobRunner", "Measure", "Plan", "check_jobs", "measures_of", "read_plan"]

_OLD = {"Crew": "JobRunner"}
"""Old names of what is here, and their new ones; they work, with a warning, until version 0.2."""


def __getattr__(name: str) -> Any:
    return globals()[renamed(__name__, name, _OLD)]
