"""Shared by all tests: no test may depend on the global generators, and data are looked up in one place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
