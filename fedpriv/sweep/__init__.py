"""Sweeps: a grid of settings with several seeds, one ordinary run folder for each, one table and one figure."""

from __future__ import annotations

from fedpriv.sweep.jobs import Build, Job, Measure, check_jobs, measures_of
from fedpriv.sweep.plan import Cell, Plan, read_plan
from fedpriv.sweep.runner import JobRunner

__all__ = ["Build", "Cell", "Job", "JobRunner", "Measure", "Plan", "check_jobs", "measures_of", "read_plan"]
