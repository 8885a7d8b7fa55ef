"""Shared by all tests: no test may depend on the global generators, and data are looked up in one place."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from fedpriv.cli import main


def pytest_configure() -> None:
    """Listen to interrupts, also in a job that a shell started in the background with interrupts ignored.

    Tests interrupt processes that they start, and these would inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests that need the larger data sets where there are none; CI must have them."""
    folder = os.environ.get("FEDPRIV_DATA", "")
    if folder and Path(folder).is_dir():
        return
    if os.environ.get("CI"):
        raise pytest.UsageError("CI must set FEDPRIV_DATA: tests that need the data sets may not be skipped there.")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason="needs FEDPRIV_DATA"))


@pytest.fixture
def fedpriv(monkeypatch: Any, capsys: Any, tmp_path: Path) -> Any:
    """Call the command in this process, from an empty folder; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedpriv", *words])
        try:
            main()
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
