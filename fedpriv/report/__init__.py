"""Figures and the self-contained HTML report of runs."""

from __future__ import annotations

from fedpriv.report.figures import write_figures
from fedpriv.report.html import write_report
from fedpriv.report.reader import Run, read_run

__all__ = ["Run", "read_run", "write_figures", "write_report"]
